"""A DICOMweb server as a PACS: QIDO-RS finds, WADO-RS fetches (DICOM PS3.18, sections 10.6 and 10.4).

Whoever asks the PACS API never sees the server's own address or credentials: links lead back here, and the bytes
pass through in small pieces. Ids are DICOM UIDs. An instance is fetched as it is stored, whatever its transfer
syntax: a server that must decode it first is slow, and some can't.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

import httpx
from starlette.types import Receive, Send

from medical_image_processing.errors import MipError, NotFound, PermanentError, Unavailable
from medical_image_processing.pacs.archive import Link, Reading
from medical_image_processing.pacs.http import Headers, Request, not_get, send_answer, send_chunks, send_start
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.multipart import first_part

_UID = re.compile(r"[0-9.]{1,64}")
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_POSITION, _ORIENTATION = "00200032", "00200037"
_PAGE = 1000
_MOST_INSTANCES = 100_000
_SEARCH_S = 60.0
"""For one search, all its pages together."""
_MOST_PAGE_BYTES = 2**26
_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_NO_STUDY = "the PACS has no such study; check study_id, or store it first"


class Instance(NamedTuple):
    """One SOP instance, and where it lies along its series' normal, in mm; None where the server doesn't say."""

    study_uid: str
    series_uid: str
    sop_uid: str
    position: float | None = None

    @property
    def key(self) -> str:
        """Its path below the server's ``/studies/``."""
        return f"{self.study_uid}/{self.series_uid}/{self.sop_uid}"


def create_client(base: str, *, authorization: str | None = None) -> httpx.AsyncClient:
    """What speaks to the server at ``base``: every wait has a limit, and no redirect is followed.

    ``authorization`` is the header's value, ``Basic …`` or ``Bearer …``.
    """
    return httpx.AsyncClient(
        base_url=base.rstrip("/"),
        headers={"authorization": authorization} if authorization else {},
        trust_env=False,
        timeout=httpx.Timeout(30.0, connect=5.0),
        limits=httpx.Limits(max_connections=64),
    )


class DicomwebArchive:
    """Implements :class:`pacs.archive.Archive` over the server that ``client`` speaks to."""

    def __init__(self, client: httpx.AsyncClient, links: LinkSigner) -> None:
        self._client = client
        self._links = links

    async def studies(self) -> list[str]:
        """Study Instance UIDs."""
        return [uid for item in await self._search("/studies") if (uid := _value(item, _STUDY))]

    async def image(self, study_id: str, series_id: str, image_id: str) -> Instance:
        """One instance."""
        if not _are_uids(study_id, series_id, image_id):
            raise NotFound("IMAGE_NOT_FOUND", "this PACS names images by DICOM UIDs; check image_id")
        found = await self._instances(study_id, series_id, SOPInstanceUID=image_id)
        if found:
            return found[0]
        if await self._instances(study_id, series_id, limit=1):
            raise NotFound("IMAGE_NOT_FOUND", "the series asked for has no such image; check image_id")
        raise await self._nothing(study_id, series_id)

    async def images(self, study_id: str, series_id: str | None) -> list[Instance]:
        """Those of a series in geometric order, or of a whole study, series after series."""
        if not _are_uids(study_id, series_id or "0"):
            raise NotFound("STUDY_NOT_FOUND", "this PACS names studies and series by DICOM UIDs; check study_id")
        found = await self._instances(study_id, series_id)
        if not found:
            raise await self._nothing(study_id, series_id)
        series: dict[str, list[Instance]] = {}
        for instance in found:
            series.setdefault(instance.series_uid, []).append(instance)
        return [instance for one in series.values() for instance in _in_order(one)]

    async def first_known(self, readings: Sequence[Reading]) -> Reading | None:
        """UIDs hold no slash, so there is nothing to choose between."""
        return next((reading for reading in readings if _are_uids(*(part or "0" for part in reading))), None)

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
        address = f"/studies/{study}/series/{series}/instances/{sop}"
        asked = self._client.build_request("GET", address, headers={"accept": _STORED})
        answer = await self._send(asked)
        try:
            content = _content(answer)
            first = await anext(content, b"")  # so that what is wrong from the start has a status of its own
            await send_start(send, 200, None, b"application/dicom", cors)
            await send_chunks(send, _joined(first, content), receive)
        finally:
            await answer.aclose()

    async def _instances(self, study_uid: str, series_uid: str | None, **how: Any) -> list[Instance]:
        below = f"/studies/{study_uid}" + (f"/series/{series_uid}" if series_uid else "")
        items = await self._search(f"{below}/instances", includefield=[_POSITION, _ORIENTATION], **how)
        return [
            Instance(study_uid, series, sop, _position(item))
            for item in items
            if _are_uids(series := series_uid or _value(item, _SERIES), sop := _value(item, _INSTANCE))
        ]

    async def _search(self, address: str, **how: Any) -> list[dict[str, Any]]:
        """All that matches, page by page; a server that pays no heed to pages answers with all at once."""
        limit = how.pop("limit", None) or _PAGE
        items: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(_SEARCH_S):
                while True:
                    page = await self._page(address, {**how, "limit": limit, "offset": len(items)})
                    items += page
                    if len(page) != limit or limit < _PAGE or len(items) >= _MOST_INSTANCES:
                        return items
        except TimeoutError as error:
            raise _unavailable(f"a search took longer than {_SEARCH_S:.0f} s") from error

    async def _page(self, address: str, query: dict[str, Any]) -> list[dict[str, Any]]:
        headers = {"accept": "application/dicom+json"}
        try:
            answer = await self._send(self._client.build_request("GET", address, params=query, headers=headers))
        except NotFound as error:
            if address == "/studies":
                raise PermanentError(
                    "PACS_REFUSED", "the DICOMweb server has no /studies; is its address right?"
                ) from error
            return []
        try:
            return [] if answer.status_code == 204 else _dicom_json(await _bounded(answer))
        finally:
            await answer.aclose()

    async def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            answer = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise _unavailable(f"it can't be reached: {type(error).__name__}") from error
        if (problem := _problem(answer)) is not None:
            await answer.aclose()
            raise problem
        return answer

    async def _nothing(self, study_uid: str, series_uid: str | None) -> NotFound:
        if series_uid is not None and await self._instances(study_uid, None, limit=1):
            return NotFound("SERIES_NOT_FOUND", "the study asked for has no such series; check series_id")
        return NotFound("STUDY_NOT_FOUND", _NO_STUDY)


