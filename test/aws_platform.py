"""The whole AWS platform on this machine: the stack on an emulator whose ECS starts real containers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from aws_emulator import AwsEmulator, running_emulator
from aws_stack import AwsStack, deploy
from docker_engine import DockerEngine
from free_ports import free_port
from medical_image_processing import naming
from medical_image_processing.ports.keys import digest

PACS_BUCKET = "mip-test-images"
PACS_PORT = 8080
OPERATOR_KEY = "the-operators-key-of-this-test"
START_S = 60.0


@dataclass(frozen=True)
class AwsPlatform:
    """Calls it as :class:`platform_process.Platform` is called: ``base``, and ``env`` as a person has it."""

    stack: AwsStack
    env: dict[str, str] = field(repr=False)

    @property
    def base(self) -> str:
        """Address of its API."""
        return self.env["API_BASE"]

    def boto(self, service: str) -> Any:
        """boto3's client of the account, to look behind the platform's back."""
        emulator = self.stack.emulator
        return emulator.session().client(service, endpoint_url=emulator.endpoint)

    def admit(self, algo_id: str) -> None:
        """Let the algorithm's workers into the PACS, for the emulator hands them the key as SSM keeps it. AWS
        decrypts a SecureString that a task definition names."""
        name = naming.pacs_key_parameter(algo_id)
        kept = self.boto("ssm").get_parameter(Name=name, WithDecryption=False)["Parameter"]["Value"]
        table = self.stack.function_environment("Provisioner")["MIP_KEYS_TABLE"]
        item = {"pk": {"S": f"pacs-key#{digest(kept)}"}, "algo_id": {"S": algo_id}}
        self.boto("dynamodb").put_item(TableName=table, Item=item)

    def log_lines(self, name: str) -> list[str]:
        """What a Lambda of the stack has logged."""
        logs, group = self.boto("logs"), f"/aws/lambda/ImgPipeline-{name}Fn"
        return [event["message"] for event in logs.filter_log_events(logGroupName=group)["events"]]


@contextmanager
def running_aws_platform(
    cache: Path, engine: DockerEngine, *, pacs_image: str, images: Path
) -> Iterator[AwsPlatform]:
    """Deployed, with the PACS API in a container over a bucket that holds what is in ``images``."""
    with running_emulator(cache, docker_host=engine.host) as emulator:
        port = free_port()
        # The emulator's ECS gives tasks no credentials that botocore takes, so the operator gives them.
        parameters = {
            "PacsBase": f"http://host.docker.internal:{port}",
            "TaskEnv": json.dumps(emulator.container_environment),
        }
        stack = deploy(emulator, parameters=parameters)
        _fill_bucket(emulator, images)
        _warm(stack)
        with _no_task_left(engine, emulator), _pacs(engine, pacs_image, stack, port):
            env = {
                "API_BASE": stack.api_base,
                "WS_ENDPOINT": stack.ws_endpoint,
                "MIP_ADMIN_KEY": stack.admin_key,
                "PACS_API_BASE": f"http://127.0.0.1:{port}",
                "PACS_API_KEY": OPERATOR_KEY,
            }
            yield AwsPlatform(stack, env)


def _warm(stack: AwsStack) -> None:
    """Start the Lambda that lets clients in: on a busy machine its first start takes longer than clients wait."""
    with suppress(InvalidStatus), connect(stack.ws_endpoint, proxy=None, open_timeout=START_S):
        pass


def _fill_bucket(emulator: AwsEmulator, images: Path) -> None:
    s3 = emulator.session().client("s3", endpoint_url=emulator.endpoint)
    s3.create_bucket(Bucket=PACS_BUCKET)
    for file in images.rglob("*.dcm"):
        s3.upload_file(str(file), PACS_BUCKET, file.relative_to(images).as_posix())
    s3.close()


@contextmanager
def _pacs(engine: DockerEngine, image: str, stack: AwsStack, port: int) -> Iterator[None]:
    """The image of the PACS API, as locked up as its task definition says."""
    told = stack.function_environment("Provisioner")
    environment = {
        "MIP_PACS_BUCKET": PACS_BUCKET,
        "MIP_PACS_OPERATOR_KEY": OPERATOR_KEY,
        **{name: told[name] for name in ("MIP_KEYS_TABLE", "MIP_AUDIT_TABLE")},
        **stack.emulator.container_environment,
    }
    with closing(engine.client()) as docker:
        container = docker.containers.run(
            image,
            detach=True,
            environment=environment,
            extra_hosts={"host.docker.internal": "host-gateway"},
            ports={f"{PACS_PORT}/tcp": port},
            read_only=True,
            tmpfs={"/tmp": "size=64m"},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
        )
        try:
            _await_answer(f"http://127.0.0.1:{port}/studies", container)
            yield
        finally:
            container.remove(force=True)


@contextmanager
def _no_task_left(engine: DockerEngine, emulator: AwsEmulator) -> Iterator[None]:
    """The emulator leaves the tasks of its ECS running when it ends."""
    try:
        yield
    finally:
        endpoint = f"AWS_ENDPOINT_URL={emulator.container_environment['AWS_ENDPOINT_URL']}"
        with closing(engine.client()) as docker:
            for container in docker.containers.list(all=True, filters={"name": "ministack-ecs-"}):
                if endpoint in container.attrs["Config"]["Env"]:
                    container.remove(force=True)


def _await_answer(url: str, container: Any) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(url, headers={"x-api-key": OPERATOR_KEY}, timeout=5, trust_env=False).is_success:
                return
        time.sleep(0.05)
    raise AssertionError(f"the PACS API does not start; it says:\n{container.logs(tail=30).decode()}")
