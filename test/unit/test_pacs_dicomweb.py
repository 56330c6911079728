"""The PACS API in front of DICOMweb servers: Orthanc, and ones that answer as none should."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import httpx
import pydicom
import pytest
from pacs_support import Pacs, serve_dicomweb
from pydicom.data import get_testdata_file
from pydicom.uid import JPEG2000Lossless, generate_uid

from medical_image_processing.errors import MipError
from medical_image_processing.pacs.dicomweb import DicomwebArchive
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.retrieve import DicomwebServer
from orthanc import Orthanc, running_orthanc

pytestmark = pytest.mark.needs("Orthanc", "setpriv")

STUDY, SERIES = "1.2.3.4", "1.2.3.4.5"


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture(scope="module")
def stored(orthanc: Orthanc) -> list[Any]:
    """A series of five slices, stored in another order than that of their places, and one series beside it."""
    slices = [_slice(SERIES, z, number) for z, number in ((20.0, 1), (-10.0, 2), (0.0, 3), (30.0, 4), (10.0, 5))]
    orthanc.store([*slices, _slice(f"{SERIES}.9", 0.0, 1)])
    return slices


@pytest.fixture
def pacs(orthanc: Orthanc, stored: list[Any]) -> Iterator[Pacs]:
    with serve_dicomweb(DicomwebServer(orthanc.base, orthanc.authorization())) as running:
        yield running


def _bytes(image: Any) -> bytes:
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, image)
    return buffer.getvalue()


def _slice(series: str, z: float, number: int, uid: str | None = None) -> Any:
    image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    image.StudyInstanceUID, image.SeriesInstanceUID = STUDY, series
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid or generate_uid()
    image.ImagePositionPatient, image.InstanceNumber = [0, 0, z], number
    return image


def test_studies_and_images_are_found_by_their_uids_a_series_in_geometric_order(
    pacs: Pacs, stored: list[Any]
) -> None:
    assert pacs.get("/studies").json() == [STUDY]
    series = pacs.get(f"/studies/{STUDY}/images?series_id={SERIES}").json()
    by_place = sorted(stored, key=lambda image: image.ImagePositionPatient[2])
    assert [image["key"].rpartition("/")[2] for image in series] == [image.SOPInstanceUID for image in by_place]
    assert len(pacs.get(f"/studies/{STUDY}/images").json()) == 6


def test_a_link_gives_the_instance_as_it_is_stored_to_whoever_has_it(pacs: Pacs, stored: list[Any]) -> None:
    uid = stored[2].SOPInstanceUID
    answer = httpx.get(pacs.link(f"/studies/{STUDY}/images/{SERIES}/{uid}"), timeout=15)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom")
    image = pydicom.dcmread(BytesIO(answer.content))
    assert image.SOPInstanceUID == uid
    assert (image.pixel_array == stored[2].pixel_array).all()
    assert pacs.accesses[-1] == ("algo_1", [(STUDY, SERIES, uid)], None)


def test_a_thumbnail_is_drawn_of_the_middle_of_the_series(pacs: Pacs, stored: list[Any]) -> None:
    answer = pacs.get(f"/thumbnail?study_id={STUDY}&series_id={SERIES}")
    assert (answer.status_code, answer.content[:4]) == (200, b"\x89PNG")
    middle = next(image for image in stored if image.ImagePositionPatient[2] == 10.0)
    assert pacs.accesses[-1] == ("algo_1", [(STUDY, SERIES, middle.SOPInstanceUID)], None)
    kept = pacs.get(f"/thumbnail?study_id={STUDY}&series_id={SERIES}", **{"if-none-match": answer.headers["etag"]})
    assert kept.status_code == 304


def test_a_gateway_before_it_says_where_links_lead(pacs: Pacs, stored: list[Any]) -> None:
    path = f"/studies/{STUDY}/images/{SERIES}/{stored[0].SOPInstanceUID}"
    base = "https://abc.execute-api.example/prod/pacs"
    assert pacs.get(path, **{"x-pacs-base": base}).json()["url"].startswith(f"{base}/files/{STUDY}/")
    assert pacs.get(path, **{"x-pacs-base": "javascript:alert(1)//"}).json()["url"].startswith("http://127.0.0.1:")


def test_a_compressed_instance_is_not_transcoded(pacs: Pacs, orthanc: Orthanc) -> None:
    image = pydicom.dcmread(get_testdata_file("MR_small_jp2klossless.dcm"))
    image.StudyInstanceUID, image.SeriesInstanceUID = "1.2.9", "1.2.9.1"
    orthanc.store([image])
    link = pacs.link(f"/studies/1.2.9/images/1.2.9.1/{image.SOPInstanceUID}")
    answer = httpx.get(link, timeout=15)
    assert pydicom.dcmread(BytesIO(answer.content)).file_meta.TransferSyntaxUID == JPEG2000Lossless
    orthanc.client.delete(f"/studies/{orthanc.client.post('/tools/lookup', content='1.2.9').json()[0]['ID']}")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/studies/9.9/images", "STUDY_NOT_FOUND"),
        ("/studies/study-1/images", "STUDY_NOT_FOUND"),
        (f"/studies/{STUDY}/images?series_id=9.9", "SERIES_NOT_FOUND"),
        (f"/studies/{STUDY}/images/9.9/9.9", "SERIES_NOT_FOUND"),
        (f"/studies/{STUDY}/images/{SERIES}/9.9", "IMAGE_NOT_FOUND"),
        (f"/studies/{STUDY}/images/{SERIES}/image-1", "IMAGE_NOT_FOUND"),
    ],
)
def test_what_is_not_there_is_said_to_be_so(pacs: Pacs, path: str, code: str) -> None:
    answer = pacs.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)


def test_a_link_opens_what_it_was_made_for_and_nothing_else(pacs: Pacs, stored: list[Any]) -> None:
    first, second = (image.SOPInstanceUID for image in stored[:2])
    url = pacs.link(f"/studies/{STUDY}/images/{SERIES}/{first}")
    assert httpx.get(url.replace(first, second), timeout=15).status_code == 403
    assert httpx.get(url.replace("/files/", "/files/../"), timeout=15).status_code in (401, 403, 404)
    assert httpx.post(url, timeout=15).status_code == 405


def test_an_image_that_went_after_its_link_was_given_is_gone(pacs: Pacs, orthanc: Orthanc) -> None:
    image = _slice("1.2.8.1", 0.0, 1)
    image.StudyInstanceUID = "1.2.8"
    orthanc.store([image])
    url = pacs.link(f"/studies/1.2.8/images/1.2.8.1/{image.SOPInstanceUID}")
    orthanc.client.delete(f"/studies/{orthanc.client.post('/tools/lookup', content='1.2.8').json()[0]['ID']}")
    answer = httpx.get(url, timeout=15)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "IMAGE_NOT_FOUND")


def test_a_wrong_password_is_the_operators_trouble_and_passes(orthanc: Orthanc, stored: list[Any]) -> None:
    with serve_dicomweb(DicomwebServer(orthanc.base, orthanc.authorization("wrong"))) as pacs:
        answer = pacs.get("/studies")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "PACS_UNAVAILABLE")
    assert "password" in answer.json()["error"]["message"] and "wrong" not in answer.text


def test_a_server_that_is_down_is_said_to_be_so() -> None:
    with serve_dicomweb(DicomwebServer("http://127.0.0.1:9")) as pacs:
        answer = pacs.get("/studies")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "PACS_UNAVAILABLE")


@pytest.mark.parametrize(
    ("scheme", "host", "said"),
    [
        ("https", None, "TLS fails"),
        ("http", "127.0.0.1:9", "nothing listens there"),
        ("http", "no-such-host.invalid", "no host of that name"),
    ],
)
def test_what_a_person_typed_wrongly_is_told(scheme: str, host: str | None, said: str, orthanc: Orthanc) -> None:
    address = orthanc.base.replace("http://", f"{scheme}://")
    if host is not None:
        address = f"{scheme}://{host}/dicom-web"
    with serve_dicomweb(DicomwebServer(address, orthanc.authorization())) as pacs:
        answer = pacs.get("/studies")
    assert answer.status_code == 503 and said in answer.json()["error"]["message"]


def test_an_address_that_is_no_dicomweb_root_is_trouble_and_no_missing_study(orthanc: Orthanc) -> None:
    server = DicomwebServer(orthanc.base.replace("/dicom-web", "/dicomweb"), orthanc.authorization())
    with serve_dicomweb(server) as pacs:
        answer = pacs.get(f"/studies/{STUDY}/images?series_id={SERIES}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (424, "PACS_REFUSED")
    assert "address" in answer.json()["error"]["message"]

    async def ask() -> MipError | None:
        archive = DicomwebArchive(server, LinkSigner())
        await archive.check()
        await archive.close()
        return archive.trouble

    trouble = asyncio.run(ask())
    assert trouble is not None and trouble.code == "PACS_REFUSED"


INSTANCE = {"0020000D": {"Value": [STUDY]}, "0020000E": {"Value": [SERIES]}, "00080018": {"Value": ["1.2"]}}
WHOLE = _bytes(_slice(SERIES, 0.0, 1, "1.2"))
PART = b"--edge\r\nContent-Type: application/dicom\r\n\r\n" + WHOLE[:5000]
MULTIPART = 'multipart/related; type="application/dicom"; boundary=edge'


class _Hostile(BaseHTTPRequestHandler):
    """Finds one instance; what it then sends is ``image``: status, headers, body."""

    image: tuple[int, dict[str, str], bytes]
    search: tuple[int, dict[str, str], bytes]

    def do_GET(self) -> None:
        status, headers, body = self.image if "/instances/" in self.path else self.search
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def _behind(image: Any = None, search: Any = None) -> Iterator[Pacs]:
    found = (200, {}, json.dumps([INSTANCE]).encode())
    handler = type("Handler", (_Hostile,), {"image": image or (404, {}, b""), "search": search or found})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        with serve_dicomweb(DicomwebServer(f"http://127.0.0.1:{server.server_port}/dicom-web/")) as pacs:
            yield pacs
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("image", "status"),
    [
        ((200, {"content-type": MULTIPART}, b"no boundary here" * 2000), 503),
        ((200, {"content-type": MULTIPART}, b"--other\r\n\r\nx\r\n--other--"), 503),
        ((200, {"content-type": MULTIPART}, b""), 503),
        ((200, {"content-type": "text/html"}, b"<html>log in</html>"), 503),
        ((200, {"content-type": "multipart/related; boundary=" + "x" * 80}, b""), 503),
        ((200, {}, b"x"), 503),
        ((401, {}, b""), 503),
        ((500, {}, b"SELECT * FROM patients"), 503),
        ((404, {}, b""), 404),
        ((302, {"location": "http://127.0.0.1:9/"}, b""), 424),
    ],
)
def test_an_image_that_does_not_come_as_it_should_is_stated_and_nothing_of_it_repeated(
    image: tuple[int, dict[str, str], bytes], status: int
) -> None:
    with _behind(image) as pacs:
        answer = httpx.get(pacs.link(f"/studies/{STUDY}/images/{SERIES}/1.2"), timeout=15)
    assert answer.status_code == status
    assert "error" in answer.json() and "patients" not in answer.text


@pytest.mark.parametrize(
    "image",
    [
        (200, {"content-type": MULTIPART}, PART),
        (200, {"content-type": MULTIPART, "content-length": "9999"}, PART + b"\r\n--edg"),
        (200, {"content-type": "application/dicom", "content-length": "9999"}, WHOLE[:5000]),
    ],
)
def test_half_an_image_never_looks_whole(image: tuple[int, dict[str, str], bytes]) -> None:
    with _behind(image) as pacs:
        url = pacs.link(f"/studies/{STUDY}/images/{SERIES}/1.2")
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(url, timeout=15)


@pytest.mark.parametrize(
    ("search", "status"),
    [
        ((200, {}, b"<html>"), 503),
        ((200, {}, b'{"error": "PATIENT^NAME"}'), 503),
        ((200, {}, b"[" * 100_000), 503),
        ((500, {}, b""), 503),
        ((403, {}, b""), 503),
        ((404, {}, b""), 424),
        ((400, {}, b"PATIENT^NAME"), 424),
        ((204, {}, b""), 200),
    ],
)
def test_a_search_that_is_not_answered_as_it_should_be_is_stated(
    search: tuple[int, dict[str, str], bytes], status: int
) -> None:
    with _behind(search=search) as pacs:
        answer = pacs.get("/studies")
    assert answer.status_code == status
    assert "PATIENT" not in answer.text


def test_a_server_that_is_throttled_says_when_to_come_again() -> None:
    with _behind(search=(429, {"retry-after": "17"}, b"")) as pacs:
        answer = pacs.get("/studies")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "17")


def test_a_server_that_knows_no_pages_is_believed_once() -> None:
    many = [{"0020000D": {"Value": [f"1.{number}"]}} for number in range(2500)]
    with _behind(search=(200, {}, json.dumps(many).encode())) as pacs:
        assert len(pacs.get("/studies").json()) == 2500


def test_the_operators_key_is_asked_for_as_everywhere(pacs: Pacs) -> None:
    assert pacs.client.get("/studies").status_code == 401
