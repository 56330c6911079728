"""The jobs between fetching and computing: how many, and when to ask for more.

One job that is ready while another is computed hides the fetching. More would be taken from other workers,
so only jobs of milliseconds are received in batches, up to 0.1 s of work; and beside a job of many seconds
none waits at all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from medical_image_processing.dicom.image import Image
from medical_image_processing.worker.aws import MAX_BATCH
from medical_image_processing.worker.leases import Attempt

_BATCH_S = 0.1
_TOO_LONG_TO_WAIT_FOR_S = 5.0
_NEWEST_WEIGHT = 0.2


@dataclass(frozen=True)
class Prepared:
    """A job with its input: the image, or for series, whose decoding uses all cores, the files.

    ``fetch_again`` gets the files past what is kept on the way, for when they turn out to be damaged.
    """

    attempt: Attempt
    image: Image | None
    files: list[bytes]
    durations_ms: dict[str, float]
    fetch_again: Callable[[], list[bytes]] | None = None


class Backlog:
    """Thread-safe, between one fetcher and one runner."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ready: deque[Prepared] = deque()
        self._open_attempts = 0
        self._suspects = 0
        self._usual_s: float | None = None
        self._closed = False

    def wait_until_wanted(self) -> int:
        """Block until more jobs are wanted: how many at most. 0 once closed."""
        with self._changed:
            while not self._closed and not (wanted := self._wanted()):
                self._changed.wait()
            return 0 if self._closed else wanted

    def _wanted(self) -> int:
        batch = 1 if self._usual_s is None else max(1, min(MAX_BATCH, int(_BATCH_S / max(self._usual_s, 1e-4))))
        if self._open_attempts == 0:
            return batch
        # A job that may kill this worker must not take another one with it.
        if self._suspects or self._usual_s is None or self._usual_s > _TOO_LONG_TO_WAIT_FOR_S:
            return 0
        return batch if len(self._ready) < max(1, batch // 2) else 0

    def expect(self, attempts: list[Attempt]) -> None:
        """These were received; each will be :meth:`put` or :meth:`done`."""
        with self._changed:
            self._open_attempts += len(attempts)
            self._suspects += sum(attempt.is_suspect for attempt in attempts)

    def put(self, prepared: Prepared) -> None:
        """It can be computed."""
        with self._changed:
            self._ready.append(prepared)
            self._changed.notify_all()

    def take(self) -> Prepared | None:
        """The next one, in order; None once closed."""
        with self._changed:
            while not self._closed and not self._ready:
                self._changed.wait()
            if self._closed:
                return None
            prepared = self._ready.popleft()
            self._changed.notify_all()
            return prepared

    def done(self, attempt: Attempt, took_s: float | None = None) -> None:
        """It left this worker's hands, or the computation did; ``took_s`` if it was computed."""
        with self._changed:
            self._open_attempts -= 1
            self._suspects -= attempt.is_suspect
            if took_s is not None:
                old = took_s if self._usual_s is None else self._usual_s
                self._usual_s = old + _NEWEST_WEIGHT * (took_s - old)
            self._changed.notify_all()

    def close(self) -> None:
        """No more jobs, in either direction."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
