"""All benches, one after the other, and one table of all figures at the end."""

from __future__ import annotations

import bench_accept
import bench_efficiency
import bench_overhead
import bench_recovery
import bench_register
import bench_scale
import bench_throughput
from harness import Figure, run

BENCHES = (
    bench_overhead,
    bench_throughput,
    bench_efficiency,
    bench_accept,
    bench_register,
    bench_scale,
    bench_recovery,
)


def bench() -> list[Figure]:
    """Every figure."""
    figures: list[Figure] = []
    for module in BENCHES:
        print(f"    {module.__name__} …", flush=True)
        figures += module.bench()
    return figures


if __name__ == "__main__":
    run(bench, "All benches of the platform; the algorithms' own: bench_processing.py, bench_dice.py")
