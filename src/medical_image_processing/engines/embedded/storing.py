"""Results on their way back into the PACS: ports.storing, over the job records and the output folder."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.jobs import read_job
from medical_image_processing.engines.embedded.object_keys import is_storable
from medical_image_processing.errors import NotFound
from medical_image_processing.model.job import Job, JobError, StoreStatus


class SqliteResultsToStore:
    """Implements :class:`ports.storing.ResultsToStore`. ``wake`` when a job has ended."""

    def __init__(self, database: Database, *, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something may be due."""
        self._woken.set()

    async def due(self, *, limit: int) -> Sequence[Job]:
        """Those whose time has come, the longest due first."""
        sql = "SELECT * FROM jobs WHERE stored = 'pending' AND store_at <= ? ORDER BY store_at LIMIT ?"
        rows = self._database.read(sql, self._clock(), limit)
        return [read_job(row).model_copy(update={"study_id": _study_id(row["body"])}) for row in rows]

    async def wait_for_due(self, *, at_most_s: float) -> None:
        """Until a job ended, or the next one that was put off is due."""
        rows = self._database.read("SELECT min(store_at) AS at FROM jobs WHERE stored = 'pending'")
        next_s = at_most_s if rows[0]["at"] is None else rows[0]["at"] - self._clock()
        try:
            async with asyncio.timeout(max(0.05, min(at_most_s, next_s))):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()

    async def note(
        self, job_id: str, status: StoreStatus, *, error: JobError | None = None, again_in_s: float = 0.0
    ) -> None:
        """What came of an attempt. A power cut that loses it costs another attempt, which makes no second copy."""
        text = error.model_dump_json() if error else None
        at = self._clock() + again_in_s if status is StoreStatus.PENDING else None
        sql = (
            "UPDATE jobs SET stored = ?, store_error = ?, store_at = ?, store_attempts = store_attempts + 1"
            " WHERE job_id = ? AND stored = 'pending'"
        )

        def update(connection: sqlite3.Connection) -> None:
            connection.execute(sql, (status.value, text, at, job_id))

        await self._database.write(update, durable=False)


class OutputFiles:
    """Implements :class:`ports.storing.ResultFiles` over the folder that is the output bucket."""

    def __init__(self, root: Path, *, bucket: str) -> None:
        self._root = root
        self._bucket = bucket

    @asynccontextmanager
    async def local(self, bucket: str, key: str) -> AsyncIterator[Path]:
        """The object's own file."""
        path = self._root / key
        if bucket != self._bucket or not is_storable(key) or not await asyncio.to_thread(path.is_file):
            raise NotFound("RESULT_GONE", "the result is no longer in the output folder; process the images again")
        yield path


def _study_id(body: str) -> str:
    """Of a job as it was sent."""
    return str(json.loads(body)["pacs"]["study_id"])
