"""``handler``: the results queue. Each message stands by itself: none can fail the batch it came in."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from medical_image_processing.control.delivery import Delivery
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.engines.aws.queues import UNKNOWN_ROLE, SqsQueues
from medical_image_processing.entrypoints.lambdas import metrics
from medical_image_processing.entrypoints.lambdas.assembly import create_delivery
from medical_image_processing.entrypoints.lambdas.runtime import Invocation, Work, lambda_handler
from medical_image_processing.errors import MipError

_LOG = logging.getLogger(__name__)


def create(engine: AwsEngine) -> Work:
    """The work."""
    results = Results(create_delivery(engine), engine.queues)

    async def work(invocation: Invocation) -> dict[str, Any]:
        return await results.handle(invocation.event["Records"])

    return work


class Results:
    """Handles batches of SQS records."""

    def __init__(self, delivery: Delivery, queues: SqsQueues) -> None:
        self._delivery = delivery
        self._queues = queues

    async def handle(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """Handle them, jobs side by side and a job's messages in their order; which must come again."""
        jobs: dict[str, list[dict[str, Any]]] = {}
        for record in records:
            jobs.setdefault(record["attributes"].get("MessageGroupId", record["messageId"]), []).append(record)
        failed = await asyncio.gather(*(self._handle_job(of_job) for of_job in jobs.values()))
        again = [message_id for message_ids in failed for message_id in message_ids]
        return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in again]}

    async def _handle_job(self, records: list[dict[str, Any]]) -> list[str]:
        """One that fails makes those behind it come again, too, or their order would be lost (Lambda developer
        guide, "Handling errors for an SQS event source")."""
        for at, record in enumerate(records):
            try:
                message = await self._queues.received(record)
                await self._delivery.handle([message])
                if message.sender == UNKNOWN_ROLE:
                    metrics.emit(metrics.UNKNOWN_SENDERS, 1)
            except Exception as error:
                expected = isinstance(error, MipError)
                _LOG.warning("a result comes again: %s", error if expected else type(error).__name__)
                if not expected:
                    _LOG.error("the place of that", exc_info=error)
                return [one["messageId"] for one in records[at:]]
        return []


handler = lambda_handler(create)
