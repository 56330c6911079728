"""Makes the tables of ``docs/conformance.md`` from the code.

    .venv/bin/python docs/make_conformance.py

What stands between ``<!-- made: NAME -->`` and ``<!-- end -->`` is made here, the rest is written by hand.
Requests are those that the code sends to a server that notes them, objects and codes those that the writers write
of pydicom's small CT and MR, statuses and limits those that the code acts on: nothing here is a list of its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import io
import json
import logging
import re
import tempfile
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from email.message import Message
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pydicom
from pydicom import uid as uids
from pydicom.datadict import dictionary_description, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from medical_image_processing.dicom import header, pixels
from medical_image_processing.dicom.derived import Making
from medical_image_processing.dicom.encode import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
)
from medical_image_processing.dicom.grayscale_capture import write_grayscale_capture
from medical_image_processing.dicom.image import Image
from medical_image_processing.dicom.measurement_report import write_measurement_report
from medical_image_processing.dicom.read import read_image, read_series
from medical_image_processing.dicom.secondary_capture import write_secondary_capture
from medical_image_processing.dicom.segmentation import write_segmentation
from medical_image_processing.dicom.segments import ARTIFICIAL_INTELLIGENCE, TISSUE
from medical_image_processing.errors import InputRejected, MipError, TransientError
from medical_image_processing.pacs.dicomweb import DicomwebArchive
from medical_image_processing.pacs.http import STATUS
from medical_image_processing.pacs.instances import Instance
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.retrieve import DicomwebServer, Limits, Line
from medical_image_processing.pacs.store import DicomwebWriter
from medical_image_processing.processing.processing_1 import Processing1
from medical_image_processing.worker.segments import read_segments

PAGE = Path(__file__).with_name("conformance.md")
_PLACE = re.compile(r"(?<=<!-- made: )([a-z-]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
_STUDY, _SERIES, _IMAGE = "1.2.3", "1.2.3.4", "1.2.3.4.5"
_NAMES = {_STUDY: "{study}", _SERIES: "{series}", _IMAGE: "{instance}"}
_MATCHED = {
    "PatientName",
    "PatientID",
    "AccessionNumber",
    "StudyDate",
    "StudyDescription",
    "StudyInstanceUID",
    "Modality",
    "SeriesDescription",
    "SeriesInstanceUID",
}
_SAMPLES = ("CT_small.dcm", "MR_small.dcm")
_NOT_HERE = "Not part of this version.\n"

Table = Callable[[], str]


def main() -> None:
    """Write the page."""
    warnings.simplefilter("ignore")  # of pydicom's broken files
    logging.disable(logging.CRITICAL)  # a server that refuses is what is tried here
    PAGE.write_text(page())


def page() -> str:
    """The page as it is, with its tables made again."""
    return _PLACE.sub(lambda place: f"{place[1]}{place[2]}{TABLES[place[1]]()}", PAGE.read_text())


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """In Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)


# What is asked of a DICOMweb server


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request as the server saw it."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: Message


