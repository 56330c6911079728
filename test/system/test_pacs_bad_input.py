"""A PACS that sends what none should, before a whole platform: each a stated error, and its one worker lives on.

The server is a stand-in, since no real one can be made to do this. What takes half a minute by its limits, a byte
a second, is in ``test/unit/test_pacs_bundle.py`` with shorter ones.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
import pytest
from pydicom.data import get_testdata_file

from api_calls import Api, until
from medical_image_processing.dicom.identity import read_file_meta, read_identity
from platform_process import Platform

MOST_MEMORY_KIB = 600 * 1024
"""Of a worker, whatever it was sent; it has 2 GiB."""
MULTIPART = 'multipart/related; type="application/dicom"; boundary=edge'
STUDY = "1.2.826.0.1"

Answer = Callable[[BaseHTTPRequestHandler], None]


class Sent(NamedTuple):
    """A series: how many images it is said to have, and how it and each image of it are sent."""

    count: int
    whole: Answer
    uids: tuple[str, ...] = ()
    image: Answer | None = None


def says(
    status: int, *pieces: bytes, content_type: str = MULTIPART, length: int | None = None
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answers that; with ``length``, as if there were so many bytes."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("content-type", content_type)
        if length is not None:
            request.send_header("content-length", str(length))
        request.end_headers()
        for piece in pieces:
            request.wfile.write(piece)

    return answer


def parts(*images: bytes) -> list[bytes]:
    return [*(b"\r\n--edge\r\n\r\n" + image for image in images), b"\r\n--edge--"]


def ct(number: int = 0, **changes: Any) -> bytes:
    """A slice of its own place and UID."""
    image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.{10_000 + number}"
    image.ImagePositionPatient = [0, 0, 10_000 + number]
    for keyword, value in changes.items():
        setattr(image, keyword, value)
    return saved(image)


def saved(image: Any) -> bytes:
    buffer = BytesIO()
    image.save_as(buffer)
    return buffer.getvalue()


def file_of(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    assert path is not None
    return Path(str(path)).read_bytes()


def uid_of(data: bytes) -> str:
    identity = read_identity(BytesIO(data))
    return (identity.sop_uid if identity else "") or read_file_meta(BytesIO(data)).sop_instance_uid or "1.2.3"


def one_of(*images: bytes) -> Answer:
    """Each under its own address."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        uid = request.path.partition("?")[0].rpartition("/")[2]
        says(200, *parts(next(image for image in images if uid_of(image) == uid)))(request)

    return answer


def tiny_series(request: BaseHTTPRequestHandler) -> None:
    """5,000 slices of 8×8."""
    first = ct(Rows=8, Columns=8, PixelData=bytes(128))
    says(200, *(piece for n in range(5000) for piece in [b"\r\n--edge\r\n\r\n" + renumbered(first, n)]))(request)
    request.wfile.write(b"\r\n--edge--")


def renumbered(image: bytes, number: int) -> bytes:
    return image.replace(b"10000", b"%d" % (10_000 + number))


