"""Signature Version 4 for the few requests a worker sends.

The algorithm is AWS's ("Create a signed AWS API request", IAM User Guide). botocore's signer gives the same
signatures (a test compares them) in 57 µs instead of 11, and costs 0.3 s to import; so botocore is only
imported where credentials are not in the environment: see :func:`load_credentials`.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from medical_image_processing.errors import PermanentError

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"


class AwsCredentials(NamedTuple):
    """``token`` is there with temporary ones."""

    access_key: str
    secret_key: str
    token: str | None


CredentialSource = Callable[[], AwsCredentials]


def load_credentials(env: Mapping[str, str]) -> CredentialSource:
    """The ordinary AWS chain: environment, then whatever botocore finds, refreshed when it runs out.

    Raises PermanentError ``NO_CREDENTIALS``.
    """
    access_key, secret_key = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
    if access_key and secret_key:
        fixed = AwsCredentials(access_key, secret_key, env.get("AWS_SESSION_TOKEN"))
        return lambda: fixed
    import botocore.session  # 0.4 s that the embedded engine's workers need not spend

    found = botocore.session.Session().get_credentials()
    if found is None:
        raise PermanentError(
            "NO_CREDENTIALS",
            "no AWS credentials: give the task a role, or set AWS_ACCESS_KEY_ID and its secret",
        )

    def current() -> AwsCredentials:
        frozen = found.get_frozen_credentials()
        return AwsCredentials(frozen.access_key, frozen.secret_key, frozen.token)

    return current


class Signer:
    """Signs requests for one service in one region."""

    def __init__(
        self,
        credentials: CredentialSource,
        *,
        region: str,
        service: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._credentials = credentials
        self._region = region
        self._service = service
        self._clock = clock
        self._cached: tuple[str, str, bytes] = ("", "", b"")

    def sign(
        self, method: str, host: str, path: str, headers: Mapping[str, str], payload_hash: str
    ) -> dict[str, str]:
        """``headers`` and those that carry the signature; ``path`` is encoded and has no query.

        ``headers`` have names in lower case and are all signed. ``payload_hash``: SHA-256 of the body in
        hex, or :data:`UNSIGNED_PAYLOAD`.
        """
        credentials = self._credentials()
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
        signed = {"host": host, **headers, "x-amz-date": moment}
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        names = sorted(signed)
        signed_names = ";".join(names)
        lines = "".join([f"{name}:{signed[name]}\n" for name in names])
        request = f"{method}\n{path}\n\n{lines}\n{signed_names}\n{payload_hash}"
        scope = f"{moment[:8]}/{self._region}/{self._service}/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
        signature = _hmac(self._key(credentials.secret_key, moment[:8]), to_sign).hex()
        del signed["host"]
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={signed_names}, Signature={signature}"
        )
        return signed

    def _key(self, secret: str, day: str) -> bytes:
        """The signing key, which is the same for a whole day."""
        cached_secret, cached_day, key = self._cached
        if cached_day == day and cached_secret == secret:
            return key
        key = f"AWS4{secret}".encode()
        for part in (day, self._region, self._service, "aws4_request"):
            key = _hmac(key, part)
        self._cached = (secret, day, key)
        return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
