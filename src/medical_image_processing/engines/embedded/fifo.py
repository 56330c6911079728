"""The rules of a FIFO queue, as functions of a connection inside one transaction.

Amazon SQS developer guide, "FIFO queues" and "Dead-letter queues"; where AWS leaves a choice, ours is said here:

- a receive takes the oldest message of as many groups as there are first, then more of the same groups, in order;
- a message that was received before is handed out alone, so that a job that kills its worker can't take others
  to the dead-letter queue with it (we call it a suspect);
- a message whose last allowed lease ends moves to the dead-letter queue then, not at the next receive.

Each call is a handful of indexed statements, whatever the queue holds.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from medical_image_processing.errors import NotFound
from medical_image_processing.ports.queues import OutgoingMessage, ReceivedMessage

DEDUPLICATION_S = 300.0
MAX_OF_GROUP = 10
"""How many messages of one group are in flight at most: those of one receive."""

_HANDLE = re.compile(r"([0-9a-f]{1,15})\.[A-Za-z0-9_-]{16}")
_RETURNED = (
    "SELECT m.seq, m.queue_id, m.group_id, m.receive_count, q.name, q.redrive_to, q.max_receives"
    " FROM messages m JOIN queues q ON q.queue_id = m.queue_id "
)
# Left alone, the planner may take the index by group, and go through all that waits in the queue.
_RETURNED_IN_FLIGHT = _RETURNED.replace("messages m", "messages m INDEXED BY messages_in_flight")


@dataclass(frozen=True)
class Sent:
    """A message as the queue knows it; for a duplicate, the first one."""

    message_id: str
    seq: int


class HandleTrouble(StrEnum):
    """Why a receipt handle does not do what was asked; the values are the codes of SQS."""

    INVALID = "ReceiptHandleIsInvalid"
    NOT_IN_FLIGHT = "MessageNotInflight"


@dataclass
class Effects:
    """What to tell others once the transaction is committed."""

    ready: Counter[str] = field(default_factory=Counter)
    """Queue → messages that can be received now and could not before."""
    dead_letters: int = 0
    earliest_expiry: float | None = None


def find_queue(connection: sqlite3.Connection, name: str) -> Any:
    """The queue's row. NotFound ``UNKNOWN_QUEUE``."""
    row = connection.execute("SELECT * FROM queues WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise NotFound("UNKNOWN_QUEUE", f"there is no queue '{name}'")
    return row


def send(connection: sqlite3.Connection, queue: Any, message: OutgoingMessage, now: float) -> tuple[Sent, bool]:
    """Append a message unless its deduplication id was seen in the last five minutes; and whether it is ready."""
    queue_id = queue["queue_id"]
    known = connection.execute(
        "SELECT message_id, seq FROM deduplication WHERE queue_id = ? AND dedup_id = ? AND expires_at > ?",
        (queue_id, message.dedup_id, now),
    ).fetchone()
    if known is not None:
        return Sent(*known), False
    in_group = connection.execute(
        "SELECT 1 FROM messages WHERE queue_id = ? AND group_id = ? LIMIT 1", (queue_id, message.group_id)
    ).fetchone()
    message_id = str(uuid.uuid4())
    seq = connection.execute(
        "INSERT INTO messages"
        " (queue_id, message_id, group_id, dedup_id, body, attributes, sent_at, is_head, sender)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            queue_id,
            message_id,
            message.group_id,
            message.dedup_id,
            message.body,
            message.attributes,
            now,
            in_group is None,
            message.sender,
        ),
    ).lastrowid
    assert seq is not None
    connection.execute(
        "INSERT OR REPLACE INTO deduplication VALUES (?, ?, ?, ?, ?)",
        (queue_id, message.dedup_id, message_id, seq, now + DEDUPLICATION_S),
    )
    _add_depth(connection, queue_id, 1)
    return Sent(message_id, seq), in_group is None


