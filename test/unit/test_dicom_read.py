"""Reading: right values in modality units, and for bad input a stated error and nothing else."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels import apply_rescale
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from sample_images import CT_SMALL, MR_SMALL, TEST_FILES, abdominal_ct

from medical_image_processing.dicom.read import Image, read_image, read_series
from medical_image_processing.errors import InputRejected

CODES = {"NOT_DICOM", "BAD_HEADER", "NO_PIXELS", "UNDECODABLE_PIXELS", "TOO_LARGE", "INCONSISTENT_SERIES"}
ALL_TEST_FILES = sorted(path for path in TEST_FILES.rglob("*") if path.is_file())
# Left out: what pydicom shows in colours, and what this package has no decoder for.
MONOCHROME = (
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_padded.dcm",
    "693_J2KI.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "JPEG2000.dcm",
    "examples_overlay.dcm",
    "image_dfl.dcm",
    "liver_1frame.dcm",
    "rtdose.dcm",
    "rtdose_rle.dcm",
    "dicomdirtests/77654033/CR1/6154",
)


def edited(data: bytes, **values: object) -> bytes:
    """``data`` with elements set by keyword."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return saved(dataset)


def saved(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def code_of(data: bytes) -> str:
    with pytest.raises(InputRejected) as raised:
        read_image(data)
    return raised.value.code


@pytest.mark.parametrize("name", MONOCHROME)
def test_values_are_those_that_pydicom_gives(name: str) -> None:
    path = TEST_FILES / name
    dataset = pydicom.dcmread(path)
    expected = apply_rescale(dataset.pixel_array, dataset)
    image = read_image(path.read_bytes())
    assert image.pixels.shape == expected.shape
    assert image.pixels.dtype in (np.int16, np.float32)
    np.testing.assert_allclose(image.pixels, expected, rtol=1e-6)


def test_a_ct_slice_is_hounsfield_units_in_int16_with_its_spacing() -> None:
    image = read_image(CT_SMALL)
    assert image.pixels.dtype == np.int16
    assert image.pixels.min() == -896
    assert image.spacing == (5.0, 0.661468, 0.661468)
    assert image.modality == "CT"
    assert image.orientation == (1, 0, 0, 0, 1, 0)
    assert image.source_uids == (pydicom.dcmread(io.BytesIO(CT_SMALL)).SOPInstanceUID,)
    assert "PixelData" not in image.sources[0]


def test_bits_above_bits_stored_do_not_count() -> None:
    dataset = pydicom.dcmread(io.BytesIO(CT_SMALL))
    pixels = dataset.pixel_array
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
    dataset.PixelData = ((pixels & 0x0FFF).astype(np.uint16) | 0xA000).tobytes()
    expected = (pixels & 0x0FFF).astype(int) - 1024
    np.testing.assert_array_equal(read_image(saved(dataset)).pixels, expected)


def test_a_fraction_in_the_slope_gives_float32() -> None:
    image = read_image(edited(CT_SMALL, RescaleSlope="0.5"))
    assert image.pixels.dtype == np.float32
    np.testing.assert_allclose(image.pixels, read_image(CT_SMALL).pixels * 0.5 - 512)


def test_values_beyond_int16_give_float32() -> None:
    image = read_image(edited(CT_SMALL, RescaleIntercept="40000"))
    assert image.pixels.dtype == np.float32
    np.testing.assert_allclose(image.pixels, read_image(CT_SMALL).pixels.astype(float) + 41024)


def test_colour_becomes_luminance() -> None:
    image = read_image((TEST_FILES / "examples_rgb_color.dcm").read_bytes())
    colours = pydicom.dcmread(TEST_FILES / "examples_rgb_color.dcm").pixel_array.astype(float)
    np.testing.assert_allclose(image.pixels, colours @ [0.299, 0.587, 0.114], atol=0.51)


def test_an_enhanced_object_takes_rescale_and_places_from_its_functional_groups() -> None:
    image = read_image(enhanced_ct())
    assert image.pixels.shape == (2, 64, 128)
    assert image.spacing == (2.5, 0.7, 0.8)
    assert image.orientation == (1, 0, 0, 0, 1, 0)
    stored = pydicom.dcmread(io.BytesIO(CT_SMALL)).pixel_array.reshape(2, 64, 128)
    np.testing.assert_array_equal(image.pixels[0], stored[0] - 1000)
    np.testing.assert_array_equal(image.pixels[1], stored[1] * 2.0 - 1000)


def enhanced_ct() -> bytes:
    """CT_small's pixels as two frames with functional groups (PS3.3 A.38)."""

    def group(**values: object) -> list[Dataset]:
        item = Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        return [item]

    dataset = pydicom.dcmread(io.BytesIO(CT_SMALL))
    for keyword in (
        "RescaleSlope",
        "RescaleIntercept",
        "PixelSpacing",
        "SliceThickness",
        "ImageOrientationPatient",
    ):
        delattr(dataset, keyword)
    dataset.NumberOfFrames, dataset.Rows = 2, 64
    dataset.SharedFunctionalGroupsSequence = group(
        PixelMeasuresSequence=group(PixelSpacing=[0.7, 0.8], SliceThickness=1),
        PlaneOrientationSequence=group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
    )
    dataset.PerFrameFunctionalGroupsSequence = [
        group(
            PixelValueTransformationSequence=group(RescaleSlope=slope, RescaleIntercept=-1000),
            PlanePositionSequence=group(ImagePositionPatient=[0, 0, z]),
        )[0]
        for slope, z in ((1, 10.0), (2, 12.5))
    ]
    return saved(dataset)


def test_a_series_is_sorted_along_its_normal_and_keeps_its_values() -> None:
    files = abdominal_ct()
    shuffled = random.Random(7).sample(files, len(files))
    image = read_series(shuffled)
    heights = [source.ImagePositionPatient[2] for source in image.sources]
    assert heights == sorted(heights)
    assert image.pixels.shape == (20, 512, 512)
    assert image.pixels.dtype == np.int16
    assert image.spacing == (2.0, 0.9765625, 0.9765625)
    by_uid = {pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID: data for data in files}
    for index in (0, 19):
        dataset = pydicom.dcmread(io.BytesIO(by_uid[image.source_uids[index]]))
        np.testing.assert_array_equal(image.pixels[index], apply_rescale(dataset.pixel_array, dataset))


def test_a_series_without_positions_is_sorted_by_instance_number() -> None:
    files = [
        edited(CT_SMALL, InstanceNumber=str(n), RescaleIntercept=str(n), ImagePositionPatient=None)
        for n in (3, 1, 2)
    ]
    image = read_series(files)
    assert [int(source.InstanceNumber) for source in image.sources] == [1, 2, 3]
    assert image.pixels[2].min() - image.pixels[0].min() == 2


def test_a_series_of_one_file_is_that_image() -> None:
    np.testing.assert_array_equal(read_series([CT_SMALL]).pixels, read_image(CT_SMALL).pixels)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"PatientID": "another"}, id="patient"),
        pytest.param({"StudyInstanceUID": "1.2.3"}, id="study"),
        pytest.param({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, id="orientation"),
        pytest.param({"Rows": 64}, id="size"),
    ],
)
def test_files_that_are_no_volume_are_refused(other: dict[str, object]) -> None:
    with pytest.raises(InputRejected) as raised:
        read_series([CT_SMALL, edited(CT_SMALL, **other)])
    assert raised.value.code == "INCONSISTENT_SERIES"


