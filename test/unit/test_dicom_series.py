"""What makes a series a volume: which files, in which order, where in the patient; and what is refused."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_series import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Lie,
    edited,
    enhanced_ct,
    group,
    saved,
    series_files,
    stored_values,
)
from pydicom.dataset import Dataset
from sample_images import CT_SMALL, TEST_FILES, abdominal_ct, chest_ct

from medical_image_processing.dicom.read import drain_series, read_image, read_series
from medical_image_processing.errors import InputRejected

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, -0.8)


def refusal(files: list[bytes], **limits: Any) -> InputRejected:
    with pytest.raises(InputRejected) as raised:
        read_series(files, **limits)
    return raised.value


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE])
def test_slices_lie_along_the_normal_whatever_their_numbers_say(orientation: tuple[float, ...]) -> None:
    values = stored_values(4)
    files = series_files(Lie(orientation, (7.5, 0.0, 5.0, 2.5)), values)
    image = read_series(files)
    np.testing.assert_array_equal(image.pixels, values[[1, 3, 2, 0]] - 1024)
    assert image.spacing == pytest.approx((2.5, 0.7, 0.9), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.permutations([0.0, 1.5, 3.0, 9.0, 10.5]), st.sampled_from([AXIAL, SAGITTAL, OBLIQUE]))
def test_every_voxel_is_where_its_own_header_says(order: list[float], orientation: tuple[float, ...]) -> None:
    lie = Lie(orientation, tuple(order))
    image = read_series(series_files(lie, stored_values(5, 2, 3)))
    assert image.directions is not None and image.is_placed
    step, down, right = map(np.array, image.directions)
    assert np.dot(step, lie.normal) == pytest.approx(1.5, abs=1e-6)
    for source, corner in zip(image.sources, image.corners, strict=True):
        assert corner == pytest.approx([float(v) for v in source.ImagePositionPatient])
    assert [float(np.linalg.norm(v)) for v in (down, right)] == pytest.approx([0.7, 0.9])
    assert image.gaps == (2,) and image.meta()["gaps"] == (2,)
    assert image.meta()["corners"] == image.corners


def test_a_tilted_gantry_has_a_step_that_goes_aslant() -> None:
    files = series_files(Lie())
    tilted = [
        edited(data, ImagePositionPatient=[0, 10.0 + index, 2.5 * index]) for index, data in enumerate(files)
    ]
    image = read_series(tilted)
    assert image.spacing[0] == 2.5
    assert image.directions is not None and image.directions[0] == pytest.approx((0, 1, 2.5))


def test_localizers_are_left_out() -> None:
    files = series_files(Lie())
    localizer = edited(
        CT_SMALL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImageOrientationPatient=[0, 1, 0, 0, 0, -1]
    )
    image = read_series([localizer, *files])
    assert image.pixels.shape == (4, 6, 9)
    assert read_series([localizer]).pixels.shape == (128, 128)


def test_a_file_that_came_twice_counts_once() -> None:
    files = series_files(Lie())
    np.testing.assert_array_equal(read_series([*files, files[2]]).pixels, read_series(files).pixels)
    drained = [*files, files[2]]
    assert drain_series(drained).pixels.shape == (4, 6, 9) and drained == []
    assert read_series([files[0], files[0]]).pixels.shape == (6, 9)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"PatientID": "another"}, "patients or studies"),
        ({"StudyInstanceUID": "1.2.3"}, "patients or studies"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "orientations"),
        ({"ImageOrientationPatient": None}, "orientations"),
        ({"ImagePositionPatient": [-12.5, 30.0, 101.25]}, "phases or echoes"),
        ({"Columns": 5}, "rows or columns"),
        ({"NumberOfFrames": "2"}, "several frames"),
    ],
)
def test_what_is_no_volume_is_refused_before_a_pixel_is_read(changes: dict[str, Any], said: str) -> None:
    files = series_files(Lie())
    error = refusal([*files[:3], edited(files[3], **changes)[:-20]])
    assert error.code == "INCONSISTENT_SERIES" and said in error.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"PixelSpacing": ["1.4", "1.8"]}, "how far apart"),
        ({"PixelSpacing": None}, "how far apart"),
        ({"FrameOfReferenceUID": "1.2.3"}, "frames of reference"),
        ({"SeriesInstanceUID": "1.2.3"}, "several series"),
        ({"Modality": "PT"}, "modalities"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "white"),
        ({"ImagePositionPatient": [37.5, 30.0, 108.75]}, "one behind the other"),
        ({"PatientBirthDate": "20000101"}, "patients or studies"),
        ({"IssuerOfPatientID": "another"}, "patients or studies"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_images_that_differ_where_slices_of_a_volume_are_alike_are_refused(
    changes: dict[str, Any], said: str
) -> None:
    files = series_files(Lie(), PatientBirthDate="19991231", IssuerOfPatientID="one")
    assert read_series(files).is_placed
    error = refusal([*files[:3], edited(files[3], **changes)])
    assert error.code == "INCONSISTENT_SERIES" and said in error.message


def test_without_an_id_names_tell_patients_apart_however_they_are_padded() -> None:
    files = series_files(Lie(), PatientID="", PatientName="Doe^Jane")
    assert refusal([*files[:3], edited(files[3], PatientName="Doe^John")]).code == "INCONSISTENT_SERIES"
    assert read_series([*files[:3], edited(files[3], PatientName="Doe^Jane^^")]).is_volume
    named = series_files(Lie(), PatientName="Doe^Jane")
    assert read_series([*named[:3], edited(named[3], PatientName="DOE^JANE")]).is_volume, "the ID says who it is"


def moved(files: list[bytes], aside: list[float]) -> list[bytes]:
    """``files`` of an axial series with their corners so many mm to the left."""
    positions = [pydicom.dcmread(io.BytesIO(data)).ImagePositionPatient for data in files]
    return [
        edited(data, ImagePositionPatient=[position[0] + left, position[1], position[2]])
        for data, position, left in zip(files, positions, aside, strict=True)
    ]


def test_a_tilt_and_a_rounded_position_are_no_jump() -> None:
    files = series_files(Lie(spacing=(0.7, 0.9)))
    tilt = 2.5 * float(np.tan(np.radians(30)))
    for order in (files, files[::-1]):
        assert read_series(moved(order, [0, tilt, 2 * tilt, 3 * tilt])).is_placed
    assert read_series(moved(files, [0, 0.05, -0.05, 0])).is_placed, "positions with one decimal"
    assert refusal(moved(files, [0, 1.2, 0, 0])).code == "INCONSISTENT_SERIES"
    assert refusal(moved(files[:2], [0, 2.6])).code == "INCONSISTENT_SERIES", "a lean of over 45 degrees"


def test_a_rounded_spacing_is_the_same_one() -> None:
    files = series_files(Lie(spacing=(0.7, 0.9)))
    assert read_series([*files[:3], edited(files[3], PixelSpacing=["0.7001", "0.9"])]).is_placed


def test_localizers_of_another_frame_of_reference_and_series_are_left_out() -> None:
    localizer = edited(CT_SMALL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    files = [edited(data, FrameOfReferenceUID="1.2.3", SeriesInstanceUID="1.2.4") for data in series_files(Lie())]
    assert len(read_series([localizer, *files]).pixels) == 4


def test_frames_that_differ_in_spacing_are_refused() -> None:
    lie, corners = Lie(), [(0, 0, z) for z in (0.0, 2.5)]
    measures = [group(PixelSpacing=spacing, SliceThickness="2.5") for spacing in (["0.7", "0.9"], ["2", "2"])]
    frames = [
        group(
            PlanePositionSequence=group(ImagePositionPatient=list(corner)),
            PixelMeasuresSequence=measure,
        )[0]
        for corner, measure in zip(corners, measures, strict=True)
    ]
    data = enhanced_ct(corners, stored_values(2), lie, PerFrameFunctionalGroupsSequence=frames)
    with pytest.raises(InputRejected) as raised:
        read_image(data)
    assert raised.value.code == "INCONSISTENT_SERIES"


def test_cosines_that_are_not_of_unit_length_do_not_stretch_the_volume() -> None:
    files = series_files(Lie())
    long = read_series([edited(data, ImageOrientationPatient=[2, 0, 0, 0, 2, 0]) for data in files])
    assert long.spacing == pytest.approx((2.5, 0.7, 0.9))
    nil = read_series([edited(data, ImageOrientationPatient=[0, 0, 0, 0, 0, 0]) for data in files])
    assert not nil.is_placed and len(nil.pixels) == 4


@pytest.mark.parametrize("series", ["abdominal", "chest"])
def test_real_series_are_volumes(series: str) -> None:
    image = read_series(abdominal_ct() if series == "abdominal" else chest_ct())
    assert image.is_placed and len(image.pixels) == (20 if series == "abdominal" else 236)


def test_a_truncated_file_among_others_is_stated() -> None:
    files = series_files(Lie())
    assert refusal([*files[:3], files[3][:-20]]).code == "UNDECODABLE_PIXELS"
    assert refusal([*files[:3], files[3][:200]]).code == "NO_PIXELS"
    assert refusal([*files[:3], b"<html>not found</html>"]).code == "NOT_DICOM"


def test_a_header_that_claims_65535_squared_takes_no_memory() -> None:
    huge = [edited(data, Rows=65535, Columns=65535) for data in series_files(Lie())]
    assert refusal(huge).code in ("TOO_LARGE", "UNDECODABLE_PIXELS")
    assert refusal(huge, max_bytes=2**30).code == "TOO_LARGE"


def test_a_series_beyond_the_workers_memory_is_refused_first() -> None:
    error = refusal(series_files(Lie()), max_bytes=4 * 6 * 9 * 2 - 1)
    assert error.code == "TOO_LARGE"
    assert read_series(series_files(Lie()), max_bytes=4 * 6 * 9 * 2).is_volume


def test_one_bad_file_among_thousands_ends_it_soon() -> None:
    files = series_files(Lie(positions=tuple(range(400))), stored_values(400))
    begun = time.perf_counter()
    refusal([files[0], files[1][:-20], *files[2:]])
    assert time.perf_counter() - begun < 10


FIVE_THOUSAND = """
import io, resource, sys
import pydicom
from medical_image_processing.dicom.read import drain_series
dataset = pydicom.dcmread(sys.argv[1])
dataset.ImagePositionPatient = ["0", "0", "54321.0"]
held = io.BytesIO()
dataset.save_as(held)
template = held.getvalue()
files = [template.replace(b"54321.0", b"%05d.0" % index) for index in range(5000)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image = drain_series(files)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(image.pixels.nbytes, grown)
"""


def test_a_series_of_5000_instances_goes_through_in_bounded_memory() -> None:
    said = subprocess.run(
        [sys.executable, "-c", FIVE_THOUSAND, str(TEST_FILES / "CT_small.dcm")],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    volume, grown = map(int, said.stdout.split())
    assert volume == 5000 * 128 * 128 * 2
    # The volume and each slice's header; files are let go meanwhile.
    assert grown < 1.1 * volume + 5000 * 24 * 1024


@pytest.mark.parametrize(
    "syntax", [pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.DeflatedExplicitVRLittleEndian]
)
def test_a_series_may_be_in_any_encoding(syntax: pydicom.uid.UID) -> None:
    files, encoded = series_files(Lie()), []
    for data in files:
        dataset = pydicom.dcmread(io.BytesIO(data))
        dataset.file_meta.TransferSyntaxUID = syntax
        file = io.BytesIO()
        pydicom.dcmwrite(file, dataset, implicit_vr=syntax.is_implicit_VR, little_endian=True)
        encoded.append(file.getvalue())
    np.testing.assert_array_equal(read_series(encoded).pixels, read_series(files).pixels)


def test_single_frames_in_functional_groups_make_a_volume() -> None:
    lie, values = Lie(OBLIQUE), stored_values(4)
    files = []
    for index in (2, 0, 3, 1):
        corner = np.array(lie.corner) + 2.5 * index * lie.normal
        files.append(enhanced_ct([corner], values[index : index + 1], lie, SOPInstanceUID=f"1.2.{index}"))
    image = read_series(files)
    np.testing.assert_array_equal(image.pixels, values - 1024)
    assert image.is_placed and image.spacing == pytest.approx((2.5, 0.7, 0.9), abs=1e-6)


def test_frames_of_several_phases_are_frames_and_no_volume() -> None:
    corners = [(0, 0, 0), (0, 0, 2.5), (0, 0, 0), (0, 0, 2.5)]
    image = read_image(enhanced_ct(corners, values := stored_values(4), Lie()))
    np.testing.assert_array_equal(image.pixels, values - 1024)
    assert not image.is_placed and image.gaps == ()


def test_units_are_the_headers_or_the_modalitys() -> None:
    assert read_image(CT_SMALL).units == "HU"
    assert read_image(edited(CT_SMALL, RescaleType="mgml")).units == "mgml"
    assert read_image(edited(CT_SMALL, Modality="PT", Units="BQML")).units == "BQML"
    assert read_image(edited(CT_SMALL, Modality="MR")).meta()["units"] == ""


def mapped(**mapping: Any) -> bytes:
    """CT_small without a rescale, and with a real world value mapping instead."""
    dataset = pydicom.dcmread(io.BytesIO(CT_SMALL))
    del dataset.RescaleSlope, dataset.RescaleIntercept
    units = group(CodeValue="mm2/s", CodingSchemeDesignator="UCUM", CodeMeaning="mm2/s")
    dataset.RealWorldValueMappingSequence = group(MeasurementUnitsCodeSequence=units, **mapping)
    return saved(dataset)


def test_a_real_world_value_mapping_counts_where_there_is_no_rescale() -> None:
    stored = pydicom.dcmread(io.BytesIO(CT_SMALL)).pixel_array
    image = read_image(mapped(RealWorldValueSlope=0.5, RealWorldValueIntercept=-3.0))
    np.testing.assert_allclose(image.pixels, stored * 0.5 - 3)
    assert image.units == "mm2/s"
    table = np.linspace(0, 7, 4096)
    image = read_image(mapped(RealWorldValueLUTData=list(table), RealWorldValueFirstValueMapped=0))
    np.testing.assert_allclose(image.pixels, table[stored], rtol=1e-6)
    with pytest.raises(InputRejected) as raised:
        read_image(mapped(RealWorldValueSlope=0.5))
    assert raised.value.code == "BAD_HEADER"


def test_a_rescale_comes_before_a_real_world_value_mapping() -> None:
    mapping: list[Dataset] = group(RealWorldValueSlope=0.5, RealWorldValueIntercept=-3.0)
    np.testing.assert_array_equal(
        read_image(edited(CT_SMALL, RealWorldValueMappingSequence=mapping)).pixels, read_image(CT_SMALL).pixels
    )


def test_the_order_of_the_files_does_not_matter() -> None:
    files = series_files(Lie(OBLIQUE))
    shuffled = random.Random(5).sample(files, len(files))
    np.testing.assert_array_equal(read_series(shuffled).pixels, read_series(files).pixels)
