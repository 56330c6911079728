"""The command line against a platform that runs: what a person types, and what a program reads."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pydicom
import pytest
from typer.testing import CliRunner, Result

from medical_image_processing import samples
from medical_image_processing.entrypoints.cli import app
from medical_image_processing.entrypoints.cli_output import clock
from platform_process import CLI, Platform, clean_environment

IMAGE = "mip-algos:processing_1"
"""As in the README, whose session may have registered it on the same platform."""


class Mip:
    """``mip`` pointed at one platform."""

    def __init__(self, platform: Platform, **env: str) -> None:
        keys = {"MIP_ADMIN_KEY": platform.env["MIP_ADMIN_KEY"], "MIP_CLIENT_KEY": ""}
        self._env = {"MIP_API_BASE": platform.base, "COLUMNS": "80", **keys, **env}

    def run(self, *arguments: str) -> Result:
        return CliRunner(env=self._env).invoke(app, arguments, prog_name="mip")

    def json(self, *arguments: str) -> Any:
        answer = self.run(*arguments, "--json")
        assert answer.exit_code == 0, answer.stderr
        return json.loads(answer.stdout)

    def fails(self, *arguments: str) -> dict[str, str]:
        answer = self.run(*arguments, "--json")
        assert answer.exit_code == 1, answer.output
        error: dict[str, str] = json.loads(answer.stderr)["error"]
        return error

    def text(self, *arguments: str) -> str:
        """What people see: no line is wider than their terminal, and nothing is coloured in a pipe."""
        answer = self.run(*arguments)
        assert answer.exit_code == 0, answer.stderr
        assert max(map(len, answer.stdout.splitlines()), default=0) <= 80
        assert "\x1b" not in answer.stdout
        return answer.stdout


def test_a_port_that_is_taken_is_named_once(platform: Platform, tmp_path: Path) -> None:
    command = [*CLI, "up", "--home", str(tmp_path / "home"), "--port", str(platform.port), "--pacs", str(tmp_path)]
    done = subprocess.run(
        [*command, "--runtime", "process"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert f"can't listen on 127.0.0.1 port {platform.port}" in said
    assert said.count("127.0.0.1") == 1, said


@pytest.fixture(scope="module")
def mip(platform: Platform) -> Mip:
    return Mip(platform)


@pytest.fixture(scope="module")
def ct() -> list[str]:
    """The options that name pydicom's small CT."""
    header = pydicom.dcmread(samples.ct_small(), stop_before_pixels=True)
    return [
        *("--study", header.StudyInstanceUID),
        *("--series", header.SeriesInstanceUID),
        *("--image", header.SOPInstanceUID),
    ]


@pytest.fixture(scope="module")
def algorithm(mip: Mip) -> str:
    """processing_1, ACTIVE."""
    record = mip.json("algorithms", "register", "processing_1", "--image", IMAGE, "--wait", "--timeout", "30")
    assert record["status"] == "ACTIVE"
    return "processing_1"


def test_process_and_look_at_the_job(mip: Mip, algorithm: str, ct: list[str], tmp_path: Path) -> None:
    file = tmp_path / "result.dcm"
    job = mip.json("process", algorithm, *ct, "--output", str(file))
    assert (job["status"], job["output"]) == ("SUCCEEDED", str(file))
    assert pydicom.dcmread(file).SOPInstanceUID
    job_id = job["job_id"]
    assert job_id in mip.text("jobs", "list")
    assert job_id in mip.text("jobs", "show", job_id)
    assert "SUCCEEDED" in mip.text("jobs", "watch", job_id)
    listed = mip.json("jobs", "list", "--algo", algorithm, "--status", "succeeded", "--limit", "1000")
    assert job_id in [found["job_id"] for found in listed["jobs"]]
    assert mip.json("jobs", "list", "--client-id", job["client_id"])["jobs"][0]["job_id"] == job_id


def test_table_names_the_output(mip: Mip, algorithm: str, ct: list[str], tmp_path: Path) -> None:
    said = mip.text("process", algorithm, *ct, "--job-id", "by-hand", "--output", str(tmp_path / "r.dcm"))
    for word in ("by-hand", "SUCCEEDED", "r.dcm"):
        assert word in "".join(said.split()), "a long path goes over two lines"


