"""A real PACS API on a real socket, over a folder of small real images."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pydicom
import uvicorn
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from medical_image_processing.pacs.app import create_app
from medical_image_processing.pacs.folder import FolderIndex
from medical_image_processing.pacs.keys import HashedKeys
from medical_image_processing.pacs.links import LinkSigner

KEY = "the-key-of-algo-1"
HEADERS = {"x-api-key": KEY}


def write_image(
    path: Path, study: str = "", series: str = "", *, z: float | None = 0.0, extra: int = 0
) -> str:
    """pydicom's CT_small at ``path``, with UIDs of its own; its SOP Instance UID is returned.

    ``extra`` bytes of padding make it larger.
    """
    image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    image.StudyInstanceUID = study or generate_uid()
    image.SeriesInstanceUID = series or generate_uid()
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    if z is None:
        del image.ImagePositionPatient
    else:
        image.ImagePositionPatient = [0, 0, z]
    if extra:
        image.DataSetTrailingPadding = bytes(extra)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path)
    return str(image.SOPInstanceUID)


@dataclass
class Pacs:
    """The running PACS."""

    folder: Path
    port: int
    client: httpx.Client
    keys: HashedKeys
    index: FolderIndex
    accesses: list[tuple[str, str, str, str, str | None]] = field(default_factory=list)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers={**HEADERS, **headers})

    def link(self, path: str) -> str:
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["url"])

    def raw(self, target: str) -> tuple[int, bytes]:
        """Ask for exactly ``target``, as no client library would let one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.putrequest("GET", target, skip_accept_encoding=True)
            connection.putheader("x-api-key", KEY)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@contextmanager
def serve(
    folder: Path,
    *,
    links: LinkSigner | None = None,
    cache_db: Path | None = None,
    root_path: str = "",
    allow_origins: tuple[str, ...] = (),
) -> Iterator[Pacs]:
    """A PACS over ``folder`` on a free port of the loopback interface."""
    index = FolderIndex(folder, cache_db, rescan_s=60, min_interval_s=0.01)
    keys = HashedKeys({HashedKeys.digest(KEY): "algo_1"})
    accesses: list[tuple[str, str, str, str, str | None]] = []
    app: Any = create_app(
        index,
        keys,
        links or LinkSigner(),
        lambda *access: accesses.append(access),
        allow_origins=allow_origins,
    )
    config = uvicorn.Config(app, lifespan="off", log_level="error", root_path=root_path)
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    index.start()
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=15) as client:
            yield Pacs(folder, port, client, keys, index, accesses)
    finally:
        server.should_exit = True
        thread.join(15)
        listening.close()
        index.close()


def eventually(condition: Any, timeout_s: float = 10.0) -> None:
    """Wait until ``condition()`` holds; fails after ``timeout_s``."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)
