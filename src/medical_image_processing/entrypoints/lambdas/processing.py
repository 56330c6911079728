"""``handler``: the processing API, behind API Gateway's ``/provision``, ``/process``, ``/jobs``,
``/algorithms``, ``/health``."""

from __future__ import annotations

from starlette.types import ASGIApp

from medical_image_processing.api.base import create_base
from medical_image_processing.api.limits import LimitBody
from medical_image_processing.api.processing import create_router
from medical_image_processing.control.catalogue import Catalogue
from medical_image_processing.control.router import Router
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.entrypoints.lambdas.assembly import create_access, create_push
from medical_image_processing.entrypoints.lambdas.runtime import asgi_handler


def create(engine: AwsEngine) -> ASGIApp:
    """The application."""
    settings = engine.settings
    router = Router(
        engine.registry,
        engine.jobs,
        engine.queues,
        queue_limit=settings.queue_limit,
        can_store=settings.can_store,
    )
    routes = create_router(
        router,
        Catalogue(engine.registry, engine.queues, engine.worker_counts),
        engine.jobs,
        engine.workload,
        engine.keys,
        engine.outputs,
        create_access(engine),
        create_push(engine),
    )
    return LimitBody(create_base(routes, allow_origins=settings.allow_origins))


handler = asgi_handler(create)
