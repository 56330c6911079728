"""The AWS endpoint of the embedded engine on a real port, for boto3, the aws command and plain HTTP."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import boto3
import uvicorn
import uvloop
from botocore.config import Config

from medical_image_processing import naming
from medical_image_processing.engines.embedded.credentials import Credential, Credentials, Operator
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.objects import ObjectStore
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.wire import create_aws_app

T = TypeVar("T")
# In AWS's own older regions boto3 still presigns with Signature V2, and version 1 of the aws command ignores
# AWS_ENDPOINT_URL for SQS; any other name will do.
ACCOUNT, REGION = "000000000000", "mip-local-1"
BUCKET = naming.output_bucket(ACCOUNT, REGION)


class WireServer:
    """Queues of the algorithms ``liver`` and ``lung``, the results queue, and an empty bucket."""

    def __init__(self, home: Path, *, max_object_bytes: int = 1 << 30) -> None:
        self.credentials = Credentials()
        self.operator = Credential("MIPOPERATORTEST", "the-operator's-own", Operator())
        self.credentials.add(self.operator)
        self.liver = self.credentials.issue("liver")
        self.lung = self.credentials.issue("lung")
        self.root = home / "output"
        self._home = home
        self._objects = ObjectStore(self.root, bucket=BUCKET, max_object_bytes=max_object_bytes)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._ready = threading.Event()
        self.queues: FifoQueues

    def __enter__(self) -> WireServer:
        self._thread = threading.Thread(target=self._run_loop, daemon=True)
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.stop_serving)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the server did not stop"

    def stop_serving(self) -> None:
        """What the platform does at its end."""
        self.queues.close()
        self._server.should_exit = True

    def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Await something on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def _run_loop(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        database = Database(self._home / "mip.db")
        self.queues = FifoQueues(database)
        for algo_id in ("liver", "lung"):
            dead = naming.dead_letter_queue(algo_id)
            await self.queues.create(dead, redrive_to=None)
            await self.queues.create(naming.queue(algo_id), redrive_to=dead)
        await self.queues.create(naming.RESULTS_QUEUE, redrive_to=None)
        app = create_aws_app(
            self.queues,
            self._objects,
            self.credentials,
            region=REGION,
            account=ACCOUNT,
            bucket=BUCKET,
        )
        config = uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            lifespan="off",
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        serving = asyncio.create_task(self._server._serve([self._socket]))
        self._ready.set()
        await serving
        await database.close()

    def url_of(self, queue: str) -> str:
        return f"{self.url}/{ACCOUNT}/{queue}"

    def client(self, service: str, credential: Credential, **config: Any) -> Any:
        """A boto3 client that gives up after one attempt."""
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=credential.access_key_id,
            aws_secret_access_key=credential.secret_access_key,
            config=Config(retries={"total_max_attempts": 1}, **config),
        )

    def aws(self, credential: Credential, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the aws command."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name("aws")), *arguments],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self._home),
                "AWS_ENDPOINT_URL": self.url,
                "AWS_REGION": REGION,
                "AWS_DEFAULT_REGION": REGION,
                "AWS_MAX_ATTEMPTS": "1",
                "AWS_ACCESS_KEY_ID": credential.access_key_id,
                "AWS_SECRET_ACCESS_KEY": credential.secret_access_key,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, done.stderr
        return done
