"""Series are found by words, which stand in no address and no log, and a list that ends early says so."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pydicom
import pytest
from pacs_support import HEADERS, Pacs, eventually, serve, serve_dicomweb, write_image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from medical_image_processing.errors import MipError
from medical_image_processing.pacs.dicomweb import DicomwebArchive
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.retrieve import DicomwebServer, Limits
from orthanc import Orthanc, running_orthanc

NAME = "Rossi"


def series(number: int, **elements: Any) -> Dataset:
    """A CT of one slice, the only series of its study, without pixels."""
    image: Dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"), stop_before_pixels=True)
    uids = f"1.2.{number}", f"1.2.{number}.1", f"1.2.{number}.1.1"
    image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID = uids
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.SpecificCharacterSet = "ISO_IR 192"
    for name, value in elements.items():
        setattr(image, name, value)
    return image


def save(folder: Path, images: list[Dataset]) -> None:
    for number, image in enumerate(images):
        image.save_as(folder / f"{number:05}.dcm")


# The call


def test_words_are_found_in_descriptions_and_no_patient_is(tmp_path: Path) -> None:
    described = (("CT", "Abdomen portal"), ("CT", "Chest"), ("MR", "Abdomen T2"))
    save(
        tmp_path,
        [
            series(number, Modality=modality, SeriesDescription=text, PatientName=NAME)
            for number, (modality, text) in enumerate(described)
        ],
    )
    with serve(tmp_path, for_operator=True) as pacs:
        assert pacs.found("abdomen") == (["1.2.0.1", "1.2.2.1"], False)
        assert pacs.found("ABDOMEN  ct") == (["1.2.0.1"], False)
        assert pacs.found("1.2.1.1") == (["1.2.1.1"], False)
        assert pacs.found("Abdomen, (CT)") == pacs.found("ct 2004-01-19; abdomen") == (["1.2.0.1"], False)
        assert pacs.found("2004-01-20") == ([], False)
        assert pacs.found("abdomen", limit=1) == (["1.2.0.1"], True)
        assert pacs.found("abdomen", limit=2) == (["1.2.0.1", "1.2.2.1"], False)
        assert pacs.found(NAME) == ([], False), "patients' names are not in the index"
        assert pacs.found("chest", study_id="1.2.2") == ([], False)
        assert NAME not in pacs.search("abdomen").text


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "INVALID_JSON"),
        (b"{", "INVALID_JSON"),
        (b"\xff", "INVALID_JSON"),
        (b"[" * 5000, "INVALID_JSON"),
        (b'{"search": "' + b"x" * 10_000 + b'"}', "INVALID_QUERY"),
        (b"[]", "INVALID_QUERY"),
        (b"{}", "INVALID_QUERY"),
        (b'{"search": " "}', "INVALID_QUERY"),
        (b'{"search": 1}', "INVALID_QUERY"),
        (b'{"search": "' + b"x" * 201 + b'"}', "INVALID_QUERY"),
        (b'{"search": "x", "limit": 0}', "INVALID_QUERY"),
        (b'{"search": "x", "limit": 1001}', "INVALID_QUERY"),
        (b'{"search": "x", "limit": true}', "INVALID_QUERY"),
        (b'{"search": "x", "limit": 1.5}', "INVALID_QUERY"),
        (b'{"search": "x", "study_id": 1}', "INVALID_QUERY"),
        (b'{"search": "x", "study_id": "../1"}', "INVALID_ID"),
        (b'{"search": "x", "series": "1"}', "INVALID_QUERY"),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else value,
)
def test_what_is_no_search_is_refused_and_not_repeated(tmp_path: Path, body: bytes, code: str) -> None:
    with serve(tmp_path, for_operator=True) as pacs:
        answer = pacs.client.post("/series/search", content=body, headers=HEADERS)
    status = 400 if code == "INVALID_JSON" else 422
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "xx" not in answer.text


def test_anything_is_searched_for(tmp_path: Path) -> None:
    save(tmp_path, [series(0, SeriesDescription="50% [a*b?] \u2203")])
    with serve(tmp_path, for_operator=True) as pacs:
        for text in ("50%", "[a*b?]", "\u2203"):
            assert pacs.found(text) == (["1.2.0.1"], False)
        for text in ("%", "*", "?", "_", "'", "\x00", "\n.", "\ud800", "x" * 200):
            answer = pacs.client.post("/series/search", content=json.dumps({"search": text}), headers=HEADERS)
            assert answer.status_code == 200


def test_a_search_needs_the_key_and_is_a_post(tmp_path: Path) -> None:
    with serve(tmp_path, for_operator=True) as pacs:
        assert pacs.client.post("/series/search", json={"search": NAME}).status_code == 401
        assert pacs.client.post("/series", json={"search": NAME}, headers=HEADERS).status_code == 405
        got = pacs.get("/series/search")
        assert (got.status_code, got.headers["allow"]) == (405, "POST")
        refused = pacs.get(f"/series?search={NAME}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "INVALID_QUERY")
    assert NAME not in refused.text
    with serve(tmp_path) as algorithms:
        assert algorithms.search(NAME).status_code == 405


def test_pages_of_the_client_may_search_and_read_whether_there_is_more(tmp_path: Path) -> None:
    ours, other = "http://localhost:3000", "https://evil.example"
    with serve(tmp_path, for_operator=True, allow_origins=(ours,)) as pacs:

        def preflight(origin: str) -> httpx.Response:
            asked = {"origin": origin, "access-control-request-method": "POST"}
            return pacs.client.options("/series/search", headers=asked)

        allowed = preflight(ours)
        assert allowed.status_code == 200
        assert "POST" in allowed.headers["access-control-allow-methods"]
        assert {"x-api-key", "content-type"} <= set(allowed.headers["access-control-allow-headers"].split(", "))
        assert preflight(other).status_code == 405
        assert "x-more-series" in pacs.search("x").headers["access-control-expose-headers"]


# A folder


def test_all_of_a_folder_is_looked_through_and_a_list_says_that_it_ends_early(tmp_path: Path) -> None:
    series(1000, SeriesDescription="plain").save_as(tmp_path / "1000.dcm")
    plain = (tmp_path / "1000.dcm").read_bytes()
    for number in range(1001, 2099):
        (tmp_path / f"{number}.dcm").write_bytes(plain.replace(b"1.2.1000", b"1.2.%d" % number))
    series(2099, SeriesDescription="the last one").save_as(tmp_path / "2099.dcm")
    with serve(tmp_path, for_operator=True) as pacs:
        eventually(lambda: pacs.get("/series?limit=1").status_code == 200, 60)
        assert pacs.found("LAST one") == (["1.2.2099.1"], False)
        _, is_more = pacs.found("plain", limit=1000)
        assert is_more
        for query, count, more in (
            ("", 100, "true"),
            ("?limit=1000", 1000, "true"),
            ("?study_id=1.2.1003", 1, "false"),
        ):
            answer = pacs.get(f"/series{query}")
            assert (len(answer.json()), answer.headers["x-more-series"]) == (count, more)


def test_what_a_series_is_called_is_what_its_first_file_says_now(tmp_path: Path) -> None:
    for name, text in (("b", "second"), ("a", "first")):
        image = series(0, SeriesDescription=text, SOPInstanceUID=f"1.2.0.1.{ord(name)}")
        image.save_as(tmp_path / f"{name}.dcm")
    with serve(tmp_path, for_operator=True) as pacs:
        assert pacs.found("first") == (["1.2.0.1"], False)
        assert pacs.found("second") == ([], False)
        series(0, SeriesDescription="renamed").save_as(tmp_path / "a.dcm")
        eventually(lambda: pacs.found("renamed") == (["1.2.0.1"], False))
        assert pacs.found("first") == ([], False)


def test_an_index_that_is_deleted_meanwhile_is_read_on_and_made_anew_at_the_next_start(tmp_path: Path) -> None:
    folder, index = tmp_path / "pacs", tmp_path / "index.db"
    write_image(folder / "1.dcm", "1.2", "1.2.3")
    with serve(folder, cache_db=index, for_operator=True) as pacs:
        eventually(lambda: pacs.get("/series").status_code == 200)
        for file in tmp_path.glob("index.db*"):
            file.unlink()
        assert pacs.get("/series").status_code == 200
        assert pacs.found("ct") == (["1.2.3"], False)
        write_image(folder / "2.dcm", "1.2", "1.2.4")
        eventually(lambda: pacs.found("ct") == (["1.2.3", "1.2.4"], False))
        assert not list(tmp_path.glob("index.db*"))
    with serve(folder, cache_db=index, for_operator=True) as pacs:
        assert pacs.found("ct") == (["1.2.3", "1.2.4"], False)


def test_an_index_of_before_is_made_anew(tmp_path: Path) -> None:
    import sqlite3

    folder, index = tmp_path / "pacs", tmp_path / "index.db"
    write_image(folder / "1.dcm", "1.2", "1.2.3")
    with serve(folder, cache_db=index, for_operator=True) as pacs:
        assert pacs.found("ct") == (["1.2.3"], False)
    with sqlite3.connect(index) as database:
        database.execute("PRAGMA user_version = 1")
        database.execute("ALTER TABLE files DROP COLUMN modality")
    database.close()
    with serve(folder, cache_db=index, for_operator=True) as pacs:
        assert pacs.found("ct") == (["1.2.3"], False)


# A DICOMweb server


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """With five series that have something of their own, and 120 that are alike."""
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        running.store(
            [
                series(0, PatientName="Rossi^Mario", StudyDescription="Abdomen CT", SeriesDescription="portal"),
                series(1, PatientName="BIANCHI^ANNA", SeriesDescription="LUNG", Modality="PT"),
                series(2, PatientName="Müller^Jürgen", StudyDescription="Übersicht", PatientID="ID-2x"),
                series(3, AccessionNumber="ACC 3", StudyDate="20210315"),
                series(4, PatientName="Rossi^Anna", SeriesDescription="chest"),
                *(series(number, StudyDescription="alike") for number in range(100, 220)),
            ]
        )
        yield running


@pytest.fixture
def server(orthanc: Orthanc) -> Iterator[Pacs]:
    with serve_dicomweb(DicomwebServer(orthanc.base, orthanc.authorization())) as running:
        yield running


@pytest.mark.needs("Orthanc", "setpriv")
@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("rossi", [0, 4]),
        ("ROSSI mario", [0]),
        ("Rossi, Mario", [0]),
        ("Rossi^Mario", [0]),
        ("rossi abdomen", [0]),
        ("anna", [1, 4]),
        ("müller", [2]),
        ("ÜBERSICHT", [2]),
        ("id-2X", [2]),
        ("acc 3", [3]),
        ("portal", [0]),
        ("lung", [1]),
        ("pt lung", [1]),
        ("2021", [3]),
        ("202103", [3]),
        ("20210315", [3]),
        ("2021-03-15", [3]),
        ("2021-03", [3]),
        ("1.2.3", [3]),
        ("1.2.3.1", [3]),
        ("2.4.1", [4]),
        ("rossi lung", []),
        ("20210230", []),
        ("R?ssi", []),
        ("Ro*si", []),
    ],
)
def test_a_server_finds_patients_descriptions_dates_and_uids(server: Pacs, text: str, numbers: list[int]) -> None:
    found, is_more = server.found(text)
    assert (sorted(found), is_more) == ([f"1.2.{number}.1" for number in numbers], False)


@pytest.mark.needs("Orthanc", "setpriv")
def test_a_server_s_lists_say_where_they_end_early_and_no_patient(server: Pacs) -> None:
    found, is_more = server.found("alike", limit=50)
    assert (len(set(found)), is_more) == (50, True)
    found, is_more = server.found("alike", limit=120)
    assert (len(set(found)), is_more) == (120, False)
    for limit, count, more in ((100, 100, "true"), (125, 125, "false"), (124, 124, "true")):
        answer = server.get(f"/series?limit={limit}")
        assert (len(answer.json()), answer.headers["x-more-series"]) == (count, more)
    answer = server.search("rossi")
    assert "Rossi" not in answer.text and answer.json()[0].keys() == server.get("/series").json()[0].keys()
    assert server.found("alike", study_id="1.2.100") == (["1.2.100.1"], False)
    assert server.found("rossi", study_id="1.2.100") == ([], False)
    assert server.found("rossi", study_id="a/b") == ([], False)


Items = list[dict[str, Any]]
Say = Callable[[BaseHTTPRequestHandler, dict[str, str]], tuple[int, Any]]


@dataclass
class Server:
    """Answers ``say(request, query)``: a status, and JSON or bytes."""

    say: Say
    base: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def behind(say: Say, **limits: float) -> Iterator[tuple[Pacs, Server]]:
    """The PACS API before such a server."""
    told = Server(say)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}
            told.asked.append(query)
            status, body = told.say(self, query)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            with suppress(OSError):
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http_server.daemon_threads, http_server.block_on_close = True, False
    threading.Thread(target=http_server.serve_forever, args=(0.01,), daemon=True).start()
    told.base = f"http://127.0.0.1:{http_server.server_port}/rs"
    try:
        with serve_dicomweb(DicomwebServer(told.base), limits=Limits(**limits)) as pacs:
            yield pacs, told
    finally:
        http_server.shutdown()
        http_server.server_close()


def item(number: int, text: str = "", **more: Any) -> dict[str, Any]:
    """A series as servers say it."""
    said = {"0020000D": f"1.2.{number}", "0020000E": f"1.2.{number}.1", "0008103E": text, **more}
    return {tag: {"Value": [value]} for tag, value in said.items()}


def page(items: Items, query: dict[str, str]) -> Items:
    first = int(query["offset"])
    return items[first : first + int(query["limit"])]


def by_description(items: Items) -> Say:
    """Matches by Series Description alone, upper and lower case apart, and refuses all else."""

    def say(_: BaseHTTPRequestHandler, query: dict[str, str]) -> tuple[int, Any]:
        if (pattern := query.get("SeriesDescription")) is None:
            return 400, b"unknown attribute"
        return 200, page([one for one in items if fnmatchcase(one["0008103E"]["Value"][0], pattern)], query)

    return say


def test_what_a_server_can_match_is_all_where_it_refuses_the_rest() -> None:
    with behind(by_description([item(0, "Liver"), item(1, "LIVER"), item(2, "liver"), item(3, "lung")])) as (
        pacs,
        _,
    ):
        found, is_more = pacs.found("Liver")
        assert (sorted(found), is_more) == (["1.2.0.1", "1.2.1.1", "1.2.2.1"], False)


@pytest.mark.parametrize(("count", "is_more"), [(4000, False), (6000, True)])
def test_a_server_that_matches_by_nothing_is_looked_through_once(count: int, is_more: bool) -> None:
    items = [*(item(number, "lung") for number in range(count)), item(9999, "liver")]
    items.insert(3000, item(9998, "Liver"))
    with behind(lambda _, query: (200, page(items, query))) as (pacs, server):
        found, more = pacs.found("liver")
    assert (found, more) == (["1.2.9998.1"] if is_more else ["1.2.9998.1", "1.2.9999.1"], is_more)
    assert len(server.asked) < 25
    by_all = [int(query["offset"]) for query in server.asked if "SeriesDescription" not in query]
    assert len([offset for offset in by_all if offset]) <= 5


def test_a_server_that_matches_more_loosely_is_believed() -> None:
    items = [item(number, "Mueller liver" if number % 2 else "muller") for number in range(4000)]

    def say(_: BaseHTTPRequestHandler, query: dict[str, str]) -> tuple[int, Any]:
        return 200, page(items if "SeriesDescription" in query else [], query)

    with behind(say) as (pacs, server):
        found, is_more = pacs.found("muller", limit=1000)
    assert (len(found), is_more) == (1000, True)
    assert all(len(query) > 3 for query in server.asked), "all series are looked through"


def test_a_server_that_does_not_match_by_all_attributes_can_be_used() -> None:
    async def look(base: str) -> MipError | None:
        archive = DicomwebArchive(DicomwebServer(base), LinkSigner())
        try:
            with suppress(MipError):
                await archive.describe(None, None, 10, "lung")
            return archive.trouble
        finally:
            await archive.close()

    with behind(lambda *_: (400, b"")) as (_, server):
        assert asyncio.run(look(server.base)) is None
    with behind(lambda *_: (503, b"")) as (_, server):
        assert asyncio.run(look(server.base)) is not None


def test_a_server_that_refuses_everything_is_a_failure() -> None:
    for status, answered, code in ((400, 424, "PACS_REFUSED"), (503, 503, "PACS_UNAVAILABLE")):
        with behind(lambda *_, status=status: (status, b"")) as (pacs, _):
            answer = pacs.search(NAME)
            assert (answer.status_code, answer.json()["error"]["code"]) == (answered, code)
            assert NAME not in answer.text


def test_a_server_that_finds_whatever_it_is_asked_is_not_believed() -> None:
    items = [item(0, "liver"), item(1, "lung"), {"0008103E": {"Value": ["liver"]}}, {"0020000D": "x"}]
    odd = [item(4, "liver", **{"0020000D": "../../x"}), item(5, "", **{"00100010": {"Alphabetic": "Liver^X"}})]
    with behind(lambda _, query: (200, page([*items, *odd], query))) as (pacs, _):
        found, is_more = pacs.found("liver")
        assert (sorted(found), is_more) == (["1.2.0.1", "1.2.5.1"], False)
        assert pacs.found("liver", study_id="1.2.0") == (["1.2.0.1"], False)


@pytest.mark.parametrize(
    "body", [b"{", b"[1]", b"{}", b"null", b"[" * 100_000, json.dumps([{"0020000D": {"Value": [{}]}}]).encode()]
)
def test_an_answer_that_is_none_finds_nothing(body: bytes) -> None:
    with behind(lambda *_: (200, body)) as (pacs, _):
        answer = pacs.search("liver")
    assert (
        answer.json() == [] if answer.status_code == 200 else answer.json()["error"]["code"] == "PACS_UNAVAILABLE"
    )
    assert answer.status_code == (200 if body.startswith(b"[{") else 503)


def test_a_server_without_an_end_is_left_at_one() -> None:
    def endless(_: BaseHTTPRequestHandler, query: dict[str, str]) -> tuple[int, Any]:
        first = int(query["offset"])
        return 200, [item(number, "lung") for number in range(first, first + int(query["limit"]))]

    with behind(endless) as (pacs, server):
        assert pacs.found("liver", limit=1000) == ([], True)
        assert max(int(query["offset"]) for query in server.asked) <= 5000
        found, is_more = pacs.found("lung", limit=7)
        assert (len(found), is_more) == (7, True)
        answer = pacs.get("/series?limit=7")
        assert (len(answer.json()), answer.headers["x-more-series"]) == (7, "true")


def test_what_was_found_until_a_server_fell_silent_is_told() -> None:
    silent = threading.Event()

    def say(_: BaseHTTPRequestHandler, query: dict[str, str]) -> tuple[int, Any]:
        if "SeriesDescription" not in query:
            silent.wait(60)
        return 200, page([item(0, "liver")], query)

    with behind(say, look_s=5) as (pacs, _):
        try:
            assert pacs.found("liver") == (["1.2.0.1"], True)
        finally:
            silent.set()


def test_that_nothing_was_found_until_then_is_told_as_well() -> None:
    silent = threading.Event()

    def say(_: BaseHTTPRequestHandler, query: dict[str, str]) -> tuple[int, Any]:
        if "SeriesDescription" not in query or int(query["offset"]):
            silent.wait(60)
        return 200, page([item(0, "liver, left")], query)

    with behind(say, look_s=5) as (pacs, _):
        try:
            assert pacs.found("liver right") == ([], True)
        finally:
            silent.set()


def test_a_search_does_not_keep_others_from_being_asked() -> None:
    """The server has no end of what the first asks for, and answers as long as that waits."""
    is_far, is_found = threading.Event(), threading.Event()

    def say(_: BaseHTTPRequestHandler, query: dict[str, str]) -> tuple[int, Any]:
        if not any("busy" in value.lower() for value in query.values()):
            return 200, page([item(0, "liver")], query)
        if int(query["offset"]) and not is_found.is_set():
            is_far.set()
            is_found.wait(0.2)
        first = int(query["offset"])
        return 200, [item(number, "busy") for number in range(first, first + 10)]

    with behind(say, look_s=10) as (pacs, _):
        first = threading.Thread(target=pacs.search, args=("busy bee",))
        first.start()
        try:
            assert is_far.wait(30)
            assert pacs.found("liver") == (["1.2.0.1"], False)
        finally:
            is_found.set()
            first.join(30)


def test_a_search_that_was_not_asked_says_so() -> None:
    silent, all_asked = threading.Event(), threading.Semaphore(0)

    def say(*_: Any) -> tuple[int, Any]:
        all_asked.release()
        silent.wait(60)
        return 200, []

    async def look(base: str) -> list[str]:
        archive = DicomwebArchive(DicomwebServer(base), LinkSigner(), limits=Limits(look_s=3))
        try:
            first = asyncio.create_task(archive.describe(None, None, 10, "liver"))
            for _ in range(8):
                assert await asyncio.to_thread(all_asked.acquire, timeout=30)
            archive._limits = Limits(look_s=0.3)  # ends before the first does
            second = asyncio.create_task(archive.describe(None, None, 10, "lung"))
            return [str(error) for error in await asyncio.gather(second, first, return_exceptions=True)]
        finally:
            silent.set()
            await archive.close()

    with behind(say) as (_, server):
        waited, slow = asyncio.run(look(server.base))
    assert "not asked" in waited and "took longer" in slow


def test_a_server_that_says_nothing_is_a_failure_after_a_while() -> None:
    silent = threading.Event()

    def say(*_: Any) -> tuple[int, Any]:
        silent.wait(60)
        return 200, []

    with behind(say, look_s=0.5) as (pacs, _):
        try:
            answer = pacs.search("liver")
        finally:
            silent.set()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "PACS_UNAVAILABLE")


def test_a_search_that_nobody_waits_for_ends() -> None:
    silent = threading.Event()
    arrived = threading.Event()

    def say(_: BaseHTTPRequestHandler, query: dict[str, str]) -> tuple[int, Any]:
        if any("gone" in value for value in query.values()):
            arrived.set()
            silent.wait(60)
        return 200, page([item(0, "liver")], query)

    with behind(say, look_s=50) as (pacs, _):
        try:
            for _ in range(3):  # of which each alone would take all the room there is
                arrived.clear()
                leaving = http.client.HTTPConnection("127.0.0.1", pacs.port)
                leaving.request("POST", f"{pacs.mount}/series/search", b'{"search": "gone"}', HEADERS)
                assert arrived.wait(30)
                leaving.close()
            assert pacs.found("liver") == (["1.2.0.1"], False)
        finally:
            silent.set()


LOOK = """
import asyncio, sys
from contextlib import suppress
from medical_image_processing.errors import MipError
from medical_image_processing.pacs.dicomweb import DicomwebArchive
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.retrieve import DicomwebServer
from {module} import configure_logging

async def look():
    archive = DicomwebArchive(DicomwebServer(sys.argv[1]), LinkSigner())
    with suppress(MipError):
        await archive.describe(None, None, 10, sys.argv[2])
    await archive.check()
    await archive.close()

configure_logging()
asyncio.run(look())
"""


@pytest.mark.parametrize("module", ["entrypoints.server", "entrypoints.lambdas.json_log"])
@pytest.mark.parametrize("status", [200, 400, 503])
def test_a3_what_was_searched_for_is_in_no_log(module: str, status: int) -> None:
    with behind(lambda *_: (status, [])) as (_, server):
        script = LOOK.format(module=f"medical_image_processing.{module}")
        command = [sys.executable, "-c", script, server.base, "Zzyzx"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert any("zzyzx" in value.lower() for query in server.asked for value in query.values())
    assert "zzyzx" not in (done.stdout + done.stderr).lower()
