"""What every application of ours has: the contract's failures, CORS, /health.

It imports no route, so that a Lambda loads only its own.
"""

from collections.abc import Callable

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware

from medical_image_processing import __version__
from medical_image_processing.api import failures, schemas

PlaceState = Callable[[], str | None]
"""``ok``, or why the place can't be used; None where nobody looks after it."""


def create_base(
    *routers: APIRouter,
    allow_origins: tuple[str, ...],
    pacs_state: PlaceState = lambda: None,
    dimse_state: PlaceState = lambda: None,
) -> FastAPI:
    """An application of these routes, and /health with the state of the PACS and of C-STORE."""
    app = FastAPI(
        title="Medical image processing platform",
        version=__version__,
        description="Register an algorithm while the platform runs, send it studies, get DICOM back.",
    )
    failures.install(app)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(allow_origins),
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=["content-type", "x-admin-key", "x-api-key", "authorization", "if-match"],
        expose_headers=["etag", "retry-after"],
    )
    for router in routers:
        app.include_router(router)

    @app.get("/health", response_model=schemas.HealthAnswer, response_model_exclude_none=True, tags=["operation"])
    async def health() -> schemas.HealthAnswer:
        """The platform takes jobs."""
        return schemas.HealthAnswer(status="ok", version=__version__, pacs=pacs_state(), dimse=dimse_state())

    return app
