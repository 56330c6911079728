"""The PACS API as a service of its own, over a bucket or a DICOMweb server: the container of ``containers/pacs``.

``python -m medical_image_processing.entrypoints.pacs_service``, configured by its environment: MIP_PACS_BUCKET or
MIP_DICOMWEB_URL (and MIP_DICOMWEB_AUTHORIZATION), MIP_KEYS_TABLE and MIP_AUDIT_TABLE, and if need be
MIP_PACS_OPERATOR_KEY, MIP_ALLOW_ORIGINS and MIP_PACS_PORT.
"""

from __future__ import annotations

import hmac
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp

from medical_image_processing.engines.aws.admin_keys import REFUSED
from medical_image_processing.engines.aws.bucket_archive import BucketArchive
from medical_image_processing.engines.aws.clients import AwsClients
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.engines.aws.settings import AwsSettings
from medical_image_processing.entrypoints.lambdas.json_log import configure_logging
from medical_image_processing.errors import InvalidRequest, MipError
from medical_image_processing.pacs.app import PacsApp, ServeFile
from medical_image_processing.pacs.archive import Archive
from medical_image_processing.pacs.dicomweb import DicomwebArchive
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.retrieve import DicomwebServer
from medical_image_processing.ports.keys import digest

OPERATOR = "operator"
KNOWN_S = 60.0
"""For so long an algorithm's key is not looked up again; one that was removed opens nothing after that."""
_MOST_KNOWN = 1000
_STOP_S = 20


class KeyTable(Protocol):
    """Which algorithm has a key for the PACS API."""

    async def find_pacs_key(self, digest: str) -> str | None:
        """Its id, or None."""


class ServiceKeys:
    """Implements :class:`pacs.keys.PacsKeys`: the algorithms' keys, and the operator's. ``clock`` is monotonic."""

    def __init__(
        self, table: KeyTable, operator_key: str | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._table = table
        self._operator = digest(operator_key) if operator_key and operator_key not in REFUSED else None
        self._clock = clock
        self._known: dict[str, tuple[str, float]] = {}

    async def algo_for(self, key: str) -> str | None:
        """Whose key it is, or None."""
        given = digest(key)
        if self._operator is not None and hmac.compare_digest(given, self._operator):
            return OPERATOR
        algo_id, until = self._known.get(given, (None, 0.0))
        if algo_id is None or self._clock() >= until:
            algo_id = await self._table.find_pacs_key(given)
            self._remember(given, algo_id)
        return algo_id

    def _remember(self, given: str, algo_id: str | None) -> None:
        self._known.pop(given, None)
        if algo_id is not None:
            while len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[given] = (algo_id, self._clock() + KNOWN_S)


def create_service(environment: Mapping[str, str], clients: AwsClients | None = None) -> ASGIApp:
    """The application. InvalidRequest, PermanentError when the environment is not as it must be."""
    engine = AwsEngine(AwsSettings.from_environment(environment), clients)
    archive, serve_file = _archive(environment, engine)
    return PacsApp(
        archive,
        ServiceKeys(engine.pacs_keys, environment.get("MIP_PACS_OPERATOR_KEY")),
        engine.audit.note,
        allow_origins=engine.settings.allow_origins,
        serve_file=serve_file,
    )


def _archive(environment: Mapping[str, str], engine: AwsEngine) -> tuple[Archive[Any], ServeFile | None]:
    if url := environment.get("MIP_DICOMWEB_URL"):
        server = DicomwebServer(url, environment.get("MIP_DICOMWEB_AUTHORIZATION"))
        # One secret for all tasks of the service: a link may be opened at another than gave it.
        secret = environment.get("MIP_PACS_OPERATOR_KEY")
        dicomweb = DicomwebArchive(server, LinkSigner(f"links {secret}".encode() if secret else None))
        return dicomweb, dicomweb.serve
    if bucket := environment.get("MIP_PACS_BUCKET"):
        return BucketArchive(engine.clients.client("s3"), bucket), None
    raise InvalidRequest(
        "SETTING_MISSING",
        "set MIP_PACS_BUCKET, a bucket of DICOM files, or MIP_DICOMWEB_URL, a DICOMweb server",
    )


def main() -> int:
    """Serve until SIGTERM."""
    configure_logging()
    try:
        app = create_service(os.environ)
        port = int(os.environ.get("MIP_PACS_PORT", "8080"))
    except (MipError, ValueError) as error:
        sys.stderr.write(f"the PACS API can't start: {error}\n")
        return 2
    config = uvicorn.Config(
        app,
        host="0.0.0.0",  # noqa: S104 - in a container, whose network says who may call
        port=port,
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_STOP_S,
    )
    uvicorn.Server(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
