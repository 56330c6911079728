"""What waits and how jobs have gone: the contract on the AWS engine, and its bounds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from aws_engine import AwsStores, fresh_stores

from aws_emulator import AwsEmulator
from aws_tables import JOBS, table
from medical_image_processing.engines.aws import workload
from medical_image_processing.engines.aws.workload import DynamoWorkload
from medical_image_processing.testing.jobs_contract import ALGO, a_message
from medical_image_processing.testing.workload_contract import WorkloadContract, WorkloadPorts


class TestAwsWorkload(WorkloadContract):
    @pytest.fixture(autouse=True)
    def _stores(self, aws_emulator: AwsEmulator) -> None:
        self.stores = fresh_stores(aws_emulator)

    def run(self, work: Callable[[WorkloadPorts], Awaitable[None]]) -> None:
        async def with_algorithms(stores: AwsStores) -> None:
            def move(seconds: float) -> None:
                stores.ahead_s += seconds

            for algo_id in (ALGO, "kidney"):
                await stores.register(algo_id)
            looked_at = DynamoWorkload(table(stores.clients, JOBS), stores.queues, clock=stores.clock)
            await work(WorkloadPorts(looked_at, stores.jobs, stores.queues, move, stores.clock))

        self.stores.run(with_algorithms)

    def test_w1_w3_a_look_reads_so_many_and_no_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workload, "MOST_PLACES", 3)
        monkeypatch.setattr(workload, "MOST_ENDS", 2)

        async def work(ports: WorkloadPorts) -> None:
            for number in range(5):
                await ports.jobs.accept(a_message(f"j{number}"), "same")
            jobs = (await ports.jobs.page()).items
            assert await ports.workload.positions(jobs) == {"j0": 1, "j1": 2, "j2": 3}
            for number in range(5):
                await ports.jobs.cancel(f"j{number}", actor="anna")
            found = await ports.workload.ends(ALGO, since=0, limit=100)
            assert len(found.ends) == 2 and found.complete_since > 0

        self.run(work)
