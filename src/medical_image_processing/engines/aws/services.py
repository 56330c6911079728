"""The services of algorithms in ECS: how many workers run, from which task definition, and why they don't."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from medical_image_processing import naming
from medical_image_processing.engines.aws import stopped_tasks
from medical_image_processing.engines.aws.clients import AwsClients, Refused
from medical_image_processing.engines.aws.log_groups import LogGroups
from medical_image_processing.engines.aws.place import Place
from medical_image_processing.engines.aws.said import said
from medical_image_processing.engines.aws.settings import AwsSettings
from medical_image_processing.engines.aws.task_definitions import CONTAINER, LOG_PREFIX, TaskDefinitionFound
from medical_image_processing.engines.aws.worker_counts import describe_services
from medical_image_processing.errors import Unavailable
from medical_image_processing.ports.resources import ServiceState

RETRY_AFTER = timedelta(minutes=15)
"""When a deployment that ECS gave up is tried again (law P5): what was wrong may have been outside of it."""
_BATCH = 100
_PLACEMENT_EVENTS = 2
_DEPLOYMENT = {
    # Without a roll back: the registry says what should run, and a second opinion would fight it.
    "deploymentCircuitBreaker": {"enable": True, "rollback": False},
    "minimumHealthyPercent": 100,
    "maximumPercent": 200,
}

Service = dict[str, Any]
Task = dict[str, Any]


@dataclass(frozen=True)
class ServiceFound:
    """A service and its tasks, as ECS describes them."""

    raw: Service
    tasks: tuple[Task, ...]

    @property
    def live_tasks(self) -> list[Task]:
        """All that have not stopped, with those that end their last job."""
        return [task for task in self.tasks if task.get("lastStatus") != "STOPPED"]

    @property
    def deployment(self) -> dict[str, Any]:
        """The one that ECS works on."""
        return next((d for d in self.raw.get("deployments", ()) if d.get("status") == "PRIMARY"), {})

    @property
    def has_failed(self) -> bool:
        """Whether ECS's circuit breaker has given the deployment up; it starts no workers then."""
        return bool(self.deployment.get("rolloutState") == "FAILED")


