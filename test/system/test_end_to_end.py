"""The platform as its clients see it: `mip up`, real images, real workers, the contract's messages."""

import io
import json
import re
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import boto3
import httpx
import pydicom
import pytest
from botocore.config import Config
from websockets.sync.client import ClientConnection

from api_calls import IMAGE, SEED_BODY, Api, error_of, make_pacs, receive, until
from medical_image_processing import samples
from medical_image_processing.errors import Unavailable
from medical_image_processing.testing import puppet
from platform_process import Platform, unconfined

ROOT = Path(__file__).parents[2]

REGISTER = """
curl -s -w '\\n%{http_code}' -X POST "$API_BASE/admin/algorithms" \\
  -H "Content-Type: application/json" \\
  -H "x-admin-key: dev-admin" \\
  -d '{
    "algo_id": "processing_1",
    "image_uri": "123456789.dkr.ecr.us-east-1.amazonaws.com/mip-algos:processing_1",
    "cpu": 1024,
    "memory": 2048,
    "command": ["/app/worker.sh"]
  }'
"""
PROCESS = """
curl -s -w '\\n%{http_code}' -X POST "$API_BASE/process/processing_1" \\
  -H "Content-Type: application/json" \\
  -d '{
    "job_id": "test-123",
    "client_id": "client-456",
    "pacs": {
      "study_id": "study-1",
      "series_id": "series-1",
      "image_id": "image-1",
      "scope": "image"
    }
  }'
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("end-to-end")


@pytest.fixture(scope="module")
def site(folder: Path) -> dict[str, str]:
    """The env of a record whose workers find the puppets."""
    return puppet.install(folder / "site")


@pytest.fixture(scope="module")
def api(folder: Path, site: dict[str, str]) -> Iterator[Api]:
    with Platform(folder / "home", pacs=make_pacs(folder / "pacs"), options=unconfined(folder)) as platform:
        api = Api(platform)
        api.register("processing_1")
        api.register("puppet", env=site)
        yield api


def shell(platform: Platform, commands: str) -> tuple[dict[str, Any], int]:
    """What curl printed and the status, run as a person would after ``. DIR/env``."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'. "{platform.home}/env"\n{commands}'],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    body, _, status = done.stdout.rpartition("\n")
    return json.loads(body), int(status)


@pytest.mark.needs("curl")
def test_the_seeds_curl_lines_work_as_written(api: Api) -> None:
    with api.listen("client-456") as listening:
        record, status = shell(api.platform, REGISTER)
        assert (status, record["algorithm_id"]) == (200, "processing_1")  # the fixture registered the same
        answer, status = shell(api.platform, PROCESS)
        assert status == 202
        assert answer.pop("sqs_message_id")
        assert answer == {
            "message": "Enqueued",
            "job_id": "test-123",
            "client_id": "client-456",
            "status": "QUEUED",
        }
        (result,) = receive(listening)
    assert (result["job_id"], result["algo_id"], result["client_id"]) == (
        "test-123",
        "processing_1",
        "client-456",
    )
    assert result["dicom"]["key"] == "processing_1/study-1/series-1/image-1_test-123.dcm"
    assert result["status"] == "SUCCEEDED" and result["outputs"][0]["kind"] == "SC"
    assert api.download(result["dicom"]["url"])[128:132] == b"DICM"


def test_a_record_is_as_in_the_contract(api: Api) -> None:
    record = api.record("processing_1")
    assert record["status"] == "ACTIVE" and record["status_reason"] is None
    assert record["resource_status"]["service"] == "mip-processing_1"
    assert record["resource_status"]["queue_url"].endswith("/mip-processing_1.fifo")
    assert {name: record[name] for name in SEED_BODY} == SEED_BODY
    assert (record["revision"], record["desired_count"], record["env"]) == (1, 1, {})


