"""The whole platform over a real PACS: Orthanc."""

from __future__ import annotations

import re
import shlex
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from dicomweb_proxy import running_proxy
from medical_image_processing.entrypoints.client import Client
from orthanc import Orthanc, running_orthanc
from platform_process import CLI, Platform, clean_environment

pytestmark = pytest.mark.needs("Orthanc", "setpriv")

ROOT = Path(__file__).resolve().parents[2]
STUDY, SERIES = "1.2.826.0.1.3680043.10.543.1", "1.2.826.0.1.3680043.10.543.1.1"
ALGORITHM = {
    "algo_id": "processing_1",
    "image_uri": "local/worker",
    "cpu": 1024,
    "memory": 2048,
    "command": ["/app/worker.sh"],
}
WAIT_S = 60.0


def slices(count: int = 5, study: str = STUDY, series: str = SERIES) -> list[Any]:
    images = []
    for number in range(count):
        image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.ImagePositionPatient, image.InstanceNumber = [0, 0, 5.0 * number], number + 1
        images.append(image)
    return images


@pytest.fixture(scope="module")
def images() -> list[Any]:
    return slices()


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, images: list[Any]) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        running.store(images)
        yield running


@pytest.fixture(scope="module")
def platform(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    with Platform(folder / "home", pacs=orthanc.base, options=pacs_options(folder, orthanc)) as running:
        with running.client() as client:
            register(client)
        yield running


@pytest.fixture
def client(platform: Platform) -> Iterator[Client]:
    with platform.client() as client:
        yield client


def pacs_options(folder: Path, orthanc: Orthanc, password: str | None = None) -> list[str]:
    file = folder / "password"
    file.write_text(f"{password or orthanc.password}\n")
    return ["--pacs-user", orthanc.user, "--pacs-password-file", str(file)]


def register(client: Client, **more: Any) -> None:
    client.call("POST", "admin", "algorithms", body={**ALGORITHM, **more})
    await_that(lambda: client.call("GET", "admin", "algorithms", "processing_1")["status"] == "ACTIVE")


def await_that(condition: Any, timeout_s: float = WAIT_S) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def process(client: Client, *, series: str = SERIES, scope: str = "series", **more: Any) -> dict[str, Any]:
    pacs = {"study_id": STUDY, "series_id": series, **more.pop("pacs", {}), "scope": scope}
    job_id = client.call("POST", "process", "processing_1", body={"pacs": pacs, **more})["job_id"]
    return finished(client, job_id)


def finished(client: Client, job_id: str) -> dict[str, Any]:
    await_that(lambda: client.call("GET", "jobs", job_id)["finished_at"])
    return dict(client.call("GET", "jobs", job_id))


def settled(client: Client, job_id: str) -> dict[str, Any]:
    await_that(lambda: client.call("GET", "jobs", job_id)["stored"]["status"] != "pending")
    return dict(client.call("GET", "jobs", job_id)["stored"])


def stored_uids(orthanc: Orthanc) -> list[str]:
    answer = orthanc.client.get("/dicom-web/instances", params={"limit": 1000})
    return [item["00080018"]["Value"][0] for item in answer.json()]


def run(platform: Platform, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**clean_environment(), **platform.env}
    return subprocess.run([*CLI, *command], env=environment, capture_output=True, text=True, timeout=60)


def test_a_series_and_an_image_named_by_uids_become_results(client: Client, images: list[Any]) -> None:
    series = process(client)
    assert series["status"] == "SUCCEEDED", series["error"]
    assert sorted(series["result"]["provenance"]["input"]["sop_instance_uids"]) == sorted(
        image.SOPInstanceUID for image in images
    )
    image = process(client, scope="image", pacs={"image_id": images[2].SOPInstanceUID})
    assert image["status"] == "SUCCEEDED", image["error"]
    assert series["stored"] is None, "nobody asked for that"


def test_a4_each_image_of_a_series_is_on_record_with_its_job(client: Client, images: list[Any]) -> None:
    job = process(client)
    record = client.call("GET", "admin", "accesses", params={"job": job["job_id"]})
    read = [(one["algo_id"], one["study_uid"], one["series_uid"], one["image_uid"]) for one in record["accesses"]]
    assert sorted(read) == sorted(("processing_1", STUDY, SERIES, image.SOPInstanceUID) for image in images)


def test_paths_of_the_earlier_system_are_told_what_to_be(client: Client) -> None:
    pacs = {"study_id": "study-1", "series_id": "series-1", "image_id": "image-1"}
    job = process(client, scope="image", pacs=pacs)
    assert (job["status"], job["error"]["code"]) == ("FAILED", "IMAGE_NOT_FOUND")
    assert "DICOM UIDs" in job["error"]["message"]


def test_the_command_line_saves_every_output_and_says_that_they_are_stored(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    outputs = ["SC", "SEG", "SR"]
    client.call("PATCH", "admin", "algorithms", "processing_1", body={"outputs": outputs})
    try:
        await_that(lambda: client.call("GET", "admin", "algorithms", "processing_1")["status"] == "ACTIVE")
        names = ("--study", STUDY, "--series", SERIES, "--store", "--output", str(tmp_path / "all.dcm"))
        said = run(platform, "process", "processing_1", *names)
        assert said.returncode == 0, said.stderr
        assert re.search(r"^stored +done", said.stdout, re.MULTILINE), said.stdout
        files = [tmp_path / name for name in ("all.dcm", "all_seg.dcm", "all_sr.dcm")]
        assert [pydicom.dcmread(file).Modality for file in files] == ["OT", "SEG", "SR"]
    finally:
        client.call("PATCH", "admin", "algorithms", "processing_1", body={"outputs": ["SC"]})


def test_results_go_back_into_the_pacs_once(client: Client, orthanc: Orthanc) -> None:
    before = stored_uids(orthanc)
    job = process(client, store=True)
    assert settled(client, job["job_id"]) == {"status": "done", "attempts": 1, "error": None}
    [new] = set(stored_uids(orthanc)) - set(before)
    derived = orthanc.client.get("/dicom-web/instances", params={"SOPInstanceUID": new}).json()[0]
    assert derived["0020000D"]["Value"] == [STUDY], "it lies beside what it was made from"


def test_a_study_is_processed_and_shown_from_its_image_after_results_were_stored(
    platform: Platform, client: Client, orthanc: Orthanc, tmp_path: Path
) -> None:
    study = "1.2.826.0.1.3680043.10.543.4"
    [image] = slices(1, study, f"{study}.9")  # a tie by number, and the results' UIDs come before or after
    orthanc.store([image])
    client.call("PATCH", "admin", "algorithms", "processing_1", body={"outputs": ["SC", "SEG", "SR"]})
    try:
        await_that(lambda: client.call("GET", "admin", "algorithms", "processing_1")["status"] == "ACTIVE")
        for _ in range(2):
            job = process(client, scope="study", pacs={"study_id": study}, store=True)
            assert job["status"] == "SUCCEEDED", job["error"]
            assert job["result"]["provenance"]["input"]["sop_instance_uids"] == [image.SOPInstanceUID]
            assert settled(client, job["job_id"])["status"] == "done"
    finally:
        client.call("PATCH", "admin", "algorithms", "processing_1", body={"outputs": ["SC"]})
    of_series, of_study = tmp_path / "series.png", tmp_path / "study.png"
    for name, file in ((f"{study}.9", of_series), (study, of_study)):
        said = run(platform, "studies", name, "--picture", str(file))
        assert said.returncode == 0, said.stderr
    assert of_study.read_bytes() == of_series.read_bytes()


def test_a_record_says_that_all_results_are_stored_and_a_job_that_its_own_is_not(
    client: Client, orthanc: Orthanc
) -> None:
    client.call("PATCH", "admin", "algorithms", "processing_1", body={"store_results": True})
    try:
        assert settled(client, process(client)["job_id"])["status"] == "done"
        assert process(client, store=False)["stored"] is None
    finally:
        client.call("PATCH", "admin", "algorithms", "processing_1", body={"store_results": False})


def test_the_command_line_shows_no_patient(platform: Platform, client: Client) -> None:
    assert process(client)["status"] == "SUCCEEDED", "somebody has read the series"
    shown = run(platform, "studies", "--json")
    assert SERIES in shown.stdout and '"modality": "CT"' in shown.stdout
    assert "CompressedSamples" not in shown.stdout, "the patient's name is nobody's business"
    for command in (("studies",), ("accesses", "--study", STUDY)):
        done = run(platform, *command)
        assert done.returncode == 0, done.stderr
        assert {STUDY, SERIES} <= set(done.stdout.split()), "a name that is folded can't be copied"
    jobs = run(platform, "jobs", "list", "--json")
    assert '"stored"' in jobs.stdout


def test_the_pages_commands_run_as_written(platform: Platform, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "pacs.md").read_text()
    [session] = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    mip = " ".join(shlex.quote(part) for part in CLI)
    session = re.sub(r"^mip ", f"{mip} ", session, flags=re.MULTILINE)
    session = session.replace("SERIES_UID", SERIES).replace("STUDY_UID", STUDY)
    environment = {**clean_environment(), **platform.env}
    ran = subprocess.run(
        ["/bin/sh", "-eu", "-c", session],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "middle.png").exists() and (tmp_path / "result.dcm").exists()


def test_the_readme_s_session_over_a_pacs_runs_as_written(orthanc: Orthanc, tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    [start] = [block for block in blocks if "dicom-web" in block]
    [session] = [block for block in blocks if "--picture" in block]
    (tmp_path / "password").write_text(orthanc.password)
    options = shlex.split(start.replace("~/pacs-password", str(tmp_path / "password")))[2:]
    pacs = options[options.index("--pacs") + 1]
    assert pacs == "http://localhost:8042/dicom-web", "as in the issue"
    rest = [option for option in options if option not in ("--pacs", pacs, "--runtime", "process")]
    with Platform(tmp_path / "home", pacs=orthanc.base, options=rest) as platform:
        session = session.replace("SERIES_UID", SERIES).replace("STUDY_UID", STUDY)
        session = session.replace("~/.mip/env", str(platform.home / "env")).replace("./mip ", f"{ROOT / 'mip'} ")
        ran = subprocess.run(
            ["/bin/sh", "-eu", "-c", session],
            cwd=tmp_path,
            env=clean_environment(HOME=str(tmp_path)),
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    made = ("middle.png", "result.dcm", "result_seg.dcm", "result_sr.dcm")
    assert all((tmp_path / name).exists() for name in made)
    assert re.search(r"^stored +done", ran.stdout, re.MULTILINE)


def test_a1_what_an_algorithm_gets_tells_nothing_of_the_pacs(platform: Platform, orthanc: Orthanc) -> None:
    """Its environment and its process know neither address nor password; nor do the logs and the shell's file."""
    secret, port = orthanc.password, orthanc.base.split(":")[2].split("/")[0]
    workers = [
        process
        for process in Path("/proc").iterdir()
        if process.name.isdigit() and b"medical_image_processing.worker" in _read(process / "cmdline")
    ]
    ours = [worker for worker in workers if str(platform.home).encode() in _read(worker / "environ")] or workers
    assert ours
    for worker in ours:
        assert secret.encode() not in _read(worker / "environ")
        assert f":{port}/dicom-web".encode() not in _read(worker / "environ")
    for file in (platform.log, platform.home / "env", *platform.home.glob("logs/**/*.log")):
        said = file.read_text(errors="replace")
        assert secret not in said and f":{port}/dicom-web" not in said and SERIES not in said
    assert stat.S_IMODE((platform.home / "pacs-cache").stat().st_mode) == 0o700


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def test_what_a_person_forgot_is_named(platform: Platform, orthanc: Orthanc) -> None:
    forgotten = {**clean_environment(), **platform.env, "PACS_API_KEY": "wrong"}
    said = subprocess.run([*CLI, "studies"], env=forgotten, capture_output=True, text=True, timeout=60)
    assert (said.returncode, "set PACS_API_KEY" in said.stderr) == (1, True)
    other = slices(1, series=f"{SERIES}.9")
    other[0].SeriesDescription = "red\x1b[31m alert"
    orthanc.store(other)
    said = run(platform, "studies", STUDY)
    assert "alert" in said.stdout and "\x1b" not in said.stdout, "a header commands the terminal"
    assert "2004-01-19" in said.stdout


def test_a2_descriptions_are_for_the_operator_alone(platform: Platform) -> None:
    base = platform.env["PACS_API_BASE"]
    assert httpx.get(f"{base}/series").status_code == 401
    workers = platform.env["AWS_ENDPOINT_URL"]
    answer = httpx.get(f"{workers}/pacs/series", headers={"x-api-key": platform.env["PACS_API_KEY"]})
    assert answer.status_code == 401, "the operator's key opens nothing where workers call"


def test_health_says_that_the_pacs_answers(platform: Platform) -> None:
    await_that(lambda: httpx.get(f"{platform.base}/health").json().get("pacs") == "ok")


def test_a_pacs_that_is_down_at_the_start_only_delays(tmp_path: Path) -> None:
    with running_orthanc(tmp_path) as first:
        port = int(first.base.split(":")[2].split("/")[0])
    with Platform(tmp_path / "home", pacs=first.base, options=pacs_options(tmp_path, first)) as platform:
        with platform.client() as client:
            await_that(lambda: "PACS_UNAVAILABLE" in httpx.get(f"{platform.base}/health").json()["pacs"])
            register(client)
            pacs = {"study_id": STUDY, "series_id": SERIES, "scope": "series"}
            job_id = client.call("POST", "process", "processing_1", body={"pacs": pacs})["job_id"]
            with running_orthanc(tmp_path, port=port) as second:
                second.store(slices())
                job = finished(client, job_id)
        assert job["status"] == "SUCCEEDED", job["error"]
        assert "the PACS can't be used" in platform.log.read_text()
        assert "the PACS answers again" in platform.log.read_text()


def test_j1_a_result_is_stored_though_the_pacs_refuses_it_and_the_platform_is_killed(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    with running_proxy(orthanc.base) as proxy:
        platform = Platform(tmp_path / "home", pacs=proxy.base, options=pacs_options(tmp_path, orthanc))
        platform.start()
        try:
            proxy.refuse = lambda method, path: 503 if method == "POST" else None
            before = stored_uids(orthanc)
            with platform.client() as client:
                register(client, store_results=True)
                job = process(client)
                await_that(
                    lambda: (client.call("GET", "jobs", job["job_id"])["stored"]["error"] or {}).get("code")
                )
                stored = client.call("GET", "jobs", job["job_id"])["stored"]
            assert (stored["status"], stored["error"]["code"]) == ("pending", "PACS_UNAVAILABLE")
            platform.kill()
            proxy.refuse = lambda *_: None
            platform.start()
            with platform.client() as client:
                stored = settled(client, job["job_id"])
            assert stored["status"] == "done" and stored["attempts"] >= 2
            assert len(stored_uids(orthanc)) == len(before) + 1
        finally:
            platform.kill()
