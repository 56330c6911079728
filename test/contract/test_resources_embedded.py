"""The contract of an algorithm's resources on the embedded engine."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from embedded_engine import running_engine

from medical_image_processing.testing.resources_contract import EnginePorts, ResourcesContract


class TestEmbeddedResources(ResourcesContract):
    def run(self, work: Callable[[EnginePorts], Awaitable[None]]) -> None:
        async def with_engine(folder: str) -> None:
            async with running_engine(Path(folder)) as ports:
                await work(ports)

        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(with_engine(folder))
