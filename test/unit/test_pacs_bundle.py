"""A whole series as one download: from Orthanc, from a folder, from the cache, and to a worker."""

from __future__ import annotations

import json
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pacs_support import KEY, Pacs, serve, serve_dicomweb, write_image
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from dicomweb_proxy import DicomwebProxy, running_proxy
from medical_image_processing.dicom.multipart import Kind, Parts, location
from medical_image_processing.dicom.read import drain_series
from medical_image_processing.entrypoints.pacs_options import PacsOptions
from medical_image_processing.errors import InputRejected, MipError, Unavailable
from medical_image_processing.model.job import JobMessage, PacsRef, Scope
from medical_image_processing.pacs.cache import InstanceCache
from medical_image_processing.pacs.retrieve import DicomwebServer, Limits
from medical_image_processing.worker.arriving import ArrivingFiles, close_files
from medical_image_processing.worker.http import HttpClient
from medical_image_processing.worker.pacs import PacsClient, by_series
from orthanc import Orthanc, running_orthanc

pytestmark = pytest.mark.needs("Orthanc", "setpriv")

STUDY, SERIES = "1.2.3.4", "1.2.3.4.5"
COUNT = 12


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        running.store(_slices(SERIES, COUNT))
        yield running


@pytest.fixture
def proxy(orthanc: Orthanc) -> Iterator[DicomwebProxy]:
    with running_proxy(orthanc.base) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> InstanceCache:
    return InstanceCache(tmp_path / "cache", 50_000_000)


@pytest.fixture
def pacs(orthanc: Orthanc, proxy: DicomwebProxy, cache: InstanceCache) -> Iterator[Pacs]:
    with serve_dicomweb(DicomwebServer(proxy.base, orthanc.authorization()), cache=cache) as running:
        yield running


def _slices(series: str, count: int, study: str = STUDY) -> list[Any]:
    return [_slice(series, number, study) for number in range(count)]


def _slice(series: str, number: int, study: str = STUDY) -> Any:
    image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    image.StudyInstanceUID, image.SeriesInstanceUID = study, series
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.ImagePositionPatient, image.InstanceNumber = [0, 0, float(number)], number + 1
    return image


def _bytes(image: Any) -> bytes:
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, image)
    return buffer.getvalue()


def _bundle(pacs: Pacs, study: str = STUDY, series: str = SERIES, **headers: str) -> dict[str, bytes]:
    """Keys and content of the series' images."""
    answer = pacs.get(f"/studies/{study}/images?series_id={series}&bundle=1", **headers)
    assert answer.status_code == 200, answer.text
    parts, found, key = Parts(answer.headers["content-type"]), {}, ""  # type: Parts, dict[str, bytes], str
    for kind, data in parts.feed(answer.content):
        if kind is Kind.BEGIN:
            key = location(data)
            found[key] = b""
        else:
            found[key] += data
    parts.finish()
    assert int(answer.headers["x-image-count"]) == len(found)
    return found


def _client(pacs: Pacs, max_bytes: int = 2**30) -> PacsClient:
    base = f"http://127.0.0.1:{pacs.port}{pacs.mount}"
    return PacsClient(HttpClient(), base=base, key=KEY, max_bytes=max_bytes)


def _job(study: str = STUDY, series: str = SERIES) -> JobMessage:
    pacs = {"study_id": study, "series_id": series, "scope": "series"}
    return JobMessage.model_validate({"job_id": "j", "client_id": "c", "algo_id": "algo_1", "pacs": pacs})


def test_a_series_is_one_request_and_a_second_time_only_a_check(pacs: Pacs, proxy: DicomwebProxy) -> None:
    first = _bundle(pacs)
    assert len(first) == COUNT
    for key, content in first.items():
        assert pydicom.dcmread(BytesIO(content)).SOPInstanceUID == key.rpartition("/")[2]
    assert proxy.paths() == [f"/dicom-web/studies/{STUDY}/series", f"/dicom-web/studies/{STUDY}/series/{SERIES}"]
    proxy.asked.clear()
    assert _bundle(pacs) == first
    assert proxy.paths() == [f"/dicom-web/studies/{STUDY}/series"]


