"""kill -9 of a worker in the middle of a job, and of the platform with 10,000 jobs waiting.

A worker: from the kill until another one's result for the same job is pushed; the job itself takes 0.3 s of
that. The platform: from the kill, with `mip up` started again at once as a service manager would, until
/health answers and the next POST is accepted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path

from harness import (
    Figure,
    Platform,
    Poster,
    job_body,
    linked,
    next_result,
    platform,
    register,
    results,
    run,
    wait_until,
    worker_pids,
)
from medical_image_processing import samples

ALGO_ID = "bench_wait"
WORKER_KILLS = 6
PLATFORM_KILLS = 6
JOBS = 10_000
JOB_S = 0.3


def bench() -> list[Figure]:
    """Workers first, then the platform."""
    with tempfile.TemporaryDirectory(prefix="mip-bench-pacs-") as folder:
        linked([samples.ct_small()], Path(folder))
        with platform(Path(folder)) as running, running.client() as client:
            register(client, ALGO_ID, workers=2)
            pid_file = Path(folder) / ".pid"
            worker = [asyncio.run(_kill_worker(running, pid_file, n)) for n in range(WORKER_KILLS)]
        with platform(Path(folder)) as running:
            with running.client() as client:
                register(client, ALGO_ID, workers=2)
            asyncio.run(_post(running, "waiting", JOBS))
            whole = [_kill_platform(running, number) for number in range(PLATFORM_KILLS)]
            running.kill()  # the jobs would not end in time
    return [
        Figure("kill -9 of a worker until its job's result", "s", worker, 2.0, of=max, note="the slowest"),
        Figure("kill -9 of the platform until ready again", "s", whole, 2.0, of=max, note="the slowest"),
    ]


async def _kill_worker(running: Platform, pid_file: Path, number: int) -> float:
    wait_until(lambda: len(worker_pids(running.pid)) == 2, 20)
    pid_file.unlink(missing_ok=True)
    poster = await Poster.open(running.base)
    parameters = {"seconds": JOB_S, "pid_file": str(pid_file)}
    async with results(running.base) as socket:
        await poster.accept(poster.request(ALGO_ID, job_body(f"killed-{number}", "000", parameters)))
        await asyncio.to_thread(wait_until, pid_file.exists, 20)
        await asyncio.sleep(JOB_S / 2)
        began = time.perf_counter()
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
        await next_result(socket)
        took = time.perf_counter() - began
    poster.close()
    return took


def _kill_platform(running: Platform, number: int) -> float:
    began = time.perf_counter()
    running.kill()
    running.start()
    asyncio.run(_post(running, f"after-{number}", 1))
    return time.perf_counter() - began


async def _post(running: Platform, name: str, count: int) -> None:
    posters = [await Poster.open(running.base) for _ in range(min(8, count))]
    bodies = (job_body(f"{name}-{number}", "000", {"seconds": 600}) for number in range(count))
    waiting = iter([posters[0].request(ALGO_ID, body) for body in bodies])

    async def send(poster: Poster) -> None:
        for request in waiting:
            await poster.accept(request)
        poster.close()

    await asyncio.gather(*map(send, posters))


if __name__ == "__main__":
    run(bench, f"kill -9: a worker {WORKER_KILLS} times, the platform {PLATFORM_KILLS} times")
