"""One story of a platform, told by the same client code to both engines: to `mip up`, and to the AWS stack on an
emulator, where Lambdas answer and real containers work."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from typer.testing import CliRunner
from websockets.sync.client import ClientConnection

from api_calls import SEED_BODY, Api, error_of, make_pacs, receive, until
from aws_emulator import EmulatorMissing
from aws_platform import AwsPlatform, running_aws_platform
from docker_engine import DockerEngine, build_image
from image_registry import RegistryMissing, running_registry
from medical_image_processing import naming
from medical_image_processing.entrypoints.cli import app
from platform_process import Platform

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 90.0
"""A container must be pulled and started, and Lambdas of the emulator start cold."""
GRAYSCALE = {
    "cpu": 2048,
    "memory": 4096,
    "command": ["/app/adapter.py"],
    "env": {"OMP_NUM_THREADS": "4"},
}
"""The seed's second registration, but for the image's name."""


@dataclass(frozen=True)
class Home:
    """A platform, and the registrations that it can run."""

    platform: Platform | AwsPlatform
    seeds: dict[str, dict[str, Any]]

    def api(self, **keys: str | None) -> Api:
        return Api(self.platform, admin_key=self.platform.env["MIP_ADMIN_KEY"], **keys)  # type: ignore[arg-type]

    def mip(self, *arguments: str, client_key: str = "") -> Any:
        """The command line, pointed here."""
        env = {
            "MIP_API_BASE": self.platform.base,
            "MIP_ADMIN_KEY": self.platform.env["MIP_ADMIN_KEY"],
            "MIP_CLIENT_KEY": client_key,
        }
        answer = CliRunner(env=env).invoke(app, [*arguments, "--json"], prog_name="mip")
        assert answer.exit_code == 0, answer.output
        return json.loads(answer.stdout)


def tell(home: Home) -> None:
    """Register, process, change, scale down, delete; the results come over the WebSocket."""
    admin = home.api()
    client_id, key = f"ward-{time.time_ns()}", ""
    made = admin.post("/admin/keys", {"name": client_id, "client_ids": [client_id]})
    assert made.status_code == 201, made.text
    key = made.json()["key"]
    client = home.api(client_key=key)
    for algo_id, body in home.seeds.items():
        admin.register(algo_id, wait_for=None, **body)
    for algo_id in home.seeds:
        _until_status(admin, algo_id, "ACTIVE")
        if isinstance(home.platform, AwsPlatform):
            home.platform.admit(algo_id)
    listed = home.mip("algorithms", "list")
    assert set(home.seeds) <= {record["algorithm_id"] for record in listed["algorithms"]}

    with client.listen(client_id) as socket:
        jobs = {algo_id: client.process(algo_id, client_id=client_id) for algo_id in home.seeds}
        results = _results(socket, jobs.values())
        for algo_id, job_id in jobs.items():
            _check(client, results[job_id], algo_id)
        socket.send('{"type": "ping"}')
        for job_id in jobs.values():
            socket.send(json.dumps({"type": "received", "job_id": job_id}))
        assert receive(socket, wait_s=WAIT_S) == [{"type": "pong"}]
    assert home.mip("jobs", "show", *list(jobs.values())[:1], client_key=key)["status"] == "SUCCEEDED"

    first = next(iter(home.seeds))
    changed = admin.http.patch(f"/admin/algorithms/{first}", json={"env": {"EXTRA_DEBUG": "2"}})
    assert (changed.status_code, changed.json()["revision"]) == (200, 2), changed.text
    missed = client.process(first, client_id=client_id)
    client.until_job(missed, "SUCCEEDED", wait_s=WAIT_S)
    with client.listen(client_id) as socket:
        _check(client, _results(socket, [missed])[missed], first)

    for algo_id in home.seeds:
        assert admin.http.delete(f"/admin/algorithms/{algo_id}").status_code == 202
        _until_status(admin, algo_id, "INACTIVE")
        refused = client.post(
            f"/process/{algo_id}", {"client_id": client_id, "pacs": {"study_id": "s", "scope": "study"}}
        )
        assert error_of(refused) == "ALGORITHM_NOT_ACTIVE"
        assert admin.http.delete(f"/admin/algorithms/{algo_id}", params={"hard": "true"}).status_code == 202
    for algo_id in home.seeds:
        until(lambda: _is_gone(admin, algo_id), f"{algo_id} is gone", wait_s=WAIT_S)  # noqa: B023
    assert client.job(missed)["status"] == "SUCCEEDED", "jobs outlive their algorithm"


def _is_gone(api: Api, algo_id: str) -> bool:
    return api.get(f"/admin/algorithms/{algo_id}").status_code == 404


def _until_status(api: Api, algo_id: str, status: str) -> None:
    until(lambda: api.record(algo_id)["status"] == status, f"{algo_id} is {status}", wait_s=WAIT_S)


def _results(socket: ClientConnection, job_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """The result of each, in whichever order; one may come twice."""
    found: dict[str, dict[str, Any]] = {}
    while set(job_ids) - set(found):
        [result] = receive(socket, wait_s=WAIT_S)
        found[result["job_id"]] = result
    return found


def _check(api: Api, result: dict[str, Any], algo_id: str) -> None:
    assert (result["status"], result["algo_id"]) == ("SUCCEEDED", algo_id), result.get("error")
    image = pydicom.dcmread(io.BytesIO(api.download(result["dicom"]["url"])))
    assert "Secondary Capture" in image.SOPClassUID.name
    assert image.Rows and len(image.pixel_array.shape) >= 2


def test_the_story_on_one_machine(tmp_path: Path) -> None:
    with Platform(tmp_path / "home", pacs=make_pacs(tmp_path / "pacs")) as platform:
        tell(Home(platform, {"processing_1": SEED_BODY}))


@pytest.fixture(scope="module")
def aws(
    tmp_path_factory: pytest.TempPathFactory, samples_cache: Path, docker_engine: DockerEngine, pacs_image: str
) -> Iterator[AwsPlatform]:
    images = make_pacs(tmp_path_factory.mktemp("aws-pacs"))
    try:
        with running_aws_platform(samples_cache, docker_engine, pacs_image=pacs_image, images=images) as platform:
            yield platform
    except EmulatorMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def pacs_image(docker_engine: DockerEngine, debian_image: str) -> str:
    tag = "mip-test-pacs:latest"
    build_image(docker_engine, ROOT / "containers" / "pacs", tag=tag, base=debian_image)
    return tag


@pytest.fixture(scope="module")
def seeds(docker_engine: DockerEngine, mip_base_image: str) -> Iterator[dict[str, dict[str, Any]]]:
    """The seed's two registrations; their images lie in a registry, and are named by digest."""
    seeds = {"processing_1": SEED_BODY, "grayscale_cpp": GRAYSCALE}
    try:
        with running_registry() as registry:
            for algo_id, folder in zip(seeds, ("processing_1", "grayscale"), strict=True):
                tag = f"mip-test-algos:{folder}"
                build_image(docker_engine, ROOT / "containers" / folder, tag=tag, base=mip_base_image)
                seeds[algo_id] = {**seeds[algo_id], "image_uri": registry.push(docker_engine, tag)}
            yield seeds
    except RegistryMissing as error:
        pytest.skip(str(error))


