"""The job records.

Clauses, each a test in ``testing/``:

- B1 when ``accept`` has returned, the job is on record and its message is, or will be, on the queue (law J1)
- B2 the same job_id with the same fingerprint is accepted once; with another it is Conflict ``JOB_ID_TAKEN``
  (law J3)
- B3 ``apply`` moves a job only forward, and finishes it at most once, whatever is reported how often (law J2)
- B4 a finished job is among its client's ``unseen`` ones, oldest first, until ``mark_seen`` of that end (law J7)
- B5 ``fail_open`` finishes every open job of an algorithm and takes their messages off the queue (law P4)
- B6 ``replay`` reopens a dead-lettered job, and only such a one, as a new attempt (law J5)
- B7 ``resend_lost`` sends an open job again once its message has been gone for a while, unless its report may
  still wait on the results queue; the MAX_RECEIVES-th time a message is lost it ends the job instead (laws J1, J5)
- B8 a reopened job's next end is another end: marking the earlier one seen does not touch it (law J7)
- B9 ``cancel`` ends a QUEUED job, and only such a one, CANCELLED, and who did it is on record (law A4); what comes
  of its message, where a worker has it already or the engine can't take it back, changes nothing any more (J1, J2)
- B10 a job tells its owner for good what was asked for, as it was sent; pseudonyms that a worker gets in its place
  are never told, nor is a worker told what they stand for
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from medical_image_processing.errors import Conflict
from medical_image_processing.model.job import Job, JobEnd, JobError, JobMessage, JobResult, JobStatus
from medical_image_processing.model.page import Page

DEAD_LETTERED = "DEAD_LETTERED"
"""The error code of a job that was given up, mostly with its message in the dead-letter queue; can be replayed."""
ALGORITHM_DELETED = "ALGORITHM_DELETED"
"""The error code of a job whose algorithm was removed while it was open."""
ENDED_BY_PLATFORM = frozenset({DEAD_LETTERED, ALGORITHM_DELETED})
"""What no worker's report ended: there is no message that comes again until the push has come about."""


@dataclass(frozen=True)
class Accepted:
    """The job as recorded, its message's id, and whether this call made it."""

    job_id: str
    client_id: str
    status: JobStatus
    message_id: str
    created: bool


@dataclass(frozen=True)
class Report:
    """What became known of a job: from its worker, or from the platform itself.

    ``error`` on a RUNNING report is the trouble of the last attempt; it stays on the record until the end.
    """

    job_id: str
    algo_id: str
    status: JobStatus
    progress: float | None = None
    attempt: int | None = None
    started_at: float | None = None
    error: JobError | None = None
    result: JobResult | None = None


def not_cancellable(job_id: str, status: JobStatus) -> Conflict:
    """What :meth:`Jobs.cancel` raises of a job that is ``status``."""
    return Conflict(
        "NOT_CANCELLABLE",
        f"only a job that waits can be cancelled; '{job_id}' is {status}",
        details={"status": status},
    )


class Jobs(Protocol):
    """Jobs by id."""

    async def accept(self, message: JobMessage, fingerprint: str) -> Accepted:
        """Record the job and enqueue its message, both or neither."""

    async def find(self, job_id: str, fingerprint: str) -> Accepted | None:
        """The job if it was accepted before, None if it is new; Conflict as :meth:`accept`."""

    async def get(self, job_id: str) -> Job | None:
        """The record, or None."""

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

    async def apply(self, reports: Sequence[Report]) -> list[Job]:
        """Apply reports in order; the jobs that this call finished. Unknown jobs are passed over."""

    async def open_count(self, algo_id: str) -> int:
        """Jobs that are QUEUED or RUNNING."""

    async def fail_open(self, algo_id: str, error: JobError) -> list[Job]:
        """End all open jobs of an algorithm, and return them."""

    async def replay(self, job_id: str, *, actor: str) -> str:
        """Send a dead-lettered job again; the new message's id. NotFound, Conflict ``NOT_REPLAYABLE``."""

    async def cancel(self, job_id: str, *, actor: str) -> Job:
        """The job, CANCELLED, now or before. NotFound; Conflict ``NOT_CANCELLABLE`` once it runs or has ended."""

    async def resend_lost(self, *, after_s: float, given_up: JobError) -> list[Job]:
        """Send open jobs again that have had no message for ``after_s``; those ended with ``given_up`` instead.

        A call may look at a part of the jobs only; call it again and again.
        """

    async def unseen(self, client_id: str, *, after: str | None, limit: int) -> list[Job]:
        """Finished jobs the client has not received, oldest first, from behind the job ``after``."""

    async def mark_seen(self, ends: Sequence[JobEnd]) -> None:
        """The client has these."""
