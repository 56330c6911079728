"""Control and API over the AWS engine, as every Lambda that needs them puts them together."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection

from medical_image_processing.api.access import Access
from medical_image_processing.api.results import result_message
from medical_image_processing.control.delivery import Delivery
from medical_image_processing.control.provisioner.loop import Provisioner
from medical_image_processing.engines.aws.connections import ApiGatewayPush
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.entrypoints.lambdas import metrics
from medical_image_processing.model.job import Job
from medical_image_processing.ports.outputs import Outputs

MAX_MESSAGE_BYTES = 128 * 1024
"""What API Gateway takes for a connection (API Gateway quotas, "WebSocket message payload size")."""


def create_access(engine: AwsEngine) -> Access:
    """Who may call, as the stack was deployed."""
    settings = engine.settings
    tokens = None
    if settings.clients == "oidc":
        # Only where tokens are trusted is their cryptography loaded.
        from medical_image_processing.api.tokens import TokenVerifier

        tokens = TokenVerifier(settings.oidc_issuer, settings.oidc_audience)

    async def root_digests() -> Collection[str]:
        return await engine.admin_keys.digests()

    return Access(
        engine.keys,
        root_admin_digests=root_digests,
        open_clients=settings.clients == "open",
        tokens=tokens,
    )


def create_push(engine: AwsEngine) -> ApiGatewayPush:
    """The way back to clients; its failures are counted."""
    return engine.create_push(
        render=create_renderer(engine.outputs), on_failure=lambda: metrics.emit(metrics.PUSH_FAILURES, 1)
    )


def create_delivery(engine: AwsEngine) -> Delivery:
    """Results and dead letters in, states and pushes out."""
    return Delivery(
        engine.queues,
        engine.jobs,
        engine.registry,
        create_push(engine),
        output_bucket=engine.settings.output_bucket,
    )


def create_provisioner(engine: AwsEngine) -> Provisioner:
    """Makes what is into what should be."""
    return Provisioner(engine.registry, engine.resources, engine.jobs, create_push(engine))


def create_renderer(outputs: Outputs) -> Callable[[Job, str], str]:
    """A job's message for a client; of one that is too long for API Gateway, what GET /jobs/{job_id} still tells
    is left out."""

    def render(job: Job, host: str) -> str:
        message = result_message(job, outputs, f"https://{host}")
        for left_out in ("provenance", "outputs"):
            if len(text := json.dumps(message)) <= MAX_MESSAGE_BYTES:
                return text
            message.pop(left_out, None)
        return json.dumps(message)

    return render