_OVER_DICOMWEB = """
import os
from medical_image_processing.entrypoints.pacs_service import create_service
assert create_service(os.environ).storing is not None
folder = os.environ["MIP_PACS_FOLDER"]
print(sorted(os.listdir(folder)), oct(os.stat(folder).st_mode & 0o777))
"""


def test_the_image_of_the_pacs_api_has_a_folder_for_what_a_dicomweb_server_sends(
    docker_engine: DockerEngine, pacs_image: str
) -> None:
    environment = {
        "AWS_REGION": "us-east-1",
        "MIP_DICOMWEB_URL": "http://127.0.0.1:1/dicom-web",
        "MIP_PACS_FOLDER": "/var/lib/mip-pacs",
        "MIP_PACS_CACHE_MIB": "1",
        **{f"MIP_{name}_TABLE": "any" for name in ("KEYS", "AUDIT", "JOBS")},
        "OUTPUT_BUCKET": "any",
    }
    with closing(docker_engine.client()) as docker:
        said = docker.containers.run(
            pacs_image,
            ["python3", "-c", _OVER_DICOMWEB],
            environment=environment,
            user="10001",
            read_only=True,
            cap_drop=["ALL"],
            network_mode="none",
            remove=True,
        )
    assert said.decode().split() == ["['cache']", "0o700"]


_DRAWS = """
import asyncio
from pydicom.data import get_testdata_file
from medical_image_processing.pacs.drawing import Drawer

async def draw(names):
    drawer = Drawer(limit_s=120.0)
    for name in names:
        png = await drawer.draw(open(get_testdata_file(name, download=False), "rb").read())
        print(png[:4] == b"\\x89PNG", open(f"/proc/{drawer._process.pid}/oom_score_adj").read().strip())
    await drawer.close()

asyncio.run(draw(("CT_small.dcm", "JPEG2000.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPGExtended.dcm")))
"""


def test_the_image_of_the_pacs_api_draws_what_it_serves(docker_engine: DockerEngine, pacs_image: str) -> None:
    with closing(docker_engine.client()) as docker:
        said = docker.containers.run(
            pacs_image,
            ["python3", "-c", _DRAWS],
            user="10001",
            read_only=True,
            cap_drop=["ALL"],
            network_mode="none",
            mem_limit="1g",
            remove=True,
        )
    assert said.decode().split() == ["True", "1000"] * 4, "and goes first where memory runs out"


def test_the_story_on_aws(aws: AwsPlatform, seeds: dict[str, dict[str, Any]]) -> None:
    before = _everything(aws)

    tell(Home(aws, seeds))

    until(lambda: _everything(aws) == before, "nothing is left", wait_s=WAIT_S)


def _everything(aws: AwsPlatform) -> dict[str, list[str]]:
    """What the account has that a provisioner could have made."""
    cluster = aws.stack.function_environment("Provisioner")["MIP_CLUSTER"]
    ecs = aws.boto("ecs")
    roles = aws.boto("iam").list_roles(PathPrefix=naming.ROLE_PATH)["Roles"]
    groups = aws.boto("logs").describe_log_groups(logGroupNamePrefix="/ecs/")["logGroups"]
    parameters = aws.boto("ssm").describe_parameters()["Parameters"]
    return {
        "queues": aws.boto("sqs").list_queues().get("QueueUrls", []),
        "roles": [role["RoleName"] for role in roles],
        "log groups": [group["logGroupName"] for group in groups],
        "task definitions": ecs.list_task_definitions(status="ACTIVE")["taskDefinitionArns"],
        "services": ecs.list_services(cluster=cluster)["serviceArns"],
        "tasks": ecs.list_tasks(cluster=cluster)["taskArns"],
        "parameters": [one["Name"] for one in parameters if one["Name"].startswith("/mip/")],
    }
