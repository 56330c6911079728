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
from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom import config
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medical_image_processing.dicom import header
from medical_image_processing.dicom.geometry import (
    Plane,
    Spacing,
    directions,
    frame_planes,
    heights,
    in_plane_spacings,
    share_orientation,
    share_spacing,
    shares_place,
)
from medical_image_processing.dicom.image import Image, Pixels
from medical_image_processing.dicom.modality_units import units_of
from medical_image_processing.dicom.pixels import check_pixels_begin, decode, decode_in_place
from medical_image_processing.dicom.series import Room, arrange, check_size
from medical_image_processing.dicom.volume import Allocate, decode_volume, inconsistent, reorder
from medical_image_processing.errors import InputRejected

__all__ = ["Image", "drain_series", "read_header", "read_image", "read_series"]

# pydicom's warnings and log lines quote the values they complain about: patient data (law A3).
config.settings.reading_validation_mode = config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom\.")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

_MAX_INFLATED_BYTES = 2**28
_INFLATE_STEP = 2**14
_DEFLATED = DeflatedExplicitVRLittleEndian.encode()


def read_image(data: bytes, *, max_bytes: int | None = None) -> Image:
    """One DICOM file: a slice (rows, columns), or (frames, rows, columns) if it has several frames.

    Frames that say where they lie and go neither up nor down are put in the order of their positions.
    ``max_bytes`` is what the pixels may take.
    """
    pixels, source = _read(data, max_bytes)
    return _single(source, pixels) if len(pixels) == 1 else _multi_frame(source, pixels)


def read_series(files: Sequence[bytes], *, allocate: Allocate = np.empty, max_bytes: int | None = None) -> Image:
    """The files of one series as a volume (slices, rows, columns), decoded on all cores.

    The slices lie along the normal of their planes, ascending; where positions are missing, by Instance
    Number. One file gives the same as :func:`read_image`. ``allocate`` makes the array that the slices are
    decoded into; ``max_bytes`` is what it may take.
    """
    return _series(files, allocate, max_bytes, forget=lambda _: None)


def drain_series(files: list[bytes], *, allocate: Allocate = np.empty, max_bytes: int | None = None) -> Image:
    """:func:`read_series`; each of ``files`` is let go once it is decoded, since a series may be large."""

    def forget(index: int) -> None:
        files[index] = b""

    image = _series(files, allocate, max_bytes, forget=forget)
    files.clear()
    return image


def _series(
    files: Sequence[bytes], allocate: Allocate, max_bytes: int | None, *, forget: Callable[[int], None]
) -> Image:
    if not files:
        raise InputRejected("NO_PIXELS", "The series holds no files; check the series_id.")
    if len(files) == 1:
        return read_image(files[0], max_bytes=max_bytes)
    headers = _read_headers(files, max_bytes)
    order = arrange([found.source for found in headers])
    if len(order) == 1:
        return read_image(files[order[0]], max_bytes=max_bytes)
    sources = tuple(headers[index].source for index in order)
    check_size(sources, max_bytes)
    for left_out in set(range(len(files))) - set(order):
        forget(left_out)

    def decode_slice(index: int) -> Pixels:
        place = order[index]
        pixels = headers[place].decode(files[place])
        forget(place)
        return pixels

    pixels = decode_volume(len(order), decode_slice, allocate, max_bytes)
    planes = [Plane.of(source) for source in sources]
    return _placed(pixels, planes, sources)


def _read_headers(files: Sequence[bytes], max_bytes: int | None) -> list[_Header]:
    room, headers = Room(max_bytes, len(files)), []
    for data in files:
        headers.append(_Header.of(data))
        room.count(headers[-1].source)
    return headers


def _single(source: Dataset, pixels: Pixels) -> Image:
    return _placed(pixels[0], [Plane.of(source)], (source,))


