"""The job records in DynamoDB: ports.jobs.

A record and its message can't be written together, so each send has three steps, and whatever ends after one of
them is taken up by the next call or by the sweep (law J1): the record says that a message is to be sent, and with
which deduplication id; the message is sent; the record is told its id. Between the second and the third a message
may be sent twice: within five minutes SQS knows it again, and later a job may run twice, and ends once (law J2).

Every change is one conditional write. botocore may repeat one whose answer was lost, so each must know its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from medical_image_processing import naming
from medical_image_processing.engines.aws import job_items
from medical_image_processing.engines.aws.audit import DynamoAudit
from medical_image_processing.engines.aws.job_items import KEPT_S, OPEN, bounded, is_open, new_item, to_job
from medical_image_processing.engines.aws.listings import Listings
from medical_image_processing.engines.aws.open_jobs import OpenJobs
from medical_image_processing.engines.aws.queues import SqsQueues
from medical_image_processing.engines.aws.tables import ConditionFailed, Item, Table
from medical_image_processing.errors import Conflict, NotFound, TransientError, Unavailable
from medical_image_processing.model.job import Job, JobEnd, JobError, JobMessage, JobResult, JobStatus
from medical_image_processing.model.page import Page
from medical_image_processing.ports.jobs import DEAD_LETTERED, Accepted, Report
from medical_image_processing.ports.queues import OutgoingMessage
from medical_image_processing.ports.registry import Registry

_LOG = logging.getLogger(__name__)
_SETTLED_S = 60.0
"""After this time whoever recorded a job has sent it, or never will; and SQS counts its message."""
_IS_OPEN = "#status IN (:queued, :running)"
_OPEN_VALUES: Item = dict(zip(("queued", "running"), OPEN, strict=True))
_DELETED = JobError(code="ALGORITHM_DELETED", message="the algorithm was removed before the job was done")


class DynamoJobs:
    """Implements :class:`ports.jobs.Jobs`."""

    def __init__(
        self,
        table: Table,
        queues: SqsQueues,
        registry: Registry,
        audit: DynamoAudit,
        open_jobs: OpenJobs,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._table = table
        self._queues = queues
        self._registry = registry
        self._audit = audit
        self._open = open_jobs
        self._clock = clock
        self._listings = Listings(table, clock=clock)

    async def accept(self, message: JobMessage, fingerprint: str) -> Accepted:
        """Record the job and enqueue its message. What only recorded it is finished by the same call again."""
        item, created = new_item(message, fingerprint, self._clock()), True
        try:
            await self._table.put(item, condition="attribute_not_exists(#job_id)")
        except ConditionFailed as error:
            if error.item is None:
                raise _vanished(message.job_id) from error
            known = _same(error.item, fingerprint)
            created = error.item["call"] == item["call"]
            item = error.item
            if "message_id" in item or not is_open(item):
                return known
        try:
            message_id = await self._send(item)
        except NotFound:
            await self._forget_unsent(item)
            raise
        return Accepted(item["job_id"], item["client_id"], JobStatus(item["status"]), message_id, created=created)

    async def find(self, job_id: str, fingerprint: str) -> Accepted | None:
        """The job if it was accepted before, None if it is new."""
        item = await self._table.get({"job_id": job_id})
        return _same(item, fingerprint) if item else None

    async def get(self, job_id: str) -> Job | None:
        """The record, or None."""
        item = await self._table.get({"job_id": job_id})
        return to_job(item) if item else None

    async def page(
        self,
        *,
        client_ids: Sequence[str] | None = None,
        status: JobStatus | None = None,
        algo_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Job]:
        """One page, newest first. It may be short and have a cursor, where few jobs have the ``status``."""
        return await self._listings.page(
            client_ids=client_ids, status=status, algo_id=algo_id, limit=limit, cursor=cursor
        )

    async def apply(self, reports: Sequence[Report]) -> list[Job]:
        """Apply reports in order, those of different jobs side by side; the jobs that this call finished."""
        now = self._clock()
        numbered = sorted(enumerate(reports), key=lambda one: one[1].job_id)
        of_jobs = [list(group) for _, group in groupby(numbered, key=lambda one: one[1].job_id)]
        done = await asyncio.gather(
            *(self._apply_in_order(reports_of_one, now) for reports_of_one in of_jobs), return_exceptions=True
        )
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome  # the reports come again, and those that were applied change nothing then
        ended = [item for items in done if not isinstance(items, BaseException) for item in items]
        return [to_job(item) for item in sorted(ended, key=lambda item: str(item["finish_seq"]))]

    async def open_count(self, algo_id: str) -> int:
        """Jobs that are QUEUED or RUNNING."""
        return await self._open.count(algo_id)

    async def fail_open(self, algo_id: str, error: JobError) -> list[Job]:
        """End all open jobs of an algorithm, then take their messages off the queue."""
        job_ids = await self._open.of(algo_id)
        ended = await self.apply([Report(job_id, algo_id, JobStatus.FAILED, error=error) for job_id in job_ids])
        await self._queues.purge(naming.queue(algo_id))
        return ended

    async def replay(self, job_id: str, *, actor: str) -> str:
        """Send a dead-lettered job again, as a new attempt; the new message's id."""
        item = await self._table.get({"job_id": job_id})
        if item is None:
            raise NotFound("UNKNOWN_JOB", f"no job '{job_id}'")
        if item["status"] != JobStatus.FAILED or json.loads(item["error"])["code"] != DEAD_LETTERED:
            raise _not_replayable(job_id, item["status"])
        await self._queues.count(naming.queue(item["algo_id"]))  # NotFound, before anything is changed
        attempt = item["attempts"] + 1
        dedup, now = f"{job_id}:{attempt}", self._clock()
        reopen = self._table.update_action(
            {"job_id": job_id},
            "SET #status = :queued, #attempts = :attempt, #dedup = :dedup, #queued = :now, #sends = :one,"
            " #open_algo = #algo_id REMOVE #started, #finished, #finish_seq, #progress, #error, #message_id,"
            " #sent, #gone, #unseen_client, #expires_at",
            condition="#finish_seq = :finish_seq",
            values={
                "queued": JobStatus.QUEUED.value,
                "attempt": attempt,
                "dedup": dedup,
                "now": now,
                "one": 1,
                "finish_seq": item["finish_seq"],
            },
        )
        entry = self._audit.action(actor, "replay", job_id, {"attempt": attempt})
        try:
            await self._table.transact([reopen, entry])
        except ConditionFailed as error:
            raise _not_replayable(job_id, "being replayed already") from error
        return await self._send({**item, "dedup": dedup})

    async def resend_lost(self, *, after_s: float, given_up: JobError) -> list[Job]:
        """Send jobs whose message was never sent or is gone; the jobs ended with ``given_up`` instead.

        SQS tells of no single message. While the algorithm's queues and the results queue are empty, the messages
        of all its open jobs are gone; that is noted on them, and whoever has such a message has ``after_s`` left.
        """
        ended: list[Job] = []
        found = sorted(await self._open.look(), key=lambda item: str(item["algo_id"]))
        for algo_id, group in groupby(found, key=lambda item: str(item["algo_id"])):
            items = list(group)
            if await self._registry.get(algo_id) is None:
                reports = [Report(item["job_id"], algo_id, JobStatus.FAILED, error=_DELETED) for item in items]
                ended += await self.apply(reports)
                continue
            unsent = [item for item in items if "message_id" not in item]
            for item in unsent:
                if self._clock() - item["queued"] >= min(after_s, _SETTLED_S):
                    await self._send_if_possible(item)
            if not unsent and await self._is_quiet(algo_id):
                settled = self._clock() - min(after_s, _SETTLED_S)
                items = [await self._note_gone(item) for item in items if item["sent"] <= settled]
            now = self._clock()
            lost = [item for item in items if "gone" in item and now - item["gone"] >= after_s]
            ended += await self._resend(lost, given_up)
        return ended

    async def unseen(self, client_id: str, *, after: str | None, limit: int) -> list[Job]:
        """Finished jobs the client has not received, oldest first, from behind the job ``after``."""
        behind = await self._table.get({"job_id": after}) if after else None
        place = str(behind.get("finish_seq", "")) if behind else ""
        found: list[Item] = []
        while len(found) < limit:
            keys = await self._table.query(
                "#unseen_client = :client_id AND #finish_seq > :place",
                {"client_id": client_id, "place": place or "0"},
                index="unseen",
                limit=limit,
            )
            items = await self._table.get_all({"job_id": key["job_id"]} for key in keys)
            mine = [item for item in items if item.get("unseen_client") == client_id]
            found += sorted(mine, key=lambda item: str(item["finish_seq"]))
            if len(keys) < limit:
                break
            place = str(keys[-1]["finish_seq"])
        return [to_job(item) for item in found[:limit]]

    async def mark_seen(self, ends: Sequence[JobEnd]) -> None:
        """The client has these."""
        await asyncio.gather(*(self._mark_seen(end) for end in ends))

    async def _mark_seen(self, end: JobEnd) -> None:
        known = "#message_id = :message_id" if end.message_id else "attribute_not_exists(#message_id)"
        try:
            await self._table.update(
                {"job_id": end.job_id},
                "REMOVE #unseen_client",
                condition=f"attribute_exists(#finish_seq) AND {known}",
                values={"message_id": end.message_id} if end.message_id else {},
            )
        except ConditionFailed:
            return  # another end, or none, or forgotten meanwhile

    async def _send(self, item: Item) -> str:
        """The second and the third step: send the message that the record asks for, and note its id there."""
        job_id, dedup = item["job_id"], item["dedup"]
        outgoing = OutgoingMessage(body=item["body"], group_id=job_id, dedup_id=dedup)
        [message_id] = await self._queues.send(naming.queue(item["algo_id"]), [outgoing])
        try:
            await self._table.update(
                {"job_id": job_id},
                "SET #message_id = :message_id, #sent = :now",
                condition=f"#dedup = :dedup AND attribute_not_exists(#message_id) AND {_IS_OPEN}",
                values={"message_id": message_id, "now": self._clock(), "dedup": dedup, **_OPEN_VALUES},
            )
        except ConditionFailed as error:
            # Noted by another already, or the job is through. Without a record nobody would know of its end.
            if error.item is None:
                raise _vanished(job_id) from error
        except TransientError as error:
            _LOG.warning("job %s was sent, which is not on its record yet: %s", job_id, error)
        return message_id

    async def _send_if_possible(self, item: Item) -> None:
        """Not while there is no queue: the provisioner makes it again, or ends the jobs with their algorithm."""
        try:
            await self._send(item)
        except NotFound:
            _LOG.warning("job %s waits: %s has no queue", item["job_id"], item["algo_id"])
            return
        _LOG.warning("job %s of %s was recorded and not sent; it is now", item["job_id"], item["algo_id"])

    async def _note_gone(self, item: Item) -> Item:
        """The job, on record as without a message from now on, or from earlier."""
        if "gone" in item:
            return item
        try:
            return await self._table.update(
                {"job_id": item["job_id"]},
                "SET #gone = :now",
                condition=f"#message_id = :message_id AND attribute_not_exists(#gone) AND {_IS_OPEN}",
                values={"now": self._clock(), "message_id": item["message_id"], **_OPEN_VALUES},
            )
        except ConditionFailed:
            return item  # it has ended, or another sweep is at it

    async def _resend(self, items: Sequence[Item], given_up: JobError) -> list[Job]:
        ended: list[Job] = []
        for item in items:
            job_id, algo_id = item["job_id"], item["algo_id"]
            if item["sends"] >= naming.MAX_RECEIVES:
                ended += await self.apply([Report(job_id, algo_id, JobStatus.FAILED, error=given_up)])
                continue
            dedup = item["message_id"]
            try:
                await self._table.update(
                    {"job_id": job_id},
                    "SET #dedup = :dedup, #queued = :now, #sends = :sends REMOVE #message_id, #sent, #gone",
                    condition=f"#message_id = :dedup AND {_IS_OPEN}",
                    values={"dedup": dedup, "now": self._clock(), "sends": item["sends"] + 1, **_OPEN_VALUES},
                )
            except ConditionFailed:
                continue  # it has ended, or another sweep is at it
            await self._send_if_possible({**item, "dedup": dedup})
        return ended

    async def _is_quiet(self, algo_id: str) -> bool:
        """Whether no message of the algorithm, and no report of anybody, is anywhere."""
        names = naming.queue(algo_id), naming.dead_letter_queue(algo_id), naming.RESULTS_QUEUE
        try:
            return not any([await self._queues.count(name) for name in names])
        except NotFound:
            return False

    async def _forget_unsent(self, item: Item) -> None:
        """Take back a record whose message can't be sent, unless another call sent it."""
        try:
            await self._table.delete(
                {"job_id": item["job_id"]},
                condition="attribute_not_exists(#message_id) AND #dedup = :job_id AND #status = :queued",
                values={"job_id": item["job_id"], "queued": JobStatus.QUEUED.value},
            )
        except ConditionFailed:
            return

    async def _apply_in_order(self, reports: Sequence[tuple[int, Report]], now: float) -> list[Item]:
        ended: list[Item] = []
        for number, report in reports:
            if report.status is JobStatus.RUNNING:
                await self._write(report, _running(report, now), keep_attempts=False)
            elif (item := await self._end(report, now, number)) is not None:
                ended.append(item)
        return ended

    async def _end(self, report: Report, now: float, number: int) -> Item | None:
        finish_seq = job_items.new_finish_seq(now, number)
        return await self._write(report, _ending(report, now, finish_seq), keep_attempts=False)

    async def _write(self, report: Report, values: Item, *, keep_attempts: bool) -> Item | None:
        """Move an open job of the report's algorithm; None if there is none. An attempt's number only grows."""
        attempt = report.attempt or 1
        changed = {**values, "attempts": None if keep_attempts else attempt}
        older = "" if keep_attempts else " AND #attempts <= :attempts"
        try:
            return await self._table.update(
                {"job_id": report.job_id},
                _change(changed, ends=report.status is not JobStatus.RUNNING),
                condition=f"#algo_id = :algo_id AND {_IS_OPEN}{older}",
                values={**changed, **_OPEN_VALUES, "algo_id": report.algo_id},
            )
        except ConditionFailed as error:
            item = error.item
        if item is None or item["algo_id"] != report.algo_id:
            return None
        if is_open(item) and item["attempts"] > attempt and not keep_attempts:
            return await self._write(report, values, keep_attempts=True)
        return item if item.get("finish_seq") == values.get("finish_seq", "") else None


