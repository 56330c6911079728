"""Who gets in, what a worker can reach, and that nothing about a patient leaks (laws A1 to A4)."""

import contextlib
import json
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pydicom
import pytest
from botocore.config import Config
from pydicom.data import get_testdata_file
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from api_calls import IMAGE, Api, error_of, make_pacs, receive, until
from medical_image_processing.testing import puppet
from platform_process import CLI, Platform, children, clean_environment, unconfined

PATIENT = "Zzyzx^Quetzalcoatl"
PATIENT_ID = "PID-7788-SECRET"
ADDRESS = "Geheimgasse 17"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("security")
    make_pacs(folder / "pacs")
    return folder


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Iterator[Platform]:
    """Listening for other machines, with client keys."""
    keys = folder / "keys"
    keys.touch(mode=0o600)
    options = ["--host", "0.0.0.0", "--client-keys", str(keys), *unconfined(folder)]
    with Platform(folder / "guarded", pacs=folder / "pacs", options=options) as platform:
        admin = Api(platform, admin_key=platform.env["MIP_ADMIN_KEY"])
        admin.register("puppet", env=puppet.install(folder / "site"))
        yield platform


@pytest.fixture(scope="module")
def admin(guarded: Platform) -> Api:
    return Api(guarded, admin_key=guarded.env["MIP_ADMIN_KEY"])


@pytest.fixture(scope="module")
def clients(guarded: Platform, admin: Api) -> tuple[Api, Api]:
    """Two clients with keys of their own, each allowed one client_id."""
    made = []
    for name in ("anna", "bert"):
        answer = admin.post("/admin/keys", {"name": name, "client_ids": [f"{name}-1"]})
        assert answer.status_code == 201
        made.append(Api(guarded, admin_key=None, client_key=answer.json()["key"]))
    return made[0], made[1]


@pytest.mark.parametrize("key", ["dev-admin", "devkey", "", "MIP_ADMIN_KEY"])
def test_the_seeds_keys_open_nothing_off_loopback(guarded: Platform, key: str) -> None:
    stranger = Api(guarded, admin_key=key or None)
    assert stranger.get("/admin/algorithms").status_code == 401
    assert stranger.get("/metrics").status_code == 401
    pacs = httpx.get(f"{guarded.env['PACS_API_BASE']}/studies", headers={"x-api-key": key or "x"}, trust_env=False)
    assert pacs.status_code == 401


def test_the_web_client_is_told_no_key_off_loopback(guarded: Platform) -> None:
    assert Api(guarded, admin_key=None).get("/config.json").json() == {}


def test_without_a_key_a_client_gets_nowhere(guarded: Platform) -> None:
    for key in (None, "wrong", guarded.env["MIP_ADMIN_KEY"]):
        stranger = Api(guarded, admin_key=None, client_key=key)
        for answer in (
            stranger.post("/provision", {}),
            stranger.post("/process/puppet", {"pacs": IMAGE}),
            stranger.get("/jobs"),
            stranger.get("/jobs/some-job"),
            stranger.post("/jobs/some-job/cancel"),
        ):
            assert (answer.status_code, error_of(answer)) == (401, "CLIENT_KEY_REQUIRED")
        with pytest.raises(InvalidStatus) as refused, stranger.listen("anna-1"):
            pass
        assert refused.value.response.status_code == 401
    assert Api(guarded, admin_key=None).get("/health").status_code == 200


def test_clients_see_only_their_own_jobs_and_results(clients: tuple[Api, Api]) -> None:
    anna, bert = clients
    job_id = anna.process("puppet", client_id="anna-1")
    anna.until_ended(job_id)
    assert bert.get(f"/jobs/{job_id}").status_code == 404
    assert bert.post(f"/jobs/{job_id}/cancel").status_code == 404
    assert bert.get("/jobs").json()["jobs"] == []
    refused = bert.get("/jobs", client_id="anna-1")
    assert (refused.status_code, error_of(refused)) == (403, "NOT_YOUR_CLIENT_ID")
    posted = bert.post("/process/puppet", {"client_id": "anna-1", "pacs": IMAGE})
    assert (posted.status_code, error_of(posted)) == (403, "NOT_YOUR_CLIENT_ID")
    with pytest.raises(InvalidStatus) as denied, bert.listen("anna-1"):
        pass
    assert denied.value.response.status_code == 403
    with anna.listen("anna-1") as listening:
        assert receive(listening)[0]["job_id"] == job_id
    # A job id that is taken says so to anybody, but tells nothing of the job.
    taken = bert.post("/process/puppet", {"job_id": job_id, "client_id": "bert-1", "pacs": IMAGE})
    assert (taken.status_code, error_of(taken)) == (409, "JOB_ID_TAKEN")
    assert "anna" not in taken.text


