"""``connect``, ``disconnect`` and ``message``: the three routes of API Gateway's WebSocket API.

What a client missed can't be posted before $connect was answered, so ``connect`` invokes itself once more for
that, asynchronously. A result counts as received when the client says so, or when it sends a ping a minute after
the result was replayed to it, or ten after it was pushed; a close says nothing, except of a connection that API
Gateway would have ended for silence had nobody been there. What doesn't count as received is sent again on the
next connection (law J7).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

from medical_image_processing.api.access import Access
from medical_image_processing.api.failures import status_of
from medical_image_processing.api.results import host_of
from medical_image_processing.engines.aws.clients import ANSWERING
from medical_image_processing.engines.aws.connections import ApiGatewayPush, Connection, ConnectionTable
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.entrypoints.lambdas.assembly import create_access, create_push
from medical_image_processing.entrypoints.lambdas.runtime import Invocation, Work, lambda_handler
from medical_image_processing.errors import InvalidRequest, MipError, Unavailable
from medical_image_processing.model.job import Job, JobEnd
from medical_image_processing.naming import NAME_PATTERN
from medical_image_processing.ports.jobs import ENDED_BY_PLATFORM, Jobs

_LOG = logging.getLogger(__name__)
_NAME = re.compile(NAME_PATTERN)
_PAGE = 100
_OPENS_WITHIN_S = 10.0
_ASK_EVERY_S = 0.1
SECOND_LOOK_S = 3.0
"""An index of DynamoDB may lag; what ended just before the connection opened is looked for once more."""
_CLOCKS_S = 1.0
"""By how much clocks of Lambdas may differ."""
ARRIVED_AFTER_S = 60.0
PUSHED_WITHIN_S = 600.0
"""Of a result that a worker sent: a push that failed is tried again when its message comes back, after three
minutes, and once more."""
IDLE_TIMEOUT_S = 660.0
"""API Gateway ends a connection that is silent for ten minutes; and a minute for what was on its way."""


async def open_connection(event: dict[str, Any], access: Access, connections: ConnectionTable) -> Connection:
    """Let the client of a $connect event in, and note it. Unauthorized, Forbidden, InvalidRequest."""
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    query = event.get("queryStringParameters") or {}
    token = query.get("token") or _bearer(headers.get("authorization"))
    caller = await access.client(headers.get("x-api-key") or query.get("key"), token)
    client_id = query.get("client_id", "")
    if not _NAME.fullmatch(client_id):
        raise InvalidRequest("INVALID_REQUEST", "client_id: connect to the WebSocket with ?client_id=…")
    caller.check(client_id)
    connection = Connection(
        client_id=client_id,
        connection_id=event["requestContext"]["connectionId"],
        holder=caller.holder.name if caller.holder else None,
        host=host_of(headers.get("host")),
        connected_at=time.time(),
    )
    await connections.put(connection)
    return connection


class Receipts:
    """What clients have received. ``clock`` gives epoch seconds."""

    def __init__(
        self, connections: ConnectionTable, jobs: Jobs, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._connections = connections
        self._jobs = jobs
        self._clock = clock

    async def close(self, connection_id: str) -> None:
        """The connection has ended."""
        connection = await self._connections.find(connection_id)
        if connection is None:
            return
        arrived_before = self._clock() - IDLE_TIMEOUT_S
        if connection.connected_at < arrived_before:
            await self.mark_arrived(connection, before=arrived_before, pushed_before=arrived_before)
        await self._connections.remove(connection)
        await self._connections.forget_replayed(connection, before=float("inf"))

    async def mark_received(self, connection: Connection, job_id: str) -> None:
        """The client says that it has the job's result."""
        job = await self._jobs.get(job_id)
        if job is not None and job.client_id == connection.client_id and job.finished_at is not None:
            await self._jobs.mark_seen([job.end])

    async def mark_arrived(self, connection: Connection, *, before: float, pushed_before: float) -> None:
        """What was replayed ``before`` has arrived, and what was pushed because it ended before ``pushed_before``.

        What the platform itself ended may never have been pushed: no message comes again until it was.
        """
        if replayed := await self._connections.replayed(connection, before=before):
            await self._jobs.mark_seen(replayed)
            await self._connections.forget_replayed(connection, before=before)
        if connection.behind:
            return
        async for page in self.unseen(connection):
            pushed = [
                job.end
                for job in page
                if connection.connected_at < _ended(job) < pushed_before and not _ended_by_platform(job)
            ]
            if pushed:
                await self._jobs.mark_seen(pushed)

    async def unseen(self, connection: Connection) -> AsyncIterator[list[Job]]:
        """What the connection's client has not received, page by page, oldest first."""
        last: str | None = None
        while page := await self._jobs.unseen(connection.client_id, after=last, limit=_PAGE):
            yield page
            last = page[-1].job_id


