"""Queues, roles, log groups, task definitions and services of algorithms: ports.resources.

Roles, task definitions and services are rows, so that they outlive the platform and can be observed;
what runs is the supervisor's.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from medical_image_processing import naming
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.log_groups import LogGroups
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.supervisor import Supervisor
from medical_image_processing.engines.embedded.task import Task
from medical_image_processing.errors import NotFound, PermanentError
from medical_image_processing.model.algorithm import AlgorithmSpec
from medical_image_processing.ports.resources import Observed, ServiceState, TaskDefinition

VISIBILITY_S = 30.0
"""The lease of a job: short, because workers renew it (law J4)."""

MOST_WORKERS = 8 * (os.cpu_count() or 1)
"""Of one algorithm. More would only take each other's CPU and memory."""


class EmbeddedResources:
    """Implements :class:`ports.resources.Resources`."""

    def __init__(
        self,
        database: Database,
        queues: FifoQueues,
        logs: LogGroups,
        supervisor: Supervisor,
        *,
        queue_url: Callable[[str], str],
        on_role_deleted: Callable[[str], None],
    ) -> None:
        self._database = database
        self._queues = queues
        self._logs = logs
        self._supervisor = supervisor
        self._queue_url = queue_url
        self._on_role_deleted = on_role_deleted

    async def observe(self, algo_id: str) -> Observed:
        """What is there."""
        rows = self._rows(algo_id)
        role = rows.get(("role", naming.role(algo_id)))
        service = rows.get(("service", naming.service(algo_id)))
        queue = naming.queue(algo_id)
        return Observed(
            queue_url=self._queue_url(queue) if self._queues.exists(queue) else None,
            dead_letter_queue=self._queues.exists(naming.dead_letter_queue(algo_id)),
            role_is_legacy=role["legacy_output_keys"] if role else None,
            log_group=self._logs.exists(algo_id),
            task_definitions={
                task.fingerprint: TaskDefinition(task.name, task.image_digest)
                for task in self._tasks(rows).values()
            },
            service=self._service(algo_id, service),
        )

    async def worker_counts(self, algo_ids: Sequence[str]) -> dict[str, int]:
        """The desired count of each algorithm's service."""
        asked = "algo_id IN (SELECT value FROM json_each(?))"
        sql = f"SELECT algo_id, content FROM resources WHERE kind = 'service' AND {asked}"  # noqa: S608 - fixed text
        rows = self._database.read(sql, json.dumps(list(algo_ids)))
        return {row["algo_id"]: json.loads(row["content"])["desired_count"] for row in rows}

    def _service(self, algo_id: str, row: dict[str, Any] | None) -> ServiceState | None:
        if row is None:
            return None
        running, failure = self._supervisor.running_count(algo_id), self._supervisor.failure(algo_id)
        return ServiceState(row["task_fingerprint"], row["desired_count"], running, failure)

    async def create_queues(self, algo_id: str) -> None:
        """The job queue and its dead-letter queue."""
        dead = naming.dead_letter_queue(algo_id)
        await self._queues.create(dead, redrive_to=None)
        await self._queues.create(
            naming.queue(algo_id),
            redrive_to=dead,
            max_receives=naming.MAX_RECEIVES,
            visibility_s=VISIBILITY_S,
        )

    async def put_role(self, algo_id: str, *, legacy_output_keys: bool) -> None:
        """The role; its permissions are those of ``credentials``."""
        await self._put(algo_id, "role", naming.role(algo_id), {"legacy_output_keys": legacy_output_keys})
        self._resume(algo_id)

    async def create_log_group(self, algo_id: str) -> None:
        """Where the workers log."""
        self._logs.create(algo_id)

    async def register_task_definition(self, spec: AlgorithmSpec, *, revision: int) -> None:
        """PermanentError when the runtime can't run it. What its image names from now on no longer matters."""
        if spec.task_fingerprint() in self._tasks(self._rows(spec.algorithm_id)):
            return
        runtime = self._supervisor.runtime
        image_digest = await runtime.image_digest(spec)
        task = Task.of(spec, revision=revision, runtime=runtime.name, image_digest=image_digest)
        await self._put(spec.algorithm_id, "task", task.fingerprint, asdict(task))
        self._resume(spec.algorithm_id)

    async def put_service(self, algo_id: str, *, task_fingerprint: str, desired_count: int) -> None:
        """Create the service, or move it to this task definition and count."""
        if ("task", task_fingerprint) not in self._rows(algo_id):
            raise NotFound("UNKNOWN_TASK_DEFINITION", f"'{algo_id}' has no task definition {task_fingerprint}")
        if desired_count > MOST_WORKERS:
            raise PermanentError(
                "TOO_MANY_WORKERS",
                f"desired_count {desired_count} is more than this machine runs: at most {MOST_WORKERS} workers "
                "of one algorithm, eight for each core",
            )
        content = {"task_fingerprint": task_fingerprint, "desired_count": desired_count}
        await self._put(algo_id, "service", naming.service(algo_id), content)
        self._resume(algo_id)

    async def delete_service(self, algo_id: str) -> None:
        """Let the workers finish, then no more: first the count goes to 0, then the row."""
        name = naming.service(algo_id)
        service = self._rows(algo_id).get(("service", name))
        self._supervisor.remove(algo_id)
        if service is not None and self._supervisor.running_count(algo_id):
            await self._put(algo_id, "service", name, {**service, "desired_count": 0})
        else:
            await self._delete(algo_id, "service", name)

    async def delete_task_definition(self, algo_id: str, task_fingerprint: str) -> None:
        """Forget one task definition."""
        await self._delete(algo_id, "task", task_fingerprint)

    async def delete_queues(self, algo_id: str) -> None:
        """The queue and the dead-letter queue, with what they hold."""
        await self._queues.delete_queue(naming.queue(algo_id))
        await self._queues.delete_queue(naming.dead_letter_queue(algo_id))

    async def delete_role(self, algo_id: str) -> None:
        """The role, and with it what else lets the algorithm in."""
        await self._delete(algo_id, "role", naming.role(algo_id))
        self._on_role_deleted(algo_id)

    async def delete_log_group(self, algo_id: str) -> None:
        """The log group and its logs."""
        self._logs.delete(algo_id)

    async def forget_other_runtimes(self) -> None:
        """Task definitions of another runtime are of no use to this one; the provisioner makes them anew."""
        sql = "DELETE FROM resources WHERE kind = 'task' AND json_extract(content, '$.runtime') IS NOT ?"
        runtime = self._supervisor.runtime.name
        await self._database.write(lambda c: c.execute(sql, (runtime,)) and None)

    def resume_services(self) -> None:
        """Start what should run, after the platform has started."""
        for row in self._database.read("SELECT algo_id FROM resources WHERE kind = 'service'"):
            self._resume(row["algo_id"])

    def _resume(self, algo_id: str) -> None:
        rows = self._rows(algo_id)
        service = rows.get(("service", naming.service(algo_id)))
        role = rows.get(("role", naming.role(algo_id)))
        task = self._tasks(rows).get(service["task_fingerprint"]) if service else None
        if service is None or role is None or task is None:
            return
        self._supervisor.put(task, service["desired_count"], legacy_output_keys=role["legacy_output_keys"])

    def _tasks(self, rows: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Task]:
        return {name: Task.of_row(row) for (kind, name), row in rows.items() if kind == "task"}

    def _rows(self, algo_id: str) -> dict[tuple[str, str], dict[str, Any]]:
        rows = self._database.read("SELECT kind, name, content FROM resources WHERE algo_id = ?", algo_id)
        return {(row["kind"], row["name"]): json.loads(row["content"]) for row in rows}

    async def _put(self, algo_id: str, kind: str, name: str, content: dict[str, Any]) -> None:
        def upsert(connection: sqlite3.Connection) -> None:
            row = (algo_id, kind, name, json.dumps(content))
            connection.execute("INSERT OR REPLACE INTO resources VALUES (?, ?, ?, ?)", row)

        await self._database.write(upsert)

    async def _delete(self, algo_id: str, kind: str, name: str) -> None:
        sql = "DELETE FROM resources WHERE algo_id = ? AND kind = ? AND name = ?"
        await self._database.write(lambda c: c.execute(sql, (algo_id, kind, name)) and None)