def _multi_frame(source: Dataset, pixels: Pixels) -> Image:
    if not share_spacing(in_plane_spacings((source, frame) for frame in range(len(pixels)))):
        raise inconsistent("its frames differ in how far apart their pixels are")
    planes = frame_planes(source, len(pixels))
    places = heights(planes) if share_orientation(planes) else []
    if not places or shares_place(places):
        # Cine, several phases, or planes across each other: frames, and no volume.
        return _placed(pixels, planes[:1] or [Plane.of(source)], (source,))
    steps = np.diff(places)
    if not ((steps > 0).all() or (steps < 0).all()):
        order = sorted(range(len(places)), key=places.__getitem__)
        pixels = np.require(pixels, requirements="W")
        reorder(pixels, order)
        return _placed(pixels, [planes[index] for index in order], (source,), frames=tuple(order))
    return _placed(pixels, planes, (source,))


def _placed(
    pixels: Pixels, planes: Sequence[Plane], sources: tuple[Dataset, ...], *, frames: tuple[int, ...] = ()
) -> Image:
    """``planes``: of every slice, or of the first where the others' are not known."""
    slices = len(pixels) if pixels.ndim == 3 else 1
    positions = heights(planes)
    spacing = Spacing.of(sources[0], positions)
    is_whole = len(planes) == slices and len(positions) == slices
    corners = tuple(plane.corner for plane in planes if plane.corner is not None) if is_whole else ()
    return Image(
        pixels=pixels,
        spacing=spacing.values,
        orientation=planes[0].orientation,
        modality=header.text(sources[0], header.MODALITY),
        sources=sources,
        origin=planes[0].corner,
        directions=directions(planes[0].orientation, spacing.values, corners),
        corners=corners,
        knows_spacing=spacing.is_known,
        frames=frames,
        units=units_of(sources[0]),
    )


@dataclass(frozen=True)
class _Header:
    """What stands before a file's pixels, and where they begin. ``source`` as in :class:`Image`."""

    source: Dataset
    pixels_at: int

    @classmethod
    def of(cls, data: bytes) -> _Header:
        file = io.BytesIO(data)
        source = _without_file(_parse(data, file, stop_before_pixels=True))
        at = file.tell()
        if source.file_meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            check_pixels_begin(data[at : at + 4])  # a file may end before them, as a transfer may
        return cls(source, at)

    def decode(self, data: bytes) -> Pixels:
        pixels = decode_in_place(data, self.pixels_at, self.source)
        return decode(parse(data)) if pixels is None else pixels


def _read(data: bytes, max_bytes: int | None) -> tuple[Pixels, Dataset]:
    """Pixels (frames, rows, columns), and the header without them."""
    parsed = parse(data)
    pixels = decode(parsed, max_bytes)
    source = _without_file(parsed)
    for tag in (0x7FE00008, 0x7FE00009, header.PIXEL_DATA):
        if tag in source:
            del source[tag]
    return pixels, source


def _without_file(parsed: FileDataset) -> Dataset:
    """A plain Dataset, since a FileDataset would hold the file's bytes as long as it lives."""
    source = Dataset(parsed)
    source.file_meta = parsed.file_meta
    return source


def parse(data: bytes) -> FileDataset:
    """The elements of :data:`header.TAGS` in a DICOM file; ``NOT_DICOM``, ``BAD_HEADER`` or ``TOO_LARGE``."""
    return _parse(data, io.BytesIO(data), stop_before_pixels=False)


def read_header(data: bytes) -> Dataset:
    """:func:`parse` up to the pixels, which needn't be there."""
    return _without_file(_parse(data, io.BytesIO(data), stop_before_pixels=True))


def _parse(data: bytes, file: io.BytesIO, *, stop_before_pixels: bool) -> FileDataset:
    if data[128:132] != b"DICM":
        raise InputRejected(
            "NOT_DICOM", "The file is not DICOM (PS3.10): it lacks the prefix DICM; send a DICOM file."
        )
    _check_inflated_size(data)
    try:
        return pydicom.dcmread(file, specific_tags=header.TAGS, stop_before_pixels=stop_before_pixels)
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
