"""Volume files: SimpleITK, an independent judge, agrees with what we write and read; nothing hostile gets in."""

from __future__ import annotations

import gzip
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sample_images import CT_SMALL, abdominal_ct

from medical_image_processing.dicom.read import read_image, read_series
from medical_image_processing.errors import AlgorithmFailed
from medical_image_processing.worker.nrrd import (
    HEADER_BYTES,
    Placement,
    create_volume,
    read_volume,
    write_header,
)

SHAPE = (3, 4, 5)


def write(path: Path, pixels: npt.NDArray[Any], placement: Placement) -> None:
    create_volume(path, pixels.shape, pixels.dtype).pixels[...] = pixels
    write_header(path, pixels, placement)


def refused(path: Path, shape: tuple[int, ...] = SHAPE) -> str:
    with pytest.raises(AlgorithmFailed) as caught:
        read_volume(path, shape)
    assert caught.value.code == "INVALID_RESULT"
    return caught.value.message


def header(**changes: str | None) -> bytes:
    fields = {
        "type": "uchar",
        "dimension": "3",
        "sizes": "5 4 3",
        "endian": "little",
        "encoding": "raw",
        **{name.replace("_", " "): value for name, value in changes.items()},
    }
    lines = "".join(f"{name}: {value}\n" for name, value in fields.items() if value is not None)
    return f"NRRD0004\n{lines}\n".encode()


def test_the_patient_lies_where_the_dicom_files_say(tmp_path: Path) -> None:
    image = read_series(abdominal_ct())
    write(tmp_path / "a.nrrd", image.pixels, Placement.of(image.meta()))
    read = SimpleITK.ReadImage(str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(read), image.pixels)
    assert image.origin is not None and image.orientation is not None
    np.testing.assert_allclose(read.GetOrigin(), image.origin)
    np.testing.assert_allclose(read.GetSpacing(), image.spacing[::-1])
    along_row, down_column = np.array(image.orientation[:3]), np.array(image.orientation[3:])
    expected = np.column_stack([along_row, down_column, np.cross(along_row, down_column)])
    np.testing.assert_allclose(np.reshape(read.GetDirection(), (3, 3)), expected, atol=1e-6)
    last = read.TransformIndexToPhysicalPoint((0, 0, len(image.pixels) - 1))
    np.testing.assert_allclose(last, [float(v) for v in image.sources[-1].ImagePositionPatient], atol=1e-3)


def test_an_oblique_slice_lies_where_itk_puts_the_dicom_file(tmp_path: Path) -> None:
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(CT_SMALL))
    dataset.ImageOrientationPatient = [0.8, 0.6, 0, 0, 0, -1]
    dataset.ImagePositionPatient = [1.5, -2.25, 30]
    dataset.save_as(tmp_path / "oblique.dcm")
    image = read_image((tmp_path / "oblique.dcm").read_bytes())
    write(tmp_path / "a.nrrd", image.pixels, Placement.of(image.meta()))
    ours = SimpleITK.ReadImage(str(tmp_path / "a.nrrd"))
    theirs = SimpleITK.ReadImage(str(tmp_path / "oblique.dcm"))
    np.testing.assert_allclose(ours.GetDirection(), theirs.GetDirection(), atol=1e-6)
    for corner in ((0, 0, 0), (127, 0, 0), (0, 127, 0)):
        np.testing.assert_allclose(
            ours.TransformIndexToPhysicalPoint(corner), theirs.TransformIndexToPhysicalPoint(corner), atol=1e-4
        )


def test_without_geometry_the_spacing_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "a.nrrd", np.zeros(SHAPE, np.float32), Placement.of({"spacing": (3.0, 2.0, 1.0)}))
    read = SimpleITK.ReadImage(str(tmp_path / "a.nrrd"))
    assert (read.GetSpacing(), read.GetOrigin()) == ((1.0, 2.0, 3.0), (0.0, 0.0, 0.0))


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("digits", range(1, 13))
def test_pixels_begin_at_a_page_however_long_the_header(tmp_path: Path, dtype: type, digits: int) -> None:
    pixels = np.arange(60, dtype=dtype).reshape(SHAPE)
    number = float("1." + "7" * digits)
    write(tmp_path / "a.nrrd", pixels, Placement((number, -number, 0.0), ((0, 0, number), (0, 1, 0), (1, 0, 0))))
    file = (tmp_path / "a.nrrd").read_bytes()
    assert file[HEADER_BYTES - 2 : HEADER_BYTES] == b"\n\n" and file.index(b"\n\n") == HEADER_BYTES - 2
    assert max(map(len, file[:HEADER_BYTES].split(b"\n"))) < 128
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "a.nrrd"))), pixels
    )
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd", SHAPE), pixels)


@given(
    pixels=arrays.arrays(
        st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]),
        arrays.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=6),
        elements={"allow_nan": False},
    ),
    compress=st.booleans(),
)
@settings(deadline=None)
def test_what_itk_writes_is_read(tmp_path_factory: pytest.TempPathFactory, pixels: Any, compress: bool) -> None:
    path = tmp_path_factory.mktemp("itk") / "a.nrrd"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels), str(path), useCompression=compress)
    read = read_volume(path, pixels.shape)
    assert read.dtype == pixels.dtype
    np.testing.assert_array_equal(read, pixels)


