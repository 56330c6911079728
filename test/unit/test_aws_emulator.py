"""The emulator of AWS leaves nothing behind, however its tests end; what stands before it converts as AWS does."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from aws_emulator import AwsEmulator
from aws_gateway import converted

START = """
import sys, time
from pathlib import Path
from aws_emulator import running_emulator
with running_emulator(Path(sys.argv[1])) as emulator:
    print(emulator.endpoint, flush=True)
    sys.stdin.read()
"""
GONE_WITHIN_S = 10.0


def answers(endpoint: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{endpoint}/_ministack/health", timeout=2, trust_env=False).is_success
    return False


@pytest.mark.needs("setpriv")
@pytest.mark.parametrize("end", ["killed", "closed"])
@pytest.mark.usefixtures("aws_emulator")  # has it installed
def test_it_ends_with_the_process_that_started_it(samples_cache: Path, tmp_path: Path, end: str) -> None:
    tests = str(Path(__file__).parents[1])
    starter = subprocess.Popen(
        [sys.executable, "-c", START, str(samples_cache)],
        env={"PYTHONPATH": tests, "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert starter.stdin is not None and starter.stdout is not None
        endpoint = starter.stdout.readline().strip()
        assert answers(endpoint)
        if end == "closed":
            starter.stdin.close()
            assert starter.wait(GONE_WITHIN_S) == 0
    finally:
        starter.kill()
        starter.wait()
    deadline = time.monotonic() + GONE_WITHIN_S
    while answers(endpoint):
        assert time.monotonic() < deadline, "the emulator outlived its tests"
        time.sleep(0.05)


def test_accounts_do_not_see_each_other(aws_emulator: AwsEmulator) -> None:
    one, other = aws_emulator.fresh_account(), aws_emulator.fresh_account()
    queues = {account: account.session().client("sqs", endpoint_url=account.endpoint) for account in (one, other)}
    queues[one].create_queue(QueueName="mine")
    assert not queues[other].list_queues().get("QueueUrls")
    assert one.account in queues[one].list_queues()["QueueUrls"][0]


@pytest.mark.parametrize(
    ("media_type", "accept", "passed"),
    [
        ("application/dicom", "application/dicom", b"\x89DICM"),
        ("application/dicom", "*/*", b"iURJQ00="),
        ("application/dicom", "application/json, application/dicom", b"iURJQ00="),
        ("image/png", "*/*", b"\xef\xbf\xbdDICM"),
        ("application/json", "application/dicom", None),
    ],
)
def test_what_stands_for_api_gateway_converts_content_as_its_guide_says(
    media_type: str, accept: str, passed: bytes | None
) -> None:
    body = b"\x89DICM" if media_type != "application/json" else b'{"error": {}}'
    assert converted(body, media_type, accept, frozenset({"application/dicom"})) == passed
