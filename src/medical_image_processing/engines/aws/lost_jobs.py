"""Open jobs whose message was never sent, or is gone: nobody would ever run them (law J1).

What was never sent has an index of its own, and is sent within a sweep or two of its time, however much is open.

SQS tells of no single message. While the algorithm's queues and the results queue are empty, the messages of all
its open jobs are gone. That is noted on their records, so that it doesn't matter which Lambda looks next, and
whoever has such a message still, because it deletes first and computes then, has its time from there.

So a message that vanished, which only a worker does that deletes before it reports, is noticed at the first sweep
that finds those queues empty: on a platform that is never idle, not before it is. Age alone can't tell, since
queues in high throughput mode keep no order between jobs, and to send what still waits would use up its attempts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import groupby

from medical_image_processing import naming
from medical_image_processing.engines.aws.job_items import IS_OPEN, OPEN_VALUES, is_open, unsent
from medical_image_processing.engines.aws.open_jobs import OpenJobs
from medical_image_processing.engines.aws.queues import SqsQueues
from medical_image_processing.engines.aws.reports import Reports
from medical_image_processing.engines.aws.sending import Sender
from medical_image_processing.engines.aws.tables import ConditionFailed, Item, Table
from medical_image_processing.errors import NotFound
from medical_image_processing.model.job import Job, JobError, JobStatus
from medical_image_processing.ports.jobs import ALGORITHM_DELETED, Report
from medical_image_processing.ports.registry import Registry

_LOG = logging.getLogger(__name__)
_SETTLED_S = 60.0
"""After this time whoever recorded a job has sent it, or never will; and SQS counts its message."""
_DELETED = JobError(code=ALGORITHM_DELETED, message="the algorithm was removed before the job was done")


class LostJobs:
    """Sends them again, or ends them."""

    def __init__(
        self,
        table: Table,
        queues: SqsQueues,
        registry: Registry,
        open_jobs: OpenJobs,
        *,
        reports: Reports,
        sender: Sender,
        clock: Callable[[], float],
    ) -> None:
        self._table = table
        self._queues = queues
        self._registry = registry
        self._open = open_jobs
        self._reports = reports
        self._sender = sender
        self._clock = clock

    async def resend(self, *, after_s: float, given_up: JobError) -> list[Job]:
        """Look at what was never sent, then at some of the open jobs; those that were ended."""
        settled = self._clock() - min(after_s, _SETTLED_S)
        ended = await self._send_unsent(settled)
        found = sorted(await self._open.look(), key=lambda item: str(item["algo_id"]))
        for algo_id, group in groupby(found, key=lambda item: str(item["algo_id"])):
            items = list(group)
            if await self._registry.get(algo_id) is None:
                ended += await self._fail(items, _DELETED)
                continue
            # SQS may not have counted yet what was sent this moment.
            if all("sent" in item for item in items) and await self._is_quiet(algo_id):
                items = [await self._note_gone(item) for item in items if item["sent"] <= settled]
            now = self._clock()
            lost = [item for item in items if "gone" in item and now - item["gone"] >= after_s]
            ended += await self._fail([item for item in lost if _was_sent_enough(item)], given_up)
            for item in lost:
                if not _was_sent_enough(item):
                    await self._send_again(item)
        return ended

    async def _send_unsent(self, before: float) -> list[Job]:
        """Send what was to be sent before that time; the jobs that were ended, as their algorithm is gone."""
        ended: list[Job] = []
        found = sorted(await self._open.unsent(before), key=lambda item: str(item["algo_id"]))
        for algo_id, group in groupby(found, key=lambda item: str(item["algo_id"])):
            if await self._registry.get(algo_id) is None:
                ended += await self._fail(list(group), _DELETED)
                continue
            for item in group:
                if not await self._send(item):
                    break
        return ended

    async def _send(self, item: Item) -> bool:
        """Whether it could be. Without a queue a job waits, until the provisioner makes one or ends the jobs."""
        try:
            await self._sender.send(item)
        except NotFound:
            _LOG.warning("job %s waits: %s has no queue", item["job_id"], item["algo_id"])
            return False
        _LOG.warning("job %s of %s had no message, and was sent one", item["job_id"], item["algo_id"])
        return True

    async def _note_gone(self, item: Item) -> Item:
        """The job, on record as without a message from now on, or from earlier."""
        if "gone" in item:
            return item
        try:
            return await self._table.update(
                {"job_id": item["job_id"]},
                "SET #gone = :now",
                condition=f"#message_id = :message_id AND attribute_not_exists(#gone) AND {IS_OPEN}",
                values={"now": self._clock(), "message_id": item["message_id"], **OPEN_VALUES},
            )
        except ConditionFailed as error:
            return error.item or item  # noted already, or it has ended

    async def _send_again(self, item: Item) -> None:
        """With the lost message's id as deduplication id: two sweeps that are at it send one message."""
        dedup, now = item["message_id"], self._clock()
        try:
            await self._table.update(
                {"job_id": item["job_id"]},
                "SET #dedup = :dedup, #queued = :now, #sends = :sends, #unsent = :unsent,"
                " #unsent_since = :unsent_since REMOVE #message_id, #sent, #gone",
                condition=f"#message_id = :dedup AND {IS_OPEN}",
                values={
                    "dedup": dedup,
                    "now": now,
                    "sends": item["sends"] + 1,
                    **unsent(item["job_id"], now),
                    **OPEN_VALUES,
                },
            )
        except ConditionFailed as error:
            if error.item is None or error.item["dedup"] != dedup or not is_open(error.item):
                return  # it has ended
        await self._send({**item, "dedup": dedup})

    async def _fail(self, items: Sequence[Item], error: JobError) -> list[Job]:
        return await self._reports.apply(
            [Report(item["job_id"], item["algo_id"], JobStatus.FAILED, error=error) for item in items]
        )

    async def _is_quiet(self, algo_id: str) -> bool:
        """Whether no message of the algorithm, and no report of anybody, is anywhere."""
        names = naming.queue(algo_id), naming.dead_letter_queue(algo_id), naming.RESULTS_QUEUE
        try:
            return not any([await self._queues.count(name) for name in names])
        except NotFound:
            return False


def _was_sent_enough(item: Item) -> bool:
    return bool(item["sends"] >= naming.MAX_RECEIVES)
