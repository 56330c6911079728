"""Results over the WebSocket (CONTRACT.md, ``WS /ws``): those the client missed, then each as it comes.

A result counts as received when the connection has since answered a keep-alive ping, or when the client says
``{"type": "received", "job_id": …}``. A close says nothing, since a page that calls ``close()`` reads no more of
what is on its way. What doesn't count as received is sent again on the next connection (law J7), so a client may
see a result twice, and never not at all.
"""

import asyncio
import contextlib
import json
import re
import time
from collections import OrderedDict
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from medical_image_processing.api.access import Access
from medical_image_processing.api.failures import answer
from medical_image_processing.api.results import base_url_of, result_message
from medical_image_processing.errors import Forbidden, Unauthorized
from medical_image_processing.model.job import Job, JobEnd
from medical_image_processing.naming import NAME_PATTERN
from medical_image_processing.ports.jobs import Jobs
from medical_image_processing.ports.outputs import Outputs

PING_INTERVAL_S = 5.0
PING_TIMEOUT_S = 5.0
_TOGETHER_S = 0.02
"""How long what a client has received is gathered, to be written down together."""
_PAGE = 100
_MOST_WAITING = 1000
_RECEIVED_AFTER_S = PING_INTERVAL_S + PING_TIMEOUT_S + 1.0
"""Within this a ping follows what was sent and is answered, or the connection is ended; and a second for that."""
_NAME = re.compile(NAME_PATTERN)


class _Connection:
    """One client's socket, and the results on their way through it."""

    def __init__(self, socket: WebSocket, client_id: str, holder: str | None) -> None:
        self.socket = socket
        self.client_id = client_id
        self.holder = holder
        self.revoked = asyncio.Event()
        self.base_url = base_url_of(socket)
        self.waiting: asyncio.Queue[Job] = asyncio.Queue(_MOST_WAITING)
        self.behind = True
        self.sent: OrderedDict[JobEnd, float] = OrderedDict()
        """Results not yet known to be received, with when they were sent (monotonic seconds)."""
        self.received: set[JobEnd] = set()
        """Those of them that the client has, which isn't written down yet."""
        self.has_received = asyncio.Event()

    def offer(self, job: Job) -> None:
        try:
            self.waiting.put_nowait(job)
        except asyncio.QueueFull:
            self.behind = True  # the rest is read from the records when the client has caught up


class Hub:
    """The connections of this process. Implements :class:`ports.push.Push`."""

    def __init__(self, jobs: Jobs, outputs: Outputs) -> None:
        self._jobs = jobs
        self._outputs = outputs
        self._connections: dict[str, set[_Connection]] = {}

    async def push(self, job: Job) -> None:
        """Hand the job to whichever connections its client has now."""
        for connection in self._connections.get(job.client_id, ()):
            connection.offer(job)

    async def close(self, holder: str) -> None:
        """End the connections that were opened with the key of ``holder`` (clause K2)."""
        for connections in self._connections.values():
            for connection in connections:
                if connection.holder == holder:
                    connection.revoked.set()

    async def serve(self, socket: WebSocket, client_id: str, holder: str | None = None) -> None:
        """Send results until the client goes, or the key of ``holder`` does."""
        connection = _Connection(socket, client_id, holder)
        self._connections.setdefault(client_id, set()).add(connection)
        try:
            await socket.accept()
            await self._converse(connection)
            if connection.revoked.is_set():
                await socket.close(1008, "the key was removed")
        finally:
            await self._write_received(connection)
            mine = self._connections[client_id]
            mine.discard(connection)
            if not mine:
                del self._connections[client_id]

    async def _converse(self, connection: _Connection) -> None:
        works = (self._listen, self._send_all, self._settle, self._acknowledge, _revoked)
        tasks = [asyncio.create_task(work(connection)) for work in works]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, connection: _Connection) -> None:
        while (message := await connection.socket.receive())["type"] != "websocket.disconnect":
            match _said(message.get("text")):
                case {"type": "ping"}:
                    await connection.socket.send_text('{"type": "pong"}')
                case {"type": "received", "job_id": job_id}:
                    # Of a job that was replayed meanwhile, the end that was sent first is meant.
                    if end := next((end for end in connection.sent if end.job_id == job_id), None):
                        connection.received.add(end)
                        connection.has_received.set()

    async def _send_all(self, connection: _Connection) -> None:
        while True:
            if connection.behind:
                await self._catch_up(connection)
            job = await connection.waiting.get()
            if job.end not in connection.sent:
                await self._send(connection, job)

    async def _catch_up(self, connection: _Connection) -> None:
        connection.behind = False
        last: str | None = None
        while jobs := await self._jobs.unseen(connection.client_id, after=last, limit=_PAGE):
            for job in jobs:
                if job.end not in connection.sent:
                    await self._send(connection, job)
            last = jobs[-1].job_id

    async def _send(self, connection: _Connection, job: Job) -> None:
        message = result_message(job, self._outputs, connection.base_url)
        connection.sent[job.end] = float("inf")
        await connection.socket.send_text(json.dumps(message))
        if job.end in connection.sent:
            connection.sent[job.end] = time.monotonic()

    async def _settle(self, connection: _Connection) -> None:
        while True:
            await asyncio.sleep(PING_INTERVAL_S)
            before = time.monotonic() - _RECEIVED_AFTER_S
            connection.received.update(end for end, at in connection.sent.items() if at < before)
            await self._write_received(connection)

    async def _acknowledge(self, connection: _Connection) -> None:
        while True:
            await connection.has_received.wait()
            await asyncio.sleep(_TOGETHER_S)
            connection.has_received.clear()
            await self._write_received(connection)

    async def _write_received(self, connection: _Connection) -> None:
        if ends := list(connection.received):
            await self._jobs.mark_seen(ends)
            connection.received.difference_update(ends)
            for end in ends:
                connection.sent.pop(end, None)


def _said(text: str | None) -> Any:
    """What a client's message says; None when that is no JSON."""
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None


async def _revoked(connection: _Connection) -> None:
    await connection.revoked.wait()


def create_router(hub: Hub, access: Access) -> APIRouter:
    """``/ws``."""
    routes = APIRouter()

    @routes.websocket("/ws")
    async def results(socket: WebSocket, client_id: str = "", key: str | None = None) -> None:
        try:
            caller = await access.client(socket.headers.get("x-api-key") or key)
            if not _NAME.fullmatch(client_id):
                await socket.send_denial_response(
                    answer(422, "INVALID_REQUEST", "client_id: connect to /ws?client_id=…")
                )
                return
            caller.check(client_id)
        except (Unauthorized, Forbidden) as error:
            status = 401 if isinstance(error, Unauthorized) else 403
            await socket.send_denial_response(answer(status, error.code, error.message))
            return
        with contextlib.suppress(WebSocketDisconnect):
            await hub.serve(socket, client_id, caller.holder.name if caller.holder else None)

    return routes