def _problem(answer: httpx.Response) -> MipError | None:
    status = answer.status_code
    if status in (200, 204, 206):
        return None
    if status in (404, 410):
        return NotFound("IMAGE_NOT_FOUND", "the PACS has no such image any more; ask for a new link")
    if status in (401, 403):
        # Not the caller's fault, and mended by the operator: the job waits for that.
        return _unavailable(
            f"it refuses the platform ({status}); its user and password, or token, must be corrected"
        )
    if status == 429 or status >= 500:
        return _unavailable(f"it answers {status}", _retry_after(answer))
    return PermanentError(
        "PACS_REFUSED", f"the DICOMweb server answers {status}; is its address the DICOMweb root?"
    )


def _retry_after(answer: httpx.Response) -> float:
    text = answer.headers.get("retry-after", "")
    return min(float(text), 300.0) if text.isdecimal() and len(text) < 6 else 5.0


def _unavailable(what: str, retry_after_s: float = 5.0) -> Unavailable:
    return Unavailable("PACS_UNAVAILABLE", f"the DICOMweb server: {what}", retry_after_s=retry_after_s)


async def _bounded(answer: httpx.Response) -> bytes:
    body = bytearray()
    try:
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > _MOST_PAGE_BYTES:
                raise _unavailable(f"an answer to a search is larger than {_MOST_PAGE_BYTES >> 20} MiB")
    except httpx.HTTPError as error:
        raise _unavailable(f"an answer broke off: {type(error).__name__}") from error
    return bytes(body)


def _dicom_json(body: bytes) -> list[dict[str, Any]]:
    """PS3.18 section F.2: an array of objects by tag."""
    try:
        items = httpx.Response(200, content=body or b"[]").json()
    except (ValueError, RecursionError) as error:
        raise _unavailable("its answer to a search is no JSON") from error
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _unavailable("its answer to a search is no DICOM JSON")
    return items


async def _content(answer: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The instance's bytes. Unavailable when what arrives is none, or ends too early."""
    try:
        async for chunk in first_part(answer.headers.get("content-type", ""), answer.aiter_bytes()):
            yield chunk
    except httpx.HTTPError as error:
        raise _unavailable(f"an image broke off: {type(error).__name__}") from error


async def _joined(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for chunk in rest:
        yield chunk


def _value(item: dict[str, Any], tag: str) -> str:
    values = _values(item, tag)
    return values[0] if values and isinstance(values[0], str) else ""


def _values(item: dict[str, Any], tag: str) -> list[Any]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _position(item: dict[str, Any]) -> float | None:
    """The distance along the normal of the plane (PS3.3, section C.7.6.2.1.1)."""
    place, axes = _values(item, _POSITION), _values(item, _ORIENTATION)
    if len(place) != 3 or len(axes) != 6 or not all(isinstance(number, int | float) for number in (*place, *axes)):
        return None
    a, b, c, d, e, f = axes
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    return float(sum(n * x for n, x in zip(normal, place, strict=True)))


def _in_order(series: list[Instance]) -> list[Instance]:
    if any(instance.position is None for instance in series):
        return series
    return sorted(series, key=lambda instance: (instance.position, instance.sop_uid))


def _are_uids(*texts: str) -> bool:
    return all(_UID.fullmatch(text) for text in texts)
