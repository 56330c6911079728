"""Segmentations lie over their source, voxel for voxel, and say what they are; a validator accepts them."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as simpleitk
from hypothesis import given, settings
from hypothesis import strategies as st
from made_series import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Lie,
    Pixels,
    edited,
    enhanced_ct,
    points_where_set,
    series_files,
    stored_values,
)
from pydicom.dataset import Dataset
from sample_images import CT_SMALL, MR_SMALL, TEST_FILES, abdominal_ct, abdominal_liver

from medical_image_processing.dicom.derived import Making
from medical_image_processing.dicom.image import Image
from medical_image_processing.dicom.read import read_image, read_series
from medical_image_processing.dicom.segmentation import write_segmentation
from medical_image_processing.dicom.segments import Code, Segment, Segments
from medical_image_processing.errors import InputRejected

DIGEST = "sha256:" + "5a" * 32
LIVER = Segment("liver", Code("123037004", "SCT", "Anatomical Structure"), Code("10200004", "SCT", "Liver"))
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, -0.8)
HEIGHT_HU = 0
BESIDE = str(Path(sys.executable).parent)


def making(job_id: str = "job-1", **changes: Any) -> Making:
    said = {
        "algo_id": "processing_1",
        "revision": 3,
        "series_description": "processing_1 segmentation, research use only",
        "made_at": datetime(2026, 11, 24, 10, 0),
        "image_digest": DIGEST,
    }
    return Making(job_id, **(said | changes))


def one_segment(image: Image) -> Segments:
    return Segments((image.pixels > HEIGHT_HU).astype(np.uint8), (LIVER,))


def written(image: Image, segments: Segments | None = None, **changes: Any) -> Dataset:
    data = write_segmentation(image, segments or one_segment(image), making(**changes))
    return pydicom.dcmread(io.BytesIO(data))


def frames_of(seg: Dataset) -> Pixels:
    """The frames' pixels, read without any library's help (PS3.5 8.1.1: bits follow each other, lowest first)."""
    frames, rows, columns = int(seg.NumberOfFrames), seg.Rows, seg.Columns
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    return bits[: frames * rows * columns].reshape(frames, rows, columns)


def points_in(seg: Dataset, segment: int) -> Pixels:
    """Where in the patient the voxels of a segment lie, read from the functional groups alone, sorted."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    found: list[Any] = []
    for groups, frame in zip(seg.PerFrameFunctionalGroupsSequence, frames_of(seg), strict=True):
        identification = (
            groups if "SegmentIdentificationSequence" in groups else shared
        ).SegmentIdentificationSequence
        if identification[0].ReferencedSegmentNumber == segment:
            corner = groups.PlanePositionSequence[0].ImagePositionPatient
            found += points_where_set(seg, frame, orientation, corner, spacing)
    return in_order(found)


def points_above(files: list[bytes], hu: int) -> Pixels:
    """Where the voxels above ``hu`` lie, read from the CT's own files, sorted."""
    found: list[Any] = []
    for data in files:
        ct = pydicom.dcmread(io.BytesIO(data))
        inside = ct.pixel_array * float(ct.RescaleSlope) + float(ct.RescaleIntercept) > hu
        found += points_where_set(ct, inside, ct.ImageOrientationPatient, ct.ImagePositionPatient, ct.PixelSpacing)
    return in_order(found)


def in_order(points: list[Any]) -> Pixels:
    rounded = np.round(np.array(points).reshape(-1, 3), 3) + 0.0
    return rounded[np.lexsort(rounded.T)]


def lies_over(files: list[bytes]) -> Dataset:
    seg = written(read_series(files))
    np.testing.assert_allclose(points_in(seg, 1), points_above(files, HEIGHT_HU), atol=2e-3)
    return seg


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE])
@pytest.mark.parametrize(
    "positions", [(0.0, 2.5, 5.0, 7.5), (7.5, 5.0, 2.5, 0.0), (5.0, 0.0, 7.5, 2.5), (0.0, 2.5, 10.0, 12.5)]
)
def test_it_lies_over_its_source(orientation: tuple[float, ...], positions: tuple[float, ...]) -> None:
    lies_over(series_files(Lie(orientation, positions)))


