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
    inside = as_slices(numbers) == number
    knows_slices, knows_pixels = image.knows_spacing
    if not knows_pixels:
        return Measurements(None, None)
    depths = _depths(image)
    volume = None
    if depths is not None:
        counts = np.array([np.count_nonzero(slice_) for slice_ in inside])
        volume = float(counts @ depths * image.spacing[1] * image.spacing[2])
    one_slice = np.count_nonzero(inside.any(axis=(1, 2))) <= 1
    return Measurements(volume, _longest(_corner_points(image, inside)) if knows_slices or one_slice else None)


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


def _corner_points(image: Image, inside: Pixels) -> Pixels:
    """(n, 3) in mm: of every slice those pixels that can be an end of the longest diameter, its convex hull's."""
    between, rows, columns = image.spacing
    points = [np.empty((0, 3))]
    steps = image.directions
    for index, slice_ in enumerate(inside):
        ends = _row_ends(slice_)
        if not len(ends):
            continue
        hull = cv2.convexHull(ends)[:, 0].astype(float)
        if image.is_placed and steps is not None:
            corner = np.array(image.corners[index])
            points.append(corner + hull[:, :1] * np.array(steps[2]) + hull[:, 1:] * np.array(steps[1]))
        else:
            depth = np.full(len(hull), index * between)
            points.append(np.column_stack([hull[:, 0] * columns, hull[:, 1] * rows, depth]))
    return np.concatenate(points)


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
