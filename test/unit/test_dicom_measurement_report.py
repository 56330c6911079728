"""Reports say of each segment how large it is, in which unit, and where it can be seen."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays
from made_series import AXIAL, SAGITTAL, Lie, edited, enhanced_ct, series_files, stored_values
from sample_images import CT_SMALL, abdominal_ct, abdominal_liver
from test_dicom_segmentation import BESIDE, DIGEST, LIVER, OBLIQUE, check_valid, making, one_segment

from medical_image_processing.dicom.image import Image
from medical_image_processing.dicom.measure import Measurements, measure_segment
from medical_image_processing.dicom.measurement_report import write_measurement_report
from medical_image_processing.dicom.read import read_image, read_series
from medical_image_processing.dicom.segmentation import write_segmentation
from medical_image_processing.dicom.segments import Segment, Segments
from medical_image_processing.errors import InputRejected


def report_of(image: Image, segments: Segments) -> highdicom.sr.Comprehensive3DSR:
    data = write_measurement_report(image, segments, making())
    return highdicom.sr.srread(io.BytesIO(data))


def groups_in(report: highdicom.sr.Comprehensive3DSR) -> list[Any]:
    return list(report.content.get_volumetric_roi_measurement_groups())


def values_in(group: Any) -> dict[tuple[str, str], float]:
    """By what is measured and its unit's code in UCUM."""
    return {
        (found.name.meaning, found.unit.value): float(found.value)
        for found in group.get_measurements()
        if found.unit.scheme_designator == "UCUM"
    }


def block(image: Image, size: tuple[int, int, int]) -> Segments:
    numbers = np.zeros(image.pixels.shape, np.uint8)
    numbers[: size[0], 1 : 1 + size[1], 2 : 2 + size[2]] = 1
    return Segments(numbers, (LIVER,))


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE])
def test_volume_and_longest_diameter_of_a_block(orientation: tuple[float, ...]) -> None:
    image = read_series(series_files(Lie(orientation, (0.0, 2.5, 5.0, 7.5), spacing=(0.7, 0.9))))
    (group,) = groups_in(report_of(image, block(image, (3, 4, 5))))
    expected = np.linalg.norm([2 * 2.5, 3 * 0.7, 4 * 0.9])
    values = values_in(group)
    assert values["Volume", "cm3"] == pytest.approx(60 * 2.5 * 0.7 * 0.9 / 1000, rel=1e-6)
    assert values["Long Axis", "mm"] == pytest.approx(expected, rel=1e-5)


def test_a_missing_slice_is_bridged() -> None:
    image = read_series(series_files(Lie(positions=(0.0, 2.0, 4.0, 8.0, 10.0))))
    assert image.gaps == (2,)
    found = measure_segment(image, np.ones(image.pixels.shape, np.uint8), 1)
    assert found.volume_mm3 == pytest.approx(6 * 9 * 0.7 * 0.9 * (2 + 2 + 3 + 3 + 2))
    third = np.zeros(image.pixels.shape, np.uint8)
    third[2] = 1
    assert measure_segment(image, third, 1).volume_mm3 == pytest.approx(6 * 9 * 0.7 * 0.9 * 3)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.bool_, (3, 5, 6)))
def test_the_longest_diameter_is_that_of_all_pairs(inside: np.ndarray[Any, Any]) -> None:
    image = read_series(series_files(Lie(OBLIQUE, (0.0, 3.0, 6.0)), stored_values(3, 5, 6)))
    found = measure_segment(image, inside.astype(np.uint8), 1).diameter_mm
    places = np.argwhere(inside) * [3.0, 0.7, 0.9]
    if not len(places):
        assert found is None
    else:
        pairs = np.linalg.norm(places[:, np.newaxis] - places, axis=2)
        assert found == pytest.approx(pairs.max(), abs=1e-4)


