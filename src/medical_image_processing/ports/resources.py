"""What an engine makes for each algorithm, seen and made piece by piece.

Clauses, each a test in ``testing/``:

- S1 every ``put_``, ``create_`` and ``delete_`` is idempotent: doing it again changes nothing
- S2 ``observe`` shows what is there, not what was asked for; also what somebody removed by hand
- S3 a role opens the algorithm's own queue, its own output and the results queue, and nothing else (law A1)
- S4 replacing a service's task definition or lowering its count lets running jobs end (law P7)
- S5 a service that can't keep its workers running says why in ``failure`` (law P5)
- S6 ``worker_counts`` shows what ``put_service`` set, of many services at once
- S7 a log is read from its newest lines on, each line once; where some are lost it says so
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from medical_image_processing.model.algorithm import AlgorithmSpec


@dataclass(frozen=True)
class ServiceState:
    """A service as found. ``running_count`` includes workers that are finishing their last job."""

    task_fingerprint: str
    desired_count: int
    running_count: int
    failure: str | None


@dataclass(frozen=True)
class TaskDefinition:
    """What workers are started from. ``image_digest`` pins the image; None on an engine that runs none."""

    name: str
    image_digest: str | None


@dataclass(frozen=True)
class Observed:
    """All that exists for one algorithm. ``role_is_legacy`` is None when there is no role."""

    queue_url: str | None
    dead_letter_queue: bool
    role_is_legacy: bool | None
    log_group: bool
    task_definitions: dict[str, TaskDefinition]
    """By task fingerprint."""
    service: ServiceState | None
    drifted: frozenset[str] = frozenset()
    """What is there and not as it should be, of ``queues``, ``role`` and ``log_group``: to be made again."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return not (
            self.queue_url
            or self.dead_letter_queue
            or self.role_is_legacy is not None
            or self.log_group
            or self.task_definitions
            or self.service
        )


class Resources(Protocol):
    """Queues, roles, log groups, task definitions and services of algorithms."""

    async def observe(self, algo_id: str) -> Observed:
        """What is there."""

    async def worker_counts(self, algo_ids: Sequence[str]) -> dict[str, int]:
        """The desired count of each algorithm's service; those without a service are left out.

        Cheap: it is asked each minute for every algorithm that is scaled.
        """

    async def create_queues(self, algo_id: str) -> None:
        """The job queue and its dead-letter queue."""

    async def put_role(self, algo_id: str, *, legacy_output_keys: bool) -> None:
        """The role, with exactly the contract's permissions."""

    async def create_log_group(self, algo_id: str) -> None:
        """Where the workers log."""

    async def register_task_definition(self, spec: AlgorithmSpec, *, revision: int) -> None:
        """A task definition for the spec's fingerprint, named after ``revision``.

        PermanentError when the engine can't run the spec.
        """

    async def put_service(self, algo_id: str, *, task_fingerprint: str, desired_count: int) -> None:
        """Create the service, or move it to this task definition and count."""

    async def delete_service(self, algo_id: str) -> None:
        """Let the workers finish, then no more."""

    async def delete_task_definition(self, algo_id: str, task_fingerprint: str) -> None:
        """Forget one task definition."""

    async def delete_queues(self, algo_id: str) -> None:
        """The queue and the dead-letter queue, with what they hold."""

    async def delete_role(self, algo_id: str) -> None:
        """The role."""

    async def delete_log_group(self, algo_id: str) -> None:
        """The log group and its logs."""


class WorkerCounts(Protocol):
    """The one thing of :class:`Resources` that clients may know."""

    async def worker_counts(self, algo_ids: Sequence[str]) -> dict[str, int]:
        """The desired count of each algorithm's service; those without a service are left out."""


@dataclass(frozen=True)
class LogLines:
    """Lines of a log group, oldest first; ``cursor`` leads to what comes after them.

    ``gap``: lines before these may be missing, because the cursor's place is gone.
    """

    lines: tuple[str, ...]
    cursor: str
    gap: bool = False


class Logs(Protocol):
    """The log groups, to read."""

    async def read(self, algo_id: str, *, lines: int, cursor: str | None = None) -> LogLines:
        """The newest lines; with a ``cursor``, the first of those that have come since.

        InvalidRequest ``INVALID_CURSOR`` for one that was never given.
        """
