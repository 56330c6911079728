"""Results on their way back into the PACS: ports.storing, over the job records and the output bucket.

Jobs to be stored have an index of their own, empty while there are none. Nobody holds a job while it is stored:
of several processes, two may store the same, which leaves one instance (clause T3), and whoever says first that
it is done or failed has said it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from botocore.exceptions import IncompleteReadError

from medical_image_processing.engines.aws.clients import AwsClient, Refused
from medical_image_processing.engines.aws.job_items import TO_STORE, is_to_store, moment, to_job
from medical_image_processing.engines.aws.tables import ConditionFailed, Item, Table
from medical_image_processing.errors import NotFound, PermanentError, Unavailable
from medical_image_processing.model.job import Job, JobError, StoreStatus

MAX_OBJECT_BYTES = 5 * 2**30
"""What a worker can put in one call (Amazon S3 user guide, "Amazon S3 objects")."""
_MISSING = ("404", "NoSuchKey", "NotFound", "AccessDenied", "403")
"""Who may not list a bucket is told 403 of what isn't there (Amazon S3 API reference, "GetObject")."""
_PIECE = 2**20


class DynamoResultsToStore:
    """Implements :class:`ports.storing.ResultsToStore`."""

    def __init__(self, table: Table, *, clock: Callable[[], float]) -> None:
        self._table = table
        self._clock = clock

    async def due(self, *, limit: int) -> Sequence[Job]:
        """Those whose time has come, the longest due first."""
        until = moment(self._clock())
        keys = await self._table.query(
            "#to_store = :to_store AND #store_at <= :until",
            {"to_store": TO_STORE, "until": until},
            index="to_store",
            limit=limit,
        )
        # The index follows the table within moments.
        found = await self._table.get_all({"job_id": key["job_id"]} for key in keys)
        due = [item for item in found if is_to_store(item) and item["store_at"] <= until]
        return [_to_store(item) for item in sorted(due, key=lambda item: str(item["store_at"]))]

    async def wait_for_due(self, *, at_most_s: float) -> None:
        """That long: nothing tells of a job that ended, and each look has its price."""
        await asyncio.sleep(at_most_s)

    async def note(
        self, job_id: str, status: StoreStatus, *, error: JobError | None = None, again_in_s: float = 0.0
    ) -> None:
        """What came of an attempt, unless the job is done or failed already."""
        condition = "attribute_exists(#to_store) AND attribute_exists(#store_at)"
        if status is StoreStatus.PENDING:
            changed = {"store_at": moment(self._clock() + again_in_s)}
            gone = []
            # Neither a write that botocore repeats nor another process's counts as one more attempt.
            condition = "attribute_exists(#to_store) AND #store_at < :store_at"
        else:
            changed = {"stored": status.value}
            gone = ["#to_store", "#store_at"]
        if error:
            changed["store_error"] = error.model_dump_json()
        else:
            gone.append("#store_error")
        sets = ", ".join(f"#{name} = :{name}" for name in changed)
        removes = f" REMOVE {', '.join(gone)}" if gone else ""
        try:
            await self._table.update(
                {"job_id": job_id},
                f"SET {sets}{removes} ADD #store_attempts :one",
                condition=condition,
                values={**changed, "one": 1},
            )
        except ConditionFailed:
            return


def _to_store(item: Item) -> Job:
    return to_job(item).model_copy(update={"study_id": json.loads(item["body"])["pacs"]["study_id"]})


class S3ResultFiles:
    """Implements :class:`ports.storing.ResultFiles`; files lie below ``folder`` while they are needed."""

    def __init__(self, s3: AwsClient, bucket: str, folder: Path) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._folder = folder

    @asynccontextmanager
    async def local(self, bucket: str, key: str) -> AsyncIterator[Path]:
        """A copy of the object. TransientError too, when AWS or this machine's disk is in trouble."""
        if bucket != self._bucket:
            raise _gone()
        try:
            place = await asyncio.to_thread(tempfile.mkdtemp, prefix="result-", dir=self._folder)
        except OSError as error:
            raise _disk(error) from error
        try:
            file = Path(place, "instance.dcm")
            await self._fetch(key, file)
            yield file
        finally:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)

    async def _fetch(self, key: str, file: Path) -> None:
        def fetch() -> None:
            answer = self._s3.boto.get_object(Bucket=self._bucket, Key=key)
            with closing(answer["Body"]) as body:
                if answer["ContentLength"] > MAX_OBJECT_BYTES:
                    raise PermanentError("RESULT_TOO_LARGE", f"a result has at most {MAX_OBJECT_BYTES} bytes")
                with file.open("xb") as copy:
                    for piece in body.iter_chunks(_PIECE):
                        copy.write(piece)

        try:
            await self._s3.run("get_object", fetch)
        except Refused as error:
            if error.aws_code in _MISSING:
                raise _gone() from error
            raise
        except PermanentError as error:
            if isinstance(error.__cause__, IncompleteReadError):
                raise Unavailable(
                    "AWS_UNAVAILABLE", "S3 get_object: the result was cut; try again later"
                ) from error
            raise
        except OSError as error:
            raise _disk(error) from error


def _gone() -> NotFound:
    return NotFound(
        "RESULT_GONE",
        "the result is no longer in the output bucket, or the PACS API may not read it there; process the images "
        "again",
    )


def _disk(error: OSError) -> Unavailable:
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return Unavailable("STORAGE_FULL", f"the PACS API's own disk can't be written: {reason}; give its task more")
