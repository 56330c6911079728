"""README, the example's page and docs/operation.md hold what they say: their commands and code run here."""

import json
import os
import re
import shlex
import sqlite3
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from api_calls import Api, make_pacs
from docker_engine import DockerEngine
from medical_image_processing.processing.base import check_result
from platform_process import Platform, unconfined

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLE_FOLDER = ROOT / "examples" / "threshold_processor"
EXAMPLE = (EXAMPLE_FOLDER / "README.md").read_text()
GRAYSCALE = "mip-test-algos:grayscale"
OPERATION = (ROOT / "docs" / "operation.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def shell(script: str, folder: Path, **environment: str) -> str:
    """Run a page's commands as a person would, in ``folder``; what they printed."""
    ran = subprocess.run(
        ["/bin/sh", "-eu", "-c", script.replace("./mip ", f"{ROOT / 'mip'} ")],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.needs("curl")
def test_the_readme_s_shell_session_works_as_written(platform: Platform, tmp_path: Path) -> None:
    source = pydicom.dcmread(get_testdata_file("CT_small.dcm"), stop_before_pixels=True)
    (session,) = [block for block in blocks(README, "sh") if '"processing_1"' in block]
    said = shell(
        session.replace("~/.mip/env", str(platform.home / "env"))
        .replace("STUDY_UID", str(source.StudyInstanceUID))
        .replace("SERIES_UID", str(source.SeriesInstanceUID)),
        tmp_path,
    )
    assert str(source.StudyInstanceUID) in said
    assert pydicom.dcmread(tmp_path / "result.dcm").StudyInstanceUID == source.StudyInstanceUID


@pytest.mark.needs("curl")
def test_the_readme_s_native_algorithm_runs_in_a_container(
    docker_engine: DockerEngine, debian_image: str, mip_base_image: str, small_pacs: Path, tmp_path: Path
) -> None:
    source = pydicom.dcmread(get_testdata_file("CT_small.dcm"), stop_before_pixels=True)
    (session,) = [block for block in blocks(README, "sh") if '"grayscale_cpp"' in block]
    # No image can be pulled here, and a person's own images are left alone.
    for folder, base, tag in (("base", debian_image, mip_base_image), ("grayscale", mip_base_image, GRAYSCALE)):
        session = session.replace(
            f"containers/{folder} ", f"{ROOT / 'containers' / folder} --base {base} --tag {tag} "
        )
    environment = docker_engine.environment
    with Platform(tmp_path / "home", pacs=small_pacs, runtime="docker", environment=environment) as running:
        shell(
            session.replace('mip-algos:grayscale"', f'{GRAYSCALE}"')
            .replace("~/.mip/env", str(running.home / "env"))
            .replace("STUDY_UID", str(source.StudyInstanceUID))
            .replace("SERIES_UID", str(source.SeriesInstanceUID)),
            tmp_path,
            **environment,
        )
    assert pydicom.dcmread(tmp_path / "gray.dcm").PhotometricInterpretation == "MONOCHROME2"


@pytest.mark.needs("curl")
def test_the_example_s_commands_register_it_and_send_it_an_image(tmp_path: Path) -> None:
    install, register, send = blocks(EXAMPLE, "sh")
    (package,) = re.findall(r"^pip install \./(\S+)$", install, flags=re.MULTILINE)
    assert (ROOT / package / "pyproject.toml").is_file()
    # In place of pip, so that nothing is left in this environment: the package as installed, found by its env.
    env = {"PYTHONPATH": f"{installed_example(tmp_path)}:{ROOT / package / 'src'}"}
    command = '"command": ["/app/worker.sh"]'
    assert command in register
    register = register.replace(command, f'{command}, "env": {json.dumps(env)}')
    pacs = make_pacs(tmp_path / "pacs")
    with Platform(tmp_path / "home", pacs=pacs, options=unconfined(tmp_path)) as running:
        api, variables = Api(running), f". {running.home / 'env'}\n"
        shell(variables + register, tmp_path)
        api.until_status("threshold", "ACTIVE")
        job = api.until_ended(json.loads(shell(variables + send, tmp_path))["job_id"])
    assert job["status"] == "SUCCEEDED", job["error"]


def installed_example(folder: Path) -> Path:
    """What pip would make of the example's entry point."""
    project = tomllib.loads((EXAMPLE_FOLDER / "pyproject.toml").read_text())["project"]
    ((group, points),) = project["entry-points"].items()
    metadata = folder / "site" / "threshold_processor-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
    lines = "".join(f"{name} = {target}\n" for name, target in points.items())
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{lines}")
    return metadata.parent


def test_the_commands_that_let_other_machines_in_do_so(
    tmp_path: Path, small_pacs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = [block for block in blocks(OPERATION, "sh") if "--host 0.0.0.0" in block]
    add, up = block.splitlines()
    key = re.search(r"mip-client-\S+", shell(add, tmp_path))
    assert key is not None
    monkeypatch.chdir(tmp_path)
    program, command, *options = shlex.split(up, comments=True)
    assert (program, command) == ("./mip", "up")
    with Platform(tmp_path / "home", pacs=small_pacs, options=options) as running:
        assert Api(running, admin_key=None, client_key=key.group()).get("/jobs").status_code == 200
        assert Api(running, admin_key=None).get("/jobs").status_code == 401


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