def test_an_empty_series_is_refused() -> None:
    with pytest.raises(InputRejected) as raised:
        read_series([])
    assert raised.value.code == "NO_PIXELS"


@pytest.mark.parametrize("path", ALL_TEST_FILES, ids=lambda path: path.name)
def test_every_file_is_an_image_or_refused(path: Path) -> None:
    check_image_or_refused(path.read_bytes())


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("JPEG2000-embedded-sequence-delimiter.dcm", "UNDECODABLE_PIXELS"),
        ("badVR.dcm", "BAD_HEADER"),
        ("MR_truncated.dcm", "UNDECODABLE_PIXELS"),
        ("nested_priv_SQ.dcm", "BAD_HEADER"),
        ("meta_missing_tsyntax.dcm", "BAD_HEADER"),
        ("ExplVR_LitEndNoMeta.dcm", "NOT_DICOM"),
        ("rtplan.dcm", "NO_PIXELS"),
        ("README.txt", "NOT_DICOM"),
    ],
)
def test_broken_files_are_refused_with_their_reason(name: str, code: str) -> None:
    assert code_of((TEST_FILES / name).read_bytes()) == code


def test_two_transfer_syntaxes_are_refused_as_a_bad_header() -> None:
    data = CT_SMALL.replace(ExplicitVRLittleEndian.encode(), b"1.2.840.10008\\1.2.1")
    assert data != CT_SMALL
    assert code_of(data) == "BAD_HEADER"