class Conversations:
    """Hears clients and sends them what they miss. ``clock`` gives epoch seconds."""

    def __init__(
        self,
        connections: ConnectionTable,
        push: ApiGatewayPush,
        receipts: Receipts,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connections = connections
        self._push = push
        self._receipts = receipts
        self._clock = clock

    async def replay(self, connection_id: str) -> None:
        """Once the connection is open, send what its client missed, oldest first.

        What ends later is pushed, as the connection is on record by then. May be repeated.
        """
        connection = await self._connections.find(connection_id)
        if connection is None:
            return
        opened_at = await self._opened(connection)
        if opened_at is None:
            await self._connections.remove(connection)
            return
        sent = set(await self._connections.replayed(connection))
        await self._catch_up(connection, sent, ended_by=opened_at + _CLOCKS_S)
        await asyncio.sleep(SECOND_LOOK_S)
        await self._catch_up(connection, sent, ended_by=opened_at + _CLOCKS_S)

    async def hear(self, connection_id: str, text: str) -> None:
        """What a client said; nonsense is passed over."""
        connection = await self._connections.find(connection_id)
        if connection is None:
            return
        match _said(text):
            case {"type": "ping"}:
                await self._push.say(connection, '{"type": "pong"}')
                await self._settle(connection)
            case {"type": "received", "job_id": str(job_id)} if _NAME.fullmatch(job_id):
                await self._receipts.mark_received(connection, job_id)

    async def _opened(self, connection: Connection) -> float | None:
        """When the connection could first be posted to; None when that never comes."""
        end = time.monotonic() + _OPENS_WITHIN_S
        while not await self._push.is_open(connection):
            if time.monotonic() > end:
                return None
            await asyncio.sleep(_ASK_EVERY_S)
        return self._clock()

    async def _catch_up(
        self, connection: Connection, sent: set[JobEnd], *, ended_by: float, platform_ended_by: float = 0.0
    ) -> None:
        """Post what ended by then, isn't among the ``sent``, and note it page by page.

        ``platform_ended_by``: the same for what the platform itself ended.
        """
        async for page in self._receipts.unseen(connection):
            missing = [
                job
                for job in page
                if job.end not in sent
                and _ended(job) <= (max(ended_by, platform_ended_by) if _ended_by_platform(job) else ended_by)
            ]
            posted: list[JobEnd] = []
            try:
                for job in missing:
                    if not await self._push.post(connection, job):
                        return
                    posted.append(job.end)
            finally:
                if posted:
                    await self._connections.note_replayed(connection, posted)
            sent.update(posted)

    async def _settle(self, connection: Connection) -> None:
        """The client has just spoken: what was posted a while ago has arrived. Send what it may have missed."""
        now = self._clock()
        before = now - ARRIVED_AFTER_S
        if connection.connected_at < before:
            # Read first: what is marked now may still be in the index of what isn't.
            sent = set(await self._connections.replayed(connection))
            await self._receipts.mark_arrived(connection, before=before, pushed_before=now - PUSHED_WITHIN_S)
            # Where a push failed, none since then can be told from it.
            ended_by = before if connection.behind else min(connection.connected_at, before)
            await self._catch_up(connection, sent, ended_by=ended_by, platform_ended_by=before)
            if connection.behind:
                await self._connections.set_behind(connection, False)


def create_connect(engine: AwsEngine) -> Work:
    """The work of $connect, and of the replay that it asks for."""
    access, conversations = create_access(engine), _conversations(engine)

    async def work(invocation: Invocation) -> dict[str, Any] | None:
        event = invocation.event
        if "replay" in event:
            await conversations.replay(event["replay"]["connection_id"])
            return None
        try:
            connection = await open_connection(event, access, engine.connections)
            replay = {"replay": {"connection_id": connection.connection_id}}
            await engine.invoke_later(os.environ["AWS_LAMBDA_FUNCTION_NAME"], replay)
        except MipError as error:
            return _refusal(error)
        return {"statusCode": 200}

    return work


def create_disconnect(engine: AwsEngine) -> Work:
    """The work of $disconnect."""
    receipts = Receipts(engine.connections, engine.jobs)

    async def work(invocation: Invocation) -> dict[str, Any]:
        await receipts.close(invocation.event["requestContext"]["connectionId"])
        return {"statusCode": 200}

    return work


def create_message(engine: AwsEngine) -> Work:
    """The work of $default."""
    conversations = _conversations(engine)

    async def work(invocation: Invocation) -> dict[str, Any]:
        event = invocation.event
        try:
            await conversations.hear(event["requestContext"]["connectionId"], event.get("body") or "")
        except MipError as error:
            # The client would get what a failure answers, between its results. It pings again.
            _LOG.warning("a client's message had no effect: %s", error)
        return {"statusCode": 200}

    return work


def _conversations(engine: AwsEngine) -> Conversations:
    receipts = Receipts(engine.connections, engine.jobs)
    return Conversations(engine.connections, create_push(engine), receipts)


def _refusal(error: MipError) -> dict[str, Any]:
    if isinstance(error, Unavailable):
        _LOG.warning("a connection was refused: %s", error)
    body = {"error": {"code": error.code, "message": error.message}}
    return {"statusCode": status_of(error), "body": json.dumps(body)}


def _bearer(header: str | None) -> str | None:
    scheme, _, token = (header or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _said(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _ended_by_platform(job: Job) -> bool:
    return job.error is not None and job.error.code in ENDED_BY_PLATFORM


def _ended(job: Job) -> float:
    return datetime.fromisoformat(job.finished_at).timestamp() if job.finished_at else float("inf")


connect = lambda_handler(create_connect, patience=ANSWERING)
disconnect = lambda_handler(create_disconnect)
message = lambda_handler(create_message, patience=ANSWERING)
