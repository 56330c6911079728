"""Orthanc, a real PACS, for the tests: on a port of its own, with a user, its files in a folder that goes."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pydicom

from free_ports import free_port

PROGRAM = "/usr/sbin/Orthanc"
PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
START_S = 30.0
USER, PASSWORD = "mip", "a password of the tests"


@dataclass(frozen=True)
class Orthanc:
    """The running server; ``base`` is its DICOMweb root."""

    base: str
    user: str
    password: str
    client: httpx.Client

    def authorization(self, password: str | None = None) -> str:
        """The header's value that lets in, or not, with another password."""
        return "Basic " + base64.b64encode(f"{self.user}:{password or self.password}".encode()).decode()

    def store(self, datasets: Iterable[Any]) -> None:
        """Put instances in, as a modality would."""
        for dataset in datasets:
            buffer = BytesIO()
            pydicom.dcmwrite(buffer, dataset)
            answer = self.client.post("/instances", content=buffer.getvalue())
            assert answer.status_code == 200, answer.text


@contextmanager
def running_orthanc(folder: Path, *, port: int = 0, dicom: dict[str, Any] | None = None) -> Iterator[Orthanc]:
    """An empty Orthanc below ``folder``, on a free port unless one is given; it goes with its parent.

    ``dicom``: what its configuration says of DIMSE, which is off otherwise.
    """
    port = port or free_port()
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomAlwaysAllowStore": True,
        "Plugins": [PLUGIN],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
    }
    if dicom is not None:
        settings |= {"DicomServerEnabled": True, **dicom}
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(settings))
    command = ["setpriv", "--pdeathsig", "TERM", PROGRAM, str(configuration)]
    with (folder / "orthanc.log").open("wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=(USER, PASSWORD), timeout=30) as client:
            _await_answer(client, server, folder / "orthanc.log")
            yield Orthanc(f"http://127.0.0.1:{port}/dicom-web", USER, PASSWORD, client)
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(folder / "storage", ignore_errors=True)


def _await_answer(client: httpx.Client, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            if client.get("/system").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("Orthanc does not start; it says: " + log.read_text(errors="replace")[-500:])
