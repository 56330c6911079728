"""Which series of a study is processed, or shown, when nobody named one.

A study also holds what was made of its images: reports, presentation states, segmentations, and this platform's
own results, once they are stored. None of them is an input, however many there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pydicom.dataset import Dataset

from medical_image_processing.dicom import header
from medical_image_processing.dicom.derived import MANUFACTURER

_SEGMENTATIONS = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
"""Segmentation Storage and Label Map Segmentation Storage (PS3.4 B.5), which have pixels."""


def is_input(source: Dataset) -> bool:
    """Whether an object is an image that was not derived here.

    Ours are told by their Manufacturer (0008,0070), which an archive keeps; the Implementation Class UID it writes
    is its own.
    """
    if header.ROWS not in source or header.sop_class_uid(source) in _SEGMENTATIONS:
        return False
    return header.text(source, header.MANUFACTURER) != MANUFACTURER


def largest_series(headers: Sequence[Dataset]) -> list[int]:
    """The indices of the inputs in the series that has most of them; empty where none is an input.

    Of several such series it is the one whose UID comes first.
    """
    series: dict[str, list[int]] = defaultdict(list)
    for index, source in enumerate(headers):
        if is_input(source):
            series[header.text(source, header.SERIES_INSTANCE_UID)].append(index)
    return min(series.items(), key=lambda item: (-len(item[1]), item[0]), default=("", []))[1]
