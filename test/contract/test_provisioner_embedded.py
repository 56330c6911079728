"""The laws of provisioning on the embedded engine, with either runtime."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from embedded_engine import ContainerWorkers, Workers, running_engine

from docker_engine import DockerEngine
from medical_image_processing.testing.provisioner_contract import ProvisionerContract
from medical_image_processing.testing.resources_contract import EnginePorts


def _run(folder: Path, workers: Workers | None, work: Callable[[EnginePorts], Awaitable[None]]) -> None:
    async def with_engine() -> None:
        async with running_engine(folder, workers) as ports:
            await work(ports)

    asyncio.run(with_engine())


class TestEmbeddedProvisioner(ProvisionerContract):
    @pytest.fixture(autouse=True)
    def _set_up(self, tmp_path: Path) -> None:
        self._folder = tmp_path

    def run(self, work: Callable[[EnginePorts], Awaitable[None]]) -> None:
        _run(self._folder, None, work)


class TestEmbeddedProvisionerInContainers(ProvisionerContract):
    @pytest.fixture(autouse=True)
    def _set_up(self, tmp_path: Path, docker_engine: DockerEngine, puppet_image: str) -> None:
        self._folder = tmp_path
        self._docker = docker_engine.host
        self._image = puppet_image

    def run(self, work: Callable[[EnginePorts], Awaitable[None]]) -> None:
        _run(self._folder, ContainerWorkers(self._docker, self._image), work)
