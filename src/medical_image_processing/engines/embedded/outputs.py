"""Signed URLs of results: ports.outputs."""

from __future__ import annotations

from medical_image_processing.engines.embedded.sigv4 import presign_get

LIFETIME_S = 3600


class SignedOutputs:
    """Implements :class:`ports.outputs.Outputs` with Signature V4 query signing."""

    def __init__(self, access_key_id: str, secret_access_key: str, *, region: str, port: int) -> None:
        self._access_key_id = access_key_id
        self._secret_access_key = secret_access_key
        self._region = region
        self._port = port

    def sign(self, bucket: str, key: str, *, host: str) -> str:
        """A URL that opens one object for an hour. ``host`` is the name by which the client reaches us."""
        return presign_get(
            f"http://{host}:{self._port}",
            bucket,
            key,
            access_key_id=self._access_key_id,
            secret_access_key=self._secret_access_key,
            region=self._region,
            expires_s=LIFETIME_S,
        )
