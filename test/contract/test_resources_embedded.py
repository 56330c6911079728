"""The contract of an algorithm's resources on the embedded engine, with either runtime."""

import asyncio

from embedded_engine import InContainers, OnProcesses

from medical_image_processing.model.job import JobStatus
from medical_image_processing.testing import puppet
from medical_image_processing.testing.resources_contract import (
    ALGO,
    EnginePorts,
    ResourcesContract,
    eventually,
    provide,
)


class TestResourcesOnProcesses(OnProcesses, ResourcesContract):
    def test_a_service_is_well_again_by_itself_once_its_workers_stay_up(self) -> None:
        late = self.folder / "late"

        async def work(ports: EnginePorts) -> None:
            async def fails() -> bool:
                service = (await ports.resources.observe(ALGO)).service
                return bool(service and service.failure)

            async def is_well() -> bool:
                return not await fails()

            await provide(ports, ports.spec(env={"PYTHONPATH": str(late)}))
            await eventually(fails, "its workers find no algorithm")
            puppet.install(late)
            await eventually(is_well, "its workers stay up")

        self.run(work)


class TestResourcesInContainers(InContainers, ResourcesContract):
    def test_p3_what_should_not_run_is_removed_and_a_network_that_was_removed_comes_back(self) -> None:
        async def work(ports: EnginePorts) -> None:
            await provide(ports, ports.spec(desired_count=0))
            workers = self.workers
            await asyncio.to_thread(workers.leave_behind)
            await workers.runtime.sweep()
            assert await asyncio.to_thread(workers.left_behind) == 0
            await asyncio.to_thread(workers.remove_network)
            await workers.runtime.sweep()
            await provide(ports, ports.spec(desired_count=1))
            await ports.submit("after")
            await ports.until("after", JobStatus.SUCCEEDED)

        self.run(work)
