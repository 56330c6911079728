"""DICOMweb servers that send another patient's images, or never end, or bombs, or half of what there is."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pacs_support import HEADERS, Pacs, eventually, serve_deidentified, serve_dicomweb
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement

from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.pseudonyms import SqlitePseudonyms
from medical_image_processing.errors import MipError, Unavailable
from medical_image_processing.pacs.cache import InstanceCache
from medical_image_processing.pacs.dicomweb import DicomwebArchive, _dicom_json
from medical_image_processing.pacs.instances import Instance
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.retrieve import DicomwebServer, Limits
from medical_image_processing.pacs.store import DicomwebWriter

STUDY, SERIES, COUNT = "1.2.3", "1.2.3.4", 4
UIDS = [f"{SERIES}.{number + 1}" for number in range(COUNT)]
BUNDLE = f"/studies/{STUDY}/images?series_id={SERIES}&bundle=1"
LISTING = f"/studies/{STUDY}/images?series_id={SERIES}"
MULTIPART = 'multipart/related; type="application/dicom"; boundary=edge'
QUICK = Limits(connect_s=5, wait_s=1.0, stall_s=0.5, total_s=1.5, search_s=5)
UNHURRIED = Limits(connect_s=60, wait_s=60, stall_s=60, total_s=60, search_s=60)


def image(uid: str, study: str = STUDY, series: str = SERIES, *, meta_bytes: int = 0, slope: int = 1) -> bytes:
    """CT_small under these UIDs."""
    made: Any = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    made.StudyInstanceUID, made.SeriesInstanceUID, made.RescaleSlope = study, series, slope
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid
    if meta_bytes:
        made.file_meta.PrivateInformationCreatorUID = "1.2.9"
        made.file_meta.add(DataElement(0x00020102, "OB", bytes(meta_bytes)))
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, made)
    return buffer.getvalue()


IMAGES = [image(uid) for uid in UIDS]
Handler = BaseHTTPRequestHandler
Answer = Callable[[Handler], None]


def multipart(*images: bytes, end: bytes = b"--edge--\r\n") -> bytes:
    return b"".join(b"--edge\r\n\r\n" + one + b"\r\n" for one in images) + end


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    """The whole answer, with its length."""

    def answer(request: Handler) -> None:
        request.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def sends(*images: bytes) -> Answer:
    return says(200, multipart(*images), content_type=MULTIPART)


def unframed(body: bytes, content_type: str) -> Answer:
    """Neither length nor chunks: the connection's end is the answer's."""

    def answer(request: Handler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: " + content_type.encode() + b"\r\n\r\n" + body)
        request.close_connection = True

    return answer


ALL, MISSING, STORED = sends(*IMAGES), says(404), says(200, b"{}")


@dataclass
class Liar:
    """A server that answers retrievals and stores with ``series``, ``single`` and ``store``, and searches as it
    should unless ``search`` says otherwise."""

    series: Answer = ALL
    single: Answer = MISSING
    store: Answer = STORED
    search: Callable[[Handler, list[dict[str, Any]]], None] | None = None
    count: int | None = COUNT
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    base: str = ""

    def answer(self, request: Handler) -> None:
        self.asked.append((request.command, request.path, {k.lower(): v for k, v in request.headers.items()}))
        if request.command == "POST":
            while size := int(request.rfile.readline().split(b";")[0], 16):
                request.rfile.read(size + 2)
            request.rfile.readline()
            self.store(request)
            return
        path = urlsplit(request.path).path.removeprefix("/rs")
        if (kind := path.rpartition("/")[2]) in ("studies", "series", "instances"):
            (self.search or _found)(request, self._items(kind))
        else:
            (self.single if "/instances/" in path else self.series)(request)

    def _items(self, kind: str) -> list[dict[str, Any]]:
        of_series: dict[str, Any] = {"0020000D": {"Value": [STUDY]}, "0020000E": {"Value": [SERIES]}}
        if kind == "instances":
            return [{**of_series, "00080018": {"Value": [uid]}} for uid in UIDS]
        if self.count is not None:
            of_series |= {"00201209": {"Value": [self.count]}, "00201208": {"Value": [self.count]}}
        return [of_series]


def _found(request: Handler, items: list[dict[str, Any]]) -> None:
    """What matches the query, and of that the page asked for."""
    query = parse_qs(urlsplit(request.path).query)
    uid = query.get("SOPInstanceUID", [None])[0]
    items = [item for item in items if uid in (None, item.get("00080018", {}).get("Value", [None])[0])]
    page(request, items, int(query["limit"][0]))


def page(request: Handler, items: list[dict[str, Any]], most: int) -> None:
    offset = int(parse_qs(urlsplit(request.path).query).get("offset", ["0"])[0])
    says(200, json.dumps(items[offset : offset + most]).encode())(request)


@contextmanager
def serving(liar: Liar) -> Iterator[Liar]:
    class Serving(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with suppress(ConnectionError):
                liar.answer(self)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Serving)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    liar.base = f"http://127.0.0.1:{server.server_port}/rs"
    try:
        yield liar
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def cache(tmp_path: Path) -> InstanceCache:
    return InstanceCache(tmp_path / "cache", 10_000_000)


@contextmanager
def behind(liar: Liar, cache: InstanceCache | None = None, limits: Limits = UNHURRIED) -> Iterator[Pacs]:
    with (
        serving(liar),
        serve_dicomweb(DicomwebServer(liar.base, "Basic c2VjcmV0"), cache=cache, limits=limits) as api,
    ):
        yield api


def link(pacs: Pacs, uid: str = UIDS[0]) -> str:
    return pacs.link(f"/studies/{STUDY}/images/{SERIES}/{uid}")


def said(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# Another patient's images

OTHERS = [
    pytest.param(image(UIDS[0], study="6.6.6"), id="study"),
    pytest.param(image(UIDS[0], series="6.6.6.6"), id="series"),
    pytest.param(image("6.6.6.6.6"), id="instance"),
]


@pytest.mark.parametrize("other", OTHERS)
def test_an_image_of_another_patient_is_neither_given_nor_kept(other: bytes, cache: InstanceCache) -> None:
    with behind(Liar(single=sends(other)), cache) as pacs:
        answer = httpx.get(link(pacs), timeout=15)
    assert said(answer) == (503, "PACS_WRONG_IMAGE")
    assert cache.used_bytes == 0


@pytest.mark.parametrize("other", OTHERS[:2])
def test_a_series_with_an_image_of_another_patient_is_neither_given_nor_kept_nor_on_record(
    other: bytes, cache: InstanceCache
) -> None:
    with behind(Liar(series=sends(other, *IMAGES[1:])), cache) as pacs:
        assert said(pacs.get(BUNDLE)) == (503, "PACS_WRONG_IMAGE")
        assert pacs.accesses == []
    assert cache.used_bytes == 0


def test_a_large_file_meta_hides_no_image_s_name(cache: InstanceCache) -> None:
    good = image(UIDS[0], meta_bytes=300_000)
    other = image(UIDS[0], study="6.6.6", meta_bytes=300_000)
    with behind(Liar(single=sends(good)), cache) as pacs:
        assert httpx.get(link(pacs), timeout=15).content == good
    with behind(Liar(single=sends(other))) as pacs:
        assert said(httpx.get(link(pacs), timeout=15)) == (503, "PACS_WRONG_IMAGE")


@pytest.mark.parametrize("nameless", [b"", b"no DICOM" * 1000, image("")], ids=["nothing", "no DICOM", "no UID"])
def test_what_has_no_name_is_not_passed_on(nameless: bytes, cache: InstanceCache) -> None:
    with behind(Liar(single=sends(nameless), series=sends(nameless, *IMAGES[1:])), cache) as pacs:
        for answer in (httpx.get(link(pacs), timeout=15), pacs.get(BUNDLE)):
            assert said(answer) == (503, "PACS_UNAVAILABLE")


def test_one_image_is_not_answered_by_two(cache: InstanceCache) -> None:
    with behind(Liar(single=sends(IMAGES[0], IMAGES[0])), cache) as pacs, suppress(httpx.RemoteProtocolError):
        assert httpx.get(link(pacs), timeout=15).status_code == 503
    assert cache.used_bytes == 0


# Bombs

BOMB = gzip.compress(gzip.compress(bytes(2**27)))


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "br"])
def test_nothing_that_is_compressed_is_let_in(encoding: str, tmp_path: Path) -> None:
    bomb = says(200, BOMB, content_encoding=encoding, content_type=MULTIPART)
    liar = Liar(search=lambda request, _: bomb(request), series=bomb, single=bomb, store=bomb)
    with behind(liar) as pacs:
        assert said(pacs.get("/studies")) == (503, "PACS_UNAVAILABLE")
        liar.search = None
        assert said(pacs.get(BUNDLE)) == said(httpx.get(link(pacs), timeout=15)) == (503, "PACS_UNAVAILABLE")
        with pytest.raises(Unavailable, match="encoding"):
            store(liar, image("1.2.3.4.99"), tmp_path)
    assert {headers["accept-encoding"] for _, _, headers in liar.asked} == {"identity"}


def store(liar: Liar, content: bytes, folder: Path) -> None:
    async def go() -> None:
        archive = DicomwebArchive(DicomwebServer(liar.base, "Basic c2VjcmV0"), LinkSigner(), limits=UNHURRIED)
        try:
            (folder / "result.dcm").write_bytes(content)
            await DicomwebWriter(archive).store(folder / "result.dcm", STUDY)
        finally:
            await archive.close()

    asyncio.run(go())


def test_a_search_answer_that_is_too_large_is_refused() -> None:
    large = says(200, b"[" + b" " * (2**24 + 1) + b"]")
    with behind(Liar(search=lambda request, _: large(request))) as pacs:
        assert said(pacs.get("/studies")) == (503, "PACS_UNAVAILABLE")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    items=st.lists(st.dictionaries(st.text(max_size=8), _JSON, max_size=4), max_size=5),
    indent=st.none() | st.just(1),
)
def test_items_are_read_one_by_one_as_they_are_all_at_once(items: list[Any], indent: int | None) -> None:
    assert _dicom_json(json.dumps(items, indent=indent).encode()) == items


@given(body=st.text('[]{},:"1 \n', max_size=12))
def test_what_is_no_array_of_objects_is_refused(body: str) -> None:
    try:
        expected = json.loads(body or "[]")
    except ValueError:
        expected = None
    if isinstance(expected, list) and all(isinstance(item, dict) for item in expected):
        assert _dicom_json(body.encode()) == expected
    elif body.strip():
        with pytest.raises(Unavailable):
            _dicom_json(body.encode())


# What never ends

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: " + MULTIPART.encode() + b"\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = multipart(*IMAGES)
_CHUNK = b"%x\r\n" % len(WHOLE) + WHOLE + b"\r\n"


def _drips(first: bytes, drip: bytes) -> Answer:
    def answer(request: Handler) -> None:
        request.wfile.write(first)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            request.wfile.write(drip)
            time.sleep(0.05)
        request.close_connection = True

    return answer


ENDLESS = [
    pytest.param(_drips(b"HTTP/1.1 200", b" "), id="status line"),
    pytest.param(_drips(HEAD + b"x-a: ", b"y"), id="header"),
    pytest.param(_drips(HEAD, b"x-a: y\r\n"), id="headers"),
    pytest.param(_drips(CHUNKED + b"5;", b"e"), id="chunk size"),
    pytest.param(_drips(CHUNKED + _CHUNK + b"0\r\n", b"t"), id="trailer"),
    pytest.param(_drips(CHUNKED + _CHUNK, b"8\r\nepilogue\r\n"), id="epilogue"),
]


@pytest.mark.parametrize("endless", ENDLESS)
def test_what_never_ends_is_ended_within_its_time(endless: Answer, cache: InstanceCache) -> None:
    begun = time.monotonic()
    with behind(Liar(series=endless), cache, QUICK) as pacs, suppress(httpx.RemoteProtocolError):
        assert pacs.get(BUNDLE).status_code == 503
    assert time.monotonic() - begun < 10
    assert cache.used_bytes == 0


def test_what_goes_on_behind_its_end_is_ended_by_its_size() -> None:
    junk = b"100000\r\n" + bytes(2**20) + b"\r\n"
    with behind(Liar(series=_drips(CHUNKED + _CHUNK, junk))) as pacs:
        begun = time.monotonic()
        with suppress(httpx.RemoteProtocolError):
            assert pacs.get(BUNDLE).status_code == 503
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    "first", [b"", HEAD + b"x-a: ", CHUNKED + _CHUNK[:40_000]], ids=["nothing", "head", "body"]
)
def test_a_reader_that_goes_away_ends_its_download_at_once(first: bytes) -> None:
    has_begun, has_ended = threading.Event(), threading.Event()

    def answer(request: Handler) -> None:
        request.wfile.write(first)
        has_begun.set()
        request.connection.settimeout(30)
        with suppress(OSError):
            assert request.connection.recv(1) == b""
            has_ended.set()
        request.close_connection = True

    with behind(Liar(series=answer)) as pacs:
        reader = socket.create_connection(("127.0.0.1", pacs.port), timeout=30)
        head = "".join(f"{name}: {value}\r\n" for name, value in {"host": "pacs", **HEADERS}.items())
        reader.sendall(f"GET {pacs.mount}{BUNDLE} HTTP/1.1\r\n{head}\r\n".encode())
        assert has_begun.wait(30)
        reader.close()
        assert has_ended.wait(30)


# Half of it

HALF = IMAGES[0][: len(IMAGES[0]) // 2]


def test_an_image_without_its_length_is_not_taken_for_a_whole_one(cache: InstanceCache) -> None:
    with behind(Liar(single=unframed(HALF, "application/dicom")), cache) as pacs:
        assert said(httpx.get(link(pacs), timeout=15)) == (503, "PACS_UNAVAILABLE")
    assert cache.used_bytes == 0


def test_a_boundary_within_pixels_leaves_no_half_image_in_the_cache(cache: InstanceCache) -> None:
    cut = HALF + b"\r\n--edge\r\n\r\n" + IMAGES[0][len(HALF) :]
    answer = unframed(multipart(cut, *IMAGES[1:]), MULTIPART)
    with behind(Liar(series=answer, single=answer), cache) as pacs, suppress(httpx.RemoteProtocolError):
        assert pacs.get(BUNDLE).status_code == 503
        assert httpx.get(link(pacs), timeout=15).status_code == 503
    assert cache.used_bytes == 0


@pytest.mark.parametrize(
    "broken",
    [unframed(multipart(*IMAGES[:3], end=b""), MULTIPART), sends(*IMAGES[:3])],
    ids=["cut", "fewer than counted"],
)
def test_a_series_that_breaks_off_leaves_nothing_in_the_cache(broken: Answer, cache: InstanceCache) -> None:
    with behind(Liar(series=broken), cache) as pacs, suppress(httpx.RemoteProtocolError):
        assert pacs.get(BUNDLE).status_code == 503
    assert cache.used_bytes == 0


def test_what_is_kept_is_replaced_when_the_reader_asks_past_the_cache(cache: InstanceCache) -> None:
    liar = Liar(single=sends(HALF))  # the server itself had only this
    with behind(liar, cache) as pacs:
        assert httpx.get(link(pacs)).content == HALF
        liar.single = sends(IMAGES[0])
        assert httpx.get(link(pacs)).content == HALF
        assert httpx.get(link(pacs), headers={"cache-control": "no-cache"}).content == IMAGES[0]
        assert httpx.get(link(pacs)).content == IMAGES[0]


def test_what_is_kept_is_replaced_without_its_patient_too(cache: InstanceCache, tmp_path: Path) -> None:
    """A reader that can't use what it got asks past the cache, and so does one that gets it de-identified."""
    before, after = (image(UIDS[0], slope=slope) for slope in (2, 3))
    liar = Liar(single=sends(before))
    database = Database(tmp_path / "mip.db")
    pseudonyms = SqlitePseudonyms(database, secret=bytes(32))
    seen = [pseudonyms.of(uid) for uid in (STUDY, SERIES, UIDS[0])]

    def slope(**headers: str) -> int:
        answer = httpx.get(url, headers=headers, timeout=15)
        assert answer.status_code == 200, answer.text
        return int(pydicom.dcmread(BytesIO(answer.content)).RescaleSlope)

    try:
        asyncio.run(pseudonyms.keep([STUDY, SERIES, UIDS[0]]))
        with serving(liar):
            archive = DicomwebArchive(DicomwebServer(liar.base), LinkSigner(), cache=cache, limits=UNHURRIED)
            with serve_deidentified(archive, pseudonyms) as pacs:
                url = pacs.link(f"/studies/{seen[0]}/images/{seen[1]}/{seen[2]}")
                assert slope() == 2
                liar.single = sends(after)
                assert slope() == 2, "it is kept"
                assert slope(**{"cache-control": "no-cache"}) == 3
                assert slope() == 3
    finally:
        asyncio.run(database.close())