@st.composite
def lies(draw: st.DrawFn) -> Lie:
    """Any rotation, spacing and order of slices, with gaps."""
    quaternion = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 4)))
    length = np.linalg.norm(quaternion)
    w, x, y, z = quaternion / length if length > 0.1 else (1.0, 0.0, 0.0, 0.0)
    right = (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y))
    down = (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x))
    step = draw(st.floats(0.3, 8))
    places = draw(st.lists(st.integers(-20, 20), min_size=2, max_size=5, unique=True))
    return Lie(
        tuple(map(float, (*right, *down))),
        tuple(place * step for place in places),
        draw(st.tuples(*[st.floats(-300, 300)] * 3)),
        draw(st.tuples(st.floats(0.2, 4), st.floats(0.2, 4))),
    )


@settings(max_examples=25, deadline=None)
@given(lies())
def test_it_lies_over_its_source_wherever_that_lies(lie: Lie) -> None:
    lies_over(series_files(lie, stored_values(len(lie.positions), 3, 4)))


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE])
def test_highdicom_reads_it_back_on_the_grid_of_its_source(orientation: tuple[float, ...]) -> None:
    files = series_files(Lie(orientation, (5.0, 0.0, 7.5, 2.5)))
    data = write_segmentation(image := read_series(files), one_segment(image), making())
    check_grid(data, files)


def test_the_segmentation_of_a_real_series_lies_over_it() -> None:
    files = abdominal_ct()
    image = read_series(files)
    liver = abdominal_liver().astype(np.uint8)
    liver[:3] = liver[11] = 0
    data = write_segmentation(image, Segments(liver, (LIVER,)), making())
    seg = highdicom.seg.segread(io.BytesIO(data))
    volume = seg.get_volume(combine_segments=True, allow_missing_positions=True)
    source = highdicom.get_volume_from_series([pydicom.dcmread(io.BytesIO(file)) for file in files])
    matched = volume.match_geometry(source)
    heights = np.array(image.corners)[:, 2]
    order = [int(np.abs(heights - (source.affine @ [index, 0, 0, 1])[2]).argmin()) for index in range(20)]
    np.testing.assert_array_equal(matched.array, liver[order])
    assert seg.NumberOfFrames == 16


@pytest.mark.skipif(
    shutil.which("segimage2itkimage", path=BESIDE) is None, reason="dcmqi has no wheel for this machine"
)
@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE])
def test_dcmqi_and_simpleitk_read_it_where_the_source_lies(orientation: tuple[float, ...], tmp_path: Path) -> None:
    """dcmqi stands on dcmtk and ITK, and shares nothing with highdicom and pydicom."""
    files = series_files(Lie(orientation, (5.0, 0.0, 7.5, 2.5)))
    (tmp_path / "seg.dcm").write_bytes(
        write_segmentation(image := read_series(files), one_segment(image), making())
    )
    command = [shutil.which("segimage2itkimage", path=BESIDE) or "", "--inputDICOM", "seg.dcm"]
    subprocess.run(
        [*command, "--outputDirectory", ".", "--outputType", "nrrd"], cwd=tmp_path, check=True, capture_output=True
    )
    found = simpleitk.ReadImage(str(tmp_path / "1.nrrd"))
    where_set = np.argwhere(simpleitk.GetArrayFromImage(found))
    points = [found.TransformIndexToPhysicalPoint([int(x), int(y), int(z)]) for z, y, x in where_set]
    np.testing.assert_allclose(in_order(points), points_above(files, HEIGHT_HU), atol=2e-3)


