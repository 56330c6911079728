"""Workers in containers: each algorithm in its own small, locked room (issue: what the tests must show)."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from containers_stage import ContainerApi, docker_platform, host_addresses, outside_world
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from api_calls import add_to_pacs, make_pacs, until
from docker_engine import LABEL, PUPPET_ENV, DockerEngine
from platform_process import Platform


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pacs(tmp_path_factory.mktemp("containers") / "pacs")


@pytest.fixture(scope="module")
def api(
    tmp_path_factory: pytest.TempPathFactory, pacs: Path, docker_engine: DockerEngine, puppet_image: str
) -> Iterator[ContainerApi]:
    """One platform for tests that don't disturb each other; it listens on all addresses, as on a server."""
    home = tmp_path_factory.mktemp("containers-home") / "home"
    with docker_platform(home, pacs, docker_engine, "--host", "0.0.0.0", "--open-clients") as platform:
        yield ContainerApi(platform, docker_engine, puppet_image)


# The room


def test_a_worker_is_nobody_can_write_only_to_tmp_and_start_so_many_processes(api: ContainerApi) -> None:
    api.puppet("locked", memory=1024)
    found = api.explore("locked", write=["/tmp/x", "/x", "/app/x", "/opt/puppet/x", "/etc/passwd"], processes=2000)
    assert found["wrote"] == [True, False, False, False, False]
    assert found["uid"] == 10001 and found["capabilities"] == 0 and found["no_new_privileges"]
    assert 100 < found["started"] < 512


def test_an_image_that_wants_root_gets_nobody(api: ContainerApi, docker_engine: DockerEngine) -> None:
    made = api.docker.images.build(
        fileobj=io.BytesIO(f"FROM {api.image}\nUSER root\n".encode()), tag="mip-test-root:1"
    )
    api.puppet("rooted", image_uri=str(made[0].id))
    assert api.explore("rooted")["uid"] == 65534


def test_a_user_without_a_group_does_not_get_root_s(api: ContainerApi) -> None:
    for algo_id, user, groups in (("lonely", "12345", (12345, 12345)), ("wheel", "12345:0", (65534, 65534))):
        api.puppet(algo_id, image_uri=_image(api, f"USER {user}"))
        found = api.explore(algo_id)
        assert (found["uid"], found["gid"]) == groups


def test_a_log_grows_no_faster_than_a_log_should(api: ContainerApi) -> None:
    command = ["sh", "-c", "head -c 300000000 /dev/zero; echo; sleep 600"]
    api.register("chatty", image_uri=api.image, command=command)
    container = api.container("chatty")
    # It has said everything once it sleeps; then what was kept is known.
    until(lambda: "sleep 600" in str(container.top()["Processes"][-1]), "it has said everything")
    log = api.platform.home / "logs/ecs/mip-chatty/worker.log"
    assert log.stat().st_size < 64 << 20


def test_cores_and_memory_are_hard_limits(api: ContainerApi) -> None:
    api.puppet("limited", cpu=512, memory=1024)
    config = api.container("limited").attrs["HostConfig"]
    assert (config["Memory"], config["MemorySwap"], config["NanoCpus"]) == (2**30, 2**30, 500_000_000)
    assert f"size={2**29}" in config["Tmpfs"]["/tmp"]
    api.succeeds("limited", do="hog", mib=400)


def test_from_a_container_only_the_platforms_address_for_workers_answers(
    api: ContainerApi, docker_engine: DockerEngine, debian_image: str
) -> None:
    api.puppet("explorer")
    api.register("neighbour", image_uri=api.image, command=["python3", "-m", "http.server", "9999"])
    settings = api.container("neighbour").attrs["NetworkSettings"]
    neighbour = next(iter(settings["Networks"].values()))["IPAddress"]
    reaches = ["python3", "-c", f"import socket; socket.create_connection(('{neighbour}', 9999), 2)"]
    until(lambda: api.container("neighbour").exec_run(reaches).exit_code == 0, "the neighbour listens")
    worker = api.platform.env["AWS_ENDPOINT_URL"].removeprefix("http://").partition(":")
    with outside_world() as outside, socket.create_server(("0.0.0.0", 0)) as service:
        forbidden = [
            (neighbour, 9999),
            (outside.internet, 80),
            (outside.metadata, 80),
            ("127.0.0.1", api.platform.port),
            *((address, api.platform.port) for address in host_addresses()),
            *((address, service.getsockname()[1]) for address in host_addresses()),
        ]
        found = api.explore("explorer", connect=[(worker[0], int(worker[2])), *forbidden])
        assert found["connected"] == [True] + [False] * len(forbidden), forbidden
        # Nothing of this would be shown if the stand-ins could be reached from nowhere.
        for address in (outside.internet, outside.metadata):
            script = f"import socket; socket.create_connection(('{address}', 80), 10)"
            api.docker.containers.run(debian_image, ["python3", "-c", script], remove=True)


