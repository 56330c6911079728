"""The registry and the audit in SQLite: ports.registry."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.errors import Conflict, NotFound, StaleRevision
from medical_image_processing.model.algorithm import Algorithm, AlgorithmSpec, AlgorithmStatus, ResourceStatus
from medical_image_processing.model.page import Page
from medical_image_processing.model.timestamps import to_iso

_CACHED = 1024


class SqliteRegistry:
    """Implements :class:`ports.registry.Registry`.

    ``on_change`` is called with the id after each change of a desired state. Records that jobs ask for
    are kept in memory: this process is the only writer.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._cache: dict[str, Algorithm] = {}
        self.on_change: Callable[[str], None] = lambda _: None

    async def get(self, algo_id: str) -> Algorithm | None:
        """The record, or None."""
        if (cached := self._cache.get(algo_id)) is not None:
            return cached
        rows = self._database.read("SELECT record FROM algorithms WHERE algo_id = ?", algo_id)
        if not rows:
            return None
        record = Algorithm.model_validate_json(rows[0]["record"])
        if len(self._cache) >= _CACHED:
            self._cache.clear()
        self._cache[algo_id] = record
        return record

    def knows(self, algo_id: str) -> bool:
        """Whether the id is registered."""
        return bool(self._database.read("SELECT 1 FROM algorithms WHERE algo_id = ?", algo_id))

    async def page(
        self, *, status: AlgorithmStatus | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[Algorithm]:
        """One page, ordered by id."""
        where, given = ("WHERE algo_id > ?", [cursor or ""])
        if status is not None:
            where, given = (f"{where} AND status = ?", [*given, status.value])
        rows = self._database.read(
            f"SELECT record FROM algorithms {where} ORDER BY algo_id LIMIT ?",  # noqa: S608 - fixed text
            *given,
            limit + 1,
        )
        items = tuple(Algorithm.model_validate_json(row["record"]) for row in rows[:limit])
        return Page(items, items[-1].algorithm_id if len(rows) > limit else None)

    async def create(self, spec: AlgorithmSpec, *, actor: str) -> Algorithm:
        """A new record, PENDING, revision 1."""
        now = self._clock()
        record = Algorithm(
            **spec.model_dump(),
            status=AlgorithmStatus.PENDING,
            revision=1,
            created_at=to_iso(now),
            updated_at=to_iso(now),
        )

        def insert(connection: sqlite3.Connection) -> None:
            row = (spec.algorithm_id, record.status, record.revision, record.model_dump_json())
            try:
                connection.execute("INSERT INTO algorithms VALUES (?, ?, ?, ?)", row)
            except sqlite3.IntegrityError as error:
                raise Conflict(
                    "ALGORITHM_EXISTS",
                    f"'{spec.algorithm_id}' is registered with another body; PATCH it, or choose another id",
                ) from error
            write_audit(connection, now, actor, "register", spec.algorithm_id, _details(record))

        await self._database.write(insert)
        self._forget(spec.algorithm_id)
        self.on_change(spec.algorithm_id)
        return record

    async def update(
        self, spec: AlgorithmSpec, *, status: AlgorithmStatus, based_on: int, actor: str, action: str
    ) -> Algorithm:
        """Replace the desired state of revision ``based_on``."""
        now = self._clock()

        def replace(connection: sqlite3.Connection) -> Algorithm:
            old = _load(connection, spec.algorithm_id, based_on)
            changes = {**spec.model_dump(), "status": status, "revision": based_on + 1}
            record = old.model_copy(update={**changes, "status_reason": None, "updated_at": to_iso(now)})
            _store(connection, record)
            write_audit(connection, now, actor, action, spec.algorithm_id, _details(record))
            return record

        record = await self._database.write(replace)
        self._forget(spec.algorithm_id)
        self.on_change(spec.algorithm_id)
        return record

    async def set_status(
        self,
        algo_id: str,
        *,
        revision: int,
        status: AlgorithmStatus,
        reason: str | None,
        resources: ResourceStatus,
    ) -> None:
        """What the provisioner found."""

        def replace(connection: sqlite3.Connection) -> None:
            old = _load(connection, algo_id, revision)
            update = {"status": status, "status_reason": reason, "resource_status": resources}
            _store(connection, old.model_copy(update={**update, "updated_at": to_iso(self._clock())}))

        await self._database.write(replace)
        self._forget(algo_id)

    async def remove(self, algo_id: str, *, revision: int, actor: str) -> None:
        """Forget the record; the audit entries stay."""

        def delete(connection: sqlite3.Connection) -> None:
            _load(connection, algo_id, revision)
            connection.execute("DELETE FROM algorithms WHERE algo_id = ?", (algo_id,))
            details = {"revision": revision}
            # What nodes sent for it is in the PACS, and must not wait for another algorithm of its name.
            if dropped := connection.execute("DELETE FROM arrivals WHERE algo_id = ?", (algo_id,)).rowcount:
                details["arrived_images_without_a_job"] = dropped
            write_audit(connection, self._clock(), actor, "removed", algo_id, details)

        await self._database.write(delete)
        self._forget(algo_id)

    def _forget(self, algo_id: str) -> None:
        self._cache.pop(algo_id, None)


def write_audit(
    connection: sqlite3.Connection,
    at: float,
    actor: str,
    action: str,
    subject: str,
    details: Mapping[str, Any],
) -> None:
    """One audit entry inside a larger change."""
    connection.execute(
        "INSERT INTO audit (at, actor, action, subject, details) VALUES (?, ?, ?, ?, ?)",
        (at, actor, action, subject, json.dumps(details)),
    )


def _details(record: Algorithm) -> dict[str, Any]:
    """What was decided, without the values of env, which may hold secrets."""
    spec = record.spec().model_dump(mode="json")
    return {**spec, "env": sorted(record.env), "revision": record.revision}


def _load(connection: sqlite3.Connection, algo_id: str, revision: int) -> Algorithm:
    row = connection.execute("SELECT record, revision FROM algorithms WHERE algo_id = ?", (algo_id,)).fetchone()
    if row is None:
        raise NotFound("UNKNOWN_ALGORITHM", f"no algorithm '{algo_id}' is registered")
    if row["revision"] != revision:
        raise StaleRevision(
            "STALE_REVISION",
            f"'{algo_id}' is at revision {row['revision']}, not {revision}; read it again and redo the change",
            details={"revision": row["revision"]},
        )
    return Algorithm.model_validate_json(row["record"])


def _store(connection: sqlite3.Connection, record: Algorithm) -> None:
    connection.execute(
        "UPDATE algorithms SET status = ?, revision = ?, record = ? WHERE algo_id = ?",
        (record.status, record.revision, record.model_dump_json(), record.algorithm_id),
    )