def check_grid(data: bytes, files: list[bytes]) -> None:
    seg = highdicom.seg.segread(io.BytesIO(data))
    source = highdicom.get_volume_from_series([pydicom.dcmread(io.BytesIO(file)) for file in files])
    matched = seg.get_volume(combine_segments=True, allow_missing_positions=True).match_geometry(source)
    np.testing.assert_array_equal(matched.array, source.array > HEIGHT_HU)


def test_each_frame_names_the_image_it_was_drawn_on() -> None:
    files = series_files(Lie(positions=(5.0, 0.0, 7.5, 2.5)))
    heights = {pydicom.dcmread(io.BytesIO(file)).SOPInstanceUID: file for file in files}
    seg = written(read_series(files))
    for groups in seg.PerFrameFunctionalGroupsSequence:
        derivation = groups.DerivationImageSequence[0]
        assert derivation.DerivationCodeSequence[0].CodeMeaning == "Segmentation"
        (source,) = derivation.SourceImageSequence
        ct = pydicom.dcmread(io.BytesIO(heights[source.ReferencedSOPInstanceUID]))
        assert [float(v) for v in ct.ImagePositionPatient] == pytest.approx(
            [float(v) for v in groups.PlanePositionSequence[0].ImagePositionPatient], abs=1e-6
        )
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == pydicom.dcmread(io.BytesIO(files[0])).SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == set(heights)


def test_frames_of_an_enhanced_object_are_found_again_whatever_their_order() -> None:
    lie, values = Lie(OBLIQUE), stored_values(4)
    corners = [np.array(lie.corner) + height * lie.normal for height in (5.0, 0.0, 7.5, 2.5)]
    data = enhanced_ct(corners, values, lie)
    image = read_image(data)
    np.testing.assert_array_equal(image.pixels, values[[1, 3, 0, 2]] - 1024)
    seg = written(image)
    expected: list[Any] = []
    for corner, frame in zip(corners, values, strict=True):
        expected += points_where_set(seg, frame - 1024 > HEIGHT_HU, lie.orientation, corner, lie.spacing)
    np.testing.assert_allclose(points_in(seg, 1), in_order(expected), atol=2e-3)
    for groups, pixels in zip(seg.PerFrameFunctionalGroupsSequence, frames_of(seg), strict=True):
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        np.testing.assert_array_equal(pixels, values[source.ReferencedFrameNumber - 1] - 1024 > HEIGHT_HU)


def test_several_segments_keep_their_voxels_and_names() -> None:
    image = read_series(series_files(Lie()))
    numbers = np.digitize(image.pixels, (-500, 0, 500)).astype(np.uint8)
    names = tuple(Segment(name) for name in ("low", "middle", "high"))
    seg = written(image, Segments(numbers, names))
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["low", "middle", "high"]
    for number in (1, 2, 3):
        alone = written(image, Segments((numbers == number).astype(np.uint8), (LIVER,)))
        np.testing.assert_array_equal(points_in(seg, number), points_in(alone, 1))


def test_what_made_it_and_what_it_is_are_in_codes() -> None:
    seg = written(read_series(series_files(Lie())))
    assert (seg.SegmentationType, seg.Modality, seg.ContentDate) == ("BINARY", "SEG", "20261124")
    (segment,) = seg.SegmentSequence
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "123037004"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Liver"
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("processing_1", "3")
    assert DIGEST in algorithm.AlgorithmParameters
    (equipment,) = seg.ContributingEquipmentSequence
    assert DIGEST in equipment.ContributionDescription and "revision 3" in equipment.ContributionDescription


def test_patient_and_study_are_the_sources_byte_for_byte() -> None:
    for name in ("chrH31.dcm", "chrX1.dcm", "chrGreek.dcm"):
        path = TEST_FILES.parent / "charset_files" / name
        source = pydicom.dcmread(path)
        source.SeriesInstanceUID, source.SOPClassUID = "1.2.3.4", pydicom.uid.SecondaryCaptureImageStorage
        file = io.BytesIO()
        source.save_as(file)
        seg = written(
            image := read_image(file.getvalue()), Segments(np.ones(image.pixels.shape, np.uint8), (LIVER,))
        )
        for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "SpecificCharacterSet"):
            assert str(seg[keyword].value) == str(source[keyword].value), (name, keyword)


