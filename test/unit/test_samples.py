"""The samples arrive whole, once, and with UIDs."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from sample_images import abdominal_ct, abdominal_liver

from medical_image_processing import samples
from medical_image_processing.errors import Unavailable


def test_ct_small_is_always_there() -> None:
    assert samples.ct_small().read_bytes()[128:132] == b"DICM"


def test_the_abdominal_ct_is_twenty_slices_of_one_series_with_their_own_uids() -> None:
    assert len(abdominal_ct()) == 20
    folder = samples.abdominal_ct(samples.default_cache())
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in folder.iterdir()]
    assert {path.suffix for path in folder.iterdir()} == {".dcm"}
    assert len({header.SOPInstanceUID for header in headers}) == 20
    assert len({header.SeriesInstanceUID for header in headers}) == 1
    assert all(
        header.StudyInstanceUID.is_valid and header.SOPClassUID.name == "CT Image Storage" for header in headers
    )


def test_the_reference_lies_over_the_images() -> None:
    assert abdominal_liver().shape == (20, 512, 512)
    assert abdominal_liver().sum() == 366_708


def test_a_sample_that_cannot_be_had_is_unavailable_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(Unavailable) as raised:
        samples.abdominal_ct(tmp_path / "cache")
    assert raised.value.code == "SAMPLE_UNAVAILABLE"
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(Unavailable) as raised:
        samples.abdominal_ct(occupied / "cache")
    assert raised.value.code == "SAMPLE_UNAVAILABLE"
