"""``handler``: moves services inside their bounds, each minute."""

from __future__ import annotations

from medical_image_processing.control.scaler import Scaler
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.entrypoints.lambdas.runtime import Invocation, Work, lambda_handler


def create(engine: AwsEngine) -> Work:
    """The work."""
    scaler = Scaler(engine.registry, engine.resources, engine.jobs)

    async def work(_: Invocation) -> None:
        await scaler.scale_all()

    return work


handler = lambda_handler(create)
