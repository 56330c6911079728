"""What a job costs in calls of AWS stays what docs/costs.md says, however many algorithms and jobs there are."""

import subprocess
import sys
from pathlib import Path

from aws_emulator import AwsEmulator

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "bench" / "aws_calls.py"), "--short"]


def rows(text: str) -> dict[str, list[float]]:
    """A table's figures by the call."""
    lines = [
        line
        for line in text.splitlines()
        if line.startswith(("| POST: ", "| worker: ", "| delivery: ", "| **together"))
    ]
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    return {name: list(map(float, values)) for name, *values in cells}


def test_a_job_makes_at_most_twelve_calls(aws_emulator: AwsEmulator) -> None:
    # The fixture skips where there is no emulator; the bench starts one of its own.
    ran = subprocess.run(COMMAND, capture_output=True, text=True, timeout=200, check=False)
    assert ran.stdout, ran.stderr
    measured, told = rows(ran.stdout), rows((ROOT / "docs" / "costs.md").read_text())
    for name in (name for name in measured if name.startswith("POST") and "GetQueueAttributes" not in name):
        assert measured[name] == told[name][:2], name
    # A job that takes long on a busy machine is reported RUNNING, too; the figures are the bench's.
    assert measured["together"][0] <= 14
    assert measured["delivery: API Gateway PostToConnection"] == [1, 1]
