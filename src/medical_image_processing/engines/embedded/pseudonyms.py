"""Pseudonyms in SQLite: ports.pseudonyms.

A pseudonym is a keyed hash, so that it is the same again without being looked up; the table is the way back.
"""

from __future__ import annotations

import hmac
import json
import re
import sqlite3
import uuid
from collections.abc import Iterable

from medical_image_processing.engines.embedded.database import Database

_MOST_REMEMBERED = 100_000
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")


class SqlitePseudonyms:
    """Implements :class:`ports.pseudonyms.Pseudonyms`; ``secret`` is the home's."""

    def __init__(self, database: Database, *, secret: bytes) -> None:
        self._database = database
        self._secret = secret
        self._kept: set[str] = set()

    def of(self, name: str) -> str:
        """A UUID of version 8 (RFC 9562, 5.8) as a UID: 122 bits that nobody can compute without the secret.

        What is no UID, such as a path, gets what is none either: readers compare the UIDs that they were told with
        those in the images.
        """
        digest = bytearray(hmac.new(self._secret, name.encode(), "sha256").digest()[:16])
        digest[6] = digest[6] & 0x0F | 0x80
        digest[8] = digest[8] & 0x3F | 0x80
        made = uuid.UUID(bytes=bytes(digest))
        return f"2.25.{made.int}" if _UID.fullmatch(name) else str(made)

    async def keep(self, names: Iterable[str]) -> None:
        """One transaction for all that is new."""
        new = sorted(set(names) - self._kept)
        if not new:
            return
        rows = [(self.of(name), name) for name in new]

        def insert(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR IGNORE INTO pseudonyms VALUES (?, ?)", rows)

        await self._database.write(insert)
        if len(self._kept) > _MOST_REMEMBERED:
            self._kept.clear()
        self._kept.update(new)

    async def real(self, pseudonyms: Iterable[str]) -> dict[str, str]:
        """One look-up for all of them."""
        sql = "SELECT pseudonym, name FROM pseudonyms WHERE pseudonym IN (SELECT value FROM json_each(?))"
        rows = self._database.read(sql, json.dumps(sorted(set(pseudonyms))))
        return {row["pseudonym"]: row["name"] for row in rows}
