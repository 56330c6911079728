"""What a deployment does with the platform it made, on a platform of this machine: the same API, the same code."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from api_calls import until
from medical_image_processing.entrypoints.deploy.admin_test import AdminTest
from medical_image_processing.entrypoints.deploy.deployment import register_samples, remove_algorithms
from medical_image_processing.entrypoints.deploy.sample_job import run_sample_job
from medical_image_processing.errors import NotFound
from platform_process import Platform, clean_environment, workers_of

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "test" / "test-admin-api.sh"
STEPS = ["wrong key", "register", "list", "show", "patch", "scale down", "hard delete"]


def tell(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def own_platform(tmp_path_factory: pytest.TempPathFactory, small_pacs: Path) -> Iterator[Platform]:
    """One whose every algorithm may be removed."""
    with Platform(tmp_path_factory.mktemp("deploy") / "home", pacs=small_pacs) as running:
        yield running


def admin_api(platform: Platform, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    own = {name: platform.env[name] for name in ("API_BASE", "MIP_ADMIN_KEY")}
    return subprocess.run(
        [str(SCRIPT), *arguments],
        env=clean_environment(**{**own, "COLUMNS": "100", **env}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_admin_api_s_script_tells_what_passed(own_platform: Platform) -> None:
    ran = admin_api(own_platform)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for step in STEPS:
        (line,) = [line for line in ran.stdout.splitlines() if line.startswith(f"{step} ")]
        assert "passed" in line
    with own_platform.client() as client:
        assert client.call("GET", "admin", "algorithms")["algorithms"] == []


def test_with_a_wrong_key_the_script_fails_and_says_so(own_platform: Platform) -> None:
    ran = admin_api(own_platform, "--json", MIP_ADMIN_KEY="wrong")
    assert ran.returncode == 1
    assert json.loads(ran.stderr)["error"]["code"] == "ADMIN_KEY_REQUIRED"


def freeze_workers(home: Path) -> bool:
    """SIGSTOP to a home's workers; whether one of them stands still."""
    states = []
    for worker in workers_of(home):
        with contextlib.suppress(OSError):  # one of the revision before ends meanwhile
            os.kill(worker, signal.SIGSTOP)
            states.append(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0])
    return "T" in states


def test_a_step_that_fails_is_named_and_nothing_is_left(own_platform: Platform) -> None:
    home = own_platform.home

    def freeze_before_scaling_down(said: str) -> None:
        """A worker that stands still can't end when it is asked to, however fast the platform is."""
        if said.endswith("scale down"):
            until(lambda: freeze_workers(home), "a worker is frozen")

    with own_platform.client() as client:
        steps = AdminTest(client, timeout_s=-1).run(freeze_before_scaling_down)
        assert [step.name for step in steps if step.failure][:1] == ["scale down"]
        assert steps[-1].name == "hard delete"
        for worker in workers_of(home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)
        remove_algorithms(client, tell)


def test_samples_are_registered_once_and_follow_their_images(own_platform: Platform) -> None:
    with own_platform.client() as client:
        first = register_samples(client, {"processing_1": "r/mip-algos@sha256:1"}, tell)
        assert [(step.name, step.changed) for step in first] == [("algorithm processing_1", True)]
        client.call("PATCH", "admin", "algorithms", "processing_1", body={"memory": 4096})
        assert not register_samples(client, {"processing_1": "r/mip-algos@sha256:1"}, tell)[0].changed
        assert register_samples(client, {"processing_1": "r/mip-algos@sha256:2"}, tell)[0].changed
        record = client.call("GET", "admin", "algorithms", "processing_1")
        assert (record["image_uri"], record["memory"]) == ("r/mip-algos@sha256:2", 4096)


def test_a_job_comes_back_and_its_client_s_key_is_gone(own_platform: Platform) -> None:
    with own_platform.client() as client:
        register_samples(client, {"processing_1": "r/mip-algos@sha256:2"}, tell)
        done = run_sample_job(client, own_platform.env, "processing_1", tell)
        assert client.call("GET", "jobs", done.job_id)["status"] == "SUCCEEDED"
        assert done.size > 1000
        assert client.call("GET", "admin", "keys")["keys"] == []


def test_an_empty_pacs_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "pacs").mkdir()
    with (
        Platform(tmp_path / "home", pacs=tmp_path / "pacs") as running,
        running.client() as client,
        pytest.raises(NotFound, match="no study"),
    ):
        run_sample_job(client, running.env, "processing_1", tell)


def test_before_a_stack_goes_every_algorithm_goes(own_platform: Platform) -> None:
    with own_platform.client() as client:
        register_samples(client, {"processing_1": "r/mip-algos@sha256:1"}, tell)
        assert "processing_1" in remove_algorithms(client, tell)
        assert client.call("GET", "admin", "algorithms")["algorithms"] == []


def test_an_algorithm_that_goes_by_itself_meanwhile_is_no_failure(own_platform: Platform) -> None:
    with own_platform.client() as client:
        register_samples(client, {"processing_1": "r/mip-algos@sha256:1"}, tell)

        def somebody_else_is_first(said: str) -> None:
            if said.startswith("removing"):
                remove_algorithms(client, tell)

        assert remove_algorithms(client, somebody_else_is_first) == ["processing_1"]
