"""What processing_1 and processing_6 cost: the OpenCV form against the naive scipy one, and a volume.

python bench/bench_processing.py
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from medical_image_processing import samples
from medical_image_processing.dicom.read import read_series
from medical_image_processing.processing.base import Processor
from naive_liver import NAIVE


def milliseconds(work: Callable[[Any], object], inputs: list[Any], repeats: int) -> str:
    """Median with the 5th and 95th percentile of one call each over ``inputs``, ``repeats`` times."""
    work(inputs[0])
    taken = []
    for item in inputs * repeats:
        start = time.perf_counter()
        work(item)
        taken.append((time.perf_counter() - start) * 1000)
    low, middle, high = np.percentile(taken, (5, 50, 95))
    return f"{middle:7.2f} ms  (5 % {low:.2f}, 95 % {high:.2f})"


def main() -> None:
    folder = samples.abdominal_ct(samples.default_cache())
    image = read_series([path.read_bytes() for path in sorted(folder.iterdir())])
    slices = list(image.pixels)
    for algo_id, naive in NAIVE.items():
        processor = Processor.factory(algo_id)
        same = sum(np.array_equal(processor.run(one)["mask"], naive(one)) for one in slices)
        print(f"{algo_id}, {len(slices)} slices of 512x512, {same} the same to the pixel")
        print(f"  naive scipy, a slice   {milliseconds(naive, slices, 1)}")
        print(f"  OpenCV, a slice        {milliseconds(processor.run, slices, 10)}")
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(10):
            processor.run(image.pixels, image.meta())
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(f"  OpenCV, the volume     {milliseconds(processor.run, [image.pixels], 20)}")
        print(f"  cores used on a volume {cpu / wall:7.2f} of {os.cpu_count()}")


if __name__ == "__main__":
    main()
