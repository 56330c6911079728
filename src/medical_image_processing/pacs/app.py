"""The PACS API (CONTRACT.md) as a plain ASGI application: every job makes two calls here, so it is thin.

Where the images lie is an archive's to know (``archive.py``): a folder, or a bucket.
"""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from medical_image_processing.errors import InvalidRequest, MipError, NotFound, Unauthorized
from medical_image_processing.naming import NAME_PATTERN, PACS_ID_PATTERN
from medical_image_processing.pacs.archive import Archive, Described, Image, Reading
from medical_image_processing.pacs.bundle import BOUNDARY, Bundle, Piece, begun, joined
from medical_image_processing.pacs.folder import FolderIndex
from medical_image_processing.pacs.folder_archive import FolderArchive
from medical_image_processing.pacs.http import (
    Answer,
    Headers,
    Request,
    error_answer,
    failure_answer,
    json_answer,
    not_allowed,
    not_get,
    read_body,
    send_answer,
    send_chunks,
    send_start,
    unless_gone,
    while_read,
)
from medical_image_processing.pacs.keys import PacsKeys
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.thumbnails import Thumbnails

OnAccess = Callable[[str, Sequence[tuple[str, str, str]], str | None], Awaitable[None]]
"""``on_access(algo, [(study_uid, series_uid, sop_uid), …], job_id)``."""
Describe = Callable[[str | None, str | None, int, str | None], Awaitable[Described]]
"""``describe(study_id, series_id, limit, search)``: all series, a study's, or the one; with these words."""
ServeFile = Callable[[Request, Headers, Receive, Send], Awaitable[None]]

ArchiveFor = Callable[[str], Awaitable[Archive[Any]]]
"""``archive_for(algo)``: what the holder of a key may see of the archive."""

_MOST_SERIES = 1000
_SERIES = 100
_WRONG_LIMIT = f"limit is a number from 1 to {_MOST_SERIES}"
_MOST_SEARCH_CHARS = 200
_MOST_SEARCH_BYTES = 8192
COUNT_HEADER = b"x-image-count"
"""How many images a bundle has."""
MORE_HEADER = b"x-more-series"
"""Whether a list of series is not all there are: ``true`` or ``false``."""
_BUNDLE_TYPE = b'multipart/related; type="application/dicom"; boundary=' + BOUNDARY.encode()

_MOST_JOBS_KNOWN = 16
_MOST_IMAGES_KNOWN = 10_000

_LOG = logging.getLogger(__name__)
_PACS_ID = re.compile(PACS_ID_PATTERN)
_NAME = re.compile(NAME_PATTERN)


def create_app(
    index: FolderIndex,
    keys: PacsKeys,
    links: LinkSigner,
    on_access: OnAccess,
    *,
    allow_origins: Iterable[str] = (),
) -> ASGIApp:
    """The PACS API over ``index``, which the caller starts and closes; the rest as :class:`PacsApp`."""
    archive = FolderArchive(index, links)
    return PacsApp(archive, keys, on_access, allow_origins=allow_origins, serve_file=archive.serve)


class _Caller(NamedTuple):
    algo: str
    archive: Archive[Any]


class _Download(NamedTuple):
    algo: str
    bundle: Bundle


