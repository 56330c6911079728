"""The job records in SQLite: ports.jobs.

A job's record and its message are written in one transaction, so an accepted job can't be lost between
the two (law J1).
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from medical_image_processing import naming
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.lost_jobs import LostJobs, is_lost
from medical_image_processing.engines.embedded.newest_first import read_page
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.registry import write_audit
from medical_image_processing.errors import Conflict, NotFound
from medical_image_processing.model.job import (
    Job,
    JobEnd,
    JobError,
    JobMessage,
    JobResult,
    JobStatus,
    Stored,
    StoreStatus,
)
from medical_image_processing.model.page import Page
from medical_image_processing.model.timestamps import to_iso
from medical_image_processing.ports.gauges import JobCount
from medical_image_processing.ports.jobs import DEAD_LETTERED, Accepted, Report, not_cancellable
from medical_image_processing.ports.queues import OutgoingMessage

_LOG = logging.getLogger(__name__)
_OPEN = (JobStatus.QUEUED.value, JobStatus.RUNNING.value)
_WOULD_TELL = (
    "SELECT 1 FROM algorithms WHERE algo_id = ? AND json_extract(record, '$.deidentify') AND NOT EXISTS"
    " (SELECT 1 FROM pseudonyms WHERE pseudonym = json_extract(?, '$.pacs.study_id'))"
)
"""A message that was written before the algorithm was registered anew, with deidentify."""


class SqliteJobs:
    """Implements :class:`ports.jobs.Jobs`. ``on_finish`` gets each finished job's algorithm, state and seconds."""

    def __init__(
        self,
        database: Database,
        queues: FifoQueues,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._queues = queues
        self._clock = clock
        self._lost = LostJobs(database, clock=clock)
        self.on_finish: Callable[[str, JobStatus, float], None] = lambda *_: None

    async def accept(self, message: JobMessage, fingerprint: str) -> Accepted:
        """Record the job and enqueue its message, both or neither."""
        body = message.model_dump_json(exclude_none=True)
        queue = naming.queue(message.algo_id)

        def insert(connection: sqlite3.Connection) -> Accepted:
            if (known := _find(connection, message.job_id)) is not None:
                return _same(known, fingerprint)
            outgoing = OutgoingMessage(body=body, group_id=message.job_id, dedup_id=message.job_id)
            message_id, _ = self._queues.send_in(connection, queue, outgoing)
            connection.execute(
                "INSERT INTO jobs"
                " (job_id, algo_id, client_id, fingerprint, message_id, body, status, created_at, store, send_to,"
                " sent_pacs) VALUES (?, ?, ?, ?, ?, ?, 'QUEUED', ?, ?, ?, ?)",
                (
                    message.job_id,
                    message.algo_id,
                    message.client_id,
                    fingerprint,
                    message_id,
                    body,
                    self._clock(),
                    bool(message.store),
                    message.send_to,
                    message.sent.model_dump_json() if message.sent else None,
                ),
            )
            return Accepted(message.job_id, message.client_id, JobStatus.QUEUED, message_id, created=True)

        accepted = await self._database.write(insert)
        if accepted.created:
            self._queues.notify(queue)
        return accepted

    async def find(self, job_id: str, fingerprint: str) -> Accepted | None:
        """The job if it was accepted before, None if it is new."""
        rows = self._database.read("SELECT * FROM jobs WHERE job_id = ?", job_id)
        return _same(rows[0], fingerprint) if rows else None

    async def get(self, job_id: str) -> Job | None:
        """The record, or None."""
        rows = self._database.read("SELECT * FROM jobs WHERE job_id = ?", job_id)
        return read_job(rows[0]) if rows else None

    async def message(self, job_id: str) -> JobMessage | None:
        """What stood on the queue for the job, or None (ports.reidentification)."""
        rows = self._database.read("SELECT body FROM jobs WHERE job_id = ?", job_id)
        return JobMessage.model_validate_json(rows[0]["body"]) if rows else None

    async def page(
        self,
        *,
        client_ids: Sequence[str] | None = None,
        status: JobStatus | None = None,
        algo_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Job]:
        """One page, newest first."""
        where, given = [], []  # type: list[str], list[Any]
        if client_ids is not None:
            where.append(f"client_id IN ({', '.join('?' * len(client_ids))})")
            given.extend(client_ids)
        for column, value in (("status", status), ("algo_id", algo_id)):
            if value is not None:
                where.append(f"{column} = ?")
                given.append(str(value))
        return read_page(self._database, "jobs", where, given, read_job, limit=limit, cursor=cursor)

    async def apply(self, reports: Sequence[Report]) -> list[Job]:
        """Apply reports in order; the jobs that this call finished."""
        now = self._clock()

        def update(connection: sqlite3.Connection) -> list[sqlite3.Row]:
            return [row for report in reports if (row := _apply(connection, report, now)) is not None]

        if not reports:
            return []
        # What is reported stands on a durable queue, and its deletion there is written after this: a power
        # cut that loses this loses the deletion too, and the report comes again.
        return [self._finished(row) for row in await self._database.write(update, durable=False)]

    async def open_count(self, algo_id: str) -> int:
        """Jobs that are QUEUED or RUNNING."""
        sql = "SELECT COUNT(*) FROM jobs WHERE algo_id = ? AND status IN (?, ?)"
        return int(self._database.read(sql, algo_id, *_OPEN)[0][0])

    async def fail_open(self, algo_id: str, error: JobError) -> list[Job]:
        """End all open jobs of an algorithm, and take their messages off the queue."""
        now = self._clock()

        def update(connection: sqlite3.Connection) -> list[sqlite3.Row]:
            self._queues.purge_in(connection, naming.queue(algo_id))
            sql = "SELECT job_id FROM jobs WHERE algo_id = ? AND status IN (?, ?) ORDER BY seq"
            ids = [row["job_id"] for row in connection.execute(sql, (algo_id, *_OPEN))]
            reports = [Report(job_id, algo_id, JobStatus.FAILED, error=error) for job_id in ids]
            return [row for report in reports if (row := _apply(connection, report, now)) is not None]

        return [self._finished(row) for row in await self._database.write(update)]

    async def replay(self, job_id: str, *, actor: str) -> str:
        """Send a dead-lettered job again, as a new attempt; the new message's id."""

        def send(connection: sqlite3.Connection) -> tuple[str, str]:
            row = _find(connection, job_id)
            if row is None:
                raise NotFound("UNKNOWN_JOB", f"no job '{job_id}'")
            if row["status"] != JobStatus.FAILED or json.loads(row["error"])["code"] != DEAD_LETTERED:
                raise Conflict(
                    "NOT_REPLAYABLE",
                    f"only a dead-lettered job can be replayed; '{job_id}' is {row['status']}",
                )
            if connection.execute(_WOULD_TELL, (row["algo_id"], row["body"])).fetchone() is not None:
                raise Conflict(
                    "NOT_REPLAYABLE",
                    f"'{row['algo_id']}' has deidentify by now and the job real ids; send the images anew",
                )
            queue, attempt = naming.queue(row["algo_id"]), row["attempts"] + 1
            self._queues.remove_group_in(connection, naming.dead_letter_queue(row["algo_id"]), job_id)
            outgoing = OutgoingMessage(body=row["body"], group_id=job_id, dedup_id=f"{job_id}:{attempt}")
            message_id, _ = self._queues.send_in(connection, queue, outgoing)
            connection.execute(
                "UPDATE jobs SET status = 'QUEUED', started_at = NULL, finished_at = NULL, finish_seq = NULL,"
                " progress = NULL, error = NULL, attempts = ?, message_id = ?, sends = 1, seen = 0,"
                " sent = NULL, send_at = NULL, send_attempts = 0, send_error = NULL"
                " WHERE job_id = ?",
                (attempt, message_id, job_id),
            )
            write_audit(connection, self._clock(), actor, "replay", job_id, {"attempt": attempt})
            return queue, message_id

        queue, message_id = await self._database.write(send)
        self._queues.notify(queue)
        return message_id

    async def cancel(self, job_id: str, *, actor: str) -> Job:
        """End a job that is QUEUED and take its message off the queue, both or neither."""
        now = self._clock()

        def end(connection: sqlite3.Connection) -> tuple[sqlite3.Row, bool]:
            row = connection.execute(
                "UPDATE jobs SET status = 'CANCELLED', finished_at = ?, error = NULL,"
                " sent = CASE WHEN send_to IS NOT NULL THEN 'pending' END, send_at = ?,"
                " finish_seq = (SELECT coalesce(max(finish_seq), 0) + 1 FROM jobs WHERE finish_seq IS NOT NULL)"
                " WHERE job_id = ? AND status = 'QUEUED' RETURNING *",
                (now, now, job_id),
            ).fetchone()
            if row is None:
                return _cancelled(_find(connection, job_id), job_id), False
            # A worker that has it already loses its lease with it.
            for queue in (naming.queue(row["algo_id"]), naming.dead_letter_queue(row["algo_id"])):
                self._queues.remove_group_in(connection, queue, job_id)
            write_audit(connection, now, actor, "cancel", job_id, {})
            return row, True

        row, ended = await self._database.write(end)
        return self._finished(row) if ended else read_job(row)

    async def resend_lost(self, *, after_s: float, given_up: JobError) -> list[Job]:
        """Send jobs whose message is gone again; the jobs ended with ``given_up`` instead."""
        now = self._clock()

        def resend(connection: sqlite3.Connection) -> tuple[list[Any], list[Any]]:
            sent, ended = [], []
            for job_id, since in overdue:
                row = _find(connection, job_id)
                if row is None or row["status"] not in _OPEN or not is_lost(connection, row, since):
                    continue
                if row["sends"] >= naming.MAX_RECEIVES:
                    report = Report(job_id, row["algo_id"], JobStatus.FAILED, error=given_up)
                    ended.append(_apply(connection, report, now))
                else:
                    self._send_again(connection, row)
                    sent.append(row)
            return sent, ended

        if not (overdue := self._lost.overdue(after_s)):
            return []
        sent, ended = await self._database.write(resend)
        for row in sent:
            _LOG.warning("job %s of %s had no message any more and was sent again", row["job_id"], row["algo_id"])
            self._queues.notify(naming.queue(row["algo_id"]))
        return [self._finished(row) for row in ended]

    def _send_again(self, connection: sqlite3.Connection, row: Any) -> None:
        """A message in the place of the one that is lost, whose id makes this one's deduplication id."""
        outgoing = OutgoingMessage(body=row["body"], group_id=row["job_id"], dedup_id=row["message_id"])
        message_id, _ = self._queues.send_in(connection, naming.queue(row["algo_id"]), outgoing)
        sql = "UPDATE jobs SET message_id = ?, sends = sends + 1 WHERE job_id = ?"
        connection.execute(sql, (message_id, row["job_id"]))

    async def unseen(self, client_id: str, *, after: str | None, limit: int) -> list[Job]:
        """Finished jobs the client has not received, oldest first, from behind the job ``after``."""
        rows = self._database.read(
            "SELECT * FROM jobs WHERE client_id = ? AND seen = 0 AND finish_seq >"
            " coalesce((SELECT finish_seq FROM jobs WHERE job_id = ?), 0) ORDER BY finish_seq LIMIT ?",
            client_id,
            after,
            limit,
        )
        return list(map(read_job, rows))

    async def mark_seen(self, ends: Sequence[JobEnd]) -> None:
        """The client has these."""
        sql = "UPDATE jobs SET seen = 1 WHERE job_id = ? AND message_id = ? AND finish_seq IS NOT NULL"
        await self._database.write(lambda c: c.executemany(sql, ends) and None, durable=False)

    async def counts(self) -> list[JobCount]:
        """Jobs by algorithm and state."""
        rows = self._database.read("SELECT algo_id, status, COUNT(*) AS n FROM jobs GROUP BY algo_id, status")
        return [JobCount(row["algo_id"], JobStatus(row["status"]), row["n"]) for row in rows]

    def _finished(self, row: sqlite3.Row) -> Job:
        started = row["started_at"] if row["started_at"] is not None else row["created_at"]
        self.on_finish(row["algo_id"], JobStatus(row["status"]), max(0.0, row["finished_at"] - started))
        return read_job(row)


def _find(connection: sqlite3.Connection, job_id: str) -> Any:
    return connection.execute("SELECT * FROM jobs WHERE job_id = ?", (job_id,)).fetchone()


def _same(row: Any, fingerprint: str) -> Accepted:
    if row["fingerprint"] != fingerprint:
        raise Conflict(
            "JOB_ID_TAKEN",
            f"job_id '{row['job_id']}' belongs to a job with another body; choose another job_id",
        )
    status = JobStatus(row["status"])
    return Accepted(row["job_id"], row["client_id"], status, row["message_id"], created=False)


def _cancelled(row: Any, job_id: str) -> Any:
    """The row of a job that was cancelled before."""
    if row is None:
        raise NotFound("UNKNOWN_JOB", f"no job '{job_id}'")
    if row["status"] != JobStatus.CANCELLED:
        raise not_cancellable(job_id, JobStatus(row["status"]))
    return row


def _apply(connection: sqlite3.Connection, report: Report, now: float) -> Any:
    """The finished row, or None. A job of another algorithm, or one that has ended, is left alone."""
    error = report.error.model_dump_json() if report.error else None
    key = (report.job_id, report.algo_id)
    if report.status is JobStatus.RUNNING:
        connection.execute(
            "UPDATE jobs SET status = 'RUNNING', started_at = coalesce(started_at, ?, ?),"
            " progress = coalesce(?, progress), attempts = max(attempts, ?), error = coalesce(?, error)"
            " WHERE job_id = ? AND algo_id = ? AND status IN ('QUEUED', 'RUNNING')",
            (report.started_at, now, report.progress, report.attempt or 1, error, *key),
        )
        return None
    done = 1.0 if report.status is JobStatus.SUCCEEDED else None
    to_store = StoreStatus.PENDING.value if report.status is JobStatus.SUCCEEDED else None
    return connection.execute(
        "UPDATE jobs SET status = ?, finished_at = ?, started_at = coalesce(started_at, ?), error = ?, result = ?,"
        " progress = coalesce(?, progress), attempts = max(attempts, ?),"
        " stored = CASE WHEN store THEN ? END, store_at = CASE WHEN store THEN ? END,"
        " sent = CASE WHEN send_to IS NOT NULL THEN 'pending' END, send_at = ?,"
        " finish_seq = (SELECT coalesce(max(finish_seq), 0) + 1 FROM jobs WHERE finish_seq IS NOT NULL)"
        " WHERE job_id = ? AND algo_id = ? AND status IN ('QUEUED', 'RUNNING') RETURNING *",
        (
            report.status.value,
            now,
            report.started_at,
            error,
            report.result.model_dump_json() if report.result else None,
            done,
            report.attempt or 1,
            to_store,
            now,
            now,
            *key,
        ),
    ).fetchone()


def read_job(row: Any) -> Job:
    return Job(
        job_id=row["job_id"],
        algo_id=row["algo_id"],
        client_id=row["client_id"],
        message_id=row["message_id"],
        message=row["body"],
        sent_pacs=row["sent_pacs"],
        status=JobStatus(row["status"]),
        created_at=to_iso(row["created_at"]),
        started_at=to_iso(row["started_at"]) if row["started_at"] is not None else None,
        finished_at=to_iso(row["finished_at"]) if row["finished_at"] is not None else None,
        attempts=row["attempts"],
        progress=row["progress"],
        error=JobError.model_validate_json(row["error"]) if row["error"] else None,
        result=JobResult.model_validate_json(row["result"]) if row["result"] else None,
        stored=_way_of(row["stored"], row["store_attempts"], row["store_error"]),
        send_to=row["send_to"],
        sent=_way_of(row["sent"], row["send_attempts"], row["send_error"]),
    )


def _way_of(status: str | None, attempts: int, error: str | None) -> Stored | None:
    if status is None:
        return None
    stated = JobError.model_validate_json(error) if error else None
    return Stored(status=StoreStatus(status), attempts=attempts, error=stated)