def test_no_wait_then_watch(mip: Mip, algorithm: str, ct: list[str]) -> None:
    job_id = mip.text("process", algorithm, *ct, "--no-wait").strip()
    assert mip.json("jobs", "watch", job_id)["status"] == "SUCCEEDED"


def test_watching_leaves_the_result_to_its_client(
    platform: Platform, mip: Mip, algorithm: str, ct: list[str], tmp_path: Path
) -> None:
    with platform.client() as client:
        mine = client.call("POST", "provision", body={})["client_id"]
        options = ("--client-id", mine, "--output", str(tmp_path / "result.dcm"))
        job = mip.json("process", algorithm, *ct, *options)
        mip.json("jobs", "watch", job["job_id"])
        with client.results(mine) as results:
            message = results.receive(10)
    assert message is not None
    assert message["job_id"] == job["job_id"]


def test_failed_job_says_why(mip: Mip, algorithm: str) -> None:
    answer = mip.run("process", algorithm, "--study", "1.2.3.4.5", "--job-id", "no-such-study")
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert "no-such-study" in answer.stderr.splitlines()[-1]
    shown = mip.json("jobs", "show", "no-such-study")
    assert shown["status"] == "FAILED"
    assert shown["error"]["code"] in answer.stderr
    assert mip.run("jobs", "watch", "no-such-study").exit_code == 1
    assert shown["error"]["code"] in " ".join(mip.text("jobs", "show", "no-such-study").split())


def test_description_and_parameters(mip: Mip, algorithm: str, tmp_path: Path) -> None:
    file = tmp_path / "parameters.json"
    file.write_text(json.dumps({"type": "object", "properties": {"above": {"type": "number"}}}))
    about = ("--description", "Marks the liver", "--parameters-file", str(file))
    changed = mip.json("algorithms", "update", algorithm, *about)
    assert (changed["description"], list(changed["parameters"]["properties"])) == ("Marks the liver", ["above"])
    shown = mip.text("algorithms", "show", algorithm)
    assert "Marks the liver" in shown and "above" in shown
    file.write_text("[]")
    assert mip.fails("algorithms", "update", algorithm, *about)["code"] == "BAD_FILE"


def test_cancel(mip: Mip, algorithm: str, ct: list[str], tmp_path: Path) -> None:
    mip.json("process", algorithm, *ct, "--job-id", "too-late", "--output", str(tmp_path / "result.dcm"))
    assert mip.fails("cancel", "too-late")["code"] == "NOT_CANCELLABLE"
    assert mip.fails("cancel", "no-such-job")["code"] == "UNKNOWN_JOB"


def test_refusals(mip: Mip, algorithm: str, ct: list[str]) -> None:
    assert mip.fails("algorithms", "show", "no_such")["code"] == "UNKNOWN_ALGORITHM"
    assert mip.fails("process", "no_such", *ct)["code"] == "UNKNOWN_ALGORITHM"
    assert mip.fails("jobs", "show", "no-such-job")["code"] == "UNKNOWN_JOB"
    assert mip.fails("algorithms", "register", algorithm, "--image", "another")["code"] == "ALGORITHM_EXISTS"
    assert "memory" in mip.fails("algorithms", "update", algorithm, "--memory", "3")["message"]
    assert mip.fails("process", algorithm, "--study", "../x")["code"] == "INVALID_REQUEST"
    assert mip.fails("process", algorithm, *ct, "--scope", "all")["code"] == "INVALID_REQUEST"


def test_wrong_admin_key(platform: Platform) -> None:
    error = Mip(platform, MIP_ADMIN_KEY="wrong").fails("algorithms", "list")
    assert error["code"] == "ADMIN_KEY_REQUIRED"
    assert "MIP_ADMIN_KEY" in error["message"]
    assert "wrong" not in error["message"].replace("wrong key", "")


def test_to_wait_tells_of_a_worker_that_cannot_start(tmp_path: Path, small_pacs: Path) -> None:
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "typo.sh").write_text("#!/bin/sh\necho no such model >&2\nexit 2\n")
    (commands / "typo.sh").chmod(0o755)
    with Platform(tmp_path / "home", pacs=small_pacs, options=["--allow-commands", str(commands)]) as platform:
        command = ("--image", IMAGE, "--command", "typo.sh", "--wait")
        error = Mip(platform).fails("algorithms", "register", "typo", *command)
    assert error["code"] == "PROVISIONING_FAILED"
    assert "status 2" in error["message"]


