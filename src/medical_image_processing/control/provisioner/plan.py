"""From a situation to the steps that are missing. Pure: no I/O, no clock.

The steps are data, in an order in which stopping after any of them leaves nothing broken (law P2).
An empty plan means converged, or waiting for running jobs to end.
"""

from __future__ import annotations

from dataclasses import dataclass

from medical_image_processing import naming
from medical_image_processing.control.provisioner.observe import Situation
from medical_image_processing.model.algorithm import Algorithm, AlgorithmSpec, AlgorithmStatus, ResourceStatus
from medical_image_processing.ports.resources import Observed


@dataclass(frozen=True)
class CreateQueues:
    """Job queue and dead-letter queue."""


@dataclass(frozen=True)
class PutRole:
    """Create the role, or give it these permissions."""

    legacy_output_keys: bool


@dataclass(frozen=True)
class CreateLogGroup:
    """The workers' log group."""


@dataclass(frozen=True)
class RegisterTaskDefinition:
    """What a worker is started from."""

    spec: AlgorithmSpec
    revision: int


@dataclass(frozen=True)
class PutService:
    """Create the service, or move it to this task definition and count."""

    task_fingerprint: str
    desired_count: int


@dataclass(frozen=True)
class DeleteTaskDefinition:
    """One that no worker uses any more."""

    task_fingerprint: str


@dataclass(frozen=True)
class DeleteService:
    """Let the workers finish; no new ones."""


@dataclass(frozen=True)
class FailOpenJobs:
    """End the jobs that nobody will run any more, with a reason."""


@dataclass(frozen=True)
class DeleteQueues:
    """Both queues."""


@dataclass(frozen=True)
class DeleteRole:
    """The role."""


@dataclass(frozen=True)
class DeleteLogGroup:
    """The log group."""


@dataclass(frozen=True)
class SetStatus:
    """Write down what was reached."""

    status: AlgorithmStatus
    reason: str | None


@dataclass(frozen=True)
class RemoveRecord:
    """The last step of a hard delete."""


Step = (
    CreateQueues
    | PutRole
    | CreateLogGroup
    | RegisterTaskDefinition
    | PutService
    | DeleteTaskDefinition
    | DeleteService
    | FailOpenJobs
    | DeleteQueues
    | DeleteRole
    | DeleteLogGroup
    | SetStatus
    | RemoveRecord
)


def plan(situation: Situation) -> tuple[Step, ...]:
    """The steps from what is to what should be."""
    if situation.record.status is AlgorithmStatus.DELETING:
        return _plan_removal(situation)
    steps = _plan_resources(situation.record, situation.observed)
    return (*steps, *_plan_status(situation, changing=bool(steps)))


def _plan_resources(record: Algorithm, observed: Observed) -> tuple[Step, ...]:
    steps: list[Step] = []
    drifted = observed.drifted
    if observed.queue_url is None or not observed.dead_letter_queue or "queues" in drifted:
        steps.append(CreateQueues())
    if observed.role_is_legacy is not record.legacy_output_keys or "role" in drifted:
        steps.append(PutRole(record.legacy_output_keys))
    if not observed.log_group or "log_group" in drifted:
        steps.append(CreateLogGroup())
    task = record.task_fingerprint()
    if task not in observed.task_definitions:
        steps.append(RegisterTaskDefinition(record.spec(), record.revision))
    service, count = observed.service, _count(record, observed)
    if service is None or (service.task_fingerprint, service.desired_count) != (task, count):
        steps.append(PutService(task, count))
    # The service has moved on by now; what it was started from before is no longer needed.
    steps.extend(DeleteTaskDefinition(old) for old in sorted(observed.task_definitions) if old != task)
    return tuple(steps)


def _count(record: Algorithm, observed: Observed) -> int:
    """How many workers the service should have; where the scaler chooses, what it chose within the bounds."""
    if observed.service is None or not record.is_scaled:
        return record.desired_count
    return min(max(observed.service.desired_count, record.least_workers), record.most_workers)


def _plan_status(situation: Situation, *, changing: bool) -> tuple[Step, ...]:
    record, observed = situation.record, situation.observed
    service = observed.service
    status, reason = record.status, None
    if record.desired_count == 0:
        if service is None or service.running_count == 0:
            status = AlgorithmStatus.INACTIVE
    elif service is not None and service.failure and service.task_fingerprint == record.task_fingerprint():
        status, reason = AlgorithmStatus.FAILED, service.failure
    else:
        status = AlgorithmStatus.ACTIVE
    said = (record.status, record.status_reason, record.resource_status)
    if not changing and said == (status, reason, resource_status(record, observed)):
        return ()
    return (SetStatus(status, reason),)


def resource_status(record: Algorithm, observed: Observed) -> ResourceStatus:
    """What the record should say of its resources."""
    task = observed.task_definitions.get(record.task_fingerprint())
    return ResourceStatus(
        queue_url=observed.queue_url,
        task_definition=task.name if task else None,
        image_digest=task.image_digest if task else None,
        service=naming.service(record.algorithm_id) if observed.service else None,
    )


def _plan_removal(situation: Situation) -> tuple[Step, ...]:
    observed = situation.observed
    if observed.service is not None and observed.service.desired_count:
        return (DeleteService(),)
    if observed.service is not None and observed.service.running_count:
        return ()  # running jobs end first (law P7)
    steps: list[Step] = []
    if observed.service is not None:
        steps.append(DeleteService())
    if observed.queue_url is not None or observed.dead_letter_queue:
        steps.append(DeleteQueues())
    # Once there is no queue no job can be accepted any more, so that what is open now is all there ever was.
    steps.append(FailOpenJobs())
    if observed.role_is_legacy is not None:
        steps.append(DeleteRole())
    steps.extend(DeleteTaskDefinition(task) for task in sorted(observed.task_definitions))
    if observed.log_group:
        steps.append(DeleteLogGroup())
    return (*steps, RemoveRecord())
