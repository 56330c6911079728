"""What containers cost beside processes: a job's overhead, a new algorithm, a killed worker, mip-base's size.

Two platforms, one of each runtime, take turns at the same jobs. The Docker engine is the one that answers, else
one of the bench's own (see test/docker_engine.py); mip-base is built on the tests' Debian.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from harness import (
    ROOT,
    Figure,
    Platform,
    Poster,
    chest_slices,
    docker_engine,
    job_body,
    linked,
    new_home,
    next_result,
    p95,
    remove,
    results,
    run,
    state,
    wait_until,
)
from medical_image_processing import samples
from medical_image_processing.engines.embedded.containers import platform_id
from medical_image_processing.entrypoints.client import Client

JOBS = 200
WARM_UP = 20
ROUNDS = 8
KILLS = 6
JOB_S = 1.0


def bench() -> list[Figure]:
    """Everything against one engine."""
    with docker_engine.running_engine() as engine, tempfile.TemporaryDirectory(prefix="mip-bench-pacs-") as folder:
        pacs = Path(folder)
        linked(chest_slices(20), pacs)
        made = docker_engine.build_image(
            engine, ROOT / "containers/base", tag="mip-bench-base:1", base=_debian(engine)
        )
        puppet = docker_engine.add_layer(engine, "mip-bench-base:1", "puppet", docker_engine.install_puppet)
        with _platform(pacs, "process") as bare, _platform(pacs, "docker", engine) as boxed:
            figures = asyncio.run(_overhead(bare, boxed))
            with boxed.client() as client:
                remove(client, "processing_1")
                figures += [_register_to_result(boxed, client), _killed(boxed, client, engine, puppet)]
    size = made["size_bytes"] / 1e6
    return [*figures, Figure("mip-base, unpacked", "MB", [size], 450)]


def _debian(engine: docker_engine.DockerEngine) -> str:
    return docker_engine.ensure_debian_image(engine, samples.default_cache())


@contextlib.contextmanager
def _platform(pacs: Path, runtime: str, engine: docker_engine.DockerEngine | None = None) -> Iterator[Platform]:
    environment = engine.environment if engine else {}
    with new_home() as home, Platform(home, pacs=pacs, runtime=runtime, environment=environment) as running:
        yield running


def _register(client: Client, algo_id: str, image: str, **changes: object) -> None:
    spec = {"image_uri": image, "cpu": 1024, "memory": 2048, "command": ["/app/worker.sh"], **changes}
    client.call("POST", "admin", "algorithms", body={"algo_id": algo_id, **spec})
    wait_until(lambda: state(client, algo_id) == "ACTIVE", 20)


async def _overhead(bare: Platform, boxed: Platform) -> list[Figure]:
    """POST to WebSocket of processing_1 on one 512² slice, in turns."""
    times: dict[str, list[float]] = {}
    async with contextlib.AsyncExitStack() as stack:
        sides = []
        for name, platform in (("process", bare), ("container", boxed)):
            with platform.client() as client:
                _register(client, "processing_1", "mip-bench-base:1")
            poster = await Poster.open(platform.base)
            sides.append((name, poster, await stack.enter_async_context(results(platform.base))))
        for number in range(-WARM_UP, JOBS):
            for name, poster, socket in sides:
                request = poster.request("processing_1", job_body(f"turn-{number}", f"{number % 20:03}"))
                began = time.perf_counter()
                await poster.accept(request)
                await next_result(socket)
                if number >= 0:
                    times.setdefault(name, []).append((time.perf_counter() - began) * 1e3)
        for _, poster, _ in sides:
            poster.close()
    more = [boxed - bare for bare, boxed in zip(times["process"], times["container"], strict=True)]
    return [
        Figure("a job on a process: POST to WebSocket", "ms", times["process"]),
        Figure("a job in a container: POST to WebSocket", "ms", times["container"]),
        Figure("in a container, beyond the process: median of turns", "ms", more, 5.0),
        Figure("… 95th percentile", "ms", more, of=p95),
    ]


def _register_to_result(boxed: Platform, client: Client) -> Figure:
    return Figure(
        "register to first result, image on the machine",
        "s",
        [asyncio.run(_first_result(boxed, client, number)) for number in range(ROUNDS)],
        3.0,
    )


async def _first_result(boxed: Platform, client: Client, number: int) -> float:
    poster = await Poster.open(boxed.base)
    async with results(boxed.base) as socket:
        began = time.perf_counter()
        await asyncio.to_thread(_register, client, "processing_1", "mip-bench-base:1")
        await poster.accept(poster.request("processing_1", job_body(f"first-{number}", "000")))
        await next_result(socket)
        took = time.perf_counter() - began
    poster.close()
    await asyncio.to_thread(remove, client, "processing_1")
    return took


def _killed(boxed: Platform, client: Client, engine: docker_engine.DockerEngine, image: str) -> Figure:
    _register(client, "puppet", image, env=docker_engine.PUPPET_ENV)
    with contextlib.closing(engine.client()) as docker:
        took = [asyncio.run(_kill(boxed, docker, number)) for number in range(KILLS)]
    return Figure(
        "kill of the only container until its job's result, less the job",
        "s",
        took,
        2.0,
        of=max,
        note="the slowest",
    )


async def _kill(boxed: Platform, docker: object, number: int) -> float:
    poster = await Poster.open(boxed.base)
    labels = [f"mip.platform={platform_id(boxed.home)}", "mip.algorithm=puppet"]
    async with results(boxed.base) as socket:
        body = job_body(f"killed-{number}", "000", {"do": "sleep", "seconds": JOB_S})
        await poster.accept(poster.request("puppet", body))
        with boxed.client() as client:
            await asyncio.to_thread(
                wait_until, lambda: client.call("GET", "jobs", f"killed-{number}")["status"] == "RUNNING", 20
            )
        container = docker.containers.list(filters={"label": labels})[0]  # type: ignore[attr-defined]
        began = time.perf_counter()
        await asyncio.to_thread(container.kill)
        await next_result(socket)
        took = time.perf_counter() - began
    poster.close()
    return took - JOB_S


if __name__ == "__main__":
    run(bench, "Containers beside processes")
