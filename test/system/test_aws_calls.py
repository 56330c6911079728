"""What a job costs in calls of AWS stays what docs/costs.md says, however many algorithms and jobs there are."""

import subprocess
import sys
from pathlib import Path

import pytest

from aws_emulator import AwsEmulator

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "bench" / "aws_calls.py"), "--short"]
DEPTH, KEY_LOOK = "POST: SQS GetQueueAttributes", "PACS: DynamoDB GetItem"


def rows(text: str) -> dict[str, list[float]]:
    """A table's figures by the call."""
    kinds = ("| POST: ", "| worker: ", "| delivery: ", "| PACS: ", "| **POST to push", "| **PACS")
    lines = [line for line in text.splitlines() if line.startswith(kinds)]
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    return {name: list(map(float, values)) for name, *values in cells}


def test_a_job_makes_at_most_twelve_calls_and_three_for_its_image(aws_emulator: AwsEmulator) -> None:
    # The fixture skips where there is no emulator; the bench starts one of its own.
    ran = subprocess.run(COMMAND, capture_output=True, text=True, timeout=200, check=False)
    assert ran.stdout, ran.stderr
    measured, told = rows(ran.stdout), rows((ROOT / "docs" / "costs.md").read_text())
    always = [name for name in measured if name.startswith(("POST: ", "PACS: ")) and name not in (DEPTH, KEY_LOOK)]
    for name in always:
        assert measured[name] == told[name][:2], name
    assert measured["delivery: API Gateway PostToConnection"] == [1, 1]
    assert ran.returncode == 0, ran.stdout
    # The depth is looked at once in five seconds, a key once a minute, however many jobs there are.
    for total, apart, limit in (("POST to push", DEPTH, 12), ("PACS", KEY_LOOK, 3)):
        for together, now_and_then in zip(measured[total], measured.get(apart, [0, 0]), strict=True):
            assert together - now_and_then <= limit + 0.015, f"{total}: {ran.stdout}"  # figures are rounded
    assert told["POST to push"][0] - told[DEPTH][0] == pytest.approx(12)
