"""What control needs of the queues.

Clauses, each a test in ``testing/``:

- Q1 what ``send`` has returned for is durable
- Q2 within five minutes a deduplication id is delivered once; later sends return the first message's id
- Q3 a group's messages come in order, and none comes while another of its group is in flight
- Q4 a received message comes back when its lease ends, with its receive count raised
- Q5 after MAX_RECEIVES receives a message goes to the dead-letter queue instead of to a receiver
- Q6 only the newest receipt handle of a message renews its lease; deleting is idempotent
- Q7 a receive waits for a message up to ``wait_s``, and no longer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class OutgoingMessage:
    """A message to send: body text, FIFO group, deduplication id."""

    body: str
    group_id: str
    dedup_id: str
    attributes: str | None = None
    """The message attributes of SQS, as JSON text."""
    sender: str | None = None


@dataclass(frozen=True)
class ReceivedMessage:
    """A message under a lease. ``receive_count`` includes this receive. ``sent_at`` is epoch seconds."""

    message_id: str
    body: str
    receipt_handle: str
    receive_count: int
    group_id: str
    dedup_id: str
    seq: int
    sent_at: float
    first_received_at: float
    attributes: str | None = None
    sender: str | None = None
    """The algorithm whose credentials sent it; None for the platform and its operator."""


@dataclass(frozen=True)
class DeadLetter:
    """A message that was received too often, in the dead-letter queue and not yet answered for."""

    message_id: str
    queue: str
    body: str


class Queues(Protocol):
    """FIFO queues by name."""

    async def send(self, queue: str, messages: Sequence[OutgoingMessage]) -> list[str]:
        """Message ids, in order. NotFound ``UNKNOWN_QUEUE``."""

    async def receive(self, queue: str, *, limit: int, wait_s: float) -> list[ReceivedMessage]:
        """Up to ``limit`` messages, leased for the queue's visibility timeout."""

    async def delete(self, queue: str, receipt_handles: Sequence[str]) -> None:
        """Done with these."""

    async def depth(self, queue: str) -> int:
        """Messages on the queue, in flight or not; 0 when there is no such queue."""

    async def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        """Dead letters of algorithms' queues that nobody has answered for. They stay where they are."""

    async def settle_dead_letters(self, message_ids: Sequence[str]) -> None:
        """These have been answered for; ``dead_letters`` won't return them again."""