class PacsApp:
    """The PACS API over an archive.

    ``on_access`` is awaited before links are given out (law A4), with the name of the key's holder, the
    images' UIDs ("" where a header lacks them) and the ``x-job-id`` header; when it raises, no link is given.
    ``allow_origins`` are the web origins whose pages may call, ``*`` for all. ``serve_file`` answers what lies
    below ``/files/``, where the archive's links lead there. ``describe`` tells what series there are, at
    ``/series``, and finds some, at ``/series/search``; ``thumbnails`` draws them, at ``/thumbnail``: for the
    operator, since algorithms need neither.
    ``archive_for`` chooses what each caller sees instead of ``archive``.
    """

    def __init__(
        self,
        archive: Archive[Any],
        keys: PacsKeys,
        on_access: OnAccess,
        *,
        allow_origins: Iterable[str] = (),
        serve_file: ServeFile | None = None,
        describe: Describe | None = None,
        archive_for: ArchiveFor | None = None,
        thumbnails: Thumbnails[Any] | None = None,
    ) -> None:
        self._archive = archive
        self._keys = keys
        self._on_access = on_access
        self._allow_origins = frozenset(allow_origins)
        self._serve_file = serve_file
        self._describe = describe
        self._archive_for = archive_for
        self._on_record: dict[tuple[str, str], set[tuple[str, str, str]]] = {}
        self._thumbnails = thumbnails

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise ValueError("the PACS API speaks HTTP only")
        request = Request(scope)
        cors = self._cors(request)
        try:
            if self._serve_file is not None and request.path.startswith("/files/"):
                await self._serve_file(request, cors, receive, send)
                return
            answer = await self._answer(request, cors, receive)
            if isinstance(answer, _Download):
                await self._send_bundle(request, answer, cors, receive, send)
                return
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

    async def _answer(self, request: Request, cors: Headers, receive: Receive) -> Answer | _Download:
        if request.method == "POST" and request.path == "/series/search" and self._describe is not None:
            await self._caller(request)
            body = await read_body(receive, _MOST_SEARCH_BYTES)
            found = await unless_gone(_search(body, self._describe), receive)
            return found or error_answer(499, "GONE", "nobody waits for the answer")
        if request.method != "GET":
            return not_get(request, cors)
        algo, archive = caller = await self._caller(request)
        if request.path == "/studies":
            return json_answer(await archive.studies())
        if request.path == "/series" and self._describe is not None:
            return await _list(request, self._describe)
        if request.path == "/series/search" and self._describe is not None:
            return not_allowed("what is searched for is sent with POST", b"POST")
        if request.path == "/thumbnail" and self._thumbnails is not None:
            return await self._thumbnail(request, algo, self._thumbnails)
        readings = list(_readings(request.path))
        if not readings:
            raise NotFound("UNKNOWN_ROUTE", "the PACS API has no such address")
        study_id, series_id, image_id = await _choose(archive, readings)
        if series_id is not None and image_id is not None:
            return await self._link(request, caller, await archive.image(study_id, series_id, image_id))
        series_id = request.query("series_id")
        if series_id is not None:
            _check_id("series_id", series_id)
            if request.query("bundle") == "1":
                bundle = await archive.bundle(study_id, series_id)
                if bundle is not None:
                    return _Download(algo, bundle)
        images = await archive.images(study_id, series_id)
        if request.query("only") == "middle":
            images = images[len(images) // 2 :][:1]
        return await self._links_of(request, caller, images)

    async def _thumbnail(self, request: Request, algo: str, thumbnails: Thumbnails[Any]) -> Answer:
        """The series' middle image as a PNG. A browser may keep it, and asks each time whether it still may.

        Like a link, it is on record before it is given (law A4).
        """
        named = request.query("study_id"), request.query("series_id")
        if named[0] is None or named[1] is None:
            raise InvalidRequest("INVALID_QUERY", "a thumbnail needs study_id and series_id")
        study_id, series_id = _check_id("study_id", named[0]), _check_id("series_id", named[1])
        pictured = await thumbnails.choose(study_id, series_id)
        etag = f'"{pictured.etag}"'
        headers = ((b"etag", etag.encode()), (b"cache-control", b"private, no-cache"), (b"vary", b"x-api-key"))
        if etag in (request.header(b"if-none-match") or ""):
            return Answer(304, b"", headers, b"image/png")
        await self._note(request, algo, [pictured.image])
        return Answer(200, await thumbnails.png(pictured), headers, b"image/png")

    async def _caller(self, request: Request) -> _Caller:
        key = request.header(b"x-api-key")
        algo = await self._keys.algo_for(key) if key else None
        if algo is None:
            raise Unauthorized("UNAUTHORIZED", "the x-api-key header is missing or wrong")
        return _Caller(algo, self._archive if self._archive_for is None else await self._archive_for(algo))

    async def _link(self, request: Request, caller: _Caller, image: Image) -> Answer:
        await self._note(request, caller.algo, [image])
        [link] = await caller.archive.links([image], request.base_url())
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(link.expires_at))
        return json_answer({"url": link.url, "expires": expires})

    async def _links_of(self, request: Request, caller: _Caller, images: Sequence[Image]) -> Answer:
        if images:
            await self._note(request, caller.algo, images)
        links = await caller.archive.links(images, request.base_url())
        named = zip(images, links, strict=True)
        return json_answer([{"url": link.url, "key": image.key} for image, link in named])

    async def _send_bundle(
        self, request: Request, download: _Download, cors: Headers, receive: Receive, send: Send
    ) -> None:
        """The series, every image on record before its first byte goes out (law A4)."""
        algo, (count, pieces) = download
        wanted = while_read(self._noted(request, algo, pieces), receive)
        first, rest = await begun(wanted, b"")
        headers = ((COUNT_HEADER, b"%d" % count), *cors)
        await send_start(send, 200, None, _BUNDLE_TYPE, headers)
        await send_chunks(send, joined(first, rest))

    async def _noted(
        self, request: Request, algo: str, pieces: AsyncGenerator[Piece, None]
    ) -> AsyncGenerator[bytes, None]:
        async with aclosing(pieces):
            async for piece in pieces:
                if piece.images:
                    await self._note(request, algo, piece.images)
                yield piece.data

    async def _note(self, request: Request, algo: str, images: Sequence[Image]) -> None:
        job_id = request.header(b"x-job-id")
        if job_id is not None and not _NAME.fullmatch(job_id):
            job_id = None
        read = [(one.study_uid, one.series_uid, one.sop_uid) for one in images]
        known = self._known_of(algo, job_id)
        if new := [one for one in read if one not in known]:
            await self._on_access(algo, new, job_id)
            known.update(new[: max(0, _MOST_IMAGES_KNOWN - len(known))])

    def _known_of(self, algo: str, job_id: str | None) -> set[tuple[str, str, str]]:
        """What is on record for the job, so that the listing that completes a broken series is not once more."""
        if job_id is None:
            return set()
        known = self._on_record.pop((algo, job_id), set())
        self._on_record[algo, job_id] = known
        while len(self._on_record) > _MOST_JOBS_KNOWN:
            del self._on_record[next(iter(self._on_record))]
        return known


