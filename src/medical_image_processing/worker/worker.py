"""Puts the worker's threads together and watches over them: signals, the time limit, RUNNING reports.

The main thread only watches, since a signal handler runs there and nowhere else, and an algorithm's C code
may keep a thread for minutes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import select
import signal
import socket
import threading
import time

from medical_image_processing.errors import AlgorithmFailed, MipError
from medical_image_processing.processing.base import Processor
from medical_image_processing.worker import log, report
from medical_image_processing.worker.aws import MAX_BATCH, S3Client, SqsClient
from medical_image_processing.worker.backlog import Backlog
from medical_image_processing.worker.config import WorkerConfig
from medical_image_processing.worker.courier import Courier
from medical_image_processing.worker.fetcher import Fetcher
from medical_image_processing.worker.http import HttpClient
from medical_image_processing.worker.leases import Attempt, Leases, Renewer
from medical_image_processing.worker.pacs import PacsClient
from medical_image_processing.worker.protection import start_protector
from medical_image_processing.worker.runner import Runner
from medical_image_processing.worker.sigv4 import load_credentials

EX_OK = 0
EX_TEMPFAIL = 75
"""Exit status after an algorithm hung past its time limit: start a fresh worker."""

_TICK_S = 0.25
_REPORT_AFTER_S = 0.5
_FLUSH_S = 5.0
_HURRIED_FLUSH_S = 1.0
_WATCHDOG_GRACE_S = 60.0
_REARM_S = 10.0
# A processor that ends at the limit by itself needs time beside it for decoding and ending; see Leases._longest.
_KEEPER_GRACE_S = 30.0


class Worker:
    """One worker process. ``processor`` is loaded once and runs every job."""

    def __init__(self, config: WorkerConfig, processor: Processor, lines: log.JsonLines) -> None:
        credentials = load_credentials(os.environ)
        http = HttpClient()
        self._config = config
        self._sqs = SqsClient(
            http, credentials, region=config.region, endpoint=config.sqs_endpoint, queue_url=config.queue_url
        )
        s3 = S3Client(
            http, credentials, region=config.region, endpoint=config.s3_endpoint, bucket=config.output_bucket
        )
        pacs = PacsClient(http, base=config.pacs_base, key=config.pacs_key, max_bytes=config.max_input_bytes)
        self._leases = Leases(self._sqs, limit_s=config.time_limit_s)
        self._backlog = Backlog()
        self._courier = Courier(self._sqs, s3, self._leases, results_queue_url=config.results_queue_url)
        self._fetcher = Fetcher(
            config.algo_id,
            self._sqs,
            pacs,
            self._leases,
            self._backlog,
            self._courier,
            decode_limit_s=config.time_limit_s,
            max_volume_bytes=config.max_volume_bytes,
        )
        self._runner = Runner(config, processor, self._leases, self._backlog, self._courier, lines)
        self._limit_s = config.time_limit_s + (_KEEPER_GRACE_S if processor.KEEPS_TIME_LIMIT else 0.0)
        self._signals = _Signals()
        self._reported: tuple[Attempt | None, int, float | None, float] = (None, 0, None, 0.0)
        self._armed_at = 0.0

    def run(self) -> int:
        """Work until told to stop; returns the exit status."""
        threading.excepthook = _end_process
        if self._config.ecs_agent:
            start_protector(self._config.ecs_agent, self._leases)
        for thread in (self._courier, self._fetcher, self._runner, Renewer(self._leases)):
            thread.start()
        stop_at: float | None = None
        status = EX_OK
        while self._runner.is_alive():
            self._signals.wait(_TICK_S)
            now = time.monotonic()
            self._arm_watchdog(now)
            if status == EX_OK and (overdue := self._fetcher.overdue(now)) is not None:
                status = EX_TEMPFAIL
                self._fail_at_once(*overdue)
            if (self._signals.count or status) and stop_at is None:
                stop_at = now + self._config.stop_timeout_s
                self._stop()
            if stop_at is not None and (now > stop_at or self._signals.is_hurried):
                return self._leave_at_once()
            if (attempt := self._leases.running()) is not None and attempt.started_clock is not None:
                if now - attempt.started_clock > self._limit_s:
                    return self._time_out(attempt)
                self._report_running(attempt, now)
        self._fetcher.join(_HURRIED_FLUSH_S)  # a job that came in while hanging up is given back
        self._courier.flush(max(_FLUSH_S, (stop_at or 0.0) - time.monotonic()))
        log.event("stopped")
        return status

    def _stop(self) -> None:
        """Take no more jobs; give back those that wait; the running one goes on."""
        log.event("stopping: no more jobs are taken")
        self._fetcher.stop()
        self._backlog.close()
        self._give_back(self._leases.claim_waiting())

    def _leave_at_once(self) -> int:
        running = self._leases.running()
        waiting = self._leases.claim_waiting()
        if running is not None and self._leases.claim(running):
            waiting.append(running)
            log.event("the running job is given back", job_id=running.job.job_id)
        self._give_back(waiting)
        self._courier.flush(_HURRIED_FLUSH_S)
        return EX_OK

    def _time_out(self, attempt: Attempt) -> int:
        """Fail the job and end: a thread that hangs can't be stopped."""
        error = report.time_limit_exceeded(self._config.time_limit_s)
        self._fetcher.stop()
        self._fail_at_once(attempt, error)
        self._give_back(self._leases.claim_waiting())
        self._courier.flush(_FLUSH_S)
        return EX_TEMPFAIL

    def _fail_at_once(self, attempt: Attempt, error: AlgorithmFailed) -> None:
        """Fail a job of which a thread hangs. That can't be stopped, so the worker must end."""
        is_ours, job_id = self._leases.claim(attempt), attempt.job.job_id
        log.event(f"the job hangs, and the worker ends: {error}", level=logging.ERROR, job_id=job_id)
        try:
            if is_ours:
                self._sqs.send(self._config.results_queue_url, [report.failed(attempt, error)])
                self._sqs.delete([attempt.receipt_handle])
        except MipError as fault:
            log.event(f"that could not be reported: {fault}", level=logging.ERROR, job_id=job_id)
        self._leases.release([attempt])

    def _give_back(self, attempts: list[Attempt]) -> None:
        """Without the courier, which may be busy with a large upload."""
        try:
            for start in range(0, len(attempts), MAX_BATCH):
                self._sqs.extend([(a.receipt_handle, 0) for a in attempts[start : start + MAX_BATCH]])
        except MipError as error:
            log.event(f"jobs could not be given back; they return when their lease ends: {error}", level=30)
        self._leases.release(attempts)

    def _report_running(self, attempt: Attempt, now: float) -> None:
        """Only of jobs that last, and only when there is something new."""
        last, number, progress, at = self._reported
        if last is not attempt:
            number, progress, at = 0, None, attempt.started_clock or now
        if now - at < _REPORT_AFTER_S or (number and attempt.progress == progress):
            return
        self._courier.report_running(attempt, number + 1)
        self._reported = (attempt, number + 1, attempt.progress, now)

    def _arm_watchdog(self, now: float) -> None:
        """Native code that never lets go of the interpreter stops this thread too; then this ends the process."""
        if now - self._armed_at > _REARM_S:
            faulthandler.dump_traceback_later(self._config.time_limit_s + _WATCHDOG_GRACE_S, exit=True)
            self._armed_at = now


class _Signals:
    """SIGTERM asks to stop; a second one, or SIGINT, to stop at once."""

    def __init__(self) -> None:
        self.count = 0
        self.is_hurried = False
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        # Python's own handlers wait for the main thread, which select() wakes through this.
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        self.count += 1
        self.is_hurried = self.count > 1 or number == signal.SIGINT

    def wait(self, timeout_s: float) -> None:
        """Until a signal comes, or ``timeout_s``."""
        with contextlib.suppress(InterruptedError):
            if select.select([self._receiver], [], [], timeout_s)[0]:
                self._receiver.recv(64)


def _end_process(failure: threading.ExceptHookArgs) -> None:
    """A worker that lost a thread would look alive and do nothing; its supervisor starts a whole one."""
    log.event("a thread of the worker failed; the worker ends", level=logging.CRITICAL, error=failure.exc_value)
    os._exit(os.EX_SOFTWARE)