class NotingServer:
    """Answers every search with one instance, the rest with ``status`` and ``body``; notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.status, self.body, self.search_status = 200, b"", 200
        noting = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                noting._answer(self)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self._server.server_port}/rs"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        sent = b""
        while request.command == "POST" and (size := int(request.rfile.readline().split(b";")[0], 16)):
            sent += request.rfile.read(size + 2)[:-2]
        parts = urlsplit(request.path)
        path = parts.path.removeprefix("/rs")
        self.asked.append(Asked(request.command, path, parse_qsl(parts.query), request.headers))
        is_search = request.command == "GET" and path.rpartition("/")[2] in ("studies", "series", "instances")
        found = {
            header.STUDY_INSTANCE_UID: _STUDY,
            header.SERIES_INSTANCE_UID: _SERIES,
            header.SOP_INSTANCE_UID: _IMAGE,
            0x00201209: 1,
        }
        item = {f"{tag:08X}": {"Value": [value]} for tag, value in found.items()}
        request.send_response(self.search_status if is_search else self.status)
        request.send_header("content-type", "application/dicom+json" if is_search else "application/dicom")
        body = json.dumps([item]).encode() if is_search else self.body
        if sent and self.status in (200, 202):
            body = _said_of(sent)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
        request.close_connection = True


def _said_of(sent: bytes) -> bytes:
    """The answer to an instance that was stored (PS3.18, section I.2)."""
    uid = pydicom.dcmread(io.BytesIO(sent.partition(b"\r\n\r\n")[2])).SOPInstanceUID
    return json.dumps({"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}}]}}).encode()


@contextmanager
def noting_server() -> Iterator[NotingServer]:
    """One that runs."""
    server = NotingServer()
    try:
        yield server
    finally:
        server.close()


def call(server: NotingServer, use: Callable[[DicomwebArchive], Awaitable[Any]]) -> None:
    """Let the code that speaks to servers do something with this one."""

    async def run() -> None:
        archive = DicomwebArchive(DicomwebServer(server.base), LinkSigner())
        try:
            await use(archive)
        finally:
            await archive.close()

    asyncio.run(run())


async def _read_series(archive: DicomwebArchive) -> None:
    bundle = await archive.bundle(_STUDY, _SERIES)
    async for _ in bundle.pieces:
        pass


async def _read_image(archive: DicomwebArchive) -> None:
    for _ in archive._instances_of.one(Instance(_STUDY, _SERIES, _IMAGE), Line()):
        pass


async def _store(archive: DicomwebArchive) -> None:
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        file.write(sample(_SAMPLES[0]))
        file.flush()
        await DicomwebWriter(archive).store(Path(file.name), "")


CALLS: dict[str, Callable[[DicomwebArchive], Awaitable[Any]]] = {
    "list studies": lambda archive: archive.studies(),
    "see whether the server answers": lambda archive: archive.check(),
    "describe series": lambda archive: archive.describe(None, None, 100),
    "describe the series of a study": lambda archive: archive.describe(_STUDY, None, 100),
    "describe one series": lambda archive: archive.describe(None, _SERIES, 1),
    "list a study's images": lambda archive: archive.images(_STUDY, None),
    "list a series' images": lambda archive: archive.images(_STUDY, _SERIES),
    "find an image": lambda archive: archive.image(_STUDY, _SERIES, _IMAGE),
    "read a series": _read_series,
    "read an image": _read_image,
    "store a result": _store,
}


def requests_of(method: str, *, searches: bool) -> list[tuple[str, Asked]]:
    """What each call asks, where it is of that kind, once."""
    found: dict[tuple[str, str], tuple[str, Asked]] = {}
    for purpose, use in CALLS.items():
        with noting_server() as server:
            server.body = sample_of_uids()
            server.search_status = 204 if purpose == "store a result" else 200
            call(server, use)
            # Some are asked side by side.
            for asked in sorted(server.asked, key=lambda one: (one.path, one.query)):
                is_search = asked.method == "GET" and asked.path.rpartition("/")[2] in (
                    "studies",
                    "series",
                    "instances",
                )
                if asked.method == method and is_search is searches:
                    found.setdefault((named(asked.path), str(named_query(asked.query))), (purpose, asked))
    return list(found.values())


def named(text: str) -> str:
    """With placeholders for UIDs."""
    own = pydicom.dcmread(io.BytesIO(sample(_SAMPLES[0])), stop_before_pixels=True)
    names = {
        str(own.SOPInstanceUID): "{instance}",
        str(own.SeriesInstanceUID): "{series}",
        str(own.StudyInstanceUID): "{study}",
    } | {value: _NAMES[value] for value in sorted(_NAMES, key=len, reverse=True)}
    for value, name in names.items():
        text = re.sub(rf"(?<![\d.]){re.escape(value)}(?![\d.])", name, text)
    return text


def named_query(query: list[tuple[str, str]]) -> list[str]:
    """Parameters for people: tags with their names."""
    said = []
    for name, value in query:
        tag = int(value, 16) if name == "includefield" else 0
        meant = f" {dictionary_description(tag)}" if tag else ""
        said.append(f"`{name}={named(value)}`{meant}")
    return said


def qido() -> str:
    """The searches."""
    rows = [
        (
            f"`GET {named(asked.path)}`",
            "; ".join(named_query(asked.query)),
            f"`{asked.headers['accept']}`",
            purpose,
        )
        for purpose, asked in requests_of("GET", searches=True)
    ]
    return table(("resource", "query parameters", "Accept", "to"), rows)


def matching() -> str:
    """What the server is asked to match when a person searches, for each kind of word."""
    rows = []
    for kind, word in (("a word", "Smith"), ("digits that may be a date", "202401"), ("a UID", _STUDY)):
        with noting_server() as server:
            server.search_status = 204
            call(server, partial(_find, word))
            firsts = [asked.query for asked in server.asked if ("offset", "0") in asked.query]
        given = sorted({f"{name}={named(value)}" for query in firsts for name, value in query if name in _MATCHED})
        asked_for = {value for query in firsts for name, value in query if name == "includefield"}
        more = (
            "; and, without any, the first of all series"
            if any(not _MATCHED & dict(q).keys() for q in firsts)
            else ""
        )
        rows.append(
            (f"{kind}, `{named(word)}`", ", ".join(f"`{one}`" for one in given) + more, _names_of(asked_for))
        )
    return table(("typed", "one request each with", "asked for beside it"), rows)


async def _find(word: str, archive: DicomwebArchive) -> None:
    await archive.describe(None, None, 100, word)


def _names_of(tags: set[str]) -> str:
    return ", ".join(dictionary_description(int(tag, 16)) for tag in sorted(tags))


def wado() -> str:
    """The downloads."""
    rows = [
        (f"`GET {named(asked.path)}`", f"`{asked.headers['accept']}`", purpose)
        for purpose, asked in requests_of("GET", searches=False)
    ]
    return table(("resource", "Accept", "to"), rows)


def stow() -> str:
    """What is stored."""
    rows = [
        (
            f"`POST {named(asked.path)}`",
            f"`{re.sub('boundary=.*', 'boundary=…', asked.headers['content-type'])}`",
            f"`{asked.headers['accept']}`",
            purpose,
        )
        for purpose, asked in requests_of("POST", searches=False)
    ]
    return table(("resource", "Content-Type", "Accept", "to"), rows)


# What is made of a server's answers


def statuses() -> str:
    """By what was asked."""
    rows = []
    for status in (200, 202, 204, 301, 400, 401, 403, 404, 406, 409, 410, 415, 429, 500, 503):
        cells = [outcome(status, b"", purpose) for purpose in ("list studies", "read an image", "store a result")]
        rows.append((status, *cells))
    return table(("status", "search", "retrieve", "store"), rows)


def reasons() -> str:
    """Failure reasons of a store."""
    rows = []
    for reason in (0x0110, 0x0111, 0x0122, 0xA700, 0xA900, 0xC000):
        failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}}]}}
        rows.append((f"{reason:04X}H", outcome(409, json.dumps(failed).encode(), "store a result")))
    return table(("failure reason (0008,1197)", "outcome"), rows)


def outcome(status: int, body: bytes, purpose: str) -> str:
    """What one answer is made into."""
    with noting_server() as server:
        server.status, server.body = status, body or (sample_of_uids() if purpose == "read an image" else b"")
        if purpose == "list studies":
            server.search_status = status
        elif purpose == "store a result":
            server.search_status = 204
        try:
            call(server, CALLS[purpose])
        except MipError as error:
            return f"`{error.code}`, {'tried again' if isinstance(error, TransientError) else 'failed for good'}"
    return "good"


def limits() -> str:
    """How long a server may take."""
    says = {
        "connect_s": "to accept a connection",
        "wait_s": "until the next byte, and until an answer's headers are here",
        "stall_s": "in which at least the bytes below come while an image is read",
        "stall_bytes": "the least that comes in that time, bytes",
        "total_s": "to send one image or series, or to take one result",
        "search_s": "to answer a search, all its pages together",
        "look_s": "a search that a person waits for takes no longer",
    }
    defaults = dataclasses.asdict(Limits())
    rows = [
        (says[name], f"{value:g} s" if name.endswith("_s") else f"{value:,}") for name, value in defaults.items()
    ]
    return table(("time", "limit"), rows)


def pacs_statuses() -> str:
    """Of our own REST API."""
    rows = [(status, (kind.__doc__ or "").replace("``", "`")) for kind, status in STATUS]
    return table(("status", "when"), [(200, "What was asked for."), *rows, (500, "Any other failure.")])


# What is read


def transfer_syntaxes() -> str:
    """Of all that the standard has."""
    readable = [(syntax, by) for syntax in uids.AllTransferSyntaxes if (by := pixels.decoders_of(syntax))]
    return table(
        ("transfer syntax", "UID", "decoded by"), [(s.name, f"`{s}`", ", ".join(by)) for s, by in readable]
    )


def unread() -> str:
    """Of those with pixels."""
    names = [syntax.name for syntax in uids.AllTransferSyntaxes if not pixels.decoders_of(syntax)]
    return "Not read: " + "; ".join(names) + ".\n"


def read_classes() -> str:
    """The storage classes of pydicom's own files that are read."""
    found = set()
    for path in sorted(_FILES.glob("*.dcm")):
        data = path.read_bytes()
        try:
            read_image(data)
            found.add(str(pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True).SOPClassUID))
        except InputRejected:
            pass
    rows = sorted((uids.UID(one).name, f"`{one}`") for one in found)
    return table(("SOP class", "UID"), rows)


