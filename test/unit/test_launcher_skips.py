"""A test that can't run is skipped by name, and in CI that is a failure."""

import subprocess
import sys
from pathlib import Path

import pytest

from platform_process import clean_environment

TESTS = Path(__file__).parents[1]
FILES = {
    "test_needs.py": "@pytest.mark.needs('sh', 'no-such-program')\ndef test_it(): pass",
    "test_skips.py": "def test_it(): pytest.skip('by hand')",
    "test_module.py": "pytest.skip('whole module', allow_module_level=True)",
    "test_fine.py": "def test_it(): pass\n\n\n@pytest.mark.xfail\ndef test_expected(): assert False",
}


@pytest.mark.parametrize(
    ("in_ci", "status", "outcomes"),
    [(False, 0, "1 passed, 3 skipped, 1 xfailed"), (True, 1, "1 failed, 1 passed, 1 xfailed, 2 errors")],
)
def test_skips(tmp_path: Path, in_ci: bool, status: int, outcomes: str) -> None:
    for name, body in FILES.items():
        (tmp_path / name).write_text(f"import pytest\n\n\n{body}\n")
    env = clean_environment(CI="true" if in_ci else "", PYTHONPATH=str(TESTS))
    options = ["-ra", "-p", "conftest", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", *options]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stdout
    assert outcomes in done.stdout
    for reason in ("no-such-program", "by hand", "whole module"):
        assert reason in done.stdout
