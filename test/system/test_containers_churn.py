"""Many algorithms at once, and a registry that never rests: what runs in the end is what the registry says."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers_stage import ContainerApi, docker_platform

from api_calls import ENDED, IMAGE, make_pacs, until
from docker_engine import PUPPET_ENV, DockerEngine
from medical_image_processing import naming

MANY = 60
CHANGES = 50
SETTLE_S = 240.0


@pytest.fixture
def api(tmp_path: Path, docker_engine: DockerEngine, puppet_image: str) -> Iterator[ContainerApi]:
    with docker_platform(tmp_path / "home", make_pacs(tmp_path / "pacs"), docker_engine) as platform:
        yield ContainerApi(platform, docker_engine, puppet_image)


def test_sixty_algorithms_run_side_by_side(api: ContainerApi) -> None:
    names = [f"many-{number:02}" for number in range(MANY)]
    for name in names:
        api.puppet(name, wait_for=None)
    for name in names:
        api.until_status(name, "ACTIVE")
    jobs = {name: api.process(name) for name in names}
    for name, job_id in jobs.items():
        job = api.until_ended(job_id, wait_s=SETTLE_S)
        assert (job["status"], job["algo_id"]) == ("SUCCEEDED", name), job["error"]
    running = Counter(container.labels["mip.algorithm"] for container in api.containers())
    assert running == Counter(names)


@pytest.mark.parametrize("seed", [random.randrange(10**6)], ids=["random"])
def test_containers_and_queues_are_in_the_end_what_the_registry_says(api: ContainerApi, seed: int) -> None:
    """50 changes of the registry at random, with jobs flowing; the seed is in the test's id."""
    choose = random.Random(seed)
    names = [f"churn-{number}" for number in range(8)]
    jobs: list[str] = []
    for _ in range(CHANGES):
        _change(api, choose, choose.choice(names))
        jobs += _submit(api, choose, names)
    until(
        lambda: all(api.job(job_id)["status"] in ENDED for job_id in jobs if _is_served(api, job_id)),
        "the jobs of algorithms with workers have ended",
        wait_s=SETTLE_S,
    )
    wanted = {name: _desired_count(api, name) for name in names}
    until(
        lambda: _running(api) == Counter({name: count for name, count in wanted.items() if count}),
        f"what runs is {wanted}",
        wait_s=SETTLE_S,
    )
    with sqlite3.connect(f"file:{api.platform.home / 'mip.db'}?mode=ro", uri=True) as database:
        queues = {row[0] for row in database.execute("SELECT name FROM queues")} - {naming.RESULTS_QUEUE}
    registered = [name for name, count in wanted.items() if count is not None]
    assert queues == {queue(name) for name in registered for queue in (naming.queue, naming.dead_letter_queue)}
    for job_id in jobs:
        job = api.job(job_id)
        assert (
            job["status"] == "SUCCEEDED"
            or job["status"] == "QUEUED"
            or job["error"]["code"] == "ALGORITHM_DELETED"
        )


def _change(api: ContainerApi, choose: random.Random, name: str) -> None:
    path, count = f"/admin/algorithms/{name}", choose.randint(0, 3)
    match choose.choice(["register", "register", "scale", "scale", "change", "stop", "remove"]):
        case "register":
            answer = api.post(
                "/admin/algorithms",
                {
                    "algo_id": name,
                    "image_uri": api.image,
                    "cpu": 256,
                    "memory": 512,
                    "command": ["/app/worker.sh"],
                    "env": PUPPET_ENV,
                    "desired_count": count,
                },
            )
        case "scale":
            answer = api.http.patch(path, json={"desired_count": count})
        case "change":
            answer = api.http.patch(path, json={"env": {**PUPPET_ENV, "TURN": str(choose.random())}})
        case "stop":
            answer = api.http.delete(path)
        case _:
            answer = api.http.delete(path, params={"hard": True, "force": True})
    assert answer.status_code in (200, 201, 202, 404, 409), answer.text


def _submit(api: ContainerApi, choose: random.Random, names: list[str]) -> list[str]:
    body = {"client_id": "client-1", "pacs": IMAGE}
    answers = [api.post(f"/process/{name}", body) for name in choose.sample(names, 3)]
    assert all(answer.status_code in (202, 404, 409) for answer in answers)
    return [answer.json()["job_id"] for answer in answers if answer.status_code == 202]


def _desired_count(api: ContainerApi, name: str) -> int | None:
    """None once it is gone."""

    def settled() -> bool:
        answer = api.get(f"/admin/algorithms/{name}")
        return answer.status_code == 404 or answer.json()["status"] in ("ACTIVE", "INACTIVE")

    until(settled, f"{name} is settled", wait_s=SETTLE_S)
    answer = api.get(f"/admin/algorithms/{name}")
    return None if answer.status_code == 404 else int(answer.json()["desired_count"])


def _running(api: ContainerApi) -> Counter[str]:
    return Counter(container.labels["mip.algorithm"] for container in api.containers())


def _is_served(api: ContainerApi, job_id: str) -> bool:
    answer = api.get(f"/admin/algorithms/{api.job(job_id)['algo_id']}")
    return answer.status_code == 200 and answer.json()["desired_count"] > 0
