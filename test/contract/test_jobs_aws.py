"""The job records' contract on the AWS engine, and what only it must see to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from aws_engine import AwsStores, fresh_stores

from aws_emulator import AwsEmulator
from medical_image_processing.testing.jobs_contract import ALGO, JobPorts, JobsContract


@pytest.fixture
def stores(aws_emulator: AwsEmulator) -> AwsStores:
    return fresh_stores(aws_emulator)


class TestAwsJobs(JobsContract):
    @pytest.fixture(autouse=True)
    def _stores(self, stores: AwsStores) -> None:
        self.stores = stores

    def run(self, work: Callable[[JobPorts], Awaitable[None]]) -> None:
        async def with_algorithm(stores: AwsStores) -> None:
            await stores.register(ALGO)
            await work(JobPorts(stores.jobs, stores.queues))

        self.stores.run(with_algorithm)
