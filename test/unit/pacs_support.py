"""A real PACS API on a real socket, over a folder of small real images."""

from __future__ import annotations

import asyncio
import atexit
import functools
import http.client
import itertools
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pydicom
import uvicorn
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from medical_image_processing.dicom.picture import thumbnail_png
from medical_image_processing.dicom.read import read_image
from medical_image_processing.pacs.app import PacsApp, create_app
from medical_image_processing.pacs.cache import InstanceCache
from medical_image_processing.pacs.deidentified import DeidentifiedArchive
from medical_image_processing.pacs.dicomweb import DicomwebArchive
from medical_image_processing.pacs.folder import FolderIndex
from medical_image_processing.pacs.folder_archive import FolderArchive
from medical_image_processing.pacs.keys import HashedKeys
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.retrieve import DicomwebServer, Limits
from medical_image_processing.pacs.thumbnails import Thumbnails
from medical_image_processing.ports.pseudonyms import Pseudonyms

_MOUNTED: dict[str, Any] = {}
_NUMBERS = itertools.count(1)
KEY = "the-key-of-algo-1"
HEADERS = {"x-api-key": KEY}


def write_image(path: Path, study: str = "", series: str = "", *, z: float | None = 0.0, extra: int = 0) -> str:
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
    mount: str
    client: httpx.Client
    keys: HashedKeys
    index: FolderIndex | None
    accesses: list[tuple[str, list[tuple[str, str, str]], str | None]] = field(default_factory=list)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers={**HEADERS, **headers})

    def search(self, search: Any, **more: Any) -> httpx.Response:
        return self.client.post("/series/search", json={"search": search, **more}, headers=HEADERS)

    def found(self, search: str, **more: Any) -> tuple[list[str], bool]:
        """Series Instance UIDs, and whether these are not all."""
        answer = self.search(search, **more)
        assert answer.status_code == 200, answer.text
        return [one["series_id"] for one in answer.json()], answer.headers["x-more-series"] == "true"

    def link(self, path: str) -> str:
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["url"])

    def here(self, url: httpx.URL) -> httpx.URL:
        """A link that another run gave, at this one's address."""
        token = url.path.rpartition("/")[2]
        return url.copy_with(host="127.0.0.1", port=self.port, path=f"{self.mount}/files/{token}")

    def raw(self, target: str) -> tuple[int, bytes]:
        """Ask for exactly ``target``, as no client library would let one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.putrequest("GET", self.mount + target, skip_accept_encoding=True)
            connection.putheader("x-api-key", KEY)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


async def _dispatch(scope: Any, receive: Any, send: Any) -> None:
    mount = "/" + scope["path"].split("/")[1]
    await _MOUNTED[mount]({**scope, "root_path": mount}, receive, send)


@functools.cache
def _server_port() -> int:
    """Start the one server of the test process; starting one for each test would take most of the time."""
    server = uvicorn.Server(uvicorn.Config(_dispatch, lifespan="off", log_level="error"))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(10)

    atexit.register(stop)
    return int(listening.getsockname()[1])


def draw(data: bytes) -> bytes:
    """A thumbnail."""
    return thumbnail_png(read_image(data))


async def draw_here(data: bytes) -> bytes:
    """The same, without the process beside this one that a platform has for it."""
    return await asyncio.to_thread(draw, data)


@contextmanager
def serve(
    folder: Path,
    *,
    links: LinkSigner | None = None,
    cache_db: Path | None = None,
    allow_origins: tuple[str, ...] = (),
    for_operator: bool = False,
) -> Iterator[Pacs]:
    """A PACS over ``folder``, on the loopback interface; the operator's describes and draws, too."""
    index = FolderIndex(folder, cache_db, rescan_s=60, min_interval_s=0.01)
    keys = HashedKeys({HashedKeys.digest(KEY): "algo_1"})
    accesses: list[tuple[str, list[tuple[str, str, str]], str | None]] = []

    async def on_access(algo: str, images: Sequence[tuple[str, str, str]], job_id: str | None) -> None:
        accesses.append((algo, list(images), job_id))

    port, mount = _server_port(), f"/pacs-{next(_NUMBERS)}"
    _MOUNTED[mount] = create_app(
        index,
        keys,
        links or LinkSigner(),
        on_access,
        allow_origins=allow_origins,
    )
    if for_operator:
        archive = FolderArchive(index, links or LinkSigner())
        _MOUNTED[mount] = PacsApp(
            archive,
            keys,
            on_access,
            allow_origins=allow_origins,
            describe=archive.describe,
            thumbnails=Thumbnails(archive, draw_here),
        )
    index.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}{mount}", timeout=15) as client:
            yield Pacs(folder, port, mount, client, keys, index, accesses)
    finally:
        del _MOUNTED[mount]
        index.close()


@contextmanager
def serve_dicomweb(
    server: DicomwebServer, *, cache: InstanceCache | None = None, limits: Limits | None = None
) -> Iterator[Pacs]:
    """The PACS API in front of a DICOMweb server."""
    keys = HashedKeys({HashedKeys.digest(KEY): "algo_1"})
    accesses: list[tuple[str, list[tuple[str, str, str]], str | None]] = []

    async def on_access(algo: str, images: Sequence[tuple[str, str, str]], job_id: str | None) -> None:
        accesses.append((algo, list(images), job_id))

    archive = DicomwebArchive(server, LinkSigner(), cache=cache, limits=limits or Limits())
    port, mount = _server_port(), f"/pacs-{next(_NUMBERS)}"
    _MOUNTED[mount] = PacsApp(
        archive,
        keys,
        on_access,
        serve_file=archive.serve,
        describe=archive.describe,
        thumbnails=Thumbnails(archive, draw_here),
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}{mount}", timeout=15) as asking:
            yield Pacs(Path(), port, mount, asking, keys, None, accesses)
    finally:
        del _MOUNTED[mount]


@contextmanager
def serve_deidentified(archive: Any, pseudonyms: Pseudonyms) -> Iterator[Pacs]:
    """The PACS API over ``archive`` as an algorithm has it that may not know the patient."""
    keys = HashedKeys({HashedKeys.digest(KEY): "algo_1"})
    accesses: list[tuple[str, list[tuple[str, str, str]], str | None]] = []

    async def on_access(algo: str, images: Sequence[tuple[str, str, str]], job_id: str | None) -> None:
        accesses.append((algo, list(images), job_id))

    given = DeidentifiedArchive(archive, pseudonyms, LinkSigner())
    port, mount = _server_port(), f"/pacs-{next(_NUMBERS)}"
    _MOUNTED[mount] = PacsApp(given, keys, on_access, serve_file=given.serve_or(archive.serve))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}{mount}", timeout=15) as asking:
            yield Pacs(Path(), port, mount, asking, keys, None, accesses)
    finally:
        del _MOUNTED[mount]
        given.close()


def eventually(condition: Any, timeout_s: float = 10.0) -> None:
    """Wait until ``condition()`` holds; fails after ``timeout_s``."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)