@pytest.mark.needs("dciodvfy")
@pytest.mark.parametrize("scope", ["image", "series", "study"])
def test_a_result_is_valid_dicom_of_the_same_patient_and_study_with_uids_of_its_own(
    api: Api, folder: Path, tmp_path: Path, scope: str
) -> None:
    where = {**IMAGE, "scope": scope}
    for name in {"image": (), "series": ("image_id",), "study": ("image_id", "series_id")}[scope]:
        del where[name]
    job = api.succeeds("processing_1", pacs=where)
    content = api.download(job["result"]["dicom"]["url"])
    check_dicom(content, tmp_path)
    result = pydicom.dcmread(io.BytesIO(content))
    source = pydicom.dcmread(folder / "pacs/study-1/series-1/image-1.dcm")
    for name in ("PatientID", "PatientName", "PatientSex", "StudyInstanceUID", "StudyID"):
        assert result.get(name) == source.get(name), name
    assert result.SeriesInstanceUID != source.SeriesInstanceUID
    assert result.SOPInstanceUID != source.SOPInstanceUID
    assert int(result.get("NumberOfFrames", 1)) == (1 if scope == "image" else 3)
    provenance = job["result"]["provenance"]
    assert str(source.SOPInstanceUID) in json.dumps(provenance)


@pytest.mark.needs("dciodvfy")
def test_a_real_abdominal_ct_image_and_series(folder: Path, samples_cache: Path, tmp_path: Path) -> None:
    try:
        series = samples.abdominal_ct(samples_cache)
    except Unavailable as error:
        pytest.skip(str(error))
    with Platform(folder / "abdominal", pacs=series) as platform:
        api = Api(platform)
        api.register("processing_1")
        source = pydicom.dcmread(sorted(series.iterdir())[0], stop_before_pixels=True)
        where = {"study_id": source.StudyInstanceUID, "series_id": source.SeriesInstanceUID}
        image = {**where, "image_id": source.SOPInstanceUID, "scope": "image"}
        for pacs in (image, {**where, "scope": "series"}):
            job = api.succeeds("processing_1", pacs=pacs)
            check_dicom(api.download(job["result"]["dicom"]["url"]), tmp_path)


def check_dicom(content: bytes, folder: Path) -> None:
    file = folder / "result.dcm"
    file.write_bytes(content)
    said = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, timeout=60).stderr
    assert not [line for line in said.splitlines() if line.startswith("Error")], said


def test_o1_a_results_link_opens_that_object_and_nothing_else(api: Api) -> None:
    job = api.succeeds("puppet")
    url = job["result"]["dicom"]["url"]
    assert api.download(url)
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    other = api.succeeds("puppet")["result"]["dicom"]["key"]

    def status(path: str = parts.path, **changes: str) -> int:
        text = urlencode({name: changes.get(name, values[0]) for name, values in query.items()})
        return httpx.get(urlunsplit(parts._replace(path=path, query=text)), trust_env=False).status_code

    (signature,) = query["X-Amz-Signature"]
    assert status() == 200
    assert status(path=f"{parts.path.rpartition('/puppet/')[0]}/{other}") == 403
    assert status(**{"X-Amz-Signature": signature[::-1]}) == 403
    assert status(**{"X-Amz-Expires": "604800"}) == 403
    assert httpx.get(urlunsplit(parts._replace(query="")), trust_env=False).status_code == 403
    assert httpx.put(url, content=b"x", trust_env=False).status_code == 405
    assert httpx.delete(url, trust_env=False).status_code == 405
    assert httpx.URL(url).port == api.platform.port, "clients need no other port"


def test_o1_a_link_that_has_expired_opens_nothing(api: Api) -> None:
    dicom = api.succeeds("puppet")["result"]["dicom"]
    where = {"Bucket": dicom["bucket"], "Key": dicom["key"]}
    lasting, brief = (
        s3_of(api.platform).generate_presigned_url("get_object", Params=where, ExpiresIn=seconds)
        for seconds in (600, 1)  # the one by which it is seen to open may not expire meanwhile
    )
    assert httpx.get(lasting, trust_env=False).status_code == 200
    until(lambda: httpx.get(brief, trust_env=False).status_code == 403, "the link expires")
    assert "expired" in httpx.get(brief, trust_env=False).text
    assert httpx.get(lasting, trust_env=False).status_code == 200