def test_life_of_an_algorithm(mip: Mip, ct: list[str], tmp_path: Path) -> None:
    spec = {
        "image_uri": "another",
        "cpu": 512,
        "memory": 1024,
        "command": ["/app/worker.sh"],
        "desired_count": 0,
    }
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec))
    name = "processing_6"
    made = mip.json("algorithms", "register", name, "--file", str(file), "--env", "A=b=c", "--wait")
    assert (made["status"], made["cpu"], made["env"]) == ("INACTIVE", 512, {"A": "b=c"})
    assert "processing_6" in mip.text("algorithms", "list")
    assert "A=b=c" in mip.text("algorithms", "show", name)

    revision = made["revision"]
    changed = mip.json("algorithms", "update", name, "--memory", "2048", "--if-revision", str(revision))
    assert (changed["memory"], changed["cpu"], changed["revision"]) == (2048, 512, revision + 1)
    stale = mip.fails("algorithms", "update", name, "--memory", "1024", "--if-revision", str(revision))
    assert stale["code"] == "STALE_REVISION"
    assert "needs a new name" in mip.run("algorithms", "update", name, "--image", changed["image_uri"]).stderr

    assert "SC" in mip.text("algorithms", "show", name)
    assert mip.fails("algorithms", "update", name, "--output", "SR")["code"] == "INVALID_REQUEST"
    outputs = ("--output", "seg", "--output", "SR")
    assert mip.json("algorithms", "update", name, *outputs)["outputs"] == ["SEG", "SR"]
    assert "SEG, SR" in mip.text("algorithms", "show", name)
    assert mip.json("algorithms", "update", name, "--store-results")["store_results"] is True
    assert "back into the PACS" in mip.text("algorithms", "show", name)
    assert mip.json("algorithms", "update", name, "--no-store-results")["store_results"] is False

    assert mip.json("algorithms", "scale", name, "1", "--wait")["status"] == "ACTIVE"
    job = mip.json("process", name, *ct, "--output", str(tmp_path / "result.dcm"))
    assert [found["kind"] for found in job["result"]["outputs"]] == ["SEG", "SR"]
    assert job["files"] == [str(tmp_path / "result.dcm"), str(tmp_path / "result_sr.dcm")]
    assert [pydicom.dcmread(file).Modality for file in job["files"]] == ["SEG", "SR"]
    outputs = ("--output", "SC", "--output", "SEG", "--output", "SR")
    mip.json("algorithms", "update", name, *outputs, "--wait")
    said = mip.text("process", name, *ct, "--output", str(tmp_path / "all.dcm"))
    for file, modality in (("all.dcm", "OT"), ("all_seg.dcm", "SEG"), ("all_sr.dcm", "SR")):
        assert file in "".join(said.split())
        assert pydicom.dcmread(tmp_path / file).Modality == modality
    assert mip.json("algorithms", "scale", name, "0", "--wait")["status"] == "INACTIVE"
    assert f"scale {name} 1" in mip.run("algorithms", "remove", name).stderr
    assert mip.run("algorithms", "remove", name, "--hard").exit_code == 2, "nobody was asked"
    assert mip.run("algorithms", "remove", name, "--hard", "--yes").exit_code == 0


def test_logs(mip: Mip, algorithm: str, ct: list[str], tmp_path: Path) -> None:
    mip.json("process", algorithm, *ct, "--output", str(tmp_path / "result.dcm"))
    lines = mip.json("algorithms", "logs", algorithm, "--lines", "5")["lines"]
    assert 1 <= len(lines) <= 5
    assert all(json.loads(line)["algo_id"] == algorithm for line in lines)


