"""plan() against a world that applies its steps: laws P1, P2, P3, P7 for every situation hypothesis finds."""

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from medical_image_processing.control.provisioner import plan as steps
from medical_image_processing.control.provisioner.observe import Situation
from medical_image_processing.control.provisioner.plan import plan, resource_status
from medical_image_processing.model.algorithm import Algorithm, AlgorithmStatus
from medical_image_processing.ports.resources import Observed, ServiceState, TaskDefinition

NOW = "2026-01-01T00:00:00Z"
NOTHING = Observed(None, False, None, False, {}, None)


@dataclass(frozen=True)
class World(Situation):
    """What a plan is made from, and what it is for: the jobs that nobody will run any more."""

    open_jobs: int = 0


def record(**changes: object) -> Algorithm:
    fields = {
        "algorithm_id": "liver",
        "image_uri": "registry.local/algos:liver",
        "cpu": 1024,
        "memory": 2048,
        "command": ("/app/worker.sh",),
        "status": AlgorithmStatus.PENDING,
        "revision": 1,
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Algorithm.model_validate({**fields, **changes})


def apply(situation: World, step: steps.Step) -> World | None:
    """The world after one step; None once the record is gone."""
    seen, rec = situation.observed, situation.record
    match step:
        case steps.CreateQueues():
            seen = replace(seen, queue_url="http://q", dead_letter_queue=True, drifted=seen.drifted - {"queues"})
        case steps.PutRole(legacy):
            seen = replace(seen, role_is_legacy=legacy, drifted=seen.drifted - {"role"})
        case steps.CreateLogGroup():
            seen = replace(seen, log_group=True, drifted=seen.drifted - {"log_group"})
        case steps.RegisterTaskDefinition(spec, revision):
            made = TaskDefinition(f"mip-liver:{revision}", "sha256:1")
            seen = replace(seen, task_definitions={**seen.task_definitions, spec.task_fingerprint(): made})
        case steps.PutService(task, count):
            running = seen.service.running_count if seen.service else 0
            seen = replace(seen, service=ServiceState(task, count, max(running, count), None))
        case steps.DeleteTaskDefinition(task):
            left = {key: made for key, made in seen.task_definitions.items() if key != task}
            seen = replace(seen, task_definitions=left)
        case steps.DeleteService():
            busy = seen.service is not None and seen.service.running_count > 0
            drained = replace(seen.service, desired_count=0) if seen.service else None
            seen = replace(seen, service=drained if busy else None)
        case steps.FailOpenJobs():
            return replace(situation, open_jobs=0)
        case steps.DeleteQueues():
            seen = replace(seen, queue_url=None, dead_letter_queue=False)
            situation = replace(situation, open_jobs=situation.open_jobs + 1)  # accepted just before
        case steps.DeleteRole():
            seen = replace(seen, role_is_legacy=None)
        case steps.DeleteLogGroup():
            seen = replace(seen, log_group=False)
        case steps.SetStatus(status, reason):
            update = {"status": status, "status_reason": reason, "resource_status": resource_status(rec, seen)}
            rec = rec.model_copy(update=update)
        case steps.RemoveRecord():
            assert seen.is_empty, "the record went while something was left (law P4)"
            assert situation.open_jobs == 0, "the record went while jobs waited (law P4)"
            return None
    return replace(situation, observed=seen, record=rec)


def drain(situation: World) -> World:
    """Running workers end as asked, sooner or later."""
    service = situation.observed.service
    if service is None or service.running_count <= service.desired_count:
        return situation
    left = replace(service, running_count=service.desired_count)
    return replace(situation, observed=replace(situation.observed, service=left))


def converge(situation: World) -> World | None:
    for _ in range(20):
        for step in plan(situation):
            after = apply(situation, step)
            if after is None:
                return None
            situation = after
        settled = drain(situation)
        if settled == situation and not plan(situation):
            return situation
        situation = settled
    raise AssertionError(f"does not converge: {plan(situation)}")


FINGERPRINTS = st.sampled_from(["old", record().task_fingerprint()])
SERVICES = st.none() | st.builds(
    ServiceState,
    FINGERPRINTS,
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([None, "it exited with status 1"]),
)
WORLDS = st.builds(
    Observed,
    queue_url=st.sampled_from([None, "http://q"]),
    dead_letter_queue=st.booleans(),
    role_is_legacy=st.sampled_from([None, True, False]),
    log_group=st.booleans(),
    task_definitions=st.dictionaries(FINGERPRINTS, st.just(TaskDefinition("mip-liver:1", None)), max_size=2),
    service=SERVICES,
    drifted=st.frozensets(st.sampled_from(["queues", "role", "log_group"])),
)
SITUATIONS = st.builds(
    World,
    record=st.builds(
        record,
        status=st.sampled_from(AlgorithmStatus),
        desired_count=st.integers(0, 3),
        min_count=st.sampled_from([None, 0]),
        max_count=st.sampled_from([None, 3]),
    ),
    observed=WORLDS,
    open_jobs=st.integers(0, 2),
)


@given(SITUATIONS)
def test_a_second_plan_after_the_first_was_applied_is_empty_or_waits_for_workers(situation: World) -> None:
    for step in plan(situation):
        after = apply(situation, step)
        if after is None:
            return
        situation = after
    if situation.record.status is not AlgorithmStatus.DELETING and drain(situation) == situation:
        again = plan(situation)
        # Only what became known by applying may follow: a drained service's INACTIVE.
        assert all(isinstance(step, steps.SetStatus) for step in again), again


@given(SITUATIONS, st.integers(0, 12))
def test_stopping_after_any_step_then_running_again_converges_to_the_same(situation: World, stop: int) -> None:
    whole = converge(situation)
    halted: World | None = situation
    for step in plan(situation)[:stop]:
        halted = apply(halted, step) if halted else None
    resumed = converge(halted) if halted else None
    assert (resumed is None) == (whole is None)
    if whole and resumed:
        assert resumed.observed == whole.observed
        assert resumed.record.status == whole.record.status


@given(SITUATIONS)
def test_converged_means_everything_is_there_and_the_status_tells_the_truth(situation: World) -> None:
    end = converge(situation)
    if situation.record.status is AlgorithmStatus.DELETING:
        assert end is None
        return
    assert end is not None
    seen = end.observed
    task = end.record.task_fingerprint()
    assert seen.queue_url and seen.dead_letter_queue and seen.log_group
    assert seen.role_is_legacy is end.record.legacy_output_keys
    assert not seen.drifted
    assert list(seen.task_definitions) == [task]
    assert seen.service and seen.service.task_fingerprint == task
    assert seen.service.desired_count in allowed_counts(situation)
    if end.record.desired_count == 0:
        assert end.record.status is AlgorithmStatus.INACTIVE
    else:
        assert end.record.status is (AlgorithmStatus.FAILED if seen.service.failure else AlgorithmStatus.ACTIVE)


def allowed_counts(situation: World) -> set[int]:
    """What the service's count may be: where the platform chooses, what it was, or the bound nearest to it."""
    rec, service = situation.record, situation.observed.service
    if service is None or not rec.is_scaled:
        return {rec.desired_count}
    return {sorted((rec.least_workers, service.desired_count, rec.most_workers))[1]}


def test_drift_is_repaired_piece_by_piece() -> None:
    healthy = converge(World(record(), NOTHING, 0))
    assert healthy is not None and plan(healthy) == ()
    for damage in (
        {"queue_url": None},
        {"dead_letter_queue": False},
        {"role_is_legacy": None},
        {"log_group": False},
        {"task_definitions": {}},
        {"service": None},
        {"drifted": frozenset({"queues"})},
        {"drifted": frozenset({"role"})},
        {"drifted": frozenset({"log_group"})},
    ):
        broken = replace(healthy, observed=replace(healthy.observed, **damage))
        assert plan(broken), f"nobody repairs {damage}"
        repaired = converge(broken)
        assert repaired is not None and repaired.observed.is_empty is False
        assert plan(repaired) == ()


def test_a_hard_delete_waits_for_running_jobs_before_it_takes_anything_away() -> None:
    healthy = converge(World(record(), NOTHING, 0))
    assert healthy is not None
    going = replace(healthy, record=healthy.record.model_copy(update={"status": AlgorithmStatus.DELETING}))
    assert plan(going) == (steps.DeleteService(),)
    draining = apply(going, steps.DeleteService())
    assert draining is not None and plan(draining) == ()
    assert steps.RemoveRecord() in plan(drain(draining))
