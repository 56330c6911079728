"""What every application of ours has: the contract's failures, CORS, /health.

It imports no route, so that a Lambda loads only its own.
"""

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware

from medical_image_processing import __version__
from medical_image_processing.api import failures, schemas


def create_base(*routers: APIRouter, allow_origins: tuple[str, ...]) -> FastAPI:
    """An application of these routes, and /health."""
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

    @app.get("/health", response_model=schemas.HealthAnswer, tags=["operation"])
    async def health() -> schemas.HealthAnswer:
        """The platform takes jobs."""
        return schemas.HealthAnswer(status="ok", version=__version__)

    return app
