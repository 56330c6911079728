"""The contract of an algorithm's resources on the embedded engine, with either runtime."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from embedded_engine import ContainerWorkers, Workers, running_engine

from docker_engine import DockerEngine
from medical_image_processing.testing import puppet
from medical_image_processing.testing.resources_contract import (
    ALGO,
    EnginePorts,
    ResourcesContract,
    eventually,
    provide,
)


def _run(folder: Path, workers: Workers | None, work: Callable[[EnginePorts], Awaitable[None]]) -> None:
    async def with_engine() -> None:
        async with running_engine(folder, workers) as ports:
            await work(ports)

    asyncio.run(with_engine())


class TestEmbeddedResources(ResourcesContract):
    @pytest.fixture(autouse=True)
    def _set_up(self, tmp_path: Path) -> None:
        self._folder = tmp_path

    def run(self, work: Callable[[EnginePorts], Awaitable[None]]) -> None:
        _run(self._folder, None, work)

    def test_a_service_is_well_again_by_itself_once_its_workers_stay_up(self) -> None:
        late = self._folder / "late"

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


class TestEmbeddedResourcesInContainers(ResourcesContract):
    @pytest.fixture(autouse=True)
    def _set_up(self, tmp_path: Path, docker_engine: DockerEngine, puppet_image: str) -> None:
        self._folder = tmp_path
        self._docker = docker_engine.host
        self._image = puppet_image

    def run(self, work: Callable[[EnginePorts], Awaitable[None]]) -> None:
        _run(self._folder, ContainerWorkers(self._docker, self._image), work)
