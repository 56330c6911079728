"""How many workers an algorithm gets: bounds, no worker with a job taken away, no swinging, back from nothing."""

import asyncio
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hypothesis import assume, given
from hypothesis import strategies as st

from medical_image_processing.control.scaler import DEFAULT_POLICY, Scaler, Scaling, ScalingPolicy, wanted_workers
from medical_image_processing.errors import Unavailable
from medical_image_processing.model.algorithm import Algorithm, AlgorithmStatus
from medical_image_processing.model.job import Job, JobStatus
from medical_image_processing.model.page import Page

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

policies = st.builds(
    ScalingPolicy,
    jobs_per_worker=st.integers(1, 20),
    busy_share=st.floats(0.1, 1.0),
    scale_in_share=st.floats(0.0, 1.0),
    idle_s=st.floats(1.0, 1e4),
)
bounds = st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted)
backlogs = st.integers(0, 500)
counts = st.integers(0, 60)
ages = st.floats(0.0, 1e5)


@given(bounds, backlogs, counts, ages, policies)
def test_the_bounds_are_kept(
    bound: list[int], backlog: int, workers: int, idle_s: float, policy: ScalingPolicy
) -> None:
    least, most = bound
    wanted = wanted_workers(least, most, backlog=backlog, workers=workers, idle_s=idle_s, policy=policy)
    assert least <= wanted <= most


@given(bounds, backlogs, counts, policies)
def test_as_many_workers_stay_as_may_hold_a_job(
    bound: list[int], backlog: int, workers: int, policy: ScalingPolicy
) -> None:
    least, most = bound
    wanted = wanted_workers(least, most, backlog=backlog, workers=workers, policy=policy)
    assert wanted >= min(workers, backlog, most)


@given(bounds, backlogs, st.integers(0, 100), counts, ages, policies)
def test_more_jobs_never_mean_fewer_workers(
    bound: list[int], backlog: int, more: int, workers: int, idle_s: float, policy: ScalingPolicy
) -> None:
    few, many = (
        wanted_workers(*bound, backlog=count, workers=workers, idle_s=idle_s, policy=policy)
        for count in (backlog, backlog + more)
    )
    assert few <= many


@given(bounds, backlogs, counts, policies)
def test_a_constant_load_is_met_without_swinging(
    bound: list[int], backlog: int, workers: int, policy: ScalingPolicy
) -> None:
    seen = [workers]
    for _ in range(80):
        seen.append(wanted_workers(*bound, backlog=backlog, workers=seen[-1], policy=policy))
    steps = [after - before for before, after in itertools.pairwise(seen)]
    # Into the bounds it may have to go first; from then on in one direction only, and then it stays.
    assert all(step >= 0 for step in steps[1:]) or all(step <= 0 for step in steps[1:])
    assert steps[-1] == 0


@given(backlogs, counts, ages, policies)
def test_the_last_worker_goes_once_it_was_idle_for_long_enough(
    backlog: int, workers: int, idle_s: float, policy: ScalingPolicy
) -> None:
    assume(workers > 0)
    wanted = wanted_workers(0, 60, backlog=backlog, workers=workers, idle_s=idle_s, policy=policy)
    assert (wanted == 0) == (backlog == 0 and idle_s >= policy.idle_s)


@given(st.integers(1, 500), policies)
def test_a_job_that_waits_brings_workers_back(backlog: int, policy: ScalingPolicy) -> None:
    wanted = wanted_workers(0, 500, backlog=backlog, workers=0, policy=policy)
    assert wanted * policy.jobs_per_worker >= backlog


def test_the_default_adds_for_more_than_two_jobs_a_worker_and_takes_away_by_half() -> None:
    assert wanted_workers(0, 20, backlog=9, workers=4) == 5
    assert wanted_workers(0, 20, backlog=8, workers=4) == 4
    assert wanted_workers(0, 20, backlog=1, workers=4) == 4
    assert wanted_workers(0, 20, backlog=1, workers=8) == 4
    assert wanted_workers(0, 20, backlog=0, workers=8) == 4
    assert wanted_workers(0, 20, backlog=0, workers=1, idle_s=60) == 1
    assert wanted_workers(0, 20, backlog=0, workers=8, idle_s=120) == 0


@dataclass
class World:
    """The ports as the scaler uses them, counting what it reads."""

    records: dict[str, Algorithm] = field(default_factory=dict)
    workers: dict[str, int] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)
    newest: dict[str, Job] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    reads: list[str] = field(default_factory=list)

    def add(self, algo_id: str, *, workers: int | None, jobs: int = 0, **changes: object) -> None:
        self.records[algo_id] = record(algo_id, **changes)
        self.open[algo_id] = jobs
        if workers is not None:
            self.workers[algo_id] = workers

    def look(self, *, now: datetime = NOON, policy: ScalingPolicy = DEFAULT_POLICY) -> list[Scaling]:
        # One class for three ports, so that one list tells the order of their calls.
        scaler = Scaler(Records(self), Services(self), Jobs(self), policy=policy, clock=now.timestamp)  # type: ignore[arg-type]
        return asyncio.run(scaler.scale_all())


