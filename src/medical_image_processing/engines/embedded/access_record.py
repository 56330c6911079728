"""Which algorithm read which study, for which job (law A4)."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable

from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.errors import MipError

_LOG = logging.getLogger(__name__)
_GATHER_S = 0.05


class AccessRecord:
    """Collects reads for a moment and writes them together: one row an image a job read."""

    def __init__(self, database: Database, *, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._rows: list[tuple[float, str, str, str]] = []
        self._writing: asyncio.Task[None] | None = None

    def note(self, reader: str, study_uid: str, series_uid: str, sop_uid: str, job_id: str | None) -> None:
        """``reader`` was given a link to this image."""
        details = json.dumps({"series": series_uid, "image": sop_uid, "job_id": job_id})
        self._rows.append((self._clock(), reader, study_uid, details))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_soon())

    async def flush(self) -> None:
        """Write what is collected."""
        rows, self._rows = self._rows, []

        def insert(connection: sqlite3.Connection) -> None:
            sql = "INSERT INTO audit (at, actor, action, subject, details) VALUES (?, ?, 'read', ?, ?)"
            connection.executemany(sql, rows)

        if rows:
            await self._database.write(insert, durable=False)

    async def _write_soon(self) -> None:
        try:
            await asyncio.sleep(_GATHER_S)
            await self.flush()
        except MipError as error:
            _LOG.error("reads of the PACS could not be put on record: %s", error)
        finally:
            self._writing = None
