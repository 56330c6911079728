"""The files of a series while they arrive: their reader parses the first ones' headers while the last are on their
way, and decodes once all are here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

from medical_image_processing.errors import MipError
from medical_image_processing.memory import return_freed_memory

_MOST_HELD_BYTES = 32 * 2**20
"""So many bytes wait for a reader that is busy; then the sender waits."""

_RETURNED_BYTES = 32 * 2**20


class Unwanted(Exception):
    """Nobody reads the files any more."""


class ArrivingFiles(list[bytes]):
    """``count`` files, in the order in which they come. Between one thread that puts and any that read.

    Reading one that isn't here waits for it, and raises what :meth:`fail` was given. Setting one to ``b""`` lets
    it go. A reader must call :meth:`close` when it is done, or gives up.
    """

    def __init__(self, count: int) -> None:
        super().__init__([b""] * count)
        self._changed = threading.Condition()
        self._arrived = 0
        self._held_bytes = 0
        self._let_go_bytes = 0
        self._is_crowded = False  # so many were held that the room they took is wanted back
        self._readers_waiting = 0
        self._failure: MipError | None = None
        self._is_closed = False
        self._begun = time.perf_counter()
        self.took_s = 0.0
        """How long it took until the last of them was here."""

    def put(self, data: bytes, postpone: Callable[[float], None]) -> None:
        """The next file. Waits while many wait to be read, and tells ``postpone`` for how long (s). Unwanted."""
        with self._changed:
            begun = time.monotonic()
            while self._held_bytes > _MOST_HELD_BYTES and not self._readers_waiting and not self._is_closed:
                self._changed.wait()
            postpone(time.monotonic() - begun)
            if self._is_closed:
                raise Unwanted
            super().__setitem__(self._arrived, data)
            self._arrived += 1
            self._held_bytes += len(data)
            self._is_crowded |= self._held_bytes > 2 * _MOST_HELD_BYTES
            self.took_s = time.perf_counter() - self._begun
            self._changed.notify_all()
            is_time = self._is_crowded and self.has_all
        if is_time:
            return_freed_memory()  # what the download took beside the files

    def fail(self, error: MipError) -> None:
        """The rest won't come."""
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody reads any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    @property
    def has_all(self) -> bool:
        """Whether every file is here, or was."""
        return self._arrived == len(self)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, SupportsIndex):
            return [self[one] for one in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        with self._changed:
            if place >= self._arrived:
                self._await(place)
            return super().__getitem__(place)

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))

    def __setitem__(self, index: Any, data: Any) -> None:
        with self._changed:
            let_go = len(super().__getitem__(index)) - len(data)
            self._held_bytes -= let_go
            super().__setitem__(index, data)
            self._let_go_bytes += let_go
            is_time = self._is_crowded and self._let_go_bytes > _RETURNED_BYTES
            if is_time:
                self._let_go_bytes = 0
            self._changed.notify_all()
        if is_time:
            return_freed_memory()

    def _await(self, place: int) -> None:
        self._readers_waiting += 1
        try:
            self._changed.notify_all()
            self._changed.wait_for(lambda: place < self._arrived or self._failure or self._is_closed)
        finally:
            self._readers_waiting -= 1
        if place >= self._arrived:
            raise self._failure or Unwanted


def close_files(files: list[bytes]) -> None:
    """End the arrival of files that are wanted no more."""
    if isinstance(files, ArrivingFiles):
        files.close()
