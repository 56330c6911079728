"""Signed URLs of results on S3 (ports.outputs), where signatures count and time passes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from aws_emulator import AwsEmulator, running_emulator
from medical_image_processing.engines.aws.outputs import LIFETIME_S, S3Outputs

BUCKET = "mip-output-outputs-test"
KEY = "liver/study-1/series 1/übung+a_j1.dcm"


@pytest.fixture(scope="module")
def strict_emulator(samples_cache: Path) -> Iterator[AwsEmulator]:
    with running_emulator(samples_cache, enforce_iam=True, movable_clock=True) as emulator:
        yield emulator


def test_o1_a_signed_url_opens_that_one_object_until_it_expires_and_nothing_else(
    strict_emulator: AwsEmulator,
) -> None:
    clients = strict_emulator.clients()
    s3 = clients.client("s3")

    async def store() -> None:
        await s3.call("create_bucket", Bucket=BUCKET)
        for key in (KEY, "other.dcm"):
            await s3.call("put_object", Bucket=BUCKET, Key=key, Body=key.encode())

    def status(method: str, url: str) -> int:
        return httpx.request(method, url, timeout=10, trust_env=False).status_code

    asyncio.run(store())
    url = S3Outputs(s3).sign(BUCKET, KEY, base_url="https://platform.example")
    opened = httpx.get(url, timeout=10, trust_env=False)
    assert (opened.status_code, opened.content) == (200, KEY.encode())
    assert "platform.example" not in url
    path = httpx.URL(url).raw_path.partition(b"?")[0].decode()
    assert status("GET", url.replace(path, f"/{BUCKET}/other.dcm")) == 403
    assert status("GET", url.partition("?")[0]) == 403
    assert status("DELETE", url) == 403
    strict_emulator.pass_time(LIFETIME_S - 60)
    assert status("GET", url) == 200
    strict_emulator.pass_time(120)
    assert status("GET", url) == 403
    clients.close()
