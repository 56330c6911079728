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
from medical_image_processing.dicom.normal import Vector, along_normal

Pixels = npt.NDArray[Any]


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
    ``corners``: the centre of the first pixel of every slice, in mm; empty unless the headers say it of each and
    all lie in parallel, one behind the other.
    ``knows_spacing``: whether the headers say how far apart slices are, and rows and columns.
    ``frames``: where the slices of a multi-frame object were in its file, from 0 on; empty if as they are here.
    ``units``: what the values are, as the header or else the modality says; empty if nobody does.
    """

    pixels: Pixels
    spacing: tuple[float, float, float]
    orientation: tuple[float, ...] | None
    modality: str
    sources: tuple[Dataset, ...]
    origin: Vector | None = None
    directions: tuple[Vector, Vector, Vector] | None = None
    corners: tuple[Vector, ...] = ()
    knows_spacing: tuple[bool, bool] = (False, False)
    frames: tuple[int, ...] = ()
    units: str = ""

    @property
    def is_volume(self) -> bool:
        """Whether there is a slice axis."""
        return self.pixels.ndim == 3

    @property
    def is_shown_inverted(self) -> bool:
        """Whether low values are meant to be white, as in many radiographs (MONOCHROME1, PS3.3 C.7.6.3.1.2)."""
        return header.is_monochrome1(self.sources[0])

    @property
    def source_uids(self) -> tuple[str, ...]:
        """The SOP Instance UIDs of the files; those that have none are left out."""
        uids = (header.sop_instance_uid(source) for source in self.sources)
        return tuple(uid for uid in uids if uid)

    @property
    def is_placed(self) -> bool:
        """Whether it is known where in the patient every slice lies."""
        return self.directions is not None and len(self.corners) == len(as_slices(self.pixels))

    @property
    def gaps(self) -> tuple[int, ...]:
        """After which slices, counted from 0, some seem to be missing: the next is over half a slice too far."""
        steps = self.steps
        return (
            tuple(int(index) for index in np.flatnonzero(steps > 1.5 * self.spacing[0])) if len(steps) > 1 else ()
        )

    @property
    def steps(self) -> Pixels:
        """How far it is from each slice to the next along the normal, mm; empty unless it is known."""
        if not self.is_placed or self.orientation is None:
            return np.empty(0)
        steps: Pixels = np.abs(np.diff(along_normal(self.orientation, self.corners)))
        return steps

    def meta(self) -> dict[str, Any]:
        """What a Processor is told about the image, beside the caller's parameters."""
        return {
            "spacing": self.spacing,
            "modality": self.modality,
            "orientation": self.orientation,
            "origin": self.origin,
            "directions": self.directions,
            "corners": self.corners,
            "gaps": self.gaps,
            "units": self.units,
        }

    def slice_at(self, index: int) -> Pixels:
        """The slice ``index`` of a volume; of a slice, itself."""
        pixels: Pixels = self.pixels[index] if self.is_volume else self.pixels
        return pixels


def as_slices(array: Pixels) -> Pixels:
    """A view with a slice axis, which a single slice gets with length 1."""
    return array if array.ndim == 3 else array[np.newaxis]
