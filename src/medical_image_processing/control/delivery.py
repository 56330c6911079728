"""Consumes the results queue: moves the job's state, then hands it to the client's connections.

Workers are hostile until proven otherwise: a report counts only when the algorithm that sent it is the
algorithm of the job, and its result lies where that algorithm may write (law A1).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace

from pydantic import ValidationError

from medical_image_processing import naming
from medical_image_processing.control.pushing import push_all
from medical_image_processing.control.reidentification import Reidentification
from medical_image_processing.errors import MipError, TransientError
from medical_image_processing.model.job import (
    JobError,
    JobMessage,
    JobResult,
    JobStatus,
    NamedResult,
    ReportedStatus,
    ResultMessage,
)
from medical_image_processing.ports.jobs import DEAD_LETTERED, Jobs, Report
from medical_image_processing.ports.push import Push
from medical_image_processing.ports.queues import DeadLetter, Queues, ReceivedMessage
from medical_image_processing.ports.registry import Registry

_LOG = logging.getLogger(__name__)
_BATCH = 100
_SIDE_BY_SIDE = 4
_MOST_PLACES = 10
LOST_AFTER_S = 900.0
"""How long a job's message must have been gone before it is sent again. A worker of the earlier system may delete
it first and compute then, for as long as a job may take; only what no such worker can have is lost."""

_GIVEN_UP = JobError(
    code=DEAD_LETTERED,
    message=f"given up: {naming.MAX_RECEIVES} times its message left the queue and no result came; an algorithm "
    "must send its result message before it deletes the job's",
)


class Delivery:
    """Results and dead letters in, states and pushes out. Every step may be repeated after a crash.

    ``reidentification`` is for results of algorithms with ``deidentify``; without it there are none. It takes a
    PACS, so it happens beside the other results.
    """

    def __init__(
        self,
        queues: Queues,
        jobs: Jobs,
        registry: Registry,
        push: Push,
        *,
        output_bucket: str,
        reidentification: Reidentification | None = None,
    ) -> None:
        self._queues = queues
        self._jobs = jobs
        self._registry = registry
        self._push = push
        self._bucket = output_bucket
        self._reidentification = reidentification
        self._beside: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            while True:
                try:
                    messages = await self._queues.receive(naming.RESULTS_QUEUE, limit=_BATCH, wait_s=20)
                    await self.deliver(messages)
                except TransientError as error:
                    _LOG.warning("delivery waits: %s", error)
                    await asyncio.sleep(error.retry_after_s)
        finally:
            beside = list(self._beside.values())
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def deliver(self, messages: Sequence[ReceivedMessage]) -> None:
        """Handle one batch of result messages, then take it off the queue."""
        if not messages:
            return
        later = await self.handle(messages)
        held = {message.receipt_handle for message, _ in later}
        done = [message.receipt_handle for message in messages if message.receipt_handle not in held]
        if done:
            await self._queues.delete(naming.RESULTS_QUEUE, done)
        for message, report in later:
            if report.job_id not in self._beside:  # else its lease has ended, and what goes on will end it
                task = asyncio.create_task(self._deliver_beside(message, report))
                self._beside[report.job_id] = task

    async def handle(self, messages: Sequence[ReceivedMessage]) -> list[tuple[ReceivedMessage, Report]]:
        """Apply the messages and push what they finished. May be repeated until they are off the queue.

        Those that it returns wait for their patient, and must stay on the queue.
        """
        all_read = [(message, report) for message in messages if (report := await self._read(message)) is not None]
        later = [one for one in all_read if await self._waits_for_patient(one[1])]
        read = [one for one in all_read if one not in later] if later else all_read
        # Received again, a message may have ended its job before a crash that came between the end and the push.
        again = {report.job_id for message, report in read if message.receive_count > 1}
        await self._finish([report for _, report in read], again=again)
        return later

    async def _waits_for_patient(self, report: Report) -> bool:
        if self._reidentification is None or report.result is None:
            return False
        algorithm = await self._registry.get(report.algo_id)
        return algorithm is not None and algorithm.deidentify

    async def _deliver_beside(self, message: ReceivedMessage, report: Report) -> None:
        """One result of an algorithm that knew no patient. On trouble that passes the message just comes again."""
        try:
            async with self._room:
                made = await self._with_patient(report)
                await self._finish(
                    [] if made is None else [made], again={report.job_id} if message.receive_count > 1 else set()
                )
                await self._queues.delete(naming.RESULTS_QUEUE, [message.receipt_handle])
        except TransientError as error:
            _LOG.warning("the result of job %s waits for its patient: %s", report.job_id, error)
            stated = JobError(code=error.code, message=error.message)
            waiting = replace(report, status=JobStatus.RUNNING, result=None, error=stated)
            with contextlib.suppress(TransientError):
                await self._jobs.apply([waiting])
        finally:
            self._beside.pop(report.job_id, None)

    async def _with_patient(self, report: Report) -> Report | None:
        """The report with objects of the patient, or the failure to make them; None for one that comes too late.

        TransientError: not now.
        """
        assert self._reidentification is not None and report.result is not None
        job = await self._jobs.get(report.job_id)
        if job is None or job.algo_id != report.algo_id or job.finished_at is not None:
            return None  # never as it is: the job may be replayed before it were applied
        try:
            result = await self._reidentification.of_patient(report.job_id, report.algo_id, report.result)
            return replace(report, result=result)
        except TransientError:
            raise
        except MipError as error:
            stated = JobError(code=error.code, message=error.message)
        except Exception as error:
            # Nobody foresaw it. Its text may quote anything (A3).
            _LOG.error("the result of job %s can't be given its patient: %s", report.job_id, type(error).__name__)
            stated = JobError(
                code="REIDENTIFY_FAILED",
                message=f"giving the result its patient back failed ({type(error).__name__}); see the log",
            )
        return replace(report, status=JobStatus.FAILED, result=None, error=stated)

    async def bury(self) -> int:
        """Fail the jobs whose messages went to a dead-letter queue (law J5); how many messages that were."""
        buried = 0
        while letters := await self._queues.dead_letters(limit=_BATCH):
            reports = [report for letter in letters if (report := await self._read_dead(letter)) is not None]
            # A letter that is still there may have ended its job before a crash; one that ended well before
            # its message was given up needs no second push.
            await self._finish(reports, again={report.job_id for report in reports}, only=DEAD_LETTERED)
            await self._queues.settle_dead_letters([letter.message_id for letter in letters])
            buried += len(letters)
        return buried

    async def resend(self, *, after_s: float = LOST_AFTER_S) -> None:
        """Send jobs again whose message has been gone for ``after_s``; end what is lost every time (law J1)."""
        await push_all(self._push, await self._jobs.resend_lost(after_s=after_s, given_up=_GIVEN_UP))

    async def _finish(self, reports: list[Report], *, again: set[str], only: str | None = None) -> None:
        """Apply the reports and push what they ended; and those of ``again`` that had ended before.

        With ``only``, of these only the ones that ended with that error code.
        """
        finished = await self._jobs.apply(reports)
        for job_id in sorted(again.difference(job.job_id for job in finished)):
            job = await self._jobs.get(job_id)
            if job is None or job.finished_at is None:
                continue
            if only is None or (job.error is not None and job.error.code == only):
                finished.append(job)
        await push_all(self._push, finished)

    async def _read(self, message: ReceivedMessage) -> Report | None:
        try:
            result = ResultMessage.model_validate_json(message.body)
        except ValidationError as error:
            return _read_broken(message, _places(error))
        return await self._report(result) if _may_say(message, result.algo_id) else None

    async def _report(self, result: ResultMessage) -> Report:
        refused = await self._refusal(result)
        if refused is not None:
            return Report(result.job_id, result.algo_id, JobStatus.FAILED, attempt=result.attempt, error=refused)
        return Report(
            result.job_id,
            result.algo_id,
            JobStatus(result.status),
            progress=result.progress,
            attempt=result.attempt,
            started_at=result.started_at,
            error=_stated(result),
            result=_result(result),
        )

    async def _refusal(self, result: ResultMessage) -> JobError | None:
        if result.status is not ReportedStatus.SUCCEEDED:
            return None
        for item in (result.dicom, *result.outputs):
            if item is None:
                continue
            if item.bucket != self._bucket or not await self._may_write(result.algo_id, item.key):
                return JobError(
                    code="OUTPUT_NOT_ALLOWED",
                    message="the result lies outside the algorithm's own output; write to "
                    f"s3://{self._bucket}/{naming.output_prefix(result.algo_id)}",
                )
        return None

    async def _may_write(self, algo_id: str, key: str) -> bool:
        if naming.is_output_key(algo_id, key, legacy=False):
            return True
        if not naming.is_output_key(algo_id, key, legacy=True):
            return False
        algorithm = await self._registry.get(algo_id)
        # An earlier key must not lie under another algorithm's prefix (see naming.is_output_key).
        owner = await self._registry.get(key.partition("/")[0])
        return algorithm is not None and algorithm.legacy_output_keys and owner is None

    async def _read_dead(self, letter: DeadLetter) -> Report | None:
        try:
            message = JobMessage.model_validate_json(letter.body)
        except ValidationError:
            _LOG.warning("a dead letter in %s is no job message", letter.queue)
            return None
        job = await self._jobs.get(message.job_id)
        last = job.error.message if job and job.error else "its worker died or never answered"
        error = JobError(
            code=DEAD_LETTERED,
            message=f"given up after {naming.MAX_RECEIVES} attempts; the last trouble: {last}"[:2000],
        )
        return Report(message.job_id, message.algo_id, JobStatus.FAILED, attempt=naming.MAX_RECEIVES, error=error)


def _may_say(message: ReceivedMessage, algo_id: str) -> bool:
    if message.sender in (None, algo_id):
        return True
    _LOG.warning("%s sent a result in the name of %s; dropped", message.sender, algo_id)
    return False


def _read_broken(message: ReceivedMessage, places: str) -> Report | None:
    """The failure of the job that a wrong message would have ended: whoever sent it is done with that job."""
    _LOG.warning("a result message of %s is wrong in: %s", message.sender, places)
    try:
        named = NamedResult.model_validate_json(message.body)
    except ValidationError:
        return None
    if named.status is ReportedStatus.RUNNING or not _may_say(message, named.algo_id):
        return None
    error = JobError(
        code="INVALID_RESULT",
        message=f"the algorithm's result message is not as the contract says; it is wrong in: {places}",
    )
    return Report(named.job_id, named.algo_id, JobStatus.FAILED, error=error)


def _places(error: ValidationError) -> str:
    """Where a message is wrong. Its text may hold anything, so it is not repeated (law A3)."""
    faults = error.errors(include_input=False, include_url=False)[:_MOST_PLACES]
    return ", ".join(".".join(map(str, fault["loc"])) or "message" for fault in faults)


def _stated(result: ResultMessage) -> JobError | None:
    if result.status is ReportedStatus.FAILED and result.error is None:
        return JobError(code="ALGORITHM_FAILED", message="the algorithm reported a failure and no reason")
    return None if result.status is ReportedStatus.SUCCEEDED else result.error


def _result(result: ResultMessage) -> JobResult | None:
    if result.status is not ReportedStatus.SUCCEEDED or result.dicom is None:
        return None
    dicom = result.dicom.model_copy(update={"url": None})
    return JobResult(dicom=dicom, outputs=result.outputs, provenance=result.provenance)