def test_j3_a_job_sent_without_a_client_id_is_the_same_after_provision_and_nobody_elses(
    guarded: Platform, admin: Api, clients: tuple[Api, Api]
) -> None:
    key = admin.post("/admin/keys", {"name": "zoe", "client_ids": ["zoe-1"]}).json()["key"]
    zoe, bert = Api(guarded, admin_key=None, client_key=key), clients[1]
    body = {"job_id": "unnamed", "pacs": IMAGE}
    first = zoe.post("/process/puppet", body)
    assert first.status_code == 202
    for _ in range(3):
        zoe.post("/provision", {})
        again = zoe.post("/process/puppet", body)
        assert (again.status_code, again.json()["client_id"]) == (202, first.json()["client_id"])
    taken = bert.post("/process/puppet", body)
    assert (taken.status_code, error_of(taken)) == (409, "JOB_ID_TAKEN")
    assert "zoe" not in taken.text


def test_the_websocket_takes_its_key_from_the_query_too(guarded: Platform, clients: tuple[Api, Api]) -> None:
    anna, _ = clients
    address = f"{guarded.env['WS_ENDPOINT']}?client_id=anna-1&key={anna.client_key}"
    with connect(address, proxy=None) as listening:
        job_id = anna.process("puppet", client_id="anna-1")
        while receive(listening)[0]["job_id"] != job_id:
            pass  # what other tests' connections did not say they have
    assert str(anna.client_key) not in guarded.log.read_text()


def test_a_client_id_from_provision_is_the_callers_alone(clients: tuple[Api, Api]) -> None:
    anna, bert = clients
    mine = anna.post("/provision", {}).json()["client_id"]
    assert mine != anna.post("/provision", {}).json()["client_id"]
    anna.succeeds("puppet", client_id=mine)
    assert bert.get("/jobs", client_id=mine).status_code == 403


def test_a_removed_key_opens_nothing(guarded: Platform, admin: Api) -> None:
    key = admin.post("/admin/keys", {"name": "temp", "role": "admin"}).json()["key"]
    second = Api(guarded, admin_key=key)
    assert second.get("/admin/keys").status_code == 200
    assert key not in second.get("/admin/keys").text
    assert admin.http.delete("/admin/keys/temp").status_code == 204
    assert second.get("/admin/keys").status_code == 401


def test_k2_removing_a_key_closes_the_connections_it_had_opened(guarded: Platform, admin: Api) -> None:
    answer = admin.post("/admin/keys", {"name": "leaving", "client_ids": ["leaving-1"]})
    leaving = Api(guarded, admin_key=None, client_key=answer.json()["key"])
    with leaving.listen("leaving-1") as listening:
        leaving.process("puppet", client_id="leaving-1")
        receive(listening)
        assert admin.http.delete("/admin/keys/leaving").status_code == 204
        with pytest.raises(ConnectionClosed) as closed:
            listening.recv(timeout=10)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008


def test_who_changed_what_and_who_read_what_is_on_record(guarded: Platform, admin: Api) -> None:
    key = admin.post("/admin/keys", {"name": "carla", "role": "admin"}).json()["key"]
    carla = Api(guarded, admin_key=key)
    carla.register("audited", desired_count=0, wait_for="INACTIVE", env={"TOKEN": "hush-hush"})
    answer = admin.post("/admin/keys", {"name": "reader", "client_ids": ["reader-1"]})
    reader = Api(guarded, admin_key=None, client_key=answer.json()["key"])
    job = reader.succeeds("puppet", client_id="reader-1")
    study = str(pydicom.dcmread(str(get_testdata_file("CT_small.dcm"))).StudyInstanceUID)

    def entries(subject: str) -> list[tuple[str, str, str]]:
        with sqlite3.connect(f"file:{guarded.home / 'mip.db'}?mode=ro", uri=True) as file:
            sql = "SELECT actor, action, details FROM audit WHERE subject = ?"
            return file.execute(sql, (subject,)).fetchall()

    assert [row[:2] for row in entries("audited")] == [("carla", "register")]
    assert "hush-hush" not in str(entries("audited"))
    until(lambda: job["job_id"] in str(entries(study)), "the read is on record")
    read = next(row for row in entries(study) if job["job_id"] in row[2])
    assert read[:2] == ("puppet", "read")


