"""``handler``: each minute, jobs that were given up are ended, and those whose message was lost are sent again."""

from __future__ import annotations

import time

from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.entrypoints.lambdas import metrics
from medical_image_processing.entrypoints.lambdas.assembly import create_delivery
from medical_image_processing.entrypoints.lambdas.runtime import Invocation, Work, lambda_handler


def create(engine: AwsEngine) -> Work:
    """The work."""
    delivery = create_delivery(engine)

    async def work(_: Invocation) -> None:
        metrics.emit(metrics.DEAD_LETTERS, await delivery.bury())
        await delivery.resend()
        oldest = await engine.open_jobs.oldest_at()
        metrics.emit(metrics.OLDEST_JOB_AGE, time.time() - oldest if oldest else 0, unit="Seconds")

    return work


handler = lambda_handler(create)
