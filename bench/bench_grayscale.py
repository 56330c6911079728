"""What grayscale_cpp's threads are worth: its filter on real CT by 1, 2 and 4 of them, beside NumPy's.

python bench/bench_grayscale.py

Every figure is a whole run of the program, files included, as the platform starts it. The four take turns, so that
what else the machine does meets all of them; the ratios are those of each turn.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import harness
from harness import Figure
from medical_image_processing import samples
from medical_image_processing.dicom.read import read_series
from medical_image_processing.worker.native import INCLUDE
from medical_image_processing.worker.nrrd import Placement, create_volume, read_volume, write_header

Pixels = npt.NDArray[Any]
THREADS = (1, 2, 4)
SIGMA_PIXELS, SIGMA_UNITS, CENTER, WIDTH = 1.5, 40.0, 40.0, 400.0
GRAYSCALE = harness.ROOT / "containers" / "grayscale"


def numpy_grayscale(pixels: Pixels) -> Pixels:
    """The program's operation in NumPy, single precision, slice by slice."""
    radius = int(np.ceil(2 * SIGMA_PIXELS))
    shown = np.empty(pixels.shape, np.uint8)
    for slice_, out in zip(pixels.astype(np.float32), shown, strict=True):
        padded = np.pad(slice_, radius, mode="edge")
        total, weights = np.zeros_like(slice_), np.zeros_like(slice_)
        for dy in range(2 * radius + 1):
            for dx in range(2 * radius + 1):
                neighbour = padded[dy : dy + slice_.shape[0], dx : dx + slice_.shape[1]]
                distance = (dy - radius) ** 2 + (dx - radius) ** 2
                closeness = np.float32(np.exp(-distance / (2 * SIGMA_PIXELS**2)))
                weight = np.exp((neighbour - slice_) ** 2 * np.float32(-1 / (2 * SIGMA_UNITS**2))) * closeness
                total += weight * neighbour
                weights += weight
        gray = ((total / weights - (CENTER - 0.5)) / (WIDTH - 1) + 0.5) * 255
        out[...] = np.clip(np.floor(gray + 0.5), 0, 255)
    return shown


def run_program(program: Path, source: Path, threads: int) -> Path:
    """One run; the file it wrote."""
    result = source.with_name("out.nrrd")
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([str(program), str(source), str(result)], env=env, check=True)
    return result


def milliseconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def measure(program: Path, folder: Path, pixels: Pixels, name: str, turns: int) -> Sequence[Figure]:
    """NumPy and the program on ``pixels``, which must agree."""
    source = folder / "in.nrrd"
    source.unlink(missing_ok=True)
    create_volume(source, pixels.shape, pixels.dtype).pixels[...] = pixels
    write_header(source, pixels, Placement.of({}))
    shown = read_volume(run_program(program, source, 1), pixels.shape).astype(int)
    if (worst := int(np.abs(shown - numpy_grayscale(pixels)).max())) > 1:
        raise SystemExit(f"the program and NumPy differ by {worst} gray levels")
    taken: dict[str, list[float]] = {name: [] for name in ("numpy", *map(str, THREADS))}
    for _ in range(turns):
        taken["numpy"].append(milliseconds(lambda: numpy_grayscale(pixels)))
        for threads in THREADS:
            taken[str(threads)].append(milliseconds(lambda: run_program(program, source, threads)))  # noqa: B023
    one = taken["1"]
    figures = [Figure(f"{name}, NumPy", "ms", taken["numpy"])]
    figures += [Figure(f"{name}, OMP_NUM_THREADS={threads}", "ms", taken[str(threads)]) for threads in THREADS]
    figures.append(Figure(f"{name}, NumPy against one thread", "times", ratios(taken["numpy"], one)))
    figures += [
        Figure(f"{name}, one thread against {threads}", "times", ratios(one, taken[str(threads)]))
        for threads in THREADS[1:]
    ]
    return figures


def ratios(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """Turn by turn."""
    return [one / other for one, other in zip(slow, fast, strict=True)]


def bench() -> Sequence[Figure]:
    """A slice and a volume of the abdominal CT."""
    folder = samples.abdominal_ct(samples.default_cache())
    pixels = read_series([path.read_bytes() for path in sorted(folder.iterdir())]).pixels
    with tempfile.TemporaryDirectory(prefix="mip-bench-") as place:
        program = Path(place) / "grayscale"
        subprocess.run([str(GRAYSCALE / "build.sh"), str(INCLUDE), str(program)], check=True)
        return [
            *measure(program, Path(place), pixels[9:10], "a slice of 512²", turns=30),
            *measure(program, Path(place), pixels, "20 slices of 512²", turns=7),
        ]


if __name__ == "__main__":
    harness.run(bench, "grayscale_cpp: bilateral filter, 7×7 pixels, and window")
