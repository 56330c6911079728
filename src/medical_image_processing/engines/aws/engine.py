"""The AWS engine: every port, over the stack that carries the platform.

Each part is made on first use: a Lambda has the settings and the permissions of what it uses, and no more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medical_image_processing.engines.aws.access_record import AccessRecord
from medical_image_processing.engines.aws.admin_keys import SecretKeys
from medical_image_processing.engines.aws.audit import DynamoAudit
from medical_image_processing.engines.aws.clients import AwsClients
from medical_image_processing.engines.aws.connections import ApiGatewayPush, ConnectionTable
from medical_image_processing.engines.aws.jobs import DynamoJobs
from medical_image_processing.engines.aws.keys import DynamoKeys
from medical_image_processing.engines.aws.open_jobs import OpenJobs
from medical_image_processing.engines.aws.outputs import S3Outputs
from medical_image_processing.engines.aws.pacs_keys import PacsKeyTable
from medical_image_processing.engines.aws.queues import SqsQueues
from medical_image_processing.engines.aws.registry import DynamoRegistry
from medical_image_processing.engines.aws.senders import TaskRoles
from medical_image_processing.engines.aws.settings import AwsSettings
from medical_image_processing.engines.aws.storing import DynamoResultsToStore, S3ResultFiles
from medical_image_processing.engines.aws.tables import Table
from medical_image_processing.engines.aws.worker_counts import EcsWorkerCounts
from medical_image_processing.engines.aws.workload import DynamoWorkload
from medical_image_processing.model.job import Job

if TYPE_CHECKING:
    from medical_image_processing.engines.aws.log_groups import LogGroups
    from medical_image_processing.engines.aws.resources import AwsResources


class AwsEngine:
    """The parts, put together. ``clients``: other ones than those of the process's region and role."""

    def __init__(self, settings: AwsSettings, clients: AwsClients | None = None) -> None:
        self.settings = settings
        self.clients = clients or AwsClients()

    @cached_property
    def audit(self) -> DynamoAudit:
        """Who changed what."""
        return DynamoAudit(self._table(self.settings.audit_table), clock=time.time)

    @cached_property
    def access_record(self) -> AccessRecord:
        """ports.accesses: who read which image."""
        return AccessRecord(self._table(self.settings.audit_table), clock=time.time)

    @cached_property
    def registry(self) -> DynamoRegistry:
        """ports.registry."""
        return DynamoRegistry(self._table(self.settings.algorithms_table), self.audit, clock=time.time)

    @cached_property
    def open_jobs(self) -> OpenJobs:
        """The jobs that are QUEUED or RUNNING."""
        return OpenJobs(self._table(self.settings.jobs_table), self.registry)

    @cached_property
    def queues(self) -> SqsQueues:
        """ports.queues."""
        return SqsQueues(
            self.clients.client("sqs"),
            self.settings.results_queue_url,
            open_jobs=self.open_jobs,
            algorithm_of_role=self._algorithm_of_role,
            clock=time.time,
        )

    @cached_property
    def task_roles(self) -> TaskRoles:
        """Whose role a message was sent with."""
        return TaskRoles(self._table(self.settings.keys_table))

    @cached_property
    def jobs(self) -> DynamoJobs:
        """ports.jobs."""
        table = self._table(self.settings.jobs_table)
        return DynamoJobs(table, self.queues, self.registry, self.audit, self.open_jobs, clock=time.time)

    @cached_property
    def results_to_store(self) -> DynamoResultsToStore:
        """ports.storing."""
        return DynamoResultsToStore(self._table(self.settings.jobs_table), clock=time.time)

    def result_files(self, folder: Path) -> S3ResultFiles:
        """ports.storing; below ``folder`` are the copies."""
        return S3ResultFiles(self.clients.client("s3"), self.settings.output_bucket, folder)

    @cached_property
    def workload(self) -> DynamoWorkload:
        """ports.workload."""
        return DynamoWorkload(self._table(self.settings.jobs_table), self.queues, clock=time.time)

    @cached_property
    def keys(self) -> DynamoKeys:
        """ports.keys."""
        return DynamoKeys(self._table(self.settings.keys_table), self.audit, clock=time.time)

    @cached_property
    def pacs_keys(self) -> PacsKeyTable:
        """The algorithms' keys for the PACS API."""
        return PacsKeyTable(self._table(self.settings.keys_table))

    @cached_property
    def outputs(self) -> S3Outputs:
        """ports.outputs."""
        return S3Outputs(self.clients.client("s3"))

    @cached_property
    def resources(self) -> AwsResources:
        """ports.resources."""
        # Of a Lambda's start, loading modules is the most: these are the provisioner's and the scaler's.
        from medical_image_processing.engines.aws.resources import AwsResources

        return AwsResources(self.clients, self.settings)

    @cached_property
    def worker_counts(self) -> EcsWorkerCounts:
        """ports.resources.WorkerCounts."""
        return EcsWorkerCounts(self.clients, self.settings.cluster, clock=time.time)

    @cached_property
    def logs(self) -> LogGroups:
        """ports.resources.Logs."""
        from medical_image_processing.engines.aws.log_groups import LogGroups

        return LogGroups(self.clients)

    @cached_property
    def connections(self) -> ConnectionTable:
        """Which client has which WebSocket connection."""
        return ConnectionTable(self._table(self.settings.connections_table))

    @cached_property
    def admin_keys(self) -> SecretKeys:
        """The root admin's keys."""
        return SecretKeys(self.clients, self.settings.admin_secret)

    def create_push(self, *, render: Callable[[Job, str], str], on_failure: Callable[[], None]) -> ApiGatewayPush:
        """ports.push; see there what the parameters are."""
        return ApiGatewayPush(
            self.clients,
            self.connections,
            endpoint=self.settings.ws_endpoint,
            render=render,
            on_failure=on_failure,
        )

    async def invoke_later(self, function: str, event: dict[str, Any]) -> None:
        """Have a Lambda of ours run once more, on its own. TransientError when it won't."""
        await self.clients.client("lambda").call(
            "invoke", FunctionName=function, InvocationType="Event", Payload=json.dumps(event).encode()
        )

    async def _algorithm_of_role(self, role_id: str) -> str | None:
        # Only who receives is told of the table: others send or count.
        return await self.task_roles.algo_of(role_id)

    def _table(self, name: str) -> Table:
        return Table(self.clients.client("dynamodb"), name)
