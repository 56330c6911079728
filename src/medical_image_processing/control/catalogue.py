"""The algorithms as their users see them: what they are for and what they take, and how busy they are.

No image, environment or command: those are between the admin and the platform.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from medical_image_processing import naming
from medical_image_processing.model.algorithm import Algorithm, AlgorithmStatus
from medical_image_processing.model.page import Page
from medical_image_processing.ports.queues import Queues
from medical_image_processing.ports.registry import Registry
from medical_image_processing.ports.resources import WorkerCounts


@dataclass(frozen=True)
class Offer:
    """An algorithm, the messages on its queue, and how many workers it is to have now."""

    record: Algorithm
    queue_depth: int
    workers: int


class Catalogue:
    """Reads the registry for clients."""

    def __init__(self, registry: Registry, queues: Queues, workers: WorkerCounts) -> None:
        self._registry = registry
        self._queues = queues
        self._workers = workers

    async def page(self, *, status: AlgorithmStatus | None, limit: int, cursor: str | None) -> Page[Offer]:
        """One page, by id."""
        page = await self._registry.page(status=status, limit=limit, cursor=cursor)
        ids = [record.algorithm_id for record in page.items]
        counts, depths = await asyncio.gather(
            self._workers.worker_counts(ids),
            asyncio.gather(*(self._queues.depth(naming.queue(algo_id)) for algo_id in ids)),
        )
        offers = [
            Offer(record, depth, counts.get(record.algorithm_id, 0))
            for record, depth in zip(page.items, depths, strict=True)
        ]
        return Page(tuple(offers), page.next_cursor)