@pytest.mark.needs("curl")
def test_strangers_are_not_answered_at_the_containers_address(
    tmp_path: Path, pacs: Path, docker_engine: DockerEngine
) -> None:
    """A platform on loopback, and a host that takes this one for its router."""
    with docker_platform(tmp_path / "home", pacs, docker_engine) as platform, outside_world() as outside:
        url, key = f"{platform.env['AWS_ENDPOINT_URL']}/pacs/studies", platform.env["PACS_API_KEY"]
        assert outside.get(url, x_api_key=key) == 403
        assert httpx.get(url, headers={"x-api-key": key}, trust_env=False).status_code == 401
        assert httpx.get(f"{platform.base}/pacs/studies", headers={"x-api-key": key}, trust_env=False).is_success


def test_the_operators_key_opens_nothing_for_workers(api: ContainerApi) -> None:
    api.puppet("curious")
    url = f"{api.platform.env['AWS_ENDPOINT_URL']}/pacs/studies"
    script = f"""
import urllib.request, urllib.error
try:
    headers = {{"x-api-key": "{api.platform.env["PACS_API_KEY"]}"}}
    urllib.request.urlopen(urllib.request.Request({url!r}, headers=headers))
except urllib.error.HTTPError as error:
    print(error.code)
"""
    assert api.container("curious").exec_run(["python3", "-c", script]).output.strip() == b"401"


def test_no_name_is_asked_of_this_machines_resolver(api: ContainerApi) -> None:
    """Names would be a way out: what is asked for tells whoever answers (as CVE-2024-29018)."""
    api.puppet("asker")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.bind(("127.0.0.1", 53))
        resolver.setblocking(False)
        found = api.explore("asker", resolve=["secret.mip-test.invalid"])
        assert found["resolved"] == [False]
        with pytest.raises(BlockingIOError):
            resolver.recv(512)


def test_the_admin_api_refuses_a_container_even_without_a_firewall(api: ContainerApi) -> None:
    """As where the platform isn't root: without its rules the port answers, but nobody gets in."""
    api.puppet("climber")
    gateway = api.platform.env["AWS_ENDPOINT_URL"].removeprefix("http://").partition(":")[0]
    worker = api.container("climber")
    url = f"http://{gateway}:{api.platform.port}/admin/algorithms"
    script = f"""
import urllib.request, urllib.error
request = urllib.request.Request({url!r}, headers={{"x-admin-key": {api.platform.env["MIP_ADMIN_KEY"]!r}}})
try:
    print(urllib.request.urlopen(request, timeout=3).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError as error:
    print("unreachable")
"""
    assert worker.exec_run(["python3", "-c", script]).output.strip() == b"unreachable"
    with _without_rules(f"mip{api.platform_id}", api.platform.port):
        assert worker.exec_run(["python3", "-c", script]).output.strip() == b"403"


# What went wrong is told apart


def test_an_image_with_a_volume_is_refused(api: ContainerApi) -> None:
    record = api.puppet("voluminous", image_uri=_image(api, "VOLUME /data"), wait_for="FAILED")
    assert "declares VOLUME /data" in record["status_reason"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_uri": "mip-test-nothing:1"}, "is not on this machine"),
        ({"image_uri": "not//an::image"}, "can't name an image"),
        ({"command": ["/app/nothing"]}, "has no program '/app/nothing'"),
        ({"command": ["/etc/hostname"]}, "may not execute '/etc/hostname'"),
        (
            {"command": ["sh", "-c", "echo the model file is missing >&2; exit 3"]},
            "exited with status 3: the model file",
        ),
        ({"command": ["sh", "-c", "exit 255"]}, "exited with status 255"),
        ({"command": ["sh", "-c", "exit 75"]}, "exited with status 75"),
        ({"command": ["python3", "-c", "import ctypes; ctypes.string_at(0)"]}, "ended by signal SIGSEGV"),
        ({"command": ["sh", "-c", "printf '\\033[2J'; echo $AWS_SECRET_ACCESS_KEY; exit 1"]}, "\ufffd[2J(a key)"),
        ({"command": ["python3", "-c", "x = bytearray(10**9)"]}, "ran out of memory: its limit is 512 MiB"),
    ],
)
def test_why_workers_cannot_run_is_in_the_record(api: ContainerApi, changes: dict[str, Any], said: str) -> None:
    algo_id = f"broken-{abs(hash(said)) % 10**9}"
    record = api.puppet(algo_id, wait_for="FAILED", **changes)
    assert said in record["status_reason"]
    assert api.http.delete(f"/admin/algorithms/{algo_id}", params={"hard": True}).status_code == 202


