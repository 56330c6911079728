"""The callers' keys in SQLite: ports.keys."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.registry import write_audit
from medical_image_processing.errors import Conflict, NotFound
from medical_image_processing.ports.keys import KeyHolder, KeyRole


class SqliteKeys:
    """Implements :class:`ports.keys.Keys`."""

    def __init__(self, database: Database, *, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def find(self, digest: str) -> KeyHolder | None:
        """Whose key this is. A look-up by digest gives nothing away through its timing."""
        rows = self._database.read("SELECT * FROM keys WHERE digest = ?", digest)
        return _holder(rows[0]) if rows else None

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
        holder = KeyHolder(name, role, _together(client_ids, granted), self._clock(), tuple(granted))

        def insert(connection: sqlite3.Connection) -> None:
            ids = json.dumps(list(client_ids)), holder.created_at, json.dumps(holder.granted)
            try:
                connection.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?)", (digest, name, role.value, *ids))
            except sqlite3.IntegrityError as error:
                raise Conflict("KEY_NAME_TAKEN", f"there is a key named '{name}'; remove it first") from error
            details = {"role": role.value, "client_ids": list(client_ids)}
            write_audit(connection, holder.created_at, actor, "add key", name, details)

        await self._database.write(insert)
        return holder

    async def grant_client_id(self, name: str, client_id: str) -> None:
        """Let the holder use one more client_id."""

        def update(connection: sqlite3.Connection) -> None:
            row = connection.execute("SELECT granted FROM keys WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise NotFound("UNKNOWN_KEY", f"there is no key named '{name}'")
            granted = _together(json.loads(row["granted"]), [client_id])
            connection.execute("UPDATE keys SET granted = ? WHERE name = ?", (json.dumps(granted), name))

        await self._database.write(update)

    async def holders(self) -> list[KeyHolder]:
        """All holders, by name."""
        return [_holder(row) for row in self._database.read("SELECT * FROM keys ORDER BY name")]

    async def remove(self, name: str, *, actor: str) -> None:
        """NotFound ``UNKNOWN_KEY``."""

        def delete(connection: sqlite3.Connection) -> None:
            if not connection.execute("DELETE FROM keys WHERE name = ?", (name,)).rowcount:
                raise NotFound("UNKNOWN_KEY", f"there is no key named '{name}'")
            write_audit(connection, self._clock(), actor, "remove key", name, {})

        await self._database.write(delete)


def _holder(row: Any) -> KeyHolder:
    given, granted = json.loads(row["client_ids"]), json.loads(row["granted"])
    role = KeyRole(row["role"])
    return KeyHolder(row["name"], role, _together(given, granted), row["created_at"], tuple(granted))


def _together(first: Sequence[str], then: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*first, *then]))
