"""The job records in DynamoDB: ports.jobs.

A record and its message can't be written together, so each send has three steps, and whatever ends after one of
them is taken up by the next call or by the sweep (law J1): the record says that a message is to be sent, and with
which deduplication id; the message is sent; the record is told its id. Between the second and the third a message
may be sent twice: within five minutes SQS knows it again, and later a job may run twice, and ends once (law J2).

Every change is one conditional write. botocore may repeat one whose answer was lost, so each must know its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from medical_image_processing import naming
from medical_image_processing.engines.aws.audit import DynamoAudit
from medical_image_processing.engines.aws.job_items import is_open, new_item, to_job, unsent
from medical_image_processing.engines.aws.listings import Listings
from medical_image_processing.engines.aws.lost_jobs import LostJobs
from medical_image_processing.engines.aws.open_jobs import OpenJobs
from medical_image_processing.engines.aws.queues import SqsQueues
from medical_image_processing.engines.aws.reports import Reports
from medical_image_processing.engines.aws.sending import Sender, vanished
from medical_image_processing.engines.aws.tables import ConditionFailed, Item, Table
from medical_image_processing.errors import Conflict, NotFound
from medical_image_processing.model.job import Job, JobEnd, JobError, JobMessage, JobStatus
from medical_image_processing.model.page import Page
from medical_image_processing.ports.jobs import DEAD_LETTERED, Accepted, Report, not_cancellable
from medical_image_processing.ports.registry import Registry


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
        self._audit = audit
        self._open = open_jobs
        self._clock = clock
        self._listings = Listings(table, clock=clock)
        self._reports = Reports(table, clock=clock)
        self._sender = Sender(table, queues, clock=clock)
        self._lost = LostJobs(
            table, queues, registry, open_jobs, reports=self._reports, sender=self._sender, clock=clock
        )

    async def accept(self, message: JobMessage, fingerprint: str) -> Accepted:
        """Record the job and enqueue its message. What only recorded it is finished by the same call again."""
        item, created = new_item(message, fingerprint, self._clock()), True
        try:
            await self._table.put(item, condition="attribute_not_exists(#job_id)")
        except ConditionFailed as error:
            if error.item is None:
                raise vanished(message.job_id) from error
            known = _same(error.item, fingerprint)
            created = error.item["call"] == item["call"]
            item = error.item
            if "message_id" in item or not is_open(item):
                return known
        try:
            message_id = await self._sender.send(item)
        except NotFound:
            await self._sender.forget_unsent(item)
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
        """Apply reports in order; the jobs that this call finished."""
        return await self._reports.apply(reports)

    async def open_count(self, algo_id: str) -> int:
        """Jobs that are QUEUED or RUNNING."""
        return await self._open.count(algo_id)

    async def fail_open(self, algo_id: str, error: JobError) -> list[Job]:
        """Take the messages of an algorithm's open jobs off the queue, and end the jobs.

        In this order, because whoever calls pushes the ends, and would not hear of them if the other failed.
        """
        await self._queues.purge(naming.queue(algo_id))
        job_ids = await self._open.of(algo_id)
        return await self.apply([Report(job_id, algo_id, JobStatus.FAILED, error=error) for job_id in job_ids])

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
            " #open_algo = #algo_id, #unsent = :unsent, #unsent_since = :unsent_since REMOVE #started, #finished,"
            " #finish_seq, #progress, #error, #message_id, #sent, #gone, #unseen_client, #expires_at",
            condition="#finish_seq = :finish_seq",
            values={
                "queued": JobStatus.QUEUED.value,
                "attempt": attempt,
                "dedup": dedup,
                "now": now,
                "one": 1,
                "finish_seq": item["finish_seq"],
                **unsent(job_id, now),
            },
        )
        entry = self._audit.action(actor, "replay", job_id, {"attempt": attempt})
        try:
            await self._table.transact([reopen, entry])
        except ConditionFailed as error:
            raise _not_replayable(job_id, "being replayed already") from error
        return await self._sender.send({**item, "dedup": dedup})

    async def cancel(self, job_id: str, *, actor: str) -> Job:
        """End a job that is QUEUED. Its message stays: SQS takes none back but from who has received it."""
        with contextlib.suppress(ConditionFailed):
            await self._table.transact(
                [self._reports.cancel_action(job_id), self._audit.action(actor, "cancel", job_id, {})]
            )
        item = await self._table.get({"job_id": job_id})
        if item is None:
            raise NotFound("UNKNOWN_JOB", f"no job '{job_id}'")
        if item["status"] != JobStatus.CANCELLED:
            raise not_cancellable(job_id, JobStatus(item["status"]))
        return to_job(item)

    async def resend_lost(self, *, after_s: float, given_up: JobError) -> list[Job]:
        """Send jobs whose message was never sent or is gone; the jobs ended with ``given_up`` instead."""
        return await self._lost.resend(after_s=after_s, given_up=given_up)

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
