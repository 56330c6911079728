"""Bad input, broken surroundings and badly behaved algorithms: each ends in a stated error and loses nothing."""

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file

from api_calls import IMAGE, Api, add_to_pacs, error_of, make_pacs, receive, until
from medical_image_processing.testing import puppet
from platform_process import CLI, Platform, clean_environment, unconfined


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad-input")


@pytest.fixture(scope="module")
def api(folder: Path) -> Iterator[Api]:
    with Platform(folder / "home", pacs=make_pacs(folder / "pacs"), options=unconfined(folder)) as platform:
        api = Api(platform)
        api.register("puppet", env=puppet.install(folder / "site"))
        yield api


# Callers


@pytest.mark.parametrize("key", [None, "", "wrong", "dev-admi", "dev-adminx", "\xff"], ids=repr)
def test_a_wrong_or_missing_admin_key(api: Api, key: str | None) -> None:
    stranger = Api(api.platform, admin_key=None)
    headers = {} if key is None else {"x-admin-key": key.encode("latin-1")}
    calls = [
        ("GET", "/admin/algorithms"),
        ("POST", "/admin/algorithms"),
        ("GET", "/admin/algorithms/puppet"),
        ("PATCH", "/admin/algorithms/puppet"),
        ("DELETE", "/admin/algorithms/puppet"),
        ("DELETE", "/admin/algorithms/puppet?hard=true&force=true"),
        ("GET", "/admin/algorithms/puppet/logs"),
        ("POST", "/admin/jobs/some-job/replay"),
        ("POST", "/admin/keys"),
        ("GET", "/admin/keys"),
        ("DELETE", "/admin/keys/some-key"),
    ]
    for method, path in calls:
        body = {"json": {}} if method in ("POST", "PATCH") else {}
        answer = stranger.http.request(method, path, headers=headers, **body)
        assert (answer.status_code, error_of(answer)) == (401, "ADMIN_KEY_REQUIRED"), path
    assert api.record("puppet")["status"] == "ACTIVE"


def test_an_unknown_algorithm(api: Api) -> None:
    for answer in (
        api.post("/process/nobody", {"pacs": IMAGE}),
        api.get("/admin/algorithms/nobody"),
        api.http.patch("/admin/algorithms/nobody", json={"cpu": 1024}),
        api.http.delete("/admin/algorithms/nobody"),
        api.get("/admin/algorithms/nobody/logs"),
    ):
        assert (answer.status_code, error_of(answer)) == (404, "UNKNOWN_ALGORITHM")
    assert api.get("/jobs/no-such-job").status_code == 404


def test_an_algorithm_that_is_not_active(api: Api) -> None:
    api.register("idle", desired_count=0, wait_for="INACTIVE")
    api.register("cannot", command=["/bin/sh"], wait_for="FAILED")
    assert "--allow-commands" in api.record("cannot")["status_reason"]
    api.register("no-such-processor", wait_for="FAILED")
    assert "UNKNOWN_PROCESSOR" in api.record("no-such-processor")["status_reason"]
    for algo_id in ("idle", "cannot", "no-such-processor"):
        answer = api.post(f"/process/{algo_id}", {"pacs": IMAGE})
        assert (answer.status_code, error_of(answer)) == (409, "ALGORITHM_NOT_ACTIVE")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"study_id": "../../etc"}, "study_id"),
        ({"study_id": "a/../b"}, "study_id"),
        ({"study_id": "/etc/passwd"}, "study_id"),
        ({"study_id": "study-1/"}, "study_id"),
        ({"series_id": ".."}, "series_id"),
        ({"image_id": "%2e%2e"}, "image_id"),
        ({"image_id": "a b"}, "image_id"),
        ({"image_id": "x" * 513}, "image_id"),
        ({"image_id": "x\0"}, "image_id"),
        ({"study_id": ""}, "study_id"),
        ({"scope": "everything"}, "scope"),
        ({"image_id": None}, "image_id"),
    ],
    ids=str,
)
def test_ids_that_are_no_ids_are_refused_by_name(api: Api, change: dict[str, Any], field: str) -> None:
    answer = api.post("/process/puppet", {"pacs": {**IMAGE, **change}})
    assert (answer.status_code, error_of(answer)) == (422, "INVALID_REQUEST")
    assert field in answer.text


