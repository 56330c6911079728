"""The benches are run by hand; that they can be is seen here, and by mypy in ``mip test``."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.mark.parametrize("name", sorted(file.stem for file in BENCH.glob("*.py")))
def test_it_can_be_imported(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=BENCH, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
