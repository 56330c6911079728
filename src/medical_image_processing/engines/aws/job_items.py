"""A job as an item of the jobs table, and back.

::

    job_id, fingerprint, client_id, algo_id, body       as accepted; body is the job message
    sent_pacs                                           what was asked for, where body has pseudonyms
    seq, day                                            when, for listings: newest largest
    status, created, started, finished                  epoch seconds
    attempts, progress, error, result                   error and result as JSON
    call                                                which call recorded it
    dedup, queued, message_id, sent, sends              its message; without message_id it is yet to be sent
    unsent, unsent_since                                while it is yet to be sent: the index of those, and when
    gone                                                since when that message is on no queue any more
    open_algo                                           while it is open: the index of open jobs
    to_store                                            until its results are in the PACS, if they are to go there
    store_at                                            since it SUCCEEDED, when; both: the index of those to store
    stored, store_error, store_attempts                 done or failed; how it went
    finish_seq, unseen_client                           when it ended; until its client has that end
    expires_at                                          when DynamoDB forgets it
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from datetime import UTC, datetime, timedelta

from medical_image_processing.engines.aws.tables import Item
from medical_image_processing.model.job import (
    Job,
    JobError,
    JobMessage,
    JobResult,
    JobStatus,
    Stored,
    StoreStatus,
)
from medical_image_processing.model.timestamps import to_iso

_LOG = logging.getLogger(__name__)
KEPT_S = 90 * 86_400
"""How long the record of an ended job stays."""
SHARDS = 4
"""Of a day's jobs, so that no partition of the index takes them all."""
MAX_RESULT_BYTES = 262_144
"""With the body's 64 KiB of parameters well below the 400 KB of an item."""
TO_STORE = "1"
"""The one part of their index: few jobs are stored, and one after the other."""
OPEN = (JobStatus.QUEUED.value, JobStatus.RUNNING.value)
IS_OPEN = "#status IN (:queued, :running)"
OPEN_VALUES: Item = dict(zip(("queued", "running"), OPEN, strict=True))
"""The condition that a job is open, and its values."""

_NS = 1_000_000_000


def new_item(message: JobMessage, fingerprint: str, now: float) -> Item:
    """A job that was never sent."""
    return {
        "job_id": message.job_id,
        "fingerprint": fingerprint,
        "client_id": message.client_id,
        "algo_id": message.algo_id,
        "body": message.model_dump_json(exclude_none=True),
        "sent_pacs": message.sent.model_dump_json() if message.sent else None,
        "seq": f"{moment(now)}#{message.job_id}",
        "call": secrets.token_hex(8),
        "day": day_key(now, shard_of(message.job_id)),
        "status": JobStatus.QUEUED.value,
        "created": now,
        "attempts": 0,
        "dedup": message.job_id,
        "queued": now,
        "sends": 1,
        "open_algo": message.algo_id,
        "to_store": TO_STORE if message.store else None,
        **unsent(message.job_id, now),
    }


def unsent(job_id: str, now: float) -> Item:
    """What a job has from the first step of a send to the third, beside ``dedup`` and ``queued``."""
    return {"unsent": str(shard_of(job_id)), "unsent_since": moment(now)}


def to_job(item: Item) -> Job:
    """As the port knows it."""
    started, finished = item.get("started"), item.get("finished")
    return Job(
        job_id=item["job_id"],
        algo_id=item["algo_id"],
        client_id=item["client_id"],
        message_id=item.get("message_id", ""),
        message=item["body"],
        sent_pacs=item.get("sent_pacs"),
        status=JobStatus(item["status"]),
        created_at=to_iso(item["created"]),
        started_at=None if started is None else to_iso(started),
        finished_at=None if finished is None else to_iso(finished),
        attempts=item["attempts"],
        progress=item.get("progress"),
        error=JobError.model_validate_json(item["error"]) if "error" in item else None,
        result=JobResult.model_validate_json(item["result"]) if "result" in item else None,
        stored=_stored(item),
    )


def is_open(item: Item) -> bool:
    """QUEUED or RUNNING."""
    return item["status"] in OPEN


def is_to_store(item: Item) -> bool:
    """Whether there are results that are to go back into the PACS."""
    return "to_store" in item and "store_at" in item


def _stored(item: Item) -> Stored | None:
    if not is_to_store(item) and "stored" not in item:
        return None
    error = JobError.model_validate_json(item["store_error"]) if "store_error" in item else None
    status = StoreStatus(item.get("stored", StoreStatus.PENDING))
    return Stored(status=status, attempts=item.get("store_attempts", 0), error=error)


def moment(epoch_s: float) -> str:
    """Nanoseconds as a text that sorts: 16 hexadecimal digits."""
    return f"{int(epoch_s * _NS):016x}"


def taken_in_at(seq: str) -> float:
    """The moment in a job's ``seq``, epoch seconds."""
    return int(seq[:16], 16) / _NS


def new_finish_seq(now: float, number: int) -> str:
    """Where an end comes among its client's: the ``number``-th of those that became known at ``now``.

    No two are the same, so a write that was tried twice knows its own.
    """
    return f"{moment(now)}#{number:06}#{secrets.token_hex(6)}"


def shard_of(job_id: str) -> int:
    """Which part of a day's jobs it belongs to."""
    return hashlib.sha256(job_id.encode()).digest()[0] % SHARDS


def day_key(epoch_s: float, shard: int) -> str:
    """``2026-11-25#0``."""
    return f"{datetime.fromtimestamp(epoch_s, UTC):%Y-%m-%d}#{shard}"


def days_back_from(cursor: str | None, now: float, days: int) -> list[float]:
    """A moment of each of the last ``days``, newest first, from that of ``cursor``; none for a cursor not ours."""
    newest = datetime.fromtimestamp(now, UTC)
    if cursor is not None:
        try:
            newest = min(newest, datetime.fromtimestamp(int(cursor[:16], 16) / _NS, UTC))
        except (ValueError, OverflowError, OSError):
            return []
    return [(newest - timedelta(days=number)).timestamp() for number in range(days)]


def bounded(result: JobResult) -> JobResult | JobError:
    """The result as it can be kept: without its provenance when that is too long."""
    if _size(result) <= MAX_RESULT_BYTES:
        return result
    short = result.model_copy(update={"provenance": None})
    if _size(short) <= MAX_RESULT_BYTES:
        _LOG.warning("a result's provenance was left out: with it, it has more than %d bytes", MAX_RESULT_BYTES)
        return short
    return JobError(
        code="RESULT_TOO_LARGE",
        message=f"the result message names too many outputs: more than {MAX_RESULT_BYTES} bytes",
    )


def _size(result: JobResult) -> int:
    return len(result.model_dump_json().encode())
