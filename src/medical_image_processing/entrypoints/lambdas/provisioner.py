"""``handler``: reconciles algorithms: whose record changed, whose tasks did, and all of them every few minutes.

A failure is on the record once ``reconcile`` raises (law P5). One that may pass is tried again: by AWS, as it
keeps the event, or by the next sweep. One that won't is only counted, so that it holds up nobody else's change.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from medical_image_processing import naming
from medical_image_processing.control.provisioner.loop import Provisioner
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.entrypoints.lambdas import metrics
from medical_image_processing.entrypoints.lambdas.assembly import create_provisioner
from medical_image_processing.entrypoints.lambdas.runtime import Invocation, Work, lambda_handler
from medical_image_processing.errors import MipError, StaleRevision, TransientError, Unavailable
from medical_image_processing.model.algorithm import Algorithm, AlgorithmStatus
from medical_image_processing.ports.registry import Registry

_LOG = logging.getLogger(__name__)
_AT_ONCE = 8
_PAGE = 100
_RESERVE_S = 45.0
"""A sweep begins no algorithm with less time than this left: its steps make some twenty calls."""
_SETTLED = (AlgorithmStatus.ACTIVE, AlgorithmStatus.INACTIVE)


def create(engine: AwsEngine) -> Work:
    """The work: of a DynamoDB stream, a schedule, or a state change of ECS."""
    reconciler = Reconciler(create_provisioner(engine), engine.registry)

    async def work(invocation: Invocation) -> Any:
        event = invocation.event
        if "Records" in event:
            return await reconciler.follow(event["Records"])
        if event.get("source") == "aws.ecs":
            return await reconciler.look_at(_algorithms_of(event))
        return await reconciler.sweep(invocation)

    return work


class Reconciler:
    """Reconciles several algorithms side by side, each by itself."""

    def __init__(self, provisioner: Provisioner, registry: Registry) -> None:
        self._provisioner = provisioner
        self._registry = registry

    async def follow(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """Reconcile what changed; the answer names the first record that must come again (DynamoDB streams go
        on from there)."""
        changed = [(algo_id, record) for record in records if (algo_id := _changed(record))]
        failed = await self._reconcile_all(dict(changed))
        again = [record["dynamodb"]["SequenceNumber"] for algo_id, record in changed if algo_id in failed]
        return {"batchItemFailures": [{"itemIdentifier": number} for number in again[:1]]}

    async def look_at(self, algo_ids: Iterable[str]) -> None:
        """Reconcile these. Unavailable when one should be looked at again."""
        if failed := await self._reconcile_all(algo_ids):
            raise Unavailable("PROVISIONING_FAILED", f"{', '.join(sorted(failed))} could not be looked after")

    async def sweep(self, invocation: Invocation) -> None:
        """Reconcile every algorithm, as far as time goes: first those that aren't as they should be."""
        unsettled: list[str] = []
        settled: list[str] = []
        async for record in self._records():
            (settled if record.status in _SETTLED else unsettled).append(record.algorithm_id)
        random.shuffle(settled)  # whoever comes last today must not do so always
        waiting = [*unsettled, *settled]
        while waiting and invocation.seconds_left > _RESERVE_S:
            await self._reconcile_all(waiting[:_AT_ONCE])
            del waiting[:_AT_ONCE]
        if waiting:
            _LOG.warning("the sweep ran out of time: %d algorithms wait for the next one", len(waiting))

    async def _reconcile_all(self, algo_ids: Iterable[str]) -> set[str]:
        """Those that failed and should be tried again."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def placed(algo_id: str) -> str | None:
            async with places:
                return None if await self._reconcile(algo_id) else algo_id

        done = await asyncio.gather(*map(placed, dict.fromkeys(algo_ids)))
        return {algo_id for algo_id in done if algo_id is not None}

    async def _reconcile(self, algo_id: str) -> bool:
        """Whether there is nothing to try again at once."""
        try:
            await self._provisioner.reconcile(algo_id)
        except StaleRevision:
            # Changed meanwhile, or reconciled by another event: either comes, or came, by itself.
            return True
        except Exception as error:
            metrics.emit(metrics.PROVISIONING_FAILURES, 1, algo_id=algo_id)
            expected = isinstance(error, MipError)
            _LOG.warning("provisioning %s failed: %s", algo_id, error if expected else type(error).__name__)
            if not expected:
                _LOG.warning("the place of that", exc_info=error)
            return not isinstance(error, TransientError)
        return True

    async def _records(self) -> AsyncIterator[Algorithm]:
        cursor: str | None = None
        while True:
            page = await self._registry.page(limit=_PAGE, cursor=cursor)
            for record in page.items:
                yield record
            if (cursor := page.next_cursor) is None:
                return


def _changed(record: dict[str, Any]) -> str | None:
    """The algorithm of a stream record that changes what should be; a status that was written does not."""
    images = record["dynamodb"]
    new, old = images.get("NewImage"), images.get("OldImage")
    if new is None or (old is not None and new["revision"] == old["revision"]):
        return None
    return str(new["algorithm_id"]["S"])


def _algorithms_of(event: dict[str, Any]) -> Iterator[str]:
    """Whose service an ECS event tells of (Amazon ECS, "Task state change events", "… deployment …")."""
    group = str(event.get("detail", {}).get("group", ""))
    services = [group.removeprefix("service:")] if group.startswith("service:") else []
    services += [str(arn).rpartition("/")[2] for arn in event.get("resources", ()) if ":service/" in str(arn)]
    for service in services:
        algo_id = service.removeprefix(naming.service(""))
        if naming.service(algo_id) == service and naming.is_algo_id(algo_id):
            yield algo_id


handler = lambda_handler(create)
