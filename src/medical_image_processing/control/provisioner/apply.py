"""Does one step of a plan."""

from __future__ import annotations

from medical_image_processing.control.provisioner import plan as steps
from medical_image_processing.control.pushing import push_all
from medical_image_processing.model.algorithm import Algorithm
from medical_image_processing.model.job import JobError
from medical_image_processing.ports.jobs import ALGORITHM_DELETED, Jobs
from medical_image_processing.ports.push import Push
from medical_image_processing.ports.registry import Registry
from medical_image_processing.ports.resources import Resources

ACTOR = "provisioner"
_DELETED = JobError(
    code=ALGORITHM_DELETED, message="the algorithm was deleted by an admin while this job was waiting"
)


class Applier:
    """Applies steps through the ports. Each may be repeated after a crash (law P2)."""

    def __init__(self, registry: Registry, resources: Resources, jobs: Jobs, push: Push) -> None:
        self._registry = registry
        self._resources = resources
        self._jobs = jobs
        self._push = push

    async def apply(self, step: steps.Step, record: Algorithm) -> None:
        """Do ``step`` for the algorithm of ``record``, the record the plan was made from."""
        algo_id, make = record.algorithm_id, self._resources
        match step:
            case steps.CreateQueues():
                await make.create_queues(algo_id)
            case steps.PutRole(legacy):
                await make.put_role(algo_id, legacy_output_keys=legacy)
            case steps.CreateLogGroup():
                await make.create_log_group(algo_id)
            case steps.RegisterTaskDefinition(spec, revision):
                await make.register_task_definition(spec, revision=revision)
            case steps.PutService(task, count):
                await make.put_service(algo_id, task_fingerprint=task, desired_count=count)
            case steps.DeleteTaskDefinition(task):
                await make.delete_task_definition(algo_id, task)
            case steps.DeleteService():
                await make.delete_service(algo_id)
            case steps.FailOpenJobs():
                await push_all(self._push, await self._jobs.fail_open(algo_id, _DELETED))
            case steps.DeleteQueues():
                await make.delete_queues(algo_id)
            case steps.DeleteRole():
                await make.delete_role(algo_id)
            case steps.DeleteLogGroup():
                await make.delete_log_group(algo_id)
            case steps.SetStatus():
                await self._set_status(step, record)
            case steps.RemoveRecord():
                await self._registry.remove(algo_id, revision=record.revision, actor=ACTOR)

    async def _set_status(self, step: steps.SetStatus, record: Algorithm) -> None:
        observed = await self._resources.observe(record.algorithm_id)
        await self._registry.set_status(
            record.algorithm_id,
            revision=record.revision,
            status=step.status,
            reason=step.reason,
            resources=steps.resource_status(record, observed),
        )
