"""FIFO queues in SQLite: ports.queues, and what the SQS endpoint and the supervisor need besides.

The rules are those of :mod:`fifo`; here are the transactions around them and the waiting. A receive that
finds nothing waits to be woken: by a send, a delete that frees a group, a lease that ends. Nothing polls.
Each message that becomes ready wakes one waiter.

Nobody's messages are swallowed: a receiver that was cancelled while its messages were being committed gives
them back uncounted.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from medical_image_processing import naming
from medical_image_processing.engines.embedded import fifo
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.fifo import Effects, HandleTrouble, Sent
from medical_image_processing.engines.embedded.waiting import Line
from medical_image_processing.ports.gauges import QueueGauge
from medical_image_processing.ports.queues import DeadLetter, OutgoingMessage, ReceivedMessage

T = TypeVar("T")
_PURGE_LIMIT = 500


@dataclass(frozen=True)
class QueueAttributes:
    """A queue as GetQueueAttributes shows it. ``visible`` counts every message that is not in flight."""

    name: str
    redrive_to: str | None
    max_receives: int | None
    visibility_s: float
    created_at: float
    visible: int
    in_flight: int


class FifoQueues:
    """Implements :class:`ports.queues.Queues`. Belongs to the database's event loop.

    ``on_dead_letter`` is called after messages went to a dead-letter queue.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = time.time,
        on_dead_letter: Callable[[], None] | None = None,
    ) -> None:
        self.on_dead_letter = on_dead_letter
        self._database = database
        self._clock = clock
        self._lines: dict[str, Line] = {}
        self._closed_to: set[str] = set()
        self._nothing_comes = Line()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def create(
        self,
        name: str,
        *,
        redrive_to: str | None,
        max_receives: int = naming.MAX_RECEIVES,
        visibility_s: float = 30.0,
    ) -> None:
        """Make the queue, or give an existing one these attributes."""
        row = (name, redrive_to, max_receives if redrive_to else None, visibility_s, self._clock())
        sql = (
            "INSERT INTO queues (name, redrive_to, max_receives, visibility_s, created_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET redrive_to = excluded.redrive_to,"
            " max_receives = excluded.max_receives, visibility_s = excluded.visibility_s"
        )
        await self._database.write(lambda c: c.execute(sql, row) and None)

    async def delete_queue(self, name: str) -> None:
        """Remove the queue and what it holds; whoever waits for it is told."""
        await self._database.write(lambda c: c.execute("DELETE FROM queues WHERE name = ?", (name,)) and None)
        if (line := self._lines.pop(name, None)) is not None:
            line.wake_all()

    def exists(self, name: str) -> bool:
        """Whether there is such a queue."""
        return bool(self._database.read("SELECT 1 FROM queues WHERE name = ?", name))

    def attributes(self, name: str) -> QueueAttributes | None:
        """The queue and its counts, or None."""
        rows = self._database.read(
            "SELECT q.*, (SELECT COUNT(*) FROM messages m INDEXED BY messages_in_flight"
            " WHERE m.queue_id = q.queue_id AND m.in_flight = 1 AND m.visible_at > ?) AS out"
            " FROM queues q WHERE q.name = ?",
            self._clock(),
            name,
        )
        if not rows:
            return None
        row = rows[0]
        return QueueAttributes(
            name=name,
            redrive_to=row["redrive_to"],
            max_receives=row["max_receives"],
            visibility_s=row["visibility_s"],
            created_at=row["created_at"],
            visible=row["depth"] - row["out"],
            in_flight=row["out"],
        )

    async def depth(self, queue: str) -> int:
        """Messages on the queue, in flight or not; 0 when there is no such queue."""
        rows = self._database.read("SELECT depth FROM queues WHERE name = ?", queue)
        return int(rows[0][0]) if rows else 0

    async def gauges(self) -> list[QueueGauge]:
        """All queues that hold messages."""
        # The oldest is the first that is ready or one of the few in flight: both stand in an index.
        rows = self._database.read(
            "SELECT q.name, q.depth, (SELECT sent_at FROM messages WHERE seq = min("
            " coalesce((SELECT min(seq) FROM messages m WHERE m.queue_id = q.queue_id AND m.is_head = 1"
            "  AND m.in_flight = 0), 9e18),"
            " coalesce((SELECT min(seq) FROM messages m INDEXED BY messages_in_flight"
            "  WHERE m.queue_id = q.queue_id AND m.in_flight = 1), 9e18)"
            ")) AS sent_at FROM queues q WHERE q.depth > 0"
        )
        now = self._clock()
        return [QueueGauge(row["name"], row["depth"], max(0.0, now - row["sent_at"])) for row in rows]

    async def send(self, queue: str, messages: Sequence[OutgoingMessage]) -> list[str]:
        """Message ids, in order. NotFound ``UNKNOWN_QUEUE``."""
        return [sent.message_id for sent in await self.post(queue, messages)]

    async def post(self, queue: str, messages: Sequence[OutgoingMessage]) -> list[Sent]:
        """Like :meth:`send`, with sequence numbers."""

        def insert(connection: sqlite3.Connection, effects: Effects) -> list[Sent]:
            row, now, sent = fifo.find_queue(connection, queue), self._clock(), []
            for message in messages:
                one, is_ready = fifo.send(connection, row, message, now)
                effects.ready[queue] += is_ready
                sent.append(one)
            return sent

        return await self._write(insert, durable=True)

    def send_in(self, connection: sqlite3.Connection, queue: str, message: OutgoingMessage) -> tuple[str, int]:
        """Message id and sequence number. The transaction is the caller's, who calls :meth:`notify` after it."""
        sent, _ = fifo.send(connection, fifo.find_queue(connection, queue), message, self._clock())
        return sent.message_id, sent.seq

    def notify(self, queue: str, count: int = 1) -> None:
        """Wake up to ``count`` receivers: that many messages have become ready."""
        if (line := self._lines.get(queue)) is not None:
            line.wake(count)

    async def receive(
        self,
        queue: str,
        *,
        limit: int,
        wait_s: float = 0.0,
        visibility_s: float | None = None,
        receiver: str | None = None,
    ) -> list[ReceivedMessage]:
        """Up to ``limit`` messages, leased to ``receiver``; NotFound ``UNKNOWN_QUEUE``.

        Waits up to ``wait_s`` seconds when there is none, less once the queues are closed.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            if receiver in self._closed_to:
                if wait_s and not self._closed:
                    await self._nothing_comes.wait(max(0.0, deadline - loop.time()))
                return []
            line = self._lines.setdefault(queue, Line())
            version = line.version
            if line.may_have_messages:
                messages = await self._take(queue, limit, visibility_s, receiver)
                if messages:
                    return messages
                line.may_have_messages = line.version != version
            left_s = deadline - loop.time()
            if left_s <= 0 or self._closed:
                return []
            if line.version == version:
                await line.wait(left_s)

    async def _take(
        self, queue: str, limit: int, visibility_s: float | None, receiver: str | None
    ) -> list[ReceivedMessage]:
        taken: list[ReceivedMessage] = []
        gone = False

        def take(connection: sqlite3.Connection, effects: Effects) -> list[ReceivedMessage]:
            return fifo.take(
                connection,
                fifo.find_queue(connection, queue),
                limit=limit,
                visibility_s=visibility_s,
                receiver=receiver,
                now=self._clock(),
                effects=effects,
            )

        def committed(messages: list[ReceivedMessage]) -> None:
            taken.extend(messages)
            if gone:
                self._spawn(self.give_back(messages))

        try:
            return await self._write(take, committed)
        except asyncio.CancelledError:
            gone = True
            if taken:
                self._spawn(self.give_back(taken))
            raise

    async def give_back(self, messages: Sequence[ReceivedMessage]) -> None:
        """Undo a receive whose receiver has gone: the messages are ready again, and it does not count."""
        handles = [message.receipt_handle for message in messages]
        await self._write(lambda c, effects: fifo.give_back_uncounted(c, handles, effects))

    async def delete(self, queue: str, receipt_handles: Sequence[str]) -> None:
        """Done with these."""
        await self.delete_batch(queue, receipt_handles)

    async def delete_batch(self, queue: str, handles: Sequence[str]) -> list[HandleTrouble | None]:
        """Like :meth:`delete`, with what was wrong with each."""
        return await self._write(lambda c, effects: fifo.delete(c, fifo.find_queue(c, queue), handles, effects))

    async def change_visibility(
        self, queue: str, changes: Sequence[tuple[str, float]]
    ) -> list[HandleTrouble | None]:
        """Let each handle's lease end that many seconds from now; what was wrong with each."""

        def change(connection: sqlite3.Connection, effects: Effects) -> list[HandleTrouble | None]:
            row, now = fifo.find_queue(connection, queue), self._clock()
            return [fifo.change_visibility(connection, row, *one, now, effects) for one in changes]

        return await self._write(change)

    def close_to(self, receiver: str) -> None:
        """Hand ``receiver`` no more messages. It keeps, renews and deletes what it holds."""
        self._closed_to.add(receiver)
        for line in self._lines.values():
            line.wake_all()  # whoever waits now must not be woken for a message that it won't get

    def held_by(self, receiver: str) -> list[str]:
        """The groups of the messages that ``receiver`` holds; of an algorithm's queue these are job ids."""
        sql = (
            "SELECT group_id FROM messages INDEXED BY messages_by_receiver"
            " WHERE in_flight = 1 AND receiver IS NOT NULL AND receiver = ? ORDER BY seq"
        )
        return [row["group_id"] for row in self._database.read(sql, receiver)]

    async def release(self, receiver: str, *, counted: bool) -> int:
        """Give back what ``receiver`` holds, because it has ended; how many messages that were."""
        self._closed_to.discard(receiver)
        return await self._write(lambda c, effects: fifo.release(c, receiver, counted=counted, effects=effects))

    async def release_all(self) -> int:
        """At start-up: give back, uncounted, what receivers of the platform's previous life held."""
        return await self._write(lambda c, effects: fifo.release_all(c, effects))

    def purge_in(self, connection: sqlite3.Connection, queue: str) -> None:
        """Remove all messages of a queue, if there is one, inside a transaction of the caller's."""
        row = connection.execute("SELECT queue_id FROM queues WHERE name = ?", (queue,)).fetchone()
        if row is not None:
            fifo.purge(connection, row["queue_id"])

    def remove_group_in(self, connection: sqlite3.Connection, queue: str, group_id: str) -> None:
        """Remove a group from a queue, if there is one, inside a transaction of the caller's."""
        row = connection.execute("SELECT queue_id FROM queues WHERE name = ?", (queue,)).fetchone()
        if row is not None:
            fifo.remove_group(connection, row["queue_id"], group_id)

    async def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        """Dead letters of algorithms' queues that nobody has answered for. They stay where they are."""
        rows = self._database.read(
            "SELECT m.message_id, q.name, m.body FROM messages m INDEXED BY messages_dead"
            " JOIN queues q ON q.queue_id = m.queue_id"
            " WHERE m.settled = 0 ORDER BY m.seq LIMIT ?",
            limit,
        )
        return [DeadLetter(row["message_id"], row["name"], row["body"]) for row in rows]

    async def settle_dead_letters(self, message_ids: Sequence[str]) -> None:
        """These have been answered for; ``dead_letters`` won't return them again."""
        rows = [(message_id,) for message_id in message_ids]
        sql = "UPDATE messages SET settled = 1 WHERE message_id = ? AND settled = 0"
        await self._database.write(lambda c: c.executemany(sql, rows) and None)

    async def sweep(self) -> None:
        """What the timer does, and the rest: end leases, forget deduplication ids, repair lost wake-ups.

        Call it once at start-up and then every second or so.
        """
        await self._end_leases()
        for queue, line in self._lines.items():
            if not line.may_have_messages and self._has_ready_messages(queue):
                line.wake(1)
        await self._forget_deduplication_ids()

    def _has_ready_messages(self, queue: str) -> bool:
        sql = (
            "SELECT EXISTS (SELECT 1 FROM messages m WHERE m.queue_id = q.queue_id AND m.is_head = 1"
            " AND m.in_flight = 0) FROM queues q WHERE q.name = ?"
        )
        return any(row[0] for row in self._database.read(sql, queue))

    async def _forget_deduplication_ids(self) -> None:
        now = self._clock()
        sql = (
            "DELETE FROM deduplication WHERE (queue_id, dedup_id) IN"
            " (SELECT queue_id, dedup_id FROM deduplication WHERE expires_at <= ? LIMIT ?)"
        )
        while self._database.read("SELECT 1 FROM deduplication WHERE expires_at <= ? LIMIT 1", now):
            await self._database.write(lambda c: c.execute(sql, (now, _PURGE_LIMIT)) and None)

    def close(self) -> None:
        """Let every waiting receive return, empty-handed, now."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for line in (*self._lines.values(), self._nothing_comes):
            line.wake_all()

    async def _end_leases(self) -> None:
        self._timer_at = float("inf")
        earliest = self._earliest_expiry()
        if earliest is not None and earliest <= self._clock():
            await self._write(lambda c, effects: fifo.expire(c, self._clock(), effects))
            earliest = self._earliest_expiry()
        if earliest is not None:
            self._arm(earliest)

    def _earliest_expiry(self) -> float | None:
        row = self._database.read(
            "SELECT min(visible_at) FROM messages INDEXED BY messages_in_flight WHERE in_flight = 1"
        )[0]
        return None if row[0] is None else float(row[0])

    def _arm(self, visible_at: float) -> None:
        """Have the timer ring when the first lease ends."""
        if visible_at >= self._timer_at or self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = visible_at
        delay_s = max(0.01, visible_at - self._clock() + 0.001)
        self._timer = asyncio.get_running_loop().call_later(delay_s, lambda: self._spawn(self._end_leases()))

    async def _write(
        self,
        run: Callable[[sqlite3.Connection, Effects], T],
        committed: Callable[[T], None] | None = None,
        *,
        durable: bool = False,
    ) -> T:
        """Leases and deletions need not outlive a power cut: at worst a message is received again."""
        effects = Effects()

        def then(value: T) -> None:
            for queue, count in effects.ready.items():
                self.notify(queue, count)
            if effects.earliest_expiry is not None:
                self._arm(effects.earliest_expiry)
            if effects.dead_letters and self.on_dead_letter is not None:
                self.on_dead_letter()
            if committed is not None:
                committed(value)

        return await self._database.write(lambda c: run(c, effects), then=then, durable=durable)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
