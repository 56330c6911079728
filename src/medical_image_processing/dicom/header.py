"""Values of DICOM headers, read as bytes where pydicom has not converted them yet.

Turning an element into a ``DataElement`` costs more than everything else about it, and a job may cost
only a few milliseconds in all; a value that is only copied into the result is never converted.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, cast

from pydicom.charset import convert_encodings, encode_string
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from medical_image_processing.errors import InputRejected

SPECIFIC_CHARACTER_SET = 0x00080005
IMAGE_TYPE = 0x00080008
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
MODALITY = 0x00080060
MANUFACTURER = 0x00080070
PATIENT_NAME = 0x00100010
PATIENT_ID = 0x00100020
ISSUER_OF_PATIENT_ID = 0x00100021
PATIENT_BIRTH_DATE = 0x00100030
SLICE_THICKNESS = 0x00180050
SPACING_BETWEEN_SLICES = 0x00180088
IMAGER_PIXEL_SPACING = 0x00181164
NOMINAL_SCANNED_PIXEL_SPACING = 0x00182010
DEIDENTIFICATION_CODES = 0x00120064
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
INSTANCE_NUMBER = 0x00200013
IMAGE_POSITION = 0x00200032
IMAGE_ORIENTATION = 0x00200037
SAMPLES_PER_PIXEL = 0x00280002
PHOTOMETRIC_INTERPRETATION = 0x00280004
NUMBER_OF_FRAMES = 0x00280008
ROWS = 0x00280010
COLUMNS = 0x00280011
PIXEL_SPACING = 0x00280030
BITS_ALLOCATED = 0x00280100
BITS_STORED = 0x00280101
PIXEL_REPRESENTATION = 0x00280103
WINDOW_CENTER = 0x00281050
WINDOW_WIDTH = 0x00281051
RESCALE_INTERCEPT = 0x00281052
RESCALE_SLOPE = 0x00281053
RESCALE_TYPE = 0x00281054
MODALITY_LUT_SEQUENCE = 0x00283000
REAL_WORLD_VALUE_MAPPING_SEQUENCE = 0x00409096
UNITS = 0x00541001
GRID_FRAME_OFFSET_VECTOR = 0x3004000C
SHARED_FUNCTIONAL_GROUPS = 0x52009229
PER_FRAME_FUNCTIONAL_GROUPS = 0x52009230
PIXEL_DATA = 0x7FE00010

# What a result takes over from its source, with the VR it has in PS3.6: the Patient, General Study and
# Patient Study modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2), the plane (C.7.6.2) and the lossy history.
CARRIED_ON: dict[int, str] = {
    SPECIFIC_CHARACTER_SET: "CS",
    0x00080020: "DA",  # Study Date
    0x00080030: "TM",  # Study Time
    0x00080050: "SH",  # Accession Number
    0x00080090: "PN",  # Referring Physician's Name
    0x00080201: "SH",  # Timezone Offset From UTC
    0x00081030: "LO",  # Study Description
    0x00081048: "PN",  # Physician(s) of Record
    0x00081060: "PN",  # Name of Physician(s) Reading Study
    PATIENT_NAME: "PN",
    PATIENT_ID: "LO",
    ISSUER_OF_PATIENT_ID: "LO",
    PATIENT_BIRTH_DATE: "DA",
    0x00100032: "TM",  # Patient's Birth Time
    0x00100040: "CS",  # Patient's Sex
    0x00101001: "PN",  # Other Patient Names
    0x00101010: "AS",  # Patient's Age
    0x00101020: "DS",  # Patient's Size
    0x00101030: "DS",  # Patient's Weight
    0x00102160: "SH",  # Ethnic Group
    0x00104000: "LT",  # Patient Comments
    0x00120062: "CS",  # Patient Identity Removed
    0x00120063: "LO",  # De-identification Method
    STUDY_INSTANCE_UID: "UI",
    0x00200010: "SH",  # Study ID
    0x00200020: "CS",  # Patient Orientation
    0x00200060: "CS",  # Laterality
    0x00282110: "CS",  # Lossy Image Compression
    0x00282112: "DS",  # Lossy Image Compression Ratio
    0x00282114: "CS",  # Lossy Image Compression Method
}
FRAME_OF_REFERENCE_UID = 0x00200052
POSITION_REFERENCE_INDICATOR = 0x00201040

# The elements that reading and writing need; a parser may skip every other.
TAGS: list[int] = sorted(
    {
        *CARRIED_ON,
        DEIDENTIFICATION_CODES,
        IMAGE_TYPE,
        SOP_CLASS_UID,
        SOP_INSTANCE_UID,
        MODALITY,
        MANUFACTURER,
        SLICE_THICKNESS,
        SPACING_BETWEEN_SLICES,
        IMAGER_PIXEL_SPACING,
        NOMINAL_SCANNED_PIXEL_SPACING,
        SERIES_INSTANCE_UID,
        INSTANCE_NUMBER,
        IMAGE_POSITION,
        IMAGE_ORIENTATION,
        FRAME_OF_REFERENCE_UID,
        POSITION_REFERENCE_INDICATOR,
        SAMPLES_PER_PIXEL,
        PHOTOMETRIC_INTERPRETATION,
        0x00280006,  # Planar Configuration
        NUMBER_OF_FRAMES,
        ROWS,
        COLUMNS,
        PIXEL_SPACING,
        BITS_ALLOCATED,
        BITS_STORED,
        0x00280102,  # High Bit
        PIXEL_REPRESENTATION,
        WINDOW_CENTER,
        WINDOW_WIDTH,
        RESCALE_INTERCEPT,
        RESCALE_SLOPE,
        RESCALE_TYPE,
        *chain(range(0x00281101, 0x00281104), range(0x00281201, 0x00281204)),  # Palettes
        *range(0x00281221, 0x00281224),  # Segmented palettes
        MODALITY_LUT_SEQUENCE,
        REAL_WORLD_VALUE_MAPPING_SEQUENCE,
        UNITS,
        GRID_FRAME_OFFSET_VECTOR,
        SHARED_FUNCTIONAL_GROUPS,
        PER_FRAME_FUNCTIONAL_GROUPS,
        0x7FE00001,  # Extended Offset Table
        0x7FE00002,  # Extended Offset Table Lengths
        0x7FE00008,  # Float Pixel Data
        0x7FE00009,  # Double Float Pixel Data
        PIXEL_DATA,
    }
)


def raw(dataset: Dataset, tag: int) -> bytes:
    """The value of a text element in its encoded form, without padding; empty if it is absent."""
    element = dataset.get_item(tag, keep_deferred=True)
    if element is None:
        return b""
    if isinstance(element, RawDataElement):
        return (element.value or b"").strip(b" \0")
    values = element.value if element.VM > 1 else [element.value]
    encodings = convert_encodings(cast(Any, dataset.get("SpecificCharacterSet")))
    return b"\\".join(_encoded(value, encodings) for value in values).strip(b" \0")


def _encoded(value: object, encodings: list[str]) -> bytes:
    if isinstance(value, PersonName):
        return value.encode(encodings)
    return encode_string("" if value is None else str(value), encodings)


def text(dataset: Dataset, tag: int) -> str:
    """The value of an element whose characters are ASCII: UI, CS, DS, IS."""
    return raw(dataset, tag).decode("latin-1")


def numbers(dataset: Dataset, tag: int, count: int | None = None) -> tuple[float, ...] | None:
    """The finite values of a DS or IS element, or None if it is absent or does not have ``count``.

    Raises :class:`InputRejected` ``BAD_HEADER`` if they are not numbers.
    """
    value = raw(dataset, tag)
    if not value:
        return None
    try:
        found = tuple(float(part) for part in value.split(b"\\") if part.strip(b" \0"))
    except ValueError:
        raise bad(tag, "is not a number") from None
    if any(abs(number) > 1e30 or number != number for number in found):
        raise bad(tag, "is not a finite number")
    return found if count is None or len(found) == count else None


def number(dataset: Dataset, tag: int, default: float) -> float:
    """The first value of a DS or IS element, or ``default``."""
    found = numbers(dataset, tag)
    return found[0] if found else default


def unsigned(dataset: Dataset, tag: int, default: int | None = None) -> int:
    """The value of a US element, or ``default``; without one it must be there (``BAD_HEADER``)."""
    element = dataset.get_item(tag, keep_deferred=True)
    value = None if element is None else element.value
    if isinstance(element, RawDataElement) and isinstance(value, bytes):
        if len(value) not in (2, 4):
            raise bad(tag, "does not hold one number")
        return int.from_bytes(value, "little" if element.is_little_endian else "big")
    if isinstance(value, int):
        return value
    if default is None:
        raise bad(tag, "is missing")
    return default


def is_monochrome1(dataset: Dataset) -> bool:
    """Whether the lowest value is to be shown white (PS3.3 C.7.6.3.1.2)."""
    return raw(dataset, PHOTOMETRIC_INTERPRETATION) == b"MONOCHROME1"


def sop_instance_uid(dataset: Dataset) -> str:
    """The object's UID; some anonymizers leave it in the file meta information only. May be empty."""
    return text(dataset, SOP_INSTANCE_UID) or _from_file_meta(dataset, "MediaStorageSOPInstanceUID")


