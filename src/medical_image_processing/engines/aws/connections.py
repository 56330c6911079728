"""The WebSocket connections on record, and results posted to them.

API Gateway holds the sockets; a table tells which client has which. Each connection has two items: one under its
client, for pushes, and one under its own id, for messages and the close, which name only that. Which results a
connection was sent when it opened lies beside them, a page an item (``replayed#…``), until it is known that they
arrived. All of it goes by itself after :data:`LIFETIME_S`, when API Gateway has long ended the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from medical_image_processing.engines.aws.clients import AwsClients, Refused
from medical_image_processing.engines.aws.tables import ConditionFailed, Item, Table
from medical_image_processing.errors import TransientError, Unavailable
from medical_image_processing.model.job import Job, JobEnd

LIFETIME_S = 3 * 3600
"""API Gateway ends every connection after two hours (API Gateway quotas, "WebSocket API")."""
OPENING_S = 30.0
"""A connection can't be posted to before $connect was answered, so for this long "gone" may mean "not yet"."""

_LOG = logging.getLogger(__name__)
_AT_ONCE = 10


@dataclass(frozen=True)
class Connection:
    """One client's socket. ``holder`` is whose key opened it; ``host`` is the name by which the client came.

    ``behind``: a result could not be posted to it, so what it was sent is not known to be all.
    """

    client_id: str
    connection_id: str
    holder: str | None
    host: str
    connected_at: float
    behind: bool = False


class ConnectionTable:
    """Connections by client and by id."""

    def __init__(self, table: Table, *, clock: Callable[[], float] = time.time) -> None:
        self._table = table
        self._clock = clock

    async def put(self, connection: Connection) -> None:
        """From now on pushes find it."""
        expires = {"expires_at": int(connection.connected_at + LIFETIME_S)}
        pointer = {**_pointer(connection.connection_id), "owner": connection.client_id, **expires}
        item = {
            **_key(connection.client_id, connection.connection_id),
            "holder": connection.holder,
            "host": connection.host,
            "connected_at": connection.connected_at,
            **expires,
        }
        await self._add(pointer)
        await self._add(item)

    async def find(self, connection_id: str) -> Connection | None:
        """The connection with that id, or None."""
        pointer = await self._table.get(_pointer(connection_id))
        if pointer is None:
            return None
        item = await self._table.get(_key(pointer["owner"], connection_id))
        return None if item is None else _connection(item)

    async def of_client(self, client_id: str) -> list[Connection]:
        """All connections that the client has now."""
        return [_connection(item) for item in await self._partition(client_id)]

    async def of_holder(self, holder: str) -> list[Connection]:
        """All that the key of ``holder`` opened. Reads the whole table: for the rare removal of a key."""
        items = await self._table.scan(where="#holder = :holder", values={"holder": holder})
        return [_connection(item) for item in items]

    async def remove(self, connection: Connection) -> None:
        """Forget it; one that is not there is no error."""
        await self._table.delete(_key(connection.client_id, connection.connection_id))
        await self._table.delete(_pointer(connection.connection_id))

    async def set_behind(self, connection: Connection, behind: bool) -> None:
        """Note that a result could not be posted, or that all missing ones were. Not for one that has gone."""
        with contextlib.suppress(ConditionFailed):
            await self._table.update(
                _key(connection.client_id, connection.connection_id),
                "SET #behind = :behind",
                condition="attribute_exists(#client_id)",
                values={"behind": int(behind)},
            )

    async def note_replayed(self, connection: Connection, ends: Sequence[JobEnd]) -> None:
        """These were posted to it, now, beside those that are pushed as they end."""
        now = self._clock()
        page: Item = {
            **_replayed(connection.connection_id, f"{time.time_ns():020d}"),
            "ends": json.dumps(ends),
            "posted_at": now,
            "expires_at": int(now + LIFETIME_S),
        }
        await self._add(page)

    async def replayed(self, connection: Connection, *, before: float | None = None) -> list[JobEnd]:
        """What :meth:`note_replayed` noted, before that time (epoch seconds)."""
        pages = await self._partition(f"replayed#{connection.connection_id}")
        return [
            JobEnd(*end)
            for page in pages
            if before is None or page["posted_at"] < before
            for end in json.loads(page["ends"])
        ]

    async def forget_replayed(self, connection: Connection, *, before: float) -> None:
        """The client has what was noted before that time."""
        for page in await self._partition(f"replayed#{connection.connection_id}"):
            if page["posted_at"] < before:
                await self._table.delete(_replayed(connection.connection_id, page["connection_id"]))

    async def _add(self, item: Item) -> None:
        with contextlib.suppress(ConditionFailed):  # a repeated call, of which the first answer was lost
            await self._table.put(item, condition="attribute_not_exists(#client_id)")

    async def _partition(self, client_id: str) -> list[Item]:
        return await self._table.query("#client_id = :client_id", {"client_id": client_id})


