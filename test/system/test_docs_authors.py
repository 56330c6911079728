"""docs/algorithm-authors.md holds what it says: its commands and code run here."""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pydicom
import pytest

from docker_engine import DockerEngine
from medical_image_processing import samples
from medical_image_processing.entrypoints.verdicts import Observation, judge
from medical_image_processing.processing.base import check_result
from platform_process import Platform

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "algorithm-authors.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def docker_platform(docker_engine: DockerEngine, small_pacs: Path, tmp_path: Path) -> Iterator[Platform]:
    environment = docker_engine.environment
    with Platform(tmp_path / "home", pacs=small_pacs, runtime="docker", environment=environment) as running:
        yield running


def test_the_page_s_commands_work_as_written(
    docker_engine: DockerEngine, docker_platform: Platform, debian_image: str, mip_base_image: str, tmp_path: Path
) -> None:
    source = pydicom.dcmread(samples.ct_small(), stop_before_pixels=True)
    script = "".join(blocks("sh"))
    # No image can be pulled here, and a person's mip-base:latest is left alone.
    script = re.sub(r"mip build \S+", rf"\g<0> --base {debian_image} --tag {mip_base_image}", script)
    script = re.sub(r"mip check \S+", rf"\g<0> --base {mip_base_image}", script)
    script = (
        script.replace("containers/base", str(ROOT / "containers" / "base"))
        .replace("~/.mip/env", str(docker_platform.home / "env"))
        .replace("STUDY_UID", str(source.StudyInstanceUID))
        .replace("SERIES_UID", str(source.SeriesInstanceUID))
    )
    script = re.sub(r"^mip ", f"{ROOT / 'mip'} ", script, flags=re.MULTILINE)
    ran = subprocess.run(
        ["/bin/sh", "-eu", "-c", script],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **docker_engine.environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "keeps its credentials" in ran.stdout
    assert pydicom.dcmread(tmp_path / "result.dcm").StudyInstanceUID == source.StudyInstanceUID


def test_the_page_s_algorithm_runs() -> None:
    (code,) = blocks("python")
    names: dict[str, type] = {}
    exec(code, names)
    image = np.array([[0, 201], [199, 4000]], np.int16)
    algorithm = names["Bright"]()
    assert check_result(algorithm.run(image), image).tolist() == [[0, 1], [0, 1]]
    assert check_result(algorithm.run(image, {"parameters": {"above": 300}}), image).sum() == 1


def test_every_check_is_on_the_page() -> None:
    given = {field.name: "" for field in fields(Observation) if field.type == "str"}
    seen = Observation(**given, time_limit_s=1, budget_s=1)
    for verdict in judge(seen):
        assert f"\n| {verdict.check} |" in PAGE
