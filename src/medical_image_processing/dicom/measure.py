"""What is measured of a segment: its volume, and its longest diameter.

The volume is that of the segment's pixels, each as deep as it is far to the neighbouring slices, so that a missing
slice is bridged. The longest diameter is the distance between the centres of the two pixels of the segment that
are farthest apart, in any direction; a single pixel has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from medical_image_processing.dicom import header
from medical_image_processing.dicom.image import Image, Pixels, as_slices

_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class Measurements:
    """Of one segment. None where the headers don't tell how far apart pixels, or slices, are."""

    volume_mm3: float | None
    diameter_mm: float | None


def measure_segment(image: Image, numbers: Pixels, number: int) -> Measurements:
    """Of the pixels whose value in ``numbers`` is ``number``."""
    knows_slices, knows_pixels = image.knows_spacing
    if not knows_pixels:
        return Measurements(None, None)
    counts, points = [], [np.empty((0, 3))]
    for index, slice_ in enumerate(as_slices(numbers)):
        inside = slice_ == number
        counts.append(np.count_nonzero(inside))
        if counts[-1]:
            points.append(_corner_points(image, index, inside))
    depths = _depths(image)
    volume = None if depths is None else float(counts @ depths * image.spacing[1] * image.spacing[2])
    is_flat = np.count_nonzero(counts) <= 1
    return Measurements(volume, _longest(np.concatenate(points)) if knows_slices or is_flat else None)


def _depths(image: Image) -> Pixels | None:
    """How deep each slice is, mm."""
    if not image.knows_spacing[0]:
        thickness = header.number(image.sources[0], header.SLICE_THICKNESS, 0.0)
        return np.array([thickness]) if thickness > 0 and not image.is_volume else None
    slices = len(as_slices(image.pixels))
    steps = image.steps
    if slices < 3 or not len(steps):
        return np.full(slices, image.spacing[0])
    before, after = np.concatenate([[steps[0]], steps]), np.concatenate([steps, [steps[-1]]])
    depths: Pixels = (before + after) / 2
    return depths


def _corner_points(image: Image, index: int, inside: Pixels) -> Pixels:
    """(n, 3) in mm: the pixels of a slice that can be an end of the longest diameter, those of its convex hull."""
    hull = cv2.convexHull(_row_ends(inside))[:, 0].astype(float)
    between, rows, columns = image.spacing
    if image.is_placed and image.directions is not None:
        _, down, right = map(np.array, image.directions)
        points: Pixels = np.array(image.corners[index]) + hull[:, :1] * right + hull[:, 1:] * down
        return points
    return np.column_stack([hull[:, 0] * columns, hull[:, 1] * rows, np.full(len(hull), index * between)])


def _row_ends(slice_: Pixels) -> Pixels:
    """(n, 2) columns and rows, int32: the first and the last pixel set in each row; no other is on the hull."""
    rows = np.flatnonzero(slice_.any(axis=1))
    inside = slice_[rows]
    first, last = inside.argmax(axis=1), slice_.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
    columns, places = np.concatenate([first, last]), np.concatenate([rows, rows])
    return np.column_stack([columns, places]).astype(np.int32)


def _longest(points: Pixels) -> float | None:
    """The greatest distance between two of ``points``.

    A pair can only be farther apart than the best one known if both are far enough from the centre together, which
    leaves few points of most shapes.
    """
    if not len(points):
        return None
    centred = points - (points.min(axis=0) + points.max(axis=0)) / 2
    radii = np.linalg.norm(centred, axis=1)
    farthest = centred[radii.argmax()]
    known = float(np.linalg.norm(centred - farthest, axis=1).max())
    left = centred[radii + radii.max() >= known - 1e-9]
    squares = (left**2).sum(axis=1)
    best = known**2
    for start in range(0, len(left), _ROWS_AT_ONCE):
        block = left[start : start + _ROWS_AT_ONCE]
        distances = squares[start : start + _ROWS_AT_ONCE, np.newaxis] + squares - 2 * block @ left.T
        best = max(best, float(distances.max()))
    return float(np.sqrt(best))
