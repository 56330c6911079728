"""A DICOMweb server as a PACS: QIDO-RS finds, WADO-RS fetches (DICOM PS3.18, sections 10.6 and 10.4).

Whoever asks the PACS API never sees the server's own address or credentials: links lead back here, and the bytes
pass through in small pieces. Ids are DICOM UIDs. An instance is fetched as it is stored, whatever its transfer
syntax: a server that must decode it first is slow, and some can't.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext, suppress
from typing import Any

import httpx
from starlette.types import Receive, Send

from medical_image_processing.dicom.identity import are_uids, distance_along_normal
from medical_image_processing.errors import MipError, NotFound, PermanentError
from medical_image_processing.pacs.archive import Described, Link, Reading, SeriesDescription, too_large
from medical_image_processing.pacs.bundle import Bundle, begun, joined, run_in
from medical_image_processing.pacs.cache import InstanceCache
from medical_image_processing.pacs.http import (
    Headers,
    Request,
    not_get,
    send_answer,
    send_chunks,
    send_start,
    while_read,
)
from medical_image_processing.pacs.instances import Instance, Instances, Series
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.matching import MOST_LOOKED_AT, Looked, Question, fits, look, questions
from medical_image_processing.pacs.retrieve import (
    DicomwebServer,
    Limits,
    Line,
    Retriever,
    problem,
    unavailable,
    why_unreachable,
)

_LOG = logging.getLogger(__name__)
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_NAMED_BY = {_STUDY: "StudyInstanceUID", _SERIES: "SeriesInstanceUID", _INSTANCE: "SOPInstanceUID"}
_BLANK = " \t\r\n"
_POSITION, _ORIENTATION = "00200032", "00200037"
_PAGE = 1000
_MOST_INSTANCES = 100_000
_MOST_PAGE_BYTES = 2**24
"""A thousand instances with what is asked of them are two million bytes, in the servers that say much."""
_STUDY_COUNT = "00201208"  # Number of Study Related Instances
_COUNT = "00201209"  # Number of Series Related Instances
_DESCRIBING = ("00080020", "00080060", "00081030", "0008103E", _COUNT)
"""Study Date, Modality, Study Description, Series Description."""
_SEARCHED = ("00100010", "00100020", "00080050")
"""Patient's Name, Patient ID, Accession Number: looked for and never told."""
_TAGS = {
    "StudyInstanceUID": _STUDY,
    "SeriesInstanceUID": _SERIES,
    "StudyDate": "00080020",
    "Modality": "00080060",
    "StudyDescription": "00081030",
    "SeriesDescription": "0008103E",
    "PatientName": "00100010",
    "PatientID": "00100020",
    "AccessionNumber": "00080050",
}
"""Of what is asked in a question."""
_PAGES_AT_ONCE = 8
"""Of all searches together: a place is taken for a page, so that nobody's search keeps others from being asked."""
_BROKEN = (httpx.HTTPError, OSError)
"""httpx lets through what TLS says after its handshake, such as that a certificate is missing."""
_MOST_DOWNLOADS = 32
_BY_UID = (
    "this PACS is a DICOMweb server: it names {} by their DICOM UIDs (digits and dots), not by paths; "
    "`mip studies` lists them"
)
_NO_STUDY = "the PACS has no such study; check study_id, or store it first"


def create_client(server: DicomwebServer, limits: Limits = Limits()) -> httpx.AsyncClient:  # noqa: B008 - frozen
    """What searches the server, and stores: every wait has a limit, and no redirect is followed."""
    return httpx.AsyncClient(
        base_url=server.base.rstrip("/"),
        # No encoding: a few kilobytes that inflate to gigabytes would be let in before they could be counted.
        headers={"accept-encoding": "identity"}
        | ({"authorization": server.authorization} if server.authorization else {}),
        verify=server.tls or True,
        trust_env=False,
        timeout=httpx.Timeout(limits.wait_s, connect=limits.connect_s),
        limits=httpx.Limits(max_connections=64),
    )


