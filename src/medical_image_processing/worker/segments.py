"""From what an algorithm returned to the segments of its result (CONTRACT.md, "A Python algorithm").

The segments are the values of ``labels`` if that is an array of whole numbers, else those of the mask. Their
names are in ``meta["segments"]``, a list of ``{"label", "category", "type"}`` whose n-th is the value n (or
``"value"``), or in ``labels`` as a dict from values to names. With one name or none, all of the mask that isn't
zero is one segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medical_image_processing.dicom.image import Pixels
from medical_image_processing.dicom.segments import (
    ARTIFICIAL_INTELLIGENCE,
    MOST_SEGMENTS,
    TISSUE,
    Code,
    Segment,
    Segments,
)
from medical_image_processing.processing.base import invalid_result

_LONGEST_LABEL = 64
_LONGEST_CODE = 16
_GREATEST_VALUE = 65535


def read_segments(result: Mapping[str, Any], mask: Pixels, *, algo_id: str) -> Segments:
    """The segments in ``result``, whose mask is ``mask``. AlgorithmFailed ``INVALID_RESULT``."""
    meta = result.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    family = _code(meta["algorithm_family"], "algorithm_family") if meta.get("algorithm_family") else None
    values, named = _label_values(result.get("labels"), mask)
    if meta.get("segments"):
        named = _described(meta["segments"])
    if values is mask and len(named) <= 1:
        segment = next(iter(named.values()), Segment(_label(algo_id)))
        numbers = mask if mask.dtype == np.uint8 and mask.max(initial=0) <= 1 else (mask != 0).view(np.uint8)
        return Segments(numbers, (segment,), family or ARTIFICIAL_INTELLIGENCE)
    numbers, segments = _numbered(values, named, algo_id)
    return Segments(numbers, segments, family or ARTIFICIAL_INTELLIGENCE)


def _label_values(labels: object, mask: Pixels) -> tuple[Pixels, dict[int, Segment]]:
    """The array whose values are the segments, and the names that ``labels`` gives them."""
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "iu":
        if labels.shape != mask.shape:
            raise invalid_result(f"'labels' must have the image's shape {mask.shape}, not {labels.shape}")
        if labels.size and (labels.min() < 0 or labels.max() > _GREATEST_VALUE):
            raise invalid_result(f"the values of 'labels' must lie between 0 and {_GREATEST_VALUE}")
        return labels, {}
    if isinstance(labels, Mapping):
        keys = {key: int(key) for key in labels if str(key).isdecimal() and 0 < int(key) <= _GREATEST_VALUE}
        return mask, {value: Segment(_label(labels[key])) for key, value in keys.items()}
    return mask, {}  # may be anything: the contract promises nothing of it


def _described(segments: object) -> dict[int, Segment]:
    if not isinstance(segments, Sequence) or not all(isinstance(item, Mapping) for item in segments):
        raise invalid_result("meta's 'segments' must be a list of dicts with 'label', 'category' and 'type'")
    found: dict[int, Segment] = {}
    for place, item in enumerate(segments, 1):
        value = item.get("value", place)
        if not isinstance(value, int) or not 0 < value <= _GREATEST_VALUE or value in found:
            raise invalid_result("the 'value' of a segment must be a whole number from 1 on, and its own")
        category, kind = item.get("category"), item.get("type")
        found[value] = Segment(
            _label(item.get("label") or f"segment {value}"),
            _code(category, "category") if category else TISSUE,
            _code(kind, "type") if kind else TISSUE,
        )
    return found


def _numbered(values: Pixels, named: dict[int, Segment], algo_id: str) -> tuple[Pixels, tuple[Segment, ...]]:
    """All that are named and all that occur, numbered from 1 without gaps, as Segmentations have them."""
    counts = np.bincount(values.ravel(), minlength=1)
    present = np.flatnonzero(counts[1:]) + 1
    every = sorted({*named, *map(int, present)})
    if not every:
        return np.zeros(values.shape, np.uint8), (Segment(_label(algo_id)),)
    if len(every) > MOST_SEGMENTS:
        raise invalid_result(f"it has {len(every)} segments, and a result may have {MOST_SEGMENTS}")
    table = np.zeros(max(every[-1] + 1, len(counts)), np.uint8)
    table[every] = np.arange(1, len(every) + 1)
    segments = tuple(named.get(value) or Segment(_label(f"{algo_id} {value}")) for value in every)
    return table[values], segments


def _code(said: object, name: str) -> Code:
    """``{"value", "scheme", "meaning"}`` or a list of the three."""
    parts = [said.get(key) for key in ("value", "scheme", "meaning")] if isinstance(said, Mapping) else said
    if not isinstance(parts, Sequence) or isinstance(parts, str) or len(parts) != 3:
        raise invalid_result(f"'{name}' of a segment must be a code: value, scheme and meaning")
    value, scheme, meaning = parts
    if not all(isinstance(part, str) and part.strip() and part.isascii() and "\\" not in part for part in parts):
        raise invalid_result(f"value, scheme and meaning of a '{name}' must be ASCII text")
    if max(len(value), len(scheme)) > _LONGEST_CODE or len(meaning) > _LONGEST_LABEL:
        raise invalid_result(f"a code's value and scheme have at most 16 characters, its meaning 64 ('{name}')")
    return Code(value, scheme, meaning)


def _label(said: object) -> str:
    """Text that any character set of a source can hold."""
    text = str(said).encode("ascii", "replace").decode().replace("\\", "/")
    printable = "".join(character for character in text if character.isprintable()).strip()
    return printable[:_LONGEST_LABEL].strip() or "segment"
