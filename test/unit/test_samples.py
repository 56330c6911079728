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


def test_pip_may_remove_its_folders_while_they_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pip that does nothing but make and remove temporary folders, then gives up with a word of its own."""
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text(
        "import os, sys, tempfile, time\n"
        "end = time.monotonic() + 2\n"
        "while time.monotonic() < end:\n"
        "    folders = [tempfile.mkdtemp(prefix='pip-') for _ in range(50)]\n"
        "    [os.rmdir(folder) for folder in folders]\n"
        "sys.exit('that was all')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(Unavailable) as raised:
        samples.abdominal_ct(tmp_path / "cache", lambda done, total: None)
    assert "pip says: that was all" in raised.value.message


def test_a_cache_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(Unavailable) as raised:
        samples.abdominal_ct(occupied / "cache")
    assert raised.value.code == "SAMPLE_UNAVAILABLE"
