"""The README's pictures are made by the command that it names, of a phantom that is valid DICOM."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from web_client import built_client

from platform_process import clean_environment

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
MOST_BYTES = 250_000
LIMIT_S = 240


def colour(picture: Path) -> np.ndarray:
    """How much more red than blue each pixel has: 0 where it is gray."""
    pixels = np.asarray(Image.open(picture).convert("RGB"), int)
    return pixels[..., 0] - pixels[..., 2]


def test_the_pictures_show_a_result_beside_its_original(tmp_path: Path) -> None:
    built_client()
    [command] = re.findall(r"`python (docs/make_pictures\.py)`", (DOCS / "web-client.md").read_text())
    done = subprocess.run(
        [sys.executable, ROOT / command, tmp_path],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("result.png", "web-client.png"):
        made, kept = tmp_path / name, DOCS / name
        assert Image.open(made).size == Image.open(kept).size
        assert kept.stat().st_size <= MOST_BYTES and made.stat().st_size <= MOST_BYTES
        for picture in (made, kept):
            # The overlay is as large as a liver, and lies over the result alone.
            left, _, right = np.array_split(colour(picture)[:, :930] > 30, 3, axis=1)
            assert right.sum() + _.sum() > 10_000 and left.sum() < 1_000
    assert Image.open(DOCS / "web-client.png").width == 1280
    assert "docs/web-client.png" in (ROOT / "README.md").read_text()


@pytest.mark.needs("dciodvfy")
def test_the_phantom_is_a_valid_series_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    import phantom

    phantom.write_series(tmp_path)
    files = sorted(tmp_path.glob("*.dcm"))
    assert len(files) == phantom.SLICES
    for file in (files[0], files[-1]):
        said = subprocess.run(["dciodvfy", file], capture_output=True, text=True, timeout=60, check=False)
        assert "Error" not in said.stdout + said.stderr
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    assert {str(header.PatientName) for header in headers} == {"Phantom"}
    assert len({header.SOPInstanceUID for header in headers}) == len(files)
    assert len({header.SeriesInstanceUID for header in headers}) == 1
