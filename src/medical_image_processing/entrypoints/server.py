"""`mip up`: the platform on one machine, put together and run until it is told to stop.

Two ports: the one that clients use (admin, processing, WebSocket, results, the PACS API and the web client), and
the one that workers use (SQS, S3 and the PACS API), so that each can be shut off from the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from medical_image_processing import naming
from medical_image_processing.api.access import Access, fixed_digests
from medical_image_processing.api.app import Parts, create_app
from medical_image_processing.api.limits import LimitBody
from medical_image_processing.api.metrics import Metrics
from medical_image_processing.api.websocket import Hub
from medical_image_processing.control.admin import Admin
from medical_image_processing.control.catalogue import Catalogue
from medical_image_processing.control.delivery import Delivery
from medical_image_processing.control.provisioner.loop import Provisioner
from medical_image_processing.control.reidentification import Reidentification
from medical_image_processing.control.router import Router
from medical_image_processing.control.scaler import Scaler
from medical_image_processing.control.statistics import Statistician
from medical_image_processing.control.storing import Storing
from medical_image_processing.engines.embedded.engine import EmbeddedEngine, EngineSettings
from medical_image_processing.entrypoints import client_keys
from medical_image_processing.entrypoints.foreign_pages import ForeignPages
from medical_image_processing.entrypoints.home import Home, Secrets
from medical_image_processing.entrypoints.known_pages import KnownPages
from medical_image_processing.entrypoints.listening import Server, listen
from medical_image_processing.entrypoints.loopback_names import LoopbackNames
from medical_image_processing.entrypoints.pacs_place import open_pacs
from medical_image_processing.entrypoints.public_address import PublicAddress
from medical_image_processing.entrypoints.settings import STOP_GRACE_S, Settings
from medical_image_processing.entrypoints.web_client import WebClient, find_built
from medical_image_processing.entrypoints.workplace import Workplace, open_workplace
from medical_image_processing.errors import MipError
from medical_image_processing.memory import freeze_imports, keep_freed_memory
from medical_image_processing.pacs.app import PacsApp
from medical_image_processing.pacs.archive import Archive
from medical_image_processing.pacs.deidentified import DeidentifiedArchive
from medical_image_processing.pacs.drawing import Drawer
from medical_image_processing.pacs.keys import HashedKeys
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.reidentifier import ArchiveReidentifier
from medical_image_processing.pacs.thumbnails import Thumbnails
from medical_image_processing.ports.keys import digest

if TYPE_CHECKING:
    from medical_image_processing.entrypoints.dimse_place import DimsePlace

_LOG = logging.getLogger(__name__)
_TICK_S = 1.0
_SCALE_EVERY_S = 3.0
"""Often, since a worker starts here at once, and a job that comes while there is none waits for this."""


@dataclass(frozen=True)
class Addresses:
    """Where the platform is, for people and programs on this machine: the content of ``DIR/env``."""

    values: dict[str, str]

    @property
    def public(self) -> dict[str, str]:
        """What may be shown on a screen: no keys."""
        return {name: value for name, value in self.values.items() if "KEY" not in name}


def run_platform(settings: Settings, *, announce: Callable[[Addresses], None]) -> int:
    """Run until SIGINT or SIGTERM; ``announce`` is called once it takes jobs. MipError when it can't start."""
    settings.check()
    # A home that was there before may be open to other users; what is written into it is not.
    os.umask(0o077)
    keep_freed_memory(block_mib=4, total_mib=32)
    with Home(settings.home) as home, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Platform(settings, home).run(announce))
    return 0