def test_an_image_for_another_architecture_is_named(api: ContainerApi) -> None:
    _load_image(api.docker, "mip-test-other-architecture:1", architecture="s390x")
    record = api.puppet("foreign", image_uri="mip-test-other-architecture:1", wait_for="FAILED")
    assert "linux/s390x" in record["status_reason"] and "build it for that" in record["status_reason"]


def test_a_job_that_needs_too_much_memory_says_so_and_succeeds_with_more(api: ContainerApi) -> None:
    api.puppet("hungry")
    job_id = api.process("hungry", do="hog", mib=1200)
    error = api.until_job(job_id, "FAILED", wait_s=60)["error"]
    assert error["code"] == "DEAD_LETTERED" and "its limit is 512 MiB" in error["message"]
    assert api.http.patch("/admin/algorithms/hungry", json={"memory": 2048}).status_code == 200
    assert api.post(f"/admin/jobs/{job_id}/replay").status_code == 202
    assert api.until_ended(job_id)["status"] == "SUCCEEDED"


def test_a_job_that_hangs_is_ended_and_says_so(api: ContainerApi) -> None:
    api.puppet("hangs", env={**PUPPET_ENV, "MIP_TIME_LIMIT_S": "1"})
    hung = api.container("hangs").id
    assert api.fails("hangs", do="hang") == "TIME_LIMIT_EXCEEDED"
    until(lambda: [one.id for one in api.containers("hangs")] not in ([], [hung]), "another one is there")
    # A quarter of a core of a busy machine may need that second for its first job, too.
    assert api.http.patch("/admin/algorithms/hangs", json={"env": PUPPET_ENV}).status_code == 200
    api.succeeds("hangs")


# Crashes


def _study(name: str) -> str:
    """What a job can wait for."""
    return str(generate_uid(entropy_srcs=["waited for", name]))


def _add_study(pacs: Path, name: str) -> None:
    """What waits for it goes on."""
    image = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))
    image.StudyInstanceUID = _study(name)
    image.SeriesInstanceUID, image.SOPInstanceUID = generate_uid(), generate_uid()
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.save_as(pacs.with_name(name))
    add_to_pacs(pacs, name, pacs.with_name(name))


def test_a_job_whose_container_is_killed_is_finished_by_the_next(api: ContainerApi, pacs: Path) -> None:
    api.puppet("victim")
    job_id = api.process("victim", do="wait", study=_study("victim"))
    api.until_job(job_id, "RUNNING")
    killed = api.container("victim")
    killed.kill("SIGKILL")
    _add_study(pacs, "victim")
    job = api.until_ended(job_id)
    assert (job["status"], job["attempts"]) == ("SUCCEEDED", 2)
    assert killed.id not in {container.id for container in api.containers("victim")}


def test_a_job_whose_container_ran_out_of_memory_is_finished_by_the_next(api: ContainerApi, pacs: Path) -> None:
    api.puppet("bloated")
    job_id = api.process("bloated", do="hog until", mib=1200, seconds=1.5, study=_study("eases"))
    until(lambda: (api.job(job_id)["error"] or {}).get("code") == "OUT_OF_MEMORY", "the first container has died")
    _add_study(pacs, "eases")
    job = api.until_ended(job_id)
    assert job["status"] == "SUCCEEDED" and job["attempts"] > 1


