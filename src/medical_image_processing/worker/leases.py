"""The jobs this worker holds, and who may end each of them.

A lease lasts 30 s and is renewed in the background, so that a worker that dies gives its jobs back soon
(law J4) and one that lives keeps them as long as it needs. Several threads may want to end a job: the courier
with its result, the main thread at the time limit or at a stop, the renewer when the lease is lost. Exactly
one of them wins :meth:`Leases.claim`.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from medical_image_processing.errors import MipError
from medical_image_processing.model.job import JobMessage
from medical_image_processing.worker import log
from medical_image_processing.worker.aws import LEASE_S, MAX_BATCH, Received, SqsClient

RENEW_AFTER_S = 10.0
_GRACE_S = 60.0


@dataclass(eq=False)
class Attempt:
    """One receive of a job. ``suspect``: an earlier worker may have died of it."""

    job: JobMessage
    receipt_handle: str
    receive_count: int
    received_clock: float = 0.0
    """When it was received, on the monotonic clock."""
    started_at: float | None = None
    """When its computation began, epoch seconds."""
    started_clock: float | None = None
    """The same on the monotonic clock."""
    progress: float | None = None
    sent_at: float | None = None
    """When the job was sent, epoch seconds: the same in every receive of its message."""

    @classmethod
    def of(cls, message: Received) -> Attempt:
        """ValidationError (pydantic's) if the body is no job message."""
        job = JobMessage.model_validate_json(message.body)
        return cls(job, message.receipt_handle, message.receive_count, sent_at=message.sent_at)

    @property
    def is_suspect(self) -> bool:
        """Whether it was received before and came back."""
        return self.receive_count > 1

    def dedup_id(self, purpose: str) -> str:
        """A deduplication id that is this receive's own: a replayed job must not look like its predecessor."""
        digest = hashlib.blake2s(self.receipt_handle.encode(), digest_size=20).hexdigest()
        return f"{digest}:{purpose}"


class Leases:
    """Thread-safe. ``limit_s``: how long a job may take, waiting or running, before it is renewed no more."""

    def __init__(self, sqs: SqsClient, *, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._sqs = sqs
        self._clock = clock
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._renewed: dict[Attempt, float] = {}
        self._unclaimed: set[Attempt] = set()
        self._running: Attempt | None = None

    def hold(self, attempts: Iterable[Attempt]) -> None:
        """These were just received."""
        now = self._clock()
        with self._lock:
            for attempt in attempts:
                self._renewed[attempt] = attempt.received_clock = now
                self._unclaimed.add(attempt)
            self._changed.notify_all()

    def start(self, attempt: Attempt) -> bool:
        """Mark it as running; False if it is no longer ours."""
        with self._lock:
            if attempt not in self._unclaimed:
                return False
            attempt.started_at, attempt.started_clock = time.time(), self._clock()
            self._running = attempt
            return True

    def claim(self, attempt: Attempt) -> bool:
        """Whether the caller is the one to end it. It is still renewed until :meth:`release`."""
        with self._lock:
            if self._running is attempt:
                self._running = None
            if attempt not in self._unclaimed:
                return False
            self._unclaimed.discard(attempt)
            return True

    def claim_waiting(self) -> list[Attempt]:
        """Claim all that have not been started."""
        with self._lock:
            waiting = [a for a in self._unclaimed if a is not self._running]
            self._unclaimed.difference_update(waiting)
            return waiting

    def release(self, attempts: Iterable[Attempt]) -> None:
        """These are deleted or given back, or may come back by themselves."""
        with self._lock:
            for attempt in attempts:
                self._renewed.pop(attempt, None)
                self._unclaimed.discard(attempt)
            self._changed.notify_all()

    def await_held(self, timeout_s: float | None) -> bool:
        """Wait until a job is held; whether one is."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._renewed), timeout_s)

    def await_released(self, timeout_s: float) -> bool:
        """Wait until no job is held; whether none is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._renewed, timeout_s)

    def running(self) -> Attempt | None:
        """The job being computed, unless somebody has claimed it."""
        with self._lock:
            return self._running

    def renew(self) -> None:
        """Renew what is due. TransientError when the queue does not answer: leases run for a while yet."""
        now = self._clock()
        with self._lock:
            self._forget_overdue(now)
            if not any(now - renewed >= RENEW_AFTER_S for renewed in self._renewed.values()):
                return
            held = list(self._renewed)
        for start in range(0, len(held), MAX_BATCH):
            self._renew_batch(held[start : start + MAX_BATCH], now)

    def _forget_overdue(self, now: float) -> None:
        """A worker that is stuck must lose its job in the end."""
        for attempt in [
            a for a in self._renewed if now - (a.started_clock or a.received_clock) > self._longest(a)
        ]:
            del self._renewed[attempt]
        self._changed.notify_all()

    def _longest(self, attempt: Attempt) -> float:
        # Before its start a job may wait for another one that takes all its time.
        return self._limit_s * (1 if attempt.started_clock else 2) + _GRACE_S

    def _renew_batch(self, attempts: Sequence[Attempt], now: float) -> None:
        kept = self._sqs.extend([(attempt.receipt_handle, LEASE_S) for attempt in attempts])
        with self._lock:
            for attempt, is_ours in zip(attempts, kept, strict=True):
                if attempt not in self._renewed:
                    continue
                if is_ours:
                    self._renewed[attempt] = now
                    continue
                del self._renewed[attempt]
                self._unclaimed.discard(attempt)
                self._changed.notify_all()
                log.event("the lease was lost; the job is another worker's now", job_id=attempt.job.job_id)


class Renewer(threading.Thread):
    """Renews leases until the process ends."""

    def __init__(self, leases: Leases) -> None:
        super().__init__(name="renewer", daemon=True)
        self._leases = leases

    def run(self) -> None:
        """Look every two seconds; trouble is logged and tried again."""
        while True:
            time.sleep(2.0)
            try:
                self._leases.renew()
            except MipError as error:
                log.event(f"leases could not be renewed: {error}", level=30)
