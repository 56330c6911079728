"""Pages of jobs, newest first, out of the indexes that are sorted so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from medical_image_processing.engines.aws.job_items import SHARDS, day_key, days_back_from, to_job
from medical_image_processing.engines.aws.tables import Item, Table
from medical_image_processing.model.job import Job, JobStatus
from medical_image_processing.model.page import Page

_DAYS = 105  # a queue keeps a message for 14 days, and a record stays 90 more
_BATCH = 100
_MOST_LOOKED_AT = 2000


class Listings:
    """What GET /jobs shows. The indexes follow the table within moments."""

    def __init__(self, table: Table, *, clock: Callable[[], float]) -> None:
        self._table = table
        self._clock = clock

    async def page(
        self,
        *,
        client_ids: Sequence[str] | None,
        status: JobStatus | None,
        algo_id: str | None,
        limit: int,
        cursor: str | None,
    ) -> Page[Job]:
        """One page. After a look at many jobs of which few are asked for it ends early, with a cursor."""
        found: list[Item] = []
        looked_at, place = 0, cursor
        sieved = status is not None or (client_ids is not None and algo_id is not None)
        batch = max(limit + 1, _BATCH) if sieved else limit + 1
        while True:
            items, last = await self._newest(client_ids, algo_id, below=place, limit=batch)
            found += [item for item in items if _fits(item, status, algo_id)]
            if last is None or len(found) > limit:
                break
            place, looked_at = last, looked_at + batch
            if looked_at >= _MOST_LOOKED_AT:
                return Page(tuple(map(to_job, found)), place)
        page = found[:limit]
        return Page(tuple(map(to_job, page)), str(page[-1]["seq"]) if len(found) > limit else None)

    async def _newest(
        self, client_ids: Sequence[str] | None, algo_id: str | None, *, below: str | None, limit: int
    ) -> tuple[list[Item], str | None]:
        """The jobs that come next, and the ``seq`` of the last one looked at, None when there are no more."""
        if client_ids is not None:
            keys = await self._merged("by_client", "client_id", client_ids, below, limit)
        elif algo_id is not None:
            keys = await self._merged("by_algorithm", "algo_id", [algo_id], below, limit)
        else:
            keys = await self._by_day(below, limit)
        items = await self._table.get_all({"job_id": key["job_id"]} for key in keys)
        items.sort(key=lambda item: str(item["seq"]), reverse=True)
        return items, str(keys[-1]["seq"]) if len(keys) == limit else None

    async def _by_day(self, below: str | None, limit: int) -> list[Item]:
        """Day by day, and faster the less there is."""
        found: list[Item] = []
        days = days_back_from(below, self._clock(), _DAYS)
        at_once = 1
        while days and len(found) < limit:
            keys = [day_key(day, shard) for day in days[:at_once] for shard in range(SHARDS)]
            found += await self._merged("by_day", "day", keys, below, limit - len(found))
            days, at_once = days[at_once:], at_once * 2
        return found

    async def _merged(
        self, index: str, name: str, values: Sequence[str], below: str | None, limit: int
    ) -> list[Item]:
        """The newest of several partitions of an index."""
        where = f"#{name} = :value" + (" AND #seq < :below" if below else "")
        of_each = await asyncio.gather(
            *(
                self._table.query(where, {"value": value, "below": below}, index=index, forward=False, limit=limit)
                for value in dict.fromkeys(values)
            )
        )
        return sorted((item for items in of_each for item in items), key=_seq, reverse=True)[:limit]


def _seq(item: Item) -> str:
    return str(item["seq"])


def _fits(item: Item, status: JobStatus | None, algo_id: str | None) -> bool:
    return (status is None or item["status"] == status.value) and (algo_id is None or item["algo_id"] == algo_id)
