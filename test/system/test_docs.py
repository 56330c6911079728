"""README and docs/operation.md hold what they say: their commands and code run here."""

import os
import re
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from medical_image_processing.processing.base import check_result
from platform_process import Platform

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
OPERATION = (ROOT / "docs" / "operation.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.needs("curl")
def test_the_readme_s_shell_session_works_as_written(platform: Platform, tmp_path: Path) -> None:
    source = pydicom.dcmread(get_testdata_file("CT_small.dcm"), stop_before_pixels=True)
    (session,) = [block for block in blocks(README, "sh") if "/admin/algorithms" in block]
    script = (
        session.replace("~/.mip/env", str(platform.home / "env"))
        .replace("./mip ", f"{ROOT / 'mip'} ")
        .replace("STUDY_UID", str(source.StudyInstanceUID))
        .replace("SERIES_UID", str(source.SeriesInstanceUID))
    )
    ran = subprocess.run(
        ["/bin/sh", "-eu", "-c", script],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert str(source.StudyInstanceUID) in ran.stdout
    assert pydicom.dcmread(tmp_path / "result.dcm").StudyInstanceUID == source.StudyInstanceUID


def test_the_readme_s_algorithm_runs() -> None:
    (code,) = blocks(README, "python")
    names: dict[str, type] = {}
    exec(code, names)
    image = np.array([[0, 301], [299, 4000]], np.int16)
    mask = check_result(names["Threshold"]().run(image), image)
    assert mask.tolist() == [[0, 1], [0, 1]]
    assert len(code.splitlines()) <= 15


def test_every_page_the_readme_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_query_for_who_did_what_answers(platform: Platform) -> None:
    (query,) = re.findall(r'mip\.db "(SELECT .*)"', OPERATION)
    with sqlite3.connect(f"file:{platform.home / 'mip.db'}?mode=ro", uri=True) as file:
        assert file.execute(query).description is not None
