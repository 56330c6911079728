"""Puts results back into the PACS, where the job or its algorithm's record asked for it; and sends them to a node.

The platform does this, never the algorithm, which has no way to write there. It is on the job's record, so that
a PACS or a platform that is down only delays it; and as an instance's UID follows from its job, revision and
content, an attempt that is repeated makes no second copy.

The results of a job whose images a node sent go to a node in the same way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from medical_image_processing.errors import MipError, PermanentError, TransientError
from medical_image_processing.model.job import Job, JobError, Output, StoreStatus
from medical_image_processing.ports.storing import PacsWriter, ResultFiles, ResultsToStore

_LOG = logging.getLogger(__name__)
_BATCH = 20
_SIDE_BY_SIDE = 4
_LOOK_EVERY_S = 5.0
_LOOK_AGAIN_S = 0.5
"""While something is being stored, which may take long."""
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
        self._placed: dict[str, set[tuple[str, str]]] = {}

    @property
    def trouble(self) -> MipError | None:
        """Why a result is not where it belongs yet, if one is not."""
        return next(iter(self._troubled.values()), None)

    async def run(self) -> None:
        """Store until cancelled; whatever happens to one job holds up no other."""
        under_way: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    due = [job for job in await self._jobs.due(limit=_BATCH) if job.job_id not in under_way]
                    for job in due[: _SIDE_BY_SIDE - len(under_way)]:
                        under_way[job.job_id] = tasks.create_task(self._attempt_and_pause(job))
                    if under_way:
                        await asyncio.wait(
                            under_way.values(), timeout=_LOOK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED
                        )
                    else:
                        await self._jobs.wait_for_due(at_most_s=_LOOK_EVERY_S)
                except TransientError as error:
                    _LOG.warning("storing results waits: %s", error)
                    await asyncio.sleep(error.retry_after_s)
                except Exception as error:  # nobody foresaw it; its text may quote anything (A3)
                    _LOG.error("what is to be stored can't be looked up: %s", type(error).__name__)
                    await asyncio.sleep(_LOOK_EVERY_S)
                under_way = {job_id: task for job_id, task in under_way.items() if not task.done()}

    async def store_due(self) -> int:
        """One attempt for each job that is due; how many they were."""
        jobs = await self._jobs.due(limit=_BATCH)
        room = asyncio.Semaphore(_SIDE_BY_SIDE)

        async def store(job: Job) -> None:
            async with room:
                await self._attempt(job)

        await asyncio.gather(*(store(job) for job in jobs))
        return len(jobs)

    def _attempts(self, job: Job) -> int:
        return job.stored.attempts if job.stored else 0

    def _is_last(self, attempts: int) -> bool:
        return False

    async def _attempt_and_pause(self, job: Job) -> None:
        """A job whose attempt could not even be noted is still due, and must not be tried without a pause."""
        if pause_s := await self._attempt(job):
            await asyncio.sleep(pause_s)

    async def _attempt(self, job: Job) -> float:
        """Store what the job made and note what came of it; how many seconds to wait if that couldn't be noted."""
        try:
            await self._store(job)
        except TransientError as error:
            _LOG.warning("what came of storing job %s can't be noted yet: %s", job.job_id, error)
            return error.retry_after_s
        except Exception as error:
            _LOG.error("what came of storing job %s can't be noted: %s", job.job_id, type(error).__name__)
            return _LOOK_EVERY_S
        return 0.0

    async def _store(self, job: Job) -> None:
        try:
            instances, writer = _instances(job), self._writer_for(job)
        except MipError as error:
            await self._note(job, [("result", error)], of=1)
            return
        faults: list[tuple[str, MipError]] = []
        placed = self._placed.setdefault(job.job_id, set())
        for bucket, key, kind in instances:
            if (bucket, key) in placed:
                continue  # at an earlier attempt, where another was in trouble
            try:
                async with self._files.local(bucket, key) as file:
                    await writer.store(file, job.study_id)
                placed.add((bucket, key))
            except MipError as error:
                faults.append((kind, error))
            except Exception as error:
                # Nobody foresaw it, so it may go on for ever: left to a person. Its text may quote anything (A3).
                _LOG.error("storing the result of job %s failed: %s", job.job_id, type(error).__name__)
                failed = PermanentError("STORE_FAILED", f"storing failed ({type(error).__name__}); see the log")
                faults.append((kind, failed))
        await self._note(job, faults, of=len(instances))

    async def _note(self, job: Job, faults: Sequence[tuple[str, MipError]], *, of: int) -> None:
        self._troubled.pop(job.job_id, None)
        if not faults:
            await self._jobs.note(job.job_id, StoreStatus.DONE)
            self._placed.pop(job.job_id, None)
            return
        stated, told = _stated(faults, of=of), "; ".join(str(fault) for _, fault in faults)
        attempts = self._attempts(job)
        waits = [fault for _, fault in faults if isinstance(fault, TransientError)]
        if waits and not self._is_last(attempts + 1):
            self._troubled[job.job_id] = waits[0]
            longest = max(fault.retry_after_s for fault in waits)
            pause_s = min(max(FIRST_PAUSE_S * 2 ** min(attempts, 20), longest), LAST_PAUSE_S)
            _LOG.warning("the result of job %s is not %s yet: %s", job.job_id, self.place, told)
            await self._jobs.note(job.job_id, StoreStatus.PENDING, error=stated, again_in_s=pause_s)
        else:
            _LOG.error("the result of job %s can't be put %s: %s", job.job_id, self.place, told)
            await self._jobs.note(job.job_id, StoreStatus.FAILED, error=stated)
            self._placed.pop(job.job_id, None)


class Sending(Storing):
    """The same for results that go to the node that sent the images, or to the one that is to have them.

    A PACS is worth any wait; a node that has been away for a day (``MOST_ATTEMPTS``) is given up, visibly. A job
    that failed or was cancelled has nothing to send, and its way ends with its reason, ``NO_RESULT``.
    """

    place = "at its node"

    def _attempts(self, job: Job) -> int:
        return job.sent.attempts if job.sent else 0

    def _is_last(self, attempts: int) -> bool:
        return attempts >= MOST_ATTEMPTS


def _instances(job: Job) -> list[tuple[str, str, str]]:
    """Bucket, key and kind of each DICOM object that the job made, once.

    What the result names first is one, unless its outputs say otherwise.
    """
    if job.result is None:
        # Not the message: the algorithm wrote it, and the log would have it (law A3).
        why = job.error.code if job.error else str(job.status)
        raise PermanentError("NO_RESULT", f"the job has none ({why}); `mip jobs show {job.job_id}` has the reason")
    named: dict[tuple[str, str], Output] = {}
    for one in job.result.outputs:
        named.setdefault((one.bucket, one.key), one)
    first = job.result.dicom.bucket, job.result.dicom.key
    found = [(*first, "result")] if first not in named else []
    others = [(*place, one.kind) for place, one in named.items() if one.media_type == _DICOM]
    return found + others


def _stated(faults: Sequence[tuple[str, MipError]], *, of: int) -> JobError:
    """The first fault's code, before others one that may pass; where there are several objects, which they are."""
    first = min((fault for _, fault in faults), key=lambda fault: not isinstance(fault, TransientError))
    if of == 1:
        return JobError(code=first.code, message=first.message)
    said = "; ".join(f"{kind}: {fault.message}" for kind, fault in faults)
    return JobError(code=first.code, message=f"{len(faults)} of {of} objects are not stored. {said}")
