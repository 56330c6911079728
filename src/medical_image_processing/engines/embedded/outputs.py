"""Signed URLs of results: ports.outputs."""

from __future__ import annotations

import time

from medical_image_processing.engines.embedded.credentials import Credential
from medical_image_processing.engines.embedded.sigv4 import presign_get

LIFETIME_S = 3600


class SignedOutputs:
    """Implements :class:`ports.outputs.Outputs` with Signature V4 query signing."""

    def __init__(self, signer: Credential, *, region: str, port: int) -> None:
        self._signer = signer
        self._region = region
        self._port = port

    def sign(self, bucket: str, key: str, *, host: str) -> str:
        """A URL that opens one object for an hour. ``host`` is the name by which the client reaches us."""
        return presign_get(
            access_key_id=self._signer.access_key_id,
            secret_access_key=self._signer.secret_access_key,
            base_url=f"http://{host}:{self._port}",
            bucket=bucket,
            key=key,
            region=self._region,
            expires_s=LIFETIME_S,
            now=time.time(),
        )
