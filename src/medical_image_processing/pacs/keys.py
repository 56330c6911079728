"""Who calls the PACS API."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol


class PacsKeys(Protocol):
    """Names the algorithm behind a key."""

    async def algo_for(self, key: str) -> str | None:
        """Whose key it is, or None. Takes no longer for a key that is almost right (law A2)."""


class HashedKeys:
    """Keys kept as SHA-256 digests, hexadecimal: looking one up tells nothing about the others."""

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self._names = dict(names or {})

    @staticmethod
    def digest(key: str) -> str:
        """What is kept of a key. Keys are random and long, so one round is enough."""
        return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()

    def add(self, digest: str, name: str) -> None:
        """Let the key with that digest in, as ``name``."""
        self._names[digest] = name

    def remove(self, digest: str) -> None:
        """Shut the key out; one that is not there is no error."""
        self._names.pop(digest, None)

    async def algo_for(self, key: str) -> str | None:
        """Whose key it is, or None."""
        return self._names.get(self.digest(key))