# Images


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"study_id": "nowhere"}, "IMAGE_NOT_FOUND"),
        ({"series_id": "nowhere"}, "IMAGE_NOT_FOUND"),
        ({"image_id": "nowhere"}, "IMAGE_NOT_FOUND"),
        ({"study_id": "nowhere", "scope": "series"}, "SERIES_NOT_FOUND"),
        ({"series_id": "nowhere", "scope": "series"}, "SERIES_NOT_FOUND"),
        ({"study_id": "nowhere", "scope": "study"}, "STUDY_NOT_FOUND"),
    ],
    ids=str,
)
def test_what_is_not_in_the_pacs(api: Api, change: dict[str, str], code: str) -> None:
    assert api.fails("puppet", pacs={**IMAGE, **change}) == code


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("JPEG2000-embedded-sequence-delimiter", {"UNDECODABLE_PIXELS"}),
        ("badVR", {"BAD_HEADER"}),
        ("MR_truncated", {"UNDECODABLE_PIXELS"}),
        ("nested_priv_SQ", {"BAD_HEADER"}),
        ("meta_missing_tsyntax", {"BAD_HEADER"}),
        ("rtplan", {"NO_PIXELS"}),
        ("reportsi", {"NO_PIXELS"}),
        ("no_meta", {"NOT_DICOM", "IMAGE_NOT_FOUND", "STUDY_NOT_FOUND", "SERIES_NOT_FOUND"}),
    ],
)
def test_a_broken_file(api: Api, folder: Path, name: str, codes: set[str]) -> None:
    pacs = add_to_pacs(folder / "pacs", name, str(get_testdata_file(f"{name}.dcm", download=False)))
    assert api.fails("puppet", pacs=pacs) in codes


