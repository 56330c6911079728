"""Results that are images: a validator accepts them, values come back, patient and study are the source's."""

from __future__ import annotations

import io
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom.dataset import Dataset
from sample_images import CT_SMALL, TEST_FILES, abdominal_ct

from medical_image_processing.dicom.grayscale_capture import write_grayscale_capture
from medical_image_processing.dicom.image import Image
from medical_image_processing.dicom.read import read_image, read_series
from medical_image_processing.errors import AlgorithmFailed, InputRejected
from medical_image_processing.processing.base import IMAGE_DTYPES, check_image, has_image


def image_named(name: str) -> Image:
    return read_series(abdominal_ct()) if name == "series" else read_image((TEST_FILES / name).read_bytes())


def noise(shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Values of the whole range; of float32 some that 16 bits can't hold exactly."""
    drawn = np.random.default_rng(5).random(shape)
    if dtype == "float32":
        return (drawn * 3.3 - 1.1).astype(np.float32)
    limits = np.iinfo(dtype)
    return (limits.min + drawn * (limits.max - limits.min)).round().astype(dtype)


def write(image: Image, values: npt.NDArray[Any]) -> bytes:
    return write_grayscale_capture(
        image,
        values,
        job_id="job-1",
        algo_id="grayscale_cpp",
        revision=3,
        series_description="grayscale_cpp image",
        made_at=datetime(2026, 11, 24, 10, 0),
    )


def written(image: Image, values: npt.NDArray[Any]) -> Dataset:
    return pydicom.dcmread(io.BytesIO(write(image, values)))


def shown(dataset: Dataset) -> npt.NDArray[Any]:
    """The values that the file stands for."""
    stored: npt.NDArray[Any] = dataset.pixel_array
    return stored * np.float64(dataset.RescaleSlope) + np.float64(dataset.RescaleIntercept)


@pytest.mark.needs("dciodvfy")
@pytest.mark.parametrize("dtype", IMAGE_DTYPES)
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "rtdose.dcm", "series"])
def test_a_validator_finds_no_error(name: str, dtype: str, tmp_path: Path) -> None:
    image = image_named(name)
    file = tmp_path / "result.dcm"
    file.write_bytes(write(image, noise(image.pixels.shape, dtype)))
    said = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, timeout=60)
    lines = (said.stdout + said.stderr).splitlines()
    assert any("SCImage" in line for line in lines), lines
    assert [line for line in lines if line.startswith("Error")] == []


@pytest.mark.parametrize("dtype", IMAGE_DTYPES)
@pytest.mark.parametrize("name", ["CT_small.dcm", "rtdose.dcm"])
def test_values_come_back(name: str, dtype: str) -> None:
    image = image_named(name)
    values = noise(image.pixels.shape, dtype)
    dataset = written(image, values)
    tolerance = float(dataset.RescaleSlope) * 0.51 if dtype == "float32" else 0
    np.testing.assert_allclose(shown(dataset), values, rtol=0, atol=tolerance)
    again = read_image(write(image, values))
    np.testing.assert_allclose(again.pixels, values, rtol=1e-5, atol=tolerance or 1e-5)
    assert again.spacing[1:] == pytest.approx(image.spacing[1:])


@given(arrays.arrays(np.float32, (4, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
@settings(deadline=None)
def test_fractions_of_any_range_come_back_to_16_bits(values: npt.NDArray[Any]) -> None:
    source = read_image(CT_SMALL)
    dataset = written(Image(values, source.spacing, None, "CT", source.sources), values)
    extent = float(np.ptp(values.astype(np.float64)))
    np.testing.assert_allclose(
        shown(dataset), values, rtol=1e-6, atol=extent / 65535 + 1e-6 * np.abs(values).max()
    )
    assert float(dataset.get("WindowWidth", 1)) > 0


def test_kinds_of_objects_are_the_standards() -> None:
    slice_, volume = image_named("CT_small.dcm"), image_named("rtdose.dcm")
    classes = {
        (image.is_volume, dtype): str(written(image, noise(image.pixels.shape, dtype)).SOPClassUID.name)
        for image in (slice_, volume)
        for dtype in ("uint8", "uint16")
    }
    assert classes == {
        (False, "uint8"): "Secondary Capture Image Storage",
        (False, "uint16"): "Secondary Capture Image Storage",
        (True, "uint8"): "Multi-frame Grayscale Byte Secondary Capture Image Storage",
        (True, "uint16"): "Multi-frame Grayscale Word Secondary Capture Image Storage",
    }


def test_patient_study_plane_and_sources_are_kept() -> None:
    source = pydicom.dcmread(io.BytesIO(CT_SMALL))
    image = read_image(CT_SMALL)
    result = written(image, image.pixels)
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "ImagePositionPatient", "PixelSpacing"):
        assert result[keyword].value == source[keyword].value, keyword
    assert result.SeriesInstanceUID != source.SeriesInstanceUID
    assert [item.ReferencedSOPInstanceUID for item in result.SourceImageSequence] == [source.SOPInstanceUID]
    assert "grayscale_cpp, revision 3" in result.DerivationDescription
    np.testing.assert_array_equal(shown(result), image.pixels)


def test_what_can_not_be_written_is_refused() -> None:
    image = read_image(CT_SMALL)
    with pytest.raises(ValueError, match="shape"):
        write(image, np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match="complex"):
        write(image, np.zeros(image.pixels.shape, np.complex64))
    long = Image(np.zeros((20_000, 1, 1), np.int16), image.spacing, None, "CT", image.sources)
    with pytest.raises(InputRejected, match="TOO_LARGE"):
        write(long, long.pixels)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((2, 2), np.int64), "not int64"),
        (np.zeros((2, 3), np.uint8), "shape"),
        (np.full((2, 2), np.nan, np.float32), "finite"),
        ([[1, 2], [3, 4]], "numpy array"),
    ],
)
def test_an_algorithms_image_is_checked(image: object, said: str) -> None:
    with pytest.raises(AlgorithmFailed, match=said):
        check_image({"image": image}, np.zeros((2, 2), np.int16))


def test_a_mask_goes_before_an_image() -> None:
    assert has_image({"image": 1}) and not has_image({"image": 1, "mask": 2}) and not has_image(None)
