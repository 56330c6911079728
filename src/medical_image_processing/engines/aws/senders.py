"""Whose credentials sent a message: SQS tells a task role by its unique id only.

The table of keys has an item ``role#AROA…`` for each role that was ever made for an algorithm. It is written
before the role may do anything, and stays when the role goes: what a worker said last may be read after that, and
IAM gives no id twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from medical_image_processing.engines.aws.tables import ConditionFailed, Item, Table

_AGAIN_S = 5.0
"""How long a role that is not on record counts as unknown without another look."""


class TaskRoles:
    """The algorithms' roles by id, in the table of keys. ``clock`` gives monotonic seconds."""

    def __init__(self, table: Table, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = table
        self._clock = clock
        self._algos: dict[str, str] = {}
        self._unknown_at: dict[str, float] = {}

    async def keep(self, role_id: str, algo_id: str) -> None:
        """The role with this id is the algorithm's, for ever."""
        try:
            item = {**_key(role_id), "algo_id": algo_id}
            await self._table.put(item, condition="attribute_not_exists(#pk)")
        except ConditionFailed:
            pass  # on record already
        self._unknown_at.pop(role_id, None)

    async def algo_of(self, role_id: str) -> str | None:
        """The algorithm that has or had the role with this id (``AROA…``); None for a role of no algorithm."""
        if role_id in self._algos:
            return self._algos[role_id]
        now = self._clock()
        if now - self._unknown_at.get(role_id, float("-inf")) < _AGAIN_S:
            return None
        item = await self._table.get(_key(role_id))
        if item is None:
            self._unknown_at[role_id] = now
            return None
        self._algos[role_id] = str(item["algo_id"])
        return self._algos[role_id]


def _key(role_id: str) -> Item:
    return {"pk": f"role#{role_id}"}
