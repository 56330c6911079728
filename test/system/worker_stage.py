"""A stage for worker processes: the embedded engine's SQS and S3 endpoints and a PACS, without the platform.

The endpoints are the real ones, on a real port; they run in a thread. The test plays the platform's part:
it submits jobs and reads the results queue.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from medical_image_processing import naming
from medical_image_processing.engines.embedded.credentials import Credentials
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.objects import ObjectStore
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.wire import create_aws_app
from medical_image_processing.model.job import ReportedStatus, ResultMessage
from medical_image_processing.pacs.app import create_app as create_pacs_app
from medical_image_processing.pacs.folder import FolderIndex
from medical_image_processing.pacs.keys import HashedKeys
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.ports.queues import OutgoingMessage
from medical_image_processing.worker.aws import SqsClient
from medical_image_processing.worker.http import HttpClient
from medical_image_processing.worker.sigv4 import AwsCredentials

T = TypeVar("T")
ALGO_ID = "acts"
BUCKET = "mip-output-000000000000-us-east-1"
KEY = "pacs-key-of-the-test"
# A disk that is busy with images being built beside us can hold a commit for many seconds.
WAIT_S = 60.0
CT_SMALL = {"study_id": "CT", "series_id": "small", "image_id": "CT_small.dcm"}

ALGORITHM = '''
"""An algorithm that does what the job's parameters say."""
import os, signal, time
from pathlib import Path
import numpy as np
from medical_image_processing.errors import InputRejected, TransientError
from medical_image_processing.processing.base import Processor


if hangs := os.environ.get("ACTS_RLE_HANGS"):
    from pydicom.pixels.decoders import RLELosslessDecoder
    from pydicom.uid import RLELossless

    DECODER_DEPENDENCIES = {RLELossless: ()}
    is_available = lambda uid: True

    def hang(*_):
        Path(hangs).touch()
        time.sleep(600)

    for label in RLELosslessDecoder.available_plugins:
        RLELosslessDecoder.remove_plugin(label)
    RLELosslessDecoder.add_plugin("hangs", ("acting", "hang"))


class Acts(Processor):
    ALGO_ID = "acts"

    def run(self, img, meta=None):
        said = meta["parameters"]
        if "started" in said:
            with open(said["started"], "a") as file:
                file.write(f"{os.getpid()}\\n")
        if "progress" in said:
            meta["progress"](said["progress"])
        if "until" in said:
            deadline = time.monotonic() + 90
            while not Path(said["until"]).exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        match said.get("do"):
            case "raise":
                raise ValueError("the patient is SMITH^JOHN")
            case "exit":
                raise SystemExit(3)
            case "recurse":
                return self.run(img, meta)
            case "exhaust":
                raise MemoryError
            case "refuse":
                raise InputRejected("NOT_CT", "this algorithm needs CT")
            case "wait":
                raise TransientError("MODEL_BUSY", "the model is not there yet", retry_after_s=0.6)
            case "nonsense":
                return {"mask": np.zeros((2, 2), np.uint8)}
            case "segment":
                mask = np.zeros(img.shape, np.uint8)
                mask[..., :9, :9], mask[..., 20:30, 20:30] = 1, 2
                return {"mask": mask, "labels": {"1": "corner", "2": "middle"}, "meta": {}}
            case "image":
                return {"image": img.astype(np.float32)}
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
        return {"mask": np.ones(img.shape, np.uint8), "labels": None, "meta": {"size": int(img.size)}}