def test_the_same_job_makes_the_same_bytes_and_other_content_another_instance() -> None:
    image = read_series(series_files(Lie()))
    same = [write_segmentation(image, one_segment(image), making()) for _ in range(2)]
    assert same[0] == same[1]
    numbers = one_segment(image).numbers.copy()
    numbers[0, 0, 0] ^= 1
    changed = (
        written(image, Segments(numbers, (LIVER,))),
        written(image, revision=4),
        written(image, job_id="j2"),
    )
    uids = {pydicom.dcmread(io.BytesIO(same[0])).SOPInstanceUID, *(seg.SOPInstanceUID for seg in changed)}
    assert len(uids) == 4


def test_an_empty_mask_is_a_segmentation_of_nothing() -> None:
    image = read_series(series_files(Lie()))
    seg = written(image, Segments(np.zeros(image.pixels.shape, np.uint8), (LIVER,)))
    assert not frames_of(seg).any()


def test_a_plain_radiograph_needs_no_place_in_the_patient() -> None:
    image = read_image((TEST_FILES / "dicomdirtests" / "77654033" / "CR1" / "6154").read_bytes())
    seg = written(image, Segments((image.pixels > 500).astype(np.uint8), (LIVER,)))
    np.testing.assert_array_equal(frames_of(seg)[0], image.pixels > 500)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ((TEST_FILES / "examples_ybr_color.dcm").read_bytes(), "NO_GEOMETRY"),
        (edited(CT_SMALL, SeriesInstanceUID=""), "NO_IDENTITY"),
        (edited(CT_SMALL, SOPClassUID="1.2.3.4"), "NOT_SEGMENTABLE"),
    ],
    ids=["cine", "no series", "private class"],
)
def test_a_source_that_can_not_be_referred_to_is_refused(data: bytes, code: str) -> None:
    image = read_image(data)
    with pytest.raises(InputRejected) as raised:
        write_segmentation(image, one_segment(image), making())
    assert raised.value.code == code


VALID = {
    "CT_small": lambda: read_image(CT_SMALL),
    "MR_small": lambda: read_image(MR_SMALL),
    "abdominal": lambda: read_series(abdominal_ct()),
    "sagittal": lambda: read_series(series_files(Lie(SAGITTAL))),
    "with a gap": lambda: read_series(series_files(Lie(OBLIQUE, (0.0, 2.5, 10.0, 12.5)))),
    "shuffled": lambda: read_series(random.Random(3).sample(files := series_files(Lie()), len(files))),
    "enhanced": lambda: read_image(enhanced_ct([(0, 0, z) for z in (0, 2.5, 5, 7.5)], stored_values(4), Lie())),
    "no frame of reference": lambda: read_series(series_files(Lie(), FrameOfReferenceUID=None)),
}


@pytest.mark.needs("dciodvfy")
@pytest.mark.parametrize("name", VALID)
def test_a_validator_finds_no_error(name: str, tmp_path: Path) -> None:
    image = VALID[name]()
    check_valid(write_segmentation(image, one_segment(image), making()), "Segmentation", tmp_path)


@pytest.mark.needs("dciodvfy")
def test_a_validator_finds_no_error_in_several_segments(tmp_path: Path) -> None:
    image = read_series(series_files(Lie()))
    numbers = np.digitize(image.pixels, (-500, 0, 500)).astype(np.uint8)
    names = (LIVER, Segment("rest"), Segment("other, rest"))
    check_valid(write_segmentation(image, Segments(numbers, names), making()), "Segmentation", tmp_path)


def check_valid(data: bytes, kind: str, folder: Path) -> None:
    file = folder / "result.dcm"
    file.write_bytes(data)
    said = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, timeout=60)
    lines = (said.stdout + said.stderr).splitlines()
    assert kind in lines, lines
    assert [line for line in lines if line.startswith("Error")] == []
