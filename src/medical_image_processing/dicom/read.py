"""Bytes of DICOM files in, pixels in modality units out.

Whatever the bytes are, the answer is an :class:`Image` or an :class:`InputRejected` with one of the codes
``NOT_DICOM``, ``BAD_HEADER``, ``NO_PIXELS``, ``UNDECODABLE_PIXELS``, ``TOO_LARGE``, ``INCONSISTENT_SERIES``;
never another exception, and never a word of what the header holds (law A3). Called by the worker.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pydicom
from pydicom import config
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medical_image_processing.dicom import header
from medical_image_processing.dicom.image import Image, Vector
from medical_image_processing.dicom.pixels import Pixels, decode, functional_group
from medical_image_processing.dicom.volume import Allocate, decode_volume, inconsistent, reorder
from medical_image_processing.errors import InputRejected

__all__ = ["Image", "drain_series", "read_image", "read_series"]

# pydicom's warnings and log lines quote the values they complain about: patient data (law A3).
config.settings.reading_validation_mode = config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom\.")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

_ORIENTATION_TOLERANCE = 1e-3
_RIGHT_ANGLE_TOLERANCE = 1e-2
_MAX_INFLATED_BYTES = 2**28
_INFLATE_STEP = 2**14
_DEFLATED = DeflatedExplicitVRLittleEndian.encode()


def read_image(data: bytes) -> Image:
    """One DICOM file: a slice (rows, columns), or (frames, rows, columns) if it has several frames."""
    pixels, source = _read(data)
    volume = len(pixels) > 1
    geometry = functional_group(source, "PlaneOrientationSequence", 0) or source
    orientation, corners = _orientation(geometry), _frame_corners(source, len(pixels))
    normal = _normal(geometry)
    positions = [_along(normal, corner) for corner in corners] if volume and normal else []
    spacing = _spacing(source, positions)
    return Image(
        pixels=pixels if volume else pixels[0],
        spacing=spacing,
        orientation=orientation,
        modality=header.text(source, header.MODALITY),
        sources=(source,),
        origin=corners[0] if corners else _corner(source),
        directions=_directions(orientation, spacing, descends=bool(positions) and positions[-1] < positions[0]),
    )


def read_series(files: Sequence[bytes], *, allocate: Allocate = np.empty) -> Image:
    """The files of one series as a volume (slices, rows, columns), decoded on all cores.

    The slices lie along the normal of their planes, ascending; where positions are missing, by Instance
    Number. One file gives the same as :func:`read_image`. ``allocate`` makes the array that the slices are
    decoded into.
    """
    return _series(files, allocate, forget=lambda _: None)


def drain_series(files: list[bytes], *, allocate: Allocate = np.empty) -> Image:
    """:func:`read_series`; each of ``files`` is let go once it is decoded, since a series may be large."""

    def forget(index: int) -> None:
        files[index] = b""

    image = _series(files, allocate, forget=forget)
    files.clear()
    return image


def _series(files: Sequence[bytes], allocate: Allocate, *, forget: Callable[[int], None]) -> Image:
    if not files:
        raise InputRejected("NO_PIXELS", "The series holds no files; check the series_id.")
    if len(files) == 1:
        return read_image(files[0])
    pixels, headers = decode_volume(files, _read, allocate, forget=forget)
    _check_consistent(headers)
    order = sorted(range(len(headers)), key=_order_key(headers))
    reorder(pixels, order)
    sources = tuple(headers[index] for index in order)
    orientation, spacing = _orientation(sources[0]), _spacing(sources[0], _positions(sources))
    return Image(
        pixels=pixels,
        spacing=spacing,
        orientation=orientation,
        modality=header.text(sources[0], header.MODALITY),
        sources=sources,
        origin=_corner(sources[0]),
        directions=_directions(orientation, spacing),
    )


def _read(data: bytes) -> tuple[Pixels, Dataset]:
    """Pixels (frames, rows, columns), and the header without them."""
    parsed = parse(data)
    pixels = decode(parsed)
    # A plain Dataset, since a FileDataset would hold the file's bytes as long as it lives.
    source = Dataset(parsed)
    source.file_meta = parsed.file_meta
    for tag in (0x7FE00008, 0x7FE00009, header.PIXEL_DATA):
        if tag in source:
            del source[tag]
    return pixels, source


def parse(data: bytes) -> FileDataset:
    """The elements of :data:`header.TAGS` in a DICOM file; ``NOT_DICOM``, ``BAD_HEADER`` or ``TOO_LARGE``."""
    if data[128:132] != b"DICM":
        raise InputRejected(
            "NOT_DICOM", "The file is not DICOM (PS3.10): it lacks the prefix DICM; send a DICOM file."
        )
    _check_inflated_size(data)
    try:
        return pydicom.dcmread(io.BytesIO(data), specific_tags=header.TAGS)
    except InvalidDicomError as error:
        raise InputRejected("NOT_DICOM", "The file is not DICOM (PS3.10); send a DICOM file.") from error
    except Exception as error:  # pydicom lets through whatever its parsing runs into
        raise InputRejected("BAD_HEADER", "The DICOM header is broken; fetch the file again.") from error


def _check_inflated_size(data: bytes) -> None:
    """Refuse a deflated file that would inflate without bounds, since pydicom inflates in one go."""
    if _DEFLATED not in data[132:1024]:
        return
    position = 144 + struct.unpack("<I", data[140:144])[0]
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        while position < len(data) and total <= _MAX_INFLATED_BYTES:
            total += len(inflate.decompress(data[position : position + _INFLATE_STEP]))
            position += _INFLATE_STEP
    except zlib.error as error:
        raise InputRejected("BAD_HEADER", "The deflated file is broken; fetch it again.") from error
    if total > _MAX_INFLATED_BYTES:
        raise InputRejected(
            "TOO_LARGE", f"The file inflates to more than {_MAX_INFLATED_BYTES} bytes; send it as it is."
        )


def _check_consistent(sources: list[Dataset]) -> None:
    for tag in (header.STUDY_INSTANCE_UID, header.PATIENT_ID):
        expected = header.raw(sources[0], tag)
        if any(header.raw(source, tag) != expected for source in sources):
            raise inconsistent("its files belong to different patients or studies")
    orientations = {_orientation(source) for source in sources}
    known = np.array([orientation for orientation in orientations if orientation])
    if len(known) and (len(known) < len(orientations) or np.ptp(known, axis=0).max() > _ORIENTATION_TOLERANCE):
        raise inconsistent("its images lie in different orientations")


def _order_key(sources: list[Dataset]) -> Callable[[int], float]:
    """How to sort the indices of ``sources``: along the normal, else by Instance Number."""
    if len(_positions(sources)) == len(sources):
        return lambda index: _position(sources[index]) or 0.0
    return lambda index: header.number(sources[index], header.INSTANCE_NUMBER, 0.0)


def _orientation(source: Dataset) -> tuple[float, ...] | None:
    return header.numbers(source, header.IMAGE_ORIENTATION, 6)


def _normal(source: Dataset) -> Vector | None:
    """The cross product of the row and column cosines."""
    orientation = _orientation(source)
    return None if orientation is None else _cross(orientation)


def _cross(orientation: tuple[float, ...]) -> Vector:
    a, b, c, d, e, f = orientation
    return (b * f - c * e, c * d - a * f, a * e - b * d)


def _corner(source: Dataset) -> Vector | None:
    """Where the centre of the first pixel lies."""
    found = header.numbers(source, header.IMAGE_POSITION, 3)
    return None if found is None else (found[0], found[1], found[2])


def _directions(
    orientation: tuple[float, ...] | None, spacing: Vector, *, descends: bool = False
) -> tuple[Vector, Vector, Vector] | None:
    """From a slice, a row and a column to the next; None unless the cosines are a right angle's."""
    if orientation is None:
        return None
    a, b, c, d, e, f = orientation
    off = (a * a + b * b + c * c - 1, d * d + e * e + f * f - 1, a * d + b * e + c * f)
    if max(map(abs, off)) > _RIGHT_ANGLE_TOLERANCE:
        return None
    x, y, z = _cross(orientation)
    between, rows, columns = -spacing[0] if descends else spacing[0], spacing[1], spacing[2]
    return (
        (x * between, y * between, z * between),
        (d * rows, e * rows, f * rows),
        (a * columns, b * columns, c * columns),
    )