# What is written


def sample(name: str, number: int = 0) -> bytes:
    """A file of pydicom's; with a number, a slice that far along its normal."""
    dataset = pydicom.dcmread(_FILES / name)
    dataset.InstanceNumber = 77 + number  # not what results have
    if number:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.{number}"
        across, down, along = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [across, down, along + number]
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def sample_of_uids() -> bytes:
    """An image that is the one that the noting server tells of."""
    dataset = pydicom.dcmread(io.BytesIO(sample(_SAMPLES[0])))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = _STUDY, _SERIES
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = _IMAGE
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def making(name: str) -> Making:
    """Another for each sample, so that what is fixed shows."""
    revision = _SAMPLES.index(name) + 1
    made_at = datetime(2026, revision, 3 + revision, 5, 6, 7 + revision)
    return Making(f"job-{revision}", f"algo-{revision}", revision, f"description {revision}", made_at, "")


def results(name: str) -> dict[str, Dataset]:
    """What the writers write of one sample."""
    how = making(name)
    count = 3 + _SAMPLES.index(name)
    slice_, volume = read_image(sample(name)), read_series([sample(name, at) for at in range(1, 1 + count)])
    written = {
        "SC": write_secondary_capture(slice_, mask(slice_), **vars(how)),
        "SC, grayscale": write_grayscale_capture(slice_, slice_.pixels, **vars(how)),
        "MF SC, colour": write_secondary_capture(volume, mask(volume), **vars(how)),
        "MF SC, byte": write_grayscale_capture(volume, mask(volume), **vars(how)),
        "MF SC, word": write_grayscale_capture(volume, volume.pixels, **vars(how)),
        "SEG": write_segmentation(volume, segments(volume, name), how),
        "SR": write_measurement_report(volume, segments(volume, name), how),
    }
    return {kind: pydicom.dcmread(io.BytesIO(data)) for kind, data in written.items()}


