"""An image as the algorithms see it, and the headers that the result must carry on.

:func:`~medical_image_processing.dicom.read.read_image` makes one; the writers take one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medical_image_processing.dicom import header

Pixels = npt.NDArray[Any]
Vector = tuple[float, float, float]
"""In the patient's coordinates (PS3.3 C.7.6.2.1.1): x to the left, y to the back, z to the head."""


@dataclass(frozen=True)
class Image:
    """A slice or a volume.

    ``pixels``: (rows, columns) or (slices, rows, columns) in modality units (HU for CT): int16 where that
    is exact, else float32. A series is sorted along the normal of its planes; the frames of a multi-frame
    object keep their order.
    ``spacing``: mm between slices, rows and columns; 1.0 where the headers don't say.
    ``orientation``: the six direction cosines of rows and columns (PS3.3 C.7.6.2.1.1), or None.
    ``origin``: the centre of the first pixel of the first slice, in mm (PS3.3 C.7.6.2.1.1), or None.
    ``directions``: how far it is from a slice, a row and a column to the next, three vectors in mm, or None.
    ``sources``: one header per file in the order of the slices, with the elements named in
    :data:`~medical_image_processing.dicom.header.TAGS` and without pixel data.
    """

    pixels: Pixels
    spacing: tuple[float, float, float]
    orientation: tuple[float, ...] | None
    modality: str
    sources: tuple[Dataset, ...]
    origin: Vector | None = None
    directions: tuple[Vector, Vector, Vector] | None = None

    @property
    def is_volume(self) -> bool:
        """Whether there is a slice axis."""
        return self.pixels.ndim == 3

    @property
    def source_uids(self) -> tuple[str, ...]:
        """The SOP Instance UIDs of the files; those that have none are left out."""
        uids = (header.sop_instance_uid(source) for source in self.sources)
        return tuple(uid for uid in uids if uid)

    def meta(self) -> dict[str, Any]:
        """What a Processor is told about the image, beside the caller's parameters."""
        return {
            "spacing": self.spacing,
            "modality": self.modality,
            "orientation": self.orientation,
            "origin": self.origin,
            "directions": self.directions,
        }

    def slice_at(self, index: int) -> Pixels:
        """The slice ``index`` of a volume; of a slice, itself."""
        pixels: Pixels = self.pixels[index] if self.is_volume else self.pixels
        return pixels


def as_slices(array: Pixels) -> Pixels:
    """A view with a slice axis, which a single slice gets with length 1."""
    return array if array.ndim == 3 else array[np.newaxis]
