"""``handler``: the admin API, behind API Gateway's ``/admin``."""

from __future__ import annotations

import time

from starlette.types import ASGIApp

from medical_image_processing.api.admin import create_router
from medical_image_processing.api.base import create_base
from medical_image_processing.api.limits import LimitBody
from medical_image_processing.control.admin import Admin
from medical_image_processing.control.statistics import Statistician
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.entrypoints.lambdas.assembly import create_access, create_push
from medical_image_processing.entrypoints.lambdas.runtime import asgi_handler


def create(engine: AwsEngine) -> ASGIApp:
    """The application."""
    routes = create_router(
        Admin(engine.registry, engine.jobs, can_store=engine.settings.can_store),
        Statistician(engine.workload, engine.worker_counts, clock=time.time),
        engine.jobs,
        engine.keys,
        engine.logs,
        create_access(engine),
        create_push(engine),
        engine.access_record,
    )
    return LimitBody(create_base(routes, allow_origins=engine.settings.allow_origins))


handler = asgi_handler(create)
