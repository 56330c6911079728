"""The AWS engine with workers that run: the emulator's ECS starts containers, a PACS answers, results come in.

What the stack's Lambdas do beside the provisioner, delivery and the sweep, runs here as tasks of the test.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import docker
import pytest
import uvicorn
from aws_engine import AwsStores
from aws_workplace import CLUSTER, REGION, Workplace
from botocore.config import Config
from botocore.exceptions import ClientError
from embedded_engine import IMAGE, Nobody
from pydicom.data import get_testdata_file

from aws_emulator import AwsEmulator
from aws_tables import KEYS
from docker_engine import PUPPET_ENV
from medical_image_processing import naming
from medical_image_processing.control.delivery import Delivery
from medical_image_processing.engines.aws.job_queues import VISIBILITY_S
from medical_image_processing.engines.aws.resources import AwsResources
from medical_image_processing.errors import MipError
from medical_image_processing.model.algorithm import AlgorithmSpec
from medical_image_processing.pacs.app import create_app as create_pacs_app
from medical_image_processing.pacs.folder import FolderIndex
from medical_image_processing.pacs.keys import HashedKeys
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.testing.registry_contract import a_spec
from medical_image_processing.testing.resources_contract import ALGO, EnginePorts

_SEALED = "ENCRYPTED:"
_DENIED = ("AccessDenied", "AccessDeniedException")


@dataclass(frozen=True)
class Fargate:
    """An emulator that starts containers on ``docker_host``, and the puppet's image by digest.

    ``cleaner`` stops what a test leaves running while the next one begins, in an account of its own.
    """

    emulator: AwsEmulator
    docker_host: str
    image: str
    cleaner: ThreadPoolExecutor


@contextlib.asynccontextmanager
async def running_engine(folder: Path, fargate: Fargate) -> AsyncIterator[EnginePorts]:
    """A fresh account with everything in it."""
    file = folder / "pacs/study-1/series-1/image-1.dcm"
    file.parent.mkdir(parents=True)
    shutil.copy(str(get_testdata_file("CT_small.dcm")), file)
    listening = socket.create_server(("0.0.0.0", 0), backlog=512)
    base = f"http://host.docker.internal:{listening.getsockname()[1]}"
    workplace = Workplace.prepare(fargate.emulator, pacs_api_base=base, containers=True)
    stores = AwsStores(workplace.account)
    resources = AwsResources(stores.clients, workplace.settings)
    index = FolderIndex(folder / "pacs")
    index.start()
    pacs = create_pacs_app(index, _TableKeys(workplace), LinkSigner(), _note_nothing)
    bucket = workplace.settings.output_bucket
    delivery = Delivery(stores.queues, stores.jobs, stores.registry, Nobody(), output_bucket=bucket)
    server = _Server(uvicorn.Config(pacs, lifespan="off", log_level="error", access_log=False))
    background = [asyncio.create_task(work) for work in (server.serve([listening]), _deliver(stores, delivery))]
    try:
        yield _ports(workplace, fargate, stores, resources, delivery, folder / "pacs")
    finally:
        server.should_exit = True
        background[1].cancel()
        await asyncio.gather(*background, return_exceptions=True)
        listening.close()
        index.close()
        fargate.cleaner.submit(_clean, workplace, stores)


async def _deliver(stores: AwsStores, delivery: Delivery) -> None:
    """As the event source of the results queue does; a poll under way holds up a test's end, so it is short."""
    while True:
        with contextlib.suppress(MipError):
            messages = await stores.queues.receive(naming.RESULTS_QUEUE, limit=10, wait_s=1)
            await delivery.deliver(messages)


def _clean(workplace: Workplace, stores: AwsStores) -> None:
    ecs = workplace.boto("ecs")
    for arn in ecs.list_services(cluster=CLUSTER)["serviceArns"]:
        ecs.delete_service(cluster=CLUSTER, service=arn, force=True)
    stores.clients.close()
    workplace.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


class _TableKeys:
    """The PACS API's keys as the stack's PACS has them: by digest in the table of keys (pacs.keys.PacsKeys)."""

    def __init__(self, workplace: Workplace) -> None:
        self._table = workplace.boto("dynamodb")

    async def algo_for(self, key: str) -> str | None:
        if key.startswith(_SEALED):  # the emulator's ECS hands a SecureString out as SSM stores it
            key = base64.b64decode(key.removeprefix(_SEALED)).decode()
        digest = {"pk": {"S": f"pacs-key#{HashedKeys.digest(key)}"}}
        ask = partial(self._table.get_item, TableName=KEYS, Key=digest, ConsistentRead=True)
        found = await asyncio.to_thread(ask)
        return str(found["Item"]["algo_id"]["S"]) if "Item" in found else None


async def _note_nothing(reader: str, images: Sequence[tuple[str, str, str]], job_id: str | None) -> None:
    """The access record has tests of its own."""


def _ports(
    workplace: Workplace,
    fargate: Fargate,
    stores: AwsStores,
    resources: AwsResources,
    delivery: Delivery,
    pacs: Path,
) -> EnginePorts:
    def spec(**changes: Any) -> AlgorithmSpec:
        return a_spec(**{"algo_id": ALGO, "image_uri": fargate.image, "env": PUPPET_ENV, **changes})

    async def kill_worker(algo_id: str) -> None:
        await asyncio.to_thread(_kill_container, fargate.docker_host, workplace.account.account, algo_id)

    async def remove_by_hand(algo_id: str, piece: str) -> None:
        await asyncio.to_thread(_remove_by_hand, workplace, algo_id, piece)

    door = _Door(workplace)

    async def allowed(algo_id: str, action: str, resource: str) -> bool:
        return await asyncio.to_thread(door.opens, algo_id, action, resource)

    return EnginePorts(
        registry=stores.registry,
        logs=resources.logs,
        resources=resources,
        jobs=stores.jobs,
        queues=stores.queues,
        delivery=delivery,
        image=IMAGE,
        spec=spec,
        refused={"image_uri": "mip-test-nothing:1"},
        broken={"env": {}},  # no worker finds the processor then
        audit=stores.audited,
        allowed=allowed,
        remove_by_hand=remove_by_hand,
        kill_worker=kill_worker,
        pacs=pacs,
        given_back_s=VISIBILITY_S,
    )


