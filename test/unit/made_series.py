"""Series made for the tests: small CT images that lie wherever a test wants them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from sample_images import CT_SMALL

Pixels = npt.NDArray[Any]
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


@dataclass(frozen=True)
class Lie:
    """Where a series lies: ``positions`` along the normal, mm, in the order of the files."""

    orientation: tuple[float, ...] = AXIAL
    positions: tuple[float, ...] = (0.0, 2.5, 5.0, 7.5)
    corner: tuple[float, float, float] = (-12.5, 30.0, 101.25)
    spacing: tuple[float, float] = (0.7, 0.9)

    @property
    def normal(self) -> Pixels:
        return np.cross(self.orientation[:3], self.orientation[3:])


def text(number: float) -> str:
    """A decimal string as scanners write them."""
    return f"{number:.10f}"[:16]


def stored_values(slices: int, rows: int = 6, columns: int = 9, seed: int = 7) -> Pixels:
    """Stored values, none of them like its neighbours in any systematic way."""
    return np.random.default_rng(seed).integers(0, 2000, (slices, rows, columns)).astype(np.int16)


def series_files(lie: Lie, values: Pixels | None = None, **changes: Any) -> list[bytes]:
    """One file for each position, numbered in the order given."""
    stored = stored_values(len(lie.positions)) if values is None else values
    files = []
    for index, height in enumerate(lie.positions):
        dataset = pydicom.dcmread(io.BytesIO(CT_SMALL))
        dataset.Rows, dataset.Columns = stored.shape[1:]
        dataset.ImageOrientationPatient = [text(cosine) for cosine in lie.orientation]
        dataset.ImagePositionPatient = [text(mm) for mm in np.array(lie.corner) + height * lie.normal]
        dataset.PixelSpacing = [text(mm) for mm in lie.spacing]
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.{index + 1}"
        dataset.InstanceNumber = str(index + 1)
        del dataset.DataSetTrailingPadding
        dataset.PixelData = stored[index].tobytes()
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        files.append(saved(dataset))
    return files


def edited(data: bytes, **values: Any) -> bytes:
    """``data`` with elements set by keyword."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return saved(dataset)


def saved(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def group(**values: Any) -> list[Dataset]:
    """A sequence of one item."""
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return [item]


def enhanced_ct(corners: Sequence[Sequence[float]], values: Pixels, lie: Lie, **changes: Any) -> bytes:
    """An Enhanced CT (PS3.3 A.38) of these frames, as far as geometry and values go."""
    dataset = pydicom.dcmread(io.BytesIO(CT_SMALL))
    for keyword in ("RescaleSlope", "RescaleIntercept", "PixelSpacing", "SliceThickness"):
        delattr(dataset, keyword)
    del dataset.ImageOrientationPatient, dataset.ImagePositionPatient
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedCTImageStorage
    dataset.NumberOfFrames, (dataset.Rows, dataset.Columns) = len(values), values.shape[1:]
    dataset.SharedFunctionalGroupsSequence = group(
        PixelMeasuresSequence=group(PixelSpacing=[text(mm) for mm in lie.spacing], SliceThickness="2.5"),
        PlaneOrientationSequence=group(ImageOrientationPatient=[text(cosine) for cosine in lie.orientation]),
        PixelValueTransformationSequence=group(RescaleSlope="1", RescaleIntercept="-1024", RescaleType="HU"),
    )
    dataset.PerFrameFunctionalGroupsSequence = [
        group(PlanePositionSequence=group(ImagePositionPatient=[text(mm) for mm in corner]))[0]
        for corner in corners
    ]
    dataset.PixelData = values.tobytes()
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return saved(dataset)


def points_where_set(dataset: Dataset, inside: Pixels, orientation: Any, corner: Any, spacing: Any) -> list[Any]:
    """(n, 3): where in the patient the pixels of one plane lie that are ``inside`` (PS3.3 C.7.6.2.1.1)."""
    rows, columns = np.nonzero(inside)
    cosines, start = np.array([float(v) for v in orientation]), np.array([float(v) for v in corner])
    down, right = (float(v) for v in spacing)
    return [
        start + column * right * cosines[:3] + row * down * cosines[3:]
        for row, column in zip(rows, columns, strict=True)
    ]
