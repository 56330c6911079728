"""The indexes of open jobs and of those yet to be sent, which have these alone, however many have ended.

They follow the table within moments, so what they name is looked up there before anything is decided.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from medical_image_processing.engines.aws.job_items import SHARDS, is_open, moment, taken_in_at
from medical_image_processing.engines.aws.tables import Item, Table
from medical_image_processing.ports.registry import Registry

_INDEX = "open"
_OF_ALGORITHM = "#open_algo = :algo_id"
_WINDOW = 300
_UNSENT_WINDOW = 50
"""Of each shard: a sweep has less than a minute, and each of them takes two calls."""


class OpenJobs:
    """Implements :class:`engines.aws.queues.OpenJobs`; also finds what must be looked after."""

    def __init__(self, table: Table, registry: Registry) -> None:
        self._table = table
        self._registry = registry
        self._place: Item | None = None
        self._unsent_behind = [""] * SHARDS

    async def algorithms(self) -> Sequence[str]:
        """Those of the registry that have open jobs."""
        ids: list[str] = []
        cursor: str | None = None
        while True:
            page = await self._registry.page(limit=1000, cursor=cursor)
            ids += [record.algorithm_id for record in page.items]
            if (cursor := page.next_cursor) is None:
                break
        has_some = await asyncio.gather(*(self._has_some(algo_id) for algo_id in ids))
        return [algo_id for algo_id, some in zip(ids, has_some, strict=True) if some]

    async def has_another_message(self, job_id: str, message_id: str, dedup_id: str) -> bool:
        """Whether the job is open and was sent, or is about to be, with a newer message than this one."""
        item = await self._table.get({"job_id": job_id}) if job_id else None
        if item is None or not is_open(item) or item.get("message_id") == message_id:
            return False
        return bool(dedup_id) and dedup_id != item["dedup"]

    async def count(self, algo_id: str) -> int:
        """Jobs of an algorithm that are QUEUED or RUNNING."""
        return await self._table.count(_OF_ALGORITHM, {"algo_id": algo_id}, index=_INDEX)

    async def of(self, algo_id: str) -> list[str]:
        """The open jobs of an algorithm, oldest first."""
        found = await self._table.query(_OF_ALGORITHM, {"algo_id": algo_id}, index=_INDEX)
        return [item["job_id"] for item in found]

    async def oldest_at(self) -> float | None:
        """When the job that is open for longest was taken in, epoch seconds; None when none is."""
        of_algorithms = await asyncio.gather(*(self._first(algo_id) for algo_id in await self.algorithms()))
        first = [str(item["seq"]) for items in of_algorithms for item in items]
        return taken_in_at(min(first)) if first else None

    async def look(self) -> list[Item]:
        """Some of the open jobs; the next call goes on from there, and at the end begins again."""
        window, self._place = await self._table.scan_index(_INDEX, limit=_WINDOW, after=self._place)
        items = await self._table.get_all({"job_id": found["job_id"]} for found in window)
        return sorted((item for item in items if is_open(item)), key=lambda item: str(item["seq"]))

    async def unsent(self, before: float) -> list[Item]:
        """Jobs that were to be sent before that time and were not, however many others are open, oldest first.

        Of very many, some: the next call goes on from there, and at the end begins again.
        """
        until = moment(before)
        shards = await asyncio.gather(*(self._unsent(shard, until) for shard in range(SHARDS)))
        items = await self._table.get_all({"job_id": key["job_id"]} for keys in shards for key in keys)
        left = [item for item in items if is_open(item) and "unsent" in item]
        return sorted(left, key=lambda item: str(item["unsent_since"]))

    async def _unsent(self, shard: int, until: str) -> list[Item]:
        behind = self._unsent_behind[shard] or "0"
        if behind > until:
            behind = "0"  # DynamoDB wants the bounds in their order
        keys = await self._table.query(
            "#unsent = :shard AND #unsent_since BETWEEN :behind AND :until",
            {"shard": str(shard), "behind": behind, "until": until},
            index="unsent",
            limit=_UNSENT_WINDOW,
        )
        goes_on = len(keys) == _UNSENT_WINDOW
        self._unsent_behind[shard] = f"{keys[-1]['unsent_since']}~" if goes_on else ""
        return keys

    async def _has_some(self, algo_id: str) -> bool:
        return bool(await self._first(algo_id))

    async def _first(self, algo_id: str) -> list[Item]:
        return await self._table.query(_OF_ALGORITHM, {"algo_id": algo_id}, index=_INDEX, limit=1)
