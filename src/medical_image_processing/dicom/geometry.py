"""Where images lie in the patient, from what their headers say of it (PS3.3 C.7.6.2, C.7.6.16.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from medical_image_processing.dicom import header
from medical_image_processing.dicom.normal import Orientation, Vector, along_normal, normal_of

ORIENTATION_TOLERANCE = 1e-3
_RIGHT_ANGLE_TOLERANCE = 1e-2
SPACING_TOLERANCE = 1e-2
"""Of a distance: what highdicom (``spatial``) and 3D Slicer (``DICOMScalarVolumePlugin``) take for equal."""
SAME_PLACE_MM = 1e-3
"""Positions nearer than this are one: below what scanners state, above what rounding to a DS changes."""


@dataclass(frozen=True)
class Plane:
    """One slice or frame. Each part is None where the header does not say it."""

    orientation: Orientation | None
    corner: Vector | None

    @classmethod
    def of(cls, source: Dataset, frame: int = 0) -> Plane:
        """Of one frame of an object; functional groups are asked first."""
        turned = header.functional_group(source, "PlaneOrientationSequence", frame) or source
        placed = header.functional_group(source, "PlanePositionSequence", frame) or source
        return cls(orientation_of(turned), _corner(placed))


def orientation_of(item: Dataset) -> Orientation | None:
    """The orientation that an object, or an item of its functional groups, states."""
    return header.numbers(item, header.IMAGE_ORIENTATION, 6)


def frame_planes(source: Dataset, frames: int) -> list[Plane]:
    """The planes of a multi-frame object; empty unless it places each frame."""
    if header.PER_FRAME_FUNCTIONAL_GROUPS not in source:
        return _offset_planes(source, frames)
    planes = [Plane.of(source, frame) for frame in range(frames)]
    return planes if all(plane.corner is not None for plane in planes) else []


def _offset_planes(source: Dataset, frames: int) -> list[Plane]:
    """Frames that are placed by their distances from the first (PS3.3 C.8.8.3.2, RT Dose)."""
    first, offsets = Plane.of(source), header.numbers(source, header.GRID_FRAME_OFFSET_VECTOR, frames)
    if first.corner is None or first.orientation is None or offsets is None or frames < 2:
        return []
    normal, start = normal_of(first.orientation), offsets[0]
    if normal is None:
        return []
    corner = np.array(first.corner)
    places = [corner + (offset - start) * np.array(normal) for offset in offsets]
    return [Plane(first.orientation, (float(x), float(y), float(z))) for x, y, z in places]


def share_orientation(planes: Sequence[Plane]) -> bool:
    """Whether all are parallel, their rows too; also when none says how it lies."""
    known = np.array([plane.orientation for plane in planes if plane.orientation])
    if not len(known):
        return True
    return len(known) == len(planes) and float(np.ptp(known, axis=0).max()) <= ORIENTATION_TOLERANCE


def heights(planes: Sequence[Plane]) -> list[float]:
    """Where each lies along the first one's normal, in mm; empty unless all say it."""
    corners = [plane.corner for plane in planes if plane.corner is not None]
    if not planes or len(corners) < len(planes):
        return []
    orientation = planes[0].orientation
    return [] if orientation is None or normal_of(orientation) is None else along_normal(orientation, corners)


def are_in_line(planes: Sequence[Plane], in_plane: tuple[float, float] | None) -> bool:
    """Whether the planes' corners lie on one straight line, as those of a box do, also of a sheared one.

    A gantry that is tilted makes the line lean against the normal, by up to some 30 degrees; a lean of over 45 is
    no tilt. ``in_plane``: the distances of rows and of columns, mm. A corner may be half a pixel off: up to there
    every pixel's nearest place on the grid is its own. Where ``in_plane`` or a corner isn't known, nothing speaks
    against it.
    """
    places = np.array(heights(planes))
    orientation = planes[0].orientation
    if len(places) < 2 or in_plane is None or orientation is None or np.ptp(places) < SAME_PLACE_MM:
        return True
    corners = np.array([plane.corner for plane in planes])
    axes = np.array(orientation).reshape(2, 3)
    aside = corners @ (axes / np.linalg.norm(axes, axis=1, keepdims=True)).T  # along rows, along columns
    risen, moved = places - places.mean(), aside - aside.mean(axis=0)
    lean = risen @ moved / (risen @ risen)
    tolerance = np.array(in_plane[::-1]) / 2  # what is along a row goes over columns
    off = np.abs(moved - risen[:, np.newaxis] * lean)
    return bool(np.linalg.norm(lean) <= 1.0 and (off <= tolerance).all())