def take(
    connection: sqlite3.Connection,
    queue: Any,
    *,
    limit: int,
    visibility_s: float | None,
    receiver: str | None,
    now: float,
    effects: Effects,
) -> list[ReceivedMessage]:
    """Lease up to ``limit`` messages, in the order they were sent."""
    expire(connection, now, effects, queue_id=queue["queue_id"])
    rows = _choose(connection, queue, limit, effects)
    if not rows:
        return []
    visible_at = now + (queue["visibility_s"] if visibility_s is None else visibility_s)
    messages = [_lease(connection, row, visible_at, receiver, now) for row in rows]
    for group_id, count in Counter(row["group_id"] for row in rows).items():
        if count > 1:
            _refresh_group(connection, queue["queue_id"], group_id)
    effects.earliest_expiry = visible_at
    return messages


def _choose(connection: sqlite3.Connection, queue: Any, limit: int, effects: Effects) -> list[Any]:
    heads = connection.execute(
        "SELECT * FROM messages WHERE queue_id = ? AND is_head = 1 AND in_flight = 0 ORDER BY seq LIMIT ?",
        (queue["queue_id"], limit),
    ).fetchall()
    chosen: list[Any] = []
    for head in heads:
        if _redrive(connection, _with_queue(head, queue), head["receive_count"], effects):
            continue  # the limit was lowered since
        if head["receive_count"] and not chosen:
            return [head]
        if head["receive_count"]:
            return chosen
        chosen.append(head)
    for head in tuple(chosen):
        if len(chosen) >= limit:
            break
        chosen.extend(_followers(connection, head, min(limit - len(chosen), MAX_OF_GROUP - 1)))
    return sorted(chosen, key=lambda row: row["seq"])


def _followers(connection: sqlite3.Connection, head: Any, limit: int) -> list[Any]:
    rows = connection.execute(
        "SELECT * FROM messages WHERE queue_id = ? AND group_id = ? AND seq > ? ORDER BY seq LIMIT ?",
        (head["queue_id"], head["group_id"], head["seq"], limit),
    ).fetchall()
    suspect = next((n for n, row in enumerate(rows) if row["receive_count"]), len(rows))
    return rows[:suspect]


def _lease(
    connection: sqlite3.Connection, row: Any, visible_at: float, receiver: str | None, now: float
) -> ReceivedMessage:
    receipt = f"{row['seq']:x}.{secrets.token_urlsafe(12)}"
    first = now if row["first_received_at"] is None else row["first_received_at"]
    connection.execute(
        "UPDATE messages SET in_flight = 1, visible_at = ?, receive_count = receive_count + 1,"
        " first_received_at = ?, receipt = ?, receiver = ? WHERE seq = ?",
        (visible_at, first, receipt, receiver, row["seq"]),
    )
    return ReceivedMessage(
        message_id=row["message_id"],
        body=row["body"],
        receipt_handle=receipt,
        receive_count=row["receive_count"] + 1,
        group_id=row["group_id"],
        dedup_id=row["dedup_id"],
        seq=row["seq"],
        sent_at=row["sent_at"],
        first_received_at=first,
        attributes=row["attributes"],
        sender=row["sender"],
    )


def delete(
    connection: sqlite3.Connection, queue: Any, handles: Iterable[str], effects: Effects
) -> list[HandleTrouble | None]:
    """Remove the messages whose newest handles these are. An older handle, or a second delete, does nothing."""
    troubles: list[HandleTrouble | None] = []
    for handle in handles:
        seq = _seq_of(handle)
        if seq is None:
            troubles.append(HandleTrouble.INVALID)
            continue
        troubles.append(None)
        row = connection.execute(
            "DELETE FROM messages WHERE seq = ? AND queue_id = ? AND receipt = ? RETURNING group_id",
            (seq, queue["queue_id"], handle),
        ).fetchone()
        if row is not None:
            _add_depth(connection, queue["queue_id"], -1)
            _note_ready(connection, queue["queue_id"], queue["name"], row["group_id"], effects)
    return troubles