# Searches


def test_pages_with_fewer_than_were_asked_for_are_not_the_last() -> None:
    with behind(Liar(search=lambda request, items: page(request, items, 3))) as pacs:
        assert [one["key"].rpartition("/")[2] for one in pacs.get(LISTING).json()] == UIDS


def test_a_server_that_repeats_its_page_is_asked_once_more_and_no_longer() -> None:
    liar = Liar(search=lambda request, items: says(200, json.dumps(items).encode())(request))
    with behind(liar) as pacs:
        assert len(pacs.get(LISTING).json()) == COUNT
    assert sum("/instances?" in path for _, path, _ in liar.asked) == 2


def test_an_image_that_a_server_finds_whatever_it_is_asked_is_not_that_image(tmp_path: Path) -> None:
    liar = Liar(search=lambda request, items: page(request, items, 1000))
    with behind(liar) as pacs:
        answer = pacs.get(f"/studies/{STUDY}/images/{SERIES}/9.9")
        assert said(answer) == (404, "IMAGE_NOT_FOUND")
        assert pacs.accesses == []
        with pytest.raises(Unavailable):  # nor does it say that it has stored it
            store(liar, image("1.2.3.4.99"), tmp_path)
    assert [method for method, _, _ in liar.asked if method == "POST"] == ["POST"], "it has it not, so it was sent"