def mask(image: Image) -> np.ndarray[Any, Any]:
    """Some of it."""
    inside = np.zeros(image.pixels.shape, np.uint8)
    inside[..., 10:20, 10:30] = 1
    return inside


def segments(image: Image, name: str) -> Any:
    """As processing_1 says what it found."""
    result = Processing1().run(image.pixels)
    return read_segments({**result, "mask": mask(image)}, mask(image), algo_id=making(name).algo_id)


def written_classes() -> str:
    """The storage classes."""
    found: dict[str, list[str]] = {}
    for kind, dataset in results(_SAMPLES[0]).items():
        found.setdefault(str(dataset.SOPClassUID), []).append(kind)
    rows = [(uids.UID(one).name, f"`{one}`", " · ".join(kinds)) for one, kinds in found.items()]
    return table(("SOP class", "UID", "in the tables below"), rows)


def written_syntaxes() -> str:
    """All that the writers use."""
    found = {str(dataset.file_meta.TransferSyntaxUID) for dataset in results(_SAMPLES[0]).values()}
    assert found == {EXPLICIT_VR_LITTLE_ENDIAN}
    return table(("transfer syntax", "UID"), [(uids.UID(one).name, f"`{one}`") for one in sorted(found)])


def attributes() -> str:
    """The top level of each object: a dot where it is there, and where its value is from."""
    one, other = (results(name) for name in _SAMPLES)
    kinds = list(one)
    tags = sorted({element.tag for kind in kinds for element in one[kind]})
    rows = []
    for tag in tags:
        there = ["•" if tag in one[kind] else "" for kind in kinds]
        some = next(kind for kind in kinds if tag in one[kind])
        element = one[some][tag]
        name = f"({tag.group:04X},{tag.element:04X}) {dictionary_description(tag)}"
        rows.append((name, element.VR, value_of(tag, one, other), *there))
    return table(("attribute", "VR", "value", *kinds), rows)


