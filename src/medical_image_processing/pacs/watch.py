"""The thread that keeps a catalogue up to date with its folder."""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from medical_image_processing.errors import Unavailable
from medical_image_processing.pacs.catalogue import Catalogue
from medical_image_processing.pacs.scanner import Stopped, scan_folder

_LOG = logging.getLogger(__name__)
# Scans may take at most these parts of the time, however large the folder: one in 4 when somebody waits.
_PAUSE_PER_SCAN = 4
_PERIOD_PER_SCAN = 20
PATIENCE_S = 5.0
_NEVER = float("-inf")


@dataclass(frozen=True)
class _Waiter:
    """Somebody who waits for a scan that begins at ``not_before`` or later."""

    not_before: float
    future: Future[None] = field(default_factory=Future)


class FolderWatch:
    """Scans at the start, every ``rescan_s``, and when asked to, then at most every ``min_interval_s``."""

    def __init__(self, folder: bytes, catalogue: Catalogue, rescan_s: float, min_interval_s: float) -> None:
        self._folder = folder
        self._catalogue = catalogue
        self._rescan_s = rescan_s
        self._min_interval_s = min_interval_s
        self._wake = threading.Condition()
        self._waiting: list[_Waiter] = []
        self._stopped = False
        self._started_at = _NEVER
        self._fresh_at = _NEVER  # when the last scan that came through had begun
        self._took_s = 0.0
        self._thread = threading.Thread(target=self._run, name="pacs-watch", daemon=True)

    @property
    def is_complete(self) -> bool:
        """Whether a scan has come through since the start."""
        return self._fresh_at != _NEVER

    def start(self) -> None:
        """Begin the first scan."""
        self._thread.start()

    def stop(self) -> None:
        """End a running scan and the thread. Who waits for a scan gets Unavailable."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    async def rescan(self, patience_s: float = PATIENCE_S) -> None:
        """Wait until a scan that starts from now on is through.

        Raises Unavailable: ``PACS_INDEXING`` when it takes longer than ``patience_s``, ``PACS_UNAVAILABLE`` when
        it fails.
        """
        await self._wait(time.monotonic(), patience_s)

    async def refresh(self) -> None:
        """Wait for a scan unless there was one just now. Raises Unavailable only before the first one."""
        not_before = time.monotonic() - self._pause_s() if self.is_complete else _NEVER
        if self.is_complete and self._fresh_at >= not_before:
            return
        try:
            await self._wait(not_before)
        except Unavailable:
            if not self.is_complete:
                raise

    async def _wait(self, not_before: float, patience_s: float = PATIENCE_S) -> None:
        waiter = _Waiter(not_before)
        with self._wake:
            self._waiting.append(waiter)
            self._wake.notify()
        try:
            await asyncio.wait_for(asyncio.wrap_future(waiter.future), patience_s)
        except TimeoutError as error:
            raise Unavailable(
                "PACS_INDEXING", "the PACS folder is still being indexed; try again", retry_after_s=2
            ) from error

    def _run(self) -> None:
        while self._sleep():
            self._settle(self._scan())
        self._started_at = float("inf")
        self._settle(Unavailable("PACS_UNAVAILABLE", "the PACS is stopping; try again"))

    def _sleep(self) -> bool:
        """Sleep until a scan is due; False when it is time to stop."""
        with self._wake:
            while not self._stopped:
                wait_s = self._pause_s() if self._waiting else self._period_s()
                left_s = self._started_at + wait_s - time.monotonic()
                if left_s <= 0:
                    return True
                self._wake.wait(left_s)
        return False

    def _settle(self, failure: Unavailable | None) -> None:
        """Answer those for whom the scan that has just ended began late enough."""
        with self._wake:
            served = [waiter for waiter in self._waiting if waiter.not_before <= self._started_at]
            self._waiting = [waiter for waiter in self._waiting if waiter.not_before > self._started_at]
        for waiter in served:
            if not waiter.future.set_running_or_notify_cancel():
                continue
            if failure:
                waiter.future.set_exception(failure)
            else:
                waiter.future.set_result(None)

    def _pause_s(self) -> float:
        return max(self._min_interval_s, _PAUSE_PER_SCAN * self._took_s)

    def _period_s(self) -> float:
        return max(self._rescan_s, _PERIOD_PER_SCAN * self._took_s)

    def _scan(self) -> Unavailable | None:
        self._started_at = time.monotonic()
        try:
            scan_folder(self._folder, self._catalogue, lambda: self._stopped)
        except Stopped:
            return Unavailable("PACS_UNAVAILABLE", "the PACS is stopping; try again")
        except Exception as error:
            return _stated(error)
        took_s = time.monotonic() - self._started_at
        if self.is_complete:
            self._took_s = took_s
        else:  # the first one reads what is new since the last run, and says nothing about the next
            _LOG.info("the PACS folder is indexed after %.1f s", took_s)
        self._fresh_at = self._started_at
        return None


def _stated(error: Exception) -> Unavailable:
    # Not the error's own text: it may quote a path.
    reason = errno.errorcode.get(getattr(error, "errno", None) or 0, type(error).__name__)
    what = "index can't be written" if isinstance(error, sqlite3.Error) else "folder can't be read"
    _LOG.error("the PACS %s: %s", what, reason)
    return Unavailable("PACS_UNAVAILABLE", f"the PACS {what} ({reason}); check its disk and rights")
