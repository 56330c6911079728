"""Results: a validator accepts them, the mask comes back, patient and study are the source's."""

from __future__ import annotations

import io
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from made_series import edited
from pydicom.dataset import Dataset
from sample_images import CT_SMALL, MR_SMALL, TEST_FILES, abdominal_ct

from medical_image_processing.dicom.picture import side_by_side_png, slice_png
from medical_image_processing.dicom.read import Image, read_image, read_series
from medical_image_processing.dicom.secondary_capture import made_uid, read_mask, write_secondary_capture
from medical_image_processing.errors import InputRejected


def image_named(name: str) -> Image:
    if name == "abdominal slice":
        return read_image(abdominal_ct()[9])
    if name == "abdominal series":
        return read_series(abdominal_ct())
    return read_image((TEST_FILES / name).read_bytes())


def speckled(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """A mask whose every kind of neighbourhood occurs."""
    return (np.random.default_rng(4).random(shape) > 0.6).astype(np.uint8)


def write(image: Image, mask: npt.NDArray[np.uint8], job_id: str = "job-1") -> bytes:
    return write_secondary_capture(
        image,
        mask,
        job_id=job_id,
        algo_id="processing_1",
        revision=3,
        series_description="processing_1: liver",
        made_at=datetime(2026, 11, 24, 10, 0),
        image_digest="sha256:" + "5a" * 32,
    )


def written(image: Image, mask: npt.NDArray[np.uint8]) -> Dataset:
    return pydicom.dcmread(io.BytesIO(write(image, mask)))


EVERY_KIND = [
    "CT_small.dcm",
    "MR_small.dcm",
    "abdominal slice",
    "abdominal series",
    "SC_rgb_rle_2frame.dcm",
    "examples_rgb_color.dcm",
    "rtdose.dcm",
]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is missing (Debian package dicom3tools)")
@pytest.mark.parametrize("name", EVERY_KIND)
def test_a_validator_finds_no_error(name: str, tmp_path: Path) -> None:
    image = image_named(name)
    file = tmp_path / "result.dcm"
    file.write_bytes(write(image, speckled(image.pixels.shape)))
    said = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, timeout=60)
    lines = (said.stdout + said.stderr).splitlines()
    assert any("SCImage" in line for line in lines), lines
    assert [line for line in lines if line.startswith("Error")] == []


@pytest.mark.parametrize("name", EVERY_KIND)
def test_the_mask_comes_back_exactly(name: str) -> None:
    image = image_named(name)
    mask = speckled(image.pixels.shape)
    np.testing.assert_array_equal(read_mask(written(image, mask * 200)), mask)
    np.testing.assert_array_equal(read_mask(written(image, np.zeros_like(mask))), np.zeros_like(mask))


def test_pydicom_shows_gray_outside_and_colour_inside() -> None:
    image = read_image(CT_SMALL)
    mask = np.zeros(image.pixels.shape, np.uint8)
    mask[20:80, 30:90] = 1
    dataset = written(image, mask)
    colours = pydicom.pixels.apply_color_lut(dataset.pixel_array, dataset) >> 8
    outside = colours[mask == 0]
    assert (outside == outside[:, :1]).all()
    assert (colours[mask == 1][:, 0] > colours[mask == 1][:, 2]).all()
    # Soft tissue, -160 to 240 HU: black below, white above, and rising in between.
    assert (colours[(mask == 0) & (image.pixels < -170)] == 0).all()
    assert (colours[(mask == 0) & (image.pixels > 250)] == 255).all()


def test_a_volume_shows_the_same_as_its_slices() -> None:
    volume = read_image((TEST_FILES / "rtdose.dcm").read_bytes())
    mask = speckled(volume.pixels.shape)
    dataset = written(volume, mask)
    assert dataset.pixel_array.shape == (15, 10, 10, 3)
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7.4"
    inside, outside = dataset.pixel_array[mask == 1], dataset.pixel_array[mask == 0]
    assert (outside == outside[:, :1]).all()
    assert (inside[:, 0] > inside[:, 2]).all()


def test_patient_and_study_are_those_of_the_source_and_the_rest_is_new() -> None:
    source = pydicom.dcmread(io.BytesIO(CT_SMALL))
    image = read_image(CT_SMALL)
    result = written(image, speckled(image.pixels.shape))
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientSex",
        "StudyInstanceUID",
        "StudyDate",
        "AccessionNumber",
    ):
        assert result[keyword].value == source[keyword].value, keyword
    assert result.SeriesInstanceUID != source.SeriesInstanceUID
    assert result.SOPInstanceUID != source.SOPInstanceUID
    assert result.SOPInstanceUID == result.file_meta.MediaStorageSOPInstanceUID
    assert result.ImagePositionPatient == source.ImagePositionPatient
    assert result.PixelSpacing == source.PixelSpacing
    assert result.ContentDate == "20261124"
    assert result.ManufacturerModelName == "processing_1"
    assert "revision 3" in result.SoftwareVersions
    (equipment,) = result.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeMeaning == "Processing Equipment"
    for said in (equipment.ContributionDescription, result.DerivationDescription):
        assert "revision 3" in said and "sha256:" + "5a" * 32 in said
    assert [item.ReferencedSOPInstanceUID for item in result.SourceImageSequence] == [source.SOPInstanceUID]