def s3_of(platform: Platform) -> Any:
    return _client(platform, "s3")


def _client(platform: Platform, service: str) -> Any:
    env = platform.env
    return boto3.client(
        service,
        endpoint_url=env["AWS_ENDPOINT_URL"],
        region_name=env["AWS_REGION"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        config=Config(
            s3={"addressing_style": "path"}, signature_version="v4" if service == "sqs" else "s3v4", proxies={}
        ),
    )


def test_j3_the_same_job_again_is_the_same_job_and_another_body_a_conflict(api: Api) -> None:
    body = {"job_id": "j3-job", "client_id": "j3-client", "pacs": IMAGE}
    first = api.post("/process/puppet", body)
    again = api.post("/process/puppet", body)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["sqs_message_id"] == again.json()["sqs_message_id"]
    api.until_ended("j3-job")
    late = api.post("/process/puppet", body)
    assert (late.status_code, late.json()["status"]) == (202, "SUCCEEDED")
    for other in (
        {**body, "parameters": {"x": 1}},
        {**body, "client_id": "another"},
        {**body, "pacs": {**IMAGE, "image_id": "image-2"}},
    ):
        answer = api.post("/process/puppet", other)
        assert (answer.status_code, error_of(answer)) == (409, "JOB_ID_TAKEN")
    assert api.post("/process/processing_1", body).status_code == 409
    jobs = api.get("/jobs", client_id="j3-client").json()["jobs"]
    assert [job["job_id"] for job in jobs] == ["j3-job"]
    assert jobs[0]["attempts"] == 1


def test_jobs_can_be_looked_up_filtered_and_paged(api: Api) -> None:
    ids = [api.process("puppet", client_id="pager") for _ in range(5)]
    bad = api.process("puppet", client_id="pager", do="raise")
    for job_id in (*ids, bad):
        api.until_ended(job_id)
    found: list[str] = []
    cursor = None
    while True:
        page = api.get("/jobs", client_id="pager", limit=2, **({"cursor": cursor} if cursor else {})).json()
        found += [job["job_id"] for job in page["jobs"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert found == [bad, *reversed(ids)]
    failed = api.get("/jobs", client_id="pager", status="FAILED").json()["jobs"]
    assert [job["job_id"] for job in failed] == [bad]
    assert api.get("/jobs", client_id="pager", algo_id="processing_1").json()["jobs"] == []
    job = api.job(ids[0])
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert (job["attempts"], job["progress"], job["error"]) == (1, 1.0, None)


def test_ids_that_are_left_out_are_made(api: Api) -> None:
    first, second = (api.post("/process/puppet", {"pacs": IMAGE}).json() for _ in range(2))
    assert first["job_id"] != second["job_id"]
    assert first["client_id"] != second["client_id"] and len(first["client_id"]) > 20


def test_a_long_job_is_seen_running_and_getting_on(api: Api, tmp_path: Path) -> None:
    half, whole = tmp_path / "half", tmp_path / "whole"
    job_id = api.process("puppet", do="wait", files=[str(half), str(whole)])
    running = api.until_job(job_id, "RUNNING")
    assert running["started_at"] and running["attempts"] == 1 and running["progress"] == 0
    half.touch()
    until(lambda: api.job(job_id)["progress"] == 0.5, "progress is reported")
    assert api.job(job_id)["status"] == "RUNNING"
    whole.touch()
    job = api.until_ended(job_id)
    assert (job["status"], job["progress"]) == ("SUCCEEDED", 1)


def test_j6_jobs_of_one_algorithm_run_side_by_side(api: Api, site: dict[str, str], tmp_path: Path) -> None:
    api.register("puppet-2", env=site, desired_count=2)
    jobs = [api.process("puppet-2", do="wait", file=str(tmp_path / "go")) for _ in range(2)]

    def both_run() -> bool:
        return all(api.job(job_id)["status"] == "RUNNING" for job_id in jobs)

    until(both_run, "both jobs run at once")
    (tmp_path / "go").touch()
    for job_id in jobs:
        assert api.until_ended(job_id)["status"] == "SUCCEEDED"


def test_workers_are_added_between_the_bounds_when_jobs_wait(
    api: Api, site: dict[str, str], tmp_path: Path
) -> None:
    api.register("puppet-4", env=site, desired_count=1, max_count=2)
    jobs = [api.process("puppet-4", do="wait", file=str(tmp_path / "go")) for _ in range(4)]

    def two_run() -> bool:
        return sum(api.job(job_id)["status"] == "RUNNING" for job_id in jobs) == 2

    until(two_run, "a second worker has joined")
    assert api.record("puppet-4")["revision"] == 1, "what the platform chooses is no change of the record"
    (tmp_path / "go").touch()
    for job_id in jobs:
        assert api.until_ended(job_id)["status"] == "SUCCEEDED"


def test_j7_results_missed_while_away_come_on_the_next_connection_oldest_first_and_once(api: Api) -> None:
    missed = []
    for number in range(4):
        missed.append(api.process("puppet", client_id="away", do="raise" if number == 2 else "work"))
        api.until_ended(missed[-1])
    with api.listen("away") as listening:
        results = receive(listening, 4)
        assert [result["job_id"] for result in results] == missed
        assert [result["status"] for result in results] == ["SUCCEEDED", "SUCCEEDED", "FAILED", "SUCCEEDED"]
        assert results[2]["error"]["code"] and "dicom" not in results[2]
        live = api.process("puppet", client_id="away")
        assert receive(listening)[0]["job_id"] == live
        for job_id in (*missed, live):
            listening.send(json.dumps({"type": "received", "job_id": job_id}))
        listening.send('{"type": "ping"}')
        assert receive(listening) == [{"type": "pong"}]
    last = api.process("puppet", client_id="away")
    with api.listen("away") as listening:
        assert receive(listening)[0]["job_id"] == last, "what the client said it has came again"


def test_j7_a_close_however_proper_does_not_say_that_anything_was_read(api: Api) -> None:
    jobs = [api.process("puppet", client_id="hasty") for _ in range(3)]
    for job_id in jobs:
        api.until_ended(job_id)
    address = urlsplit(api.platform.env["WS_ENDPOINT"])
    with socket.create_connection((address.hostname, address.port)) as hasty:
        hasty.sendall(
            f"GET {address.path}?client_id=hasty HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: MDAwMDAwMDAwMDAwMDAwMA==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        read = b""
        while b"\r\n\r\n" not in read:
            read += hasty.recv(1)
        hasty.sendall(b"\x88\x82\0\0\0\0\x03\xe8")  # Close with 1000, as a page that calls close() at once
        while hasty.recv(65536):
            pass
    with api.listen("hasty") as listening:
        assert {result["job_id"] for result in receive(listening, 3)} == set(jobs)


def test_j7_what_a_connection_got_that_stays_open_is_not_sent_again(api: Api) -> None:
    with api.listen("steady") as listening:
        job_id = api.process("puppet", client_id="steady")
        assert receive(listening)[0]["job_id"] == job_id

        def a_second_connection_gets_nothing() -> bool:
            with api.listen("steady") as second:
                try:
                    return not receive(second, wait_s=0.5)
                except TimeoutError:
                    return True

        until(a_second_connection_gets_nothing, "the result counts as received")


def test_j7_a_replayed_jobs_new_result_comes_over_the_same_connection(
    api: Api, site: dict[str, str], tmp_path: Path
) -> None:
    healed = tmp_path / "healed"
    with api.listen("again") as listening:
        job_id = api.process("puppet", client_id="again", do="die until", file=str(healed))
        (first,) = receive(listening, wait_s=60)
        assert first["error"]["code"] == "DEAD_LETTERED"
        healed.touch()
        assert api.post(f"/admin/jobs/{job_id}/replay").status_code == 202
        (second,) = receive(listening)
        assert (second["job_id"], second["status"]) == (job_id, "SUCCEEDED")
        listening.send(json.dumps({"type": "received", "job_id": job_id}))  # the first of the two
        listening.send('{"type": "ping"}')
        assert receive(listening) == [{"type": "pong"}]
    with api.listen("again") as listening:
        assert receive(listening)[0]["status"] == "SUCCEEDED", "it was taken for received with the first"


def test_d2_j7_what_was_on_its_way_when_the_connection_broke_is_sent_again(api: Api) -> None:
    jobs = [api.process("puppet", client_id="torn") for _ in range(3)]
    with api.listen("torn") as broken:
        assert {result["job_id"] for result in receive(broken, 3)} == set(jobs)
        tear(broken)
    with api.listen("torn") as listening:
        assert {result["job_id"] for result in receive(listening, 3)} == set(jobs)


def tear(connection: ClientConnection) -> None:
    """Break the TCP connection, without a WebSocket close: a reset, as when a machine loses its network."""
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.socket.shutdown(socket.SHUT_RDWR)
    connection.socket.close()


def test_d1_two_connections_of_one_client_both_get_the_result_and_other_clients_none(api: Api) -> None:
    with api.listen("twice") as first, api.listen("twice") as second, api.listen("other") as other:
        job_id = api.process("puppet", client_id="twice")
        for listening in (first, second):
            assert receive(listening)[0]["job_id"] == job_id
        own = api.process("puppet", client_id="other")
        assert receive(other)[0]["job_id"] == own


def test_a_clients_ping_is_answered(api: Api) -> None:
    with api.listen("pinger") as listening:
        listening.send('{"type": "ping"}')
        assert receive(listening) == [{"type": "pong"}]


def test_scaled_to_nothing_it_is_inactive_once_the_running_job_has_ended(
    api: Api, site: dict[str, str], tmp_path: Path
) -> None:
    api.register("puppet-3", env=site)
    job_id = api.process("puppet-3", do="wait", file=str(tmp_path / "go"))
    api.until_job(job_id, "RUNNING")
    answer = api.http.delete("/admin/algorithms/puppet-3")
    assert (answer.status_code, answer.json()["desired_count"]) == (202, 0)
    refused = api.post("/process/puppet-3", {"pacs": IMAGE})
    assert (refused.status_code, error_of(refused)) == (409, "ALGORITHM_NOT_ACTIVE")
    assert api.record("puppet-3")["status"] != "INACTIVE" and api.job(job_id)["status"] == "RUNNING"
    (tmp_path / "go").touch()
    api.until_status("puppet-3", "INACTIVE")
    job = api.job(job_id)
    assert (job["status"], job["attempts"]) == ("SUCCEEDED", 1)
    answer = api.http.patch("/admin/algorithms/puppet-3", json={"desired_count": 1})
    assert answer.status_code == 200
    api.until_status("puppet-3", "ACTIVE")
    api.succeeds("puppet-3")
    answer = api.http.delete("/admin/algorithms/puppet-3", params={"hard": "true"})
    assert (answer.status_code, answer.json()["status"]) == (202, "DELETING")
    api.until_gone("puppet-3")
    assert not (api.platform.home / "logs/ecs/mip-puppet-3").exists()


def test_a_hard_delete_asks_for_force_while_jobs_wait_and_fails_those_with_a_reason(
    api: Api, folder: Path
) -> None:
    env = puppet.install(folder / "site-hard", [puppet.Puppet3])
    api.register("puppet-3", env=env)
    running = api.process("puppet-3", client_id="hard", do="wait", file=str(folder / "site-hard" / "go"))
    api.until_job(running, "RUNNING")
    waiting = api.process("puppet-3", client_id="hard")
    refused = api.http.delete("/admin/algorithms/puppet-3", params={"hard": "true"})
    assert (refused.status_code, error_of(refused)) == (409, "JOBS_WAITING")
    with api.listen("hard") as listening:
        forced = api.http.delete("/admin/algorithms/puppet-3", params={"hard": "true", "force": "true"})
        assert forced.status_code == 202
        (folder / "site-hard" / "go").touch()
        results = {result["job_id"]: result for result in receive(listening, 2)}
    assert results[running]["status"] == "SUCCEEDED"
    assert results[waiting]["error"]["code"] == "ALGORITHM_DELETED"
    api.until_gone("puppet-3")


def test_p6_an_update_that_is_based_on_an_old_revision_is_refused(api: Api) -> None:
    api.register("writers", desired_count=0, wait_for="INACTIVE")
    answer = api.get("/admin/algorithms/writers")
    tag = answer.headers["etag"]
    assert tag == '"1"'

    def patch(count: int, tag: str) -> httpx.Response:
        return api.http.patch(
            "/admin/algorithms/writers", json={"env": {"N": str(count)}}, headers={"if-match": tag}
        )

    first, second = patch(1, tag), patch(2, tag)
    assert (first.status_code, first.headers["etag"]) == (200, '"2"')
    assert (second.status_code, error_of(second)) == (412, "STALE_REVISION")
    assert api.record("writers")["env"] == {"N": "1"}
    assert patch(3, "*").status_code == 200
    assert patch(4, "nonsense").status_code == 422
    for how in ({}, {"hard": "true"}):
        late = api.http.delete("/admin/algorithms/writers", params=how, headers={"if-match": tag})
        assert (late.status_code, error_of(late)) == (412, "STALE_REVISION")
    assert api.record("writers")["status"] == "INACTIVE"


def test_registering_twice(api: Api) -> None:
    body = {"algo_id": "twice", **SEED_BODY, "desired_count": 0}
    assert [api.post("/admin/algorithms", body).status_code for _ in range(2)] == [201, 200]
    other = api.post("/admin/algorithms", {**body, "cpu": 2048, "memory": 4096})
    assert (other.status_code, error_of(other)) == (409, "ALGORITHM_EXISTS")
    ids = [record["algorithm_id"] for record in api.get("/admin/algorithms").json()["algorithms"]]
    assert ids == sorted(ids) and "twice" in ids


def test_the_earlier_systems_client_still_works(api: Api) -> None:
    """The React client's traffic: provision, connect, process, be told, fetch; and the PACS API's three calls."""
    client_id = api.post("/provision", {}).json()["client_id"]
    with api.listen(client_id) as listening:
        answer = api.post(
            "/process/processing_1", {"job_id": f"{client_id}-1", "client_id": client_id, "pacs": IMAGE}
        )
        assert answer.json()["message"] == "Enqueued"
        (result,) = receive(listening)
        assert {"job_id", "algo_id", "client_id", "dicom"} <= set(result)
        assert {"bucket", "key", "url"} <= set(result["dicom"])
    env = api.platform.env
    pacs = httpx.Client(base_url=env["PACS_API_BASE"], headers={"x-api-key": "devkey"}, trust_env=False)
    (study,) = pacs.get("/studies").json()
    for named in (study, "study-1"):
        assert len(pacs.get(f"/studies/{named}/images").json()) == 3
    listed = pacs.get("/studies/study-1/images", params={"series_id": "series-1"}).json()
    assert set(listed[0]) == {"url", "key"}
    one = pacs.get("/studies/study-1/images/series-1/image-1").json()
    assert set(one) == {"url", "expires"}
    assert httpx.get(one["url"], trust_env=False).content[128:132] == b"DICM"
    assert httpx.get(f"{env['PACS_API_BASE']}/studies", trust_env=False).status_code == 401


LEGACY_ADAPTER = """#!{python}
import json, os, urllib.request
import boto3
queue = boto3.client("sqs")
bucket = boto3.client("s3", config=boto3.session.Config(s3={{"addressing_style": "path"}}))
algo = os.environ["ALGO_ID"]
while True:
    answer = queue.receive_message(QueueUrl=os.environ["QUEUE_URL"], WaitTimeSeconds=20)
    for message in answer.get("Messages", []):
        job = json.loads(message["Body"])
        pacs = job["pacs"]
        path = "studies/%s/images/%s/%s" % (pacs["study_id"], pacs["series_id"], pacs["image_id"])
        asked = urllib.request.Request(os.environ["PACS_API_BASE"] + "/" + path)
        asked.add_header("x-api-key", os.environ["PACS_API_KEY"])
        url = json.load(urllib.request.urlopen(asked))["url"]
        image = urllib.request.urlopen(url).read()
        key = "%s/%s/%s_%s.dcm" % (pacs["study_id"], pacs["series_id"], pacs["image_id"], algo)
        name = os.environ["OUTPUT_BUCKET"]
        bucket.put_object(Bucket=name, Key=key, Body=image, ContentType="application/dicom")
        url = bucket.generate_presigned_url("get_object", Params={{"Bucket": name, "Key": key}})
        body = {{"job_id": job["job_id"], "algo_id": algo, "client_id": job["client_id"],
                "dicom": {{"bucket": name, "key": key, "url": url}}}}
        queue.send_message(QueueUrl=os.environ["RESULT_QUEUE"], MessageBody=json.dumps(body),
                           MessageGroupId=job["client_id"], MessageDeduplicationId=job["job_id"])
        queue.delete_message(QueueUrl=os.environ["QUEUE_URL"], ReceiptHandle=message["ReceiptHandle"])
"""


def test_a_container_of_the_earlier_system_runs_unchanged_where_its_record_allows_its_keys(folder: Path) -> None:
    """boto3, its own key, a result without status: only ``legacy_output_keys`` is new."""
    import sys

    commands = folder / "commands"
    commands.mkdir()
    (commands / "adapter.py").write_text(LEGACY_ADAPTER.format(python=sys.executable))
    (commands / "adapter.py").chmod(0o755)
    home, pacs = folder / "legacy-home", folder / "pacs"
    with Platform(home, pacs=pacs, options=["--allow-commands", str(commands)]) as platform:
        api = Api(platform)
        api.register("grayscale_cpp", command=["adapter.py"], legacy_output_keys=True)
        job = api.succeeds("grayscale_cpp")
        assert job["result"]["dicom"]["key"] == "study-1/series-1/image-1_grayscale_cpp.dcm"
        source = (folder / "pacs/study-1/series-1/image-1.dcm").read_bytes()
        assert api.download(job["result"]["dicom"]["url"]) == source
        api.register("outside", command=["../adapter.py"], wait_for="FAILED")
        assert "--allow-commands" in api.record("outside")["status_reason"]


def test_the_authors_example_is_found_through_its_entry_point_and_takes_parameters(api: Api, folder: Path) -> None:
    package = ROOT / "examples/threshold_processor"
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["medical_image_processing.processors"]
    installed = folder / "threshold-site"
    metadata = installed / "threshold_processor-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
    lines = "".join(f"{name} = {target}\n" for name, target in points.items())
    (metadata / "entry_points.txt").write_text(f"[medical_image_processing.processors]\n{lines}")
    api.register("threshold", env={"PYTHONPATH": f"{installed}:{package / 'src'}"})
    masks = []
    for above in (-5000, 100_000):
        job = api.succeeds("threshold", above=above)
        masks.append(api.download(job["result"]["dicom"]["url"]))
    assert masks[0] != masks[1]


def test_health_metrics_and_openapi(api: Api) -> None:
    job_id = api.process("puppet")
    api.until_ended(job_id)
    assert httpx.get(f"{api.platform.base}/health", trust_env=False).json()["status"] == "ok"
    text = httpx.get(f"{api.platform.base}/metrics", trust_env=False).text
    (done,) = re.findall(r'mip_jobs\{algo_id="puppet",status="SUCCEEDED"\} ([0-9.]+)', text)
    assert float(done) >= 1
    assert re.search(r'mip_job_seconds_bucket\{algo_id="puppet",le="[0-9.]+",status="SUCCEEDED"\}', text)
    assert "mip_queue_messages" in text and "mip_queue_oldest_seconds" in text
    assert "client-1" not in text and job_id not in text
    paths = api.get("/openapi.json").json()["paths"]
    for path in ("/admin/algorithms", "/admin/algorithms/{algo_id}", "/process/{algo_id}", "/jobs/{job_id}"):
        for name, operation in paths[path].items():
            assert "401" in operation["responses"] and "422" in operation["responses"], (name, path)


def test_queue_depth_and_age_show_what_waits(api: Api, site: dict[str, str], tmp_path: Path) -> None:
    api.register("puppet-2", env=site, desired_count=2)
    long = [api.process("puppet-2", do="wait", file=str(tmp_path / "go")) for _ in range(6)]

    def depth() -> float:
        found = re.findall(r'mip_queue_messages\{queue="mip-puppet-2.fifo"\} ([0-9.]+)', api.get("/metrics").text)
        return float(found[0]) if found else 0.0

    assert depth() == 6
    (tmp_path / "go").touch()
    for job_id in long:
        api.until_ended(job_id)
    until(lambda: depth() == 0, "the queue is empty")


def test_a_page_of_the_react_clients_origin_may_call_and_others_may_not(api: Api) -> None:
    def preflight(origin: str) -> httpx.Response:
        asked = {"origin": origin, "access-control-request-method": "POST"}
        asked["access-control-request-headers"] = "content-type,x-admin-key"
        return api.http.options("/process/puppet", headers=asked)

    allowed = preflight("http://localhost:3000")
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "x-admin-key" in allowed.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-origin" not in preflight("https://evil.example").headers
    url = api.succeeds("puppet")["result"]["dicom"]["url"]
    answer = httpx.get(url, headers={"origin": "http://localhost:3000"}, trust_env=False)
    assert answer.headers.get("access-control-allow-origin") in ("*", "http://localhost:3000")


def test_logs_are_json_lines_that_name_job_and_algorithm(api: Api) -> None:
    job_id = api.process("puppet", do="raise")
    api.until_ended(job_id)
    lines: list[dict[str, Any]] = []

    def told() -> bool:
        said = api.get("/admin/algorithms/puppet/logs", lines=200).json()["lines"]
        lines[:] = [json.loads(line) for line in said]
        return any(line.get("job_id") == job_id for line in lines)

    until(told, "the log says something of the job")
    assert all(line["algo_id"] == "puppet" for line in lines)


def test_records_jobs_and_results_outlive_the_platform(folder: Path, site: dict[str, str]) -> None:
    platform = Platform(folder / "restarted", pacs=folder / "pacs", options=unconfined(folder))
    with platform:
        api = Api(platform)
        api.register("puppet", env=site)
        before = api.succeeds("puppet", client_id="patient")
        content = api.download(before["result"]["dicom"]["url"])
        assert platform.stop() == 0
        platform.start()
        api.until_status("puppet", "ACTIVE")
        after = api.job(before["job_id"])
        assert api.download(after["result"]["dicom"]["url"]) == content
        with api.listen("patient") as listening:
            assert receive(listening)[0]["job_id"] == before["job_id"]
        api.succeeds("puppet")
