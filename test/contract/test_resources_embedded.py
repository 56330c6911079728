"""The contract of an algorithm's resources on the embedded engine, with either runtime."""

from embedded_engine import InContainers, OnProcesses

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
    pass