class DicomwebArchive:
    """Implements :class:`pacs.archive.Archive` over ``server``."""

    def __init__(
        self,
        server: DicomwebServer,
        links: LinkSigner,
        *,
        cache: InstanceCache | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        self._client = create_client(server, limits)
        self._links = links
        self._limits = limits
        self._instances_of = Instances(server, Retriever(server, limits), cache)
        self._threads = ThreadPoolExecutor(_MOST_DOWNLOADS, thread_name_prefix="pacs-download")
        self._looking = asyncio.Semaphore(_PAGES_AT_ONCE)
        self.trouble: MipError | None = None
        """Why the server could not be used the last time it was asked; None when it could."""

    async def close(self) -> None:
        """Let connections and threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._client.aclose()

    async def check(self) -> None:
        """Ask the server for something small; :attr:`trouble` says how that went."""
        with suppress(MipError):
            await self._search("/studies", limit=1)

    async def studies(self) -> list[str]:
        """Study Instance UIDs."""
        return [uid for item in await self._search("/studies") if are_uids(uid := _value(item, _STUDY))]

    async def image(self, study_id: str, series_id: str, image_id: str) -> Instance:
        """One instance."""
        if not are_uids(study_id, series_id, image_id):
            raise NotFound("IMAGE_NOT_FOUND", _BY_UID.format("studies, series and images"))
        if (found := await self._instance(study_id, series_id, image_id)) is not None:
            return found
        if await self._instances(study_id, series_id, limit=1):
            raise NotFound("IMAGE_NOT_FOUND", "the series asked for has no such image; check image_id")
        raise await self._nothing(study_id, series_id)

    async def images(self, study_id: str, series_id: str | None) -> list[Instance]:
        """Those of a series in geometric order, or of a whole study, series after series."""
        if not are_uids(study_id, series_id or "0"):
            raise NotFound("STUDY_NOT_FOUND", _BY_UID.format("studies and series"))
        found, item = await asyncio.gather(
            self._instances(study_id, series_id), self._counted(study_id, series_id)
        )
        if not found:
            raise await self._nothing(study_id, series_id)
        count = None if item is None else _number(item, _STUDY_COUNT if series_id is None else _COUNT)
        if count is not None and count != len(found):
            raise unavailable(f"it says that there are {count} images, and its search finds {len(found)} of them")
        series: dict[str, list[Instance]] = {}
        for instance in found:
            series.setdefault(instance.series_uid, []).append(instance)
        return [instance for one in series.values() for instance in _in_order(one)]

    async def first_known(self, readings: Sequence[Reading]) -> Reading | None:
        """UIDs hold no slash, so there is nothing to choose between."""
        return next((reading for reading in readings if are_uids(*(part or "0" for part in reading))), None)

    async def links(self, images: Sequence[Instance], base: str) -> list[Link]:
        """Links below ``base``, which :meth:`serve` answers."""
        signed = [(image.key, *self._links.sign(image.key)) for image in images]
        return [
            Link(f"{base}/files/{key}?expires={expires}&signature={signature}", expires)
            for key, expires, signature in signed
        ]

    async def serve(self, request: Request, cors: Headers, receive: Receive, send: Send) -> None:
        """Answer what lies below ``/files/``: an instance, as the server sends it."""
        if request.method != "GET":
            await send_answer(send, not_get(request, cors), cors)
            return
        key = request.path.removeprefix("/files/")
        self._links.check(key, request.query("expires") or "", request.query("signature") or "")
        study, series, sop = key.split("/")
        line = Line()
        past_cache = "no-cache" in (request.header(b"cache-control") or "")
        image = self._instances_of.one(Instance(study, series, sop), line, past_cache=past_cache)
        wanted = while_read(run_in(self._threads, image, line.cut), receive)
        first, rest = await begun(wanted, b"")
        await send_start(send, 200, None, b"application/dicom", cors)
        await send_chunks(send, joined(first, rest))

    async def read_file(self, image: Instance, *, most_bytes: int) -> bytes:
        """All of an instance. InputRejected ``TOO_LARGE``."""
        data, line = bytearray(), Line()
        async with aclosing(run_in(self._threads, self._instances_of.one(image, line), line.cut)) as pieces:
            async for piece in pieces:
                data += piece
                if len(data) > most_bytes:
                    raise too_large(most_bytes)
        return bytes(data)

    def version(self, image: Instance) -> str:
        """An instance keeps its UID only as long as it is the same (PS3.5, section 9)."""
        return image.key

    async def bundle(self, study_id: str, series_id: str) -> Bundle:
        """A series, from the cache where the server says that it is still as it was."""
        if not are_uids(study_id, series_id):
            raise NotFound("STUDY_NOT_FOUND", _BY_UID.format("studies and series"))
        series, line = await self._series(study_id, series_id), Line()
        return Bundle(series.images, run_in(self._threads, self._instances_of.series(series, line), line.cut))

    async def content(self, study_uid: str, series_uid: str, sop_uid: str, *, past_cache: bool = False) -> bytes:
        """An instance's file, whole."""
        pieces = self._instances_of.one(Instance(study_uid, series_uid, sop_uid), Line(), past_cache=past_cache)
        return await asyncio.get_running_loop().run_in_executor(self._threads, b"".join, pieces)

    async def describe(
        self, study_id: str | None, series_id: str | None, limit: int, search: str | None = None
    ) -> Described:
        """The first ``limit`` series; of a study, or the one with that UID; that have the words of ``search``.

        These may stand in the patient's name, ID and accession number, too, which are not told.
        """
        if not are_uids(study_id or "0", series_id or "0"):
            return Described([], True)
        address = f"/studies/{study_id}/series" if study_id else "/series"
        if search is not None:
            return await self._look(address, study_id, limit, search)
        if series_id is not None:
            uids = ({_STUDY: study_id} if study_id else {}) | {_SERIES: series_id}
            item = await self._find(address, uids, includefield=list(_DESCRIBING))
            return Described([] if item is None else [_described(item, study_id)], True)
        items = await self._search(address, limit=limit + 1, includefield=list(_DESCRIBING))
        return Described([_described(item, study_id) for item in items[:limit]], len(items) <= limit)

    async def _look(self, address: str, study_id: str | None, limit: int, search: str) -> Described:
        how = {"includefield": [*_DESCRIBING, *_SEARCHED]}
        is_asked = False

        @asynccontextmanager
        async def place() -> AsyncGenerator[None, None]:
            nonlocal is_asked
            async with self._looking:
                is_asked = True
                yield

        async def pages(question: Question) -> AsyncGenerator[Looked, None]:
            size = limit + 1 if question else _PAGE
            async with aclosing(self._pages(address, size, how, question, place)) as given:
                async for page in given:
                    items = page[:MOST_LOOKED_AT]
                    fitting = sum(_fits(item, question) for item in items)
                    series = [_described(item, study_id) for item in items if _has(item, study_id, search)]
                    yield Looked(len(items), fitting, series)

        asked = [{}] if study_id else questions(search)
        try:
            return await look(asked, pages, limit, self._limits.look_s)
        except TimeoutError as error:
            if is_asked:
                raise unavailable(f"a search took longer than {self._limits.look_s:g} s") from error
            raise unavailable("it was not asked, as other searches take their time; search again soon") from error

    async def _series(self, study_uid: str, series_uid: str) -> Series:
        """One short question, however many images there are."""
        item = await self._counted(study_uid, series_uid)
        if item is None:
            raise await self._nothing(study_uid, series_uid)
        count = _number(item, _COUNT)
        if count is None:  # the server doesn't count for us
            found = await self._instances(study_uid, series_uid)
            item, count = {"images": [instance.sop_uid for instance in found]}, len(found)
        version = hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()
        return Series(study_uid, series_uid, count, version)

    async def has(self, instance: Instance) -> bool:
        """Whether the server has it."""
        return await self._instance(instance.study_uid, instance.series_uid, instance.sop_uid) is not None

    async def post(self, address: str, content: AsyncIterator[bytes], content_type: str) -> tuple[int, bytes]:
        """The status and the body that the server answers, whatever the status."""
        headers = {"content-type": content_type, "accept": "application/dicom+json"}
        request = self._client.build_request("POST", address, content=content, headers=headers)
        try:
            async with asyncio.timeout(self._limits.total_s):
                answer = await self._client.send(request, stream=True)
                try:
                    return answer.status_code, await _bounded(answer)
                finally:
                    await answer.aclose()
        except TimeoutError as error:
            raise unavailable(f"it takes longer than {self._limits.total_s:g} s to store a result") from error
        except _BROKEN as error:
            raise unavailable(f"it can't be reached: {why_unreachable(error)}") from error

    async def _instance(self, study_uid: str, series_uid: str, sop_uid: str) -> Instance | None:
        uids = {_STUDY: study_uid, _SERIES: series_uid, _INSTANCE: sop_uid}
        item = await self._find(f"/studies/{study_uid}/series/{series_uid}/instances", uids)
        return None if item is None else Instance(study_uid, series_uid, sop_uid)

    async def _counted(self, study_uid: str, series_uid: str | None) -> dict[str, Any] | None:
        """What the server says of the study, or of the series, with the number of its images."""
        if series_uid is None:
            return await self._find("/studies", {_STUDY: study_uid}, includefield=[_STUDY_COUNT])
        uids = {_STUDY: study_uid, _SERIES: series_uid}
        return await self._find(f"/studies/{study_uid}/series", uids, includefield=[_COUNT])

    async def _instances(self, study_uid: str, series_uid: str | None, **how: Any) -> list[Instance]:
        below = f"/studies/{study_uid}" + (f"/series/{series_uid}" if series_uid else "")
        uids = {_STUDY: study_uid} | ({_SERIES: series_uid} if series_uid else {})
        items = await self._search(f"{below}/instances", includefield=[_POSITION, _ORIENTATION], **how)
        return [
            Instance(study_uid, series, sop, _position(item))
            for item in items
            if are_uids(series := series_uid or _value(item, _SERIES), sop := _value(item, _INSTANCE))
            and _is_of(item, uids)
        ]

    async def _find(self, address: str, uids: dict[str, str], **how: Any) -> dict[str, Any] | None:
        """The one with these UIDs, of which the last is asked for, since ``address`` names the others. They are
        compared: some servers pay no heed to what they are asked."""
        tag, uid = list(uids.items())[-1]

        def is_it(item: dict[str, Any]) -> bool:
            return _value(item, tag) == uid and _is_of(item, uids)

        items = await self._search(address, enough=is_it, **how, **{_NAMED_BY[tag]: uid})
        return next(filter(is_it, items), None)

    async def _search(
        self, address: str, *, enough: Callable[[dict[str, Any]], bool] | None = None, **how: Any
    ) -> list[dict[str, Any]]:
        """All that matches, page by page, until one is empty or has nothing new: a page may hold fewer than were
        asked for, or, where a server pays no heed to pages, everything. Or until ``enough`` holds for one."""
        limit = how.pop("limit", None)
        items: list[dict[str, Any]] = []
        try:
            async with (
                asyncio.timeout(self._limits.search_s),
                aclosing(self._pages(address, limit or _PAGE, how)) as pages,
            ):
                async for page in pages:
                    items += page
                    if len(items) >= (limit or _MOST_INSTANCES + 1) or (enough and any(map(enough, page))):
                        break
        except TimeoutError as error:
            raise unavailable(f"a search took longer than {self._limits.search_s:g} s") from error
        if len(items) > _MOST_INSTANCES:
            raise unavailable(f"a search finds more than {_MOST_INSTANCES}; ask for less at once")
        return items

    async def _pages(
        self,
        address: str,
        size: int,
        how: dict[str, Any],
        question: Question | None = None,
        place: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        """What is new in each page, until one has nothing new. The first is of ``size``; who wants more than that
        wants much. Each is asked for in a ``place``."""
        known: set[tuple[str, ...]] = set()
        offset = 0
        while True:
            async with place():
                page = await self._page(address, {**how, "limit": size, "offset": offset}, question)
            offset += len(page)
            size = _PAGE
            items: dict[tuple[str, ...], dict[str, Any]] = {}
            for item in page:
                if (uids := _uids_of(item)) not in known:
                    items.setdefault(uids, item)
            if not items:
                return
            known |= items.keys()
            yield list(items.values())

    async def _page(
        self, address: str, query: dict[str, Any], question: Question | None = None
    ) -> list[dict[str, Any]]:
        """``question`` holds nothing that an address may not, and goes as it is. That one is refused says nothing
        of the server, which need not match by all attributes (PS3.18, section 10.6.1.2)."""
        asked = str(httpx.QueryParams(query)) + "".join(
            f"&{name}={value}" for name, value in (question or {}).items()
        )
        headers = {"accept": "application/dicom+json"}
        try:
            request = self._client.build_request("GET", f"{address}?{asked}", headers=headers)
            answer = await self._send(request, may_refuse=bool(question))
        except NotFound as error:
            if address != "/studies" or query["offset"]:
                return []
            fault = PermanentError("PACS_REFUSED", "the DICOMweb server has no /studies; is its address right?")
            self._note(fault)
            raise fault from error
        try:
            if answer.status_code == 204:
                return []
            return await asyncio.to_thread(_dicom_json, await _bounded(answer))
        finally:
            await answer.aclose()

    async def _send(self, request: httpx.Request, *, may_refuse: bool = False) -> httpx.Response:
        try:
            answer = await self._client.send(request, stream=True)
        except _BROKEN as error:
            self._note(unavailable(f"it can't be reached: {why_unreachable(error)}"))
            assert self.trouble is not None
            raise self.trouble from error
        fault = problem(answer.status_code, answer.headers.get("retry-after"))
        if not (may_refuse and isinstance(fault, PermanentError)):
            self._note(None if isinstance(fault, NotFound) else fault)
        if fault is not None:
            await answer.aclose()
            raise fault
        return answer

    def _note(self, trouble: MipError | None) -> None:
        if trouble is None and self.trouble is not None:
            _LOG.info("the PACS answers again")
        elif trouble is not None and self.trouble is None:
            _LOG.warning("the PACS can't be used: %s", trouble)
        self.trouble = trouble

    async def _nothing(self, study_uid: str, series_uid: str | None) -> NotFound:
        if series_uid is not None and await self._instances(study_uid, None, limit=1):
            return NotFound("SERIES_NOT_FOUND", "the study asked for has no such series; check series_id")
        await self._search("/studies", limit=1)  # what is no DICOMweb root has no study either
        return NotFound("STUDY_NOT_FOUND", _NO_STUDY)


async def _bounded(answer: httpx.Response) -> bytes:
    if answer.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise unavailable("an answer came in an encoding that was not asked for")
    body = bytearray()
    try:
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > _MOST_PAGE_BYTES:
                raise unavailable(f"an answer is larger than {_MOST_PAGE_BYTES >> 20} MiB")
    except _BROKEN as error:
        raise unavailable(f"an answer broke off: {type(error).__name__}") from error
    return bytes(body)


def _dicom_json(body: bytes) -> list[dict[str, Any]]:
    """PS3.18 section F.2: an array of objects by tag."""
    try:
        items = list(_items(body)) if body.strip() else []
    except (ValueError, IndexError, RecursionError) as error:
        raise unavailable("its answer to a search is no JSON") from error
    if not all(isinstance(item, dict) for item in items):
        raise unavailable("its answer to a search is no DICOM JSON")
    return items


def _items(body: bytes) -> Iterator[Any]:
    """An array's, one by one: reading all of a large one at once would let no other thread run meanwhile."""
    text = body.decode(json.detect_encoding(body)).strip(_BLANK)
    if not (text.startswith("[") and text.endswith("]")):
        raise ValueError("no array")
    decode, at = json.JSONDecoder().raw_decode, _after_blanks(text, 1)
    while at < len(text) - 1:
        item, at = decode(text, at)
        yield item
        at = _after_blanks(text, at)
        if text[at] == "]" and at == len(text) - 1:
            return
        if text[at] != "," or text[at := _after_blanks(text, at + 1)] == "]":
            raise ValueError("no comma between two items, or none behind one")


def _after_blanks(text: str, at: int) -> int:
    while text[at] in _BLANK:
        at += 1
    return at


def _is_of(item: dict[str, Any], uids: dict[str, str]) -> bool:
    """Whether it says no other UID than these; a server need not say those that the address names."""
    return all(_value(item, tag) in ("", uid) for tag, uid in uids.items())


def _uids_of(item: dict[str, Any]) -> tuple[str, ...]:
    return tuple(_value(item, tag) for tag in _NAMED_BY)


def _value(item: dict[str, Any], tag: str) -> str:
    values = _values(item, tag)
    text = values[0] if values and isinstance(values[0], str) else ""
    return "".join(filter(str.isprintable, text))  # it may end on a terminal


def _values(item: dict[str, Any], tag: str) -> list[Any]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _described(item: dict[str, Any], study_id: str | None) -> SeriesDescription:
    date, modality, study, series = (_value(item, tag) or None for tag in _DESCRIBING[:4])
    where = (study_id or _value(item, _STUDY), _value(item, _SERIES))
    return SeriesDescription(*where, date, modality, study, series, _number(item, _COUNT))


def _has(item: dict[str, Any], study_id: str | None, search: str) -> bool:
    """Whether it is a series, of the study, with the words: some servers pay no heed to what they are asked."""
    described = _described(item, study_id)
    hidden = [text for tag in _SEARCHED for one in _values(item, tag) for text in _texts(one)]
    is_series = are_uids(*described[:2]) and _is_of(item, {_STUDY: described.study_id})
    return is_series and described.has(search, *hidden)


def _fits(item: dict[str, Any], question: Question) -> bool:
    """Whether the server matched it with the question."""
    return all(
        any(fits(text, asked) for value in _values(item, _TAGS[name]) for text in _texts(value))
        for name, asked in question.items()
    )


def _texts(value: Any) -> list[str]:
    """A name is an object of its component groups (PS3.18, section F.2.2)."""
    return [one for one in (value.values() if isinstance(value, dict) else [value]) if isinstance(one, str)]


def _number(item: dict[str, Any], tag: str) -> int | None:
    """An IS, which servers send as a number or as text (PS3.18, section F.2.3)."""
    values = _values(item, tag)
    text = str(values[0]) if values else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else None


def _position(item: dict[str, Any]) -> float | None:
    """The distance along the normal of the plane (PS3.3, section C.7.6.2.1.1)."""
    place, axes = _values(item, _POSITION), _values(item, _ORIENTATION)
    if len(place) != 3 or len(axes) != 6 or not all(isinstance(number, int | float) for number in (*place, *axes)):
        return None
    return float(distance_along_normal(place, axes))


def _in_order(series: list[Instance]) -> list[Instance]:
    if any(instance.position is None for instance in series):
        return series
    return sorted(series, key=lambda instance: (instance.position, instance.sop_uid))