def _running(report: Report, now: float) -> Item:
    return {
        "status": JobStatus.RUNNING.value,
        "started": now if report.started_at is None else report.started_at,
        "progress": report.progress,
        "error": report.error.model_dump_json() if report.error else None,
    }


def _ending(report: Report, now: float, finish_seq: str) -> Item:
    status, error = report.status, report.error
    result: JobResult | None = None
    if report.result is not None:
        kept = bounded(report.result)
        if isinstance(kept, JobError):
            status, error = JobStatus.FAILED, kept
        else:
            result = kept
    return {
        "status": status.value,
        "started": report.started_at,
        "finished": now,
        "finish_seq": finish_seq,
        "expires_at": int(now + KEPT_S),
        "progress": 1.0 if status is JobStatus.SUCCEEDED else None,
        "error": error.model_dump_json() if error else None,
        "result": result.model_dump_json() if result else None,
    }


def _change(values: Item, *, ends: bool) -> str:
    """The update that writes what is given; a start stays the first one's, and an end leaves no older error."""
    parts = [
        f"#{name} = " + (f"if_not_exists(#started, :{name})" if name == "started" else f":{name}")
        for name, value in values.items()
        if value is not None
    ]
    if not ends:
        return f"SET {', '.join(parts)}"
    parts.append("#unseen_client = #client_id")
    gone = ["#open_algo", *([] if values["error"] else ["#error"])]
    return f"SET {', '.join(parts)} REMOVE {', '.join(gone)}"


def _same(item: Item, fingerprint: str) -> Accepted:
    if item["fingerprint"] != fingerprint:
        raise Conflict(
            "JOB_ID_TAKEN",
            f"job_id '{item['job_id']}' belongs to a job with another body; choose another job_id",
        )
    status, message_id = JobStatus(item["status"]), item.get("message_id", "")
    return Accepted(item["job_id"], item["client_id"], status, message_id, created=False)


def _not_replayable(job_id: str, state: Any) -> Conflict:
    return Conflict("NOT_REPLAYABLE", f"only a dead-lettered job can be replayed; '{job_id}' is {state}")


def _vanished(job_id: str) -> Unavailable:
    return Unavailable("JOB_VANISHED", f"the record of job '{job_id}' went away meanwhile; send it again")