def test_statistics(mip: Mip, algorithm: str, ct: list[str], tmp_path: Path) -> None:
    mip.json("process", algorithm, *ct, "--output", str(tmp_path / "result.dcm"))
    found = mip.json("algorithms", "statistics", algorithm, "--hours", "1")
    assert (found["algo_id"], found["bucket_s"], len(found["buckets"])) == (algorithm, 60, 60)
    ended = [bucket for bucket in found["buckets"] if bucket["succeeded"]]
    said = mip.text("algorithms", "statistics", algorithm, "--hours", "1")
    assert f"{sum(bucket['succeeded'] for bucket in ended)} succeeded" in said and "in 1 h" in said
    for bucket in ended:
        assert clock(bucket["at"]) in said
    assert found["waiting"] == 0 and "0 jobs" in said
    assert "1 min from" in said and "median" in said
    mip.json("algorithms", "register", "never_asked", "--image", IMAGE, "--desired-count", "0", "--wait")
    nothing = mip.text("algorithms", "statistics", "never_asked")
    assert "nothing in 24 h" in nothing and "min from" not in nothing
    assert mip.fails("algorithms", "statistics", "no_such")["code"] == "UNKNOWN_ALGORITHM"
    assert mip.run("algorithms", "statistics", algorithm, "--hours", "169").exit_code == 2


def test_keys(mip: Mip) -> None:
    made = mip.json("keys", "add", "ops", "--role", "admin")
    assert "ops" in mip.text("keys", "list")
    assert made["key"] not in mip.run("keys", "list").output
    assert mip.fails("keys", "add", "ops")["code"] == "KEY_NAME_TAKEN"
    assert mip.run("keys", "remove", "ops").exit_code == 0
    assert mip.fails("keys", "remove", "ops")["code"] == "UNKNOWN_KEY"


def test_env_file_points_a_shell_at_the_platform(platform: Platform, algorithm: str) -> None:
    script = '. "$1" && shift && "$@"'
    command = ["sh", "-c", script, "sh", str(platform.home / "env"), *CLI, "algorithms", "list", "--json"]
    done = subprocess.run(command, env=clean_environment(), check=True, capture_output=True, timeout=60)
    assert algorithm in [record["algorithm_id"] for record in json.loads(done.stdout)["algorithms"]]


def test_client_keys(tmp_path: Path, small_pacs: Path, ct: list[str]) -> None:
    file = tmp_path / "client-keys"
    key = CliRunner().invoke(app, ["keys", "add", "ward", "--file", str(file)]).stdout.strip()
    with Platform(tmp_path / "home", pacs=small_pacs, options=["--client-keys", str(file)]) as platform:
        refused = Mip(platform).fails("jobs", "list")
        assert refused["code"] == "CLIENT_KEY_REQUIRED"
        assert "MIP_CLIENT_KEY" in refused["message"]
        ward = Mip(platform, MIP_CLIENT_KEY=key)
        about = "Marks the liver\n" + "and no word is cut, however long it be: " + 60 * "x"
        described = ("--image", IMAGE, "--description", about, "--output", "SC", "--output", "SEG")
        ward.json("algorithms", "register", "processing_1", *described, "--wait")
        ward.json("algorithms", "register", "a" * 48, "--image", IMAGE, "--desired-count", "0", "--wait")
        job = ward.json("process", "processing_1", *ct, "--output", str(tmp_path / "result.dcm"))
        assert ward.json("jobs", "list")["jobs"][0]["job_id"] == job["job_id"]

        refused = Mip(platform).fails("algorithms", "catalogue")
        assert refused["code"] == "CLIENT_KEY_REQUIRED"
        only_ward = Mip(platform, MIP_CLIENT_KEY=key, MIP_ADMIN_KEY="wrong")
        asleep, awake = only_ward.json("algorithms", "catalogue")["algorithms"]
        assert (awake["algo_id"], awake["takes_jobs"], asleep["takes_jobs"]) == ("processing_1", True, False)
        assert "image_uri" not in awake
        said = only_ward.text("algorithms", "catalogue")
        for word in ("processing_1", "ACTIVE, 0 jobs, 1 worker, makes SC, SEG", "INACTIVE, takes no jobs"):
            assert " ".join(word.split()) in " ".join(said.split())
        assert "".join(about.split()) in "".join(said.split())
        assert "a" * 48 in said
        more = only_ward.run("algorithms", "catalogue", "--limit", "1")
        assert "--cursor" in more.stderr and "processing_1" not in more.stdout
