"""Puts results back into the PACS, where the job or its algorithm's record asked for it.

The platform does this, never the algorithm, which has no way to write there. It is on the job's record, so that
a PACS or a platform that is down only delays it; and as an instance's UID follows from its job, revision and
content, an attempt that is repeated makes no second copy.
"""

from __future__ import annotations

import asyncio
import logging

from medical_image_processing.errors import MipError, TransientError
from medical_image_processing.model.job import Job, JobError, StoreStatus
from medical_image_processing.ports.storing import PacsWriter, ResultFiles, ResultsToStore

_LOG = logging.getLogger(__name__)
_BATCH = 20
_SIDE_BY_SIDE = 4
_LOOK_EVERY_S = 5.0
FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 300.0
_DICOM = "application/dicom"


class Storing:
    """Results in, instances out. Every step may be repeated after a crash."""

    def __init__(self, jobs: ResultsToStore, files: ResultFiles, pacs: PacsWriter) -> None:
        self._jobs = jobs
        self._files = files
        self._pacs = pacs

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

    async def _attempt(self, job: Job) -> None:
        try:
            for bucket, key in _instances(job):
                async with self._files.local(bucket, key) as file:
                    await self._pacs.store(file, job.study_id)
        except TransientError as error:
            attempts = job.stored.attempts if job.stored else 0
            pause_s = min(max(FIRST_PAUSE_S * 2 ** min(attempts, 20), error.retry_after_s), LAST_PAUSE_S)
            _LOG.warning("the result of job %s is not in the PACS yet: %s", job.job_id, error)
            await self._jobs.note(job.job_id, StoreStatus.PENDING, error=_stated(error), again_in_s=pause_s)
        except MipError as error:
            _LOG.error("the result of job %s can't be stored: %s", job.job_id, error)
            await self._jobs.note(job.job_id, StoreStatus.FAILED, error=_stated(error))
        except Exception as error:
            # Nobody foresaw it, so it may go on for ever: left to a person. Its text may quote anything (A3).
            _LOG.error("storing the result of job %s failed: %s", job.job_id, type(error).__name__)
            failed = JobError(code="STORE_FAILED", message=f"storing failed ({type(error).__name__}); see the log")
            await self._jobs.note(job.job_id, StoreStatus.FAILED, error=failed)
        else:
            await self._jobs.note(job.job_id, StoreStatus.DONE)


def _instances(job: Job) -> list[tuple[str, str]]:
    """Each DICOM object that the job made, once."""
    if job.result is None:
        return []
    others = [(one.bucket, one.key) for one in job.result.outputs if one.media_type == _DICOM]
    return list(dict.fromkeys([(job.result.dicom.bucket, job.result.dicom.key), *others]))


def _stated(error: MipError) -> JobError:
    return JobError(code=error.code, message=error.message)
