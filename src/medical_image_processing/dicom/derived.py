"""What every result of this package has in common, and how a Secondary Capture is put together.

Patient and study are those of the source; series and instance are new, and the same again when the same job is
run again. The writers add their pixels; see :mod:`~medical_image_processing.dicom.secondary_capture` and
:mod:`~medical_image_processing.dicom.grayscale_capture`, and for the other objects
:mod:`~medical_image_processing.dicom.standard_object`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache

import numpy as np
from pydicom.dataset import Dataset

from medical_image_processing import __version__
from medical_image_processing.dicom import header
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
from medical_image_processing.dicom.image import Image, Pixels
from medical_image_processing.errors import InputRejected

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
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
_CODE = {0x00080100: "SH", 0x00080102: "SH", 0x00080103: "SH", 0x00080104: "LO"}
"""Value, scheme, its version and meaning (PS3.3 8.8)."""
_LONGEST_VALUE = 65534
_LONGEST_PIXEL_DATA = 0xFFFFFFFE


@dataclass(frozen=True)
class Making:
    """What made a result. ``made_at``: local time. ``image_digest``: of the container image, if there is one."""

    job_id: str
    algo_id: str
    revision: int | str
    series_description: str
    made_at: datetime = field(default_factory=datetime.now)
    image_digest: str = ""

    @property
    def date(self) -> str:
        """As DA (PS3.5 6.2)."""
        return self.made_at.strftime("%Y%m%d")

    @property
    def time(self) -> str:
        """As TM (PS3.5 6.2)."""
        return self.made_at.strftime("%H%M%S.%f")

    @property
    def software_versions(self) -> tuple[str, str]:
        """Ours, and the algorithm's revision."""
        return __version__, f"revision {self.revision}"[:64]

    @property
    def said_of(self) -> str:
        """What made the result, in a sentence; (0018,A003) may have 1024 characters."""
        image = f", container image {self.image_digest}" if self.image_digest else ""
        return f"Algorithm {self.algo_id}, revision {self.revision}{image}"[:1024]


@dataclass(frozen=True)
class PixelData:
    """The slices as they are encoded, one by one, so that a volume needn't lie in memory again.

    ``length``: bytes in all. ``vr``: OB for bytes, OW for words (PS3.5 A.2).
    """

    slices: Iterable[Pixels]
    length: int
    vr: str


def write_file(
    image: Image,
    making: Making,
    sop_class: str,
    content: str,
    derivation: Elements,
    pixel_elements: Elements,
    pixels: PixelData,
) -> bytes:
    """The DICOM file: ``image``'s patient and study, and what the writer has to say of its pixels.

    ``content``: :func:`content_digest` of the algorithm's result. Raises :class:`InputRejected` ``TOO_LARGE`` for
    a volume that no DICOM object can hold.
    """
    origin = made_from(image, making)
    sop_instance = made_uid(*origin, content, "instance")
    elements = carried_on(image, making)
    elements |= contributing_equipment(making)
    elements |= _series_and_equipment(making, origin)
    elements |= _sources(image)
    elements |= derivation
    elements[0x00080016] = encode(0x00080016, "UI", sop_class)
    elements[0x00080018] = encode(0x00080018, "UI", sop_instance)
    elements |= _grid(image)
    elements |= _frames(image, pixels.length) if image.is_volume else _plane(image)
    elements |= pixel_elements
    file = io.BytesIO()
    file.write(file_start(sop_class, sop_instance))
    file.write(in_order(elements))
    file.write(element_header(header.PIXEL_DATA, pixels.vr, pixels.length + pixels.length % 2))
    for slice_ in pixels.slices:
        file.write(slice_.data)
    file.write(bytes(pixels.length % 2))
    return file.getvalue()


def made_uid(*parts: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) that is always the same for the same parts."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


@cache
def pixel_bits(bits: int) -> Elements:
    """Unsigned pixels that use all their ``bits``, 8 or 16 (PS3.3 C.7.6.3)."""
    values = ((0x00280100, bits), (0x00280101, bits), (0x00280102, bits - 1), (0x00280103, 0))
    return {tag: unsigned_shorts(tag, number) for tag, number in values}


def content_digest(*arrays: Pixels) -> str:
    """Names the values of a result: an instance with other content must not have the same UID."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def made_from(image: Image, making: Making) -> tuple[str, ...]:
    """What UIDs are made of: the source's too, as a job_id may be used again on another image or elsewhere."""
    study = header.raw(image.sources[0], header.STUDY_INSTANCE_UID).decode("ascii", "replace")
    made_by = making.job_id, making.algo_id, f"revision {making.revision}"
    return *made_by, study, *map(header.sop_instance_uid, image.sources)


def carried_on(image: Image, making: Making) -> dict[int, bytes]:
    """Patient and study as the source has them, encoded, bytes and character set unchanged."""
    source, origin = image.sources[0], made_from(image, making)
    found = {tag: (vr, header.raw(source, tag)) for tag, vr in header.CARRIED_ON.items()}
    elements = {
        tag: encode(tag, vr, value) for tag, (vr, value) in found.items() if 0 < len(value) <= _LONGEST_VALUE
    }
    if codes := _deidentification_codes(source):
        elements[header.DEIDENTIFICATION_CODES] = sequence(header.DEIDENTIFICATION_CODES, codes)
    for tag in _TYPE_2:
        elements.setdefault(tag, encode(tag, header.CARRIED_ON[tag], b""))
    if header.STUDY_INSTANCE_UID not in elements:
        study = made_uid(*origin, "study")
        elements[header.STUDY_INSTANCE_UID] = encode(header.STUDY_INSTANCE_UID, "UI", study)
    return elements


