"""How much waits, and how jobs have gone, out of the jobs table and SQS's counts: ports.workload.

SQS tells how many messages workers have and not which. They take the oldest first, so the place of a job is its
place among the open ones, less those: right but for jobs that were sent again, which stand where they first stood,
and while a worker has one that was cancelled, which is open no more and still counts as had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from medical_image_processing import naming
from medical_image_processing.engines.aws.job_items import is_open, taken_in_at
from medical_image_processing.engines.aws.queues import SqsQueues
from medical_image_processing.engines.aws.tables import Item, Table
from medical_image_processing.errors import NotFound
from medical_image_processing.model.job import Job, JobStatus
from medical_image_processing.ports.workload import MOST_PLACES, RECENT, Backlog, End, Ends

MOST_ENDS = 500
"""Of an algorithm's newest jobs so many are read for their ends: each is a read of the table."""
_RUN_TIMES_FOR_S = 60.0
_OPEN = "#open_algo = :algo_id"
_OF_ALGORITHM = "#algo_id = :algo_id"


class DynamoWorkload:
    """Implements :class:`ports.workload.Workload`. Run times are at most a minute old: pages of jobs ask often."""

    def __init__(self, table: Table, queues: SqsQueues, *, clock: Callable[[], float]) -> None:
        self._table = table
        self._queues = queues
        self._clock = clock
        self._times: dict[str, tuple[float, list[float]]] = {}

    async def positions(self, jobs: Sequence[Job]) -> dict[str, int]:
        """Job id → its place among the open jobs that no worker has."""
        queued: dict[str, set[str]] = {}
        for job in jobs:
            if job.status is JobStatus.QUEUED:
                queued.setdefault(job.algo_id, set()).add(job.job_id)
        places = await asyncio.gather(*(self._places(algo_id, ids) for algo_id, ids in queued.items()))
        return {job_id: place for of_algorithm in places for job_id, place in of_algorithm.items()}

    async def _places(self, algo_id: str, job_ids: set[str]) -> dict[str, int]:
        keys, held = await asyncio.gather(
            self._table.query(_OPEN, {"algo_id": algo_id}, index="open", limit=MOST_PLACES), self._held(algo_id)
        )
        numbered = {str(key["job_id"]): number - held for number, key in enumerate(keys, start=1)}
        return {job_id: numbered[job_id] for job_id in job_ids if numbered.get(job_id, 0) > 0}

    async def run_times(self, algo_ids: Sequence[str]) -> dict[str, list[float]]:
        """Algorithm → seconds that its newest jobs took."""
        asked = sorted(set(algo_ids))
        times = await asyncio.gather(*(self._run_times(algo_id) for algo_id in asked))
        return {algo_id: seconds for algo_id, seconds in zip(asked, times, strict=True) if seconds}

    async def _run_times(self, algo_id: str) -> list[float]:
        now = self._clock()
        read_at, times = self._times.get(algo_id, (float("-inf"), []))
        if now - read_at < _RUN_TIMES_FOR_S:
            return times
        first_open = await self._table.query(_OPEN, {"algo_id": algo_id}, index="open", limit=1)
        # All that came before the oldest open job have ended, however many wait behind it.
        where = _OF_ALGORITHM + (" AND #seq < :below" if first_open else "")
        values = {"algo_id": algo_id, "below": first_open[0]["seq"] if first_open else None}
        keys = await self._table.query(where, values, index="by_algorithm", forward=False, limit=RECENT)
        ends = await self._ends_of(keys)
        times = [
            end.finished_at - end.started_at
            for end in ends
            if end.status is JobStatus.SUCCEEDED and end.started_at is not None
        ]
        self._times[algo_id] = now, times
        return times

    async def ends(self, algo_id: str, *, since: float, limit: int) -> Ends:
        """Ends among the newest :data:`MOST_ENDS` jobs; an older one that ended since may be missing."""
        most = min(limit, MOST_ENDS)
        keys = await self._table.query(
            _OF_ALGORITHM, {"algo_id": algo_id}, index="by_algorithm", forward=False, limit=most
        )
        known = [end for end in await self._ends_of(keys) if end.finished_at >= since]
        ends = sorted(known, key=_finished_at, reverse=True)
        is_all = len(keys) < most
        return Ends(tuple(ends), since if is_all else max(since, taken_in_at(str(keys[-1]["seq"]))))

    async def backlog(self, algo_id: str) -> Backlog:
        """Open jobs by the table, and how many of them workers have by SQS."""
        held, still_open = await asyncio.gather(
            self._held(algo_id), self._table.count(_OPEN, {"algo_id": algo_id}, index="open")
        )
        held = min(held, still_open)
        if held == still_open:
            return Backlog(0, held, None)
        keys = await self._table.query(_OPEN, {"algo_id": algo_id}, index="open", limit=min(held, MOST_PLACES) + 1)
        oldest = taken_in_at(str(keys[-1]["seq"])) if keys else None
        return Backlog(still_open - held, held, oldest)

    async def _ends_of(self, keys: Iterable[Item]) -> list[End]:
        """Of those that have ended. Not their results, which may be large."""
        jobs = ({"job_id": key["job_id"]} for key in keys)
        return [
            End(JobStatus(item["status"]), item.get("started"), item["finished"])
            for item in await self._table.get_all(jobs, only=("status", "started", "finished"))
            if not is_open(item) and "finished" in item
        ]

    async def _held(self, algo_id: str) -> int:
        try:
            return await self._queues.in_flight(naming.queue(algo_id))
        except NotFound:
            return 0


def _finished_at(end: End) -> float:
    return end.finished_at
