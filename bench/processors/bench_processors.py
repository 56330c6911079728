"""Algorithms for the benches: one that does nothing, a slow one, and one that takes as long as it is told."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medical_image_processing.processing.base import Processor

Pixels = npt.NDArray[Any]


class Nothing(Processor):
    """Marks nothing."""

    ALGO_ID = "bench_nothing"

    def run(self, img: Pixels, meta: dict[str, Any] | None = None) -> dict[str, Any]:
        """An empty mask."""
        return {"mask": np.zeros(img.shape, np.uint8), "labels": None, "meta": {}}


class Slow(Processor):
    """The steps of processing_1 in plain scipy: some 85 ms of CPU for a slice of 512×512."""

    ALGO_ID = "bench_slow"

    def __init__(self) -> None:
        from scipy import ndimage

        self._ndimage = ndimage

    def run(self, img: Pixels, meta: dict[str, Any] | None = None) -> dict[str, Any]:
        """The largest component of smoothed soft tissue."""
        smooth = self._ndimage.gaussian_filter(np.clip(img, -160, 240).astype(np.float64), 1.0)
        closed = self._ndimage.binary_closing((smooth >= 50) & (smooth <= 150), _disk(1))
        opened = self._ndimage.binary_opening(self._ndimage.binary_fill_holes(closed), _disk(11))
        labels, count = self._ndimage.label(opened)
        largest = int(np.argmax(np.bincount(labels.ravel())[1:])) + 1 if count else -1
        return {"mask": (labels == largest).astype(np.uint8), "labels": None, "meta": {}}


class Wait(Processor):
    """Sleeps for ``parameters.seconds``, having written its process id to ``parameters.pid_file``."""

    ALGO_ID = "bench_wait"

    def run(self, img: Pixels, meta: dict[str, Any] | None = None) -> dict[str, Any]:
        """An empty mask, late."""
        parameters = (meta or {}).get("parameters", {})
        if file := parameters.get("pid_file"):
            Path(f"{file}.new").write_text(str(os.getpid()))
            Path(f"{file}.new").replace(file)
        time.sleep(parameters.get("seconds", 0))
        return {"mask": np.zeros(img.shape, np.uint8), "labels": None, "meta": {}}


def _disk(radius: int) -> Pixels:
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk: Pixels = rows**2 + columns**2 <= radius**2
    return disk
