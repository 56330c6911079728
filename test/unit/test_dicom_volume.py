"""Series become volumes in place: one array, in the right order, where the patient lies."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from sample_images import CT_SMALL, TEST_FILES, abdominal_ct

from medical_image_processing.dicom.read import drain_series, read_image, read_series
from medical_image_processing.dicom.volume import reorder


def slices(count: int, *, step_mm: float = 2.5, **changes: Any) -> list[bytes]:
    """CT_small ``count`` times, ascending, each pixel raised by the slice's number."""
    files = []
    for index in range(count):
        dataset = pydicom.dcmread(io.BytesIO(CT_SMALL))
        dataset.ImagePositionPatient = [-10, -20, 100 + step_mm * index]
        dataset.SOPInstanceUID += f".{index}"
        dataset.PixelData = (dataset.pixel_array + np.int16(index)).tobytes()
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        file = io.BytesIO()
        dataset.save_as(file)
        files.append(file.getvalue())
    return files


class Allocations:
    """Arrays as a caller might hand them out, remembered."""

    def __init__(self) -> None:
        self.made: list[npt.NDArray[Any]] = []

    def __call__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        self.made.append(np.full(shape, 77, dtype))
        return self.made[-1]


def test_slices_are_decoded_into_the_array_that_was_asked_for() -> None:
    files = slices(7)
    shuffled = random.Random(3).sample(files, len(files))
    allocations = Allocations()
    image = read_series(shuffled, allocate=allocations)
    assert [array is image.pixels for array in allocations.made] == [True]
    np.testing.assert_array_equal(image.pixels, read_image(CT_SMALL).pixels + np.arange(7)[:, None, None])
    assert [source.ImagePositionPatient[2] for source in image.sources] == [100 + 2.5 * i for i in range(7)]


def test_a_slice_that_needs_fractions_makes_them_all_float() -> None:
    files = slices(5)
    files[3] = slices(5, RescaleSlope="0.5")[3]
    allocations = Allocations()
    image = read_series(files, allocate=allocations)
    assert image.pixels.dtype == np.float32 and image.pixels is allocations.made[-1]
    np.testing.assert_array_equal(image.pixels[2], read_image(files[2]).pixels)
    np.testing.assert_array_equal(image.pixels[3], read_image(files[3]).pixels)


def test_a_drained_series_is_the_same_and_its_files_are_let_go() -> None:
    files = slices(4)
    image = read_series(files)
    np.testing.assert_array_equal(drain_series(files).pixels, image.pixels)
    assert files == []


@given(st.permutations(range(9)))
def test_reordering_in_place_is_indexing(order: list[int]) -> None:
    volume = np.arange(9)[:, None, None] * np.ones((1, 2, 2))
    expected = volume[order].copy()
    reorder(volume, order)
    np.testing.assert_array_equal(volume, expected)


def test_a_series_knows_where_it_lies() -> None:
    image = read_series(slices(3))
    assert image.origin == (-10, -20, 100)
    row, column = (float(mm) for mm in pydicom.dcmread(io.BytesIO(CT_SMALL)).PixelSpacing)
    assert image.directions == ((0, 0, 2.5), (0, row, 0), (column, 0, 0))
    assert image.meta()["origin"] == image.origin


def test_a_real_series_lies_where_its_headers_say() -> None:
    image = read_series(abdominal_ct())
    assert image.origin is not None and image.directions is not None
    last = np.array(image.origin) + 19 * np.array(image.directions[0])
    np.testing.assert_allclose(last, [float(v) for v in image.sources[-1].ImagePositionPatient], atol=1e-3)


def with_frames(corners: list[list[float]]) -> bytes:
    """CT_small as an enhanced object with these frames (PS3.3 C.7.6.16)."""
    dataset = pydicom.dcmread(io.BytesIO(CT_SMALL))
    plane, measures = Dataset(), Dataset()
    plane.ImageOrientationPatient = dataset.ImageOrientationPatient
    measures.PixelSpacing = dataset.PixelSpacing
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for corner in corners:
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = corner
        group.PlanePositionSequence = [position]
        dataset.PerFrameFunctionalGroupsSequence.append(group)
    dataset.NumberOfFrames = len(corners)
    dataset.PixelData = dataset.PixelData * len(corners)
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


@pytest.mark.parametrize("step", [4.0, -4.0])
def test_frames_keep_their_order_and_step_as_they_lie(step: float) -> None:
    image = read_image(with_frames([[1, 2, 3 + step * index] for index in range(3)]))
    assert image.origin == (1, 2, 3)
    assert image.directions is not None and image.directions[0] == (0, 0, step)
    assert image.spacing[0] == 4


@pytest.mark.parametrize("orientation", [[0] * 6, [1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 2, 0]])
def test_cosines_that_are_no_right_angle_give_no_directions(orientation: list[float]) -> None:
    (file,) = slices(1, ImageOrientationPatient=orientation)
    assert read_image(file).directions is None


MEASURE = """
import io, os, sys, tracemalloc
from pathlib import Path
import numpy as np, pydicom
from medical_image_processing.dicom.read import drain_series
from medical_image_processing.worker.executable import Executable
from medical_image_processing.worker.native_processor import NativeProcessor

def large(index):
    dataset = pydicom.dcmread(sys.argv[1])
    dataset.Rows = dataset.Columns = 1024
    dataset.ImagePositionPatient = [0, 0, -index]
    dataset.PixelData = bytes(2 * 1024 * 1024)
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()

files = [large(index) for index in range(64)]
native = NativeProcessor(Executable(Path("/bin/cp"), time_limit_s=60, log=print), "image", env=os.environ)
tracemalloc.start()
if sys.argv[2] == "native":
    image = drain_series(files, allocate=native.allocate)
    result = native.run(image.pixels, image.meta())["image"]
    native.end_job()
    assert result.nbytes == image.pixels.nbytes
else:
    image = drain_series(files)
print(image.pixels.nbytes, tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.parametrize(("kind", "volumes"), [("python", 1.25), ("native", 0.25)])
def test_a_volume_is_held_once_while_its_files_go(kind: str, volumes: float, tmp_path: Path) -> None:
    """Peak memory beyond the encoded files: the volume and the slices under way, not it twice.

    For a native algorithm, which here copies its input, both volumes lie in its files alone.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(TEST_FILES / "CT_small.dcm"), kind],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    volume, peak = map(int, done.stdout.split())
    assert volume == 64 * 2**21
    assert peak < volumes * volume
    assert list(tmp_path.iterdir()) == []
