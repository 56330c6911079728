"""The embedded engine with everything its workers need: SQS, S3 and a PACS on a real port, and delivery."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

import boto3
import docker
import pytest
import uvicorn
from botocore.config import Config
from botocore.exceptions import ClientError
from pydicom.data import get_testdata_file

from docker_engine import PUPPET_ENV, DockerEngine
from medical_image_processing import naming
from medical_image_processing.control.delivery import Delivery
from medical_image_processing.engines.embedded.containers import ContainerRuntime
from medical_image_processing.engines.embedded.docker_network import WorkerNetwork
from medical_image_processing.engines.embedded.engine import EmbeddedEngine, EngineSettings
from medical_image_processing.engines.embedded.log_groups import LogGroups
from medical_image_processing.engines.embedded.processes import ProcessRuntime
from medical_image_processing.engines.embedded.runtime import Runtime
from medical_image_processing.errors import MipError
from medical_image_processing.model.algorithm import AlgorithmSpec
from medical_image_processing.model.job import Job, PacsRef
from medical_image_processing.pacs.app import create_app as create_pacs_app
from medical_image_processing.pacs.folder import FolderIndex
from medical_image_processing.pacs.keys import HashedKeys
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.testing import puppet
from medical_image_processing.testing.registry_contract import a_spec
from medical_image_processing.testing.resources_contract import ALGO, EnginePorts

IMAGE = PacsRef.model_validate(
    {"study_id": "study-1", "series_id": "series-1", "image_id": "image-1", "scope": "image"}
)

_DENIED = ("AccessDenied", "AccessDeniedException", "AWS.SimpleQueueService.UnsupportedOperation")


class Nobody:
    """No client is connected (ports.push)."""

    async def push(self, job: Job) -> None:
        pass


class Workers(Protocol):
    """What runs an engine's workers, and how a test gets behind their backs."""

    address: str
    """At which workers reach this machine."""
    spec: dict[str, Any]
    """What a spec of the puppet needs to run there."""
    refused: dict[str, Any]

    def create_runtime(self, logs: LogGroups) -> Runtime: ...

    def environment(self, algo_id: str) -> dict[str, str]:
        """A running worker's."""

    def kill(self, algo_id: str) -> None:
        """End a worker as a crash would."""

    def close(self) -> None:
        """Leave nothing behind."""


class ProcessWorkers:
    """Processes of this machine."""

    address = "127.0.0.1"
    refused: ClassVar[dict[str, Any]] = {"command": ("/bin/true",)}

    def __init__(self, folder: Path) -> None:
        self._run_dir = folder / "run"
        self.spec = {"env": puppet.install(folder / "site")}

    def create_runtime(self, logs: LogGroups) -> Runtime:
        return ProcessRuntime(logs=logs, run_dir=self._run_dir, allow_commands=self._run_dir)

    def environment(self, algo_id: str) -> dict[str, str]:
        return self._worker(algo_id)[1]

    def kill(self, algo_id: str) -> None:
        os.kill(self._worker(algo_id)[0], signal.SIGKILL)

    def close(self) -> None:
        pass

    def _worker(self, algo_id: str) -> tuple[int, dict[str, str]]:
        for note in self._run_dir.iterdir():
            with contextlib.suppress(OSError):
                pairs = Path(f"/proc/{note.name}/environ").read_text().split("\0")
                env = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
                if env.get("ALGO_ID") == algo_id:
                    return int(note.name), env
        raise AssertionError(f"no worker of {algo_id} runs")


