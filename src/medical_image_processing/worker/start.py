"""Starts this process's worker, whichever way its algorithm is found; ends the process when it is done."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from medical_image_processing.errors import MipError
from medical_image_processing.memory import freeze_imports, keep_freed_memory
from medical_image_processing.worker import log
from medical_image_processing.worker.config import WorkerConfig

if TYPE_CHECKING:
    from medical_image_processing.processing.base import Processor

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SWITCH_INTERVAL_S = 0.001

Load = Callable[[WorkerConfig], "Processor"]
"""Makes the worker's algorithm. Its imports belong inside it, so that a missing library becomes a log line."""


def run_worker(load: Load, *, at_exit: Callable[[], None] = lambda: None) -> NoReturn:
    """Work until SIGTERM, then exit: 0 after a stop, 75 after an algorithm hung, 78 if it can't start.

    The last log line says why. ``at_exit`` is called first.
    """
    status = _run(load)
    at_exit()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that hang in an algorithm or a download must not keep the process.
    os._exit(status)


def _run(load: Load) -> int:
    begun = time.perf_counter()
    faulthandler.enable()
    lines = log.configure(os.environ.get("ALGO_ID", "?"))
    try:
        config = WorkerConfig.from_env(os.environ)
        _die_with(config.parent_pid)
        processor = load(config)
        from medical_image_processing.worker.outputs import load_writers
        from medical_image_processing.worker.worker import Worker

        load_writers(config.outputs)
        _limit_native_threads()
        keep_freed_memory(block_mib=16, total_mib=64)
        worker = Worker(config, processor, lines)
    except MipError as error:
        log.event(f"the worker can't start: {error}", level=logging.CRITICAL, error=error.__cause__)
        return os.EX_CONFIG
    except BaseException as error:
        log.event(f"the worker can't start: {type(error).__name__}", level=logging.CRITICAL, error=error)
        return os.EX_CONFIG
    freeze_imports()
    # A thread whose answer has come should not wait the usual 5 ms for one that computes.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    log.event("ready", start_ms=round(1e3 * (time.perf_counter() - begun)))
    return worker.run()


def _limit_native_threads() -> None:
    """OpenCV does not read OMP_NUM_THREADS, and its pool spins on every core that it finds, ours or not."""
    if (count := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        import cv2

        cv2.setNumThreads(int(count))


def _die_with(parent_pid: int | None) -> None:
    """End with the supervisor that started us (prctl(2)): without it nobody could end us, or take a result."""
    if parent_pid is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(os.EX_OK)
