"""From stored values to what they mean: modality units, HU for CT (PS3.3 C.11.1)."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut

from medical_image_processing.dicom import header
from medical_image_processing.dicom.image import Pixels

_UNSPECIFIED = "US"
_GREATEST = 1e30


def to_modality_units(stored: Pixels, dataset: Dataset) -> Pixels:
    """Stored values (frames, rows, columns) through the Modality LUT or rescale (PS3.3 C.11.1).

    Where the object has neither, through its real world value mapping (C.7.6.16.2.11), as parametric maps do.
    """
    mappings = _real_world_mappings(dataset, len(stored))
    if mappings:
        return _mapped(stored, mappings)
    if header.MODALITY_LUT_SEQUENCE in dataset:
        try:
            return narrowed(apply_modality_lut(stored, dataset), 1.0, 0.0)
        except Exception as error:
            raise header.bad(header.MODALITY_LUT_SEQUENCE, "is broken") from error
    slopes, intercepts = rescales(dataset, len(stored))
    if len(set(slopes)) == 1 and len(set(intercepts)) == 1:
        return narrowed(stored, slopes[0], intercepts[0])
    scaled = stored.astype(np.float32)
    scaled *= np.array(slopes, np.float32)[:, np.newaxis, np.newaxis]
    scaled += np.array(intercepts, np.float32)[:, np.newaxis, np.newaxis]
    return scaled


def units_of(dataset: Dataset) -> str:
    """What the modality units are: as the header says (PS3.3 C.11.1.1.2, C.8.9.1), HU for CT, else empty."""
    group = header.functional_group(dataset, "PixelValueTransformationSequence", 0) or dataset
    stated = header.text(group, header.RESCALE_TYPE)
    if stated and stated != _UNSPECIFIED:
        return stated
    if mappings := _real_world_mappings(dataset, 1):
        return str(_first_code_value(mappings[0]))
    if header.text(dataset, header.MODALITY) == "CT":
        return "HU"
    return header.text(dataset, header.UNITS)


def _first_code_value(mapping: Dataset) -> str:
    units = mapping.get("MeasurementUnitsCodeSequence") or [Dataset()]
    return str(units[0].get("CodeValue") or "")[:16]


def _real_world_mappings(dataset: Dataset, frames: int) -> list[Dataset]:
    """The mapping of each frame, where it is the only thing that gives stored values a meaning; else none."""
    if header.RESCALE_SLOPE in dataset or header.MODALITY_LUT_SEQUENCE in dataset:
        return []
    if header.functional_group(dataset, "PixelValueTransformationSequence", 0) is not None:
        return []
    found = [header.functional_group(dataset, "RealWorldValueMappingSequence", frame) for frame in range(frames)]
    if not any(found) and header.REAL_WORLD_VALUE_MAPPING_SEQUENCE in dataset:
        try:
            found = [dataset[header.REAL_WORLD_VALUE_MAPPING_SEQUENCE].value[0]] * frames
        except Exception as error:
            raise header.bad(header.REAL_WORLD_VALUE_MAPPING_SEQUENCE, "is broken") from error
    mappings = [mapping for mapping in found if mapping is not None]
    return mappings if len(mappings) == frames else []


def _mapped(stored: Pixels, mappings: list[Dataset]) -> Pixels:
    """Through a linear mapping or a table, which may be another one for each frame."""
    try:
        if all(mapping is mappings[0] for mapping in mappings) and "RealWorldValueLUTData" not in mappings[0]:
            return narrowed(stored, *_line(mappings[0]))
        values = np.empty(stored.shape, np.float32)
        for frame, mapping in enumerate(mappings):
            if "RealWorldValueLUTData" in mapping:
                table = np.array(mapping.RealWorldValueLUTData, np.float32)
                place = stored[frame].astype(np.int64) - int(mapping.RealWorldValueFirstValueMapped)
                values[frame] = table[np.clip(place, 0, len(table) - 1)]
            else:
                slope, intercept = _line(mapping)
                values[frame] = stored[frame] * slope + intercept
        return values
    except Exception as error:
        raise header.bad(header.REAL_WORLD_VALUE_MAPPING_SEQUENCE, "can't be applied") from error


def _line(mapping: Dataset) -> tuple[float, float]:
    slope, intercept = float(mapping.RealWorldValueSlope), float(mapping.RealWorldValueIntercept)
    if not (abs(slope) < _GREATEST and abs(intercept) < _GREATEST):
        raise ValueError("not a finite number")
    return slope, intercept


def narrowed(stored: Pixels, slope: float, intercept: float) -> Pixels:
    """``stored * slope + intercept`` as int16 when that is exact, else as float32."""
    if _fit_short(stored, slope, intercept):
        # 16-bit arithmetic wraps, so whatever fits in the end is exact however it got there.
        values = stored.view(np.int16) if stored.dtype.itemsize == 2 else stored.astype(np.int16)
        if slope != 1:
            values = values * np.int16(_wrapped(int(slope)))
        return values + np.int16(_wrapped(int(intercept)))
    scaled: Pixels = stored.astype(np.float32)
    if slope != 1:
        scaled *= np.float32(slope)
    if intercept != 0:
        scaled += np.float32(intercept)
    return scaled


def _fit_short(stored: Pixels, slope: float, intercept: float) -> bool:
    if stored.dtype.kind not in "iu" or not (slope.is_integer() and intercept.is_integer()):
        return False
    ends = [int(stored_end) * int(slope) + int(intercept) for stored_end in (stored.min(), stored.max())]
    return min(ends) >= -32768 and max(ends) <= 32767


def stay_short(stored: Pixels, dataset: Dataset) -> bool:
    """Whether the values will be int16 in modality units; a table's or a mapping's are taken for float32."""
    if header.MODALITY_LUT_SEQUENCE in dataset or _real_world_mappings(dataset, 1):
        return False
    slopes, intercepts = rescales(dataset, len(stored))
    is_one = len(set(slopes)) == 1 and len(set(intercepts)) == 1
    return is_one and _fit_short(stored, slopes[0], intercepts[0])


def _wrapped(number: int) -> int:
    return (number + 32768) % 65536 - 32768


def rescales(dataset: Dataset, frames: int) -> tuple[list[float], list[float]]:
    """Slope and intercept of every frame, from the functional groups of enhanced objects if they are there."""
    slope = header.number(dataset, header.RESCALE_SLOPE, 1.0)
    intercept = header.number(dataset, header.RESCALE_INTERCEPT, 0.0)
    groups = [
        header.functional_group(dataset, "PixelValueTransformationSequence", frame) for frame in range(frames)
    ]
    return (
        [slope if group is None else header.number(group, header.RESCALE_SLOPE, 1.0) for group in groups],
        [intercept if group is None else header.number(group, header.RESCALE_INTERCEPT, 0.0) for group in groups],
    )
