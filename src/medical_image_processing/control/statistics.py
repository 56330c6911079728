"""How an algorithm does: what waits, what ended when and how, and how long jobs took."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medical_image_processing.model.job import JobStatus
from medical_image_processing.ports.resources import WorkerCounts
from medical_image_processing.ports.workload import Backlog, End, Ends, Workload

MOST_HOURS = 168
MOST_ENDS = 10_000
"""Of so many ends at most a look is made; of more, the newest."""
_MOST_BUCKETS = 60
_BUCKETS_S = (60, 300, 900, 1800, 3600, 7200, 10_800)


@dataclass(frozen=True)
class Durations:
    """Seconds from start to end of ``count`` jobs that succeeded."""

    count: int
    median_s: float
    p95_s: float


@dataclass(frozen=True)
class Bucket:
    """Jobs that ended from ``at`` (epoch seconds) on, until the next bucket; ``durations`` None without any."""

    at: float
    succeeded: int
    failed: int
    cancelled: int
    durations: Durations | None = None


@dataclass(frozen=True)
class Statistics:
    """``oldest_wait_s``: for how long the job that is next has waited. ``workers``: how many there are to be.

    ``complete_since`` (epoch seconds): what ended before that may be missing. ``durations``: None without any.
    """

    backlog: Backlog
    workers: int
    oldest_wait_s: float | None
    bucket_s: int
    buckets: tuple[Bucket, ...]
    complete_since: float
    durations: Durations | None


class Statistician:
    """Asks the ports. ``clock`` tells seconds since the epoch."""

    def __init__(self, workload: Workload, workers: WorkerCounts, *, clock: Callable[[], float]) -> None:
        self._workload = workload
        self._workers = workers
        self._clock = clock

    async def look_at(self, algo_id: str, *, hours: int) -> Statistics:
        """Of the last ``hours``, 1 to :data:`MOST_HOURS`."""
        now = self._clock()
        bucket_s = next(size for size in _BUCKETS_S if hours * 3600 <= size * _MOST_BUCKETS)
        # Whole buckets, so that a plot that is drawn again doesn't flicker.
        until = math.floor(now / bucket_s + 1) * bucket_s
        since = until - hours * 3600
        backlog = await self._workload.backlog(algo_id)
        ends = await self._workload.ends(algo_id, since=since, limit=MOST_ENDS)
        counts = await self._workers.worker_counts([algo_id])
        return Statistics(
            backlog=backlog,
            workers=counts.get(algo_id, 0),
            oldest_wait_s=None if backlog.oldest_at is None else max(0.0, now - backlog.oldest_at),
            bucket_s=bucket_s,
            buckets=fill_buckets(ends, since=since, until=until, bucket_s=bucket_s),
            complete_since=ends.complete_since,
            durations=measure_durations(ends.ends),
        )


def fill_buckets(ends: Ends, *, since: float, until: float, bucket_s: int) -> tuple[Bucket, ...]:
    """Buckets from ``since`` to ``until``, the empty ones too. A clock that was set back puts ends in the last."""
    places = round((until - since) / bucket_s)
    ended: list[list[End]] = [[] for _ in range(places)]
    for end in ends.ends:
        if end.finished_at >= since:
            ended[min(places - 1, int((end.finished_at - since) // bucket_s))].append(end)
    return tuple(_bucket(since + number * bucket_s, some) for number, some in enumerate(ended))


def _bucket(at: float, ends: Sequence[End]) -> Bucket:
    counts = Counter(end.status for end in ends)
    return Bucket(
        at,
        succeeded=counts[JobStatus.SUCCEEDED],
        failed=counts[JobStatus.FAILED],
        cancelled=counts[JobStatus.CANCELLED],
        durations=measure_durations(ends),
    )


def measure_durations(ends: Sequence[End]) -> Durations | None:
    """Median and 95th percentile by nearest rank: each is what some job took."""
    took = sorted(
        max(0.0, end.finished_at - end.started_at)
        for end in ends
        if end.status is JobStatus.SUCCEEDED and end.started_at is not None
    )
    if not took:
        return None
    median_s, p95_s = (took[math.ceil(share * len(took)) - 1] for share in (0.5, 0.95))
    return Durations(len(took), median_s, p95_s)
