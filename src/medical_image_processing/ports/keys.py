"""Who may call.

Clauses, each a test in ``testing/``:

- K1 a key is kept as a digest; no call returns it again after it was made (law A2)
- K2 a removed key opens nothing from then on
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


def digest(key: str) -> str:
    """How a key is kept and compared. Keys are random, so a fast hash is as good as a slow one."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


class KeyRole(StrEnum):
    """What a key opens."""

    ADMIN = "admin"
    CLIENT = "client"


@dataclass(frozen=True)
class KeyHolder:
    """Whose key it is; a client sees only the jobs of its ``client_ids``.

    ``granted`` are those among them that came by ``grant_client_id``.
    """

    name: str
    role: KeyRole
    client_ids: tuple[str, ...]
    created_at: float
    granted: tuple[str, ...] = ()


class Keys(Protocol):
    """Keys by the SHA-256 digest of their text, hexadecimal."""

    async def find(self, digest: str) -> KeyHolder | None:
        """Whose key this is, or None."""

    async def add(
        self,
        digest: str,
        *,
        name: str,
        role: KeyRole,
        client_ids: Sequence[str],
        actor: str,
        granted: Sequence[str] = (),
    ) -> KeyHolder:
        """Conflict ``KEY_NAME_TAKEN`` when the name has a key. ``granted`` are an earlier key's, to be kept."""

    async def grant_client_id(self, name: str, client_id: str) -> None:
        """Let the holder use one more client_id."""

    async def holders(self) -> list[KeyHolder]:
        """All holders, by name."""

    async def remove(self, name: str, *, actor: str) -> None:
        """NotFound ``UNKNOWN_KEY``."""
