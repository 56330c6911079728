"""Links that open one file, for a while, without a key."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable

from medical_image_processing.errors import Forbidden


class LinkSigner:
    """Signs file tokens with HMAC-SHA256.

    Every process that serves the links of another needs the same ``secret``; a new one ends all links.
    """

    def __init__(
        self,
        secret: bytes | None = None,
        lifetime_s: int = 900,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._secret = secret or secrets.token_bytes(32)
        self._lifetime_s = lifetime_s
        self._clock = clock

    def sign(self, token: str) -> tuple[int, str]:
        """When a link to ``token`` given now expires (seconds since 1970), and its signature."""
        expires = int(self._clock()) + self._lifetime_s
        return expires, self._signature(token, str(expires))

    def check(self, token: str, expires: str, signature: str) -> None:
        """Raise Forbidden ``LINK_INVALID`` unless this signer made the link, ``LINK_EXPIRED`` when late."""
        expected = self._signature(token, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
            raise Forbidden("LINK_INVALID", "the link's signature is wrong; ask the PACS API for a new link")
        if self._clock() >= int(expires):
            raise Forbidden("LINK_EXPIRED", "the link has expired; ask the PACS API for a new one")

    def _signature(self, token: str, expires: str) -> str:
        signed = f"{token}\n{expires}".encode("utf-8", "replace")
        # Not hmac.digest(): it lets go of the GIL, which under load costs more than the hash.
        return hmac.new(self._secret, signed, "sha256").hexdigest()
