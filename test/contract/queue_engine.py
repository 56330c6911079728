"""The embedded queues under a clock of the test's own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.ports.queues import ReceivedMessage
from medical_image_processing.testing.queues_contract import DEAD, MAX_RECEIVES, QUEUE, VISIBILITY_S


class EmbeddedQueueEngine:
    """Implements testing.queues_model.ModelledEngine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.now = 0.0
        self.deaths = 0
        self.database: Database
        self.queues: FifoQueues

    async def open(self) -> None:
        self.database = Database(self._path)
        self.queues = FifoQueues(self.database, clock=lambda: self.now, on_dead_letter=self._count_death)

    async def create(self) -> None:
        await self.queues.create(DEAD, redrive_to=None)
        await self.queues.create(QUEUE, redrive_to=DEAD, max_receives=MAX_RECEIVES, visibility_s=VISIBILITY_S)

    async def close(self) -> None:
        self.queues.close()
        await self.database.close()

    async def restart(self) -> None:
        await self.close()
        await self.open()

    async def change_visibility(self, queue: str, receipt_handle: str, seconds: int) -> bool:
        return (await self.queues.change_visibility(queue, [(receipt_handle, seconds)])) == [None]

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds
        await self.queues.sweep()

    async def receive_as(self, receiver: str, limit: int) -> list[ReceivedMessage]:
        return await self.queues.receive(QUEUE, limit=limit, receiver=receiver)

    async def release(self, receiver: str, *, counted: bool) -> int:
        return await self.queues.release(receiver, counted=counted)

    def _count_death(self) -> None:
        self.deaths += 1


@contextlib.asynccontextmanager
async def queue_engine(path: Path) -> AsyncIterator[EmbeddedQueueEngine]:
    """An engine with the contract's two queues."""
    engine = EmbeddedQueueEngine(path)
    await engine.open()
    await engine.create()
    try:
        yield engine
    finally:
        await engine.close()
