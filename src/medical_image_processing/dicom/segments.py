"""The segments of a result: what a mask's values mean, in the codes of DICOM (PS3.3 C.8.20.2, PS3.16)."""

from __future__ import annotations

from dataclasses import dataclass

from medical_image_processing.dicom.image import Pixels

MOST_SEGMENTS = 255


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.3 8.8): value, coding scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str


TISSUE = Code("85756007", "SCT", "Tissue")
"""Category and type of what nobody has said more of: (CID 7150, CID 7166)."""
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
"""The family of an algorithm that doesn't name another (CID 7162)."""


@dataclass(frozen=True)
class Segment:
    """One segment; its number is its place among the others, from 1 on. ``label``: ASCII, up to 64 characters."""

    label: str
    category: Code = TISSUE
    type: Code = TISSUE


@dataclass(frozen=True)
class Segments:
    """All of a result. ``numbers``: for each pixel the number of its segment or 0; uint8, the image's shape."""

    numbers: Pixels
    described: tuple[Segment, ...]
    family: Code = ARTIFICIAL_INTELLIGENCE
