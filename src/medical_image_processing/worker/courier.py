"""Takes what came of a job out of the worker: upload, then result message, then delete — in this order, so
that a job is off its queue only when its result can't be lost (law J1).

While one thing is sent others gather; they go together then, so that a lone result leaves at once and many
small ones share their calls.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from medical_image_processing.errors import MipError, PermanentError, TransientError
from medical_image_processing.naming import MAX_RECEIVES
from medical_image_processing.worker import log, report
from medical_image_processing.worker.aws import MAX_BATCH, Outgoing, S3Client, SqsClient
from medical_image_processing.worker.leases import Attempt, Leases

_LAST_RETRY_S = 60.0
_MAX_QUEUED_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Upload:
    """Files to store by their keys, and the message that tells of them, made from how long storing took (ms).

    An upload that was broken off is made again under the same keys.
    """

    files: Mapping[str, bytes]
    message: Callable[[float], Outgoing]


@dataclass(frozen=True, eq=False)
class _Shipment:
    """``back_after_s``: give the job back then; None deletes it. A RUNNING report does neither."""

    attempt: Attempt
    upload: Upload | None = None
    message: Outgoing | None = None
    back_after_s: int | None = None
    ends_attempt: bool = True


class Courier(threading.Thread):
    """One thread that sends. Everything here may be called from any thread."""

    def __init__(self, sqs: SqsClient, s3: S3Client, leases: Leases, *, results_queue_url: str) -> None:
        super().__init__(name="courier", daemon=True)
        self._sqs = sqs
        self._s3 = s3
        self._leases = leases
        self._results_queue_url = results_queue_url
        self._changed = threading.Condition()
        self._waiting: deque[_Shipment] = deque()
        self._queued_bytes = 0
        self._is_sending = False
        self._closed = False

    def deliver(self, attempt: Attempt, upload: Upload) -> None:
        """Store the result and report it. Waits while too much is queued already."""
        if self._leases.claim(attempt):
            with self._changed:
                self._changed.wait_for(lambda: self._queued_bytes < _MAX_QUEUED_BYTES)
            self._add(_Shipment(attempt, upload=upload))

    def fail(self, attempt: Attempt, error: MipError) -> None:
        """Report that the job can't succeed, and why."""
        self._end(_Shipment(attempt, message=report.failed(attempt, error)))

    def retry_later(self, attempt: Attempt, error: TransientError) -> None:
        """Report the trouble and give the job back for later."""
        self._end(_given_back(attempt, error))

    def give_back(self, attempt: Attempt, after_s: int) -> None:
        """Give the job back, unchanged."""
        self._end(_Shipment(attempt, back_after_s=after_s))

    def report_running(self, attempt: Attempt, number: int) -> None:
        """Tell that it runs, and how far it is."""
        self._add(_Shipment(attempt, message=report.running(attempt, number), ends_attempt=False))

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything so far has been sent; False when that took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._is_sending, timeout_s)

    def close(self) -> None:
        """End the thread once everything is sent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def run(self) -> None:
        """Send until closed."""
        while batch := self._gather():
            self._send(batch)
            with self._changed:
                self._is_sending = False
                self._queued_bytes -= sum(_size(shipment) for shipment in batch)
                self._changed.notify_all()

    def _end(self, shipment: _Shipment) -> None:
        if self._leases.claim(shipment.attempt):
            self._add(shipment)

    def _add(self, shipment: _Shipment) -> None:
        with self._changed:
            self._waiting.append(shipment)
            self._queued_bytes += _size(shipment)
            self._changed.notify_all()

    def _gather(self) -> list[_Shipment]:
        """What waits, up to a batch; empty once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            self._is_sending = bool(self._waiting)
            return [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]

    def _send(self, batch: list[_Shipment]) -> None:
        ready = [self._stored(shipment) for shipment in batch]
        arrived = self._told(ready)
        self._settle([shipment for shipment in ready if shipment in arrived and shipment.ends_attempt])
        self._leases.release(shipment.attempt for shipment in ready if shipment.ends_attempt)

    def _stored(self, shipment: _Shipment) -> _Shipment:
        """The shipment after its upload; one that could not be stored says so instead."""
        if (upload := shipment.upload) is None:
            return shipment
        begun = time.perf_counter()
        try:
            for key, data in upload.files.items():
                self._s3.put(key, data, content_type="application/dicom")
        except TransientError as error:
            trouble = TransientError(
                "OUTPUT_UNAVAILABLE",
                f"the result can't be stored now: {error.message}; is the output's disk full?",
            )
            return _given_back(shipment.attempt, trouble)
        except PermanentError as error:
            refused = PermanentError("OUTPUT_REFUSED", f"the result can't be stored: {error.message}")
            return _Shipment(shipment.attempt, message=report.failed(shipment.attempt, refused))
        return replace(shipment, upload=None, message=upload.message(1e3 * (time.perf_counter() - begun)))

    def _told(self, shipments: list[_Shipment]) -> set[_Shipment]:
        """Send the messages; which shipments have none to send any more."""
        silent = {shipment for shipment in shipments if shipment.message is None}
        speaking = [shipment for shipment in shipments if shipment.message is not None]
        if not speaking:
            return silent
        try:
            arrived = self._sqs.send(self._results_queue_url, [s.message for s in speaking if s.message])
        except MipError as error:
            log.event(
                f"results can't be sent, their jobs will come back: {error}",
                level=logging.ERROR,
            )
            return silent
        for shipment, has_arrived in zip(speaking, arrived, strict=True):
            if not has_arrived:
                log.event("a result was not taken", level=logging.ERROR, job_id=shipment.attempt.job.job_id)
        return silent | {shipment for shipment, has_arrived in zip(speaking, arrived, strict=True) if has_arrived}

    def _settle(self, shipments: list[_Shipment]) -> None:
        """Take the jobs off the queue, or give them back."""
        done = [s.attempt.receipt_handle for s in shipments if s.back_after_s is None]
        back = [(s.attempt.receipt_handle, s.back_after_s) for s in shipments if s.back_after_s is not None]
        try:
            if done:
                self._sqs.delete(done)
            if back:
                self._sqs.extend(back)
        except MipError as error:
            # They come back when their lease ends; a second result of a job is ignored (law J2).
            log.event(f"jobs can't be taken off the queue: {error}", level=logging.ERROR)


def _given_back(attempt: Attempt, error: TransientError) -> _Shipment:
    after_s = _retry_after_s(attempt, error.retry_after_s)
    return _Shipment(attempt, message=report.trouble(attempt, error), back_after_s=after_s)


def _retry_after_s(attempt: Attempt, first_s: float) -> int:
    """Ever longer; but after its last receive a job goes to the dead-letter queue without delay."""
    if attempt.receive_count >= MAX_RECEIVES:
        return 0
    longest: float = min(first_s * 2 ** (attempt.receive_count - 1), _LAST_RETRY_S)
    return round(longest * random.uniform(0.6, 1.0))  # noqa: S311


def _size(shipment: _Shipment) -> int:
    return sum(map(len, shipment.upload.files.values())) if shipment.upload else 0
