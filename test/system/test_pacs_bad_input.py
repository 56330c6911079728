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
from urllib.parse import parse_qsl

import pydicom
import pytest
from pydicom.data import get_testdata_file

from api_calls import Api, until
from medical_image_processing.dicom.identity import read_uids
from platform_process import Platform

MOST_MEMORY_KIB = 600 * 1024
"""Of a worker, whatever it was sent; it has 2 GiB."""
MULTIPART = 'multipart/related; type="application/dicom"; boundary=edge'
STUDY = "1.2.826.0.1"
ASKED = b"1.2.826.0.1.999"
"""Where an image has this UID, it is sent with that of the study asked for, which is as long."""
STUDY_TAG, SERIES_TAG, INSTANCE_TAG, COUNT_TAG = "0020000D", "0020000E", "00080018", "00201209"
TAGS = {"StudyInstanceUID": STUDY_TAG, "SeriesInstanceUID": SERIES_TAG, "SOPInstanceUID": INSTANCE_TAG}

Answer = Callable[[BaseHTTPRequestHandler], None]


class Sent(NamedTuple):
    """A series: how many images it is said to have, and how it and each image of it are sent."""

    count: int
    whole: Answer
    image: Answer | None = None


def says(
    status: int, *pieces: bytes, content_type: str = MULTIPART, length: int | None = None
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answers that, as of the study asked for; with ``length``, as if there were so many bytes."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("content-type", content_type)
        if length is not None:
            request.send_header("content-length", str(length))
        request.end_headers()
        for piece in pieces:
            request.wfile.write(piece.replace(ASKED, study_of(request).encode()))

    return answer


def study_of(request: BaseHTTPRequestHandler) -> str:
    """What was asked for; "" where all studies were."""
    return "".join(request.path.partition("?")[0].split("/")[3:4])


def parts(*images: bytes) -> list[bytes]:
    return [*(b"\r\n--edge\r\n\r\n" + image for image in images), b"\r\n--edge--"]


def ct(number: int = 0, **changes: Any) -> bytes:
    """A slice of its own place and UID."""
    image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    image.StudyInstanceUID = image.SeriesInstanceUID = ASKED.decode()
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


def uids_of(data: bytes) -> tuple[str, str, str]:
    uids = read_uids(data)
    assert uids is not None
    return uids


def one_of(*images: bytes) -> Answer:
    """Each under its own address."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        uid = request.path.partition("?")[0].rpartition("/")[2]
        says(200, *parts(next(image for image in images if uids_of(image)[2] == uid)))(request)

    return answer


def one_file(request: BaseHTTPRequestHandler) -> None:
    """Of the seven, under its own address."""
    asked = tuple(request.path.partition("?")[0].split("/")[3::2])
    name = next(name for name in FILES if UIDS[name] == asked)
    says(200, *parts(file_of(name)))(request)


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
    "another study": Sent(3, says(200, BODY.replace(ASKED, b"1.2.826.0.1.998"))),
    "an image sent twice": Sent(3, says(200, *parts(GOOD[0], GOOD[1], GOOD[0]))),
    "400": Sent(3, says(400)),
    "401": Sent(3, says(401)),
    "404": Sent(3, says(404)),
    "429": Sent(3, says(429)),
    "500": Sent(3, says(500, b"PATIENT^NAME")),
    "two patients": Sent(3, says(200, *parts(*GOOD[:2], ct(2, PatientID="another")))),
    "more than was said": Sent(2, says(200, BODY)),
    "fewer than was said": Sent(4, says(200, BODY)),
    "one left out": Sent(3, says(200, *parts(*GOOD[:2])), image=one_of(*GOOD)),
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
    "another study": "PACS_WRONG_IMAGE",
    "an image sent twice": "PACS_UNAVAILABLE",
    "400": "PACS_REFUSED",
    "401": "PACS_UNAVAILABLE",
    "404": "PACS_UNAVAILABLE",
    "429": "PACS_UNAVAILABLE",
    "500": "PACS_UNAVAILABLE",
    "two patients": "INCONSISTENT_SERIES",
    "more than was said": "PACS_UNAVAILABLE",
    "fewer than was said": "PACS_UNAVAILABLE",
    "one left out": None,  # it is fetched by itself
    "no images": "SERIES_NOT_FOUND",
}
# FIELD's seven files that can't be decoded; the second of them can by now. The last three have no UIDs in their
# data sets: nobody knows whose they are, so they are refused before anything reads them. Such an answer may also
# be one that went wrong once, so it is asked for again. From a folder they are read: test_bad_input.py.
FILES = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "UNDECODABLE_PIXELS",
    "JPEG-lossy.dcm": None,
    "badVR.dcm": "BAD_HEADER",
    "MR_truncated.dcm": "UNDECODABLE_PIXELS",
    "nested_priv_SQ.dcm": "PACS_UNAVAILABLE",
    "meta_missing_tsyntax.dcm": "PACS_UNAVAILABLE",
    "no_meta.dcm": "PACS_UNAVAILABLE",
}
UNNAMED = ("nested_priv_SQ.dcm", "meta_missing_tsyntax.dcm", "no_meta.dcm")
MAY_PASS = ("PACS_UNAVAILABLE", "PACS_WRONG_IMAGE")
UIDS = {
    name: (f"{STUDY}.{number}", f"{STUDY}.{number}", f"{STUDY}.10000")
    for number, name in enumerate([*SERIES, *UNNAMED], 100)
}
UIDS |= {name: uids_of(file_of(name)) for name in FILES if name not in UNNAMED}
# By study; two of the files are of one series.
ANSWERS = {UIDS[name][0]: sent for name, sent in SERIES.items()}
LISTED: dict[str, list[tuple[str, str, str]]] = {
    UIDS[name][0]: [(*UIDS[name][:2], uids_of(image)[2]) for image in GOOD] if sent.count else []
    for name, sent in SERIES.items()
}
for _name in FILES:
    LISTED.setdefault(UIDS[_name][0], []).append(UIDS[_name])
    ANSWERS[UIDS[_name][0]] = Sent(len(LISTED[UIDS[_name][0]]), says(404), one_file)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/rs")
        study = study_of(self)
        sent, listed = ANSWERS.get(study), LISTED.get(study, [])
        if path == "/studies":
            self._found([{STUDY_TAG: uid} for uid in ANSWERS])
        elif path.endswith("/series"):
            series = sorted({uids[:2] for uids in listed})
            count = sent.count if sent else 0
            self._found([{STUDY_TAG: one[0], SERIES_TAG: one[1], COUNT_TAG: count} for one in series])
        elif path.endswith("/instances"):
            self._found([dict(zip(TAGS.values(), uids, strict=True)) for uids in listed])
        elif sent is not None:
            # What is asked for one by one is not to be had either, where the series isn't.
            ((sent.image or sent.whole) if "/instances/" in path else sent.whole)(self)
        self.close_connection = True

    def _found(self, items: list[dict[str, Any]]) -> None:
        """Those that match, on the page asked for."""
        query = dict(parse_qsl(self.path.partition("?")[2]))
        wanted = {tag: query[keyword] for keyword, tag in TAGS.items() if keyword in query}
        items = [item for item in items if wanted.items() <= item.items()]
        offset = int(query.get("offset", 0))
        page = items[offset:][: int(query.get("limit", len(items)))]
        listed = [{tag: {"Value": [value]} for tag, value in item.items()} for item in page]
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
    study, series_uid, _ = UIDS[name]
    pacs = {"study_id": study, "series_id": series_uid, "scope": "series"}
    return api.process("processing_1", pacs=pacs)


def image_of(api: Api, name: str) -> str:
    study, series_uid, image_uid = UIDS[name]
    pacs = {"study_id": study, "series_id": series_uid, "image_id": image_uid, "scope": "image"}
    return api.process("processing_1", pacs=pacs)


def check_outcome(api: Api, job_id: str, code: str | None, worker: int) -> None:
    """As stated, at once or, where it may pass, for another attempt; and nothing else suffers."""
    if code in MAY_PASS:
        job: dict[str, Any] = {}

        def says_it() -> bool:
            job.update(api.job(job_id))
            return bool(job["error"]) and job["error"]["code"] == code

        until(says_it, f"{job_id} says {code}", wait_s=60)
        assert job["status"] in ("QUEUED", "RUNNING"), "it may pass, so it is tried again"
    else:
        job = api.until_ended(job_id, wait_s=60)
        assert ((job["error"] or {}).get("code"), job["attempts"]) == (code, 1)
    assert "PATIENT" not in str(job["error"])
    assert job["error"] is None or len(job["error"]["message"]) > 20
    if code in (*MAY_PASS, "PACS_REFUSED"):
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
    job_id = image_of(api, name)
    check_outcome(api, job_id, FILES[name], worker)
    if name in UNNAMED:
        assert "without a Study, Series and SOP Instance UID" in api.job(job_id)["error"]["message"]


def test_what_could_have_passed_is_given_up_in_the_end(api: Api, worker: int) -> None:
    jobs = {name: series(api, name) for name in ("another study", "429")}
    jobs["no_meta.dcm"] = image_of(api, "no_meta.dcm")
    ended = {name: api.until_ended(job_id, wait_s=120)["error"] for name, job_id in jobs.items()}
    assert {error["code"] for error in ended.values()} == {"DEAD_LETTERED"}
    assert "of another Study, Series or SOP Instance UID" in ended["another study"]["message"]
    assert "it answers 429" in ended["429"]["message"]
    assert "without a Study, Series and SOP Instance UID" in ended["no_meta.dcm"]["message"]
    assert workers(api) == [worker]


def test_good_jobs_succeed_after_all_that(api: Api, worker: int) -> None:
    job = api.until_ended(series(api, "good"), wait_s=120)
    assert job["status"] == "SUCCEEDED", job["error"]
    assert workers(api) == [worker]
