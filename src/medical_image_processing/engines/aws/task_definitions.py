"""The task definitions of an algorithm: one family, one active revision for what its workers are started from.

A task definition can't be changed, only replaced, so two tags tell whether one is still right: the spec's own
fingerprint, and that of all the platform adds to it. After a deployment that changed what the platform adds,
what was made before is of another fingerprint, and is replaced like one of an earlier spec.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medical_image_processing import naming
from medical_image_processing.engines.aws.clients import AwsClients, Refused
from medical_image_processing.engines.aws.images import Images, PinnedImage
from medical_image_processing.engines.aws.place import Place
from medical_image_processing.engines.aws.said import said
from medical_image_processing.engines.aws.settings import AwsSettings
from medical_image_processing.errors import Unavailable
from medical_image_processing.model.algorithm import AlgorithmSpec

FINGERPRINT_TAG = "mip:fingerprint"
PLATFORM_TAG = "mip:platform"
CONTAINER = "worker"
LOG_PREFIX = "mip"
STOP_TIMEOUT_S = 120
"""The most that Fargate grants."""
_LEAVE_S = 5
_USER = "10001:10001"
_CALLS_AT_ONCE = 8
_MOST_KNOWN = 2000

Request = dict[str, Any]


@dataclass(frozen=True)
class TaskDefinitionFound:
    """An active revision. ``key`` is the spec's fingerprint, or something else if the platform has moved on."""

    arn: str
    key: str
    image_digest: str | None
    memory: int
    revision: int