def shares_place(positions: Sequence[float]) -> bool:
    """Whether two of them are at one place."""
    return len(positions) > 1 and bool(np.diff(np.sort(positions)).min() < SAME_PLACE_MM)


def directions(
    orientation: Orientation | None, spacing: Vector, corners: Sequence[Vector]
) -> tuple[Vector, Vector, Vector] | None:
    """From a slice, a row and a column to the next; None unless the cosines are a right angle's.

    Slices whose corners go aslant of the normal (a tilted gantry) have a step that says so.
    """
    if orientation is None:
        return None
    a, b, c, d, e, f = orientation
    off = (a * a + b * b + c * c - 1, d * d + e * e + f * f - 1, a * d + b * e + c * f)
    if max(map(abs, off)) > _RIGHT_ANGLE_TOLERANCE:
        return None
    x, y, z = normal_of(orientation) or (0.0, 0.0, 0.0)
    between, rows, columns = spacing
    step = (x * between, y * between, z * between)
    if len(corners) > 1:
        step = _step(corners, step, between)
    return (step, (d * rows, e * rows, f * rows), (a * columns, b * columns, c * columns))


def _step(corners: Sequence[Vector], along_normal: Vector, between: float) -> Vector:
    """The step along the line of the corners, as long as takes it one spacing along the normal."""
    way = np.array(corners[-1]) - np.array(corners[0])
    normal = np.array(along_normal) / between
    risen = float(way @ normal)
    if abs(risen) < SAME_PLACE_MM:
        return along_normal
    x, y, z = (float(part) for part in way * (between / abs(risen)))
    # Adding 0 makes -0 a plain 0, which is what a reader expects.
    return (x + 0.0, y + 0.0, z + 0.0)


@dataclass(frozen=True)
class Spacing:
    """mm between slices, rows and columns; 1.0 where nobody says. ``is_known``: of slices, of rows and columns."""

    values: Vector
    is_known: tuple[bool, bool]

    @classmethod
    def of(cls, source: Dataset, positions: Sequence[float]) -> Spacing:
        """Between slices as measured from their ``positions`` along the normal, if possible."""
        measures = header.functional_group(source, "PixelMeasuresSequence", 0) or source
        in_plane = in_plane_of(measures)
        steps = np.abs(np.diff(positions)) if len(positions) > 1 else np.array([])
        steps = steps[steps >= SAME_PLACE_MM]
        if len(steps):
            between = float(np.median(steps))
        else:
            thickness = header.number(measures, header.SLICE_THICKNESS, 0.0)
            between = abs(header.number(measures, header.SPACING_BETWEEN_SLICES, thickness))
        rows, columns = in_plane or (1.0, 1.0)
        return cls((between or 1.0, rows, columns), (between > 0, in_plane is not None))


def in_plane_spacings(sources: Iterable[tuple[Dataset, int]]) -> list[tuple[float, float] | None]:
    """How far rows and columns are apart, mm, in each of these frames of objects; None where it isn't said."""
    return [
        in_plane_of(header.functional_group(source, "PixelMeasuresSequence", frame) or source)
        for source, frame in sources
    ]


def share_spacing(spacings: Sequence[tuple[float, float] | None]) -> bool:
    """Whether pixels are as far apart in all, or nobody says."""
    known = np.array([spacing for spacing in spacings if spacing])
    if not len(known):
        return True
    return len(known) == len(spacings) and bool(
        (np.ptp(known, axis=0) <= SPACING_TOLERANCE * known.min(axis=0)).all()
    )


def in_plane_of(measures: Dataset) -> tuple[float, float] | None:
    """The distances of rows and of columns, mm, that an object or an item of its Pixel Measures states."""
    tags = (header.PIXEL_SPACING, header.IMAGER_PIXEL_SPACING, header.NOMINAL_SCANNED_PIXEL_SPACING)
    for tag in tags:
        found = header.numbers(measures, tag, 2)
        if found and min(found) > 0:
            return found[0], found[1]
    return None


def _corner(item: Dataset) -> Vector | None:
    """Where the centre of the first pixel lies."""
    found = header.numbers(item, header.IMAGE_POSITION, 3)
    return None if found is None else (found[0], found[1], found[2])
