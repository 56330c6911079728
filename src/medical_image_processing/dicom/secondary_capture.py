"""Results as Secondary Capture: the image with the algorithm's mask drawn over it.

A slice becomes a Secondary Capture Image (PS3.3 A.8.1) in PALETTE COLOR, one byte a pixel; a volume a
Multi-frame True Color Secondary Capture Image (A.8.5) with the same colours. Patient and study are those of
the source; series and instance are new, and the same again when the same job is run again. Any viewer shows
the result, and :func:`read_mask` gives the mask back exactly. Called by the worker.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from datetime import datetime
from functools import cache

import cv2
import numpy as np
from pydicom.dataset import Dataset

from medical_image_processing import __version__
from medical_image_processing.dicom import header, overlay
from medical_image_processing.dicom.encode import (
    Elements,
    code,
    element_header,
    encode,
    file_start,
    in_order,
    sequence,
    unsigned_shorts,
)
from medical_image_processing.dicom.image import Image, as_slices
from medical_image_processing.dicom.overlay import Pixels, Window
from medical_image_processing.errors import InputRejected

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MULTI_FRAME_TRUE_COLOR_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7.4"
MANUFACTURER = "medical-image-processing (research use only)"

_SERIES_NUMBER = "9001"
# Type 2 of those in header.CARRIED_ON: they must be there, if need be empty.
_TYPE_2 = (
    0x00080020,
    0x00080030,
    0x00080050,
    0x00080090,
    0x00100010,
    header.PATIENT_ID,
    0x00100030,
    0x00100040,
    0x00200010,
    0x00200020,
    0x00200060,
)
_LONGEST_VALUE = 65534
_LONGEST_PIXEL_DATA = 0xFFFFFFFE


def write_secondary_capture(
    image: Image,
    mask: Pixels,
    *,
    job_id: str,
    algo_id: str,
    revision: int | str,
    series_description: str,
    window: Window | None = None,
    made_at: datetime | None = None,
) -> bytes:
    """The DICOM file of a result.

    ``mask``: uint8 of the image's shape, set where it isn't zero. ``window``: lowest and highest value shown,
    in modality units; chosen from the modality if left out. ``made_at``: local time, now if left out.
    Raises ValueError if mask and image differ in shape, :class:`InputRejected` ``TOO_LARGE`` for a volume that
    no DICOM object can hold.
    """
    if mask.shape != image.pixels.shape:
        raise ValueError(f"the mask has shape {mask.shape}, the image {image.pixels.shape}")
    window = window or overlay.choose_window(image.pixels, image.modality)
    sop_class = MULTI_FRAME_TRUE_COLOR_SECONDARY_CAPTURE if image.is_volume else SECONDARY_CAPTURE
    sop_instance = made_uid(job_id, algo_id, "instance")
    elements = _carried_on(image.sources[0], job_id, algo_id)
    elements |= _series_and_equipment(job_id, algo_id, revision, series_description, made_at or datetime.now())
    elements |= _provenance(image, algo_id, revision)
    elements[0x00080016] = encode(0x00080016, "UI", sop_class)
    elements[0x00080018] = encode(0x00080018, "UI", sop_instance)
    elements |= _pixel_elements(image)
    elements |= _volume_elements(image) if image.is_volume else _slice_elements(image)
    length = mask.size * (3 if image.is_volume else 1)
    file = io.BytesIO()
    file.write(file_start(sop_class, sop_instance))
    file.write(in_order(elements))
    file.write(element_header(header.PIXEL_DATA, "OB", length + length % 2))
    for pixels in _drawn(image, mask, window):
        file.write(pixels.data)
    file.write(bytes(length % 2))
    return file.getvalue()


def read_mask(dataset: Dataset) -> Pixels:
    """The mask that :func:`write_secondary_capture` drew: uint8, 0 or 1, in the shape of the image.

    ``dataset``: the whole result as pydicom reads it.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    drawn = np.frombuffer(dataset.PixelData, np.uint8)
    if dataset.SOPClassUID == SECONDARY_CAPTURE:
        inside: Pixels = drawn[: rows * columns].reshape(rows, columns) >= overlay.FIRST_MASK_INDEX
        return inside.astype(np.uint8)
    frames = int(dataset.NumberOfFrames)
    colours = drawn[: frames * rows * columns * 3].reshape(frames, rows, columns, 3)
    # Every gray of the palette has equal red and blue; no colour of the mask has.
    coloured: Pixels = colours[..., 0] != colours[..., 2]
    return coloured.astype(np.uint8)


