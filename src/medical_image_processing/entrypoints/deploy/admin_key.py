"""The root admin key in Secrets Manager."""

from __future__ import annotations

import secrets

from medical_image_processing.entrypoints.deploy.account import Account


def rotate(account: Account, arn: str) -> None:
    """Put a new random key into the secret. The one before stays valid, as AWSPREVIOUS, until the next time."""
    key = f"mip-admin-{secrets.token_urlsafe(32)}"
    account.call("secretsmanager", "put_secret_value", SecretId=arn, SecretString=key)
