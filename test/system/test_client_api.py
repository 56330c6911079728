"""What the web client asks of a running platform beyond sending jobs and hearing of their ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from api_calls import IMAGE, Api, error_of, make_pacs, receive, until
from medical_image_processing.testing import puppet
from platform_process import Platform, unconfined


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("client-api")


@pytest.fixture(scope="module")
def platform(folder: Path) -> Iterator[Platform]:
    with Platform(folder / "home", pacs=make_pacs(folder / "pacs"), options=unconfined(folder)) as platform:
        yield platform


@pytest.fixture(scope="module")
def api(platform: Platform, folder: Path) -> Api:
    api = Api(platform)
    api.register("puppet", env=puppet.install(folder / "site"))
    return api


def occupied(api: Api, algo_id: str, until_there: Path, **how: str) -> str:
    """A job that keeps the only worker busy until the file is there, and runs."""
    job_id = api.process(algo_id, do="wait", file=str(until_there), **how)
    api.until_job(job_id, "RUNNING")
    return job_id


def test_b9_a_job_that_waits_is_cancelled_told_and_never_run(api: Api, tmp_path: Path) -> None:
    busy = occupied(api, "puppet", tmp_path / "go")
    with api.listen("canceller") as first, api.listen("canceller") as second:
        job_id = api.process("puppet", client_id="canceller")
        answer = api.post(f"/jobs/{job_id}/cancel")
        again = api.post(f"/jobs/{job_id}/cancel")
        assert (answer.status_code, again.status_code) == (200, 200)
        assert answer.json() == again.json() == api.job(job_id)
        assert answer.json()["status"] == "CANCELLED" and answer.json()["finished_at"]
        for socket in (first, second):
            [told] = receive(socket)
            assert told == {"job_id": job_id, "algo_id": "puppet", "client_id": "canceller", "status": "CANCELLED"}
    body = {"job_id": job_id, "client_id": "canceller", "pacs": IMAGE}
    assert api.post("/process/puppet", body).json()["status"] == "CANCELLED"
    for late in (busy, "no-such-job"):
        refused = api.post(f"/jobs/{late}/cancel")
        expected = (409, "NOT_CANCELLABLE") if late == busy else (404, "UNKNOWN_JOB")
        assert (refused.status_code, error_of(refused)) == expected
    (tmp_path / "go").touch()
    assert api.until_ended(busy)["status"] == "SUCCEEDED"
    assert api.post(f"/jobs/{busy}/cancel").status_code == 409
    api.succeeds("puppet")
    assert api.job(job_id) == answer.json()


def test_where_no_key_is_needed_a_page_of_somebody_else_cancels_nothing(api: Api, tmp_path: Path) -> None:
    busy = occupied(api, "puppet", tmp_path / "go")
    own, port = api.platform.base, api.platform.port
    foreign = ("https://evil.example", "null", "", f"http://evil.example:{port}", f"{own}1", f"{own}.evil.example")
    job_id = api.process("puppet")
    for origin in foreign:
        for more in ({}, {"content-type": "text/plain"}):
            refused = api.post(f"/jobs/{job_id}/cancel", origin=origin, **more)
            assert (refused.status_code, error_of(refused)) == (403, "FOREIGN_PAGE"), origin
    assert api.job(job_id)["status"] == "QUEUED"
    assert api.post(f"/jobs/{job_id}/cancel", origin=own).status_code == 200
    assert api.post(f"/jobs/{api.process('puppet')}/cancel", origin="http://localhost:3000").status_code == 200
    (tmp_path / "go").touch()
    api.until_ended(busy)


def test_b10_a_job_tells_what_it_was_asked_for_and_a_list_leaves_out_what_may_be_long(api: Api) -> None:
    job_id = api.process("puppet", client_id="asker", pacs=IMAGE, do="sleep", seconds=0, names=["a", None])
    job = api.until_ended(job_id)
    assert job["pacs"] == IMAGE
    assert job["parameters"] == {"do": "sleep", "seconds": 0, "names": ["a", None]}
    [listed] = api.get("/jobs", client_id="asker").json()["jobs"]
    assert listed["pacs"] == IMAGE and "parameters" not in listed
    again = api.process("puppet", client_id="asker", pacs=job["pacs"], **job["parameters"])
    assert api.until_ended(again)["status"] == job["status"]


def test_a_client_sees_what_it_may_use_and_nothing_of_how_it_is_run(api: Api) -> None:
    def listed() -> dict[str, dict[str, Any]]:
        return {one["algo_id"]: one for one in api.get("/algorithms").json()["algorithms"]}

    until(lambda: listed()["puppet"]["queue_depth"] == 0, "the last message is deleted")
    assert listed()["puppet"] == {
        "algo_id": "puppet",
        "status": "ACTIVE",
        "takes_jobs": True,
        "description": "",
        "parameters": None,
        "outputs": ["SC"],
        "queue_depth": 0,
        "workers": 1,
    }
    assert api.get("/algorithms", status="FAILED").json() == {"algorithms": [], "next_cursor": None}
    assert api.get("/algorithms", limit=1).json()["algorithms"][0]["algo_id"] == min(listed())
    assert api.get("/algorithms", status="NONSENSE").status_code == 422


def test_j3_a_jobs_parameters_are_checked_by_the_record_and_an_accepted_job_stays(api: Api) -> None:
    schema = {
        "type": "object",
        "properties": {"do": {"type": "string"}, "seconds": {"type": "number", "maximum": 9}},
        "additionalProperties": False,
    }
    before = api.process("puppet", "before-the-schema", surprise=1)
    worker_before = api.record("puppet")["resource_status"]
    changed = api.http.patch(
        "/admin/algorithms/puppet", json={"description": "Does as it is told", "parameters": schema}
    )
    assert changed.status_code == 200 and changed.json()["parameters"] == schema
    assert api.record("puppet")["resource_status"] == worker_before, "no worker is replaced for that"
    refused = api.post("/process/puppet", {"pacs": IMAGE, "parameters": {"seconds": 10, "secnods": 1}})
    assert (refused.status_code, error_of(refused)) == (422, "INVALID_PARAMETERS")
    fields = {one["field"] for one in refused.json()["error"]["details"]["fields"]}
    assert fields == {"parameters.seconds", "parameters.secnods"}
    api.succeeds("puppet", do="sleep", seconds=0.01)
    body = {"job_id": before, "client_id": "client-1", "pacs": IMAGE, "parameters": {"surprise": 1}}
    assert api.post("/process/puppet", body).status_code == 202, "what was accepted is that job still"
    free = {"type": "object", "properties": {}}
    assert api.http.patch("/admin/algorithms/puppet", json={"parameters": free}).status_code == 200
    assert api.get("/algorithms").json()["algorithms"][0]["description"] == "Does as it is told"


def test_an_admin_sees_how_an_algorithm_does(api: Api, tmp_path: Path) -> None:
    api.register("puppet-4", env=api.record("puppet")["env"])
    for _ in range(2):
        api.succeeds("puppet-4", do="sleep", seconds=0.3)
    assert api.fails("puppet-4", do="raise")
    busy = occupied(api, "puppet-4", tmp_path / "go")
    answer = api.get("/admin/algorithms/puppet-4/statistics", hours=1)
    assert answer.status_code == 200
    found = answer.json()
    assert (found["algo_id"], found["workers"], found["running"]) == ("puppet-4", 1, 1)
    assert (found["waiting"], found["oldest_wait_s"], found["bucket_s"]) == (0, None, 60)
    totals = [sum(bucket[name] for bucket in found["buckets"]) for name in ("succeeded", "failed", "cancelled")]
    assert totals == [2, 1, 0] and len(found["buckets"]) == 60
    assert found["complete_since"] == found["buckets"][0]["at"]
    assert found["durations"]["count"] == 2 and 0.2 < found["durations"]["median_s"] < 10
    assert api.get("/admin/algorithms/no_such/statistics").status_code == 404
    assert api.get("/admin/algorithms/puppet-4/statistics", hours=0).status_code == 422
    assert Api(api.platform, admin_key=None).get("/admin/algorithms/puppet-4/statistics").status_code == 401
    (tmp_path / "go").touch()
    api.until_ended(busy)


def test_the_platform_serves_its_web_client_or_says_that_there_is_none(api: Api) -> None:
    page = api.http.get("/", headers={"accept": "text/html"})
    assert page.status_code in (200, 404) and page.headers["content-type"].startswith("text/html")
    assert f"wss://127.0.0.1:{api.platform.port};" in page.headers["content-security-policy"]
    assert api.get("/config.json").json() == {"pacs_key": "devkey"}
    assert error_of(api.get("/no-such-page")) == "NO_SUCH_ROUTE"
    rebound = api.http.get("/config.json", headers={"host": "evil.example"})
    assert rebound.status_code == 421


def test_s7_a_log_is_followed_line_by_line(api: Api) -> None:
    logs = "/admin/algorithms/puppet/logs"
    api.succeeds("puppet")
    first = api.get(logs, lines=3).json()
    assert 0 < len(first["lines"]) <= 3 and first["gap"] is False
    job_id = api.process("puppet")
    api.until_ended(job_id)
    found, cursor = "", first["cursor"]

    def told() -> bool:
        nonlocal found, cursor
        page = api.get(logs, cursor=cursor).json()
        found, cursor = found + "\n".join(page["lines"]), page["cursor"]
        return job_id in found

    until(told, "the job is in the log")
    assert error_of(api.get(logs, cursor="nonsense")) == "INVALID_CURSOR"
    assert api.get(logs, cursor="<x>").status_code == 422


def test_the_operators_pacs_shows_series_and_the_workers_does_not(api: Api) -> None:
    env = api.platform.env
    key = {"x-api-key": "devkey"}
    [series] = api.http.post("/pacs/series/search", json={"search": "CT"}, headers=key).json()
    named = {"study_id": series["study_id"], "series_id": series["series_id"]}
    shown = api.http.get("/pacs/thumbnail", params=named, headers={"x-api-key": "devkey"})
    assert shown.status_code == 200 and shown.content.startswith(b"\x89PNG")
    read = api.get("/admin/accesses", algo="operator").json()["accesses"][0]
    assert (read["study_uid"], read["series_uid"]) == (series["study_id"], series["series_id"])
    assert api.http.get("/pacs/thumbnail", params=named).status_code == 401
    workers = api.http.get(
        f"{env['AWS_ENDPOINT_URL']}/pacs/thumbnail", params=named, headers={"x-api-key": "devkey"}
    )
    assert workers.status_code == 401


def test_w1_w2_what_waits_knows_its_place_and_how_long_one_takes(api: Api, tmp_path: Path) -> None:
    api.register("puppet-2", env=api.record("puppet")["env"])
    first = api.job(api.process("puppet-2", client_id="waiting", do="sleep", seconds=0.5))
    assert first["expected_s"] is None, "nothing ran yet"
    api.until_ended(first["job_id"])
    busy = occupied(api, "puppet-2", tmp_path / "go", client_id="waiting")
    names = [api.process("puppet-2", client_id="waiting") for _ in range(4)]

    def places() -> list[int | None]:
        jobs = {job["job_id"]: job for job in api.get("/jobs", client_id="waiting").json()["jobs"]}
        assert jobs[busy]["queue_position"] is None and jobs[first["job_id"]]["queue_position"] is None
        assert jobs[first["job_id"]]["expected_s"] is None, "it has ended"
        assert jobs[busy]["expected_s"] > 0.4
        return [jobs[name]["queue_position"] for name in names]

    # The worker fetches the input of what is next while it computes: what it has is in nobody's way any more.
    until(lambda: places()[-1] == len([place for place in places() if place]), "the places have no gap")

    def told_the_same() -> bool:
        """By the list and alone, while no worker took one of them."""
        before, last, after = places(), api.job(names[-1]), places()
        if before != after:
            return False
        assert last["status"] == "QUEUED" and last["queue_position"] == after[-1]
        return True

    until(told_the_same, "the queue stands still for a moment")
    assert api.post(f"/jobs/{names[-2]}/cancel").status_code == 200
    (tmp_path / "go").touch()
    for name in (busy, *names):
        assert api.until_ended(name)["queue_position"] is None


def test_b9_j1_j2_a_cancel_that_was_answered_outlives_kill_9_and_what_its_worker_sends(
    api: Api, tmp_path: Path
) -> None:
    platform = api.platform
    busy = occupied(api, "puppet", tmp_path / "go")
    names = [api.process("puppet", client_id="survivor") for _ in range(6)]
    cancelled, left = names[::2], names[1::2]
    for job_id in cancelled:
        assert api.post(f"/jobs/{job_id}/cancel").status_code == 200
    platform.kill()
    with closing(sqlite3.connect(platform.home / "mip.db")) as file:
        waiting = {row[0] for row in file.execute("SELECT group_id FROM messages")}
    assert not waiting & set(cancelled), "its message outlived a cancelled job"
    platform.start()
    (tmp_path / "go").touch()
    for job_id in (busy, *left):
        assert api.until_ended(job_id)["status"] == "SUCCEEDED"
    with api.listen("survivor") as listening:
        told = {message["job_id"]: message["status"] for message in receive(listening, len(names))}
    assert told == {job_id: "CANCELLED" if job_id in cancelled else "SUCCEEDED" for job_id in names}
    until(lambda: all(api.job(job_id)["status"] == "CANCELLED" for job_id in cancelled), "they stay cancelled")
