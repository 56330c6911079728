"""The PACS API as a service of its own, over a bucket or a DICOMweb server: the container of ``containers/pacs``.

``python -m medical_image_processing.entrypoints.pacs_service``, configured by its environment: MIP_PACS_BUCKET or
MIP_DICOMWEB_URL (and MIP_DICOMWEB_AUTHORIZATION), MIP_KEYS_TABLE and MIP_AUDIT_TABLE, and if need be
MIP_PACS_OPERATOR_KEY, MIP_ALLOW_ORIGINS and MIP_PACS_PORT.

Over a DICOMweb server it also puts results back there, which nobody else could: it alone has the server's
credentials. For that it wants MIP_JOBS_TABLE and OUTPUT_BUCKET. MIP_PACS_FOLDER is a folder of its own, for copies
of results and, up to MIP_PACS_CACHE_MIB, the images' cache.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from medical_image_processing import naming
from medical_image_processing.control.storing import Storing
from medical_image_processing.engines.aws.admin_keys import REFUSED
from medical_image_processing.engines.aws.bucket_archive import BucketArchive
from medical_image_processing.engines.aws.clients import AwsClients
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.engines.aws.settings import AwsSettings
from medical_image_processing.entrypoints.lambdas.json_log import configure_logging
from medical_image_processing.errors import InvalidRequest, MipError, without_text
from medical_image_processing.pacs.app import PacsApp, ServeFile
from medical_image_processing.pacs.cache import InstanceCache
from medical_image_processing.pacs.dicomweb import DicomwebArchive
from medical_image_processing.pacs.drawing import Drawer
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.retrieve import DicomwebServer
from medical_image_processing.pacs.store import DicomwebWriter
from medical_image_processing.pacs.thumbnails import Thumbnails
from medical_image_processing.ports.keys import digest

KNOWN_S = 60.0
"""For so long an algorithm's key is not looked up again; one that was removed opens nothing after that."""
_MOST_KNOWN = 1000
_STOP_S = 20
_AGAIN_S = 60.0
_LOG = logging.getLogger(__name__)


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
        if self.is_operators(key):
            return naming.PACS_OPERATOR
        given = digest(key)
        algo_id, until = self._known.get(given, (None, 0.0))
        if algo_id is None or self._clock() >= until:
            algo_id = await self._table.find_pacs_key(given)
            self._remember(given, algo_id)
        return algo_id

    def is_operators(self, key: str) -> bool:
        """Whether it is the operator's, whatever the algorithms are called."""
        return self._operator is not None and hmac.compare_digest(digest(key), self._operator)

    def _remember(self, given: str, algo_id: str | None) -> None:
        self._known.pop(given, None)
        if algo_id is not None:
            while len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[given] = (algo_id, self._clock() + KNOWN_S)


class ByKey:
    """Who calls decides what can be reached: ``operators`` with their key, ``others`` with any other or none."""

    def __init__(self, keys: ServiceKeys, *, operators: ASGIApp, others: ASGIApp) -> None:
        self._keys = keys
        self._operators = operators
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        key = dict(scope["headers"]).get(b"x-api-key", b"").decode("latin-1")
        await (self._operators if self._keys.is_operators(key) else self._others)(scope, receive, send)


@dataclass(frozen=True)
class Service:
    """What runs here: the PACS API, and over a DICOMweb server the way back into it."""

    app: ASGIApp
    storing: Storing | None = None


def create_service(environment: Mapping[str, str], clients: AwsClients | None = None) -> Service:
    """The service. InvalidRequest, PermanentError when the environment is not as it must be."""
    engine = AwsEngine(AwsSettings.from_environment(environment), clients)
    if url := environment.get("MIP_DICOMWEB_URL"):
        archive = _dicomweb(url, environment)
        files = engine.result_files(Path(environment.get("MIP_PACS_FOLDER") or tempfile.gettempdir()))
        writer = DicomwebWriter(archive)
        storing = Storing(engine.results_to_store, files, lambda _: writer)
        return Service(_app(archive, engine, environment, serve_file=archive.serve), storing)
    if bucket := environment.get("MIP_PACS_BUCKET"):
        return Service(_app(BucketArchive(engine.clients.client("s3"), bucket), engine, environment))
    raise InvalidRequest(
        "SETTING_MISSING",
        "set MIP_PACS_BUCKET, a bucket of DICOM files, or MIP_DICOMWEB_URL, a DICOMweb server",
    )


def _app(
    archive: BucketArchive | DicomwebArchive,
    engine: AwsEngine,
    environment: Mapping[str, str],
    *,
    serve_file: ServeFile | None = None,
) -> ASGIApp:
    keys = ServiceKeys(engine.pacs_keys, environment.get("MIP_PACS_OPERATOR_KEY"))
    app = partial(
        PacsApp,
        archive,
        keys,
        engine.access_record.note,
        allow_origins=engine.settings.allow_origins,
        serve_file=serve_file,
    )
    # The process that draws, and it alone, loads numpy, OpenCV and decoders.
    thumbnails = Thumbnails[Any](archive, Drawer().draw)
    return ByKey(keys, operators=app(describe=archive.describe, thumbnails=thumbnails), others=app())


def _dicomweb(url: str, environment: Mapping[str, str]) -> DicomwebArchive:
    server = DicomwebServer(url, environment.get("MIP_DICOMWEB_AUTHORIZATION"))
    # One secret for all tasks of the service: a link may be opened at another than gave it.
    secret = environment.get("MIP_PACS_OPERATOR_KEY")
    links = LinkSigner(f"links {secret}".encode() if secret else None)
    return DicomwebArchive(server, links, cache=_cache(environment))


def _cache(environment: Mapping[str, str]) -> InstanceCache | None:
    folder, size = environment.get("MIP_PACS_FOLDER"), environment.get("MIP_PACS_CACHE_MIB") or "0"
    if not (size.isascii() and size.isdecimal()):
        raise InvalidRequest("SETTING_WRONG", "MIP_PACS_CACHE_MIB must be a number")
    if not folder or int(size) == 0:
        return None
    try:
        return InstanceCache(Path(folder, "cache"), int(size) * 2**20)
    except OSError as error:
        raise InvalidRequest("SETTING_WRONG", f"MIP_PACS_FOLDER can't be used: {error.strerror}") from error


async def run(server: uvicorn.Server, storing: Storing | None) -> None:
    """Serve until the server ends; store results meanwhile."""
    keeping = asyncio.create_task(_keep(storing)) if storing else None
    try:
        await server.serve()
    finally:
        if keeping is not None:
            keeping.cancel()


async def _keep(storing: Storing) -> None:
    """Whatever keeps results from being stored, such as a right that is missing, images are served."""
    while True:
        try:
            await storing.run()
        except MipError as error:
            _LOG.error("results can't be stored; tried again in %d s: %s", _AGAIN_S, error)
        except Exception as error:
            # Not the error's own text: it may quote anything (A3).
            _LOG.error("storing results failed; tried again in %d s", _AGAIN_S, exc_info=without_text(error))
        await asyncio.sleep(_AGAIN_S)


def main() -> int:
    """Serve until SIGTERM."""
    configure_logging()
    try:
        service = create_service(os.environ)
        port = int(os.environ.get("MIP_PACS_PORT", "8080"))
    except (MipError, ValueError) as error:
        sys.stderr.write(f"the PACS API can't start: {error}\n")
        return 2
    config = uvicorn.Config(
        service.app,
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
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run(uvicorn.Server(config), service.storing))
    return 0


if __name__ == "__main__":
    sys.exit(main())
