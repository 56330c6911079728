"""``handler``: each minute, jobs that were given up are ended, and those whose message was lost are sent again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medical_image_processing.control.delivery import Delivery
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.entrypoints.lambdas import metrics
from medical_image_processing.entrypoints.lambdas.assembly import create_push
from medical_image_processing.entrypoints.lambdas.runtime import Invocation, Work, lambda_handler
from medical_image_processing.ports.queues import DeadLetter, Queues


def create(engine: AwsEngine) -> Work:
    """The work."""
    queues = CountedDeadLetters(engine.queues)
    delivery = Delivery(
        queues, engine.jobs, engine.registry, create_push(engine), output_bucket=engine.settings.output_bucket
    )

    async def work(_: Invocation) -> None:
        queues.settled = 0
        try:
            await delivery.bury()
            await delivery.resend()
        finally:
            metrics.emit(metrics.DEAD_LETTERS, queues.settled)
        metrics.emit(metrics.OLDEST_JOB_AGE, await engine.jobs.oldest_open_s(), unit="Seconds")

    return work


class CountedDeadLetters:
    """Queues, and how many dead letters were answered for."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        self.settled = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queues, name)

    async def settle_dead_letters(self, message_ids: Sequence[str]) -> None:
        """As the queues', counted."""
        await self._queues.settle_dead_letters(message_ids)
        self.settled += len(message_ids)
