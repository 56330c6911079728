"""The registry in DynamoDB: ports.registry.

A record is one item, and each change of a desired state is one transaction with its audit entry (R4). Writers
compare the whole record that they read, not its revision alone: the provisioner's findings don't raise the
revision, and must not be lost to a change that was under way meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medical_image_processing.engines.aws.audit import DynamoAudit
from medical_image_processing.engines.aws.tables import ConditionFailed, Item, Table
from medical_image_processing.errors import Conflict, InvalidRequest, NotFound, StaleRevision, Unavailable
from medical_image_processing.model.algorithm import Algorithm, AlgorithmSpec, AlgorithmStatus, ResourceStatus
from medical_image_processing.model.page import Page
from medical_image_processing.model.timestamps import to_iso

MAX_RECORD_BYTES = 65_536
"""What a task definition may have (Amazon ECS developer guide, "Service quotas"); an item of DynamoDB, 400 KB."""

_TRIES = 10
_UNCHANGED = "#record = :read"


class DynamoRegistry:
    """Implements :class:`ports.registry.Registry`."""

    def __init__(self, table: Table, audit: DynamoAudit, *, clock: Callable[[], float]) -> None:
        self._table = table
        self._audit = audit
        self._clock = clock

    async def get(self, algo_id: str) -> Algorithm | None:
        """The record, or None."""
        item = await self._table.get({"algorithm_id": algo_id})
        return Algorithm.model_validate_json(item["record"]) if item else None

    async def page(
        self, *, status: AlgorithmStatus | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[Algorithm]:
        """One page, ordered by id. Each reads the whole table, which is small: a line an algorithm."""
        given: dict[str, Any] = {}
        if status is not None:
            given = {"where": "#status = :status", "values": {"status": status.value}}
        items = [item for item in await self._table.scan(**given) if item["algorithm_id"] > (cursor or "")]
        items.sort(key=lambda item: str(item["algorithm_id"]))
        records = tuple(Algorithm.model_validate_json(item["record"]) for item in items[:limit])
        return Page(records, records[-1].algorithm_id if len(items) > limit else None)

    async def create(self, spec: AlgorithmSpec, *, actor: str) -> Algorithm:
        """A new record, PENDING, revision 1. InvalidRequest ``RECORD_TOO_LARGE``."""
        now = to_iso(self._clock())
        record = Algorithm(
            **spec.model_dump(), status=AlgorithmStatus.PENDING, revision=1, created_at=now, updated_at=now
        )
        insert = self._table.put_action(_item(record), condition="attribute_not_exists(#algorithm_id)")
        entry = self._audit.action(actor, "register", spec.algorithm_id, _details(record))
        try:
            await self._table.transact([insert, entry])
        except ConditionFailed as error:
            raise Conflict(
                "ALGORITHM_EXISTS",
                f"'{spec.algorithm_id}' is registered with another body; PATCH it, or choose another id",
            ) from error
        return record

    async def update(
        self, spec: AlgorithmSpec, *, status: AlgorithmStatus, based_on: int, actor: str, action: str
    ) -> Algorithm:
        """Replace the desired state of revision ``based_on``."""
        for _ in range(_TRIES):
            old, read = await self._load(spec.algorithm_id, based_on)
            changes = {**spec.model_dump(), "status": status, "revision": based_on + 1}
            now = to_iso(self._clock())
            record = old.model_copy(update={**changes, "status_reason": None, "updated_at": now})
            replace = self._table.put_action(_item(record), condition=_UNCHANGED, values={"read": read})
            entry = self._audit.action(actor, action, spec.algorithm_id, _details(record))
            try:
                await self._table.transact([replace, entry])
            except ConditionFailed:
                continue
            return record
        raise _contended(spec.algorithm_id)

    async def set_status(
        self,
        algo_id: str,
        *,
        revision: int,
        status: AlgorithmStatus,
        reason: str | None,
        resources: ResourceStatus,
    ) -> None:
        """What the provisioner found. What is on record already is not written again: each write wakes it."""
        for _ in range(_TRIES):
            old, read = await self._load(algo_id, revision)
            found = {"status": status, "status_reason": reason, "resource_status": resources}
            if (record := old.model_copy(update=found)) == old:
                return
            record = record.model_copy(update={"updated_at": to_iso(self._clock())})
            try:
                await self._table.put(_item(record), condition=_UNCHANGED, values={"read": read})
            except ConditionFailed:
                continue
            return
        raise _contended(algo_id)

    async def remove(self, algo_id: str, *, revision: int, actor: str) -> None:
        """Forget the record; the audit entries stay."""
        delete = self._table.delete_action(
            {"algorithm_id": algo_id}, condition="#revision = :revision", values={"revision": revision}
        )
        entry = self._audit.action(actor, "removed", algo_id, {"revision": revision})
        try:
            await self._table.transact([delete, entry])
        except ConditionFailed:
            await self._load(algo_id, revision)  # says what is wrong
            raise _contended(algo_id) from None

    async def _load(self, algo_id: str, revision: int) -> tuple[Algorithm, str]:
        """The record, and its text as it stands in the table. NotFound, StaleRevision."""
        item = await self._table.get({"algorithm_id": algo_id})
        if item is None:
            raise NotFound("UNKNOWN_ALGORITHM", f"no algorithm '{algo_id}' is registered")
        if item["revision"] != revision:
            newest = item["revision"]
            raise StaleRevision(
                "STALE_REVISION",
                f"'{algo_id}' is at revision {newest}, not {revision}; read it again and redo the change",
                details={"revision": newest},
            )
        return Algorithm.model_validate_json(item["record"]), item["record"]


def _item(record: Algorithm) -> Item:
    text = record.model_dump_json()
    if len(text.encode()) > MAX_RECORD_BYTES:
        raise InvalidRequest(
            "RECORD_TOO_LARGE",
            f"the record has more than {MAX_RECORD_BYTES} bytes, more than a task on AWS can be given; "
            "shorten command and env",
        )
    return {
        "algorithm_id": record.algorithm_id,
        "status": record.status.value,
        "revision": record.revision,
        "record": text,
    }


def _details(record: Algorithm) -> dict[str, Any]:
    """What was decided, without the values of env, which may hold secrets."""
    spec = record.spec().model_dump(mode="json")
    return {**spec, "env": sorted(record.env), "revision": record.revision}


def _contended(algo_id: str) -> Unavailable:
    return Unavailable("RECORD_BUSY", f"'{algo_id}' is being changed by others all the time; try again")