class Records:
    def __init__(self, world: World) -> None:
        self._world = world

    async def get(self, algo_id: str) -> Algorithm | None:
        return self._world.records.get(algo_id)

    async def page(
        self, *, status: AlgorithmStatus, limit: int = 100, cursor: str | None = None
    ) -> Page[Algorithm]:
        found = [r for r in self._world.records.values() if r.status is status]
        start = int(cursor or 0)
        rest = str(start + limit) if len(found) > start + limit else None
        return Page(tuple(found[start : start + limit]), rest)


class Services:
    def __init__(self, world: World) -> None:
        self._world = world

    async def worker_counts(self, algo_ids: list[str]) -> dict[str, int]:
        self._world.reads.append(f"worker_counts of {len(algo_ids)}")
        return {name: self._world.workers[name] for name in algo_ids if name in self._world.workers}

    async def put_service(self, algo_id: str, *, task_fingerprint: str, desired_count: int) -> None:
        if algo_id in self._world.broken:
            raise Unavailable("ECS_UNAVAILABLE", "ECS does not answer")
        assert task_fingerprint == self._world.records[algo_id].task_fingerprint()
        self._world.workers[algo_id] = desired_count


class Jobs:
    def __init__(self, world: World) -> None:
        self._world = world

    async def open_count(self, algo_id: str) -> int:
        self._world.reads.append(f"open_count {algo_id}")
        return self._world.open[algo_id]

    async def page(self, *, algo_id: str, limit: int) -> Page[Job]:
        self._world.reads.append(f"newest {algo_id}")
        assert limit == 1
        return Page(tuple(job for name, job in self._world.newest.items() if name == algo_id), None)


def record(algo_id: str, **changes: object) -> Algorithm:
    fields = {
        "algorithm_id": algo_id,
        "image_uri": "registry.local/algos:a",
        "cpu": 1024,
        "memory": 2048,
        "command": ("/app/worker.sh",),
        "min_count": 0,
        "max_count": 20,
        "status": AlgorithmStatus.ACTIVE,
        "revision": 1,
        "created_at": at(-3600),
        "updated_at": at(-3600),
    }
    return Algorithm.model_validate({**fields, **changes})


def at(seconds: float) -> str:
    return datetime.fromtimestamp(NOON.timestamp() + seconds, UTC).isoformat().replace("+00:00", "Z")


def ended(algo_id: str, seconds: float) -> Job:
    return Job(
        job_id="j",
        algo_id=algo_id,
        client_id="c",
        status=JobStatus.SUCCEEDED,
        created_at=at(-3000),
        finished_at=at(seconds),
    )


def test_services_move_with_their_jobs_and_nothing_is_read_for_fixed_counts() -> None:
    world = World()
    world.add("busy", workers=1, jobs=9)
    world.add("fixed", workers=1, jobs=500, min_count=None, max_count=None)
    world.add("off", workers=0, jobs=3, desired_count=0)
    world.add("pending", workers=0, jobs=3, status=AlgorithmStatus.PENDING)
    world.add("unmade", workers=None, jobs=3)
    world.add("waking", workers=0, jobs=1)
    assert world.look() == [Scaling("busy", 1, 5, 9), Scaling("waking", 0, 1, 1)]
    assert world.workers == {"busy": 5, "fixed": 1, "off": 0, "pending": 0, "waking": 1}
    assert world.reads == ["worker_counts of 3", "open_count busy", "open_count waking"]
    assert world.look() == []


def test_the_last_worker_goes_when_the_newest_job_ended_long_enough_ago() -> None:
    world = World()
    world.add("liver", workers=1)
    world.newest["liver"] = ended("liver", -119)
    assert world.look() == []
    world.newest["liver"] = ended("liver", -121)
    assert world.look() == [Scaling("liver", 1, 0, 0)]
    world.reads.clear()
    assert world.look() == []
    assert world.reads == ["worker_counts of 1", "open_count liver"]  # nothing more while it sleeps
    world.open["liver"] = 1
    assert world.look() == [Scaling("liver", 0, 1, 1)]


def test_one_without_any_job_is_idle_since_its_record_changed() -> None:
    world = World()
    world.add("new", workers=1, updated_at=at(-60))
    assert world.look() == []
    assert world.look(now=datetime.fromtimestamp(NOON.timestamp() + 61, UTC)) == [Scaling("new", 1, 0, 0)]


def test_one_that_was_changed_meanwhile_is_left_to_the_next_look() -> None:
    world = World()
    world.add("liver", workers=1, jobs=9)
    older = world.records["liver"]
    scaler = Scaler(Stale(world, older), Services(world), Jobs(world))  # type: ignore[arg-type]
    world.records["liver"] = record("liver", desired_count=0, revision=2)
    assert asyncio.run(scaler.scale_all()) == []
    assert world.workers == {"liver": 1}


class Stale(Records):
    """Whose pages are a moment old."""

    def __init__(self, world: World, older: Algorithm) -> None:
        super().__init__(world)
        self._older = older

    async def page(
        self, *, status: AlgorithmStatus, limit: int = 100, cursor: str | None = None
    ) -> Page[Algorithm]:
        return Page((self._older,), None)


def test_one_that_can_not_be_moved_holds_up_no_other() -> None:
    world = World(broken={"a0"})
    for number in range(205):  # more than two pages
        world.add(f"a{number}", workers=0, jobs=1)
    moved = world.look()
    assert {scaling.algo_id for scaling in moved} == {f"a{number}" for number in range(1, 205)}
    assert world.workers["a0"] == 0