@pytest.mark.parametrize("name", ["chrH31.dcm", "chrGreek.dcm", "chrI2.dcm", "chrX1.dcm", "chrHbrw.dcm"])
def test_names_in_other_scripts_survive(name: str) -> None:
    path = TEST_FILES.parent / "charset_files" / name
    image = read_image(path.read_bytes())
    result = written(image, speckled(image.pixels.shape))
    assert str(result.PatientName) == str(pydicom.dcmread(path).PatientName)


def test_headers_that_pydicom_has_converted_are_written_the_same() -> None:
    path = TEST_FILES.parent / "charset_files" / "chrH31.dcm"
    untouched, touched = read_image(path.read_bytes()), read_image(path.read_bytes())
    for source in touched.sources:
        assert [element.value for element in source]
    mask = speckled(untouched.pixels.shape)
    assert write(untouched, mask) == write(touched, mask)


@pytest.mark.parametrize("name", ["MR_small_bigendian.dcm", "MR_small_implicit.dcm"])
def test_the_source_may_be_in_any_encoding(name: str) -> None:
    image = read_image((TEST_FILES / name).read_bytes())
    mask = speckled(image.pixels.shape)
    assert write(image, mask) == write(read_image(MR_SMALL), mask)


def test_every_slice_of_a_volume_is_named_as_a_source() -> None:
    image = read_series(abdominal_ct())
    result = written(image, np.zeros(image.pixels.shape, np.uint8))
    assert tuple(item.ReferencedSOPInstanceUID for item in result.SourceImageSequence) == image.source_uids
    assert len(set(image.source_uids)) == 20


def test_the_same_job_makes_the_same_uids_and_another_job_others() -> None:
    image = read_image(CT_SMALL)
    mask = speckled(image.pixels.shape)
    assert write(image, mask) == write(image, mask)
    first, second, other = (
        pydicom.dcmread(io.BytesIO(data))
        for data in (write(image, mask), write(image, mask, "job-2"), write(image, 1 - mask))
    )
    assert other.SOPInstanceUID != first.SOPInstanceUID and other.SeriesInstanceUID == first.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert pydicom.uid.UID(first.SOPInstanceUID).is_valid


def test_one_job_id_on_two_images_makes_two_series_and_instances_and_again_the_same() -> None:
    def uids(name: str) -> tuple[str, str]:
        image = image_named(name)
        result = written(image, np.zeros(image.pixels.shape, np.uint8))
        return str(result.SeriesInstanceUID), str(result.SOPInstanceUID)

    first, second = uids("CT_small.dcm"), uids("MR_small.dcm")
    assert len({*first, *second}) == 4
    assert uids("CT_small.dcm") == first


def test_made_uids_depend_on_where_one_part_ends() -> None:
    assert made_uid("a", "bc") != made_uid("ab", "c")
    assert len(made_uid("a")) <= 64


def test_a_source_without_uids_gets_a_valid_study() -> None:
    dataset = pydicom.dcmread(io.BytesIO(CT_SMALL))
    dataset.StudyInstanceUID = dataset.SOPInstanceUID = dataset.SOPClassUID = ""
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset)
    image = read_image(file.getvalue())
    result = written(image, speckled(image.pixels.shape))
    assert result.StudyInstanceUID.startswith("2.25.")
    assert result.SourceImageSequence[0].ReferencedSOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        write(read_image(CT_SMALL), np.zeros((2, 2), np.uint8))


def test_a_volume_that_no_object_can_hold_is_refused() -> None:
    image = read_image(CT_SMALL)
    long = Image(np.zeros((20_000, 1, 1), np.int16), image.spacing, None, "CT", image.sources)
    with pytest.raises(InputRejected) as raised:
        write(long, np.zeros(long.pixels.shape, np.uint8))
    assert raised.value.code == "TOO_LARGE"


@pytest.mark.parametrize("name", ["CT_small.dcm", "abdominal series"])
def test_the_picture_shows_original_and_result(name: str) -> None:
    import cv2

    image = image_named(name)
    mask = np.zeros(image.pixels.shape, np.uint8)
    mask[..., 30:90, 30:90] = 1
    png = side_by_side_png(image, written(image, mask))
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    middle = picture.shape[1] // 2
    coloured = np.ptp(picture[:500].astype(int), axis=2) > 20
    assert not coloured[:, : middle - 10].any()
    assert coloured[:, middle + 10 :].any()


@pytest.mark.parametrize(("photometric", "shown"), [("MONOCHROME2", "white"), ("MONOCHROME1", "black")])
@pytest.mark.parametrize("modality", ["CT", "DX"])
def test_the_highest_value_is_shown_as_the_header_wants_it(photometric: str, shown: str, modality: str) -> None:
    image = read_image(edited(CT_SMALL, PhotometricInterpretation=photometric, Modality=modality))
    highest, lowest = (
        np.unravel_index(at, image.pixels.shape) for at in (image.pixels.argmax(), image.pixels.argmin())
    )
    index = np.frombuffer(written(image, np.zeros(image.pixels.shape, np.uint8)).PixelData, np.uint8)
    index = index[: image.pixels.size].reshape(image.pixels.shape)
    expected = (127, 0) if shown == "white" else (0, 127)
    assert (index[highest], index[lowest]) == expected
    picture = cv2.imdecode(np.frombuffer(slice_png(image), np.uint8), cv2.IMREAD_GRAYSCALE)
    small = cv2.resize(picture, image.pixels.shape[::-1], interpolation=cv2.INTER_AREA).astype(int)
    bright, dark = image.pixels > np.percentile(image.pixels, 99), image.pixels < np.percentile(image.pixels, 5)
    assert (small[bright].mean() > small[dark].mean()) == (shown == "white")
