"""What the AWS stack runs as containers, run as processes beside an emulator without a Docker engine.

The emulator's ECS says that tasks run; here is what they would be: the PACS API's service, and a worker with the
environment, the secret and the log group that its task definition names.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from aws_platform import OPERATOR_KEY, AwsPlatform
from aws_stack import AwsStack
from medical_image_processing import naming
from platform_process import clean_environment

START_S = 60.0
_PACS = [sys.executable, "-P", "-m", "medical_image_processing.entrypoints.pacs_service"]
_WORKER = [sys.executable, "-P", "-m", "medical_image_processing.worker"]
_FOREIGN = ("AWS_", "MIP_", "PACS_")


def fill_bucket(stack: AwsStack, bucket: str, images: Path, *, origin: str) -> None:
    """Make a bucket of ``images`` that pages of ``origin`` may read by links (docs/aws.md)."""
    emulator = stack.emulator
    s3 = emulator.session().client("s3", endpoint_url=emulator.endpoint)
    s3.create_bucket(Bucket=bucket)
    rule = {"AllowedMethods": ["GET", "HEAD"], "AllowedOrigins": [origin], "AllowedHeaders": ["range"]}
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
    for file in images.rglob("*.dcm"):
        s3.upload_file(str(file), bucket, file.relative_to(images).as_posix())
    s3.close()


@contextmanager
def running_pacs(stack: AwsStack, folder: Path, *, port: int, **place: str) -> Iterator[None]:
    """The PACS API's service. ``place`` is what its task is told beside the tables, such as MIP_PACS_BUCKET."""
    told = stack.function_environment("Processing") | stack.function_environment("Provisioner")
    environment = {
        **_inherited(),
        **stack.emulator.environment,
        **{name: told[name] for name in ("MIP_KEYS_TABLE", "MIP_AUDIT_TABLE", "MIP_ALLOW_ORIGINS")},
        "MIP_PACS_OPERATOR_KEY": OPERATOR_KEY,
        "MIP_PACS_PORT": str(port),
        **place,
    }
    log = folder / "pacs.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(_PACS, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    try:
        _await_answer(f"http://127.0.0.1:{port}/studies", process, log)
        yield
    finally:
        _end(process)


@contextmanager
def running_worker(platform: AwsPlatform, algo_id: str) -> Iterator[None]:
    """A task of the algorithm's service, as its newest task definition says."""
    definition = platform.boto("ecs").describe_task_definition(taskDefinition=naming.service(algo_id))
    [container] = definition["taskDefinition"]["containerDefinitions"]
    environment = {
        **_inherited(),
        **{one["name"]: one["value"] for one in container["environment"]},
        **{one["name"]: _secret(platform, one["valueFrom"]) for one in container["secrets"]},
        # The account's keys, not the role's: the emulator's IAM wants a permission of its own for batches, which
        # on AWS have that of single messages (Amazon SQS developer guide, "Amazon SQS API permissions").
        **platform.stack.emulator.environment,
    }
    process = subprocess.Popen(
        _WORKER, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    options = container["logConfiguration"]["options"]
    stream = f"{options['awslogs-stream-prefix']}/{container['name']}/{process.pid}"
    shipping = threading.Thread(target=_ship, args=(platform, process, options["awslogs-group"], stream))
    shipping.start()
    try:
        yield
    finally:
        _end(process)
        shipping.join()


def _ship(platform: AwsPlatform, process: subprocess.Popen[bytes], group: str, stream: str) -> None:
    """What the awslogs driver does: each line is an event."""
    logs = platform.boto("logs")
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            event = {"timestamp": int(time.time() * 1000), "message": line.decode(errors="replace").rstrip()}
            logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=[event])


def _secret(platform: AwsPlatform, arn: str) -> str:
    parameter = platform.boto("ssm").get_parameter(Name=arn.partition(":parameter")[2], WithDecryption=True)
    return str(parameter["Parameter"]["Value"])


def _inherited() -> dict[str, str]:
    return {name: text for name, text in clean_environment().items() if not name.startswith(_FOREIGN)}


def _await_answer(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(url, headers={"x-api-key": OPERATOR_KEY}, timeout=5, trust_env=False).is_success:
                return
        time.sleep(0.05)
    raise AssertionError(f"the PACS API does not start; it says:\n{log.read_text(errors='replace')[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """At once: a worker that is told to stop first waits for its poll."""
    process.kill()
    process.wait()
