"""The liver baselines written the obvious way with scipy: the yardstick for the OpenCV form, to the pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medical_image_processing.processing import processing_1, processing_6

Pixels = npt.NDArray[Any]


def naive_processing_1(pixels: Pixels) -> Pixels:
    """One slice in HU; the liver as bool."""
    windowed = np.clip(pixels, *processing_1.SOFT_TISSUE_HU).astype(float)
    smooth = ndimage.gaussian_filter(windowed, processing_1.SIGMA_PIXELS, mode="mirror")
    return _choose(_morphology(_between(smooth, processing_1.LIVER_HU)))


def naive_processing_6(pixels: Pixels) -> Pixels:
    """One slice in HU; the liver as bool."""
    smooth = ndimage.median_filter(pixels, processing_6.MEDIAN_PIXELS, mode="nearest")
    return _choose(_morphology(_between(smooth, processing_6.LIVER_HU)))


NAIVE: dict[str, Callable[[Pixels], Pixels]] = {
    "processing_1": naive_processing_1,
    "processing_6": naive_processing_6,
}


def _between(values: Pixels, bounds: tuple[int, int]) -> Pixels:
    return (values >= bounds[0]) & (values <= bounds[1])


def _morphology(mask: Pixels) -> Pixels:
    small, large = _disk(processing_1.CLOSING_PIXELS), _disk(processing_1.OPENING_PIXELS)
    closed = ndimage.binary_erosion(ndimage.binary_dilation(mask, small), small, border_value=1)
    filled = ndimage.binary_fill_holes(closed)
    opened: Pixels = ndimage.binary_dilation(ndimage.binary_erosion(filled, large, border_value=1), large)
    return opened


def _disk(radius: int) -> Pixels:
    """OpenCV's ellipse: every row as wide as the circle of that radius is there, rounded."""
    side = np.arange(-radius, radius + 1)
    half_widths = np.rint(np.sqrt(radius**2 - side**2))
    return np.abs(side)[np.newaxis, :] <= half_widths[:, np.newaxis]


def _choose(mask: Pixels) -> Pixels:
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    best, best_area = 0, 0
    for label in range(1, count + 1):
        area = int((labels == label).sum())
        column = ndimage.center_of_mass(labels == label)[1]
        if column < mask.shape[1] / 2 and area > best_area:
            best, best_area = label, area
    chosen: Pixels = (labels == best) & (best > 0)
    return chosen