def _kill_container(docker_host: str, account: str, algo_id: str) -> None:
    with contextlib.closing(docker.DockerClient(base_url=docker_host)) as client:
        family = f"com.amazonaws.ecs.task-definition-family={naming.service(algo_id)}"
        found = [
            container
            for container in client.containers.list(filters={"label": family})
            if f":{account}:" in container.labels["com.amazonaws.ecs.task-arn"]
        ]
        assert found, f"no container of {algo_id} runs"
        found[0].kill("SIGKILL")


def _remove_by_hand(workplace: Workplace, algo_id: str, piece: str) -> None:
    sqs, iam, ecs = (workplace.boto(name) for name in ("sqs", "iam", "ecs"))
    service = naming.service(algo_id)
    match piece:
        case "queue":
            sqs.delete_queue(QueueUrl=_queue_url(workplace, naming.queue(algo_id)))
        case "dead_letter_queue":
            sqs.delete_queue(QueueUrl=_queue_url(workplace, naming.dead_letter_queue(algo_id)))
        case "role":
            role = naming.role(algo_id)
            for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]:
                iam.delete_role_policy(RoleName=role, PolicyName=policy)
            iam.delete_role(RoleName=role)
        case "log_group":
            workplace.boto("logs").delete_log_group(logGroupName=naming.log_group(algo_id))
        case "task_definition":
            for arn in ecs.list_task_definitions(familyPrefix=service)["taskDefinitionArns"]:
                ecs.deregister_task_definition(taskDefinition=arn)
        case "service":
            ecs.delete_service(cluster=CLUSTER, service=service, force=True)


def _queue_url(workplace: Workplace, name: str) -> str:
    return f"{workplace.settings.results_queue_url.rpartition('/')[0]}/{name}"


class _Door:
    """Tries what a task role opens, with credentials of that role, where the emulator enforces IAM.

    ECS takes the role for the tasks, and nobody else may; so for a moment it trusts the test.
    """

    def __init__(self, workplace: Workplace) -> None:
        self._workplace = workplace
        self._clients: dict[str, dict[str, Any]] = {}

    def opens(self, algo_id: str, action: str, resource: str) -> bool:
        service, _, name = action.partition(":")
        clients = self._clients.get(algo_id) or self._clients.setdefault(algo_id, self._take_role(algo_id))
        try:
            self._act(clients[service], name, resource)
        except ClientError as error:
            assert error.response["Error"]["Code"] in _DENIED, error
            return False
        return True

    def _take_role(self, algo_id: str) -> dict[str, Any]:
        account, iam = self._workplace.account, self._workplace.boto("iam")
        role = naming.role(algo_id)
        found = iam.get_role(RoleName=role)["Role"]
        us = {"Effect": "Allow", "Principal": {"AWS": account.account}, "Action": "sts:AssumeRole"}
        trust = {"Version": "2012-10-17", "Statement": [us]}
        iam.update_assume_role_policy(RoleName=role, PolicyDocument=json.dumps(trust))
        given = self._workplace.boto("sts").assume_role(RoleArn=found["Arn"], RoleSessionName="test")
        iam.update_assume_role_policy(RoleName=role, PolicyDocument=json.dumps(found["AssumeRolePolicyDocument"]))
        keys = given["Credentials"]
        session = boto3.Session(
            keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], region_name=REGION
        )
        config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, proxies={})
        return {name: session.client(name, endpoint_url=account.endpoint, config=config) for name in ("sqs", "s3")}

    def _act(self, client: Any, name: str, resource: str) -> None:
        bucket, url = self._workplace.settings.output_bucket, _queue_url(self._workplace, resource)
        calls: dict[str, Callable[[], Any]] = {
            "ReceiveMessage": lambda: client.receive_message(QueueUrl=url),
            "GetQueueAttributes": lambda: client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]),
            "SendMessage": lambda: client.send_message(
                QueueUrl=url, MessageBody="{}", MessageGroupId="g", MessageDeduplicationId="d"
            ),
            "PurgeQueue": lambda: client.purge_queue(QueueUrl=url),
            "DeleteQueue": lambda: client.delete_queue(QueueUrl=url),
            "PutObject": lambda: client.put_object(Bucket=bucket, Key=resource, Body=b"x"),
            "GetObject": lambda: client.get_object(Bucket=bucket, Key=resource),
            "DeleteObject": lambda: client.delete_object(Bucket=bucket, Key=resource),
            "ListBucket": lambda: client.list_objects_v2(Bucket=bucket),
        }
        calls[name]()


class OnFargate:
    """A contract's tests against workers that ECS runs."""

    @pytest.fixture(autouse=True)
    def _set_up(self, tmp_path: Path, fargate: Fargate) -> None:
        self.folder = tmp_path
        self.fargate = fargate

    def run(self, work: Callable[[EnginePorts], Awaitable[None]]) -> None:
        """Run ``work`` in a fresh account."""

        async def with_engine() -> None:
            async with running_engine(self.folder, self.fargate) as ports:
                try:
                    await work(ports)
                except AssertionError as error:
                    error.add_note(
                        "\n".join(["the workers said:", *(await ports.logs.read(ALGO, lines=20)).lines])
                    )
                    raise

        asyncio.run(with_engine())
