"""kill -9 of the platform and of workers at random moments: every accepted job is finished, and seen once."""

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api_calls import ENDED, IMAGE, Api, make_pacs, receive, until
from medical_image_processing.testing import puppet
from medical_image_processing.worker.aws import LEASE_S
from medical_image_processing.worker.leases import RENEW_AFTER_S
from platform_process import STOP_S, Platform, unconfined, workers_of

PLATFORM_KILLS = 6
WORKER_KILLS = 12
CLIENT = "survivor"


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform(tmp_path / "home", pacs=make_pacs(tmp_path / "pacs"), options=unconfined(tmp_path)) as platform:
        yield platform


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    return puppet.install(tmp_path / "site")


def kill_one(home: Path, chance: random.Random, killed_under: Counter[str]) -> bool:
    """Kill a worker, whatever it is doing, and count the jobs it had."""
    workers = sorted(workers_of(home))
    if not workers:
        return False
    victim = chance.choice(workers)
    with contextlib.suppress(OSError):
        os.kill(victim, signal.SIGSTOP)  # what it has stays the same while we look
        killed_under.update(held_by(home, victim))
        os.kill(victim, signal.SIGKILL)
    return True


def held_by(home: Path, pid: int) -> list[str]:
    """The jobs whose messages a worker has, looked up behind the platform's back."""
    pairs = dict(pair.partition("=")[::2] for pair in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    with contextlib.closing(sqlite3.connect(f"file:{home / 'mip.db'}?mode=ro", uri=True, timeout=5)) as file:
        sql = "SELECT group_id FROM messages WHERE in_flight = 1 AND receiver = ?"
        return [row[0] for row in file.execute(sql, (pairs.get("AWS_ACCESS_KEY_ID"),))]


class Submitter(threading.Thread):
    """A client that sends jobs all the time, and sends each again until it has been accepted."""

    def __init__(self, base: str) -> None:
        super().__init__(daemon=True)
        self.accepted: list[str] = []
        self.trouble: list[str] = []
        self.stopping = threading.Event()
        self._base = base

    def run(self) -> None:
        number = 0
        with httpx.Client(base_url=self._base, timeout=5, trust_env=False) as http:
            while not self.stopping.is_set():
                number += 1
                algo_id, seconds = [("puppet", 0.0), ("puppet-2", 0.05), ("puppet-2", 0.4)][number % 3]
                self._send(http, f"job-{number}", algo_id, seconds)
                self.stopping.wait(0.08)

    def _send(self, http: httpx.Client, job_id: str, algo_id: str, seconds: float) -> None:
        act = {"do": "sleep", "seconds": seconds} if seconds else {}
        body = {"job_id": job_id, "client_id": CLIENT, "pacs": IMAGE, "parameters": act}
        while not self.stopping.is_set():
            try:
                answer = http.post(f"/process/{algo_id}", json=body)
            except httpx.HTTPError:
                self.stopping.wait(0.05)
                continue
            if answer.status_code == 202:
                self.accepted.append(job_id)
                return
            # While its workers come back after many deaths in a row, an algorithm may be FAILED for a while.
            self.trouble.append(f"{answer.status_code} {answer.text}")
            self.stopping.wait(0.1)


def test_kill_9_at_random_moments_loses_no_job_and_shows_none_twice(
    platform: Platform, site: dict[str, str]
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    api = Api(platform)
    for algo_id in ("puppet", "puppet-2"):
        api.register(algo_id, env=site, desired_count=2)
    client = Submitter(platform.base)
    client.start()
    killed_under: Counter[str] = Counter()
    victims = ["platform"] * PLATFORM_KILLS + ["worker"] * WORKER_KILLS
    chance.shuffle(victims)
    for victim in victims:
        time.sleep(chance.uniform(0.05, 1.2))  # the moment is what is random here
        if victim == "worker":
            until(lambda: kill_one(platform.home, chance, killed_under), "there is a worker to kill")
            continue
        platform.kill()
        until(lambda: not workers_of(platform.home), "no worker outlives the platform", wait_s=5)
        platform.start()
    # On a slow machine it goes on for a while: so many jobs are needed for what follows to say anything.
    until(lambda: len(client.accepted) > 50, "enough jobs are accepted")
    client.stopping.set()
    client.join(30)
    accepted = client.accepted
    assert not [said for said in client.trouble if said.startswith("5")], client.trouble

    def open_jobs() -> int:
        pages = (api.get("/jobs", client_id=CLIENT, status=status, limit=1) for status in ("QUEUED", "RUNNING"))
        return sum(len(page.json()["jobs"]) for page in pages)

    until(lambda: open_jobs() == 0, "every job has ended", wait_s=60)
    jobs = all_jobs(api)
    assert set(accepted) <= set(jobs), "an accepted job is not on record"
    for job in jobs.values():
        assert job["status"] in ENDED
        if job["status"] == "FAILED":
            # From outside, a worker that somebody kills looks like one that its job kills, so it has to count.
            # But nothing else may: each of the three receives was used up by a kill of this test's.
            assert (job["error"]["code"], job["attempts"]) == ("DEAD_LETTERED", 3), job
            assert killed_under[str(job["job_id"])] >= 3, f"given up for another reason: {job}"
    with api.listen(CLIENT) as listening:
        results = receive(listening, len(jobs))
        with pytest.raises(TimeoutError):
            listening.recv(timeout=0.5)
    told = Counter(result["job_id"] for result in results)
    assert told == Counter(jobs.keys()), "a result is missing or came twice"
    for result in results:
        assert result["status"] == jobs[result["job_id"]]["status"]
    for result in chance.sample([each for each in results if each["status"] == "SUCCEEDED"], 20):
        assert api.download(result["dicom"]["url"])[128:132] == b"DICM"
    text = api.get("/metrics").text
    for algo_id in ("puppet", "puppet-2"):
        assert f'mip_queue_messages{{queue="mip-{algo_id}.fifo"}}' not in text, "a message is left on the queue"


def all_jobs(api: Api) -> dict[str, dict[str, object]]:
    jobs, cursor = {}, None
    while True:
        page = api.get("/jobs", client_id=CLIENT, limit=1000, **({"cursor": cursor} if cursor else {})).json()
        jobs.update({job["job_id"]: job for job in page["jobs"]})
        if (cursor := page["next_cursor"]) is None:
            return jobs


def test_the_job_of_a_killed_worker_is_finished_by_another_soon(
    platform: Platform, site: dict[str, str], tmp_path: Path
) -> None:
    api = Api(platform)
    api.register("puppet", env=site, desired_count=2)
    until(lambda: len(workers_of(platform.home)) == 2, "both workers run")
    note, go = tmp_path / "pids", tmp_path / "go"
    job_id = api.process("puppet", do="wait", file=str(go), note=str(note))
    api.until_job(job_id, "RUNNING")
    began = time.monotonic()
    os.kill(int(note.read_text()), signal.SIGKILL)
    go.touch()
    job = api.until_ended(job_id)
    assert (job["status"], job["attempts"]) == ("SUCCEEDED", 2)
    assert time.monotonic() - began < LEASE_S - RENEW_AFTER_S, "its lease had to end first"
    assert len(set(note.read_text().split())) == 2
    until(lambda: len(workers_of(platform.home)) == 2, "the dead one is replaced")


def test_sigterm_stops_everything_in_time_and_what_ran_is_done_after_the_restart(
    platform: Platform, site: dict[str, str], tmp_path: Path
) -> None:
    api = Api(platform)
    api.register("puppet", env=site, desired_count=2)
    jobs = [api.process("puppet", do="wait", file=str(tmp_path / "go")) for _ in range(2)]
    waiting = api.process("puppet")
    for job_id in jobs:
        api.until_job(job_id, "RUNNING")
    workers = workers_of(platform.home)
    assert len(workers) == 2
    began = time.monotonic()
    with api.listen("somebody"):
        assert platform.stop() == 0
    assert time.monotonic() - began < STOP_S
    assert not workers_of(platform.home), "a worker was left behind"
    assert not (platform.home / "env").exists()
    (tmp_path / "go").touch()
    platform.start()
    for job_id in (*jobs, waiting):
        job = api.until_ended(job_id)
        assert job["status"] == "SUCCEEDED", job
        assert job["attempts"] <= 2


def test_ctrl_c_stops_it_too_and_a_short_job_is_finished_first(
    platform: Platform, site: dict[str, str], tmp_path: Path
) -> None:
    api = Api(platform)
    api.register("puppet", env=site)
    job_id = api.process("puppet", client_id=CLIENT, do="wait", file=str(tmp_path / "go"))
    api.until_job(job_id, "RUNNING")
    os.kill(platform.pid, signal.SIGINT)
    until(lambda: "stopping: workers finish" in platform.log.read_text(), "it stops while the job runs")
    (tmp_path / "go").touch()
    assert platform.stop() == 0
    assert not workers_of(platform.home)
    platform.start()
    job = api.job(job_id)
    assert (job["status"], job["attempts"]) == ("SUCCEEDED", 1)


def test_a_killed_platform_leaves_no_worker_behind_even_one_that_hangs(
    platform: Platform, site: dict[str, str], tmp_path: Path
) -> None:
    api = Api(platform)
    api.register("puppet", env={**site, "MIP_TIME_LIMIT_S": "2"}, desired_count=2)
    job_id = api.process("puppet", do="hang", note=str(tmp_path / "hangs"))
    until((tmp_path / "hangs").exists, "it hangs")
    platform.kill()
    until(lambda: not workers_of(platform.home), "the kernel tells them", wait_s=5)
    platform.start()
    job = api.until_ended(job_id)
    assert job["error"]["code"] == "TIME_LIMIT_EXCEEDED"
    assert job["attempts"] == 1, "the platform's own death was held against the job"


def test_what_was_accepted_the_moment_before_the_kill_is_there(platform: Platform) -> None:
    api = Api(platform)
    api.register("processing_1")
    for number in range(3):
        job_id = api.process("processing_1", f"last-{number}")
        platform.kill()
        platform.start()
        assert api.until_ended(job_id)["status"] == "SUCCEEDED"
    answer = api.post("/admin/algorithms", {**api.record("processing_1"), "algo_id": "x"})
    assert answer.status_code == 422


def test_a_registration_is_carried_out_after_a_kill(platform: Platform, site: dict[str, str]) -> None:
    api = Api(platform)
    api.register("puppet", env=site, wait_for=None)
    platform.kill()
    platform.start()
    api.until_status("puppet", "ACTIVE")
    api.succeeds("puppet")
    api.http.delete("/admin/algorithms/puppet", params={"hard": "true"})
    platform.kill()
    platform.start()
    api.until_gone("puppet")
    assert not (platform.home / "logs/ecs/mip-puppet").exists()
