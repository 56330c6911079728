"""Keys that are made by Secrets Manager and that no template, log or person has seen."""

from __future__ import annotations

from aws_cdk import RemovalPolicy
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

LENGTH = 48


class Secrets(Construct):
    """The root admin key, and the operator's key to the PACS API. Rotating keeps the one before valid."""

    def __init__(self, scope: Construct, id: str, *, removal: RemovalPolicy) -> None:
        super().__init__(scope, id)
        self._removal = removal
        self.admin_key = self._key("AdminKey", "Root admin key: x-admin-key of the admin API")
        self.admin_key_arn = _arn(self.admin_key)
        self.pacs_key = self._key("PacsKey", "Operator's key: x-api-key of the PACS API")
        self.pacs_key_arn = _arn(self.pacs_key)

    def _key(self, id: str, description: str) -> secretsmanager.Secret:
        return secretsmanager.Secret(
            self,
            id,
            description=description,
            generate_secret_string=secretsmanager.SecretStringGenerator(
                password_length=LENGTH, exclude_punctuation=True
            ),
            removal_policy=self._removal,
        )


def _arn(secret: secretsmanager.Secret) -> str:
    """By attribute: what a reference gives is a name on an emulator, and then no policy fits."""
    resource = secret.node.default_child
    assert isinstance(resource, secretsmanager.CfnSecret)
    return resource.attr_id
