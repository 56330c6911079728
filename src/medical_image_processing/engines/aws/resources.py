"""Everything an algorithm has on AWS, piece by piece: ports.resources.

Each piece has a module of its own. What is asked for is compared with what is there before anything is
changed, so that every call may be repeated, by several provisioners at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from medical_image_processing.engines.aws.clients import AwsClients
from medical_image_processing.engines.aws.job_queues import JobQueues
from medical_image_processing.engines.aws.log_groups import LogGroups
from medical_image_processing.engines.aws.pacs_keys import AlgorithmPacsKeys, PacsKeyTable
from medical_image_processing.engines.aws.place import Place
from medical_image_processing.engines.aws.roles import Roles
from medical_image_processing.engines.aws.senders import TaskRoles
from medical_image_processing.engines.aws.services import Services
from medical_image_processing.engines.aws.settings import AwsSettings
from medical_image_processing.engines.aws.tables import Table
from medical_image_processing.engines.aws.task_definitions import TaskDefinitions, newest
from medical_image_processing.errors import NotFound
from medical_image_processing.model.algorithm import AlgorithmSpec
from medical_image_processing.ports.resources import Observed, TaskDefinition


class AwsResources:
    """Implements :class:`ports.resources.Resources`; ``logs`` implements :class:`ports.resources.Logs`."""

    def __init__(self, clients: AwsClients, settings: AwsSettings) -> None:
        place = Place.of(settings)
        self.logs = LogGroups(clients)
        self._queues = JobQueues(clients, place)
        keys = Table(clients.client("dynamodb"), settings.keys_table)
        self._roles = Roles(
            clients, place, TaskRoles(keys), bucket=settings.output_bucket, boundary=settings.task_boundary
        )
        self._pacs_keys = AlgorithmPacsKeys(clients, PacsKeyTable(keys))
        self._definitions = TaskDefinitions(clients, place, settings)
        self._services = Services(clients, place, settings, self.logs)

    async def observe(self, algo_id: str) -> Observed:
        """What is there."""
        queues, role, has_key, log_group, definitions, service = await asyncio.gather(
            self._queues.observe(algo_id),
            self._roles.observe(algo_id),
            self._pacs_keys.exists(algo_id),
            self.logs.observe(algo_id),
            self._definitions.observe(algo_id),
            self._services.find(algo_id),
        )
        drifted = {
            "queues": queues.drifted,
            "role": role is not None and (role.drifted or not has_key),
            "log_group": log_group is not None and log_group.drifted,
        }
        return Observed(
            queue_url=queues.queue_url,
            dead_letter_queue=queues.dead_letter_queue,
            role_is_legacy=role.is_legacy if role else None,
            log_group=log_group is not None,
            task_definitions={each.key: TaskDefinition(each.arn, each.image_digest) for each in definitions},
            service=await self._services.state(algo_id, service, definitions) if service else None,
            drifted=frozenset(piece for piece, has_drifted in drifted.items() if has_drifted),
        )

    async def worker_counts(self, algo_ids: Sequence[str]) -> dict[str, int]:
        """The desired count of each algorithm's service: one call for ten of them."""
        return await self._services.counts(algo_ids)

    async def create_queues(self, algo_id: str) -> None:
        """The job queue and its dead-letter queue."""
        await self._queues.create(algo_id)

    async def put_role(self, algo_id: str, *, legacy_output_keys: bool) -> None:
        """The key to the PACS, then the role: what is a role can work."""
        await self._pacs_keys.put(algo_id)
        await self._roles.put(algo_id, legacy_output_keys=legacy_output_keys)

    async def create_log_group(self, algo_id: str) -> None:
        """Where the workers log."""
        await self.logs.create(algo_id)

    async def register_task_definition(self, spec: AlgorithmSpec, *, revision: int) -> None:
        """PermanentError when its image can't be had. What its tag names from now on no longer matters."""
        await self._definitions.register(spec, revision=revision)

    async def put_service(self, algo_id: str, *, task_fingerprint: str, desired_count: int) -> None:
        """Create the service, or move it to this task definition and count."""
        found = newest(await self._definitions.observe(algo_id), task_fingerprint)
        if found is None:
            raise NotFound("UNKNOWN_TASK_DEFINITION", f"'{algo_id}' has no task definition {task_fingerprint}")
        await self._services.put(algo_id, task_definition=found.arn, desired_count=desired_count)

    async def delete_service(self, algo_id: str) -> None:
        """Let the workers finish: first the count goes to 0, then the service."""
        await self._services.delete(algo_id)

    async def delete_task_definition(self, algo_id: str, task_fingerprint: str) -> None:
        """Forget one task definition."""
        await self._definitions.delete(algo_id, task_fingerprint)

    async def delete_queues(self, algo_id: str) -> None:
        """The queue and the dead-letter queue, with what they hold."""
        await self._queues.delete(algo_id)

    async def delete_role(self, algo_id: str) -> None:
        """The role, and before it what else lets the algorithm in."""
        await self._pacs_keys.delete(algo_id)
        await self._roles.delete(algo_id)

    async def delete_log_group(self, algo_id: str) -> None:
        """The log group and its logs."""
        await self.logs.delete(algo_id)
