"""Drives reconciliation: whatever changed at once, everything now and then, failures with backoff."""

from __future__ import annotations

import asyncio
import logging

from medical_image_processing.control.provisioner.apply import Applier
from medical_image_processing.control.provisioner.observe import observe
from medical_image_processing.control.provisioner.plan import SetStatus, Step, plan
from medical_image_processing.errors import MipError, NotFound, StaleRevision
from medical_image_processing.model.algorithm import Algorithm, AlgorithmStatus
from medical_image_processing.ports.jobs import Jobs
from medical_image_processing.ports.push import Push
from medical_image_processing.ports.registry import Registry
from medical_image_processing.ports.resources import Resources

_LOG = logging.getLogger(__name__)
_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 60.0
_MOST_ROUNDS = 10


class Provisioner:
    """Makes what is into what should be, one algorithm at a time (laws P1 to P7)."""

    def __init__(
        self, registry: Registry, resources: Resources, jobs: Jobs, push: Push, *, sweep_every_s: float = 30.0
    ) -> None:
        self._registry = registry
        self._resources = resources
        self._applier = Applier(registry, resources, jobs, push)
        self._sweep_every_s = sweep_every_s
        self._changed: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._failures: dict[str, int] = {}

    def notify(self, algo_id: str) -> None:
        """The algorithm's record, or what runs for it, has changed."""
        if algo_id not in self._queued:
            self._queued.add(algo_id)
            self._changed.put_nowait(algo_id)

    async def run(self) -> None:
        """Reconcile until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._sweep())

    async def reconcile(self, algo_id: str) -> tuple[Step, ...]:
        """Plan and apply until the plan is empty; the steps that were taken.

        A failure is written to the record (law P5) and raised.
        """
        taken: list[Step] = []
        for _ in range(_MOST_ROUNDS):
            situation = await observe(algo_id, self._registry, self._resources)
            if situation is None or not (steps := plan(situation)):
                break
            for step in steps:
                await self._apply(step, situation.record)
                taken.append(step)
        return tuple(taken)

    async def _apply(self, step: Step, record: Algorithm) -> None:
        try:
            await self._applier.apply(step, record)
        except (StaleRevision, NotFound):
            raise
        except MipError as error:
            await self._applier.apply(SetStatus(_failed(record), error.message), record)
            raise

    async def _follow(self) -> None:
        while True:
            algo_id = await self._changed.get()
            self._queued.discard(algo_id)
            try:
                await self.reconcile(algo_id)
                self._failures.pop(algo_id, None)
            except StaleRevision:
                self.notify(algo_id)
            except Exception as error:
                self._retry_later(algo_id, error)

    def _retry_later(self, algo_id: str, error: Exception) -> None:
        tries = self._failures[algo_id] = self._failures.get(algo_id, 0) + 1
        delay = min(_FIRST_RETRY_S * 2 ** (tries - 1), _LAST_RETRY_S)
        expected = isinstance(error, MipError)
        _LOG.warning("provisioning %s failed, again in %.0f s: %s", algo_id, delay, error, exc_info=not expected)
        asyncio.get_running_loop().call_later(delay, self.notify, algo_id)

    async def _sweep(self) -> None:
        while True:
            cursor: str | None = None
            while True:
                page = await self._registry.page(limit=100, cursor=cursor)
                for record in page.items:
                    self.notify(record.algorithm_id)
                    await asyncio.sleep(0.005)  # thousands of records must not hold up the jobs
                if (cursor := page.next_cursor) is None:
                    break
            await asyncio.sleep(self._sweep_every_s)


def _failed(record: Algorithm) -> AlgorithmStatus:
    """A deletion that fails goes on being one: it is retried, and its reason shown."""
    return record.status if record.status is AlgorithmStatus.DELETING else AlgorithmStatus.FAILED
