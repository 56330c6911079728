"""What the contract suites of the AWS engine share: one emulator with containers, one image."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aws_workers import Fargate

from aws_emulator import EmulatorMissing, running_emulator
from docker_engine import DockerEngine
from image_registry import RegistryMissing, running_registry


@pytest.fixture(scope="session")
def fargate(samples_cache: Path, docker_engine: DockerEngine, puppet_image: str) -> Iterator[Fargate]:
    """AWS with containers and with IAM enforced. Each test takes an account of its own."""
    try:
        with (
            running_registry() as registry,
            running_emulator(samples_cache, docker_host=docker_engine.host, enforce_iam=True) as emulator,
            ThreadPoolExecutor(1) as cleaner,
        ):
            yield Fargate(emulator, docker_engine.host, registry.push(docker_engine, puppet_image), cleaner)
    except (EmulatorMissing, RegistryMissing) as error:
        pytest.skip(str(error))
