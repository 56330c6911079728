"""How much of the machine the algorithm itself gets: N × bare CPU time / (cores × wall time).

200 different slices of a real CT. Bare CPU time is what ``Processor.run`` alone takes for them in a process
of its own; the second figure counts decoding and writing DICOM as useful work too.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness import PROCESSORS, Figure, chest_slices, job_body, linked, platform, process, register, run

SLICES = 200
ROUNDS = 5
TARGETS = {"processing_1": 0.60, "bench_slow": 0.90}


def bench() -> list[Figure]:
    """The two algorithms, one after the other on the same platform."""
    files = chest_slices(SLICES)
    figures = []
    with tempfile.TemporaryDirectory(prefix="mip-bench-pacs-") as folder:
        ids = linked(files, Path(folder))
        with platform(Path(folder)) as running, running.client() as client:
            for algo_id, target in TARGETS.items():
                register(client, algo_id, workers=os.cpu_count() or 1)
                _wall(running.base, algo_id, ids, "warm")
                rounds = ROUNDS if algo_id == "processing_1" else 2
                rows = [_once(running.base, algo_id, ids, f"r{number}") for number in range(rounds)]
                figures += _figures(algo_id, target, rows)
                client.call("DELETE", "admin", "algorithms", algo_id)
    return figures


def _once(base: str, algo_id: str, ids: Sequence[str], name: str) -> tuple[float, float, float]:
    """Bare CPU seconds of the runs, of everything, and the wall seconds through the platform."""
    bare = subprocess.run(
        [sys.executable, __file__, algo_id],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROCESSORS)},
    )
    runs, everything = map(float, bare.stdout.split())
    return runs, everything, _wall(base, algo_id, ids, name)


def _wall(base: str, algo_id: str, ids: Sequence[str], name: str) -> float:
    bodies = [job_body(f"{algo_id}-{name}-{image}", image) for image in ids]
    _, wall = asyncio.run(process(base, algo_id, bodies))
    return wall


def _figures(algo_id: str, target: float, rows: Sequence[tuple[float, float, float]]) -> list[Figure]:
    cores = os.cpu_count() or 1
    return [
        Figure(f"{algo_id}: bare CPU of one run", "ms", [runs / SLICES * 1e3 for runs, _, _ in rows]),
        Figure(f"{algo_id}: rate", "jobs/s", [SLICES / wall for _, _, wall in rows]),
        Figure(
            f"{algo_id}: efficiency",
            "of 1",
            [r / (cores * wall) for r, _, wall in rows],
            target,
            at_least=True,
        ),
        Figure(f"{algo_id}: … decoding, writing counted", "of 1", [e / (cores * wall) for _, e, wall in rows]),
    ]


def _bare(algo_id: str) -> None:
    """Print the CPU seconds of all slices: of ``run`` alone, and of reading, running and writing."""
    from medical_image_processing.dicom.read import read_image
    from medical_image_processing.dicom.secondary_capture import write_secondary_capture
    from medical_image_processing.processing.base import Processor, check_result

    processor = Processor.factory(algo_id)
    runs = everything = 0.0
    for number, file in enumerate([*chest_slices(5), *chest_slices(SLICES)]):
        began = time.process_time()
        image = read_image(file.read_bytes())
        decoded = time.process_time()
        result = processor.run(image.pixels, {"spacing": image.spacing, "modality": image.modality})
        ran = time.process_time()
        mask = check_result(result, image.pixels)
        write_secondary_capture(image, mask, job_id="b", algo_id=algo_id, revision=1, series_description="b")
        if number >= 5:  # the first ones pay for imports and caches
            runs += ran - decoded
            everything += time.process_time() - began
    print(runs, everything)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _bare(sys.argv[1])
    else:
        run(bench, f"Efficiency over {SLICES} slices of a chest CT, {os.cpu_count()} workers")
