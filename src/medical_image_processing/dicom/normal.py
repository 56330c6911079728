"""The normal of a plane, and how far places lie along it."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = tuple[float, float, float]
"""In the patient's coordinates (PS3.3 C.7.6.2.1.1): x to the left, y to the back, z to the head."""
Orientation = tuple[float, ...]
"""The direction cosines of the rows, then of the columns."""

_SHORTEST = 1e-6


def normal_of(orientation: Orientation) -> Vector | None:
    """The unit normal: where slices go if they are stacked in the patient's way. None if the cosines have none."""
    a, b, c, d, e, f = orientation
    x, y, z = b * f - c * e, c * d - a * f, a * e - b * d
    length = math.sqrt(x * x + y * y + z * z)
    return (x / length, y / length, z / length) if length > _SHORTEST else None


def along_normal(orientation: Orientation, corners: Sequence[Vector]) -> list[float]:
    """How far ``corners`` lie along the normal, in mm, whatever length the stated cosines have."""
    x, y, z = normal_of(orientation) or (0.0, 0.0, 0.0)
    return [x * right + y * back + z * up for right, back, up in corners]
