"""Receives jobs and fetches their input, one step ahead of the computation."""

from __future__ import annotations

import logging
import random
import threading
import time
from functools import partial

from pydantic import ValidationError

from medical_image_processing.dicom.image import Image
from medical_image_processing.dicom.read import read_image
from medical_image_processing.errors import (
    AlgorithmFailed,
    InputRejected,
    MipError,
    PermanentError,
    TransientError,
)
from medical_image_processing.model.job import Scope
from medical_image_processing.worker import log
from medical_image_processing.worker.aws import Received, SqsClient
from medical_image_processing.worker.backlog import Backlog, Prepared
from medical_image_processing.worker.courier import Courier
from medical_image_processing.worker.http import HttpClient
from medical_image_processing.worker.leases import Attempt, Leases
from medical_image_processing.worker.pacs import DAMAGED, INPUT_TIMEOUT_S, PacsClient

_WAIT_S = 20
_LONGEST_PAUSE_S = 30.0
_FETCH_GRACE_S = 60.0


class Fetcher(threading.Thread):
    """Ends after :meth:`stop`; jobs it holds by then are the main thread's to give back.

    ``decode_limit_s``: how long decoding one image may take before :meth:`overdue` tells; ``max_volume_bytes``:
    what its pixels may take.
    """

    def __init__(
        self,
        algo_id: str,
        sqs: SqsClient,
        pacs: PacsClient,
        leases: Leases,
        backlog: Backlog,
        courier: Courier,
        *,
        decode_limit_s: float,
        max_volume_bytes: int | None,
    ) -> None:
        super().__init__(name="fetcher", daemon=True)
        self._algo_id = algo_id
        self._sqs = sqs
        self._pacs = pacs
        self._leases = leases
        self._backlog = backlog
        self._courier = courier
        self._decode_limit_s = decode_limit_s
        self._max_volume_bytes = max_volume_bytes
        self._step: tuple[Attempt, float, AlgorithmFailed] | None = None
        self._stopping = threading.Event()
        self._http = HttpClient(read_timeout_s=_WAIT_S + 10)

    def stop(self) -> None:
        """Receive no more; a receive under way is ended."""
        self._stopping.set()
        self._http.hang_up()

    def overdue(self, now: float) -> tuple[Attempt, AlgorithmFailed] | None:
        """The job whose input takes longer than it may, by the monotonic clock, and what to say of it."""
        step = self._step
        return None if step is None or now <= step[1] else (step[0], step[2])

    def run(self) -> None:
        """Receive and fetch until stopped."""
        failures = 0
        while (limit := self._backlog.wait_until_wanted()) and not self._stopping.is_set():
            try:
                messages = self._sqs.receive(self._http, limit=limit, wait_s=_WAIT_S)
                failures = 0
            except MipError as error:
                if not self._stopping.is_set():
                    failures += 1
                    log.event(f"no jobs can be received: {error}", level=logging.WARNING)
                    self._stopping.wait(min(0.1 * 2**failures, _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0))  # noqa: S311
                continue
            self._take(messages)

    def _take(self, messages: list[Received]) -> None:
        attempts = [attempt for message in messages if (attempt := self._read(message)) is not None]
        attempts.sort(key=lambda attempt: attempt.is_suspect)
        self._leases.hold(attempts)
        self._backlog.expect(attempts)
        for attempt in attempts:
            if self._stopping.is_set():
                self._courier.give_back(attempt, 0)
            else:
                self._prepare(attempt)

    def _read(self, message: Received) -> Attempt | None:
        """The job, or None for a message that is none: it goes to the dead-letter queue, for people to see."""
        try:
            attempt = Attempt.of(message)
        except ValidationError as error:
            places = sorted({".".join(map(str, fault["loc"])) for fault in error.errors(include_input=False)})
            log.event(f"a message on the queue is no job, wrong in: {', '.join(places)}", level=logging.ERROR)
            self._refuse(message)
            return None
        if attempt.job.algo_id != self._algo_id:
            log.event("a message on the queue is for another algorithm", level=logging.ERROR)
            self._refuse(message)
            return None
        return attempt

    def _refuse(self, message: Received) -> None:
        try:
            self._sqs.extend([(message.receipt_handle, 0)])
        except MipError as error:
            log.event(f"a message could not be given back: {error}", level=logging.WARNING)

    def _prepare(self, attempt: Attempt) -> None:
        job = attempt.job
        begun = time.perf_counter()
        try:
            # Its own limit ends a fetch; this is for what that can't see, such as a name that is never resolved.
            self._begin(attempt, "fetching", INPUT_TIMEOUT_S + _FETCH_GRACE_S)
            files = self._pacs.fetch(job)
            fetched = time.perf_counter()
            self._begin(attempt, "decoding", self._decode_limit_s)
            image = self._decoded(attempt, files[0]) if job.pacs.scope is Scope.IMAGE else None
        except PermanentError as error:
            self._courier.fail(attempt, error)
        except TransientError as error:
            self._courier.retry_later(attempt, error)
        except Exception as error:
            # Not foreseen, and perhaps the input's fault: three receives, then the dead-letter queue.
            log.event("fetching failed", level=logging.ERROR, error=error, job_id=job.job_id)
            self._courier.retry_later(
                attempt, TransientError("FETCH_FAILED", f"fetching the input failed: {type(error).__name__}")
            )
        else:
            durations = {"fetch": 1e3 * (fetched - begun)}
            if image is not None:
                durations["decode"] = 1e3 * (time.perf_counter() - fetched)
            again = partial(self._pacs.fetch_again, job)
            self._backlog.put(Prepared(attempt, image, files if image is None else [], durations, again))
            return
        finally:
            self._step = None
        self._backlog.done(attempt)

    def _decoded(self, attempt: Attempt, data: bytes) -> Image:
        """Of one that can't be read, what the PACS itself has: what was kept on the way may be damaged."""
        try:
            return read_image(data, max_bytes=self._max_volume_bytes)
        except InputRejected as error:
            if error.code not in DAMAGED:
                raise
            self._begin(attempt, "fetching", INPUT_TIMEOUT_S + _FETCH_GRACE_S)
            [again] = self._pacs.fetch_again(attempt.job)
            if again == data:
                raise
        self._begin(attempt, "decoding", self._decode_limit_s)
        return read_image(again, max_bytes=self._max_volume_bytes)

    def _begin(self, attempt: Attempt, doing: str, limit_s: float) -> None:
        error = AlgorithmFailed(
            "TIME_LIMIT_EXCEEDED",
            f"{doing} the input took longer than {limit_s:g} s; is the file or the PACS sound?",
        )
        self._step = (attempt, time.monotonic() + limit_s, error)