def test_a4_every_image_is_on_record_before_its_bytes_leave_from_the_cache_as_well(pacs: Pacs) -> None:
    for job in ("job-1", "job-2"):
        pacs.accesses.clear()
        keys = _bundle(pacs, **{"x-job-id": job}).keys()
        noted = [image for _, images, _ in pacs.accesses for image in images]
        assert sorted("/".join(image) for image in noted) == sorted(keys)
        assert {(algo, whose) for algo, _, whose in pacs.accesses} == {("algo_1", job)}


def test_a1_a_series_needs_the_key(pacs: Pacs) -> None:
    path = f"/studies/{STUDY}/images?series_id={SERIES}&bundle=1"
    assert pacs.client.get(path).status_code == 401
    assert pacs.client.get(path, headers={"x-api-key": "wrong"}).status_code == 401
    assert pacs.accesses == []


def test_earlier_clients_see_what_they_always_saw(pacs: Pacs) -> None:
    answer = pacs.get(f"/studies/{STUDY}/images?series_id={SERIES}")
    assert answer.headers["content-type"] == "application/json"
    assert [set(image) for image in answer.json()] == [{"url", "key"}] * COUNT


def test_a_series_that_grew_is_fetched_again(pacs: Pacs, orthanc: Orthanc) -> None:
    series = generate_uid()
    orthanc.store(_slices(series, 3))
    assert len(_bundle(pacs, series=series)) == 3
    orthanc.store([_slice(series, 3)])
    assert len(_bundle(pacs, series=series)) == 4