def test_a_change_of_image_lets_running_jobs_end_on_the_old_one(api: ContainerApi, pacs: Path) -> None:
    newer = _image(api, "LABEL newer=1")
    old = api.puppet("changing")["resource_status"]["image_digest"]
    running = api.process("changing", do="wait", study=_study("changed"))
    api.until_job(running, "RUNNING")
    assert api.http.patch("/admin/algorithms/changing", json={"image_uri": newer}).status_code == 200
    after = [api.process("changing") for _ in range(5)]
    _add_study(pacs, "changed")
    jobs = [api.until_ended(job_id) for job_id in (running, *after)]
    assert [(job["status"], job["attempts"]) for job in jobs] == [("SUCCEEDED", 1)] * 6
    digests = [job["result"]["provenance"]["image_digest"] for job in jobs]
    assert digests == [old] + [newer] * 5
    assert api.record("changing")["resource_status"]["image_digest"] == newer


def test_what_a_tag_names_later_changes_nothing(api: ContainerApi) -> None:
    tag = "mip-test-moving:1"
    api.docker.images.get(api.image).tag(tag)
    digest = api.puppet("pinned", image_uri=tag)["resource_status"]["image_digest"]
    api.docker.images.get(_image(api, "LABEL moved=1")).tag(tag)
    api.container("pinned").kill("SIGKILL")
    job = api.succeeds("pinned")
    assert job["result"]["provenance"]["image_digest"] == digest


def test_a_killed_platform_leaves_containers_that_the_next_start_removes(
    tmp_path: Path, pacs: Path, docker_engine: DockerEngine, puppet_image: str
) -> None:
    with docker_platform(tmp_path / "home", pacs, docker_engine) as platform:
        api = ContainerApi(platform, docker_engine, puppet_image)
        api.puppet("orphan", desired_count=2)
        until(lambda: len(api.containers()) == 2, "both workers run")
        job_id = api.process("orphan", do="wait", study=_study("orphan"))
        api.until_job(job_id, "RUNNING")
        platform.kill()
        orphans = {container.id for container in api.containers()}
        assert len(orphans) == 2
        _add_study(pacs, "orphan")
        platform.start()
        again = ContainerApi(platform, docker_engine, puppet_image)
        job = again.until_ended(job_id)
        assert job["status"] == "SUCCEEDED"
        until(lambda: len(again.containers()) == 2, "two workers run again")
        assert not orphans & {container.id for container in again.containers()}
        platform.stop()
        everything = again.docker.containers.list(all=True, filters={"label": f"mip.platform={again.platform_id}"})
        assert everything == []
        assert again.docker.networks.list(names=[f"mip-{again.platform_id}"]) == []


def test_a_home_moves_between_processes_and_containers(
    tmp_path: Path, pacs: Path, docker_engine: DockerEngine, mip_base_image: str
) -> None:
    home = tmp_path / "home"
    spec = {"image_uri": mip_base_image}
    for turn, runtime in enumerate(("process", "docker", "process")):
        platform = Platform(home, pacs=pacs, runtime=runtime, environment=docker_engine.environment)
        with platform:
            api = ContainerApi(platform, docker_engine, mip_base_image)
            api.register("processing_1", **spec)
            job = api.succeeds("processing_1", job_id=f"turn-{turn}")
            assert ("image_digest" in job["result"]["provenance"]) is (runtime == "docker")
            assert bool(api.containers()) is (runtime == "docker")


def _image(api: ContainerApi, line: str) -> str:
    """The puppet's image with one more line to its Dockerfile; its id."""
    text = f"FROM {api.image}\nLABEL {LABEL}=1\n{line}\n"
    return str(api.docker.images.build(fileobj=io.BytesIO(text.encode()))[0].id)


@contextlib.contextmanager
def _without_rules(bridge: str, port: int) -> Iterator[None]:
    """None that shuts that port is reached: the platform's sweep would make again what is removed."""

    def iptables(*words: str) -> str:
        return subprocess.run(["iptables", "-w", *words], check=True, capture_output=True, text=True).stdout

    assert bridge in iptables("-S", "INPUT").split(), "no rule shuts the machine off"
    open_door = ["INPUT", "-i", bridge, "-p", "tcp", "--dport", str(port), "-j", "ACCEPT"]
    iptables("-I", *open_door)
    try:
        yield
    finally:
        iptables("-D", *open_door)


def _load_image(client: Any, tag: str, *, architecture: str) -> None:
    """An image with nothing in it that says it is for another processor."""
    layer = io.BytesIO()
    tarfile.open(fileobj=layer, mode="w").close()
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [],
    }
    manifest = [{"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in {
            "layer.tar": layer.getvalue(),
            "config.json": json.dumps(config).encode(),
            "manifest.json": json.dumps(manifest).encode(),
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    client.images.load(archive.getvalue())
