"""What waits and how jobs have gone: the contract on the embedded engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from medical_image_processing import naming
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.jobs import SqliteJobs
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.workload import SqliteWorkload
from medical_image_processing.ports.jobs import DEAD_LETTERED
from medical_image_processing.ports.workload import MOST_PLACES
from medical_image_processing.testing.jobs_contract import ALGO, a_message, failed
from medical_image_processing.testing.workload_contract import WorkloadContract, WorkloadPorts


class Clock:
    def __init__(self) -> None:
        self._ahead_s = 0.0

    def now(self) -> float:
        return time.time() + self._ahead_s

    def move(self, seconds: float) -> None:
        self._ahead_s += seconds


class TestEmbeddedWorkload(WorkloadContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.file = tmp_path / "mip.db"
        self.most_places = MOST_PLACES

    def run(self, work: Callable[[WorkloadPorts], Awaitable[None]]) -> None:
        async def with_engine() -> None:
            clock, database = Clock(), Database(self.file)
            queues = FifoQueues(database, clock=clock.now)
            for algo_id in (ALGO, "kidney"):
                await queues.create(naming.queue(algo_id), redrive_to=None, visibility_s=3600)
            jobs = SqliteJobs(database, queues, clock=clock.now)
            workload = SqliteWorkload(database, clock=clock.now, most_places=self.most_places)
            try:
                await work(WorkloadPorts(workload, jobs, queues, clock.move, clock.now))
            finally:
                queues.close()
                await database.close()

        asyncio.run(with_engine())

    def test_w1_further_behind_no_job_is_numbered(self) -> None:
        self.most_places = 3

        async def work(ports: WorkloadPorts) -> None:
            for number in range(5):
                await ports.jobs.accept(a_message(f"j{number}"), "same")
            jobs = (await ports.jobs.page()).items
            assert await ports.workload.positions(jobs) == {"j0": 1, "j1": 2, "j2": 3}

        self.run(work)

    def test_w1_a_replayed_job_stands_at_the_back_again(self) -> None:
        async def work(ports: WorkloadPorts) -> None:
            for name in ("dead", "j1", "j2"):
                await ports.jobs.accept(a_message(name), "same")
            [message] = await ports.queues.receive(naming.queue(ALGO), limit=1, wait_s=0)
            await ports.jobs.apply([failed("dead", DEAD_LETTERED)])
            await ports.queues.delete(naming.queue(ALGO), [message.receipt_handle])
            await ports.jobs.replay("dead", actor="anna")
            jobs = (await ports.jobs.page()).items
            assert await ports.workload.positions(jobs) == {"j1": 1, "j2": 2, "dead": 3}

        self.run(work)
