"""What a Segmentation and a Structured Report of a real series cost: chest CT, 236 slices of 512².

python bench/bench_seg.py

Aim: the Segmentation in under 1 s. The first in a process also imports highdicom, which is told apart.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from medical_image_processing import samples
from medical_image_processing.dicom.derived import Making
from medical_image_processing.dicom.image import Image
from medical_image_processing.dicom.measurement_report import write_measurement_report
from medical_image_processing.dicom.read import read_series
from medical_image_processing.dicom.segmentation import write_segmentation
from medical_image_processing.dicom.segments import Segment, Segments

AIM_S = 1.0
IMPORT = """
import medical_image_processing.worker.runner
from pathlib import Path
from time import perf_counter
def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
before, begun = resident_mib(), perf_counter()
import highdicom
print(perf_counter() - begun, resident_mib() - before)
"""


def seconds(work: Callable[[], bytes], repeats: int = 15) -> str:
    """Wall time with its spread, and the CPU time of the fastest."""
    work()
    wall, cpu = [], []
    for _ in range(repeats):
        wall_begun, cpu_begun = time.perf_counter(), time.process_time()
        size = len(work())
        wall.append(time.perf_counter() - wall_begun)
        cpu.append(time.process_time() - cpu_begun)
    low, middle, high = np.percentile(wall, (5, 50, 95))
    return f"{middle:.2f} s  (5 % {low:.2f}, 95 % {high:.2f}); CPU {min(cpu):.2f} s; {size / 1e6:.2f} MB"


def main() -> None:
    folder = samples.chest_ct(samples.default_cache())
    image: Image = read_series([path.read_bytes() for path in sorted(folder.iterdir())])
    making = Making("job", "bench", 1, "bench")
    body = Segments((image.pixels > -300).astype(np.uint8), (Segment("body"),))
    layers = np.digitize(image.pixels, (-300, 0, 200)).astype(np.uint8)
    three = Segments(layers, tuple(Segment(name) for name in ("fat", "soft tissue", "bone")))
    took, mib = map(float, subprocess.check_output([sys.executable, "-c", IMPORT], text=True).split())
    rows = {
        "SEG, one segment on every slice": lambda: write_segmentation(image, body, making),
        "SEG, three segments, 708 frames": lambda: write_segmentation(image, three, making),
        "SR of one segment": lambda: write_measurement_report(image, body, making),
    }
    print(f"{'import of highdicom in a worker':34} {took:.2f} s, {mib:.0f} MiB")
    for name, work in rows.items():
        print(f"{name:34} {seconds(work)}")
    print(f"aim: the first in {AIM_S:.0f} s")


if __name__ == "__main__":
    main()