async def _list(request: Request, describe: Describe) -> Answer:
    if request.query("search") is not None:
        raise InvalidRequest(
            "INVALID_QUERY",
            "what is searched for may be a name, which no address may hold: POST it to /series/search",
        )
    limit = request.query("limit") or str(_SERIES)
    if not (limit.isascii() and limit.isdecimal()):
        raise InvalidRequest("INVALID_QUERY", _WRONG_LIMIT)
    return await _described(describe, request.query("study_id"), request.query("series_id"), int(limit[:9]), None)


async def _search(body: bytes, describe: Describe) -> Answer:
    """Nothing of the body stands in an error: it may be a patient's name."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return error_answer(400, "INVALID_JSON", "the body is not JSON")
    if not isinstance(asked, dict) or not asked.keys() <= {"search", "study_id", "limit"}:
        raise InvalidRequest(
            "INVALID_QUERY", "the body is an object of search and, if need be, study_id and limit"
        )
    search, study_id, limit = asked.get("search"), asked.get("study_id"), asked.get("limit", _SERIES)
    if not isinstance(search, str) or not search.strip() or len(search) > _MOST_SEARCH_CHARS:
        raise InvalidRequest("INVALID_QUERY", f"search is a text of 1 to {_MOST_SEARCH_CHARS} characters")
    if not isinstance(study_id, str | None):
        raise InvalidRequest("INVALID_QUERY", "study_id is a text")
    return await _described(describe, study_id, None, limit, search)


async def _described(
    describe: Describe, study_id: str | None, series_id: str | None, limit: Any, search: str | None
) -> Answer:
    for name, value in (("study_id", study_id), ("series_id", series_id)):
        if value is not None:
            _check_id(name, value)
    if not isinstance(limit, int) or isinstance(limit, bool) or not 0 < limit <= _MOST_SERIES:
        raise InvalidRequest("INVALID_QUERY", _WRONG_LIMIT)
    found = await describe(study_id, series_id, limit, search)
    headers = (
        (MORE_HEADER, b"false" if found.is_all else b"true"),
        (b"access-control-expose-headers", MORE_HEADER),
    )
    return json_answer([one._asdict() for one in found.series], headers)


async def _choose(archive: Archive[Any], readings: list[Reading]) -> Reading:
    """The reading that names something. There are several only where an id has a segment "images"."""
    known = await archive.first_known(readings) if len(readings) > 1 else None
    return known or readings[0]


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