class TaskDefinitions:
    """Makes, lists and deletes revisions."""

    def __init__(self, clients: AwsClients, place: Place, settings: AwsSettings) -> None:
        self._ecs = clients.client("ecs")
        self._images = Images(clients)
        self._place = place
        self._settings = settings
        self._platform = self._platform_fingerprint()
        self._known: dict[str, TaskDefinitionFound] = {}
        """By ARN: what was described once is not asked for again, since it can't change."""

    async def observe(self, algo_id: str) -> tuple[TaskDefinitionFound, ...]:
        """All active revisions, the oldest first."""
        family = naming.service(algo_id)
        pages = self._ecs.boto.get_paginator("list_task_definitions")

        def listed() -> list[str]:
            found = pages.paginate(familyPrefix=family, status="ACTIVE", sort="ASC")
            return [arn for page in found for arn in page["taskDefinitionArns"]]

        arns = [
            arn
            for arn in await self._ecs.run("list_task_definitions", listed)
            if arn.rpartition("/")[2].rpartition(":")[0] == family
        ]
        limit = asyncio.Semaphore(_CALLS_AT_ONCE)
        found = await asyncio.gather(*(self._describe(arn, limit) for arn in arns))
        return tuple(each for each in found if each is not None)

    async def register(self, spec: AlgorithmSpec, *, revision: int) -> None:
        """One for the spec's fingerprint, unless there is one. PermanentError when the spec can't be run."""
        fingerprint = spec.task_fingerprint()
        if any(found.key == fingerprint for found in await self.observe(spec.algorithm_id)):
            return
        image = await self._images.pin(spec.image_uri)
        request = self._request(spec, image, revision=revision)
        tags = {
            naming.ALGORITHM_TAG: spec.algorithm_id,
            FINGERPRINT_TAG: fingerprint,
            PLATFORM_TAG: self._platform,
        }
        request["tags"] = [{"key": key, "value": value} for key, value in tags.items()]
        try:
            await self._ecs.call("register_task_definition", **request)
        except Refused as error:
            if "Role is not valid" in said(error):
                raise Unavailable(
                    "ROLE_NOT_KNOWN_YET",
                    f"ECS does not know the role of {spec.algorithm_id} yet; new roles take some seconds",
                    retry_after_s=10.0,
                ) from error
            raise

    async def delete(self, algo_id: str, key: str) -> None:
        """All revisions of that key. Tasks that run go on; ECS drops a revision when its last task has ended."""
        arns = [found.arn for found in await self.observe(algo_id) if found.key == key]
        for arn in arns:
            await self._ecs.call("deregister_task_definition", taskDefinition=arn)
        for start in range(0, len(arns), 10):
            await self._ecs.call("delete_task_definitions", taskDefinitions=arns[start : start + 10])

    async def _describe(self, arn: str, limit: asyncio.Semaphore) -> TaskDefinitionFound | None:
        if (known := self._known.get(arn)) is not None:
            return known
        async with limit:
            try:
                answer = await self._ecs.call("describe_task_definition", taskDefinition=arn, include=["TAGS"])
            except Refused as error:
                if error.aws_code == "ClientException":
                    return None  # it went since it was listed
                raise
        made = answer["taskDefinition"]
        if made.get("status") != "ACTIVE":
            return None
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        found = self._known[arn] = self._found(arn, made, answer.get("tags", ()))
        return found

    def _found(self, arn: str, made: Mapping[str, Any], given: Sequence[Mapping[str, str]]) -> TaskDefinitionFound:
        tags = {tag["key"]: tag["value"] for tag in given}
        key = tags.get(FINGERPRINT_TAG, f"unknown-{made['revision']}")
        if tags.get(PLATFORM_TAG) != self._platform:
            key = f"{key}-of-{tags.get(PLATFORM_TAG, 'nobody')}"
        image = str(made["containerDefinitions"][0].get("image", ""))
        memory = int(made.get("memory") or 0)
        return TaskDefinitionFound(arn, key, image.partition("@")[2] or None, memory, int(made["revision"]))

    def _request(self, spec: AlgorithmSpec, image: PinnedImage, *, revision: int) -> Request:
        settings = self._settings
        return {
            "family": naming.service(spec.algorithm_id),
            "requiresCompatibilities": ["FARGATE"],
            "networkMode": "awsvpc",
            "runtimePlatform": {"cpuArchitecture": "X86_64", "operatingSystemFamily": "LINUX"},
            "cpu": str(spec.cpu),
            "memory": str(spec.memory),
            "executionRoleArn": settings.execution_role,
            "taskRoleArn": self._place.role(spec.algorithm_id),
            "containerDefinitions": [self._container(spec, image, revision=revision)],
        }

    def _container(self, spec: AlgorithmSpec, image: PinnedImage, *, revision: int) -> Request:
        key = naming.pacs_key_parameter(spec.algorithm_id)
        return {
            "name": CONTAINER,
            "image": image.uri,
            "essential": True,
            # The record's command is the whole command: the image's entry point is not used.
            "entryPoint": [spec.command[0]],
            "command": list(spec.command[1:]),
            "user": _USER,
            "readonlyRootFilesystem": True,
            "linuxParameters": {
                "initProcessEnabled": False,
                "capabilities": {"drop": ["ALL"]},
                # The only place it may write. A volume would be root's (Fargate since platform version 1.4.0).
                "tmpfs": [
                    {
                        "containerPath": "/tmp",  # noqa: S108
                        "size": spec.memory // 2,
                        "mountOptions": ["rw", "nosuid", "nodev", "exec"],
                    }
                ],
            },
            "stopTimeout": STOP_TIMEOUT_S,
            "environment": _pairs(self._environment(spec, image, revision=revision)),
            "secrets": [{"name": "PACS_API_KEY", "valueFrom": self._place.parameter(key)}],
            "logConfiguration": {
                "logDriver": "awslogs",
                "options": {
                    "awslogs-group": naming.log_group(spec.algorithm_id),
                    "awslogs-region": self._place.region,
                    "awslogs-stream-prefix": LOG_PREFIX,
                    # A log that can't be written must not hold up a job.
                    "mode": "non-blocking",
                    "max-buffer-size": "4m",
                },
            },
        }

    def _environment(self, spec: AlgorithmSpec, image: PinnedImage, *, revision: int) -> dict[str, str]:
        """Threads for its cores, the record's env, what the operator adds, then what the platform sets."""
        settings, place = self._settings, self._place
        return {
            "OMP_NUM_THREADS": str(max(1, spec.cpu // 1024)),
            "HOME": "/tmp",  # noqa: S108
            **spec.env,
            **settings.task_env,
            "QUEUE_URL": place.queue_url(naming.queue(spec.algorithm_id)),
            "RESULT_QUEUE": settings.results_queue_url,
            "OUTPUT_BUCKET": settings.output_bucket,
            "ALGO_ID": spec.algorithm_id,
            "PACS_API_BASE": settings.pacs_api_base,
            "AWS_REGION": place.region,
            "MIP_TASK": f"{naming.service(spec.algorithm_id)}:{revision}",
            "MIP_REVISION": str(revision),
            "MIP_OUTPUTS": ",".join(spec.outputs),
            "MIP_IMAGE_DIGEST": image.digest,
            "MIP_STOP_TIMEOUT_S": str(STOP_TIMEOUT_S - _LEAVE_S),
        }

    def _platform_fingerprint(self) -> str:
        """Of what the platform adds: the request for a spec that is always the same."""
        fields = {"algo_id": "any", "image_uri": "any", "cpu": 1024, "memory": 2048, "command": ["any"]}
        spec = AlgorithmSpec.model_validate(fields)
        request = self._request(spec, PinnedImage("any", "any"), revision=0)
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]


def newest(found: Sequence[TaskDefinitionFound], key: str) -> TaskDefinitionFound | None:
    """The last revision of that key."""
    return max((each for each in found if each.key == key), key=lambda each: each.revision, default=None)


def _pairs(environment: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in sorted(environment.items())]