def value_of(tag: Any, one: dict[str, Dataset], other: dict[str, Dataset]) -> str:
    """Where it is from; the value itself where it is always the same."""
    sources = [pydicom.dcmread(io.BytesIO(sample(name)), stop_before_pixels=True) for name in _SAMPLES]
    both = [
        (text_of(made[kind][tag]), text_of(source.get(tag)))
        for made, source in zip((one, other), sources, strict=True)
        for kind in made
        if tag in made[kind]
    ]
    vr = next(made[tag].VR for made in one.values() if tag in made)
    values = {value for value, _ in both}
    if tag in header.CARRIED_ON or all(value == its for value, its in both):
        return "source"
    if vr == "SQ":
        return "items"
    if (
        vr in ("CS", "IS", "US", "LO", "AT", "LT")
        and len(values) <= 4
        and all(value and len(value) < 60 for value in values)
    ):
        fixed = {kind: {text_of(made[kind][tag]) for made in (one, other)} for kind in one if tag in one[kind]}
        if all(len(same) == 1 for same in fixed.values()):
            return " or ".join(f"`{value}`" for value in sorted(values, key=lambda value: (len(value), value)))
    return "made"


def text_of(element: Any) -> str:
    """The value as it stands in a file."""
    value = None if element is None else element.value
    if isinstance(value, MultiValue | list):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def tree() -> str:
    """The report's content, item under item (TID 1500)."""
    report = results(_SAMPLES[0])["SR"]
    rows: list[tuple[str, ...]] = []

    def walk(item: Dataset, depth: int) -> None:
        name = item.get("ConceptNameCodeSequence")
        template = item.get("ContentTemplateSequence")
        rows.append(
            (
                "›" * depth,
                item.get("RelationshipType", ""),
                item.ValueType,
                coded(name[0]) if name else "",
                f"TID {template[0].TemplateIdentifier}" if template else "",
                content(item),
            )
        )
        for child in item.get("ContentSequence", ()):
            walk(child, depth + 1)

    walk(report, 0)
    return table(("", "relationship", "type", "concept name", "template", "value"), rows)


def content(item: Dataset) -> str:
    """What stands in a content item."""
    match item.ValueType:
        case "CODE":
            return coded(item.ConceptCodeSequence[0])
        case "NUM":
            return f"in {coded(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0])}"
        case "IMAGE":
            reference = item.ReferencedSOPSequence[0]
            segment = ", segment number" if "ReferencedSegmentNumber" in reference else ""
            return f"{uids.UID(reference.ReferencedSOPClassUID).name}{segment}"
        case "CONTAINER":
            return ""
    return {"TEXT": "text", "UIDREF": "UID"}.get(item.ValueType, "")


def coded(item: Dataset) -> str:
    """A code for people."""
    return f"({item.CodeValue}, {item.CodingSchemeDesignator}, “{item.CodeMeaning}”)"


def codes() -> str:
    """Every code in a result, and the attributes that hold it."""
    found: dict[tuple[str, str, str], dict[str, set[str]]] = {}

    def walk(dataset: Dataset, kind: str) -> None:
        for element in dataset:
            if element.VR != "SQ":
                continue
            for item in element.value:
                if "CodeValue" in item:
                    code = (str(item.CodingSchemeDesignator), str(item.CodeValue), str(item.CodeMeaning))
                    found.setdefault(code, {}).setdefault(keyword_for_tag(element.tag), set()).add(
                        kind.split(",")[0]
                    )
                walk(item, kind)

    for kind, dataset in results(_SAMPLES[0]).items():
        walk(dataset, kind)
    for one in (ARTIFICIAL_INTELLIGENCE, TISSUE):
        found.setdefault((one.scheme, one.value, one.meaning), {}).setdefault(
            "unless the algorithm says more", set()
        )
    rows = [
        (
            scheme,
            f"`{value}`",
            meaning,
            "; ".join(where(attribute, kinds) for attribute, kinds in sorted(places.items())),
        )
        for (scheme, value, meaning), places in sorted(found.items())
    ]
    return table(("scheme", "code", "meaning", "in"), rows)