def _deidentification_codes(source: Dataset) -> list[Elements]:
    """How the patient's identity was removed (PS3.3 C.7.1.1), which is said in words or in codes, or both."""
    if header.DEIDENTIFICATION_CODES not in source:
        return []
    try:
        items = list(source[header.DEIDENTIFICATION_CODES].value)
        stated = [{tag: header.raw(item, tag) for tag in _CODE} for item in items]
    except Exception as error:
        raise header.bad(header.DEIDENTIFICATION_CODES, "is broken") from error
    return [{tag: encode(tag, _CODE[tag], value) for tag, value in item.items() if value} for item in stated]


def _series_and_equipment(making: Making, origin: tuple[str, ...]) -> dict[int, bytes]:
    """General Series, General and SC Equipment, General Image (PS3.3 C.7.3.1, C.7.5.1, C.8.6.1, C.7.6.1)."""
    day, moment = making.date, making.time
    values = (
        (0x00080008, "CS", "DERIVED\\SECONDARY"),
        (0x00080012, "DA", day),  # Instance Creation Date
        (0x00080013, "TM", moment),
        (0x00080023, "DA", day),  # Content Date
        (0x00080033, "TM", moment),
        (0x00080060, "CS", "OT"),
        (0x00080064, "CS", "WSD"),  # Conversion Type: workstation
        (0x00080070, "LO", MANUFACTURER),
        (0x0008103E, "LO", making.series_description[:64]),
        (0x00081090, "LO", making.algo_id),  # Manufacturer's Model Name
        (0x00181020, "LO", "\\".join(making.software_versions)),  # Software Versions
        (header.SERIES_INSTANCE_UID, "UI", made_uid(*origin, "series")),
        (0x00200011, "IS", _SERIES_NUMBER),
        (0x00200013, "IS", "1"),
        (0x00280301, "CS", "NO"),  # Burned In Annotation
    )
    return {tag: encode(tag, vr, value) for tag, vr, value in values}


def contributing_equipment(making: Making) -> Elements:
    """The algorithm with its revision and image (PS3.3 C.12.1.1.5), which any object may name."""
    item = {
        0x00080070: encode(0x00080070, "LO", MANUFACTURER),
        0x00081090: encode(0x00081090, "LO", making.algo_id),
        0x00181020: encode(0x00181020, "LO", "\\".join(making.software_versions)),
        0x0018A002: encode(0x0018A002, "DT", making.date + making.time),
        0x0018A003: encode(0x0018A003, "ST", making.said_of),
        0x0040A170: code(0x0040A170, "109102", "Processing Equipment"),
    }
    return {0x0018A001: sequence(0x0018A001, [item])}


def _sources(image: Image) -> dict[int, bytes]:
    """What the result was derived from (PS3.3 C.12.4.1.2)."""
    sources = [
        {
            0x00081150: encode(0x00081150, "UI", sop_class),
            0x00081155: encode(0x00081155, "UI", sop_instance),
            0x0040A170: _purpose_of_source(),
        }
        for source in image.sources
        if (sop_class := header.sop_class_uid(source)) and (sop_instance := header.sop_instance_uid(source))
    ]
    return {0x00082112: sequence(0x00082112, sources)} if sources else {}


@cache
def _purpose_of_source() -> bytes:
    return code(0x0040A170, "121322", "Source image for image processing operation")


def _grid(image: Image) -> dict[int, bytes]:
    """Size and spacing (PS3.3 C.7.6.3, C.8.6.2)."""
    rows, columns = image.pixels.shape[-2:]
    spacing = f"{image.spacing[1]:.10g}\\{image.spacing[2]:.10g}"
    return {
        header.ROWS: unsigned_shorts(header.ROWS, rows),
        header.COLUMNS: unsigned_shorts(header.COLUMNS, columns),
        header.PIXEL_SPACING: encode(header.PIXEL_SPACING, "DS", spacing),
    }


def _plane(image: Image) -> dict[int, bytes]:
    """The plane in the source's frame of reference so that viewers can put them side by side."""
    source = image.sources[0]
    return {
        tag: encode(tag, vr, value)
        for tag, vr in (
            (header.IMAGE_POSITION, "DS"),
            (header.IMAGE_ORIENTATION, "DS"),
            (header.FRAME_OF_REFERENCE_UID, "UI"),
        )
        if (value := header.raw(source, tag))
    }


def _frames(image: Image, length: int) -> dict[int, bytes]:
    """SC Multi-frame Image and Vector (PS3.3 C.8.6.3, C.8.6.4): frames told apart by their slice location."""
    step = image.spacing[0]
    locations = "\\".join(f"{index * step:.6g}" for index in range(len(image.pixels)))
    if len(locations) > _LONGEST_VALUE or length > _LONGEST_PIXEL_DATA:
        raise InputRejected("TOO_LARGE", f"{len(image.pixels)} slices don't fit one DICOM object; send fewer.")
    return {
        0x00182005: encode(0x00182005, "DS", locations),
        header.NUMBER_OF_FRAMES: encode(header.NUMBER_OF_FRAMES, "IS", str(len(image.pixels))),
        0x00280009: encode(0x00280009, "AT", b"\x18\x00\x05\x20"),  # Frame Increment Pointer
    }