def change_visibility(
    connection: sqlite3.Connection, queue: Any, handle: str, seconds: float, now: float, effects: Effects
) -> HandleTrouble | None:
    """Let the lease of a handle end ``seconds`` from now; 0 ends it."""
    seq = _seq_of(handle)
    if seq is None:
        return HandleTrouble.INVALID
    row = connection.execute(
        _RETURNED
        + "WHERE m.seq = ? AND m.queue_id = ? AND m.receipt = ? AND m.in_flight = 1 AND m.visible_at > ?",
        (seq, queue["queue_id"], handle, now),
    ).fetchone()
    if row is None:
        return HandleTrouble.NOT_IN_FLIGHT
    if seconds <= 0:
        _give_back(connection, row, effects)
        return None
    connection.execute("UPDATE messages SET visible_at = ? WHERE seq = ?", (now + seconds, seq))
    effects.earliest_expiry = min(effects.earliest_expiry or now + seconds, now + seconds)
    return None


def expire(connection: sqlite3.Connection, now: float, effects: Effects, *, queue_id: int | None = None) -> None:
    """End the leases that are over, of one queue or of all."""
    where, given = ("", ()) if queue_id is None else ("AND m.queue_id = ? ", (queue_id,))
    rows = connection.execute(
        _RETURNED_IN_FLIGHT + f"WHERE m.in_flight = 1 {where}AND m.visible_at <= ? ORDER BY m.seq",
        (*given, now),
    ).fetchall()
    for row in rows:
        _give_back(connection, row, effects)


def release(connection: sqlite3.Connection, receiver: str, *, counted: bool, effects: Effects) -> int:
    """End all leases of a receiver; how many. Not ``counted``: as if they had never been received."""
    rows = connection.execute(
        _RETURNED + "WHERE m.in_flight = 1 AND m.receiver = ? ORDER BY m.seq", (receiver,)
    ).fetchall()
    for row in rows:
        _give_back(connection, row, effects, counted=counted)
    return len(rows)


def release_all(connection: sqlite3.Connection, effects: Effects) -> int:
    """End every lease without counting it; how many."""
    rows = connection.execute(_RETURNED_IN_FLIGHT + "WHERE m.in_flight = 1 ORDER BY m.seq").fetchall()
    for row in rows:
        _give_back(connection, row, effects, counted=False)
    return len(rows)


def give_back_uncounted(connection: sqlite3.Connection, handles: Iterable[str], effects: Effects) -> None:
    """End the leases of these handles as if the messages had never been received."""
    for handle in handles:
        row = connection.execute(
            _RETURNED + "WHERE m.seq = ? AND m.receipt = ? AND m.in_flight = 1", (_seq_of(handle), handle)
        ).fetchone()
        if row is not None:
            _give_back(connection, row, effects, counted=False)


def oldest_sent_at(connection: sqlite3.Connection, name: str) -> float | None:
    """When the oldest message of a queue was sent; None when it holds none."""
    # The oldest is the first that is ready or one of the few in flight: both stand in an index.
    row = connection.execute(
        "SELECT min(sent_at) FROM messages WHERE seq IN ("
        " (SELECT min(m.seq) FROM messages m JOIN queues q ON q.queue_id = m.queue_id"
        "  WHERE q.name = ?1 AND m.is_head = 1 AND m.in_flight = 0),"
        " (SELECT min(m.seq) FROM messages m INDEXED BY messages_in_flight"
        "  JOIN queues q ON q.queue_id = m.queue_id WHERE q.name = ?1 AND m.in_flight = 1))",
        (name,),
    ).fetchone()
    return None if row[0] is None else float(row[0])


