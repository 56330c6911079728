"""Which algorithm read which study, for which job (law A4)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.newest_first import read_page
from medical_image_processing.model.page import Page
from medical_image_processing.model.timestamps import to_iso
from medical_image_processing.ports.accesses import Access

_JOB = "json_extract(details, '$.job_id')"


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

    async def page(
        self,
        *,
        study_uid: str | None = None,
        algo_id: str | None = None,
        job_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Access]:
        """One page, newest first."""
        where, given = ["action = 'read'"], []  # type: list[str], list[Any]
        for column, value in (("subject", study_uid), ("actor", algo_id), (_JOB, job_id)):
            if value is not None:
                where.append(f"{column} = ?")
                given.append(value)
        return read_page(self._database, "audit", where, given, _access, limit=limit, cursor=cursor)


def _access(row: Any) -> Access:
    details = json.loads(row["details"])
    return Access(
        at=to_iso(row["at"]),
        algo_id=row["actor"],
        job_id=details["job_id"],
        study_uid=row["subject"],
        series_uid=details["series"],
        image_uid=details["image"],
    )
