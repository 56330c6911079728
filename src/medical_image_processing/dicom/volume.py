"""Slices put together to a volume while they are decoded, so that it lies in memory once, not twice."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from medical_image_processing.dicom.pixels import too_large
from medical_image_processing.errors import InputRejected

Pixels = npt.NDArray[Any]
Allocate = Callable[[tuple[int, ...], npt.DTypeLike], Pixels]
"""Makes an array of this shape and dtype, C-contiguous; its values don't matter. ``numpy.empty`` is one."""
Decode = Callable[[int], Pixels]
"""From a slice's index to its pixels (1, rows, columns)."""


def decode_volume(slices: int, decode: Decode, allocate: Allocate, max_bytes: int | None = None) -> Pixels:
    """(slices, rows, columns), decoded on all cores; int16, or float32 once a slice needs it.

    ``max_bytes``: what the array may take, beside a narrower one that it replaces. Raises :class:`InputRejected`
    ``INCONSISTENT_SERIES``, ``TOO_LARGE``, and what ``decode`` raises; then nothing more is begun.
    """
    first = decode(0)
    volume = _Volume(slices, first, allocate, max_bytes)
    volume.put(0, first)
    del first
    with ThreadPoolExecutor(min(slices, os.cpu_count() or 1)) as pool:
        try:
            for _ in pool.map(lambda index: volume.put(index, decode(index)), range(1, slices)):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return volume.array


def reorder(volume: Pixels, order: Sequence[int]) -> None:
    """Make slice ``i`` what slice ``order[i]`` was, with memory for one slice more."""
    placed = [False] * len(order)
    for start, first_source in enumerate(order):
        if placed[start] or first_source == start:
            continue
        held, place = volume[start].copy(), start
        while (source := order[place]) != start:
            volume[place], placed[place] = volume[source], True
            place = source
        volume[place], placed[place] = held, True


def inconsistent(fault: str) -> InputRejected:
    """The error for files that are no volume together."""
    return InputRejected("INCONSISTENT_SERIES", f"The files don't make one volume: {fault}. Send one series.")


class _Volume:
    """Thread-safe. ``array`` is int16 until a slice needs float32."""

    def __init__(self, slices: int, first: Pixels, allocate: Allocate, max_bytes: int | None) -> None:
        self._allocate = allocate
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self.array = self._room_for((slices, *first.shape[1:]), first.dtype)

    def _room_for(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Pixels:
        needed = math.prod(shape) * np.dtype(dtype).itemsize
        if self._max_bytes is not None and needed > self._max_bytes:
            raise too_large(needed, self._max_bytes)
        return self._allocate(shape, dtype)

    def put(self, index: int, pixels: Pixels) -> None:
        if len(pixels) > 1:
            raise inconsistent("some of its objects have several frames; process them one by one")
        if pixels.shape[1:] != self.array.shape[1:]:
            raise inconsistent("its images differ in rows or columns")
        with self._lock:
            dtype = np.result_type(self.array.dtype, pixels.dtype)
            if dtype != self.array.dtype:
                wider = self._room_for(self.array.shape, dtype)
                wider[...] = self.array
                self.array = wider
            self.array[index] = pixels[0]