def where(attribute: str, kinds: set[str]) -> str:
    """A place of a code."""
    return f"{attribute} of {', '.join(sorted(kinds))}" if kinds else attribute


def private() -> str:
    """Private attributes in results: there are none."""
    found = {
        f"({element.tag.group:04X},{element.tag.element:04X})"
        for dataset in results(_SAMPLES[0]).values()
        for element in dataset.iterall()
        if element.tag.is_private
    }
    return f"Private attributes written: {', '.join(sorted(found)) or 'none'}.\n"


def implementation() -> str:
    """What file meta information says of us."""
    rows = []
    for kind, dataset in results(_SAMPLES[0]).items():
        meta = dataset.file_meta
        rows.append((f"`{meta.ImplementationClassUID}`", f"`{meta.ImplementationVersionName}`", kind))
    own = [kind for class_uid, _, kind in rows if IMPLEMENTATION_CLASS_UID in class_uid]
    lines: dict[tuple[str, str], list[str]] = {}
    for class_uid, version, kind in rows:
        lines.setdefault((class_uid, version), []).append(kind)
    assert own and any(IMPLEMENTATION_VERSION_NAME in version for _, version in lines)
    return table(
        ("Implementation Class UID", "Implementation Version Name", "objects"),
        [(class_uid, version, " · ".join(kinds)) for (class_uid, version), kinds in lines.items()],
    )


# What a version may lack


def module(name: str) -> Any:
    """One of the platform's; None in a version that has no such module."""
    full = f"medical_image_processing.{name}"
    try:
        return importlib.import_module(full)
    except ModuleNotFoundError as error:
        if not full.startswith(error.name or "?"):  # something that it needs
            raise
        return None


def dimse() -> str:
    """Presentation contexts and limits of the application entity."""
    capabilities = module("dimse.capabilities")
    if capabilities is None:
        return _NOT_HERE
    syntaxes: dict[tuple[str, ...], str] = {}
    rows = []
    for one in capabilities.capabilities():
        named_as = syntaxes.setdefault(one.transfer_syntax_uids, "ABCDEFGH"[len(syntaxes)])
        rows.append((one.sop_class, f"`{one.sop_class_uid}`", named_as, one.role, "•" if one.makes_jobs else ""))
    lists = [(letter, "; ".join(uids.UID(one).name for one in listed)) for listed, letter in syntaxes.items()]
    numbers = [(name.replace("_", " "), f"{value:,.10g}") for name, value in capabilities.entity_limits().items()]
    return "\n".join(
        (
            table(("SOP class", "UID", "transfer syntaxes", "role", "makes jobs"), rows),
            table(("transfer syntaxes", ""), lists),
            table(("limit", ""), numbers),
        )
    )


def deidentification() -> str:
    """What is said in an instance that was de-identified, and what is refused."""
    profile = module("pacs.deidentify")
    if profile is None:
        return _NOT_HERE
    cleaned = profile.deidentify(sample(_SAMPLES[0]), lambda value: f"2.25.{len(value)}").data
    dataset = pydicom.dcmread(io.BytesIO(cleaned), stop_before_pixels=True)
    rows = [
        (
            f"({element.tag.group:04X},{element.tag.element:04X}) {dictionary_description(element.tag)}",
            "; ".join(map(coded, element.value)) if element.VR == "SQ" else text_of(element),
        )
        for element in dataset.group_dataset(0x0012)
    ]
    refused = (profile.BURNED_IN, profile.NOT_AN_IMAGE, profile.NOT_DEIDENTIFIABLE)
    codes_of = ", ".join(f"`{code}`" for code in refused)
    return f"{table(('attribute', 'value'), rows)}\nWhat can't be de-identified is refused: {codes_of}.\n"


TABLES: dict[str, Table] = {
    "qido": qido,
    "matching": matching,
    "wado": wado,
    "stow": stow,
    "statuses": statuses,
    "reasons": reasons,
    "limits": limits,
    "pacs-statuses": pacs_statuses,
    "dimse": dimse,
    "deidentification": deidentification,
    "transfer-syntaxes": transfer_syntaxes,
    "unread": unread,
    "read-classes": read_classes,
    "written-classes": written_classes,
    "written-syntaxes": written_syntaxes,
    "attributes": attributes,
    "tree": tree,
    "codes": codes,
    "private": private,
    "implementation": implementation,
}


if __name__ == "__main__":
    main()