def test_files_that_are_no_images_at_all(api: Api, folder: Path, tmp_path: Path) -> None:
    image = (folder / "pacs/study-1/series-1/image-1.dcm").read_bytes()
    broken = {
        "text": b"this is not an image\n",
        "empty": b"",
        "preamble": bytes(128) + b"DICM",
        "noise": bytes(128) + b"DICM" + bytes(range(256)) * 40,
        "half": image[: len(image) // 2],
        "zeros": image[:200] + bytes(len(image) - 200),
    }
    jobs = []
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        jobs.append(api.process("puppet", pacs=add_to_pacs(folder / "pacs", name, tmp_path / name)))
    file = pydicom.dcmread(folder / "pacs/study-1/series-1/image-1.dcm")
    del file.file_meta.TransferSyntaxUID
    file.save_as(tmp_path / "no-syntax", enforce_file_format=False)
    jobs.append(api.process("puppet", pacs=add_to_pacs(folder / "pacs", "no-syntax", tmp_path / "no-syntax")))
    for job_id in jobs:
        job = api.until_ended(job_id)
        assert (job["status"], job["attempts"]) == ("FAILED", 1)
        code = job["error"]["code"]
        assert code.endswith("NOT_FOUND") or code in ("NOT_DICOM", "BAD_HEADER", "NO_PIXELS", "UNDECODABLE_PIXELS")
    api.succeeds("puppet")


def test_folders_pipes_and_links_with_an_images_name(api: Api, folder: Path) -> None:
    odd = folder / "pacs/odd/series"
    (odd / "folder.dcm").mkdir(parents=True)
    os.mkfifo(odd / "pipe.dcm")
    (odd / "dangling.dcm").symlink_to("/no/such/file")
    (odd / "outside.dcm").symlink_to("/etc/passwd")
    where = {"study_id": "odd", "series_id": "series", "scope": "image"}
    names = ("folder", "pipe", "dangling", "outside")
    for job_id in [api.process("puppet", pacs={**where, "image_id": name}) for name in names]:
        assert api.until_ended(job_id)["error"]["code"] == "IMAGE_NOT_FOUND"
    api.succeeds("puppet")


def test_a_file_that_is_removed_between_post_and_fetch(api: Api, folder: Path) -> None:
    pacs = add_to_pacs(folder / "pacs", "fleeting", str(get_testdata_file("CT_small.dcm")))
    api.succeeds("puppet", pacs=pacs)
    (folder / "pacs/odd/series/fleeting.dcm").unlink()
    assert api.fails("puppet", pacs=pacs) == "IMAGE_NOT_FOUND"


# Algorithms


@pytest.mark.parametrize(
    ("act", "code"),
    [
        ("raise", "ALGORITHM_RAISED"),
        ("exit", "ALGORITHM_RAISED"),
        ("fill memory", "ALGORITHM_RAISED"),
        ("recurse", "ALGORITHM_RAISED"),
        ("nonsense", "INVALID_RESULT"),
        ("no such act", "ALGORITHM_RAISED"),
    ],
)
def test_an_algorithm_that_fails_fails_its_job_at_once(api: Api, act: str, code: str) -> None:
    job_id = api.process("puppet", do=act)
    job = api.until_ended(job_id)
    assert (job["status"], job["error"]["code"], job["attempts"]) == ("FAILED", code, 1)
    assert "PUPPET^SECRET" not in str(job)
    api.succeeds("puppet")


def test_an_algorithm_that_hangs_past_its_limit(api: Api, folder: Path) -> None:
    """Its next jobs have a limit that no machine is too slow for."""
    env = puppet.install(folder / "site")
    api.register("puppet-2", env={**env, "MIP_TIME_LIMIT_S": "1"})
    assert api.fails("puppet-2", do="hang") == "TIME_LIMIT_EXCEEDED"
    until(lambda: "ready" in log_after_the_hang(api), "another worker is there")
    assert api.record("puppet-2")["status"] == "ACTIVE"
    assert api.http.patch("/admin/algorithms/puppet-2", json={"env": env}).status_code == 200
    api.succeeds("puppet-2")


def log_after_the_hang(api: Api) -> str:
    lines = api.get("/admin/algorithms/puppet-2/logs", lines=200).json()["lines"]
    return "\n".join(lines).partition("the job hangs, and the worker ends")[2]


@pytest.mark.parametrize("act", ["die", "leave"])
def test_an_algorithm_that_takes_its_worker_along_is_given_up_after_three_attempts(api: Api, act: str) -> None:
    with api.listen(f"mourner-{act}") as listening:
        bad = api.process("puppet", client_id=f"mourner-{act}", do=act)
        good = [api.process("puppet", client_id=f"mourner-{act}") for _ in range(5)]
        results = {result["job_id"]: result for result in receive(listening, 6)}
    assert results[bad]["error"]["code"] == "DEAD_LETTERED"
    assert api.job(bad)["attempts"] == 3
    for job_id in good:
        assert results[job_id]["status"] == "SUCCEEDED", "a neighbour went down with it"
        assert api.job(job_id)["attempts"] <= 2
    assert api.record("puppet")["status"] == "ACTIVE"


def test_a_job_whose_worker_died_once_succeeds_at_the_next_attempt(api: Api, tmp_path: Path) -> None:
    job = api.succeeds("puppet", do="die once", file=str(tmp_path / "died"))
    assert job["attempts"] == 2


def test_a_dead_letter_is_replayed_once_its_cause_is_gone(api: Api, tmp_path: Path) -> None:
    # The folder of the file is missing, so that each attempt dies; then it is there.
    where = tmp_path / "later" / "file"
    job_id = api.process("puppet", do="die until", file=str(where))
    assert api.until_ended(job_id)["error"]["code"] == "DEAD_LETTERED"
    where.parent.mkdir()
    where.touch()
    answer = api.post(f"/admin/jobs/{job_id}/replay")
    assert answer.status_code == 202
    job = api.until_ended(job_id)
    assert (job["status"], job["error"]) == ("SUCCEEDED", None)
    again = api.post(f"/admin/jobs/{job_id}/replay")
    assert (again.status_code, error_of(again)) == (409, "NOT_REPLAYABLE")


# Surroundings


def test_a_pacs_that_is_away_for_a_moment_costs_no_job(api: Api, folder: Path) -> None:
    api.succeeds("puppet")
    (folder / "pacs").rename(folder / "away")
    try:
        jobs = [api.process("puppet"), api.process("puppet", pacs={**IMAGE, "image_id": "image-2"})]
        for job_id in jobs:
            until(lambda job_id=job_id: api.job(job_id)["error"] is not None, "the trouble is on record")
            job = api.job(job_id)
            assert job["status"] in ("QUEUED", "RUNNING"), job["error"]
    finally:
        (folder / "away").rename(folder / "pacs")
    for job_id in jobs:
        job = api.until_ended(job_id)
        assert (job["status"], job["error"]) == ("SUCCEEDED", None)
        assert job["attempts"] > 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 256 KiB, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_is_full_of_output_costs_no_job_once_there_is_room(
    folder: Path, tmp_path: Path, small_disk: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "output").symlink_to(small_disk)
    ballast = small_disk / "ballast"
    with Platform(home, pacs=folder / "pacs", options=unconfined(folder)) as platform:
        api = Api(platform)
        api.register("puppet", env=puppet.install(folder / "site"))
        with contextlib.suppress(OSError):
            ballast.write_bytes(bytes(1 << 20))
        job_id = api.process("puppet")
        until(lambda: api.job(job_id)["error"] is not None, "the trouble is on record")
        job = api.job(job_id)
        assert job["status"] in ("QUEUED", "RUNNING")
        assert "disk full" in job["error"]["message"], job["error"]
        ballast.unlink()
        job = api.until_ended(job_id)
        assert job["status"] == "SUCCEEDED", job["error"]
        content = api.download(job["result"]["dicom"]["url"])
        assert content[128:132] == b"DICM"
        leftovers = [path for path in small_disk.rglob("*") if path.is_file() and path.suffix != ".dcm"]
        assert not leftovers, "half-written uploads stay behind"


def test_an_algorithm_has_workers_again_once_a_full_disk_has_room(
    folder: Path, tmp_path: Path, small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    home, ballast, pids = small_disk / "home", small_disk / "ballast", tmp_path / "pids"
    with Platform(home, pacs=make_pacs(tmp_path / "pacs"), options=unconfined(folder)) as platform:
        api = Api(platform)
        api.register("puppet", env=puppet.install(folder / "site"))
        api.process("puppet", do="sleep", seconds=600, file=str(pids))
        until(lambda: pids.exists() and pids.read_text().endswith("\n"), "the job runs")
        with contextlib.suppress(OSError):
            ballast.write_bytes(bytes(1 << 24))
        os.kill(int(pids.read_text()), signal.SIGKILL)
        until(lambda: "come back only when their leases end" in platform.tail(), "its death is noticed")
        ballast.unlink()
        job = api.until_ended(api.process("puppet"))
        assert job["status"] == "SUCCEEDED", job["error"]


@pytest.mark.parametrize("name", ["PYTHONPATH", "LD_PRELOAD", "PATH"])
def test_an_env_that_chooses_what_code_runs_outside_a_container(platform: Platform, name: str) -> None:
    api, algo_id = Api(platform), f"chooser-{name.lower()}"
    record = api.register(algo_id, env={name: "/tmp"}, wait_for="FAILED")
    assert name in record["status_reason"]


# Starting


def mip_up(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A start that must fail, quickly."""
    return subprocess.run(
        [*CLI, "up", *arguments],
        env=clean_environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """What a refused start said: one plain statement, no traceback."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_a_home_that_is_in_use(api: Api, folder: Path) -> None:
    said = refusal(mip_up("--home", str(folder / "home"), "--port", "0", "--pacs", str(folder / "pacs")))
    assert str(api.platform.pid) in said and "--home" in said
    assert (folder / "home/env").exists(), "the running platform lost its env file"
    api.succeeds("puppet")


def test_a_port_that_is_taken(folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refusal(mip_up("--home", str(tmp_path / "home"), "--port", port, "--pacs", str(folder / "pacs")))
    assert port in said and "--port" in said


def test_starts_that_cannot_work(folder: Path, tmp_path: Path) -> None:
    pacs = ["--pacs", str(folder / "pacs"), "--port", "0"]
    home = ["--home", str(tmp_path / "home")]
    (tmp_path / "file").write_text("NAME no-digest\n")
    keys = ["--client-keys", str(tmp_path / "file")]
    for arguments, hint in (
        (["--home", str(tmp_path / "file"), *pacs], "--home"),
        (["--home", "/proc/nowhere", *pacs], "--home"),
        ([*home, *pacs, "--host", "0.0.0.0"], "--client-keys"),
        ([*home, *pacs, "--host", "203.0.113.77", "--open-clients"], "203.0.113.77"),
        ([*home, *pacs, "--host", "0.0.0.0", *keys], "line 1"),
        ([*home, *pacs, "--client-keys", str(tmp_path / "missing")], "missing"),
        ([*home, "--port", "0", "--pacs", str(tmp_path / "missing")], "--pacs"),
        ([*home, *pacs, "--allow-commands", str(tmp_path / "missing")], "--allow-commands"),
    ):
        assert hint in refusal(mip_up(*arguments)), arguments
    outside = [*home, *pacs, "--host", "0.0.0.0", "--open-clients"]
    assert "MIP_ADMIN_KEY" in refusal(mip_up(*outside, MIP_ADMIN_KEY="dev-admin"))


def test_a_database_of_a_newer_platform_or_of_something_else(folder: Path, tmp_path: Path) -> None:
    for name, content in (("newer", None), ("other", b"this is no database, but quite a long text" * 200)):
        home = tmp_path / name
        home.mkdir()
        if content is None:
            with sqlite3.connect(home / "mip.db") as file:
                file.execute("PRAGMA user_version = 9999")
        else:
            (home / "mip.db").write_bytes(content)
        said = refusal(mip_up("--home", str(home), "--port", "0", "--pacs", str(folder / "pacs")))
        assert "database" in said


def test_secrets_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "secrets.json").write_text("{ not json")
    said = refusal(mip_up("--home", str(home), "--port", "0", "--pacs", str(folder / "pacs")))
    assert "secrets.json" in said
    shutil.rmtree(home)