GOOD = [ct(number) for number in range(3)]
HUGE = [ct(number, Rows=65535, Columns=65535) for number in range(3)]
BODY = b"".join(parts(*GOOD))
SERIES: dict[str, Sent] = {
    "good": Sent(3, says(200, BODY)),
    "cut": Sent(3, says(200, BODY[: len(BODY) // 2])),
    "half a body": Sent(3, says(200, BODY[: len(BODY) // 2], length=len(BODY))),
    "wrong Content-Type": Sent(3, says(200, BODY, content_type="text/html")),
    "no such boundary": Sent(3, says(200, BODY.replace(b"--edge", b"--other"))),
    "boundary inside": Sent(3, says(200, *parts(GOOD[0][:3000], GOOD[0][3000:], GOOD[1]))),
    "65535 squared": Sent(3, says(200, *parts(*HUGE))),
    "5000 images": Sent(5000, tiny_series),
    "401": Sent(3, says(401)),
    "404": Sent(3, says(404)),
    "429": Sent(3, says(429)),
    "500": Sent(3, says(500, b"PATIENT^NAME")),
    "two patients": Sent(3, says(200, *parts(*GOOD[:2], ct(2, PatientID="another")))),
    "more than was said": Sent(2, says(200, BODY)),
    "fewer than was said": Sent(4, says(200, BODY), image=one_of(*GOOD)),
    "no images": Sent(0, says(404)),
}
OUTCOMES = {
    "cut": "PACS_UNAVAILABLE",
    "half a body": "PACS_UNAVAILABLE",
    "wrong Content-Type": "PACS_UNAVAILABLE",
    "no such boundary": "PACS_UNAVAILABLE",
    "boundary inside": "PACS_UNAVAILABLE",
    "65535 squared": "TOO_LARGE",
    "5000 images": None,
    "401": "PACS_UNAVAILABLE",
    "404": "PACS_UNAVAILABLE",
    "429": "PACS_UNAVAILABLE",
    "500": "PACS_UNAVAILABLE",
    "two patients": "INCONSISTENT_SERIES",
    "more than was said": "PACS_UNAVAILABLE",
    "fewer than was said": None,  # then the images are fetched as the server lists them
    "no images": "SERIES_NOT_FOUND",
}
# FIELD's seven files that can't be decoded; the second of them can by now.
FILES = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "UNDECODABLE_PIXELS",
    "JPEG-lossy.dcm": None,
    "badVR.dcm": "BAD_HEADER",
    "MR_truncated.dcm": "UNDECODABLE_PIXELS",
    "nested_priv_SQ.dcm": "BAD_HEADER",
    "meta_missing_tsyntax.dcm": "BAD_HEADER",
    "no_meta.dcm": "NOT_DICOM",
}
ANSWERS = {
    f"{STUDY}.{number}": sent
    for number, sent in enumerate(
        [
            *SERIES.values(),
            *(Sent(1, says(404), (uid_of(file_of(name)),), says(200, *parts(file_of(name)))) for name in FILES),
        ]
    )
}
UID = dict(zip([*SERIES, *FILES], ANSWERS, strict=True))


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/rs")
        asked = path.split("/")
        sent = ANSWERS.get(asked[2]) if len(asked) > 2 else None
        if path == "/studies":
            self._found([{"0020000D": uid} for uid in ANSWERS])
        elif path.endswith("/series"):
            self._found([{"0020000E": asked[2], "00201209": sent.count}] if sent and sent.count else [])
        elif path.endswith("/instances"):
            uids = (sent.uids or [uid_of(image) for image in GOOD]) if sent and sent.count else []
            self._found([{"0020000E": asked[2], "00080018": uid} for uid in uids])
        elif sent is not None:
            # What is asked for one by one is not to be had either, where the series isn't.
            ((sent.image or sent.whole) if "/instances/" in path else sent.whole)(self)
        self.close_connection = True

    def _found(self, items: list[dict[str, Any]]) -> None:
        listed = [{tag: {"Value": [value]} for tag, value in item.items()} for item in items]
        says(200, json.dumps(listed).encode(), content_type="application/dicom+json")(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    home = tmp_path_factory.mktemp("pacs-bad-input") / "home"
    try:
        with Platform(home, pacs=f"http://127.0.0.1:{server.server_port}/rs") as platform:
            api = Api(platform)
            api.register("processing_1")
            yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def worker(api: Api) -> int:
    """The one that there is."""
    series(api, "good")
    [pid] = workers(api)
    return pid


def workers(api: Api) -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                is_ours = f"PPid:\t{api.platform.pid}\n" in (process / "status").read_text()
                is_worker = b"medical_image_processing.worker" in (process / "cmdline").read_bytes()
            except OSError:
                continue
            if is_ours and is_worker:
                found.append(int(process.name))
    return found


def series(api: Api, name: str) -> str:
    pacs = {"study_id": UID[name], "series_id": UID[name], "scope": "series"}
    return api.process("processing_1", pacs=pacs)


def check_outcome(api: Api, job_id: str, code: str | None, worker: int) -> None:
    """As stated, at once or, where it may pass, for another attempt; and nothing else suffers."""
    if code == "PACS_UNAVAILABLE":
        until(lambda: (api.job(job_id)["error"] or {}).get("code") == code, f"{job_id} says {code}", wait_s=60)
        job = api.job(job_id)
        assert job["status"] in ("QUEUED", "RUNNING"), "it may pass, so it is tried again"
    else:
        job = api.until_ended(job_id, wait_s=60)
        assert ((job["error"] or {}).get("code"), job["attempts"]) == (code, 1)
    assert "PATIENT" not in str(job["error"])
    assert job["error"] is None or len(job["error"]["message"]) > 20
    if code == "PACS_UNAVAILABLE":
        assert "the PACS API answers" not in job["error"]["message"], "it says that something was wrong, not what"
    assert workers(api) == [worker], "its worker is another one"
    status = (Path("/proc") / str(worker) / "status").read_text()
    peak_kib = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_kib < MOST_MEMORY_KIB


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_series_that_is_sent_badly(api: Api, worker: int, name: str) -> None:
    check_outcome(api, series(api, name), OUTCOMES[name], worker)


@pytest.mark.parametrize("name", FILES)
def test_an_image_that_can_not_be_decoded(api: Api, worker: int, name: str) -> None:
    study = UID[name]
    pacs = {"study_id": study, "series_id": study, "image_id": ANSWERS[study].uids[0], "scope": "image"}
    check_outcome(api, api.process("processing_1", pacs=pacs), FILES[name], worker)


def test_good_jobs_succeed_after_all_that(api: Api, worker: int) -> None:
    job = api.until_ended(series(api, "good"), wait_s=120)
    assert job["status"] == "SUCCEEDED", job["error"]
    assert workers(api) == [worker]
