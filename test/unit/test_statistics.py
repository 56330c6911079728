"""Statistics of an algorithm, out of how its jobs ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medical_image_processing.control.statistics import (
    MOST_HOURS,
    Durations,
    Statistician,
    fill_buckets,
    measure_durations,
)
from medical_image_processing.model.job import Job, JobStatus
from medical_image_processing.ports.workload import Backlog, End, Ends

NOW = 1_700_000_123.0
ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class Told:
    """What some ends and a backlog look like (ports.workload, ports.resources.WorkerCounts)."""

    def __init__(self, ends: Sequence[End], backlog: Backlog) -> None:
        self._ends = ends
        self._backlog = backlog
        self.since = 0.0

    async def positions(self, jobs: Sequence[Job]) -> dict[str, int]:
        return {}

    async def run_times(self, algo_ids: Sequence[str]) -> dict[str, list[float]]:
        return {}

    async def ends(self, algo_id: str, *, since: float, limit: int) -> Ends:
        self.since = since
        return Ends(tuple(end for end in self._ends if end.finished_at >= since)[:limit], since)

    async def backlog(self, algo_id: str) -> Backlog:
        return self._backlog

    async def worker_counts(self, algo_ids: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(algo_ids, 3)


@pytest.mark.parametrize(("hours", "bucket_s"), [(1, 60), (2, 300), (24, 1800), (48, 3600), (MOST_HOURS, 10_800)])
def test_there_are_enough_buckets_for_a_plot_and_not_too_many(hours: int, bucket_s: int) -> None:
    told = Told([End(JobStatus.FAILED, None, NOW - 1)], Backlog(4, 2, NOW - 90))
    found = asyncio.run(Statistician(told, told, clock=lambda: NOW).look_at("liver", hours=hours))
    assert found.bucket_s == bucket_s and 10 < len(found.buckets) <= 60
    first, last = found.buckets[0].at, found.buckets[-1].at
    assert first == told.since and first % bucket_s == 0 and last <= NOW < last + bucket_s
    assert (found.workers, found.oldest_wait_s, found.durations) == (3, 90, None)
    assert sum(bucket.failed for bucket in found.buckets) == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ENDED), st.floats(0, 3600)), max_size=50))
def test_each_end_is_counted_once_where_it_was(drawn: list[tuple[JobStatus, float]]) -> None:
    ends = Ends(tuple(End(status, None, 7200 + at) for status, at in drawn), 7200)
    buckets = fill_buckets(ends, since=7200, until=10_800, bucket_s=60)
    assert len(buckets) == 60
    for name, status in zip(("succeeded", "failed", "cancelled"), ENDED, strict=True):
        assert sum(getattr(bucket, name) for bucket in buckets) == sum(one == status for one, _ in drawn)
    for status, at in drawn:
        bucket = buckets[min(59, int(at // 60))]
        assert bucket.at <= 7200 + at and getattr(bucket, status.value.lower()) >= 1


def test_each_bucket_has_the_durations_of_what_ended_in_it() -> None:
    ends = [End(JobStatus.SUCCEEDED, 7200.0, 7200.0 + took) for took in (1, 2, 30, 61)]
    first, second, third = fill_buckets(Ends(tuple(ends), 7200), since=7200, until=7380, bucket_s=60)
    assert (first.durations, second.durations, third.durations) == (
        Durations(3, 2, 30),
        Durations(1, 61, 61),
        None,
    )


def test_durations_are_those_of_jobs_that_succeeded_by_nearest_rank() -> None:
    took = [End(JobStatus.SUCCEEDED, 10.0, 10.0 + seconds) for seconds in range(1, 101)]
    other = [End(JobStatus.FAILED, 0.0, 9999.0), End(JobStatus.SUCCEEDED, None, 9999.0)]
    measured = measure_durations([*took, *other])
    assert measured is not None and (measured.count, measured.median_s, measured.p95_s) == (100, 50, 95)
    assert measure_durations(other) is None
    backwards = measure_durations([End(JobStatus.SUCCEEDED, 10.0, 9.0)])
    assert backwards is not None and backwards.median_s == 0, "a worker's clock may be ahead of ours"
