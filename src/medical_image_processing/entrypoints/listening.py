"""The sockets of `mip up`, and the HTTP server on them. Called by the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp

from medical_image_processing.api.websocket import PING_INTERVAL_S, PING_TIMEOUT_S
from medical_image_processing.entrypoints.one_write import OneWriteProtocol
from medical_image_processing.entrypoints.settings import EVERY_IPV4, Settings
from medical_image_processing.errors import Conflict, MipError

_KEEP_ALIVE_S = 75


class Server(uvicorn.Server):
    """Leaves signals to the platform: workers must stop before the port they speak to closes."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(_uvicorn_config(app))
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _uvicorn_config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=OneWriteProtocol,
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
        ws_ping_interval=PING_INTERVAL_S,
        ws_ping_timeout=PING_TIMEOUT_S,
        ws_max_size=64 * 1024,
        ws_per_message_deflate=False,
    )


def listen(settings: Settings, gateway: str | None) -> list[socket.socket]:
    """The API's socket, then the workers' on the next port where that is free; that port on ``gateway``, too."""
    api = _bind(settings.host, settings.port)
    following = settings.port + 1 if 0 < settings.port < 65535 else 0
    try:
        worker = _bind(settings.host, following)
    except MipError:
        worker = _bind(settings.host, 0)
    if gateway is None or settings.host == EVERY_IPV4:
        return [api, worker]
    return [api, worker, _bind(gateway, worker.getsockname()[1])]


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise Conflict(
            "PORT_UNUSABLE",
            f"can't listen on {host} port {port}: {_reason(error)}; choose another --port, or 0 for a free one",
        ) from error


def _reason(error: OSError) -> str:
    # asyncio and socket put the address into the text; only the system's own words are wanted.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