def purge(connection: sqlite3.Connection, queue_id: int) -> None:
    """Remove every message; deduplication ids stay known."""
    connection.execute("DELETE FROM messages WHERE queue_id = ?", (queue_id,))
    connection.execute("UPDATE queues SET depth = 0 WHERE queue_id = ?", (queue_id,))


def remove_group(connection: sqlite3.Connection, queue_id: int, group_id: str) -> None:
    """Remove every message of one group."""
    sql = "DELETE FROM messages WHERE queue_id = ? AND group_id = ?"
    removed = connection.execute(sql, (queue_id, group_id)).rowcount
    _add_depth(connection, queue_id, -removed)


def _give_back(connection: sqlite3.Connection, row: Any, effects: Effects, *, counted: bool = True) -> None:
    receives = row["receive_count"] - (0 if counted else 1)
    if _redrive(connection, row, receives, effects):
        return
    connection.execute(
        "UPDATE messages SET in_flight = 0, visible_at = 0, receiver = NULL, receive_count = ? WHERE seq = ?",
        (receives, row["seq"]),
    )
    _note_ready(connection, row["queue_id"], row["name"], row["group_id"], effects)


def _redrive(connection: sqlite3.Connection, row: Any, receives: int, effects: Effects) -> bool:
    """Move a message that was received too often; without a dead-letter queue it stays."""
    if row["redrive_to"] is None or receives < row["max_receives"]:
        return False
    dead = connection.execute("SELECT queue_id FROM queues WHERE name = ?", (row["redrive_to"],)).fetchone()
    if dead is None:
        return False
    connection.execute(
        "UPDATE messages SET queue_id = ?, in_flight = 0, visible_at = 0, is_head = 0, receive_count = 0,"
        " first_received_at = NULL, receipt = NULL, receiver = NULL, settled = 0 WHERE seq = ?",
        (dead["queue_id"], row["seq"]),
    )
    _add_depth(connection, row["queue_id"], -1)
    _add_depth(connection, dead["queue_id"], 1)
    _note_ready(connection, row["queue_id"], row["name"], row["group_id"], effects)
    _note_ready(connection, dead["queue_id"], row["redrive_to"], row["group_id"], effects)
    effects.dead_letters += 1
    return True


def _note_ready(connection: sqlite3.Connection, queue_id: int, name: str, group_id: str, effects: Effects) -> None:
    if _refresh_group(connection, queue_id, group_id):
        effects.ready[name] += 1


def _refresh_group(connection: sqlite3.Connection, queue_id: int, group_id: str) -> bool:
    """Set ``is_head`` in a group that has changed; whether its oldest message can be received."""
    # Messages in flight are among the oldest: a receive takes them from the front, and only when none is out.
    rows = connection.execute(
        "SELECT seq, in_flight, is_head FROM messages WHERE queue_id = ? AND group_id = ? ORDER BY seq LIMIT ?",
        (queue_id, group_id, MAX_OF_GROUP + 1),
    ).fetchall()
    if not rows:
        return False
    others_out = any(row["in_flight"] for row in rows[1:])
    for place, row in enumerate(rows):
        is_head = place == 0 and not others_out
        if row["is_head"] != is_head:
            connection.execute("UPDATE messages SET is_head = ? WHERE seq = ?", (is_head, row["seq"]))
    return not others_out and not rows[0]["in_flight"]


def _add_depth(connection: sqlite3.Connection, queue_id: int, change: int) -> None:
    connection.execute("UPDATE queues SET depth = depth + ? WHERE queue_id = ?", (change, queue_id))


def _with_queue(message: Any, queue: Any) -> dict[str, Any]:
    return {
        "seq": message["seq"],
        "queue_id": queue["queue_id"],
        "group_id": message["group_id"],
        "name": queue["name"],
        "redrive_to": queue["redrive_to"],
        "max_receives": queue["max_receives"],
    }


def _seq_of(handle: str) -> int | None:
    match = _HANDLE.fullmatch(handle)
    return int(match[1], 16) if match else None
