"""Accepting jobs durably: POST /process a second from 8 connections, each answered 202 after the fsync.

The load is made by a process of its own, from bytes prepared beforehand. One worker holds a job that never
ends meanwhile, so that only accepting is measured.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import (
    Figure,
    Poster,
    cpu_s,
    job_body,
    linked,
    percentile,
    platform,
    register,
    run,
    unused_cpu,
)
from medical_image_processing import samples

ALGO_ID = "bench_wait"
CONNECTIONS = 8
JOBS = 6000
ROUNDS = 5


def bench() -> list[Figure]:
    """Several rounds on one platform, whose queue grows."""
    with tempfile.TemporaryDirectory(prefix="mip-bench-pacs-") as folder:
        linked([samples.ct_small()], Path(folder))
        with platform(Path(folder)) as running, running.client() as client:
            register(client, ALGO_ID, workers=1)
            _load(running.base, "warm", 500)
            idle = unused_cpu()
            rates, cpus, tails = [], [], []
            for number in range(ROUNDS):
                before = cpu_s(running.pid)
                rate, tail = _load(running.base, f"r{number}", JOBS)
                rates.append(rate)
                tails.append(tail)
                cpus.append((cpu_s(running.pid) - before) / JOBS * 1e3)
            running.kill()
    note = f"{idle:.0%} of the CPU was unused before"
    return [
        Figure("durable POST /process, 8 connections", "POST/s", rates, 1500, at_least=True, note=note),
        Figure("… until 202, 95th percentile", "ms", tails),
        Figure("… CPU of the platform a POST", "ms", cpus),
    ]


def _load(base: str, name: str, count: int) -> tuple[float, float]:
    """POSTs a second, and the 95th percentile of their latency in ms."""
    command = [sys.executable, __file__, base, name, str(count)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate, tail = map(float, answer.split())
    return rate, tail


async def _post_all(base: str, name: str, count: int) -> None:
    posters = [await Poster.open(base) for _ in range(CONNECTIONS)]
    parameters = {"seconds": 600}
    bodies = (job_body(f"{name}-{number}", "000", parameters) for number in range(count))
    waiting = iter([posters[0].request(ALGO_ID, body) for body in bodies])
    latencies = []

    async def send(poster: Poster) -> None:
        for request in waiting:
            sent = time.perf_counter()
            await poster.accept(request)
            latencies.append((time.perf_counter() - sent) * 1e3)

    began = time.perf_counter()
    await asyncio.gather(*map(send, posters))
    print(count / (time.perf_counter() - began), percentile(latencies, 95))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        import uvloop

        uvloop.run(_post_all(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    else:
        run(bench, f"Accepting jobs, {ROUNDS} rounds of {JOBS}")
