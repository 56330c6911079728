"""Results on their way to the PACS or to a node: ports.storing, over the job records and the output folder."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from medical_image_processing.engines.embedded.aws_error import AwsError
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.jobs import read_job
from medical_image_processing.engines.embedded.object_keys import is_storable
from medical_image_processing.engines.embedded.objects import ObjectStore
from medical_image_processing.engines.embedded.registry import write_audit
from medical_image_processing.errors import NotFound, Unavailable
from medical_image_processing.model.job import Job, JobError, StoreStatus
from medical_image_processing.ports.reidentification import PatientsObject


@dataclass(frozen=True)
class Way:
    """The columns of the jobs table that say how far results are on their way."""

    status: str
    at: str
    attempts: str
    error: str


_ASKED_FOR = "json_extract(body, '$.pacs.study_id')"
# An algorithm with deidentify was told a pseudonym of it.
_STUDY = f"coalesce((SELECT name FROM pseudonyms WHERE pseudonym = {_ASKED_FOR}), {_ASKED_FOR})"  # noqa: S608

TO_PACS = Way("stored", "store_at", "store_attempts", "store_error")
TO_NODE = Way("sent", "send_at", "send_attempts", "send_error")


class SqliteResultsToStore:
    """Implements :class:`ports.storing.ResultsToStore` for one way. ``wake`` when a job has ended."""

    def __init__(self, database: Database, *, clock: Callable[[], float], way: Way = TO_PACS) -> None:
        self._database = database
        self._clock = clock
        self._woken = asyncio.Event()
        # Column names can't be parameters; these are the constants above.
        self._due = (
            f"SELECT *, {_STUDY} AS study_id FROM jobs"  # noqa: S608
            f" WHERE {way.status} = 'pending' AND {way.at} <= ? ORDER BY {way.at} LIMIT ?"
        )
        self._next = f"SELECT min({way.at}) AS at FROM jobs WHERE {way.status} = 'pending'"  # noqa: S608
        self._note = (
            f"UPDATE jobs SET {way.status} = ?, {way.error} = ?, {way.at} = ?, {way.attempts} = {way.attempts} + 1"  # noqa: S608
            f" WHERE job_id = ? AND {way.status} = 'pending' RETURNING send_to"
        )
        self._way = way

    def wake(self) -> None:
        """Something may be due."""
        self._woken.set()

    async def due(self, *, limit: int) -> Sequence[Job]:
        """Those whose time has come, the longest due first."""
        rows = self._database.read(self._due, self._clock(), limit)
        return [read_job(row).model_copy(update={"study_id": row["study_id"]}) for row in rows]

    async def wait_for_due(self, *, at_most_s: float) -> None:
        """Until a job ended, or the next one that was put off is due."""
        rows = self._database.read(self._next)
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

        def update(connection: sqlite3.Connection) -> None:
            row = connection.execute(self._note, (status.value, text, at, job_id)).fetchone()
            if self._way is TO_NODE and status is StoreStatus.DONE and row is not None:
                # Who got a patient's images is on record (law A4).
                write_audit(connection, self._clock(), "platform", "send", job_id, {"node": row["send_to"]})

        await self._database.write(update, durable=False)


class OutputFiles:
    """Implements :class:`ports.storing.ResultFiles` and :class:`ports.reidentification.ReidentifiedObjects` over
    the folder that is the output bucket."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._root = objects.root
        self._bucket = objects.bucket

    @asynccontextmanager
    async def local(self, bucket: str, key: str) -> AsyncIterator[Path]:
        """The object's own file."""
        path = self._root / key
        if bucket != self._bucket or not is_storable(key) or not await asyncio.to_thread(path.is_file):
            raise NotFound("RESULT_GONE", "the result is no longer in the output folder; process the images again")
        yield path

    async def put(self, key: str, content: PatientsObject) -> None:
        """A new object; where there is one under the key, it is replaced at once."""
        await asyncio.to_thread(self._put, key, content)

    def _put(self, key: str, content: PatientsObject) -> None:
        upload = self._objects.begin()
        try:
            for piece in content.pieces():
                upload.write([piece])
            upload.commit(key, {})
        except AwsError as error:
            raise Unavailable(
                "STORAGE_FULL", "a result can't be written to the output folder; free some space"
            ) from error
        finally:
            upload.abort()
