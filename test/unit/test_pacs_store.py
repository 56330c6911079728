"""STOW-RS, to Orthanc and to servers that answer in every way the standard has, and some it has not."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from dicomweb_proxy import DicomwebProxy, running_proxy
from medical_image_processing.errors import MipError, PermanentError, Unavailable
from medical_image_processing.pacs.dicomweb import DicomwebArchive
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.retrieve import DicomwebServer, Limits
from medical_image_processing.pacs.store import DicomwebWriter
from orthanc import Orthanc, running_orthanc

FAILED = "00081198"
STORED = {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["ITS_UID"]}}]}}


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture
def proxy(orthanc: Orthanc) -> Iterator[DicomwebProxy]:
    with running_proxy(orthanc.base) as running:
        yield running


def image_file(tmp_path: Path) -> Path:
    image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.save_as(tmp_path / "image.dcm")
    return tmp_path / "image.dcm"


def store(server: DicomwebServer, file: Path, study: str = "") -> None:
    async def go() -> None:
        archive = DicomwebArchive(server, LinkSigner(), limits=Limits())
        try:
            await DicomwebWriter(archive).store(file, study)
        finally:
            await archive.close()

    asyncio.run(go())


@pytest.mark.needs("Orthanc", "setpriv")
def test_t3_storing_twice_leaves_one_and_sends_one(orthanc: Orthanc, proxy: DicomwebProxy, tmp_path: Path) -> None:
    file = image_file(tmp_path)
    for _ in range(2):
        store(DicomwebServer(proxy.base, orthanc.authorization()), file)
    uid = pydicom.dcmread(file).SOPInstanceUID
    found = orthanc.client.get("/dicom-web/instances", params={"SOPInstanceUID": uid}).json()
    assert len(found) == 1
    assert proxy.paths("POST") == ["/dicom-web/studies"]
    orthanc_id = orthanc.client.post("/tools/lookup", content=uid).json()[0]["ID"]
    assert orthanc.client.get(f"/instances/{orthanc_id}/file").content == file.read_bytes()


@contextmanager
def answering(status: int, answer: Any, *, keeps: bool = False) -> Iterator[DicomwebServer]:
    """It ``keeps`` what it is sent, so that it is found, or doesn't."""
    stored: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            uid = parse_qs(urlsplit(self.path).query)["SOPInstanceUID"][0]
            found = {"00080018": {"vr": "UI", "Value": [uid]}}
            self.send_response(200 if keeps and stored else 204)
            self.send_header("content-type", "application/dicom+json")
            self.end_headers()
            if keeps and stored and "offset=0" in self.path:
                self.wfile.write(json.dumps([found]).encode())

        def do_POST(self) -> None:
            sent = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                sent += self.rfile.read(size + 2)[:-2]
            uid = pydicom.dcmread(BytesIO(sent.partition(b"\r\n\r\n")[2])).SOPInstanceUID
            stored.append(uid)
            self.send_response(status)
            self.end_headers()
            said = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.wfile.write(said.replace(b"ITS_UID", uid.encode()))
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield DicomwebServer(f"http://127.0.0.1:{server.server_port}/dicom-web")
    finally:
        server.shutdown()
        server.server_close()


def failed(reason: int) -> dict[str, Any]:
    return {FAILED: {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}}]}}


@pytest.mark.parametrize(
    ("status", "answer", "code"),
    [
        (200, STORED, None),
        (202, [STORED], None),
        (200, {}, "PACS_UNAVAILABLE"),
        (200, b"", "PACS_UNAVAILABLE"),
        (200, b"<html>please log in</html>", "PACS_UNAVAILABLE"),
        (202, {"00081199": {"vr": "SQ", "Value": [{}]}}, "PACS_UNAVAILABLE"),
        (202, {"0008119A": failed(0xA700)[FAILED]}, "PACS_UNAVAILABLE"),
        (409, failed(0x0111), None),
        (409, failed(0xA700), "PACS_UNAVAILABLE"),
        (409, failed(0x0110), "PACS_UNAVAILABLE"),
        (200, failed(0x0122), "STORE_REFUSED"),
        (409, [failed(0xC000)], "STORE_REFUSED"),
        (409, {FAILED: "PATIENT^NAME"}, "STORE_REFUSED"),
        (400, b"PATIENT^NAME", "STORE_REFUSED"),
        (404, b"", "STORE_REFUSED"),
        (410, b"", "STORE_REFUSED"),
        (415, b"", "STORE_REFUSED"),
        (401, b"", "PACS_UNAVAILABLE"),
        (429, b"", "PACS_UNAVAILABLE"),
        (500, b"PATIENT^NAME", "PACS_UNAVAILABLE"),
        (302, b"", "PACS_REFUSED"),
    ],
)
def test_every_answer_is_understood(status: int, answer: Any, code: str | None, tmp_path: Path) -> None:
    with answering(status, answer) as server:
        if code is None:
            store(server, image_file(tmp_path))
            return
        with pytest.raises(MipError) as caught:
            store(server, image_file(tmp_path))
    assert caught.value.code == code and "PATIENT" not in caught.value.message
    assert isinstance(caught.value, Unavailable if code == "PACS_UNAVAILABLE" else PermanentError)


@pytest.mark.parametrize("answer", [{}, b"", b"<xml/>"])
def test_a_server_that_says_nothing_of_what_it_stored_is_asked(answer: Any, tmp_path: Path) -> None:
    with answering(200, answer, keeps=True) as server:
        store(server, image_file(tmp_path))


def test_a_result_of_another_study_than_its_job_s_is_not_sent(tmp_path: Path) -> None:
    file = image_file(tmp_path)
    with answering(200, STORED) as server:
        store(server, file, str(pydicom.dcmread(file).StudyInstanceUID))
        with pytest.raises(PermanentError) as refused:
            store(server, file, "1.2.3")
    assert refused.value.code == "STORE_REFUSED"


def test_a_server_that_is_down_is_tried_later(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        store(DicomwebServer("http://127.0.0.1:9"), image_file(tmp_path))
