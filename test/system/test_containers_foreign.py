"""Images that hold nothing of ours: what speaks SQS and S3 is an algorithm, and reaches only its own."""

from __future__ import annotations

import importlib.metadata
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pydicom
import pytest
from containers_stage import ContainerApi, docker_platform

from api_calls import make_pacs, until
from docker_engine import DockerEngine, add_layer
from medical_image_processing import naming

SHELL_ALGORITHM = Path(__file__).with_name("shell_algorithm.sh")
COMMAND = ["/bin/sh", "/app/shell_algorithm.sh"]


@pytest.fixture(scope="module")
def aws_image(docker_engine: DockerEngine, debian_image: str) -> str:
    """Debian with the aws command, jq, curl, and the loop."""

    def build(folder: Path) -> str:
        shutil.copy(SHELL_ALGORITHM, folder)
        version = importlib.metadata.version("awscli")
        return f"""
RUN apt-get -q update && apt-get -q install -y --no-install-recommends jq curl
RUN python3 -m venv /opt/aws && /opt/aws/bin/pip install -q --no-cache-dir --upgrade pip \\
 && /opt/aws/bin/pip install -q --no-cache-dir awscli=={version}
COPY {SHELL_ALGORITHM.name} /app/
ENV PATH=/opt/aws/bin:$PATH"""

    return add_layer(docker_engine, debian_image, "aws", build)


@pytest.fixture(scope="module")
def api(
    tmp_path_factory: pytest.TempPathFactory, docker_engine: DockerEngine, aws_image: str
) -> Iterator[ContainerApi]:
    folder = tmp_path_factory.mktemp("foreign")
    with docker_platform(folder / "home", make_pacs(folder / "pacs"), docker_engine) as platform:
        yield ContainerApi(platform, docker_engine, aws_image)


def register(api: ContainerApi, algo_id: str, **changes: Any) -> dict[str, Any]:
    return api.register(algo_id, **{"image_uri": api.image, "command": COMMAND, **changes})


def test_a_shell_loop_with_aws_and_jq_is_an_algorithm(api: ContainerApi) -> None:
    register(api, "shell")
    job = api.succeeds("shell")
    result = pydicom.dcmread(io.BytesIO(api.download(job["result"]["dicom"]["url"])))
    assert result.Modality == "CT"


def test_from_inside_another_algorithms_queue_and_output_are_out_of_reach(api: ContainerApi) -> None:
    register(api, "inside")
    register(api, "other", desired_count=0, wait_for="INACTIVE")
    own, other = (_queue_url(api, naming.queue(algo_id)) for algo_id in ("inside", "other"))
    results, bucket = api.platform.env["RESULTS_QUEUE_URL"], api.platform.env["OUTPUT_BUCKET"]
    put = ["s3api", "put-object", "--bucket", bucket, "--body", "/etc/hostname", "--key"]
    message = ["--message-body", "{}", "--message-group-id", "g", "--message-deduplication-id", "d"]
    allowed = [
        ["sqs", "get-queue-attributes", "--queue-url", own, "--attribute-names", "All"],
        [*put, "inside/own.dcm"],
    ]
    denied = [
        ["sqs", "receive-message", "--queue-url", other],
        ["sqs", "get-queue-attributes", "--queue-url", other, "--attribute-names", "All"],
        ["sqs", "send-message", "--queue-url", other, *message],
        ["sqs", "send-message", "--queue-url", own, *message],
        ["sqs", "receive-message", "--queue-url", results],
        ["sqs", "purge-queue", "--queue-url", other],
        [*put, "other/theirs.dcm"],
        [*put, "theirs.dcm"],
        ["s3api", "get-object", "--bucket", bucket, "--key", "other/theirs.dcm", "/tmp/theirs"],
        ["s3api", "list-objects-v2", "--bucket", bucket],
        ["s3api", "delete-object", "--bucket", bucket, "--key", "other/theirs.dcm"],
    ]
    job = api.until_ended(api.process("inside", **{"try": [*allowed, *denied]}), wait_s=120)
    tried = job["result"]["provenance"]["tried"]
    assert [one["status"] == 0 for one in tried] == [True] * len(allowed) + [False] * len(denied), tried
    for one in tried[len(allowed) :]:
        assert any(code in one["said"] for code in ("AccessDenied", "UnsupportedOperation")), one


def test_a_program_that_knows_no_signals_ends_its_job_before_it_is_replaced(api: ContainerApi) -> None:
    register(api, "deaf")
    first = api.process("deaf")
    api.until_ended(first)
    waits = ["sqs", "receive-message", "--queue-url", "none", "--cli-connect-timeout", "1"]
    running = api.process("deaf", **{"try": [waits] * 5})
    until_held(api, "deaf")
    assert api.http.patch("/admin/algorithms/deaf", json={"env": {"NEW": "1"}}).status_code == 200
    job = api.until_ended(running, wait_s=60)
    assert (job["status"], job["attempts"]) == ("SUCCEEDED", 1)
    api.succeeds("deaf")


def until_held(api: ContainerApi, algo_id: str) -> None:
    """Wait until a message of the algorithm is in flight."""
    env = api.platform.env
    sqs = boto3.client(
        "sqs",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        region_name=env["AWS_REGION"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
    )
    names = ["ApproximateNumberOfMessagesNotVisible"]

    def held() -> bool:
        answer = sqs.get_queue_attributes(QueueUrl=_queue_url(api, naming.queue(algo_id)), AttributeNames=names)
        return bool(answer["Attributes"][names[0]] == "1")

    until(held, f"a job of {algo_id} is in flight")


def _queue_url(api: ContainerApi, name: str) -> str:
    return f"{api.platform.env['RESULTS_QUEUE_URL'].rpartition('/')[0]}/{name}"
