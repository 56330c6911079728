"""Register to first result of a new algorithm: POST /admin/algorithms until its first result is pushed.

The client does what anybody would: registers, asks until the algorithm is ACTIVE, sends a job and waits at
the WebSocket. Between rounds the algorithm is deleted for good.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from harness import (
    Figure,
    Poster,
    chest_slices,
    job_body,
    linked,
    next_result,
    platform,
    register,
    remove,
    results,
    run,
)
from medical_image_processing.entrypoints.client import Client

ROUNDS = 8


def bench() -> list[Figure]:
    """A lean algorithm and one that imports more."""
    with tempfile.TemporaryDirectory(prefix="mip-bench-pacs-") as folder:
        linked(chest_slices(1), Path(folder))
        with platform(Path(folder)) as running, running.client() as client:
            figures = []
            for algo_id in ("processing_1", "bench_slow"):
                rounds = [asyncio.run(_once(running.base, client, algo_id, n)) for n in range(ROUNDS)]
                whole, active = zip(*rounds, strict=True)
                figures.append(Figure(f"{algo_id}: register to first result", "s", whole, 2.0))
                figures.append(Figure("… register until ACTIVE", "s", active))
    return figures


async def _once(base: str, client: Client, algo_id: str, number: int) -> tuple[float, float]:
    poster = await Poster.open(base)
    async with results(base) as socket:
        began = time.perf_counter()
        await asyncio.to_thread(register, client, algo_id, workers=1)
        active = time.perf_counter() - began
        await poster.accept(poster.request(algo_id, job_body(f"{algo_id}-{number}", "000")))
        await next_result(socket)
        whole = time.perf_counter() - began
    poster.close()
    await asyncio.to_thread(remove, client, algo_id)
    return whole, active


if __name__ == "__main__":
    run(bench, f"A new algorithm, {ROUNDS} times")
