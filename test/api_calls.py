"""Calls a running platform as any HTTP and WebSocket client would, and waits, bounded, for what it promises."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from websockets.sync.client import ClientConnection, connect

from platform_process import Platform

WAIT_S = 60.0
IMAGE = {"study_id": "study-1", "series_id": "series-1", "image_id": "image-1", "scope": "image"}
SEED_BODY = {
    "image_uri": "123456789.dkr.ecr.us-east-1.amazonaws.com/mip-algos:processing_1",
    "cpu": 1024,
    "memory": 2048,
    "command": ["/app/worker.sh"],
}
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")


class Api:
    """One platform, called with these keys; none of them, where a test wants to see who is let in."""

    def __init__(
        self, platform: Platform, *, admin_key: str | None = "dev-admin", client_key: str | None = None
    ) -> None:
        self.platform = platform
        self.headers = {"x-admin-key": admin_key} if admin_key else {}
        self.client_key = client_key
        if client_key:
            self.headers["x-api-key"] = client_key
        self.http = httpx.Client(base_url=platform.base, timeout=30, trust_env=False, headers=self.headers)

    def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return self.http.post(path, json=body, headers=headers)

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.http.get(path, params=query)

    def register(self, algo_id: str, *, wait_for: str | None = "ACTIVE", **changes: Any) -> dict[str, Any]:
        """Register, and wait until it has a status; the record."""
        answer = self.post("/admin/algorithms", {"algo_id": algo_id, **SEED_BODY, **changes})
        assert answer.status_code in (200, 201), answer.text
        return self.until_status(algo_id, wait_for) if wait_for else answer.json()

    def record(self, algo_id: str) -> dict[str, Any]:
        answer = self.get(f"/admin/algorithms/{algo_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def until_status(self, algo_id: str, *statuses: str) -> dict[str, Any]:
        until(lambda: self.record(algo_id)["status"] in statuses, f"{algo_id} is {' or '.join(statuses)}")
        return self.record(algo_id)

    def until_gone(self, algo_id: str) -> None:
        until(lambda: self.get(f"/admin/algorithms/{algo_id}").status_code == 404, f"{algo_id} is gone")

    def process(
        self,
        algo_id: str,
        job_id: str | None = None,
        *,
        client_id: str | None = "client-1",
        pacs: dict[str, Any] = IMAGE,
        **parameters: Any,
    ) -> str:
        """Post a job that must be accepted; its id."""
        body = {"job_id": job_id, "client_id": client_id, "pacs": pacs, "parameters": parameters}
        answer = self.post(f"/process/{algo_id}", {name: value for name, value in body.items() if value})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def until_job(self, job_id: str, *statuses: str, wait_s: float = WAIT_S) -> dict[str, Any]:
        until(
            lambda: self.job(job_id)["status"] in statuses, f"{job_id} is {' or '.join(statuses)}", wait_s=wait_s
        )
        return self.job(job_id)

    def until_ended(self, job_id: str, *, wait_s: float = WAIT_S) -> dict[str, Any]:
        return self.until_job(job_id, *ENDED, wait_s=wait_s)

    def succeeds(self, algo_id: str, **how: Any) -> dict[str, Any]:
        """Process one image, which must succeed; the job."""
        job = self.until_ended(self.process(algo_id, **how))
        assert job["status"] == "SUCCEEDED", job["error"]
        return job

    def fails(self, algo_id: str, *, wait_s: float = WAIT_S, **how: Any) -> str:
        """Process one image, which must fail with a sentence for a person; the error's code."""
        job = self.until_ended(self.process(algo_id, **how), wait_s=wait_s)
        assert job["status"] == "FAILED" and job["result"] is None, job
        assert len(job["error"]["message"]) > 20
        return str(job["error"]["code"])

    def listen(self, client_id: str, **options: Any) -> AbstractContextManager[ClientConnection]:
        """The client's WebSocket, closed properly at the end."""
        headers = {"x-api-key": self.client_key} if self.client_key else {}
        address = f"{self.platform.env['WS_ENDPOINT']}?client_id={client_id}"
        return connect(address, additional_headers=headers, proxy=None, open_timeout=10, **options)

    def download(self, url: str) -> bytes:
        answer = httpx.get(url, trust_env=False, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.content


def receive(socket: ClientConnection, count: int = 1, *, wait_s: float = WAIT_S) -> list[dict[str, Any]]:
    """The next results."""
    return [json.loads(socket.recv(timeout=wait_s)) for _ in range(count)]


def until(condition: Callable[[], bool], what: str, *, wait_s: float = WAIT_S) -> None:
    """Wait until ``condition()`` holds; AssertionError after ``wait_s``."""
    end = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < end, f"not within {wait_s:.0f} s: {what}"
        time.sleep(0.02)


def error_of(answer: httpx.Response) -> str:
    """The code of an error answer, which must have the contract's shape."""
    error = answer.json()["error"]
    assert set(error) <= {"code", "message", "details"} and error["message"], error
    return str(error["code"])


def make_pacs(folder: Path, *, slices: Sequence[str] = ("image-1", "image-2", "image-3")) -> Path:
    """A PACS folder ``study-1/series-1`` of pydicom's CT_small, each slice with its own UID and place."""
    series = folder / "study-1/series-1"
    series.mkdir(parents=True)
    image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    for number, name in enumerate(slices):
        image.ImagePositionPatient = [0, 0, 5 * number]
        if number:
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.save_as(series / f"{name}.dcm")
    return folder


def add_to_pacs(folder: Path, name: str, source: str | Path) -> dict[str, str]:
    """Put a file into the PACS folder's study ``odd``; how a job names it."""
    target = folder / "odd/series" / f"{name}.dcm"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    return {"study_id": "odd", "series_id": "series", "image_id": name, "scope": "image"}