def test_a_slice_may_be_given_with_or_without_its_third_axis(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    for sizes, dimension in (("5 4", "2"), ("5 4 1", "3")):
        path.write_bytes(header(sizes=sizes, dimension=dimension) + bytes(range(20)))
        for shape in ((4, 5), (1, 4, 5)):
            np.testing.assert_array_equal(read_volume(path, shape).ravel(), np.arange(20))


def test_big_endian_numbers_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    pixels = np.arange(60).reshape(SHAPE)
    text = header(type="short", endian="big").replace(b"\n", b"\r\n")
    (tmp_path / "a.nrrd").write_bytes(text + pixels.astype(">i2").tobytes())
    read = read_volume(tmp_path / "a.nrrd", SHAPE)
    np.testing.assert_array_equal(read, pixels)
    assert read.dtype.isnative


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "does not begin with NRRD"),
        (b"\x89PNG\r\n", "does not begin with NRRD"),
        (b"NRRD0009\n\n", "does not begin with NRRD"),
        (header()[:-1], "no empty line"),
        (b"NRRD0004\n" + b"# x\n" * 20_000 + b"\n", "longer than 65536"),
        (header(type="quaternion"), "type"),
        (header(type=None), "type"),
        (header(encoding="bzip2"), "raw or gzip"),
        (header(type="short", endian=None), "endian"),
        (header(data_file="/etc/passwd"), "data file"),
        (header(byte_skip="-1"), "byte skip"),
        (header(dimension="4"), "dimension and sizes"),
        (header(sizes="5 4 -3"), "dimension and sizes"),
        (header(sizes="5 4 9999999999999"), "dimension and sizes"),
        (header(sizes="5 4 999999999"), "5 x 4 x 999999999 pixels, and the input 5 x 4 x 3"),
        (header(sizes="4 5 3"), "4 x 5 x 3 pixels"),
        (header(sizes="5 4"), "dimension and sizes"),
        (header().replace(b"dimension", b"type: uchar\ndimension"), "twice"),
        (header().replace(b"dimension", b"nonsense\ndimension"), "neither a field nor a comment"),
        (header() + bytes(59), "cut short: 59 bytes of pixels instead of 60"),
        (header(encoding="gzip") + gzip.compress(bytes(59), mtime=0), "cut short: 59"),
        (header(encoding="gzip") + gzip.compress(bytes(60), mtime=0)[:-12], "cut short"),
        (header(encoding="gzip") + b"no gzip at all", "broken"),
    ],
)
def test_a_bad_file_is_refused_with_its_fault(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.nrrd").write_bytes(content)
    assert said in refused(tmp_path / "a.nrrd")


def test_a_bomb_is_not_inflated(tmp_path: Path) -> None:
    import tracemalloc

    (tmp_path / "a.nrrd").write_bytes(header(encoding="gzip") + gzip.compress(bytes(2**28)))
    tracemalloc.start()
    read_volume(tmp_path / "a.nrrd", SHAPE)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def link_to_secret(path: Path) -> None:
    (path.parent / "secret").write_bytes(header() + bytes(60))
    path.symlink_to(path.parent / "secret")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "was not written"),
        (link_to_secret, "no plain file"),
        (os.mkfifo, "no plain file"),
        (Path.mkdir, "no plain file"),
    ],
)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], Any], said: str) -> None:
    make(tmp_path / "a.nrrd")
    began = time.monotonic()
    assert said in refused(tmp_path / "a.nrrd")
    assert time.monotonic() - began < 5


GOOD = header(type="short", content="x") + bytes(120)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=12))
@settings(deadline=None, max_examples=300)
def test_flipped_bytes_give_pixels_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, flips: Any) -> None:
    content = bytearray(GOOD)
    for place, value in flips:
        content[place] = value
    path = tmp_path_factory.getbasetemp() / f"flipped-{os.getpid()}.nrrd"
    path.write_bytes(content)
    try:
        assert read_volume(path, SHAPE).shape == SHAPE
    except AlgorithmFailed as error:
        assert error.code == "INVALID_RESULT" and error.message.isprintable()


@given(st.binary(max_size=400), st.sampled_from([b"", b"NRRD0004\n", header()[:-1]]))
@settings(deadline=None, max_examples=200)
def test_any_bytes_give_pixels_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, rest: bytes, start: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any-{os.getpid()}.nrrd"
    path.write_bytes(start + rest)
    try:
        assert read_volume(path, SHAPE).shape == SHAPE
    except AlgorithmFailed as error:
        assert error.code == "INVALID_RESULT"


def test_a_full_disk_is_said_before_a_byte_is_written(tmp_path: Path) -> None:
    with pytest.raises(AlgorithmFailed) as caught:
        create_volume(tmp_path / "a.nrrd", (2**20, 2**16, 2**16), np.float32)
    assert caught.value.code == "NO_SPACE"


def test_a_file_that_was_cut_is_noticed(tmp_path: Path) -> None:
    volume = create_volume(tmp_path / "a.nrrd", SHAPE, np.int16)
    assert volume.is_whole()
    os.truncate(tmp_path / "a.nrrd", 100)
    (tmp_path / "a.nrrd").unlink()
    (tmp_path / "a.nrrd").write_bytes(bytes(10_000))
    assert not volume.is_whole()


def test_the_headers_endian_is_this_machines(tmp_path: Path) -> None:
    write(tmp_path / "a.nrrd", np.zeros(SHAPE, np.int16), Placement.of({}))
    assert f"endian: {sys.byteorder}\n".encode() in (tmp_path / "a.nrrd").read_bytes()