class ContainerWorkers:
    """Containers of ``image``, which has the puppet in it."""

    refused: ClassVar[dict[str, Any]] = {"image_uri": "mip-test-nothing:1"}

    def __init__(self, host: str, image: str) -> None:
        self._client = docker.DockerClient(base_url=host)
        self._id = secrets.token_hex(6)
        self._network = WorkerNetwork(self._client, self._id)
        self._network.open()
        self.address = self._network.gateway
        self.spec = {"image_uri": image, "env": PUPPET_ENV}

    def create_runtime(self, logs: LogGroups) -> Runtime:
        self.runtime = ContainerRuntime(self._client, self._network, platform_id=self._id, logs=logs)
        return self.runtime

    def leave_behind(self) -> None:
        """A container of ours that nobody watches, as when the engine went away and came back."""
        image = self.spec["image_uri"]
        self._client.containers.run(
            image, ["sleep", "600"], detach=True, labels={"mip.platform": self._id}, network=self._network.name
        )

    def left_behind(self) -> int:
        """How many containers there are, running or not."""
        return len(self._client.containers.list(all=True, filters={"label": f"mip.platform={self._id}"}))

    def remove_network(self) -> None:
        """As somebody who tidies up does."""
        self._client.networks.get(self._network.name).remove()

    def environment(self, algo_id: str) -> dict[str, str]:
        pairs = self._worker(algo_id).attrs["Config"]["Env"]
        return dict(pair.split("=", 1) for pair in pairs)

    def kill(self, algo_id: str) -> None:
        self._worker(algo_id).kill("SIGKILL")

    def close(self) -> None:
        self._network.close()
        self._client.close()

    def _worker(self, algo_id: str) -> Any:
        labels = [f"mip.platform={self._id}", f"mip.algorithm={algo_id}"]
        found = self._client.containers.list(filters={"label": labels})
        assert found, f"no container of {algo_id} runs"
        return found[0]


@contextlib.asynccontextmanager
async def running_engine(folder: Path, workers: Workers) -> AsyncIterator[EnginePorts]:
    """A fresh engine below ``folder``, on ports of its own."""
    image = folder / "pacs/study-1/series-1/image-1.dcm"
    image.parent.mkdir(parents=True)
    shutil.copy(str(get_testdata_file("CT_small.dcm")), image)
    listening = socket.create_server((workers.address, 0), backlog=512)
    port = listening.getsockname()[1]
    base = f"http://{workers.address}:{port}"
    pacs_keys = HashedKeys()
    (folder / "home").mkdir()
    engine = EmbeddedEngine(
        EngineSettings(
            home=folder / "home",
            worker_base=base,
            operator=("MIPOPERATORTEST", secrets.token_urlsafe(30)),
            create_runtime=workers.create_runtime,
            allow_origins=(),
            add_pacs_key=pacs_keys.add,
            remove_pacs_key=pacs_keys.remove,
            pseudonym_secret=bytes(32),
        )
    )
    index = FolderIndex(folder / "pacs")
    index.start()
    await engine.open()
    pacs = create_pacs_app(index, pacs_keys, LinkSigner(), engine.access_record.note)
    delivery = Delivery(engine.queues, engine.jobs, engine.registry, Nobody(), output_bucket=engine.output_bucket)
    server = _Server(
        uvicorn.Config(_both(engine.create_aws_app(), pacs), lifespan="off", log_level="error", access_log=False)
    )
    background = [
        asyncio.create_task(work) for work in (server.serve([listening]), delivery.run(), _tick(engine, delivery))
    ]
    try:
        yield _ports(engine, delivery, workers, base, folder)
    finally:
        await engine.supervisor.stop(grace_s=0.2)
        engine.queues.close()
        server.should_exit = True
        for task in background[1:]:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        listening.close()
        index.close()
        await engine.close()
        await asyncio.to_thread(workers.close)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