def made_uid(*parts: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) that is always the same for the same parts."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _drawn(image: Image, mask: Pixels, window: Window) -> Iterator[Pixels]:
    """The encoded slices one by one, so that a volume's colours never lie in memory twice."""
    for pixels, inside in zip(as_slices(image.pixels), as_slices(mask), strict=True):
        index = overlay.index_image(pixels, inside, window)
        yield cv2.applyColorMap(index, overlay.palette_rgb()) if image.is_volume else index


def _carried_on(source: Dataset, job_id: str, algo_id: str) -> dict[int, bytes]:
    """Patient and study as the source has them, bytes and character set unchanged."""
    found = {tag: (vr, header.raw(source, tag)) for tag, vr in header.CARRIED_ON.items()}
    elements = {
        tag: encode(tag, vr, value) for tag, (vr, value) in found.items() if 0 < len(value) <= _LONGEST_VALUE
    }
    for tag in _TYPE_2:
        elements.setdefault(tag, encode(tag, header.CARRIED_ON[tag], b""))
    if header.STUDY_INSTANCE_UID not in elements:
        study = made_uid(job_id, algo_id, "study")
        elements[header.STUDY_INSTANCE_UID] = encode(header.STUDY_INSTANCE_UID, "UI", study)
    return elements


def _series_and_equipment(
    job_id: str, algo_id: str, revision: int | str, description: str, made_at: datetime
) -> dict[int, bytes]:
    """General Series, General and SC Equipment, General Image (PS3.3 C.7.3.1, C.7.5.1, C.8.6.1, C.7.6.1)."""
    day, moment = made_at.strftime("%Y%m%d"), made_at.strftime("%H%M%S.%f")
    values = (
        (0x00080008, "CS", "DERIVED\\SECONDARY"),
        (0x00080012, "DA", day),  # Instance Creation Date
        (0x00080013, "TM", moment),
        (0x00080023, "DA", day),  # Content Date
        (0x00080033, "TM", moment),
        (0x00080060, "CS", "OT"),
        (0x00080064, "CS", "WSD"),  # Conversion Type: workstation
        (0x00080070, "LO", MANUFACTURER),
        (0x0008103E, "LO", description[:64]),
        (0x00081090, "LO", algo_id),  # Manufacturer's Model Name
        (0x00181020, "LO", f"{__version__}\\revision {revision}"[:64]),  # Software Versions
        (0x0020000E, "UI", made_uid(job_id, algo_id, "series")),
        (0x00200011, "IS", _SERIES_NUMBER),
        (0x00200013, "IS", "1"),
        (0x00280301, "CS", "NO"),  # Burned In Annotation
    )
    return {tag: encode(tag, vr, value) for tag, vr, value in values}


def _provenance(image: Image, algo_id: str, revision: int | str) -> dict[int, bytes]:
    """What the result was derived from, and how (PS3.3 C.12.4)."""
    sources = [
        {
            0x00081150: encode(0x00081150, "UI", sop_class),
            0x00081155: encode(0x00081155, "UI", sop_instance),
            0x0040A170: _purpose_of_source(),
        }
        for source in image.sources
        if (sop_class := header.sop_class_uid(source)) and (sop_instance := header.sop_instance_uid(source))
    ]
    elements = {
        0x00082111: encode(0x00082111, "ST", f"Mask of {algo_id}, revision {revision}, drawn over the image"),
        0x00089215: _derivation(),
    }
    if sources:
        elements[0x00082112] = sequence(0x00082112, sources)
    return elements