class ApiGatewayPush:
    """Implements :class:`ports.push.Connections`.

    ``render(job, host)`` is the text that the client gets. ``on_failure`` is told of each connection that is
    there and could not be posted to.
    """

    def __init__(
        self,
        clients: AwsClients,
        table: ConnectionTable,
        *,
        endpoint: str,
        render: Callable[[Job, str], str],
        on_failure: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clients = clients
        self._endpoint = endpoint
        self._table = table
        self._render = render
        self._on_failure = on_failure
        self._clock = clock

    async def push(self, job: Job) -> None:
        """Post the job to all connections of its client. Unavailable when one failed, after all had their turn."""
        connections = await self._table.of_client(job.client_id)
        failures = await _gather(self._deliver(connection, job) for connection in connections)
        if transient := next((one for one in failures if isinstance(one, TransientError)), None):
            raise Unavailable(
                "PUSH_FAILED", f"a connection could not be posted to: {transient.message}", retry_after_s=1.0
            ) from transient

    async def post(self, connection: Connection, job: Job) -> bool:
        """Send the job over one connection; whether it is open. TransientError, Refused."""
        return await self.say(connection, self._render(job, connection.host))

    async def say(self, connection: Connection, text: str) -> bool:
        """As :meth:`post`, for any text."""
        return await self._reach("post_to_connection", connection, Data=text.encode())

    async def is_open(self, connection: Connection) -> bool:
        """Whether it can be posted to."""
        return await self._reach("get_connection", connection)

    async def close(self, holder: str) -> None:
        """End the connections that were opened with the key of ``holder`` (clause K2)."""
        connections = await self._table.of_holder(holder)
        failures = await _gather(self._end(connection) for connection in connections)
        for failure in failures:
            if failure is not None:
                raise failure

    async def _deliver(self, connection: Connection, job: Job) -> Exception | None:
        try:
            if await self.post(connection, job):
                return None
        except (TransientError, Refused) as error:
            _LOG.warning("a result could not be posted to a connection: %s", error)
            self._on_failure()
            await self._note_missed(connection)
            return error
        if self._clock() - connection.connected_at < OPENING_S:
            await self._note_missed(connection)
        else:
            await self._table.remove(connection)
        return None

    async def _note_missed(self, connection: Connection) -> None:
        try:
            await self._table.set_behind(connection, True)
        except TransientError as error:
            _LOG.warning("that a connection missed a result could not be noted: %s", error)

    async def _end(self, connection: Connection) -> Exception | None:
        try:
            await self._reach("delete_connection", connection)
            await self._table.remove(connection)
        except (TransientError, Refused) as error:
            return error
        return None

    async def _reach(self, operation: str, connection: Connection, **parameters: Any) -> bool:
        try:
            # Made when there is a connection: most calls of the Lambdas that may push need no such client.
            gateway = self._clients.client("apigatewaymanagementapi", endpoint_url=self._endpoint)
            await gateway.call(operation, ConnectionId=connection.connection_id, **parameters)
        except Refused as error:
            if error.aws_code == "GoneException":
                return False
            raise
        return True


async def _gather(works: Iterable[Any]) -> list[Exception | None]:
    """Run them side by side, some at once; what each returned."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def placed(work: Any) -> Exception | None:
        async with places:
            result: Exception | None = await work
            return result

    return list(await asyncio.gather(*map(placed, works)))


def _key(client_id: str, connection_id: str) -> Item:
    return {"client_id": client_id, "connection_id": connection_id}


# No client_id holds a "#" (naming.NAME_PATTERN), so these are no client's.
def _pointer(connection_id: str) -> Item:
    return _key(f"connection#{connection_id}", "-")


def _replayed(connection_id: str, page: str) -> Item:
    return _key(f"replayed#{connection_id}", page)


def _connection(item: Item) -> Connection:
    return Connection(
        client_id=item["client_id"],
        connection_id=item["connection_id"],
        holder=item.get("holder"),
        host=item["host"],
        connected_at=item["connected_at"],
        behind=bool(item.get("behind")),
    )