def sop_class_uid(dataset: Dataset) -> str:
    """The object's class; see :func:`sop_instance_uid`. May be empty."""
    return text(dataset, SOP_CLASS_UID) or _from_file_meta(dataset, "MediaStorageSOPClassUID")


def _from_file_meta(dataset: Dataset, keyword: str) -> str:
    file_meta = getattr(dataset, "file_meta", None)
    return str(file_meta.get(keyword) or "") if file_meta is not None else ""


def bad(tag: int, fault: str) -> InputRejected:
    """The error for an element whose value can't be used; it names the element, never the value."""
    name = keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
    return InputRejected("BAD_HEADER", f"The DICOM header can't be used: {name} {fault}; check the file's source.")


def functional_group(dataset: Dataset, macro: str, frame: int) -> Dataset | None:
    """The item of a functional group macro for ``frame`` (PS3.3 C.7.6.16): its own, else the shared one."""
    try:
        for tag, index in ((PER_FRAME_FUNCTIONAL_GROUPS, frame), (SHARED_FUNCTIONAL_GROUPS, 0)):
            if tag in dataset and len(dataset[tag].value) > index:
                found = dataset[tag].value[index].get(macro)
                if found:
                    item: Dataset = found[0]
                    return item
    except Exception as error:
        raise InputRejected(
            "BAD_HEADER", "The functional groups can't be read; check the file's source."
        ) from error
    return None