@cache
def _purpose_of_source() -> bytes:
    return code(0x0040A170, "121322", "Source image for image processing operation")


@cache
def _derivation() -> bytes:
    return code(0x00089215, "113076", "Segmentation")


def _pixel_elements(image: Image) -> dict[int, bytes]:
    """What Image Pixel (PS3.3 C.7.6.3) has in common for slices and volumes."""
    rows, columns = image.pixels.shape[-2:]
    spacing = f"{image.spacing[1]:.10g}\\{image.spacing[2]:.10g}"
    return {
        header.ROWS: unsigned_shorts(header.ROWS, rows),
        header.COLUMNS: unsigned_shorts(header.COLUMNS, columns),
        header.PIXEL_SPACING: encode(header.PIXEL_SPACING, "DS", spacing),
        **_eight_bits(),
    }


@cache
def _eight_bits() -> Elements:
    bits = ((0x00280100, 8), (0x00280101, 8), (0x00280102, 7), (0x00280103, 0))
    return {tag: unsigned_shorts(tag, number) for tag, number in bits}


@cache
def _palette_elements() -> Elements:
    """The colour lookup tables, 256 entries of 16 bits (PS3.3 C.7.6.3.1.5 and .6)."""
    elements = {
        header.SAMPLES_PER_PIXEL: unsigned_shorts(header.SAMPLES_PER_PIXEL, 1),
        header.PHOTOMETRIC_INTERPRETATION: encode(header.PHOTOMETRIC_INTERPRETATION, "CS", "PALETTE COLOR"),
    }
    for colour in range(3):
        descriptor, table = 0x00281101 + colour, 0x00281201 + colour
        elements[descriptor] = unsigned_shorts(descriptor, 256, 0, 16)
        elements[table] = encode(table, "OW", overlay.palette()[:, colour].astype("<u2").tobytes())
    return elements


def _slice_elements(image: Image) -> dict[int, bytes]:
    """Palette, and the plane in the source's frame of reference so that viewers can put them side by side."""
    source = image.sources[0]
    plane = {
        tag: encode(tag, vr, value)
        for tag, vr in (
            (header.IMAGE_POSITION, "DS"),
            (header.IMAGE_ORIENTATION, "DS"),
            (header.FRAME_OF_REFERENCE_UID, "UI"),
        )
        if (value := header.raw(source, tag))
    }
    return {**_palette_elements(), **plane}


def _volume_elements(image: Image) -> dict[int, bytes]:
    """SC Multi-frame Image and Vector (PS3.3 C.8.6.3, C.8.6.4): frames told apart by their slice location."""
    step = image.spacing[0]
    locations = "\\".join(f"{index * step:.6g}" for index in range(len(image.pixels)))
    if len(locations) > _LONGEST_VALUE or image.pixels.size * 3 > _LONGEST_PIXEL_DATA:
        raise InputRejected("TOO_LARGE", f"{len(image.pixels)} slices don't fit one DICOM object; send fewer.")
    return {
        0x00182005: encode(0x00182005, "DS", locations),
        header.SAMPLES_PER_PIXEL: unsigned_shorts(header.SAMPLES_PER_PIXEL, 3),
        header.PHOTOMETRIC_INTERPRETATION: encode(header.PHOTOMETRIC_INTERPRETATION, "CS", "RGB"),
        0x00280006: unsigned_shorts(0x00280006, 0),  # Planar Configuration: colour by pixel
        header.NUMBER_OF_FRAMES: encode(header.NUMBER_OF_FRAMES, "IS", str(len(image.pixels))),
        0x00280009: encode(0x00280009, "AT", b"\x18\x00\x05\x20"),  # Frame Increment Pointer
    }
