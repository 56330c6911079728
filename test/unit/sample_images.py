"""The images the tests of this folder share; a test that can't have them is skipped, and says so."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest

from medical_image_processing import samples
from medical_image_processing.errors import Unavailable

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
CT_SMALL = (TEST_FILES / "CT_small.dcm").read_bytes()
MR_SMALL = (TEST_FILES / "MR_small.dcm").read_bytes()


@cache
def abdominal_ct() -> list[bytes]:
    """The files of the abdominal CT, in the order of their names."""
    try:
        folder = samples.abdominal_ct(samples.default_cache())
    except Unavailable as error:
        pytest.skip(f"the abdominal CT is missing: {error}")
    return [file.read_bytes() for file in sorted(folder.iterdir())]


def chest_ct() -> list[bytes]:
    """The files of the chest CT. Not kept: they are 124 MB."""
    try:
        folder = samples.chest_ct(samples.default_cache())
    except Unavailable as error:
        pytest.skip(f"the chest CT is missing: {error}")
    return [file.read_bytes() for file in sorted(folder.iterdir())]


def abdominal_liver() -> npt.NDArray[np.bool_]:
    """The reference segmentation of the liver in it."""
    abdominal_ct()
    liver: npt.NDArray[np.bool_] = samples.abdominal_ct_reference(samples.default_cache()) == samples.LIVER_LABEL
    return liver


def dice(one: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> float:
    """Dice's coefficient of two masks."""
    first, second = one != 0, other != 0
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


@cache
def decoder_test(name: str) -> bytes:
    """One of pydicom's larger test files."""
    try:
        folder = samples.decoder_tests(samples.default_cache())
    except Unavailable as error:
        pytest.skip(f"pydicom's larger test files are missing: {error}")
    return (folder / name).read_bytes()
