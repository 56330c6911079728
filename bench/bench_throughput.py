"""An algorithm that does nothing, through two workers: jobs a second, and CPU a job of all processes.

Everything around the algorithm is done: the image is fetched over HTTP, decoded, the result written as
DICOM, stored, recorded and pushed over a WebSocket. Platform and workers are counted; the client that makes
the load runs on the same two cores and is shown apart.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from harness import (
    Figure,
    Platform,
    chest_slices,
    cpu_s,
    job_body,
    linked,
    platform,
    process,
    register,
    run,
    worker_pids,
)
from medical_image_processing import samples

ALGO_ID = "bench_nothing"
JOBS = 1000
ROUNDS = 5


def bench() -> list[Figure]:
    """A small image and one of the usual size."""
    figures = []
    for kind, files in (("CT_small 128²", [samples.ct_small()]), ("512² uncompressed", chest_slices(20))):
        with tempfile.TemporaryDirectory(prefix="mip-bench-pacs-") as folder:
            ids = linked(files, Path(folder))
            with platform(Path(folder)) as running, running.client() as client:
                register(client, ALGO_ID, workers=2)
                _round(running, ids, "warm", 200)
                rounds = [_round(running, ids, f"r{number}", JOBS) for number in range(ROUNDS)]
        values = {name: [one[name] for one in rounds] for name in rounds[0]}
        figures += [
            Figure(f"{kind}: throughput", "jobs/s", values.pop("rate"), 250, at_least=True),
            Figure(f"{kind}: CPU per job, platform and workers", "ms", values.pop("cpu"), 6.0),
            *(Figure(f"{kind}: … {name}", "ms", samples_) for name, samples_ in values.items()),
        ]
    return figures


def _round(running: Platform, ids: list[str], name: str, count: int) -> dict[str, float]:
    workers = worker_pids(running.pid)
    bodies = [job_body(f"{name}-{number}", ids[number % len(ids)]) for number in range(count)]
    before = cpu_s(running.pid), sum(map(cpu_s, workers)), time.process_time()
    jobs, wall = asyncio.run(process(running.base, ALGO_ID, bodies))
    after = cpu_s(running.pid), sum(map(cpu_s, workers)), time.process_time()
    of_platform, of_workers, of_client = ((b - a) / count * 1e3 for a, b in zip(before, after, strict=True))
    stages = defaultdict(list)
    for job in jobs:
        for stage, took in ((job.message.get("provenance") or {}).get("durations_ms") or {}).items():
            stages[f"wall time of {stage}"].append(float(took))
    return {
        "rate": count / wall,
        "cpu": of_platform + of_workers,
        "CPU of the platform": of_platform,
        "CPU of the workers": of_workers,
        "CPU of the client": of_client,
        "POST until 202": statistics.median(job.accepted - job.sent for job in jobs) * 1e3,
        **{stage: statistics.median(values) for stage, values in stages.items()},
    }


if __name__ == "__main__":
    run(bench, f"Empty jobs, two workers, {ROUNDS} rounds of {JOBS}")