class _Platform:
    def __init__(self, settings: Settings, home: Home) -> None:
        self._settings = settings
        self._home = home
        self._secrets: Secrets = home.secrets(settings)
        self._dimse: DimsePlace | None = None

    async def run(self, announce: Callable[[Addresses], None]) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        workplace = await asyncio.to_thread(open_workplace, self._settings)
        try:
            await self._serve(workplace, stop, announce)
        finally:
            await asyncio.to_thread(workplace.close)

    async def _serve(
        self, workplace: Workplace, stop: asyncio.Event, announce: Callable[[Addresses], None]
    ) -> None:
        sockets = listen(self._settings, workplace.gateway)
        server = Server(self._dispatch)
        async with self._started(workplace, api=sockets[0], worker=sockets[1]):
            serving = asyncio.create_task(server.serve(sockets))
            addresses = self._addresses()
            await server.listening.wait()
            self._home.write_env(addresses.values)
            announce(addresses)
            freeze_imports()
            background = asyncio.create_task(self._background())
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([serving, background, stopping], return_when=asyncio.FIRST_COMPLETED)
            _LOG.info("stopping: workers finish or give their jobs back")
            await self._engine.supervisor.stop(grace_s=STOP_GRACE_S)
            background.cancel()
            await asyncio.gather(background, return_exceptions=True)
            self._engine.queues.close()  # long polls end, so that the server can
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)
        if background.done() and not background.cancelled() and (error := background.exception()):
            raise error

    @contextlib.asynccontextmanager
    async def _started(
        self, workplace: Workplace, *, api: socket.socket, worker: socket.socket
    ) -> AsyncIterator[None]:
        settings, secrets = self._settings, self._secrets
        self._workplace = workplace
        self._api_port, self._worker_port = api.getsockname()[1], worker.getsockname()[1]
        self._worker_base = f"http://{workplace.gateway or settings.local_host}:{self._worker_port}"
        await asyncio.to_thread(workplace.guard, self._worker_port)
        # The operator's key, which on loopback everybody knows, opens nothing where workers call.
        workers_keys = HashedKeys()
        self._engine = engine = EmbeddedEngine(
            EngineSettings(
                home=settings.home,
                worker_base=self._worker_base,
                operator=(secrets.operator_access_key_id, secrets.operator_secret_access_key),
                create_runtime=workplace.create_runtime,
                allow_origins=settings.allow_origins,
                add_pacs_key=workers_keys.add,
                remove_pacs_key=workers_keys.remove,
                pseudonym_secret=bytes.fromhex(secrets.pseudonym_secret),
            )
        )
        links = LinkSigner(bytes.fromhex(secrets.link_secret))
        self._pacs = pacs = await asyncio.to_thread(open_pacs, settings, links)
        deidentified = DeidentifiedArchive(pacs.archive, engine.pseudonyms, links)
        drawer = Drawer()
        try:
            await engine.open()
            if settings.client_keys is not None:
                await client_keys.load(engine.keys, settings.client_keys)
            pacs_for = partial(
                PacsApp,
                pacs.archive,
                on_access=engine.access_record.note,
                allow_origins=settings.allow_origins,
            )

            async def archive_for(algo_id: str) -> Archive[Any]:
                record = await engine.registry.get(algo_id)
                # One that is gone while its key still opens something gets no more than it may have had.
                return deidentified if record is None or record.deidentify else pacs.archive

            operator_keys = HashedKeys({digest(secrets.pacs_key): naming.PACS_OPERATOR})
            self._assemble(
                pacs_for(
                    keys=operator_keys,
                    serve_file=pacs.archive.serve,
                    describe=pacs.archive.describe,
                    thumbnails=Thumbnails(pacs.archive, drawer.draw),
                ),
                pacs_for(
                    keys=workers_keys,
                    serve_file=deidentified.serve_or(pacs.archive.serve),
                    archive_for=archive_for,
                ),
            )
            if self._dimse is not None:
                self._dimse.start()
            yield
        finally:
            if self._dimse is not None:
                await self._dimse.close()
            await drawer.close()
            deidentified.close()
            await pacs.close()
            await engine.close()

    def _assemble(self, clients_pacs: ASGIApp, workers_pacs: ASGIApp) -> None:
        engine, settings = self._engine, self._settings
        hub = Hub(engine.jobs, engine.outputs)
        open_clients = settings.open_clients or (settings.is_private and settings.client_keys is None)
        root = digest(self._secrets.admin_key)
        access = Access(engine.keys, root_admin_digests=fixed_digests(root), open_clients=open_clients)
        metrics = Metrics(engine.jobs, engine.queues)
        self._provisioner = Provisioner(engine.registry, engine.resources, engine.jobs, hub)
        self._scaler = Scaler(engine.registry, engine.resources, engine.jobs)
        engine.listen(on_change=self._provisioner.notify, on_finish=metrics.job_finished)
        self._delivery = Delivery(
            engine.queues,
            engine.jobs,
            engine.registry,
            hub,
            output_bucket=engine.output_bucket,
            reidentification=Reidentification(
                engine.jobs,
                engine.output_files,
                engine.output_files,
                ArchiveReidentifier(self._pacs.archive, engine.pseudonyms),
            ),
        )
        self._storing = Storing(engine.results_to_store, engine.output_files, lambda _: self._pacs.writer)
        router = Router(
            engine.registry,
            engine.jobs,
            engine.queues,
            queue_limit=settings.queue_limit,
            can_store=True,
            pseudonyms=engine.pseudonyms,
        )
        if settings.dimse is not None:
            # pynetdicom costs every start time and memory, so only those that use it.
            from medical_image_processing.entrypoints.dimse_place import DimsePlace

            self._dimse = DimsePlace(
                settings.dimse,
                engine,
                router,
                self._pacs,
                settings.home / "dimse-unfinished",
                is_inside=self._workplace.is_inside,
            )
        parts = Parts(
            admin=Admin(engine.registry, engine.jobs, can_store=True, can_deidentify=True),
            statistician=Statistician(engine.workload, engine.resources, clock=time.time),
            router=router,
            catalogue=Catalogue(engine.registry, engine.queues, engine.resources),
            jobs=engine.jobs,
            workload=engine.workload,
            keys=engine.keys,
            logs=engine.logs,
            outputs=engine.outputs,
            access=access,
            hub=hub,
            metrics=metrics,
            accesses=engine.access_record,
        )
        api: ASGIApp = create_app(
            parts,
            allow_origins=settings.allow_origins,
            open_metrics=settings.is_private,
            pacs_state=self._pacs.state,
            dimse_state=self._dimse.state if self._dimse else lambda: None,
        )
        api = LimitBody(api)
        if open_clients:
            own = settings.public_address.origin if settings.public_address is not None else None
            api = ForeignPages(api, settings.allow_origins, own=own)
        # The key that opens the PACS on loopback is no secret; anywhere else people are asked for theirs.
        told: dict[str, str] = {}
        if settings.is_private and open_clients:
            told = {"pacs_key": self._secrets.pacs_key}
            clients_pacs = KnownPages(clients_pacs, settings.allow_origins, self._secrets.pacs_key)
        self._api_app: ASGIApp = WebClient(
            _mounted(api, {"/pacs": clients_pacs, f"/{engine.output_bucket}": engine.create_result_links()}),
            find_built(),
            config=told,
        )
        self._worker_app = _mounted(engine.create_aws_app(), {"/pacs": workers_pacs})
        if (public := settings.public_address) is not None:
            self._api_app = PublicAddress(self._api_app, public)
            if settings.is_on_loopback:
                self._api_app = LoopbackNames(self._api_app, public=public.name)
        if settings.is_private:
            self._api_app = LoopbackNames(self._api_app)
            self._worker_app = LoopbackNames(self._worker_app, own=self._workplace.gateway)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The port decides what can be reached: containers only theirs, and others not the containers' address."""
        (server, port), caller = scope["server"], scope["client"][0]
        is_inside = self._workplace.is_inside(caller)
        if port == self._worker_port:
            is_stranger = server == self._workplace.gateway and caller != server and not is_inside
            app = _refuse if is_stranger else self._worker_app
        else:
            app = _refuse if is_inside else self._api_app
        await app(scope, receive, send)

    async def _background(self) -> None:
        self._engine.resources.resume_services()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._provisioner.run())
            tasks.create_task(self._delivery.run())
            tasks.create_task(self._tick())
            tasks.create_task(self._scale())
            tasks.create_task(self._pacs.watch())
            tasks.create_task(self._storing.run())
            if self._dimse is not None:
                tasks.create_task(self._dimse.run())

    async def _tick(self) -> None:
        while True:
            try:
                await self._engine.sweep()
                await self._delivery.bury()
                await self._delivery.resend()
            except MipError as error:
                _LOG.error("the periodic sweep failed and will be tried again: %s", error)
            await asyncio.sleep(_TICK_S)

    async def _scale(self) -> None:
        while True:
            await asyncio.sleep(_SCALE_EVERY_S)
            await self._scaler.scale_all()

    def _addresses(self) -> Addresses:
        base = f"http://{self._settings.local_host}:{self._api_port}"
        return Addresses(
            {
                "API_BASE": base,
                "WS_ENDPOINT": f"{base.replace('http', 'ws', 1)}/ws",
                "PACS_API_BASE": f"{base}/pacs",
                "PACS_API_KEY": self._secrets.pacs_key,
                "AWS_ENDPOINT_URL": self._worker_base,
                "RESULTS_QUEUE_URL": self._engine.queue_url(naming.RESULTS_QUEUE),
                "MIP_ADMIN_KEY": self._secrets.admin_key,
                "MIP_API_BASE": base,
                "MIP_RUNTIME": self._workplace.runtime,
                "OUTPUT_BUCKET": self._engine.output_bucket,
                "AWS_REGION": self._engine.region,
                "AWS_DEFAULT_REGION": self._engine.region,
                "AWS_ACCESS_KEY_ID": self._secrets.operator_access_key_id,
                "AWS_SECRET_ACCESS_KEY": self._secrets.operator_secret_access_key,
                **({"DIMSE_PORT": str(self._dimse.port)} if self._dimse else {}),
            }
        )


def _mounted(app: ASGIApp, prefixes: dict[str, ASGIApp]) -> ASGIApp:
    """``app``, with others under path prefixes (ASGI's ``root_path``)."""

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        for prefix, other in prefixes.items():
            if scope["type"] == "http" and scope["path"].startswith(f"{prefix}/"):
                await other({**scope, "root_path": scope.get("root_path", "") + prefix}, receive, send)
                return
        await app(scope, receive, send)

    return dispatch


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """What a worker's container gets at the API's port."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body"})


def configure_logging() -> None:
    """The platform's own log: one line an event, to standard error."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(level=logging.INFO, format="%(asctime)sZ %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would say the PACS's address, and every UID