'''


class WorkerProcess:
    """One worker. Its output is in ``log``."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, access_key_id: str) -> None:
        self._process = process
        self.log = log
        self.access_key_id = access_key_id
        self.pid = process.pid

    def send_signal(self, number: signal.Signals) -> None:
        """To the worker."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float = WAIT_S) -> int:
        """Its exit status."""
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """End it if it runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(WAIT_S)

    def has_ended(self) -> bool:
        """Whether it has."""
        return self._process.poll() is not None

    def wait_or_none(self, timeout_s: float) -> int | None:
        """Its exit status, None if it still runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(timeout_s)
        return None

    def lines(self) -> list[dict[str, Any]]:
        """Its log lines that are JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


class Stage:
    """Use as a context manager. ``pacs_faults``: statuses that the next PACS requests get instead."""

    def __init__(self, folder: Path, pacs_folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._folder = folder
        self._pacs_folder = pacs_folder
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._ready = threading.Event()
        self._changed = threading.Condition()
        self.workers: list[WorkerProcess] = []
        self.results: list[ResultMessage] = []
        self.pacs_faults: list[int] = []
        self.pacs_requests: list[str] = []
        self.output = folder / "output"

    def __enter__(self) -> Self:
        self._install_algorithm()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread.start()
        assert self._ready.wait(WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(WAIT_S)
        self._loop.close()

    def submit(
        self, job_id: str, *, scope: str = "image", pacs: dict[str, str] | None = None, **parameters: Any
    ) -> None:
        """Put a job on the algorithm's queue."""
        self.submit_text(json.dumps(self.job(job_id, scope=scope, pacs=pacs, **parameters)), job_id)

    def job(
        self, job_id: str, *, scope: str = "image", pacs: dict[str, str] | None = None, **parameters: Any
    ) -> dict[str, Any]:
        """A job message."""
        where = dict(pacs or CT_SMALL)
        where.pop("image_id" if scope != "image" else "", None)
        where.pop("series_id" if scope == "study" else "", None)
        return {
            "job_id": job_id,
            "client_id": "client",
            "algo_id": ALGO_ID,
            "pacs": {**where, "scope": scope},
            "parameters": parameters,
        }

    def submit_text(self, body: str, group: str) -> None:
        """Put any text on the algorithm's queue."""
        self.call(self._queues.send(naming.queue(ALGO_ID), [OutgoingMessage(body, group, group)]))

    def submit_together(self, *jobs: dict[str, Any]) -> None:
        """Put jobs on the algorithm's queue, all at the same moment."""
        messages = [OutgoingMessage(json.dumps(job), job["job_id"], job["job_id"]) for job in jobs]
        self.call(self._queues.send(naming.queue(ALGO_ID), messages))

    def queue_url(self, name: str) -> str:
        """As a worker gets it."""
        return f"{self.base}/000000000000/{name}"

    def sqs_client(self) -> SqsClient:
        """A worker's own client, for use in this process."""
        keys = self._credentials.issue(ALGO_ID)
        credentials = AwsCredentials(keys.access_key_id, keys.secret_access_key, None)
        url = self.queue_url(naming.queue(ALGO_ID))
        return SqsClient(HttpClient(), lambda: credentials, region="us-east-1", endpoint=None, queue_url=url)

    def start_worker(self, *command: str, **env: str) -> WorkerProcess:
        """Start one, with the environment that the platform gives it. ``command``: another than our own worker."""
        credential = self._credentials.issue(ALGO_ID)
        log = self._folder / f"worker-{len(self.workers)}.log"
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self._folder / "packages"),
            "QUEUE_URL": self.queue_url(naming.queue(ALGO_ID)),
            "RESULT_QUEUE": self.queue_url(naming.RESULTS_QUEUE),
            "OUTPUT_BUCKET": BUCKET,
            "ALGO_ID": ALGO_ID,
            "PACS_API_BASE": f"{self.base}/pacs",
            "PACS_API_KEY": KEY,
            "AWS_ENDPOINT_URL": self.base,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": credential.access_key_id,
            "AWS_SECRET_ACCESS_KEY": credential.secret_access_key,
            "MIP_REVISION": "7",
            "OMP_NUM_THREADS": "1",
            "MIP_TASK": "mip-acts:7",
            "MIP_PARENT_PID": str(os.getpid()),
            **env,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                command or [sys.executable, "-m", "medical_image_processing.worker"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        worker = WorkerProcess(process, log, credential.access_key_id)
        self.workers.append(worker)
        return worker

    def buried(self, worker: WorkerProcess) -> None:
        """Do what the supervisor does when a worker has died."""
        self.call(self._queues.release(worker.access_key_id, counted=True))

    def sweep(self) -> None:
        """End leases whose time has come by the stage's clock."""
        self.call(self._queues.sweep())

    def held(self) -> int:
        """Jobs in flight."""
        attributes = self._on_loop(lambda: self._queues.attributes(naming.queue(ALGO_ID)))
        assert attributes is not None
        return attributes.in_flight

    def waiting(self) -> int:
        """Jobs on the queue that nobody has."""
        attributes = self._on_loop(lambda: self._queues.attributes(naming.queue(ALGO_ID)))
        assert attributes is not None
        return attributes.visible

    def dead_letters(self) -> list[str]:
        """Bodies of the messages in the dead-letter queue."""
        return [letter.body for letter in self.call(self._queues.dead_letters(limit=100))]

    def result(self, job_id: str, timeout_s: float = WAIT_S) -> ResultMessage:
        """The job's first final result."""
        return self.reported(lambda r: r.job_id == job_id and r.status is not ReportedStatus.RUNNING, timeout_s)

    def reported(self, is_it: Callable[[ResultMessage], bool], timeout_s: float = WAIT_S) -> ResultMessage:
        """The first report that ``is_it``."""
        with self._changed:
            found = self._changed.wait_for(lambda: next(filter(is_it, self.results), None), timeout_s)
        assert found, f"no such report within {timeout_s} s; workers said: {self._logs()}"
        return found

    def eventually(self, holds: Callable[[], object], timeout_s: float = WAIT_S) -> None:
        """Wait until ``holds()``."""
        pause = threading.Event()
        for _ in range(int(timeout_s / 0.02)):
            if holds():
                return
            pause.wait(0.02)
        queue = f"{self.waiting()} jobs waiting, {self.held()} in flight"
        raise AssertionError(f"not within {timeout_s} s; {queue}; workers said: {self._logs()}")

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run on the stage's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT_S)

    def _on_loop(self, function: Callable[[], T]) -> T:
        async def run() -> T:
            return function()

        return self.call(run())

    def _logs(self) -> str:
        return "\n".join(worker.log.read_text()[-3000:] for worker in self.workers)

    def _install_algorithm(self) -> None:
        packages = self._folder / "packages"
        info = packages / "acting-1.0.dist-info"
        info.mkdir(parents=True)
        (packages / "acting.py").write_text(ALGORITHM)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acting\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[medical_image_processing.processors]\n{ALGO_ID} = acting:Acts\n")

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        database = Database(self._folder / "mip.db")
        self._queues = FifoQueues(database, clock=self._clock)
        self._credentials = Credentials()
        dead = naming.dead_letter_queue(ALGO_ID)
        await self._queues.create(naming.RESULTS_QUEUE, redrive_to=None)
        await self._queues.create(dead, redrive_to=None)
        await self._queues.create(naming.queue(ALGO_ID), redrive_to=dead)
        aws = create_aws_app(
            self._queues,
            ObjectStore(self.output, bucket=BUCKET),
            self._credentials,
            region="us-east-1",
            account="000000000000",
            bucket=BUCKET,
        )
        index = FolderIndex(self._pacs_folder)
        index.start()
        keys = HashedKeys({HashedKeys.digest(KEY): ALGO_ID})
        pacs = create_pacs_app(index, keys, LinkSigner(), _let)
        server = uvicorn.Server(
            uvicorn.Config(self._router(aws, pacs), log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        )
        serving = asyncio.create_task(server.serve([self._socket]))
        reading = asyncio.create_task(self._read_results())
        sweeping = asyncio.create_task(self._sweep())
        while not server.started:
            await asyncio.sleep(0.01)
        self._ready.set()
        await self._stopped.wait()
        self._queues.close()
        server.should_exit = True
        for task in (reading, sweeping):
            task.cancel()
        await asyncio.gather(serving, reading, sweeping, return_exceptions=True)
        index.close()
        await database.close()

    def _router(self, aws: ASGIApp, pacs: ASGIApp) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if not scope["path"].startswith("/pacs/"):
                await aws(scope, receive, send)
                return
            self.pacs_requests.append(scope["path"])
            if self.pacs_faults:
                status = self.pacs_faults.pop(0)
                await send(
                    {"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]}
                )
                await send({"type": "http.response.body", "body": b""})
                return
            await pacs({**scope, "root_path": "/pacs"}, receive, send)

        return app

    async def _read_results(self) -> None:
        while True:
            messages = await self._queues.receive(naming.RESULTS_QUEUE, limit=100, wait_s=1.0)
            await self._queues.delete(naming.RESULTS_QUEUE, [message.receipt_handle for message in messages])
            with self._changed:
                self.results += [ResultMessage.model_validate_json(message.body) for message in messages]
                self._changed.notify_all()

    async def _sweep(self) -> None:
        with suppress(asyncio.CancelledError):
            while True:
                await self._queues.sweep()
                await asyncio.sleep(0.2)


async def _let(*_: object) -> None:
    """Nobody keeps a record of reads here."""
