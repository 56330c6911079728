"""How much waits for an algorithm, and how its jobs have gone: for people who wait, and for who looks after it.

Clauses, each a test in ``testing/``:

- W1 ``positions`` numbers the jobs of an algorithm that no worker has, in the order they come, 1 first; one that a
  worker has, or that has ended, has none
- W2 ``run_times`` are those of the newest jobs that succeeded, of several algorithms at once
- W3 ``ends`` are the newest first, none of before ``since``, and say from when on they are all
- W4 ``backlog`` tells what waits, what workers have, and since when the oldest waits
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from medical_image_processing.model.job import Job, JobStatus

RECENT = 20
"""How many of an algorithm's newest jobs tell how long the next takes."""

MOST_PLACES = 10_000
"""Further behind no job is numbered: people ask again and again, and each look counts all that come before."""


class End(NamedTuple):
    """How a job ended: epoch seconds; ``started_at`` is None where no worker began it."""

    status: JobStatus
    started_at: float | None
    finished_at: float


@dataclass(frozen=True)
class Ends:
    """Some ends, newest first; from ``complete_since`` (epoch seconds) on none is missing."""

    ends: tuple[End, ...]
    complete_since: float


@dataclass(frozen=True)
class Backlog:
    """Jobs that no worker has, jobs that workers have, and when the oldest that waits was sent (epoch seconds)."""

    waiting: int
    held: int
    oldest_at: float | None


class Workload(Protocol):
    """The job records and queues, looked at."""

    async def positions(self, jobs: Sequence[Job]) -> dict[str, int]:
        """Job id → its place; those further behind than :data:`MOST_PLACES` are left out."""

    async def run_times(self, algo_ids: Sequence[str]) -> dict[str, list[float]]:
        """Algorithm → seconds that its newest jobs took, at most :data:`RECENT`; left out where there are none."""

    async def ends(self, algo_id: str, *, since: float, limit: int) -> Ends:
        """At most ``limit`` ends, of ``since`` (epoch seconds) or later."""

    async def backlog(self, algo_id: str) -> Backlog:
        """As it is now; on AWS, as SQS counts: within a minute of the last change."""
