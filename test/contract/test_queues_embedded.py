"""The queues' contract on the embedded engine, and the promises that only it makes."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from queue_engine import EmbeddedQueueEngine, queue_engine

from medical_image_processing.engines.embedded.fifo import HandleTrouble
from medical_image_processing.errors import NotFound
from medical_image_processing.testing.queues_contract import (
    DEAD,
    MAX_RECEIVES,
    QUEUE,
    VISIBILITY_S,
    QueuesContract,
    a_message,
    bodies,
)
from medical_image_processing.testing.queues_model import FifoMachine, ModelledEngine

Work = Callable[[EmbeddedQueueEngine], Awaitable[None]]


def on_engine(folder: Path, work: Work) -> None:
    async def run() -> None:
        async with queue_engine(folder / "mip.db") as engine:
            await asyncio.wait_for(work(engine), 30)

    asyncio.run(run())


class TestContract(QueuesContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def run(self, work: Callable[..., Awaitable[None]]) -> None:
        on_engine(self.folder, work)


class Machine(FifoMachine):
    async def open_engine(self) -> ModelledEngine:
        self._folder = tempfile.TemporaryDirectory()
        self._opened = queue_engine(Path(self._folder.name) / "mip.db")
        return await self._opened.__aenter__()

    async def close_engine(self) -> None:
        await self._opened.__aexit__(None, None, None)
        self._folder.cleanup()


TestModel = Machine.TestCase
TestModel.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_a_message_that_was_received_before_comes_alone_and_first(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        queues = engine.queues
        await queues.send(QUEUE, [a_message(name) for name in "abcd"])
        held = await queues.receive(QUEUE, limit=2, receiver="worker")
        assert bodies(held) == ["a", "b"]
        assert await queues.release("worker", counted=True) == 2
        batches = [bodies(await queues.receive(QUEUE, limit=10)) for _ in range(4)]
        assert batches == [["a"], ["b"], ["c", "d"], []]

    on_engine(tmp_path, work)


def test_a_release_that_does_not_count_leaves_no_trace(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        await engine.queues.send(QUEUE, [a_message(name) for name in "ab"])
        for _ in range(MAX_RECEIVES + 1):
            received = await engine.queues.receive(QUEUE, limit=10, receiver="worker")
            assert [(m.body, m.receive_count) for m in received] == [("a", 1), ("b", 1)]
            assert await engine.queues.release("worker", counted=False) == 2
        assert engine.deaths == 0

    on_engine(tmp_path, work)


def test_after_a_restart_everything_held_by_the_earlier_life_is_free_and_uncounted(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        await engine.queues.send(QUEUE, [a_message(name) for name in "abc"])
        await engine.queues.receive(QUEUE, limit=1, receiver="worker")
        await engine.queues.receive(QUEUE, limit=1)
        await engine.restart()
        assert bodies(await engine.queues.receive(QUEUE, limit=10)) == ["c"]
        assert await engine.queues.release_all() == 3
        received = await engine.queues.receive(QUEUE, limit=10)
        assert [(m.body, m.receive_count) for m in received] == [("a", 1), ("b", 1), ("c", 1)]

    on_engine(tmp_path, work)


def test_a_dead_letter_that_was_answered_for_stays_to_be_looked_at(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        [message_id] = await engine.queues.send(QUEUE, [a_message("bad")])
        for _ in range(MAX_RECEIVES):
            await engine.queues.receive(QUEUE, limit=1)
            await engine.pass_time(VISIBILITY_S + 1)
        await engine.queues.settle_dead_letters([message_id])
        assert await engine.queues.dead_letters(limit=10) == []
        assert await engine.queues.depth(DEAD) == 1

    on_engine(tmp_path, work)


def test_a_last_lease_that_ends_by_release_is_a_dead_letter_at_once(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        await engine.queues.send(QUEUE, [a_message("bad")])
        for _ in range(MAX_RECEIVES):
            assert engine.deaths == 0
            await engine.queues.receive(QUEUE, limit=1, receiver="worker")
            await engine.queues.release("worker", counted=True)
        assert engine.deaths == 1
        assert [letter.body for letter in await engine.queues.dead_letters(limit=5)] == ["bad"]
        # The dead letter itself can be looked at, with a count of its own.
        [letter] = await engine.queues.receive(DEAD, limit=1)
        assert (letter.body, letter.receive_count) == ("bad", 1)

    on_engine(tmp_path, work)


def test_a_lease_that_ends_wakes_a_waiting_receiver_without_any_sweep(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        # A clock that runs, so that the engine's own timer is what is tested.
        engine.queues._clock = lambda: loop.time() - began
        await engine.queues.send(QUEUE, [a_message("one")])
        await engine.queues.receive(QUEUE, limit=1, visibility_s=0.3)
        received = await engine.queues.receive(QUEUE, limit=1, wait_s=10)
        assert bodies(received) == ["one"], "none was there when the receiver's time was over"
        assert loop.time() - began > 0.25

    on_engine(tmp_path, work)


def test_as_many_receivers_wake_as_messages_come(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        waiting = [asyncio.create_task(engine.queues.receive(QUEUE, limit=1, wait_s=20)) for _ in range(5)]
        await asyncio.sleep(0)
        await engine.queues.send(QUEUE, [a_message("one"), a_message("two")])
        async with asyncio.timeout(15):
            while sum(task.done() for task in waiting) < 2:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        engine.queues.close()
        received = [bodies(messages) for messages in await asyncio.gather(*waiting)]
        assert sorted(received) == [[], [], [], ["one"], ["two"]]

    on_engine(tmp_path, work)


def test_deleting_a_message_wakes_a_receiver_for_the_next_of_its_group(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        await engine.queues.send(QUEUE, [a_message(name, group="g") for name in "ab"])
        [first] = await engine.queues.receive(QUEUE, limit=1)
        waiting = asyncio.create_task(engine.queues.receive(QUEUE, limit=1, wait_s=20))
        await asyncio.sleep(0)
        await engine.queues.delete(QUEUE, [first.receipt_handle])
        assert bodies(await waiting) == ["b"]

    on_engine(tmp_path, work)


@pytest.mark.parametrize("steps", range(12))
def test_a_cancelled_receiver_swallows_nothing(tmp_path: Path, steps: int) -> None:
    """Cancelled after any number of turns of the loop: waiting, woken, in the transaction, committed."""

    async def work(engine: EmbeddedQueueEngine) -> None:
        waiting = asyncio.create_task(engine.queues.receive(QUEUE, limit=1, wait_s=20))
        await asyncio.sleep(0)
        sending = asyncio.create_task(engine.queues.send(QUEUE, [a_message("one")]))
        for _ in range(steps):
            await asyncio.sleep(0.0005)
        waiting.cancel()
        outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
        await sending
        if isinstance(outcome, asyncio.CancelledError):
            received = await engine.queues.receive(QUEUE, limit=1, wait_s=5)
            assert [(m.body, m.receive_count) for m in received] == [("one", 1)]

    on_engine(tmp_path, work)


def test_a_cancelled_receiver_passes_its_wake_up_on(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        first = asyncio.create_task(engine.queues.receive(QUEUE, limit=1, wait_s=20))
        second = asyncio.create_task(engine.queues.receive(QUEUE, limit=1, wait_s=20))
        await asyncio.sleep(0)
        await engine.queues.send(QUEUE, [a_message("one")])
        first.cancel()
        assert bodies(await asyncio.wait_for(second, 5)) == ["one"]

    on_engine(tmp_path, work)


def test_closing_lets_every_receiver_go(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        waiting = [asyncio.create_task(engine.queues.receive(QUEUE, limit=1, wait_s=20)) for _ in range(3)]
        await asyncio.sleep(0)
        engine.queues.close()
        assert await asyncio.wait_for(asyncio.gather(*waiting), 2) == [[], [], []]

    on_engine(tmp_path, work)


def test_whoever_waits_for_a_queue_that_is_deleted_is_told(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        waiting = asyncio.create_task(engine.queues.receive(QUEUE, limit=1, wait_s=20))
        await asyncio.sleep(0)
        await engine.queues.delete_queue(QUEUE)
        with pytest.raises(NotFound):
            await asyncio.wait_for(waiting, 5)
        assert not engine.queues.exists(QUEUE)

    on_engine(tmp_path, work)


def test_a_message_sent_in_a_larger_transaction_is_there_or_is_not_with_it(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        def fails(connection: sqlite3.Connection) -> None:
            engine.queues.send_in(connection, QUEUE, a_message("lost"))
            raise NotFound("NO", "the rest of the transaction failed")

        with pytest.raises(NotFound):
            await engine.database.write(fails)
        assert await engine.queues.depth(QUEUE) == 0
        message_id, seq = await engine.database.write(
            lambda connection: engine.queues.send_in(connection, QUEUE, a_message("kept"))
        )
        engine.queues.notify(QUEUE)
        [received] = await engine.queues.receive(QUEUE, limit=1)
        assert (received.message_id, received.seq) == (message_id, seq)

    on_engine(tmp_path, work)


def test_purging_and_removing_a_dead_letter_keep_the_depth(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        queues = engine.queues
        await queues.send(QUEUE, [a_message(name) for name in "abc"])
        await queues.send(DEAD, [a_message(name) for name in "xy"])
        await engine.database.write(lambda c: queues.purge_in(c, QUEUE))
        await engine.database.write(lambda c: queues.remove_group_in(c, DEAD, "x"))
        await engine.database.write(lambda c: queues.remove_group_in(c, "nope.fifo", "x"))
        assert (await queues.depth(QUEUE), await queues.depth(DEAD)) == (0, 1)
        assert bodies(await queues.receive(DEAD, limit=5)) == ["y"]

    on_engine(tmp_path, work)


def test_attributes_count_what_waits_and_what_is_out(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        await engine.queues.send(QUEUE, [a_message(name) for name in "abc"])
        await engine.queues.receive(QUEUE, limit=1)
        found = engine.queues.attributes(QUEUE)
        assert found is not None
        assert (found.visible, found.in_flight) == (2, 1)
        assert (found.redrive_to, found.max_receives, found.visibility_s) == (
            DEAD,
            MAX_RECEIVES,
            VISIBILITY_S,
        )
        assert engine.queues.attributes("nope.fifo") is None

    on_engine(tmp_path, work)


def test_creating_again_changes_the_attributes_and_keeps_the_messages(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        await engine.queues.send(QUEUE, [a_message("a")])
        await engine.queues.receive(QUEUE, limit=1, visibility_s=0)
        await engine.queues.create(QUEUE, redrive_to=DEAD, max_receives=1, visibility_s=5)
        assert await engine.queues.receive(QUEUE, limit=1) == []
        assert [letter.body for letter in await engine.queues.dead_letters(limit=5)] == ["a"]

    on_engine(tmp_path, work)


@pytest.mark.parametrize("handle", ["", "x", "1.short", "g.AAAAAAAAAAAAAAAA", "1.AAAAAAAAAAAAAAA\ud800"])
def test_what_is_no_receipt_handle_is_said_to_be_none(tmp_path: Path, handle: str) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        assert await engine.queues.delete_batch(QUEUE, [handle]) == [HandleTrouble.INVALID]
        assert await engine.queues.change_visibility(QUEUE, [(handle, 1)]) == [HandleTrouble.INVALID]

    on_engine(tmp_path, work)


def test_no_call_scans_a_table_however_much_waits(tmp_path: Path) -> None:
    """Every statement of the calls that each job makes finds its rows through an index."""
    statements: set[str] = set()

    async def work(engine: EmbeddedQueueEngine) -> None:
        queues, database = engine.queues, engine.database
        for connection in (database._writer, database._reader):
            connection.set_trace_callback(statements.add)
        await queues.send(
            QUEUE, [a_message(name, group=group) for name, group in zip("abcd", "xxyz", strict=True)]
        )
        received = await queues.receive(QUEUE, limit=10, receiver="worker")
        queues.held_by("worker")
        await queues.change_visibility(QUEUE, [(m.receipt_handle, 60) for m in received])
        await queues.delete(QUEUE, [received[0].receipt_handle])
        await queues.release("worker", counted=True)
        queues.attributes(QUEUE)
        await queues.depth(QUEUE)
        await queues.gauges()
        await queues.dead_letters(limit=10)
        await queues.settle_dead_letters(["none"])
        await engine.pass_time(1000)
        for connection in (database._writer, database._reader):
            connection.set_trace_callback(None)
        explained = [s for s in statements if s.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE")]
        assert len(explained) > 20
        for statement in explained:
            for row in database._reader.execute(f"EXPLAIN QUERY PLAN {statement}"):
                plan = str(row["detail"])
                # The few messages in flight, or dead and unanswered, may be gone through; all others not.
                allowed = "messages_in_flight" in plan or "messages_dead" in plan or plan == "SCAN CONSTANT ROW"
                # Metrics go through the queues, never through what they hold.
                allowed = allowed or (plan == "SCAN q" and "q.depth > 0" in statement)
                assert allowed or "SCAN" not in plan, f"{plan}: {statement}"
                assert not plan.endswith("messages_by_group (queue_id=?)"), f"{plan}: {statement}"

    on_engine(tmp_path, work)


def test_gauges_show_the_queues_that_hold_messages(tmp_path: Path) -> None:
    async def work(engine: EmbeddedQueueEngine) -> None:
        assert await engine.queues.gauges() == []
        await engine.queues.send(QUEUE, [a_message("one")])
        await engine.pass_time(5)
        await engine.queues.send(QUEUE, [a_message("two")])
        await engine.queues.receive(QUEUE, limit=1, wait_s=0)
        [gauge] = await engine.queues.gauges()
        assert (gauge.queue, gauge.depth) == (QUEUE, 2)
        assert 5 <= gauge.oldest_s < 7

    on_engine(tmp_path, work)