def _both(aws: Any, pacs: Any) -> Any:
    async def dispatch(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith("/pacs/"):
            await pacs({**scope, "root_path": "/pacs"}, receive, send)
        else:
            await aws(scope, receive, send)

    return dispatch


async def _tick(engine: EmbeddedEngine, delivery: Delivery) -> None:
    while True:
        with contextlib.suppress(MipError):
            await engine.sweep()
            await delivery.bury()
        await asyncio.sleep(0.2)


def _ports(engine: EmbeddedEngine, delivery: Delivery, workers: Workers, base: str, folder: Path) -> EnginePorts:
    def spec(**changes: Any) -> AlgorithmSpec:
        return a_spec(**{"algo_id": ALGO, **workers.spec, **changes})

    def audit(subject: str) -> list[str]:
        rows = engine.database.read("SELECT * FROM audit WHERE subject = ? ORDER BY seq", subject)
        return [f"{row['actor']} {row['action']} {json.loads(row['details'])}" for row in rows]

    async def kill_worker(algo_id: str) -> None:
        await asyncio.to_thread(workers.kill, algo_id)

    return EnginePorts(
        registry=engine.registry,
        logs=engine.logs,
        resources=engine.resources,
        jobs=engine.jobs,
        queues=engine.queues,
        delivery=delivery,
        image=IMAGE,
        spec=spec,
        refused=workers.refused,
        broken={"env": {}},  # no worker finds the processor then
        audit=audit,
        allowed=_door(engine, base, workers),
        remove_by_hand=_by_hand(engine, folder / "home"),
        kill_worker=kill_worker,
        pacs=folder / "pacs",
    )


def _door(engine: EmbeddedEngine, base: str, workers: Workers) -> Callable[[str, str, str], Awaitable[bool]]:
    async def allowed(algo_id: str, action: str, resource: str) -> bool:
        env = await asyncio.to_thread(workers.environment, algo_id)
        try:
            await asyncio.to_thread(_act, engine, base, env, action, resource)
        except ClientError as error:
            assert error.response["Error"]["Code"] in _DENIED, error
            return False
        return True

    return allowed


def _act(engine: EmbeddedEngine, base: str, env: dict[str, str], action: str, resource: str) -> None:
    service, _, name = action.partition(":")
    client = boto3.client(
        service,
        endpoint_url=base,
        region_name=engine.region,
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, proxies={}),
    )
    bucket, url = engine.output_bucket, engine.queue_url(resource)
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


def _by_hand(engine: EmbeddedEngine, home: Path) -> Callable[[str, str], Awaitable[None]]:
    async def remove_row(algo_id: str, kind: str) -> None:
        sql = "DELETE FROM resources WHERE algo_id = ? AND kind = ?"
        await engine.database.write(lambda c: c.execute(sql, (algo_id, kind)) and None)

    async def remove(algo_id: str, piece: str) -> None:
        match piece:
            case "queue":
                await engine.queues.delete_queue(naming.queue(algo_id))
            case "dead_letter_queue":
                await engine.queues.delete_queue(naming.dead_letter_queue(algo_id))
            case "log_group":
                shutil.rmtree(home / "logs" / naming.log_group(algo_id).lstrip("/"))
            case "role":
                await remove_row(algo_id, "role")
            case "task_definition":
                await remove_row(algo_id, "task")
            case "service":
                engine.supervisor.remove(algo_id)
                await remove_row(algo_id, "service")

    return remove


class OnProcesses:
    """A contract's tests against workers that are processes."""

    @pytest.fixture(autouse=True)
    def _set_up(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def run(self, work: Callable[[EnginePorts], Awaitable[None]]) -> None:
        """Run ``work`` against a fresh engine."""
        asyncio.run(_with_engine(self.folder, ProcessWorkers(self.folder), work))


class InContainers:
    """A contract's tests against workers that are containers."""

    @pytest.fixture(autouse=True)
    def _set_up(self, tmp_path: Path, docker_engine: DockerEngine, puppet_image: str) -> None:
        self.folder = tmp_path
        self._host = docker_engine.host
        self._image = puppet_image

    def run(self, work: Callable[[EnginePorts], Awaitable[None]]) -> None:
        """Run ``work`` against a fresh engine."""
        self.workers = ContainerWorkers(self._host, self._image)
        asyncio.run(_with_engine(self.folder, self.workers, work))


async def _with_engine(folder: Path, workers: Workers, work: Callable[[EnginePorts], Awaitable[None]]) -> None:
    async with running_engine(folder, workers) as ports:
        await work(ports)
