"""Puts results back into the PACS, where the job or its algorithm's record asked for it; and sends them to a node.

The platform does this, never the algorithm, which has no way to write there. It is on the job's record, so that
a PACS or a platform that is down only delays it; and as an instance's UID follows from its job, revision and
content, an attempt that is repeated makes no second copy.

The results of a job whose images a node sent go to a node in the same way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from medical_image_processing.errors import MipError, PermanentError, TransientError
from medical_image_processing.model.job import Job, JobError, StoreStatus
from medical_image_processing.ports.storing import PacsWriter, ResultFiles, ResultsToStore

_LOG = logging.getLogger(__name__)
_BATCH = 20
_SIDE_BY_SIDE = 4
_LOOK_EVERY_S = 5.0
FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 300.0
MOST_ATTEMPTS = 300
"""At a node: a day and an hour, of which all but the first eight minutes are pauses of five minutes."""
_DICOM = "application/dicom"


class Storing:
    """Results in, instances out. Every step may be repeated after a crash."""

    place = "in the PACS"

    def __init__(self, jobs: ResultsToStore, files: ResultFiles, writer_for: Callable[[Job], PacsWriter]) -> None:
        self._jobs = jobs
        self._files = files
        self._writer_for = writer_for
        self._troubled: dict[str, MipError] = {}

    @property
    def trouble(self) -> MipError | None:
        """Why a result is not where it belongs yet, if one is not."""
        return next(iter(self._troubled.values()), None)

    async def run(self) -> None:
        """Store until cancelled."""
        while True:
            try:
                if not await self.store_due():
                    await self._jobs.wait_for_due(at_most_s=_LOOK_EVERY_S)
            except TransientError as error:
                _LOG.warning("storing results waits: %s", error)
                await asyncio.sleep(error.retry_after_s)

    async def store_due(self) -> int:
        """One attempt for each job that is due; how many they were."""
        jobs = await self._jobs.due(limit=_BATCH)
        room = asyncio.Semaphore(_SIDE_BY_SIDE)

        async def store(job: Job) -> None:
            async with room:
                await self._attempt(job)

        async with asyncio.TaskGroup() as tasks:
            for job in jobs:
                tasks.create_task(store(job))
        return len(jobs)

    def _attempts(self, job: Job) -> int:
        return job.stored.attempts if job.stored else 0

    def _is_last(self, attempts: int) -> bool:
        return False

    async def _attempt(self, job: Job) -> None:
        self._troubled.pop(job.job_id, None)
        try:
            instances, writer = _instances(job), self._writer_for(job)
            for bucket, key in instances:
                async with self._files.local(bucket, key) as file:
                    await writer.store(file)
        except TransientError as error:
            await self._put_off(job, error)
        except MipError as error:
            _LOG.error("the result of job %s can't be put %s: %s", job.job_id, self.place, error)
            await self._jobs.note(job.job_id, StoreStatus.FAILED, error=_stated(error))
        except Exception as error:
            # Nobody foresaw it, so it may go on for ever: left to a person. Its text may quote anything (A3).
            _LOG.error("putting the result of job %s %s failed: %s", job.job_id, self.place, type(error).__name__)
            failed = JobError(code="STORE_FAILED", message=f"storing failed ({type(error).__name__}); see the log")
            await self._jobs.note(job.job_id, StoreStatus.FAILED, error=failed)
        else:
            await self._jobs.note(job.job_id, StoreStatus.DONE)

    async def _put_off(self, job: Job, error: TransientError) -> None:
        attempts = self._attempts(job)
        if self._is_last(attempts + 1):
            _LOG.error("the result of job %s is given up, it is not %s: %s", job.job_id, self.place, error)
            await self._jobs.note(job.job_id, StoreStatus.FAILED, error=_stated(error))
            return
        self._troubled[job.job_id] = error
        pause_s = min(max(FIRST_PAUSE_S * 2 ** min(attempts, 20), error.retry_after_s), LAST_PAUSE_S)
        _LOG.warning("the result of job %s is not %s yet: %s", job.job_id, self.place, error)
        await self._jobs.note(job.job_id, StoreStatus.PENDING, error=_stated(error), again_in_s=pause_s)


class Sending(Storing):
    """The same for results that go to the node that sent the images, or to the one that is to have them.

    A PACS is worth any wait; a node that has been away for a day (``MOST_ATTEMPTS``) is given up, visibly. A job
    that failed has nothing to send, and its way ends with its reason, ``NO_RESULT``.
    """

    place = "at its node"

    def _attempts(self, job: Job) -> int:
        return job.sent.attempts if job.sent else 0

    def _is_last(self, attempts: int) -> bool:
        return attempts >= MOST_ATTEMPTS


def _instances(job: Job) -> list[tuple[str, str]]:
    """Each DICOM object that the job made, once."""
    if job.result is None:
        # Not the message: the algorithm wrote it, and the log would have it (law A3).
        why = job.error.code if job.error else str(job.status)
        raise PermanentError("NO_RESULT", f"the job has none ({why}); `mip jobs show {job.job_id}` has the reason")
    others = [(one.bucket, one.key) for one in job.result.outputs if one.media_type == _DICOM]
    return list(dict.fromkeys([(job.result.dicom.bucket, job.result.dicom.key), *others]))


def _stated(error: MipError) -> JobError:
    return JobError(code=error.code, message=error.message)