def test_it_refers_to_the_segmentation_its_segment_and_the_source_series() -> None:
    image = read_series(series_files(Lie()))
    numbers = np.digitize(image.pixels, (0, 500)).astype(np.uint8)
    segments = Segments(numbers, (LIVER, Segment("rest")))
    seg = pydicom.dcmread(io.BytesIO(write_segmentation(image, segments, making())))
    report = report_of(image, segments)
    for number, (group, described) in enumerate(zip(groups_in(report), seg.SegmentSequence, strict=True), 1):
        (referred,) = group.referenced_segment[0].ReferencedSOPSequence
        assert referred.ReferencedSOPInstanceUID == seg.SOPInstanceUID
        assert referred.ReferencedSegmentNumber == number
        assert image.sources[0].SeriesInstanceUID == group.referenced_segment[1].UID
        assert group.tracking_uid == described.TrackingUID
        assert group.finding_type.value == described.SegmentedPropertyTypeCodeSequence[0].CodeValue
    evidence = [
        item.ReferencedSOPInstanceUID
        for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in report.get(keyword, [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert sorted(evidence) == sorted([*image.source_uids, seg.SOPInstanceUID])
    assert seg.StudyInstanceUID == report.StudyInstanceUID and report.PatientID == seg.PatientID


def test_it_says_what_made_it() -> None:
    image = read_series(series_files(Lie()))
    data = write_measurement_report(image, one_segment(image), making())
    report = pydicom.dcmread(io.BytesIO(data))
    (equipment,) = report.ContributingEquipmentSequence
    assert DIGEST in equipment.ContributionDescription and "revision 3" in equipment.ContributionDescription
    assert data.count(DIGEST.encode()) >= 2 and b"Algorithm Name" in data
    assert data == write_measurement_report(image, one_segment(image), making())


def test_of_a_slice_the_volume_needs_a_thickness() -> None:
    thick, thin = (
        read_image(CT_SMALL),
        read_image(edited(CT_SMALL, SliceThickness=None, SpacingBetweenSlices=None)),
    )
    ones = np.ones(thick.pixels.shape, np.uint8)
    area = 128 * 128 * 0.661468**2
    assert measure_segment(thick, ones, 1).volume_mm3 == pytest.approx(area * 5)
    diagonal = 127 * 0.661468 * 2**0.5
    assert measure_segment(thin, ones, 1) == Measurements(None, pytest.approx(diagonal))


def test_pixels_of_unknown_size_are_not_measured() -> None:
    image = read_image(edited(CT_SMALL, PixelSpacing=None))
    with pytest.raises(InputRejected) as raised:
        write_measurement_report(image, one_segment(image), making())
    assert raised.value.code == "NO_SPACING"


def test_an_empty_segment_has_no_diameter_and_no_volume() -> None:
    image = read_series(series_files(Lie()))
    (group,) = groups_in(report_of(image, Segments(np.zeros(image.pixels.shape, np.uint8), (LIVER,))))
    assert values_in(group) == {("Volume", "cm3"): 0.0}


def test_the_liver_of_a_real_series() -> None:
    image = read_series(abdominal_ct())
    liver = abdominal_liver().astype(np.uint8)
    (group,) = groups_in(report_of(image, Segments(liver, (LIVER,))))
    millimetres = np.prod(image.spacing)
    assert values_in(group)["Volume", "cm3"] == pytest.approx(liver.sum() * millimetres / 1000, rel=1e-6)
    assert 150 < values_in(group)["Long Axis", "mm"] < 300


@pytest.mark.needs("dciodvfy")
@pytest.mark.parametrize("kind", ["series", "slice", "enhanced", "several", "empty"])
def test_a_validator_finds_no_error(kind: str, tmp_path: Path) -> None:
    image = read_series(series_files(Lie(OBLIQUE)))
    segments = one_segment(image)
    if kind == "slice":
        image = read_image(CT_SMALL)
        segments = one_segment(image)
    elif kind == "enhanced":
        image = read_image(enhanced_ct([(0, 0, z) for z in (0, 2.5, 5, 7.5)], stored_values(4), Lie()))
        segments = one_segment(image)
    elif kind == "several":
        segments = Segments(np.digitize(image.pixels, (0, 500)).astype(np.uint8), (LIVER, Segment("rest")))
    elif kind == "empty":
        segments = Segments(np.zeros(image.pixels.shape, np.uint8), (LIVER,))
    check_valid(write_measurement_report(image, segments, making()), "Comprehensive3DSR", tmp_path)


@pytest.mark.skipif(
    shutil.which("tid1500reader", path=BESIDE) is None, reason="dcmqi has no wheel for this machine"
)
def test_dcmqi_reads_it(tmp_path: Path) -> None:
    image = read_series(series_files(Lie()))
    (tmp_path / "sr.dcm").write_bytes(write_measurement_report(image, block(image, (3, 4, 5)), making()))
    program = shutil.which("tid1500reader", path=BESIDE) or ""
    subprocess.run(
        [program, "--inputDICOM", "sr.dcm", "--outputMetadata", "sr.json"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    (group,) = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    found = {
        item["quantity"]["CodeMeaning"]: (float(item["value"]), item["units"]["CodeValue"])
        for item in group["measurementItems"]
    }
    assert found["Volume"] == (pytest.approx(0.0945), "cm3")
    assert found["Long Axis"][1] == "mm"
    assert group["ReferencedSegment"] == 1