class Services:
    """Makes, looks at and deletes services. ``clock``: now, with its time zone."""

    def __init__(
        self,
        clients: AwsClients,
        place: Place,
        settings: AwsSettings,
        logs: LogGroups,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._ecs = clients.client("ecs")
        self._cluster = place.cluster
        self._network = {
            "awsvpcConfiguration": {
                "subnets": sorted(settings.subnets),
                "securityGroups": [settings.security_group],
                "assignPublicIp": "DISABLED",
            }
        }
        self._logs = logs
        self._clock = clock

    async def counts(self, algo_ids: Sequence[str]) -> dict[str, int]:
        """The desired count of each service there is."""
        services = await describe_services(self._ecs, self._cluster, algo_ids)
        return {algo_id: self._desired_count(ServiceFound(raw, ())) for algo_id, raw in services.items()}

    async def find(self, algo_id: str) -> ServiceFound | None:
        """The service and its tasks; None when there is none, and nothing of it runs any more."""
        raw = await self._describe(algo_id)
        if raw is None:
            return None
        found = ServiceFound(raw, await self._tasks(algo_id))
        return None if raw["status"] == "DRAINING" and not found.live_tasks else found

    async def state(
        self, algo_id: str, found: ServiceFound, definitions: Sequence[TaskDefinitionFound]
    ) -> ServiceState:
        """What the port says of it."""
        raw = found.raw
        mine = next((each for each in definitions if each.arn == raw["taskDefinition"]), None)
        # A definition that is gone starts no worker, and neither does one in another network.
        key = mine.key if mine is not None and self._is_in_our_network(raw) else f"stale {raw['taskDefinition']}"
        return ServiceState(
            key, self._desired_count(found), len(found.live_tasks), await self._failure(algo_id, found, mine)
        )

    async def put(self, algo_id: str, *, task_definition: str, desired_count: int) -> None:
        """Create it, or change what differs."""
        name = naming.service(algo_id)
        raw = await self._describe(algo_id)
        if raw is None:
            await self._create(algo_id, task_definition=task_definition, desired_count=desired_count)
            return
        if raw["status"] != "ACTIVE":
            raise _draining(name)
        change = self._change(raw, task_definition=task_definition, desired_count=desired_count)
        if not change:
            return
        try:
            await self._ecs.call("update_service", cluster=self._cluster, service=name, **change)
        except Refused as error:
            if error.aws_code in ("ServiceNotActiveException", "ServiceNotFoundException"):
                raise _draining(name) from error
            raise

    async def delete(self, algo_id: str) -> None:
        """First no more workers are wanted; the service goes when none is left."""
        found = await self.find(algo_id)
        if found is None or found.raw["status"] != "ACTIVE":
            return
        name = naming.service(algo_id)
        try:
            if found.raw["desiredCount"]:
                await self._ecs.call("update_service", cluster=self._cluster, service=name, desiredCount=0)
                found = await self.find(algo_id)
            if found is not None and not found.live_tasks:
                await self._ecs.call("delete_service", cluster=self._cluster, service=name)
        except Refused as error:
            if error.aws_code not in ("ServiceNotActiveException", "ServiceNotFoundException"):
                raise

    def _change(self, raw: Service, *, task_definition: str, desired_count: int) -> dict[str, Any]:
        change: dict[str, Any] = {}
        if raw["taskDefinition"] != task_definition:
            change["taskDefinition"] = task_definition
        if raw["desiredCount"] != desired_count:
            change["desiredCount"] = desired_count
        if not self._is_in_our_network(raw):
            change["networkConfiguration"] = self._network
        if ServiceFound(raw, ()).has_failed and desired_count and "taskDefinition" not in change:
            change["forceNewDeployment"] = True
        if change:
            change["deploymentConfiguration"] = _DEPLOYMENT
        return change

    async def _create(self, algo_id: str, *, task_definition: str, desired_count: int) -> None:
        name = naming.service(algo_id)
        try:
            await self._ecs.call(
                "create_service",
                cluster=self._cluster,
                serviceName=name,
                taskDefinition=task_definition,
                desiredCount=desired_count,
                launchType="FARGATE",
                platformVersion="LATEST",
                networkConfiguration=self._network,
                deploymentConfiguration=_DEPLOYMENT,
                propagateTags="SERVICE",
                enableECSManagedTags=True,
                tags=[{"key": naming.ALGORITHM_TAG, "value": algo_id}],
            )
        except Refused as error:
            words = said(error).lower()
            if "draining" in words or "idempotent" in words:
                raise _draining(name) from error
            if "unable to assume" in words:
                raise Unavailable(
                    "ROLE_NOT_KNOWN_YET",
                    f"ECS can't take a role that {name} needs yet; new roles take some seconds",
                    retry_after_s=10.0,
                ) from error
            raise

    async def _describe(self, algo_id: str) -> Service | None:
        name = naming.service(algo_id)
        try:
            answer = await self._ecs.call("describe_services", cluster=self._cluster, services=[name])
        except Refused as error:
            if error.aws_code == "ServiceNotFoundException":
                return None
            raise
        found = next((service for service in answer["services"] if service["serviceName"] == name), None)
        return None if found is None or found["status"] == "INACTIVE" else found

    async def _tasks(self, algo_id: str) -> tuple[Task, ...]:
        """Those that run, and those that ended within the hour for which ECS tells of them."""
        family = naming.service(algo_id)
        pages = self._ecs.boto.get_paginator("list_tasks")

        def listed() -> list[str]:
            return [
                arn
                for status in ("RUNNING", "STOPPED")
                for page in pages.paginate(cluster=self._cluster, family=family, desiredStatus=status)
                for arn in page["taskArns"]
            ]

        arns = list(dict.fromkeys(await self._ecs.run("list_tasks", listed)))
        tasks: list[Task] = []
        for start in range(0, len(arns), _BATCH):
            batch = arns[start : start + _BATCH]
            tasks += (await self._ecs.call("describe_tasks", cluster=self._cluster, tasks=batch))["tasks"]
        return tuple(task for task in tasks if task.get("group") == f"service:{family}")

    def _is_in_our_network(self, raw: Service) -> bool:
        found = (raw.get("networkConfiguration") or {}).get("awsvpcConfiguration") or {}
        wanted = self._network["awsvpcConfiguration"]
        return (
            all(sorted(found.get(name) or ()) == sorted(wanted[name]) for name in ("subnets", "securityGroups"))
            and found.get("assignPublicIp", "DISABLED") == wanted["assignPublicIp"]
        )

    def _desired_count(self, found: ServiceFound) -> int:
        """A deployment that was given up wants no workers; said so late enough, the plan tries it again."""
        return 0 if self._is_to_be_retried(found) else int(found.raw["desiredCount"])

    def _is_to_be_retried(self, found: ServiceFound) -> bool:
        since = found.deployment.get("updatedAt")
        return found.has_failed and since is not None and self._clock() - since >= RETRY_AFTER

    async def _failure(
        self, algo_id: str, found: ServiceFound, definition: TaskDefinitionFound | None
    ) -> str | None:
        tasks = [task for task in found.tasks if task.get("taskDefinitionArn") == found.raw["taskDefinition"]]
        deaths = stopped_tasks.recent_deaths(
            tasks, now=self._clock(), memory=definition.memory if definition else 0
        )
        if stopped_tasks.is_failing(deaths) or (found.has_failed and deaths):
            death = deaths[0]
            stream = f"{LOG_PREFIX}/{CONTAINER}/{death.task_arn.rpartition('/')[2]}"
            line = await self._logs.last_line(algo_id, stream) if death.said_something else None
            return stopped_tasks.with_log(death, line)
        if found.has_failed:
            if self._is_to_be_retried(found):
                return None
            reason = " ".join(str(found.deployment.get("rolloutStateReason", "")).split())
            return f"ECS has given up starting workers: {reason or 'it gives no reason'}"
        return self._placement_failure(found)

    def _placement_failure(self, found: ServiceFound) -> str | None:
        """ECS tells of tasks that it could not even place in the service's events only."""
        began = found.deployment.get("createdAt")
        if began is None or found.live_tasks or not found.raw["desiredCount"]:
            return None
        told = [
            event["message"]
            for event in found.raw.get("events", ())
            if event["createdAt"] >= began
            and ("unable to place" in event["message"] or "failed to launch" in event["message"])
        ]
        return (
            f"ECS can't start a worker: {' '.join(told[0].split())[:400]}"
            if len(told) >= _PLACEMENT_EVENTS
            else None
        )


def _draining(name: str) -> Unavailable:
    return Unavailable(
        "SERVICE_DRAINING",
        f"a service named {name} is just being deleted or made; it is put when ECS is done with that",
        retry_after_s=15.0,
    )