def test_what_holds_secrets_is_readable_by_its_owner_alone(guarded: Platform) -> None:
    home = guarded.home
    assert home.stat().st_mode & 0o077 == 0
    for name in ("env", "secrets.json", "lock"):
        assert (home / name).stat().st_mode & 0o077 == 0, name
    for path in home.rglob("*"):
        if path.is_file() and path.suffix in (".db", ".log", ".dcm"):
            private = path.stat().st_mode & 0o077 == 0
            assert private or home.stat().st_mode & 0o077 == 0, path


def test_in_a_home_that_others_may_enter_no_file_is_theirs_to_read(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    with Platform(home, pacs=folder / "pacs", options=unconfined(folder)) as platform:
        api = Api(platform)
        api.register("puppet", env=puppet.install(folder / "site"))
        job = api.succeeds("puppet")
        assert (home / "output" / job["result"]["dicom"]["key"]).is_file()
        for path in home.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # it was there for a moment
                assert path.is_socket() or path.stat().st_mode & 0o077 == 0, path


def test_with_every_address_of_ipv6_jobs_run_and_results_can_be_fetched(folder: Path, tmp_path: Path) -> None:
    options = ["--host", "::", "--open-clients", *unconfined(folder)]
    with Platform(tmp_path / "home", pacs=folder / "pacs", options=options) as platform:
        api = Api(platform, admin_key=platform.env["MIP_ADMIN_KEY"])
        api.register("puppet", env=puppet.install(folder / "site"))
        job = api.succeeds("puppet")
        assert api.download(job["result"]["dicom"]["url"])[128:132] == b"DICM"


def test_keys_stay_out_of_logs_process_lists_and_the_database(
    guarded: Platform, clients: tuple[Api, Api], folder: Path
) -> None:
    env = guarded.env
    secrets = [env[name] for name in ("MIP_ADMIN_KEY", "PACS_API_KEY", "AWS_SECRET_ACCESS_KEY")]
    secrets += [str(api.client_key) for api in clients]
    said = guarded.log.read_bytes() + b"".join(path.read_bytes() for path in guarded.home.rglob("*.log"))
    said += b"".join(path.read_bytes() for path in guarded.home.glob("mip.db*"))
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout
    for secret in secrets:
        assert secret.encode() not in said
        assert secret.encode() not in processes


def worker_environment(api: Api, folder: Path) -> dict[str, str]:
    report = folder / "environment.json"
    found = {**puppet.install(folder / "site"), "PUPPET_REPORT": str(report), "EXTRA_DEBUG": "1"}
    api.register("puppet-2", env=found)
    api.succeeds("puppet-2", client_id=None, do="tell environment")
    return json.loads(report.read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def local(folder: Path) -> Iterator[Api]:
    """On loopback, started from an environment that holds secrets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOSPITAL_DATABASE_PASSWORD", "tops3cret")
        platform = Platform(folder / "local", pacs=folder / "pacs", options=unconfined(folder))
        platform.start()
    try:
        yield Api(platform)
    finally:
        platform.stop()


def test_a_worker_gets_the_contracts_environment_and_nothing_of_the_platforms(local: Api, folder: Path) -> None:
    env = worker_environment(local, folder)
    contract = {"QUEUE_URL", "RESULT_QUEUE", "OUTPUT_BUCKET", "ALGO_ID", "PACS_API_BASE", "PACS_API_KEY"}
    contract |= {"AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert contract <= set(env)
    assert (env["ALGO_ID"], env["EXTRA_DEBUG"]) == ("puppet-2", "1")
    assert "HOSPITAL_DATABASE_PASSWORD" not in env and "MIP_ADMIN_KEY" not in env
    platform = local.platform.env
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "PACS_API_KEY"):
        assert env[name] != platform[name], f"the worker has the operator's {name}"
    assert "dev-admin" not in env.values() and "tops3cret" not in str(env)


def test_what_draws_thumbnails_gets_nothing_of_the_platforms_environment(local: Api) -> None:
    keys = {"headers": {"x-api-key": "devkey"}}
    [series] = local.http.get("/pacs/series", **keys).json()
    named = {"study_id": series["study_id"], "series_id": series["series_id"]}
    assert local.http.get("/pacs/thumbnail", params=named, **keys).status_code == 200
    [drawing] = children(local.platform.pid, "draw_thumbnails")
    held = Path(f"/proc/{drawing}/environ").read_bytes().decode().rstrip("\0").split("\0")
    names = {variable.partition("=")[0] for variable in held}
    assert "PATH" in names
    needed = {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH"}
    assert names <= needed | {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}


def test_a_workers_port_has_no_admin_api_and_its_pacs_key_opens_only_the_pacs(local: Api, folder: Path) -> None:
    env = worker_environment(local, folder)
    for path in ("/admin/algorithms", "/jobs", "/metrics", "/openapi.json"):
        answer = httpx.get(env["AWS_ENDPOINT_URL"] + path, headers={"x-admin-key": "dev-admin"}, trust_env=False)
        assert answer.status_code in (400, 403, 404), path
    assert "algorithms" not in answer.text
    key = {"x-api-key": env["PACS_API_KEY"]}
    assert httpx.get(f"{env['PACS_API_BASE']}/studies", headers=key, trust_env=False).status_code == 200
    stranger = Api(local.platform, admin_key=env["PACS_API_KEY"])
    assert stranger.get("/admin/algorithms").status_code == 401


def test_a1_the_pacs_key_of_an_algorithm_that_is_gone_opens_nothing(local: Api, folder: Path) -> None:
    env = worker_environment(local, folder)
    key = {"x-api-key": env["PACS_API_KEY"]}
    assert httpx.get(f"{env['PACS_API_BASE']}/studies", headers=key, trust_env=False).status_code == 200
    assert local.http.delete("/admin/algorithms/puppet-2", params={"hard": "true"}).status_code == 202
    local.until_gone("puppet-2")
    assert httpx.get(f"{env['PACS_API_BASE']}/studies", headers=key, trust_env=False).status_code == 401
    assert worker_environment(local, folder)["PACS_API_KEY"] != env["PACS_API_KEY"]


def aws(env: dict[str, str], service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=env["AWS_ENDPOINT_URL"],
        region_name=env["AWS_REGION"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )


def test_a1_a_forged_result_for_another_algorithms_job_changes_nothing(
    local: Api, folder: Path, tmp_path: Path
) -> None:
    thief = worker_environment(local, folder)
    local.register("puppet", env=puppet.install(folder / "site"))
    victim = local.process("puppet", client_id="victim", do="wait", file=str(tmp_path / "go"))
    local.until_job(victim, "RUNNING")
    queue = aws(thief, "sqs")
    where = {"bucket": thief["OUTPUT_BUCKET"], "key": "puppet/forged.dcm"}
    own = {"bucket": thief["OUTPUT_BUCKET"], "key": "puppet-2/forged.dcm"}
    lies = [
        {"job_id": victim, "algo_id": "puppet", "client_id": "victim", "dicom": where},
        {"job_id": victim, "algo_id": "puppet", "client_id": "victim", "status": "FAILED"},
        {"job_id": victim, "algo_id": "puppet-2", "client_id": "victim", "dicom": own},
        {"job_id": victim, "algo_id": "puppet-2", "client_id": "victim", "status": "FAILED"},
    ]
    for number, lie in enumerate(lies):
        queue.send_message(
            QueueUrl=thief["RESULT_QUEUE"],
            MessageBody=json.dumps(lie),
            MessageGroupId=victim,
            MessageDeduplicationId=f"lie-{number}",
        )
    (tmp_path / "go").touch()
    # Behind the lies, in the same group: once this has been read, they have.
    job = local.until_ended(victim)
    assert job["status"] == "SUCCEEDED" and "forged" not in str(job["result"])
    assert job["error"] is None


def test_a3_nothing_about_a_patient_in_logs_errors_metrics_or_the_database(
    local: Api, folder: Path, tmp_path: Path
) -> None:
    image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    image.PatientName, image.PatientID, image.PatientAddress = PATIENT, PATIENT_ID, ADDRESS
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    secret = folder / "pacs/study-1/series-2"
    secret.mkdir(exist_ok=True)
    image.save_as(secret / "image.dcm")
    whole = (secret / "image.dcm").read_bytes()
    (secret / f"{PATIENT.replace('^', '_')}.dcm").write_bytes(whole)
    (secret / "half.dcm").write_bytes(whole[: len(whole) // 3])
    image.WindowCenter = "1"
    del image.Rows
    image.save_as(secret / "broken.dcm")
    local.register("puppet", env=puppet.install(folder / "site"))
    local.register("processing_1")
    answers = ""
    series = {"study_id": "study-1", "series_id": "series-2"}
    scopes = [{**series, "image_id": name, "scope": "image"} for name in ("image", "half", "broken")]
    for where in (*scopes, {**series, "scope": "series"}):
        for algo_id, how in (("puppet", {"do": "raise"}), ("puppet", {}), ("processing_1", {})):
            answers += json.dumps(local.until_ended(local.process(algo_id, pacs=where, **how)))
    answers += local.get("/metrics").text
    for algo_id in ("puppet", "processing_1"):
        answers += local.get(f"/admin/algorithms/{algo_id}/logs", lines=2000).text
    home = local.platform.home
    texts = answers.encode() + local.platform.log.read_bytes()
    texts += b"".join(path.read_bytes() for path in home.rglob("*.log"))
    with sqlite3.connect(f"file:{home / 'mip.db'}?mode=ro", uri=True) as file:
        texts += "\n".join(file.iterdump()).encode()
    for word in ("Zzyzx", "Quetzalcoatl", PATIENT_ID, ADDRESS, "PUPPET^SECRET"):
        assert word.encode() not in texts, f"{word} leaked"


def test_on_loopback_a_name_that_a_web_page_points_here_opens_nothing(local: Api, guarded: Platform) -> None:
    env = local.platform.env
    keys = {"x-admin-key": "dev-admin", "x-api-key": "devkey"}
    ports = [httpx.URL(env[name]).port for name in ("API_BASE", "AWS_ENDPOINT_URL")]
    # Where workers call, no fixed key opens the PACS under any name.
    api, workers = ports
    opens = {f":{api}/admin/algorithms": 200, f":{api}/pacs/studies": 200, f":{workers}/pacs/studies": 401}
    for target, status in opens.items():
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "127.1.2.3:99", "[::1]:8080"):
            answer = httpx.get(f"http://127.0.0.1{target}", headers={**keys, "host": host}, trust_env=False)
            assert answer.status_code == status, (target, host)
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "192.0.2.1", ""):
            answer = httpx.get(f"http://127.0.0.1{target}", headers={**keys, "host": host}, trust_env=False)
            assert (answer.status_code, error_of(answer)) == (421, "HOST_NOT_LOOPBACK"), (target, host)
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(f"ws://evil.example:{ports[0]}/ws?client_id=c", proxy=None, address=("127.0.0.1", ports[0])),
    ):
        pass
    assert refused.value.response.status_code == 403
    # Where keys are random, proxies and names are the operator's.
    assert (
        httpx.get(f"{guarded.base}/health", headers={"host": "pacs.example"}, trust_env=False).status_code == 200
    )


def test_the_pacs_folder_is_all_that_its_api_opens(local: Api) -> None:
    env = local.platform.env
    port = httpx.URL(env["PACS_API_BASE"]).port
    for target in (
        "/pacs/studies/../../../etc/images/passwd/x",
        "/pacs/studies/%2e%2e/images/%2e%2e/secrets.json",
        "/pacs/studies/study-1/images/..%2f..%2f/secrets.json",
        "/pacs/files/../secrets.json",
        "/pacs/files/%2e%2e%2fsecrets.json?expires=9999999999&signature=x",
        "/pacs//etc/passwd",
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            raw.sendall(
                f"GET {target} HTTP/1.1\r\nHost: [::1]\r\nx-api-key: devkey\r\nConnection: close\r\n\r\n".encode()
            )
            said = b"".join(iter(lambda: raw.recv(65536), b""))
        status = int(said.split()[1])
        assert 400 <= status < 500, (target, status)
        assert b"root:" not in said and b"secret_access_key" not in said


def test_a_key_made_on_the_command_line_opens_and_is_shown_once(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    done = subprocess.run(
        [*CLI, "keys", "add", "scanner", "--file", str(file), "--client-ids", "scanner-1", "--json"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    key = json.loads(done.stdout)["key"]
    assert key not in file.read_text()
    with Platform(tmp_path / "home", pacs=folder / "pacs", options=["--client-keys", str(file)]) as platform:
        assert Api(platform, client_key=key).get("/jobs").status_code == 200
        assert Api(platform).get("/jobs").status_code == 401
