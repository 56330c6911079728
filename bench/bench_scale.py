"""A full platform against an empty one: 10,000 algorithms registered, 100,000 jobs waiting.

Both run at the same time and are asked in turn, so that whatever else the machine does hits both alike. The
full one is filled through the platform's own parts, in this process, before it is started. Each has one
worker, busy with a job that doesn't end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

from harness import (
    Figure,
    Platform,
    Poster,
    job_body,
    linked,
    memory_mib,
    new_home,
    p95,
    register,
    run,
    specification,
    unconfined,
    wait_until,
)
from medical_image_processing import naming, samples
from medical_image_processing.control.admin import Admin
from medical_image_processing.control.provisioner.loop import Provisioner
from medical_image_processing.engines.embedded.engine import EmbeddedEngine, EngineSettings
from medical_image_processing.engines.embedded.processes import ProcessRuntime
from medical_image_processing.entrypoints.client import Client
from medical_image_processing.model.algorithm import AlgorithmSpec
from medical_image_processing.model.job import Job, JobMessage, ProcessRequest
from medical_image_processing.worker.aws import SqsClient
from medical_image_processing.worker.http import HttpClient
from medical_image_processing.worker.sigv4 import AwsCredentials

ALGO_ID = "bench_wait"
ALGORITHMS = int(os.environ.get("MIP_BENCH_ALGORITHMS", "10000"))
JOBS = int(os.environ.get("MIP_BENCH_JOBS", "100000"))
BLOCKS, PER_BLOCK = 10, 60
GROUP = 256
FOREVER = {"seconds": 600}


def bench() -> list[Figure]:
    """POST and ReceiveMessage, on both in turn."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mip-bench-pacs-")))
        linked([samples.ct_small()], folder)
        homes = [stack.enter_context(new_home()) for _ in range(2)]
        empty, full = (Platform(home, pacs=folder, options=unconfined(folder)) for home in homes)
        for one in (empty, full):
            with one, one.client() as client:
                register(client, ALGO_ID, workers=1)
        began = time.monotonic()
        asyncio.run(_fill(full.home))
        filled_s = time.monotonic() - began
        systems = []
        for one in (empty, full):
            stack.enter_context(one)
            stack.callback(one.kill)  # its worker's job would not end in time
            systems.append(_System(one, is_full=one is full))
        posts, receives = asyncio.run(_measure(systems))
        memory = [memory_mib(one.pid) for one in (empty, full)]
    return [
        *_compared("POST /process", posts),
        *_compared("ReceiveMessage", receives),
        Figure("memory of the full platform", "MiB", [memory[1]], 250.0),
        Figure("… of the empty one", "MiB", [memory[0]]),
        Figure(f"{ALGORITHMS} algorithms and {JOBS} jobs put in", "s", [filled_s]),
    ]


class _System:
    """One platform, its clients, and a queue of which its worker has taken all that it wants."""

    def __init__(self, running: Platform, *, is_full: bool) -> None:
        self.base = running.base
        env = running.env
        credentials = AwsCredentials(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], None)
        self.http = HttpClient()
        self.sqs = SqsClient(
            self.http,
            lambda: credentials,
            region=env["AWS_REGION"],
            endpoint=env["AWS_ENDPOINT_URL"],
            queue_url=env["RESULTS_QUEUE_URL"].replace(naming.RESULTS_QUEUE, naming.queue(ALGO_ID)),
        )
        with running.client() as client:
            _occupy_worker(client)
        while not is_full and (messages := self.sqs.receive(self.http, limit=10, wait_s=0)):
            self.sqs.delete([message.receipt_handle for message in messages])


def _occupy_worker(client: Client) -> None:
    """Give the worker a job that doesn't end, and more than it fetches ahead."""
    for number in range(40):
        client.call("POST", "process", ALGO_ID, body=job_body(f"first-{number}", "000", FOREVER))
    wait_until(lambda: _running(client), 20, every_s=0.1)


def _running(client: Client) -> bool:
    return bool(client.call("GET", "jobs", params={"status": "RUNNING"})["jobs"])


async def _measure(systems: list[_System]) -> tuple[list[list[float]], list[list[float]]]:
    """Milliseconds of each POST and each receive, by system."""
    posters = [await Poster.open(system.base) for system in systems]
    posts: list[list[float]] = [[], []]
    receives: list[list[float]] = [[], []]
    for number in range(BLOCKS * PER_BLOCK):
        for which, poster in enumerate(posters):
            request = poster.request(ALGO_ID, job_body(f"measured-{number}", "000", FOREVER))
            began = time.perf_counter()
            await poster.accept(request)
            posts[which].append((time.perf_counter() - began) * 1e3)
        for which, system in enumerate(systems):
            began = time.perf_counter()
            [message] = system.sqs.receive(system.http, limit=1, wait_s=5)
            receives[which].append((time.perf_counter() - began) * 1e3)
            system.sqs.delete([message.receipt_handle])
    return posts, receives


def _compared(name: str, times: list[list[float]]) -> list[Figure]:
    starts = range(0, BLOCKS * PER_BLOCK, PER_BLOCK)
    blocks = [[statistics.median(one[at : at + PER_BLOCK]) for at in starts] for one in times]
    ratios = [full / empty for empty, full in zip(*blocks, strict=True)]
    return [
        Figure(f"{name}: full to empty", "times", ratios, 1.3),
        Figure("… on the empty one", "ms", times[0]),
        Figure("… on the full one", "ms", times[1]),
        Figure("… on the full one, 95th percentile", "ms", times[1], of=p95),
    ]


async def _fill(home: Path) -> None:
    """Register and provision the algorithms and accept the jobs, as the platform does, in this process."""
    settings = EngineSettings(
        home=home,
        worker_base="http://127.0.0.1:1",
        operator=("unused", "unused"),
        create_runtime=lambda logs: ProcessRuntime(logs=logs, run_dir=home / "run", allow_commands=home),
        allow_origins=(),
        add_pacs_key=lambda *_: None,
        remove_pacs_key=lambda _: None,
        pseudonym_secret=bytes(32),
    )
    engine = EmbeddedEngine(settings)
    await engine.open()
    admin = Admin(engine.registry, engine.jobs)
    provisioner = Provisioner(engine.registry, engine.resources, engine.jobs, _NoPush())

    async def add_algorithm(number: int) -> None:
        spec = AlgorithmSpec.model_validate(specification(f"bench-{number:05}", workers=0))
        await admin.register(spec, actor="bench")
        await provisioner.reconcile(spec.algorithm_id)

    async def add_job(number: int) -> None:
        body = job_body(f"waiting-{number}", "000", FOREVER)
        message = JobMessage.model_validate({**body, "algo_id": ALGO_ID})
        await engine.jobs.accept(message, ProcessRequest.model_validate(body).fingerprint(ALGO_ID))

    await _in_groups(add_algorithm, ALGORITHMS - 1)
    await _in_groups(add_job, JOBS)
    await engine.close()


async def _in_groups(work: Callable[[int], Coroutine[None, None, None]], count: int) -> None:
    for start in range(0, count, GROUP):
        await asyncio.gather(*map(work, range(start, min(count, start + GROUP))))


class _NoPush:
    async def push(self, job: Job) -> None:
        """Nobody listens."""


if __name__ == "__main__":
    run(bench, f"Empty against full: {ALGORITHMS} algorithms, {JOBS} jobs waiting")