@pytest.mark.parametrize("path", [LISTING, f"/studies/{STUDY}/images"])
def test_fewer_images_than_the_server_counts_are_not_all_of_them(path: str) -> None:
    with behind(Liar(count=COUNT + 1)) as pacs:
        answer = pacs.get(path)
        assert said(answer) == (503, "PACS_UNAVAILABLE") and f"{COUNT + 1} images" in answer.text
        assert pacs.accesses == []
    for count in (COUNT, None):
        with behind(Liar(count=count)) as pacs:
            assert len(pacs.get(path).json()) == COUNT


def test_the_middle_image_of_a_series_is_the_only_one_on_record() -> None:
    with behind(Liar()) as pacs:
        [middle] = pacs.get(f"{LISTING}&only=middle").json()
        assert middle["key"] == f"{STUDY}/{SERIES}/{UIDS[COUNT // 2]}"
        assert pacs.accesses == [("algo_1", [(STUDY, SERIES, UIDS[COUNT // 2])], None)]


def test_what_a_server_writes_can_t_speak_to_a_terminal() -> None:
    red = {"Value": ["\x1b[31mred\x07\u202e"]}
    item = {"0020000D": {"Value": [STUDY]}, "0020000E": {"Value": [SERIES]}, "0008103E": red, "00081030": red}
    liar = Liar(search=lambda request, _: page(request, [item], 1000))

    async def ask(base: str) -> Any:
        archive = DicomwebArchive(DicomwebServer(base), LinkSigner())
        try:
            return await archive.describe(None, None, 10)
        finally:
            await archive.close()

    with serving(liar):
        [described] = asyncio.run(ask(liar.base)).series
    assert (described.study_description, described.series_description) == ("[31mred", "[31mred")


def test_credentials_go_to_no_other_host(tmp_path: Path) -> None:
    other = Liar()
    with serving(other):
        away = says(307, location=f"{other.base}/studies")
        liar = Liar(series=away, single=away, store=away)
        with behind(liar) as pacs:
            assert said(httpx.get(link(pacs), timeout=15)) == (424, "PACS_REFUSED")
            assert pacs.get(BUNDLE).status_code == 503
            with pytest.raises(MipError, match="PACS_REFUSED"):
                store(liar, image("1.2.3.4.99"), tmp_path)
            liar.search = lambda request, _: away(request)
            assert said(pacs.get("/studies")) == (424, "PACS_REFUSED")
    assert other.asked == []


def test_the_server_is_asked_whether_it_has_what_is_stored() -> None:
    async def ask(base: str) -> tuple[bool, bool]:
        archive = DicomwebArchive(DicomwebServer(base), LinkSigner())
        try:
            return await archive.has(Instance(STUDY, SERIES, UIDS[2])), await archive.has(
                Instance(STUDY, SERIES, "9")
            )
        finally:
            await archive.close()

    with serving(Liar()) as liar:
        assert asyncio.run(ask(liar.base)) == (True, False)
    eventually(lambda: len(liar.asked) >= 2)
