"""Computes: decodes what is not decoded yet, runs the algorithm, writes the DICOM result.

Whatever the algorithm raises ends its job, never the worker.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from medical_image_processing import naming
from medical_image_processing.dicom.image import Image
from medical_image_processing.dicom.read import drain_series
from medical_image_processing.errors import AlgorithmFailed, InputRejected, MipError, TransientError
from medical_image_processing.model.algorithm import OutputKind
from medical_image_processing.model.job import JobMessage
from medical_image_processing.processing.base import Processor
from medical_image_processing.worker import log, report
from medical_image_processing.worker.arriving import ArrivingFiles, close_files
from medical_image_processing.worker.aws import Outgoing
from medical_image_processing.worker.backlog import Backlog, Prepared
from medical_image_processing.worker.config import WorkerConfig
from medical_image_processing.worker.courier import Courier, Upload
from medical_image_processing.worker.leases import Attempt, Leases
from medical_image_processing.worker.outputs import Outputs
from medical_image_processing.worker.pacs import DAMAGED


class Runner(threading.Thread):
    """One thread, so that native thread pools are made once. Ends when the backlog is closed."""

    def __init__(
        self,
        config: WorkerConfig,
        processor: Processor,
        leases: Leases,
        backlog: Backlog,
        courier: Courier,
        lines: log.JsonLines,
    ) -> None:
        super().__init__(name="runner", daemon=True)
        self._config = config
        self._processor = processor
        self._leases = leases
        self._backlog = backlog
        self._courier = courier
        self._lines = lines

    def run(self) -> None:
        """Compute job after job."""
        while (prepared := self._backlog.take()) is not None:
            attempt = prepared.attempt
            if attempt.is_suspect:
                self._courier.flush()  # if it kills this worker, it kills no other job's result
            begun = time.perf_counter()
            if self._leases.start(attempt):
                self._lines.job_id = attempt.job.job_id
                self._finish(prepared)
                self._lines.job_id = None
            else:
                close_files(prepared.files)
            self._backlog.done(attempt, time.perf_counter() - begun)

    def _finish(self, prepared: Prepared) -> None:
        attempt = prepared.attempt
        try:
            upload = self._compute(prepared)
        except TransientError as error:
            log.event(f"the job goes back to its queue: {error}", level=logging.WARNING)
            self._courier.retry_later(attempt, error)
        except MipError as error:
            log.event(f"the job failed: {error}", level=logging.WARNING, error=error.__cause__)
            self._courier.fail(attempt, error)
        except Exception as error:
            log.event("the job failed in the worker itself", level=logging.ERROR, error=error)
            failed = AlgorithmFailed("WORKER_FAILED", f"the worker failed ({type(error).__name__}); see its log")
            self._courier.fail(attempt, failed)
        else:
            self._courier.deliver(attempt, upload)

    def _compute(self, prepared: Prepared) -> Upload:
        try:
            return self._processed(prepared)
        finally:
            close_files(prepared.files)
            self._processor.end_job()

    def _processed(self, prepared: Prepared) -> Upload:
        job, durations = prepared.attempt.job, dict(prepared.durations_ms)
        clock = time.perf_counter
        begun = clock()
        image = prepared.image
        if image is None:
            files = prepared.files
            image = self._drained(prepared)
            if isinstance(files, ArrivingFiles):
                durations["fetch"] = 1e3 * files.took_s  # while their headers were read
            durations["decode"] = 1e3 * (clock() - begun)
        begun = clock()
        result = self._run(prepared.attempt, image)
        outputs = Outputs(self._config, image, result)
        durations["run"] = 1e3 * (clock() - begun)
        begun = clock()
        written = outputs.write(prepared.attempt)
        durations["write"] = 1e3 * (clock() - begun)
        keys = _keys(job, written)
        source = report.Source(image.source_uids, len(image.gaps))
        message = partial(self._result, prepared.attempt, keys, source, durations, result.get("meta"))
        return Upload({keys[kind]: data for kind, data in written.items()}, message)

    def _drained(self, prepared: Prepared) -> Image:
        drain = partial(drain_series, allocate=self._processor.allocate, max_bytes=self._config.max_volume_bytes)
        try:
            return drain(prepared.files)
        except InputRejected as error:
            if error.code not in DAMAGED or prepared.fetch_again is None:
                raise
            log.event(f"the series is fetched again: {error}", level=logging.WARNING)
        close_files(prepared.files)
        for place in range(len(prepared.files)):
            prepared.files[place] = b""  # not held beside what comes now
        return drain(prepared.fetch_again())

    def _run(self, attempt: Attempt, image: Image) -> Any:
        meta = image.meta() | {
            "parameters": attempt.job.parameters,
            "progress": partial(_set_progress, attempt),
        }
        try:
            return self._processor.run(image.pixels, meta)
        except MipError:
            raise  # said on purpose
        except BaseException as error:  # SystemExit and KeyboardInterrupt are an algorithm's failures too
            raise AlgorithmFailed(
                "ALGORITHM_RAISED",
                f"the algorithm raised {type(error).__name__} at {log.origin(error)}; its log has the traceback",
            ) from error

    def _result(
        self,
        attempt: Attempt,
        keys: dict[OutputKind, str],
        source: report.Source,
        durations_ms: dict[str, float],
        meta: Any,
        upload_ms: float,
    ) -> Outgoing:
        durations_ms["upload"] = upload_ms
        rounded = {name: round(value, 2) for name, value in durations_ms.items()}
        log.event("the job is done", job_id=attempt.job.job_id, durations_ms=rounded)
        made = report.provenance(
            revision=self._config.revision,
            task=self._config.task,
            source=source,
            scope=attempt.job.pacs.scope.value,
            durations_ms=durations_ms,
            meta=meta,
            image_digest=self._config.image_digest,
        )
        return report.succeeded(attempt, bucket=self._config.output_bucket, keys=keys, provenance=made)


def _keys(job: JobMessage, kinds: Iterable[OutputKind]) -> dict[OutputKind, str]:
    """Where each goes; the first has the name that a lone result has."""
    pacs = job.pacs
    whose = job.algo_id, pacs.study_id, pacs.series_id, pacs.image_id, job.job_id
    return {kind: naming.output_key(*whose, kind=kind if place else "") for place, kind in enumerate(kinds)}


def _set_progress(attempt: Attempt, done: float) -> None:
    attempt.progress = min(1.0, max(0.0, float(done)))
