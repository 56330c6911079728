"""The registry's contract on the embedded engine."""

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.keys import SqliteKeys
from medical_image_processing.engines.embedded.registry import SqliteRegistry
from medical_image_processing.testing.registry_contract import RegistryContract, RegistryPorts


class TestEmbeddedRegistry(RegistryContract):
    def run(self, work: Callable[[RegistryPorts], Awaitable[None]]) -> None:
        async def with_engine(folder: str) -> None:
            database = Database(Path(folder, "mip.db"))

            def audit(subject: str) -> list[str]:
                rows = database.read("SELECT actor, action, details FROM audit WHERE subject = ?", subject)
                return [f"{row['actor']} {row['action']} {json.loads(row['details'])}" for row in rows]

            registry = SqliteRegistry(database, clock=time.time)
            try:
                await work(RegistryPorts(registry, SqliteKeys(database, clock=time.time), audit))
            finally:
                await database.close()

        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(with_engine(folder))
