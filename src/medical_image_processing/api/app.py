"""The platform's HTTP and WebSocket API over control/."""

from dataclasses import dataclass

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse

from medical_image_processing.api import admin, processing, schemas, websocket
from medical_image_processing.api.access import Access, AdminKey
from medical_image_processing.api.base import PlaceState, create_base
from medical_image_processing.api.metrics import Metrics
from medical_image_processing.control.admin import Admin
from medical_image_processing.control.catalogue import Catalogue
from medical_image_processing.control.router import Router
from medical_image_processing.control.statistics import Statistician
from medical_image_processing.ports.accesses import Accesses
from medical_image_processing.ports.jobs import Jobs
from medical_image_processing.ports.keys import Keys
from medical_image_processing.ports.outputs import Outputs
from medical_image_processing.ports.resources import Logs
from medical_image_processing.ports.workload import Workload


@dataclass(frozen=True)
class Parts:
    """What the routes call."""

    admin: Admin
    statistician: Statistician
    router: Router
    catalogue: Catalogue
    jobs: Jobs
    workload: Workload
    keys: Keys
    logs: Logs
    outputs: Outputs
    access: Access
    hub: websocket.Hub
    metrics: Metrics
    accesses: Accesses


def create_app(
    parts: Parts,
    *,
    allow_origins: tuple[str, ...],
    open_metrics: bool,
    pacs_state: PlaceState = lambda: None,
    dimse_state: PlaceState = lambda: None,
) -> FastAPI:
    """All of it in one process. ``open_metrics``: whether /metrics needs no admin key."""
    app = create_base(
        admin.create_router(
            parts.admin,
            parts.statistician,
            parts.jobs,
            parts.keys,
            parts.logs,
            parts.access,
            parts.hub,
            parts.accesses,
        ),
        processing.create_router(
            parts.router,
            parts.catalogue,
            parts.jobs,
            parts.workload,
            parts.keys,
            parts.outputs,
            parts.access,
            parts.hub,
        ),
        websocket.create_router(parts.hub, parts.access),
        allow_origins=allow_origins,
        pacs_state=pacs_state,
        dimse_state=dimse_state,
    )

    @app.get(
        "/metrics",
        tags=["operation"],
        response_class=PlainTextResponse,
        responses={200: {"content": {"text/plain": {}}}, **schemas.errors(401)},
    )
    async def read_metrics(key: AdminKey = None) -> Response:
        """Prometheus text."""
        if not open_metrics:
            await parts.access.admin(key)
        return Response(await parts.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app
