"""The PACS API (CONTRACT.md) as a plain ASGI application: every job makes two calls here, so it is thin.

A link names its file by an opaque token, because the paths of a PACS folder may hold patients' names.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing

from starlette.types import ASGIApp, Receive, Scope, Send

from medical_image_processing.errors import (
    Conflict,
    InvalidRequest,
    MipError,
    NotFound,
    Unauthorized,
)
from medical_image_processing.naming import NAME_PATTERN, PACS_ID_PATTERN
from medical_image_processing.pacs.catalogue import ImageFile
from medical_image_processing.pacs.files import FileReader, RangeNotSatisfiable, Span, asked_span
from medical_image_processing.pacs.folder import FolderIndex
from medical_image_processing.pacs.http import (
    Answer,
    Headers,
    Request,
    error_answer,
    failure_answer,
    json_answer,
    send_answer,
    send_start,
)
from medical_image_processing.pacs.keys import PacsKeys
from medical_image_processing.pacs.links import LinkSigner

OnAccess = Callable[[str, Sequence[tuple[str, str, str]], str | None], Awaitable[None]]
"""``on_access(algo, [(study_uid, series_uid, sop_uid), …], job_id)``."""

_LOG = logging.getLogger(__name__)
_PACS_ID = re.compile(PACS_ID_PATTERN)
_NAME = re.compile(NAME_PATTERN)
_DICOM = b"application/dicom"
_PREFLIGHT: Headers = (
    (b"access-control-allow-methods", b"GET, HEAD"),
    (b"access-control-allow-headers", b"x-api-key, x-job-id, range"),
    (b"access-control-max-age", b"600"),
)


def create_app(
    index: FolderIndex,
    keys: PacsKeys,
    links: LinkSigner,
    on_access: OnAccess,
    *,
    allow_origins: Iterable[str] = (),
) -> ASGIApp:
    """The PACS API over ``index``, which the caller starts and closes.

    ``on_access`` is awaited before links are given out (law A4), with the name of the key's holder, the
    images' UIDs ("" where a header lacks them) and the ``x-job-id`` header; when it raises, no link is given.
    ``allow_origins`` are the web origins whose pages may call, ``*`` for all.
    """
    return PacsApp(index, keys, links, on_access, frozenset(allow_origins))


class PacsApp:
    """The application that :func:`create_app` makes."""

    def __init__(
        self,
        index: FolderIndex,
        keys: PacsKeys,
        links: LinkSigner,
        on_access: OnAccess,
        allow_origins: frozenset[str],
    ) -> None:
        self._index = index
        self._keys = keys
        self._links = links
        self._on_access = on_access
        self._allow_origins = allow_origins
        self._files = FileReader(index.folder)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise ValueError("the PACS API speaks HTTP only")
        request = Request(scope)
        cors = self._cors(request)
        try:
            if request.path.startswith("/files/"):
                await self._serve_file(request, cors, receive, send)
                return
            answer = await self._answer(request, cors)
        except MipError as error:
            answer = failure_answer(error)
        except Exception as error:
            # Not the error's own text: it may quote a path.
            at = traceback.extract_tb(error.__traceback__)[-1]
            _LOG.error("a PACS request failed: %s at %s:%s", type(error).__name__, at.filename, at.lineno)
            answer = error_answer(500, "INTERNAL", "the PACS API failed; its log says where")
        await send_answer(send, answer, cors)

    def _cors(self, request: Request) -> Headers:
        origin = request.header(b"origin")
        if origin is None or not self._allow_origins & {origin, "*"}:
            return ()
        return ((b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"origin"))

    async def _answer(self, request: Request, cors: Headers) -> Answer:
        if request.method != "GET":
            return _not_get(request, cors)
        algo = self._caller(request)
        if request.path == "/studies":
            return json_answer(await self._index.studies())
        readings = list(_readings(request.path))
        if not readings:
            raise NotFound("UNKNOWN_ROUTE", "the PACS API has no such address")
        study_id, series_id, image_id = await self._choose(readings)
        if series_id is not None and image_id is not None:
            return await self._link(request, algo, await self._index.image(study_id, series_id, image_id))
        series_id = request.query("series_id")
        if series_id is not None:
            _check_id("series_id", series_id)
        return await self._links_of(request, algo, await self._index.images(study_id, series_id))

    def _caller(self, request: Request) -> str:
        key = request.header(b"x-api-key")
        algo = self._keys.algo_for(key) if key else None
        if algo is None:
            raise Unauthorized("UNAUTHORIZED", "the x-api-key header is missing or wrong")
        return algo

    async def _choose(self, readings: list[Reading]) -> Reading:
        """The reading that names something. There are several only where an id has a segment "images"."""
        if len(readings) == 1:
            return readings[0]
        known = [reading for reading in readings if self._index.knows(*reading)]
        if not known:
            await self._index.rescan()
            known = [reading for reading in readings if self._index.knows(*reading)]
        return (known or readings)[0]

    async def _link(self, request: Request, algo: str, file: ImageFile) -> Answer:
        await self._note(request, algo, [file])
        expires, url = self._sign(file, request.base_url())
        return json_answer({"url": url, "expires": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires))})

    async def _links_of(self, request: Request, algo: str, files: list[ImageFile]) -> Answer:
        if files:
            await self._note(request, algo, files)
        base = request.base_url()
        return json_answer([{"url": self._sign(file, base)[1], "key": file.key} for file in files])

    async def _note(self, request: Request, algo: str, files: list[ImageFile]) -> None:
        job_id = request.header(b"x-job-id")
        if job_id is not None and not _NAME.fullmatch(job_id):
            job_id = None
        await self._on_access(algo, [(file.study_uid, file.series_uid, file.sop_uid) for file in files], job_id)

    def _sign(self, file: ImageFile, base: str) -> tuple[int, str]:
        token = self._index.token(file)
        expires, signature = self._links.sign(token)
        return expires, f"{base}/files/{token}?expires={expires}&signature={signature}"

    async def _serve_file(self, request: Request, cors: Headers, receive: Receive, send: Send) -> None:
        if request.method not in ("GET", "HEAD"):
            await send_answer(send, _not_get(request, cors), cors)
            return
        token = request.path.removeprefix("/files/")
        self._links.check(token, request.query("expires") or "", request.query("signature") or "")
        file = self._index.by_token(token)
        size = file.stamp.size
        headers: Headers = ((b"accept-ranges", b"bytes"), *cors)
        try:
            part = _part(request, size)
        except RangeNotSatisfiable:
            headers = ((b"content-range", b"bytes */%d" % size), *cors)
            short = error_answer(416, "RANGE_NOT_SATISFIABLE", "the range lies outside the image")
            await send_answer(send, short, headers)
            return
        status, span = (206, part) if part else (200, Span(0, size))
        if part:
            headers = ((b"content-range", b"bytes %d-%d/%d" % (part.start, part.end - 1, size)), *headers)
        try:
            content = await self._files.read(file, span if request.method == "GET" else Span(0, 0))
        except (NotFound, Conflict):
            # So that the new link asked for is a better one; and where the whole folder is away, that is
            # the trouble to state, and it passes.
            await self._index.rescan()
            raise
        await send_start(send, status, span.length, _DICOM, headers)
        if isinstance(content, bytes):
            await send({"type": "http.response.body", "body": content})
        else:
            await _stream(content, receive, send)


async def _stream(chunks: AsyncGenerator[bytes, None], receive: Receive, send: Send) -> None:
    """Send the chunks as long as somebody reads. A failure leaves the response short: the client sees it."""
    gone = asyncio.create_task(_until_gone(receive))
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except MipError as error:
        _LOG.warning("a download was broken off: %s", error.code)
    finally:
        gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


Reading = tuple[str, str | None, str | None]


def _readings(path: str) -> Iterator[Reading]:
    """What ``/studies/{study_id}/images[/{series_id}/{image_id}]`` may mean, as ids may hold slashes.

    Raises InvalidRequest ``INVALID_ID``.
    """
    before, _, rest = path.partition("/studies/")
    segments = rest.split("/") if not before else []
    for at, segment in enumerate(segments):
        if segment != "images" or at == 0:
            continue
        series, image = segments[at + 1 : -1], segments[-1]
        if at == len(segments) - 1:
            yield _check_id("study_id", "/".join(segments[:at])), None, None
        elif series:
            yield (
                _check_id("study_id", "/".join(segments[:at])),
                _check_id("series_id", "/".join(series)),
                _check_id("image_id", image),
            )


def _check_id(field: str, value: str) -> str:
    if not _PACS_ID.fullmatch(value) or any(part in ("", ".", "..") for part in value.split("/")):
        raise InvalidRequest(
            "INVALID_ID",
            f"{field} must be a DICOM UID or a PACS path of letters, digits and . _ - /, at most 512"
            " characters, with no empty, '.' or '..' segment",
        )
    return value


def _part(request: Request, size: int) -> Span | None:
    # A link opens one state of one file, so there is no validator that If-Range could name.
    if request.method == "HEAD" or request.header(b"if-range") is not None:
        return None
    return asked_span(request.header(b"range"), size)


def _not_get(request: Request, cors: Headers) -> Answer:
    if request.method == "OPTIONS" and cors and request.header(b"access-control-request-method"):
        return Answer(200, b"", _PREFLIGHT)
    return error_answer(405, "METHOD_NOT_ALLOWED", "the PACS API is read with GET", ((b"allow", b"GET, HEAD"),))
