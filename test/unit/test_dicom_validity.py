"""A validator finds no error in whatever is made of any kind of source, and nothing in it is made up."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from made_series import Lie, edited, enhanced_ct, group, series_files, stored_values
from sample_images import CT_SMALL, MR_SMALL, TEST_FILES, decoder_test
from test_dicom_segmentation import LIVER, making

from medical_image_processing.dicom.grayscale_capture import write_grayscale_capture
from medical_image_processing.dicom.image import Image
from medical_image_processing.dicom.measurement_report import write_measurement_report
from medical_image_processing.dicom.read import read_image, read_series
from medical_image_processing.dicom.secondary_capture import write_secondary_capture
from medical_image_processing.dicom.segmentation import write_segmentation
from medical_image_processing.dicom.segments import Segments
from medical_image_processing.errors import InputRejected

PROFILE = group(
    CodeValue="113100",
    CodingSchemeDesignator="DCM",
    CodeMeaning="Basic Application Confidentiality Profile",
)


def sample(name: str) -> Image:
    return read_image((TEST_FILES / name).read_bytes())


def larger(name: str) -> Image:
    return read_image(decoder_test(name))


SOURCES: dict[str, Callable[[], Image]] = {
    "ct": lambda: read_image(CT_SMALL),
    "ct-series": lambda: read_series(series_files(Lie())),
    "ct-monochrome1": lambda: read_image(edited(CT_SMALL, PhotometricInterpretation="MONOCHROME1")),
    "ct-deidentified": lambda: read_image(
        edited(CT_SMALL, PatientIdentityRemoved="YES", DeidentificationMethodCodeSequence=PROFILE)
    ),
    "mr": lambda: read_image(MR_SMALL),
    "mr-big-endian": lambda: sample("MR_small_bigendian.dcm"),
    "us-palette": lambda: sample("examples_palette.dcm"),
    "us-rgb": lambda: sample("examples_rgb_color.dcm"),
    "us-cine": lambda: sample("examples_ybr_color.dcm"),
    "us-jpeg2000": lambda: sample("examples_jpeg2k.dcm"),
    "ot-rgb": lambda: sample("SC_rgb_jpeg_dcmtk.dcm"),
    "nm": lambda: sample("JPEG2000.dcm"),
    "rt-dose": lambda: sample("rtdose.dcm"),
    "enhanced-ct": lambda: larger("eCT_Supplemental.dcm"),
    "enhanced-ct-made": lambda: read_image(enhanced_ct([(0, 0, z) for z in (0, 2.5, 5)], stored_values(3), Lie())),
    "enhanced-mr": lambda: larger("emri_small.dcm"),
}
NO_SEGMENTATION = {"us-cine": "NO_GEOMETRY", "enhanced-mr": "NO_GEOMETRY"}
NO_REPORT = {name: "NO_SPACING" for name in ("us-palette", "us-rgb", "us-cine", "us-jpeg2000", "enhanced-mr")}


def mask_of(image: Image) -> Segments:
    mask = np.zeros(image.pixels.shape, np.uint8)
    mask[..., 2:5, 3:7] = 1
    return Segments(mask, (LIVER,))


def capture(image: Image) -> bytes:
    return write_secondary_capture(image, mask_of(image).numbers, **vars(making()))


def grayscale(image: Image) -> bytes:
    return write_grayscale_capture(image, image.pixels, **vars(making()))


def segmentation(image: Image) -> bytes:
    return write_segmentation(image, mask_of(image), making())


def report(image: Image) -> bytes:
    return write_measurement_report(image, mask_of(image), making())


def check(write: Callable[[Image], bytes], source: str, refusals: dict[str, str], folder: Path) -> None:
    image = SOURCES[source]()
    if source in refusals:
        with pytest.raises(InputRejected) as raised:
            write(image)
        assert raised.value.code == refusals[source]
        return
    file = folder / "result.dcm"
    file.write_bytes(write(image))
    said = subprocess.run(
        ["dciodvfy", "-new", str(file)], capture_output=True, text=True, errors="replace", timeout=60
    )
    lines = (said.stdout + said.stderr).splitlines()
    assert lines and [line for line in lines if line.startswith("Error")] == []


@pytest.mark.needs("dciodvfy")
@pytest.mark.parametrize("source", SOURCES)
def test_a_capture_of_any_source_is_valid(source: str, tmp_path: Path) -> None:
    check(capture, source, {}, tmp_path)


@pytest.mark.needs("dciodvfy")
@pytest.mark.parametrize("source", SOURCES)
def test_an_image_on_the_grid_of_any_source_is_valid(source: str, tmp_path: Path) -> None:
    check(grayscale, source, {}, tmp_path)


def test_an_image_is_shown_as_its_source_is() -> None:
    for name, expected in (("ct", "MONOCHROME2"), ("ct-monochrome1", "MONOCHROME1")):
        made = pydicom.dcmread(io.BytesIO(grayscale(SOURCES[name]())))
        assert made.PhotometricInterpretation == expected


@pytest.mark.needs("dciodvfy")
@pytest.mark.parametrize("source", SOURCES)
def test_a_segmentation_of_any_source_is_valid_or_refused(source: str, tmp_path: Path) -> None:
    check(segmentation, source, NO_SEGMENTATION, tmp_path)


@pytest.mark.needs("dciodvfy")
@pytest.mark.parametrize("source", SOURCES)
def test_a_report_of_any_source_is_valid_or_refused(source: str, tmp_path: Path) -> None:
    check(report, source, NO_REPORT, tmp_path)


def test_a_segmentation_claims_no_spacing_that_its_source_lacks() -> None:
    for name in ("us-rgb", "us-palette"):
        seg = pydicom.dcmread(io.BytesIO(segmentation(SOURCES[name]())))
        assert "PixelMeasuresSequence" not in seg.SharedFunctionalGroupsSequence[0]
        assert seg["PatientOrientation"].value in (None, "")
    seg = pydicom.dcmread(io.BytesIO(segmentation(SOURCES["ot-rgb"]())))
    [measures] = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert "SliceThickness" not in measures and list(measures.PixelSpacing) == [1, 1]


@pytest.mark.parametrize("spacing", [None, ["0", "0"], ["-0.5", "-0.5"]], ids=["none", "zero", "negative"])
def test_what_lies_in_the_patient_with_unknown_spacing_has_no_segmentation(spacing: Any) -> None:
    image = read_series(series_files(Lie(), PixelSpacing=spacing))
    assert len(image.corners) == 4
    with pytest.raises(InputRejected) as raised:
        segmentation(image)
    assert raised.value.code == "NO_GEOMETRY"


def test_how_a_patient_was_deidentified_is_carried_on() -> None:
    image = SOURCES["ct-deidentified"]()
    for write in (capture, segmentation, report):
        made = pydicom.dcmread(io.BytesIO(write(image)))
        assert made.PatientIdentityRemoved == "YES"
        assert made.DeidentificationMethodCodeSequence == PROFILE
