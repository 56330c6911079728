"""The root admin keys, from Secrets Manager: the newest and the one before it, so that a key can be rotated."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from medical_image_processing.engines.aws.clients import AwsClients, Refused
from medical_image_processing.errors import PermanentError, TransientError, Unavailable
from medical_image_processing.ports.keys import digest

LIFETIME_S = 60.0
"""A key that was rotated away twice opens nothing after this."""
REFUSED = frozenset({"dev-admin", "devkey"})
"""Keys that are printed in documents. As a secret's value they open nothing (law A2)."""


class SecretKeys:
    """The digests of one secret's two newest values. ``clock`` gives monotonic seconds."""

    def __init__(
        self, clients: AwsClients, secret_id: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._secrets = clients.client("secretsmanager")
        self._secret_id = secret_id
        self._clock = clock
        self._known: tuple[str, ...] = ()
        self._read_at = float("-inf")

    async def digests(self) -> Collection[str]:
        """Of all keys that are valid now. Unavailable ``SECRET_UNREADABLE``: it can't be said who may call."""
        if self._clock() - self._read_at >= LIFETIME_S:
            read_at = self._clock()
            self._known = await self._read()
            self._read_at = read_at
        return self._known

    async def _read(self) -> tuple[str, ...]:
        try:
            values = [await self._version("AWSCURRENT"), await self._version("AWSPREVIOUS")]
        except (TransientError, PermanentError) as error:
            raise Unavailable(
                "SECRET_UNREADABLE", f"the secret that holds the key can't be read: {error.message}"
            ) from error
        return tuple(digest(value) for value in values if value and value not in REFUSED)

    async def _version(self, stage: str) -> str | None:
        try:
            answer = await self._secrets.call("get_secret_value", SecretId=self._secret_id, VersionStage=stage)
        except Refused as error:
            # A secret that was never rotated has no version before this one.
            if stage == "AWSPREVIOUS" and error.aws_code == "ResourceNotFoundException":
                return None
            raise
        return str(answer.get("SecretString", "")).strip()