def test_a_missing_transfer_syntax_is_refused_as_a_bad_header() -> None:
    data = CT_SMALL.replace(ExplicitVRLittleEndian.encode() + b"\0", b"\0" * 20)
    assert data != CT_SMALL
    assert code_of(data) == "BAD_HEADER"


@pytest.mark.parametrize("size", [{"Rows": 65535, "Columns": 65535}, {"NumberOfFrames": "2147483647"}])
def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken(size: dict[str, object]) -> None:
    assert code_of(edited(CT_SMALL, **size)) == "TOO_LARGE"


def test_a_compressed_file_that_claims_too_much_is_refused() -> None:
    data = (TEST_FILES / "MR_small_RLE.dcm").read_bytes()
    assert code_of(edited(data, Rows=20000, Columns=20000)) == "TOO_LARGE"


def test_a_deflated_file_that_inflates_without_bounds_is_refused() -> None:
    import zlib

    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = bytes(2**24)
    bomb = b"".join(deflate.compress(block) for _ in range(20)) + deflate.flush()
    start = edited(CT_SMALL)[:132] + b"\x02\x00\x00\x00UL\x04\x00\x1e\x00\x00\x00"
    meta = b"\x02\x00\x10\x00UI\x16\x00" + DeflatedExplicitVRLittleEndian.encode()
    assert code_of(start + meta + bomb) == "TOO_LARGE"


def test_a_jp2_box_of_length_zero_does_not_hang() -> None:
    data = (TEST_FILES / "GDCMJ2K_TextGBR.dcm").read_bytes()
    box = data.index(b"ftyp") - 4
    assert code_of(data[:box] + bytes(4) + data[box + 4 :]) == "UNDECODABLE_PIXELS"


def test_errors_hold_no_patient_data() -> None:
    for data in (edited(CT_SMALL, Rows=0), edited(CT_SMALL, NumberOfFrames="0" * 12), CT_SMALL[:2000]):
        try:
            read_image(data)
        except InputRejected as error:
            assert "CompressedSamples" not in str(error)


def check_image_or_refused(data: bytes) -> None:
    try:
        image = read_image(data)
    except InputRejected as error:
        assert error.code in CODES
    else:
        assert isinstance(image, Image)
        assert image.pixels.ndim in (2, 3)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
@example(b"")
def test_random_bytes_are_refused(data: bytes) -> None:
    assert code_of(data) == "NOT_DICOM"
    check_image_or_refused(bytes(128) + b"DICM" + data)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([CT_SMALL, MR_SMALL]), st.floats(0, 1, exclude_max=True))
def test_truncated_files_are_images_or_refused(data: bytes, share: float) -> None:
    check_image_or_refused(data[: int(len(data) * share)])


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["CT_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "SC_rgb_rle_2frame.dcm"]),
    st.lists(st.tuples(st.integers(132, 4000), st.integers(0, 7)), min_size=1, max_size=20),
)
def test_flipped_bits_give_an_image_or_a_refusal(name: str, flips: list[tuple[int, int]]) -> None:
    data = bytearray((TEST_FILES / name).read_bytes())
    for place, bit in flips:
        data[place % len(data)] ^= 1 << bit
    check_image_or_refused(bytes(data))