def _position(source: Dataset) -> float | None:
    """Where the slice lies along its normal, in mm."""
    normal, corner = _normal(source), _corner(source)
    return None if normal is None or corner is None else _along(normal, corner)


def _along(normal: Sequence[float], corner: Sequence[float]) -> float:
    return sum(cosine * millimetres for cosine, millimetres in zip(normal, corner, strict=True))


def _positions(sources: Sequence[Dataset]) -> list[float]:
    found = [_position(source) for source in sources]
    return [position for position in found if position is not None]


def _frame_corners(source: Dataset, frames: int) -> list[Vector]:
    """Where an enhanced object's frames begin; empty if it doesn't say so for each."""
    if functional_group(source, "PlanePositionSequence", 0) is None:
        return []
    places = (functional_group(source, "PlanePositionSequence", frame) for frame in range(frames))
    corners = [corner for place in places if place is not None and (corner := _corner(place)) is not None]
    return corners if len(corners) == frames else []


def _spacing(source: Dataset, positions: list[float]) -> tuple[float, float, float]:
    """mm between slices, rows and columns; between slices as measured from their positions if possible."""
    measures = functional_group(source, "PixelMeasuresSequence", 0) or source
    in_plane = next(
        (
            found
            for tag in (
                header.PIXEL_SPACING,
                header.IMAGER_PIXEL_SPACING,
                header.NOMINAL_SCANNED_PIXEL_SPACING,
            )
            if (found := header.numbers(measures, tag, 2)) and min(found) > 0
        ),
        (1.0, 1.0),
    )
    steps = np.abs(np.diff(positions)) if len(positions) > 1 else np.array([])
    steps = steps[steps > 0]
    if len(steps):
        between = float(np.median(steps))
    else:
        thickness = header.number(measures, header.SLICE_THICKNESS, 1.0)
        between = abs(header.number(measures, header.SPACING_BETWEEN_SLICES, thickness)) or 1.0
    return (between, in_plane[0], in_plane[1])
