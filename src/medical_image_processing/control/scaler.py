"""How many workers an algorithm has: between its record's least and most, by the jobs that are open.

Nothing is remembered from one look to the next. What is needed stands in the job records and on the service,
so a Lambda that wakes each minute scales as a loop does. What the policy's figures do to waiting time and cost is
simulated with this very function in ``bench/simulate_scaling.py``; docs/scaling.md has the result.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from medical_image_processing.errors import MipError
from medical_image_processing.model.algorithm import Algorithm, AlgorithmStatus
from medical_image_processing.ports.jobs import Jobs
from medical_image_processing.ports.registry import Registry
from medical_image_processing.ports.resources import Resources

_LOG = logging.getLogger(__name__)
_PAGE = 100
_AT_ONCE = 10


@dataclass(frozen=True)
class ScalingPolicy:
    """What waiting is worth. The defaults are the simulation's choice."""

    jobs_per_worker: int = 2
    """Workers are added until none has more open jobs than this, the one it runs included."""
    busy_share: float = 0.3
    """Workers go only while fewer than this part of them can have a job."""
    scale_in_share: float = 0.5
    """The part of the workers that may go in one look; one always may."""
    idle_s: float = 120.0
    """How long there must have been no open job before all beyond ``least_workers`` go, the last one too."""


DEFAULT_POLICY = ScalingPolicy()


def wanted_workers(
    least: int,
    most: int,
    *,
    backlog: int,
    workers: int,
    idle_s: float = 0.0,
    policy: ScalingPolicy = DEFAULT_POLICY,
) -> int:
    """The count for a service that has ``workers`` now and ``backlog`` open jobs, those being run included.

    Workers are added when each has more than the policy's jobs, and go only when a good part of them surely has
    none: between the two lies what keeps a steady load from swinging. As many stay as may hold a job. ``idle_s``
    is for how long there has been no open job, where that is known.
    """
    if backlog == 0 and idle_s >= policy.idle_s:
        return least
    needed = math.ceil(backlog / policy.jobs_per_worker)
    maybe_busy = min(workers, math.ceil(backlog / policy.busy_share))
    slowest = workers - max(1, int(workers * policy.scale_in_share))
    last = min(workers, 1)
    return min(max(needed, maybe_busy, slowest, last, least), most)


@dataclass(frozen=True)
class Scaling:
    """A service that was moved."""

    algo_id: str
    before: int
    after: int
    backlog: int


class Scaler:
    """Moves the services of ACTIVE algorithms inside their bounds.

    A look costs nothing for algorithms of a fixed count, one count of open jobs for others, and one more read
    while one has workers to lose. ``clock`` tells seconds since the epoch.
    """

    def __init__(
        self,
        registry: Registry,
        resources: Resources,
        jobs: Jobs,
        *,
        policy: ScalingPolicy = DEFAULT_POLICY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._resources = resources
        self._jobs = jobs
        self._policy = policy
        self._clock = clock

    async def scale_all(self) -> list[Scaling]:
        """Look at each algorithm once; what was moved. One that can't be is passed over until the next look."""
        moved: list[Scaling] = []
        cursor: str | None = None
        while True:
            page = await self._registry.page(status=AlgorithmStatus.ACTIVE, limit=_PAGE, cursor=cursor)
            scaled = [record for record in page.items if record.is_scaled]
            for start in range(0, len(scaled), _AT_ONCE):
                moved += await self._scale_some(scaled[start : start + _AT_ONCE])
            if (cursor := page.next_cursor) is None:
                return moved

    async def _scale_some(self, records: Sequence[Algorithm]) -> list[Scaling]:
        try:
            counts = await self._resources.worker_counts([record.algorithm_id for record in records])
        except MipError as error:
            _LOG.warning("%d algorithms keep their workers until the next look: %s", len(records), error)
            return []
        # One that has no service yet is the provisioner's.
        there = [record for record in records if record.algorithm_id in counts]
        looks = (self._scale(record, counts[record.algorithm_id]) for record in there)
        return [scaling for scaling in await asyncio.gather(*looks) if scaling is not None]

    async def _scale(self, record: Algorithm, workers: int) -> Scaling | None:
        try:
            return await self._move(record, workers)
        except MipError as error:
            _LOG.warning("%s keeps its workers until the next look: %s", record.algorithm_id, error)
            return None

    async def _move(self, record: Algorithm, workers: int) -> Scaling | None:
        algo_id = record.algorithm_id
        backlog = await self._jobs.open_count(algo_id)
        idle_s = 0.0 if backlog or workers <= record.least_workers else await self._idle_s(record)
        wanted = wanted_workers(
            record.least_workers,
            record.most_workers,
            backlog=backlog,
            workers=workers,
            idle_s=idle_s,
            policy=self._policy,
        )
        if wanted == workers or not await self._is_newest(record):
            return None
        await self._resources.put_service(
            algo_id, task_fingerprint=record.task_fingerprint(), desired_count=wanted
        )
        _LOG.info("%s has %d open jobs: from %d workers to %d", algo_id, backlog, workers, wanted)
        return Scaling(algo_id, workers, wanted, backlog)

    async def _idle_s(self, record: Algorithm) -> float:
        """Since the newest job ended, or since the record last changed. An older job may have ended after it."""
        since = [record.updated_at]
        for job in (await self._jobs.page(algo_id=record.algorithm_id, limit=1)).items:
            since.append(job.finished_at or job.created_at)
        return self._clock() - max(datetime.fromisoformat(moment).timestamp() for moment in since)

    async def _is_newest(self, record: Algorithm) -> bool:
        """Whether an admin has not changed it since: a service that was just shut off must not come back."""
        now = await self._registry.get(record.algorithm_id)
        return now is not None and now.revision == record.revision