def test_a_damaged_entry_is_fetched_again(pacs: Pacs, proxy: DicomwebProxy, tmp_path: Path) -> None:
    first = _bundle(pacs)
    largest = max((tmp_path / "cache").iterdir(), key=lambda file: file.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    proxy.asked.clear()
    assert _bundle(pacs) == first
    assert len(proxy.paths()) == 2 and "/instances/" in proxy.paths()[1]


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", f"/CN={name}", "-days", "1"]
    command += ["-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.mark.needs("openssl")
def test_a_server_that_wants_a_client_certificate_gets_it_for_searches_and_images(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    ours, own_key = _certificate(tmp_path, "mip")
    theirs, their_key = _certificate(tmp_path, "localhost")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(theirs, their_key)
    password = tmp_path / "password"
    password.write_text(orthanc.password)
    with running_proxy(orthanc.base, tls) as proxy:
        options = PacsOptions(proxy.base, user=orthanc.user, password_file=password, ca_file=theirs)
        without, with_it = options.server(), replace(options, client_certificate=ours, client_key=own_key).server()
        assert without is not None and with_it is not None
        with serve_dicomweb(with_it) as pacs:
            assert STUDY in pacs.get("/studies").json()
            assert len(_bundle(pacs)) == COUNT
        with serve_dicomweb(without) as pacs:
            assert pacs.get("/studies").status_code == 503
        with serve_dicomweb(DicomwebServer(proxy.base, with_it.authorization)) as pacs:
            assert pacs.get("/studies").status_code == 503, "nobody vouches for the server"


def test_single_images_come_from_the_cache_too(pacs: Pacs, proxy: DicomwebProxy) -> None:
    key, content = next(iter(_bundle(pacs).items()))
    link = pacs.link(f"/studies/{STUDY}/images/{SERIES}/{key.rpartition('/')[2]}")
    proxy.asked.clear()
    assert httpx.get(link).content == content
    assert proxy.asked == []


def test_what_is_not_there_is_said_to_be_so(pacs: Pacs) -> None:
    for study, series, code in (
        ("9.9", SERIES, "STUDY_NOT_FOUND"),
        (STUDY, "9.9", "SERIES_NOT_FOUND"),
        ("study-1", "series-1", "STUDY_NOT_FOUND"),
    ):
        answer = pacs.get(f"/studies/{study}/images?series_id={series}&bundle=1")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)


def test_a_folder_sends_the_same_format(tmp_path: Path) -> None:
    uids = [write_image(tmp_path / "a study" / "s" / f"{n}.dcm", "1.2", "1.2.3", z=9.0 - n) for n in range(4)]
    large = write_image(tmp_path / "a study" / "s" / "large.dcm", "1.2", "1.2.3", z=-3.0, extra=3_000_000)
    with serve(tmp_path) as pacs:
        found = _bundle(pacs, "1.2", "1.2.3")
        keys = [image["key"] for image in pacs.get("/studies/1.2/images?series_id=1.2.3").json()]
        files = _client(pacs).fetch(_job("1.2", "1.2.3"))
        assert [pydicom.dcmread(BytesIO(file)).SOPInstanceUID for file in files] == [large, *reversed(uids)]
        noted = [image for _, images, _ in pacs.accesses for image in images]
    assert list(found) == [key.replace(" ", "%20") for key in keys]
    assert {sop for _, _, sop in noted} == {*uids, large}


def test_a_worker_reads_a_series_while_it_arrives(pacs: Pacs) -> None:
    files = _client(pacs).fetch(_job())
    assert isinstance(files, ArrivingFiles)
    image = drain_series(files)
    close_files(files)
    assert image.pixels.shape == (COUNT, 128, 128)


@pytest.mark.parametrize("status", [404, 406, 500])
def test_a_server_that_sends_no_series_whole_is_asked_image_by_image(
    pacs: Pacs, proxy: DicomwebProxy, status: int
) -> None:
    proxy.refuse = lambda _, path: status if path.endswith(f"/series/{SERIES}") else None
    assert len(_client(pacs).fetch(_job())) == COUNT


def test_of_a_study_only_the_largest_series_comes_and_in_one_request(
    pacs: Pacs, proxy: DicomwebProxy, orthanc: Orthanc
) -> None:
    study, small, large, single = (generate_uid() for _ in range(4))
    orthanc.store([*_slices(small, 2, study), *_slices(large, 3, study), _slice(single, 0, study)])
    job = _job(study).model_copy(update={"pacs": PacsRef(study_id=study, scope=Scope.STUDY)})
    files = _client(pacs).fetch(job)
    assert {pydicom.dcmread(BytesIO(file)).SeriesInstanceUID for file in files} == {large}
    close_files(files)
    assert len(files) == 3
    fetched = [path for path in proxy.paths() if "/series/" in path]
    assert fetched[-1] == f"/dicom-web/studies/{study}/series/{large}"
    assert len(fetched) == 2 and "/instances/" in fetched[0], "an image tells whether the series is one of images"


@pytest.mark.parametrize(
    ("keys", "counts"),
    [
        (["1.2.9/1.3.9/1.4", "1.2.9/1.5.9/1.6", "1.2.9/1.5.9/1.7"], {"1.3.9": 1, "1.5.9": 2}),
        (["1.2.9/1.3.9/a.dcm"], {"1.3.9": 1}),
        (["1.2.9/1.3.9/1.4", "1.2.9/ct/1.6"], None),
        (["1.2.9/3/1.4"], None),
        (["1.2.9/2.5/1.4"], None),
        (["other/1.3.9/1.4"], None),
        (["1.2.9/1.3.9"], None),
        (["1.2.9/1.3.9/1.4", None], None),
        ([], None),
    ],
)
def test_the_series_of_a_study_are_told_from_keys_only_where_they_are_uids(
    keys: list[Any], counts: dict[str, int] | None
) -> None:
    links = [{"url": "u", "key": key} for key in keys]
    found = by_series(links, "1.2.9")
    assert (found and {uid: len(its) for uid, its in found.items()}) == counts
    assert by_series([*links, "nonsense"], "1.2.9") is None


def test_a_pacs_that_is_down_is_said_to_be_so(pacs: Pacs, proxy: DicomwebProxy) -> None:
    proxy.refuse = lambda *_: 503
    with pytest.raises(Unavailable) as caught:
        _client(pacs).fetch(_job())
    assert caught.value.code == "PACS_UNAVAILABLE"


def test_a_series_too_large_for_a_worker_is_refused_for_good(pacs: Pacs) -> None:
    files = _client(pacs, max_bytes=100_000).fetch(_job())
    with pytest.raises(InputRejected) as caught:
        list(files)
    assert caught.value.code == "TOO_LARGE"


def test_a_reader_that_gives_up_ends_the_download(pacs: Pacs) -> None:
    files = _client(pacs).fetch(_job())
    close_files(files)
    deadline = time.monotonic() + 5
    while any(thread.name == "arrival" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Servers that answer as none should. Each gives two images of a series, or says that it would.

HEADERS = {"content-type": 'multipart/related; type="application/dicom"; boundary=edge'}
IMAGES = [_bytes(_slice("1.2.3", number, "1.2")) for number in range(2)]


def _multipart(*images: bytes, end: bytes = b"\r\n--edge--") -> bytes:
    return b"\r\n".join(b"--edge\r\n\r\n" + image for image in images) + end


Answer = Callable[[BaseHTTPRequestHandler], None]


def _says(status: int, body: bytes, headers: dict[str, str] = HEADERS) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def _drips(request: BaseHTTPRequestHandler) -> None:
    _says(200, b"")(request)
    body = _multipart(*IMAGES)
    try:
        for at in range(len(body)):
            request.wfile.write(body[at : at + 1])
            time.sleep(0.02)
    except OSError:
        pass


def _hangs(request: BaseHTTPRequestHandler) -> None:
    _says(200, _multipart(IMAGES[0], end=b""))(request)
    time.sleep(60)


HURRIED = Limits(wait_s=0.5, stall_s=0.3, stall_bytes=1000, total_s=2.0, search_s=2.0)
"""For servers that are to be given up. What must come to its end has the limits that there are."""


@contextmanager
def _behind(
    series: Answer, *, count: int | None = 2, image: Answer | None = None, limits: Limits | None = None
) -> Iterator[Pacs]:
    row: dict[str, Any] = {"0020000E": {"vr": "UI", "Value": ["1.2.3"]}}
    if count is not None:
        row["00201209"] = {"vr": "IS", "Value": [count]}
    listed = [
        {
            "0020000E": {"Value": ["1.2.3"]},
            "00080018": {"Value": [str(pydicom.dcmread(BytesIO(one)).SOPInstanceUID)]},
        }
        for one in IMAGES
    ]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.endswith("/series"):
                _says(200, json.dumps([row]).encode(), {"content-type": "application/dicom+json"})(self)
            elif path.endswith("/instances"):
                _says(200, json.dumps(listed).encode(), {"content-type": "application/dicom+json"})(self)
            elif "/instances/" in path:
                (image or _says(404, b""))(self)
            else:
                series(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            cache = InstanceCache(Path(folder), 10_000_000)
            base = f"http://127.0.0.1:{server.server_port}/dicom-web"
            with serve_dicomweb(DicomwebServer(base), cache=cache, limits=limits) as pacs:
                yield pacs
    finally:
        server.shutdown()
        server.server_close()


def _whole(pacs: Pacs) -> httpx.Response:
    return pacs.get("/studies/1.2/images?series_id=1.2.3&bundle=1")


def test_a_server_that_counts_no_images_is_asked_for_them() -> None:
    with _behind(_says(200, _multipart(*IMAGES)), count=None) as pacs:
        assert _whole(pacs).headers["x-image-count"] == "2"


@pytest.mark.parametrize(
    ("series", "status"),
    [
        (_says(401, b""), 503),
        (_says(404, b""), 503),
        (_says(429, b""), 503),
        (_says(500, b"PATIENT^NAME"), 503),
        (_says(200, b"<html>", {"content-type": "text/html"}), 503),
        (_says(200, b"x" * 40_000), 503),
        (_says(200, b"--other\r\n\r\nx\r\n--other--"), 503),
        (_says(200, _multipart(b"no DICOM at all" * 1000)), 503),
        (_says(200, _multipart(b"")), 503),
        (_says(200, b""), 503),
        (_says(200, b"", {**HEADERS, "content-encoding": "gzip"}), 503),
        (_drips, 503),
    ],
    ids=list("abcdefghijkl"),
)
def test_a_series_that_is_none_from_the_start_is_stated(series: Answer, status: int) -> None:
    begun = time.monotonic()
    with _behind(series, limits=HURRIED if series is _drips else None) as pacs:
        answer = _whole(pacs)
    assert answer.status_code == status and "PATIENT" not in answer.text
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (_multipart(*IMAGES, end=b""), 2),
        (_multipart(*IMAGES), 3),
        (_multipart(*IMAGES), 1),
        (_multipart(IMAGES[0], IMAGES[0]), 2),
    ],
    ids=["cut", "fewer than said", "more than said", "one twice"],
)
def test_a_series_that_is_not_what_was_said_never_looks_whole(body: bytes, count: int) -> None:
    # The answer may have begun before that showed.
    with _behind(_says(200, body), count=count) as pacs, suppress(httpx.RemoteProtocolError):
        assert _whole(pacs).status_code == 503


def test_a_worker_gets_the_rest_of_a_broken_series_image_by_image() -> None:
    def image(request: BaseHTTPRequestHandler) -> None:
        wanted = request.path.rpartition("/")[2]
        found = next(one for one in IMAGES if str(pydicom.dcmread(BytesIO(one)).SOPInstanceUID) == wanted)
        _says(200, _multipart(found))(request)

    filler = IMAGES[0] + bytes(2_000_000)  # so much that the answer has begun before it breaks off
    with _behind(_says(200, _multipart(filler, IMAGES[1][:3000], end=b"")), image=image) as pacs:
        files = _client(pacs).fetch(_job("1.2", "1.2.3"))
        found = [pydicom.dcmread(BytesIO(file)).SOPInstanceUID for file in files]
        noted = [image for _, images, _ in pacs.accesses for image in images]
    assert sorted(noted) == sorted(("1.2", "1.2.3", str(uid)) for uid in found), "each of them once"
    assert found == [pydicom.dcmread(BytesIO(one)).SOPInstanceUID for one in IMAGES]


@pytest.mark.parametrize("broken", [_hangs, _drips], ids=["hangs", "drips"])
def test_a_server_that_is_too_slow_is_given_up_within_its_time(broken: Answer) -> None:
    begun = time.monotonic()
    with _behind(broken, limits=HURRIED) as pacs, pytest.raises(MipError) as caught:
        list(_client(pacs).fetch(_job("1.2", "1.2.3")))
    assert caught.value.code in ("PACS_UNAVAILABLE", "SERIES_NOT_FOUND")
    assert time.monotonic() - begun < 20


def test_another_image_than_the_one_asked_for_is_neither_given_nor_kept() -> None:
    wanted = str(pydicom.dcmread(BytesIO(IMAGES[0])).SOPInstanceUID)
    with _behind(_says(404, b""), image=_says(200, _multipart(IMAGES[1]))) as pacs:
        link = pacs.link(f"/studies/1.2/images/1.2.3/{wanted}")
        for _ in range(2):
            answer = httpx.get(link)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "PACS_WRONG_IMAGE")


def _tiny(number: int) -> bytes:
    """A slice of 8×8 under a UID and at a place of its own; always as long, so that they are quickly made."""
    image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    image.Rows = image.Columns = 8
    image.PixelData = bytes(128)
    image.StudyInstanceUID, image.SeriesInstanceUID = "1.2", "1.2.3"
    image.ImagePositionPatient = [0, 0, 10_000 + number]
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{10_000 + number}"
    return _bytes(image)


def test_a_series_of_5000_images_is_read_within_its_limits() -> None:
    first = _tiny(0)

    def series(request: BaseHTTPRequestHandler) -> None:
        _says(200, b"")(request)
        for number in range(5000):
            image = first.replace(b"10000", b"%d" % (10_000 + number))
            request.wfile.write(b"\r\n--edge\r\n\r\n" + image)
        request.wfile.write(b"\r\n--edge--")

    begun = time.process_time()  # of the processor: whatever else the machine does, this stays
    with _behind(series, count=5000) as pacs:
        files = _client(pacs).fetch(_job("1.2", "1.2.3"))
        image = drain_series(files)
        close_files(files)
        noted = {sop for _, images, _ in pacs.accesses for _, _, sop in images}
    assert image.pixels.shape == (5000, 8, 8) and len(noted) == 5000
    assert time.process_time() - begun < 40


def test_a_search_that_drips_ends_within_its_time() -> None:
    def drip(request: BaseHTTPRequestHandler) -> None:
        _says(200, b"[", {"content-type": "application/dicom+json"})(request)
        with suppress(OSError):
            for _ in range(600):
                request.wfile.write(b" ")
                time.sleep(0.1)

    class Handler(BaseHTTPRequestHandler):
        do_GET = drip

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    begun = time.monotonic()
    try:
        base = f"http://127.0.0.1:{server.server_port}/dicom-web"
        with serve_dicomweb(DicomwebServer(base), limits=Limits(search_s=0.5)) as pacs:
            answer = pacs.get("/studies")
    finally:
        server.shutdown()
        server.server_close()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "PACS_UNAVAILABLE")
    assert time.monotonic() - begun < 20
