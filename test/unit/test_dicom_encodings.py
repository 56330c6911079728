"""What the installed decoders take: values known from elsewhere, for each transfer syntax; and broken frames."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_series import saved
from sample_images import MR_SMALL, TEST_FILES, decoder_test

from medical_image_processing.dicom import jpeg
from medical_image_processing.dicom.read import read_image, read_series
from medical_image_processing.errors import InputRejected

MR_64 = "emri_small.dcm"


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        # The stored values as GDCM 3.2.6 decodes them, which has another lossless codec.
        ("JPEG-LL.dcm", "a6e9d32143"),
        ("JPGLosslessP14SV1_1s_1f_8b.dcm", "36e27e4f1e"),
        ("bad_sequence.dcm", "ef7120ddfc"),
    ],
)
def test_lossless_jpeg_gives_the_stored_values(name: str, digest: str) -> None:
    dataset = pydicom.dcmread(io.BytesIO(decoder_test(name)))
    image = read_image(decoder_test(name))
    intercept = int(dataset.get("RescaleIntercept", 0))
    kind = ("uint8", "uint16")[dataset.BitsAllocated // 16] if not dataset.PixelRepresentation else "int16"
    stored = (image.pixels.astype(int) - intercept).astype(kind)
    assert hashlib.sha256(stored.tobytes()).hexdigest()[:10] == digest


def test_lossless_jpeg_in_colour_becomes_luminance() -> None:
    image = read_image((TEST_FILES / "SC_rgb_jpeg_gdcm.dcm").read_bytes())
    raw = read_image(decoder_test("SC_rgb.dcm"))
    np.testing.assert_array_equal(image.pixels, raw.pixels)


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_twelve_bit_jpeg_gives_the_values_that_pydicom_documents(name: str) -> None:
    pixels = read_image((TEST_FILES / name).read_bytes()).pixels
    assert (pixels[420, 140], pixels[230, 120]) == (244, 95)


@pytest.mark.parametrize(
    "name",
    [
        "emri_small_RLE.dcm",
        "emri_small_big_endian.dcm",
        "emri_small_jpeg_2k_lossless.dcm",
        "emri_small_jpeg_ls_lossless.dcm",
    ],
)
def test_an_enhanced_mr_is_the_same_in_every_lossless_encoding(name: str) -> None:
    np.testing.assert_array_equal(read_image(decoder_test(name)).pixels, read_image(decoder_test(MR_64)).pixels)


def test_near_lossless_jpeg_ls_is_decoded() -> None:
    dataset = pydicom.dcmread(TEST_FILES / "JPEGLSNearLossless_16.dcm")
    np.testing.assert_array_equal(
        read_image((TEST_FILES / "JPEGLSNearLossless_16.dcm").read_bytes()).pixels, dataset.pixel_array
    )


def test_high_throughput_jpeg_2000_is_decoded() -> None:
    """imagecodecs encodes it here, openjpeg decodes it."""
    import imagecodecs

    plain = read_image(MR_SMALL)
    dataset = pydicom.dcmread(io.BytesIO(MR_SMALL))
    stored = np.ascontiguousarray(dataset.pixel_array.astype(np.uint16))
    dataset.file_meta.TransferSyntaxUID, dataset.PixelRepresentation = pydicom.uid.HTJ2KLossless, 0
    dataset.PixelData = pydicom.encaps.encapsulate([imagecodecs.htj2k_encode(stored, reversible=True)])
    np.testing.assert_array_equal(read_image(saved(dataset)).pixels, plain.pixels)


def test_frames_of_a_baseline_jpeg_cine_become_luminance() -> None:
    image = read_image((TEST_FILES / "examples_ybr_color.dcm").read_bytes())
    assert image.pixels.shape == (30, 240, 320) and image.pixels.max() <= 255


def test_an_enhanced_ct_lies_where_its_functional_groups_say() -> None:
    data = decoder_test("eCT_Supplemental.dcm")
    image = read_image(data)
    dataset = pydicom.dcmread(io.BytesIO(data))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    slope, intercept = (
        float(shared.PixelValueTransformationSequence[0][name].value)
        for name in ("RescaleSlope", "RescaleIntercept")
    )
    np.testing.assert_array_equal(image.pixels, dataset.pixel_array * slope + intercept)
    for corner, groups in zip(image.corners, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        assert corner == tuple(float(v) for v in groups.PlanePositionSequence[0].ImagePositionPatient)
    assert image.units == "HU" and image.knows_spacing == (True, True)


def test_a_modality_lut_is_applied() -> None:
    image = read_image(decoder_test("mlut_18.dcm"))
    dataset = pydicom.dcmread(io.BytesIO(decoder_test("mlut_18.dcm")))
    expected = pydicom.pixels.apply_modality_lut(dataset.pixel_array, dataset)
    np.testing.assert_array_equal(image.pixels, expected)


def frame_of(data: bytes) -> tuple[pydicom.Dataset, bytes]:
    dataset = pydicom.dcmread(io.BytesIO(data))
    return dataset, next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))


@pytest.mark.parametrize("rows", [65535, 1])
def test_a_jpeg_whose_size_is_not_the_headers_is_refused_before_it_is_decoded(rows: int) -> None:
    dataset, frame = frame_of(decoder_test("JPEG-LL.dcm"))
    start = frame.index(b"\xff\xc3")
    lying = frame[: start + 5] + rows.to_bytes(2, "big") + frame[start + 7 :]
    dataset.PixelData = pydicom.encaps.encapsulate([lying])
    with pytest.raises(InputRejected) as raised:
        read_image(saved(dataset))
    assert raised.value.code == "UNDECODABLE_PIXELS"


@pytest.mark.parametrize("rows", [65535, 1], ids=["more", "less"])
@pytest.mark.parametrize(
    ("name", "marker"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", b"\xff\xf7"),
        ("JPEGLSNearLossless_16.dcm", b"\xff\xf7"),
        ("SC_rgb_small_odd_jpeg.dcm", b"\xff\xc0"),
    ],
    ids=["JPEG-LS", "near-lossless JPEG-LS", "baseline"],
)
def test_a_frame_whose_decoder_believes_it_is_asked_first_what_size_it_says(
    name: str, marker: bytes, rows: int
) -> None:
    """Those decoders make room for what the frame says: 65,535 rows of a width that it chooses as well."""
    dataset, frame = frame_of((TEST_FILES / name).read_bytes())
    start = frame.index(marker)
    lying = frame[: start + 5] + rows.to_bytes(2, "big") + frame[start + 7 :]
    dataset.PixelData = pydicom.encaps.encapsulate([lying])
    with pytest.raises(InputRejected) as raised:
        read_image(saved(dataset))
    assert raised.value.code == "UNDECODABLE_PIXELS"
    assert str(raised.value) == str(jpeg.broken()), "it is refused for what it says, and not where decoding ends"


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(["JPEG-LL.dcm", "JPGExtended.dcm"]), st.data())
def test_flipped_bits_in_a_jpeg_give_an_image_or_a_refusal(name: str, data: st.DataObject) -> None:
    whole = decoder_test(name) if name == "JPEG-LL.dcm" else (TEST_FILES / name).read_bytes()
    dataset, frame = frame_of(whole)
    broken = bytearray(frame)
    for place in data.draw(st.lists(st.integers(0, len(frame) - 1), min_size=1, max_size=8)):
        broken[place] ^= 1 << place % 8
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(broken[: data.draw(st.integers(20, len(frame)))])])
    try:
        assert read_image(saved(dataset)).pixels.shape == (1024, 256)
    except InputRejected as error:
        assert error.code == "UNDECODABLE_PIXELS"


def test_a_compressed_series_is_the_same_as_its_slices() -> None:
    dataset, _ = frame_of(decoder_test("JPEG-LL.dcm"))
    files = []
    for index in (1, 0, 2):
        dataset.SOPInstanceUID = f"1.2.{index}"
        dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 3 * index]
        files.append(saved(dataset))
    image = read_series(files)
    assert image.pixels.shape == (3, 1024, 256) and image.spacing[0] == 3
    np.testing.assert_array_equal(image.pixels[1], read_image(files[0]).pixels)


def test_decoders_that_are_not_needed_are_not_loaded() -> None:
    """A worker that reads plain or JPEG 2000 images and makes Secondary Captures pays for neither library."""
    program = (
        "import sys; from pathlib import Path; import medical_image_processing.worker.runner\n"
        "from medical_image_processing.dicom.read import read_image\n"
        "for path in sys.argv[1:]: read_image(Path(path).read_bytes())\n"
        "print(sorted({'highdicom', 'imagecodecs'} & set(sys.modules)))"
    )
    names = [str(TEST_FILES / name) for name in ("CT_small.dcm", "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm")]
    said = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
