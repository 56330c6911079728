"""A FIFO queue as a few lines of plain Python, and a state machine that holds an engine to it.

Hypothesis sends, receives, deletes, renews, releases and lets time pass in any order; after each step the
engine must agree with the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, invariant, rule

from medical_image_processing.ports.queues import OutgoingMessage, ReceivedMessage
from medical_image_processing.testing.engine_machine import EngineMachine
from medical_image_processing.testing.queues_contract import (
    DEAD,
    MAX_RECEIVES,
    QUEUE,
    VISIBILITY_S,
    QueueEngine,
)

DEDUPLICATION_S = 300
RECEIVERS = ("a", "b")


class ModelledEngine(QueueEngine, Protocol):
    """What the machine does beyond the port. Time starts at 0."""

    async def receive_as(self, receiver: str, limit: int) -> list[ReceivedMessage]:
        """Receive from :data:`QUEUE` without waiting."""

    async def release(self, receiver: str, *, counted: bool) -> int:
        """The receiver has ended."""


@dataclass
class Message:
    """A message as the model sees it."""

    message_id: str
    group: str
    body: str
    receives: int = 0
    leased_until: int | None = None
    handle: str | None = None
    receiver: str | None = None


@dataclass
class Model:
    """One queue and its dead-letter queue, oldest message first."""

    now: int = 0
    waiting: list[Message] = field(default_factory=list)
    dead: list[Message] = field(default_factory=list)
    known: dict[str, tuple[str, int]] = field(default_factory=dict)

    def ready(self) -> list[Message]:
        """The oldest of each group that has nothing in flight."""
        busy = {message.group for message in self.waiting if message.leased_until is not None}
        heads: dict[str, Message] = {}
        for message in self.waiting:
            if message.group not in busy:
                heads.setdefault(message.group, message)
        return list(heads.values())

    def give_back(self, message: Message, *, counted: bool = True) -> None:
        """The lease of ``message`` has ended."""
        message.receives -= not counted
        message.leased_until = None
        if message.receives >= MAX_RECEIVES:
            self.waiting.remove(message)
            self.dead.append(message)

    def expire(self) -> None:
        """End leases that are over."""
        for message in list(self.waiting):
            if message.leased_until is not None and message.leased_until <= self.now:
                self.give_back(message)


class FifoMachine(EngineMachine[ModelledEngine]):
    """Subclass it, implement ``open_engine`` and ``close_engine``, and test its ``TestCase``."""

    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    @rule(group=st.sampled_from("ABC"), dedup=st.integers(0, 30))
    def send(self, group: str, dedup: int) -> None:
        """A deduplication id that was sent in the last five minutes gives the first message."""
        body, model = f"{group}{dedup}", self.model
        message = OutgoingMessage(body=body, group_id=group, dedup_id=str(dedup))
        [message_id] = self._run(self.engine.queues.send(QUEUE, [message]))
        known, until = model.known.get(str(dedup), ("", -1))
        if until > model.now:
            assert message_id == known
        else:
            assert message_id not in {one for one, _ in model.known.values()}
            model.known[str(dedup)] = (message_id, model.now + DEDUPLICATION_S)
            model.waiting.append(Message(message_id, group, body))

    @rule(target=handles, receiver=st.sampled_from(RECEIVERS), limit=st.integers(1, 10))
    def receive(self, receiver: str, limit: int) -> Any:
        """Oldest first, whole groups in order, suspects alone, and something whenever something is ready."""
        model, ready = self.model, self.model.ready()
        received = self._run(self.engine.receive_as(receiver, limit))
        assert len(received) <= limit
        assert bool(received) == bool(ready)
        taken = [self._message(one.message_id) for one in received]
        for got, message in zip(received, taken, strict=True):
            assert (got.body, got.group_id) == (message.body, message.group)
            assert got.receive_count == message.receives + 1
        if ready:
            assert taken[0] is ready[0]
            assert len(taken) == 1 or not any(message.receives for message in taken)
            if not any(message.receives for message in model.waiting):
                assert len(taken) >= min(limit, len(ready))
        for group in {message.group for message in taken}:
            assert group in {message.group for message in ready}
            of_group = [message for message in model.waiting if message.group == group]
            mine = [message for message in taken if message.group == group]
            assert mine == of_group[: len(mine)]
        for got, message in zip(received, taken, strict=True):
            message.receives += 1
            message.leased_until = model.now + VISIBILITY_S
            message.handle, message.receiver = got.receipt_handle, receiver
        return [got.receipt_handle for got in received]

    @rule(some=handles, data=st.data())
    def delete(self, some: list[str], data: st.DataObject) -> None:
        """The newest handle deletes, even after its lease; any other does nothing."""
        if not some:
            return
        handle = data.draw(st.sampled_from(some))
        self._run(self.engine.queues.delete(QUEUE, [handle]))
        self.model.waiting = [message for message in self.model.waiting if message.handle != handle]

    @rule(some=handles, data=st.data(), seconds=st.sampled_from([0, 5, 45]))
    def change_visibility(self, some: list[str], data: st.DataObject, seconds: int) -> None:
        """The newest handle renews its lease while it lasts."""
        if not some:
            return
        handle = data.draw(st.sampled_from(some))
        held = [m for m in self.model.waiting if m.handle == handle and m.leased_until is not None]
        changed = self._run(self.engine.change_visibility(QUEUE, handle, seconds))
        assert changed == bool(held)
        for message in held:
            message.leased_until = self.model.now + seconds
            if seconds == 0:
                self.model.give_back(message)

    @rule(receiver=st.sampled_from(RECEIVERS), counted=st.booleans())
    def release(self, receiver: str, counted: bool) -> None:
        """Everything a receiver holds comes back."""
        held = [m for m in self.model.waiting if m.leased_until is not None and m.receiver == receiver]
        assert self._run(self.engine.release(receiver, counted=counted)) == len(held)
        for message in held:
            self.model.give_back(message, counted=counted)

    @rule(seconds=st.sampled_from([1, 4, 10, 30, 31, 299]))
    def pass_time(self, seconds: int) -> None:
        """Leases end, deduplication ids are forgotten."""
        self.model.now += seconds
        self._run(self.engine.pass_time(seconds))
        self.model.expire()

    @rule()
    def restart(self) -> None:
        """Nothing that was answered is lost."""
        self._run(self.engine.restart())

    @invariant()
    def depths_and_dead_letters_agree(self) -> None:
        """After every step."""
        queues = self.engine.queues
        assert self._run(queues.depth(QUEUE)) == len(self.model.waiting)
        assert self._run(queues.depth(DEAD)) == len(self.model.dead)
        letters = self._run(queues.dead_letters(limit=1000))
        assert {letter.message_id for letter in letters} == {one.message_id for one in self.model.dead}

    def _message(self, message_id: str) -> Message:
        return next(message for message in self.model.waiting if message.message_id == message_id)
