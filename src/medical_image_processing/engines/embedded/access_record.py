"""Which algorithm read which study, for which job (law A4)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence

from medical_image_processing.engines.embedded.database import Database


class AccessRecord:
    """One row an image a job read, in the audit table."""

    def __init__(self, database: Database, *, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def note(self, reader: str, images: Sequence[tuple[str, str, str]], job_id: str | None) -> None:
        """``reader`` may have links to these images, named by Study, Series and SOP Instance UID.

        On record when it returns; Unavailable when that can't be. Reads noted side by side share a commit, and
        none waits for the disk alone: a power cut takes the worker that read along with the record.
        """
        now = self._clock()
        rows = [
            (now, reader, study_uid, json.dumps({"series": series_uid, "image": sop_uid, "job_id": job_id}))
            for study_uid, series_uid, sop_uid in images
        ]

        def insert(connection: sqlite3.Connection) -> None:
            sql = "INSERT INTO audit (at, actor, action, subject, details) VALUES (?, ?, 'read', ?, ?)"
            connection.executemany(sql, rows)

        await self._database.write(insert, durable=False)
