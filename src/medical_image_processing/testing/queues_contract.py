"""The clauses of ports.queues, for every engine to inherit (see :mod:`testing.registry_contract`).

:mod:`testing.queues_model` holds the same rules as a stateful property.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from medical_image_processing.errors import NotFound
from medical_image_processing.ports.queues import OutgoingMessage, Queues, ReceivedMessage
from medical_image_processing.testing.registry_contract import refused

QUEUE, DEAD = "mip-liver.fifo", "mip-liver-dlq.fifo"
VISIBILITY_S = 30
MAX_RECEIVES = 3


class QueueEngine(Protocol):
    """An engine with :data:`QUEUE`, which redrives to :data:`DEAD`, and what the suite does behind its back."""

    @property
    def queues(self) -> Queues:
        """The port."""

    async def change_visibility(self, queue: str, receipt_handle: str, seconds: int) -> bool:
        """Renew or end a lease, as a worker does; False when the handle no longer holds one."""

    async def pass_time(self, seconds: int) -> None:
        """Let time pass, and what is due happen."""

    async def restart(self) -> None:
        """Lose everything that is not durable."""


def a_message(name: str, *, group: str | None = None) -> OutgoingMessage:
    """A message whose body and deduplication id are ``name``, in a group of its own if none is given."""
    return OutgoingMessage(body=name, group_id=group or name, dedup_id=name)


def bodies(messages: list[ReceivedMessage]) -> list[str]:
    """What was received, in order."""
    return [message.body for message in messages]


class QueuesContract:
    """Clauses Q1 to Q7."""

    def run(self, work: Callable[[QueueEngine], Awaitable[None]]) -> None:
        """Open a fresh engine, await ``work``, close the engine."""
        raise NotImplementedError

    def test_q1_what_was_sent_survives_a_restart(self) -> None:
        async def work(engine: QueueEngine) -> None:
            await engine.queues.send(QUEUE, [a_message("one"), a_message("two")])
            await engine.restart()
            assert bodies(await engine.queues.receive(QUEUE, limit=10, wait_s=0)) == ["one", "two"]

        self.run(work)

    def test_q2_a_deduplication_id_is_delivered_once_in_five_minutes(self) -> None:
        async def work(engine: QueueEngine) -> None:
            first = await engine.queues.send(QUEUE, [a_message("one")])
            assert await engine.queues.send(QUEUE, [a_message("one")]) == first
            received = await engine.queues.receive(QUEUE, limit=10, wait_s=0)
            assert [message.message_id for message in received] == first
            await engine.queues.delete(QUEUE, [received[0].receipt_handle])
            await engine.pass_time(290)
            assert await engine.queues.send(QUEUE, [a_message("one")]) == first
            assert await engine.queues.depth(QUEUE) == 0
            await engine.pass_time(11)
            assert await engine.queues.send(QUEUE, [a_message("one")]) != first
            assert await engine.queues.depth(QUEUE) == 1

        self.run(work)

    def test_q3_a_group_comes_in_order_and_waits_for_what_is_in_flight(self) -> None:
        async def work(engine: QueueEngine) -> None:
            names = [f"{number:02}" for number in range(15)]
            await engine.queues.send(QUEUE, [a_message(name, group="g") for name in names])
            await engine.queues.send(QUEUE, [a_message("other")])
            seen: list[str] = []
            while messages := await engine.queues.receive(QUEUE, limit=4, wait_s=0):
                mine = [message for message in messages if message.group_id == "g"]
                if mine:
                    again = await engine.queues.receive(QUEUE, limit=10, wait_s=0)
                    assert all(message.group_id != "g" for message in again)
                    messages += again
                seen += bodies(mine)
                await engine.queues.delete(QUEUE, [message.receipt_handle for message in messages])
            assert seen == names

        self.run(work)

    def test_q4_a_message_comes_back_when_its_lease_ends(self) -> None:
        async def work(engine: QueueEngine) -> None:
            await engine.queues.send(QUEUE, [a_message("one")])
            first = await engine.queues.receive(QUEUE, limit=1, wait_s=0)
            assert first[0].receive_count == 1
            await engine.pass_time(VISIBILITY_S - 1)
            assert await engine.queues.receive(QUEUE, limit=1, wait_s=0) == []
            await engine.pass_time(2)
            second = await engine.queues.receive(QUEUE, limit=1, wait_s=0)
            assert (second[0].message_id, second[0].receive_count) == (first[0].message_id, 2)
            assert second[0].receipt_handle != first[0].receipt_handle

        self.run(work)

    def test_q5_after_the_last_receive_a_message_is_a_dead_letter(self) -> None:
        async def work(engine: QueueEngine) -> None:
            [message_id] = await engine.queues.send(QUEUE, [a_message("bad")])
            for count in range(1, MAX_RECEIVES + 1):
                received = await engine.queues.receive(QUEUE, limit=1, wait_s=0)
                assert [message.receive_count for message in received] == [count]
                assert await engine.queues.dead_letters(limit=10) == []
                await engine.pass_time(VISIBILITY_S + 1)
            assert await engine.queues.receive(QUEUE, limit=1, wait_s=0) == []
            letters = await engine.queues.dead_letters(limit=10)
            assert [(one.message_id, one.queue, one.body) for one in letters] == [(message_id, DEAD, "bad")]
            await engine.queues.settle_dead_letters([message_id])
            assert await engine.queues.dead_letters(limit=10) == []
            assert await engine.queues.depth(QUEUE) == 0

        self.run(work)

    def test_q6_only_the_newest_handle_counts_and_deleting_twice_is_fine(self) -> None:
        async def work(engine: QueueEngine) -> None:
            await engine.queues.send(QUEUE, [a_message("one")])
            [old] = await engine.queues.receive(QUEUE, limit=1, wait_s=0)
            assert await engine.change_visibility(QUEUE, old.receipt_handle, 0)
            [new] = await engine.queues.receive(QUEUE, limit=1, wait_s=0)
            assert not await engine.change_visibility(QUEUE, old.receipt_handle, 600)
            await engine.queues.delete(QUEUE, [old.receipt_handle])
            assert await engine.queues.depth(QUEUE) == 1
            assert await engine.change_visibility(QUEUE, new.receipt_handle, 600)
            await engine.pass_time(VISIBILITY_S + 1)
            assert await engine.queues.receive(QUEUE, limit=1, wait_s=0) == []
            await engine.queues.delete(QUEUE, [new.receipt_handle])
            await engine.queues.delete(QUEUE, [new.receipt_handle])
            assert await engine.queues.depth(QUEUE) == 0

        self.run(work)

    def test_q7_a_receive_waits_for_a_message_and_no_longer_than_asked(self) -> None:
        async def work(engine: QueueEngine) -> None:
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert await engine.queues.receive(QUEUE, limit=1, wait_s=1) == []
            assert 0.9 < loop.time() - began < 15
            waiting = asyncio.create_task(engine.queues.receive(QUEUE, limit=1, wait_s=20))
            await engine.queues.send(QUEUE, [a_message("one")])
            assert bodies(await asyncio.wait_for(waiting, 15)) == ["one"]

        self.run(work)

    def test_an_unknown_queue_is_stated(self) -> None:
        async def work(engine: QueueEngine) -> None:
            for call in (
                engine.queues.send("nope.fifo", [a_message("one")]),
                engine.queues.receive("nope.fifo", limit=1, wait_s=0),
                engine.queues.delete("nope.fifo", []),
            ):
                await refused(NotFound, "UNKNOWN_QUEUE", call)
            assert await engine.queues.depth("nope.fifo") == 0

        self.run(work)
