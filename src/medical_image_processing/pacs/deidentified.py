"""The archive as algorithms with ``deidentify`` see it: the same images, and nothing of whose they are.

Its ids, keys and links are pseudonyms, which are on record before they leave. The access record has the real UIDs
(law A4), and so has the cache: an instance is de-identified on its way out, one at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

from starlette.types import Receive, Send

from medical_image_processing.dicom.multipart import Kind, Parts
from medical_image_processing.errors import InputRejected, NotFound
from medical_image_processing.pacs.archive import Archive, Image, Link, Reading
from medical_image_processing.pacs.bundle import BOUNDARY, Bundle, Packer, Piece
from medical_image_processing.pacs.deidentify import NOT_DEIDENTIFIABLE, check_size, deidentify
from medical_image_processing.pacs.http import Headers, Request, not_get, send_answer, send_start
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.ports.pseudonyms import Pseudonyms

_FILES = "deidentified"
"""Begins the tokens of links: those of the archive itself begin otherwise, so that neither opens the other's."""
_SIDE_BY_SIDE = 2
ServeFile = Callable[[Request, Headers, Receive, Send], Awaitable[None]]


class ReadableArchive(Archive[Any], Protocol):
    """An archive whose instances can be read here."""

    async def content(self, study_uid: str, series_uid: str, sop_uid: str, *, past_cache: bool = False) -> bytes:
        """The instance's file. Raises as :meth:`Archive.image`."""


class DeidentifiedImage(NamedTuple):
    """An image with its real UIDs, for the access record, and a ``key`` of pseudonyms."""

    study_uid: str
    series_uid: str
    sop_uid: str
    key: str


class DeidentifiedArchive:
    """Implements :class:`pacs.archive.Archive` over another one.

    Ids are pseudonyms of whatever the archive takes as an id, a UID or a path. InputRejected
    ``NOT_AN_IMAGE``, ``NOT_DEIDENTIFIABLE`` and ``BURNED_IN_ANNOTATION`` for what must not go out.
    """

    def __init__(self, archive: ReadableArchive, pseudonyms: Pseudonyms, links: LinkSigner) -> None:
        self._archive = archive
        self._pseudonyms = pseudonyms
        self._links = links
        self._threads = ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="pacs-deidentify")
        self._room = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def studies(self) -> list[str]:
        """Pseudonyms of all studies."""
        uids = await self._archive.studies()
        await self._pseudonyms.keep(uids)
        return [self._pseudonyms.of(uid) for uid in uids]

    async def image(self, study_id: str, series_id: str, image_id: str) -> DeidentifiedImage:
        """One image."""
        found = await self._archive.image(*await self._real(study_id, series_id, image_id))
        return (await self._seen([found]))[0]

    async def images(self, study_id: str, series_id: str | None) -> list[DeidentifiedImage]:
        """Those of a series or of a whole study."""
        study, *series = await self._real(study_id, *([series_id] if series_id is not None else []))
        return await self._seen(await self._archive.images(study, series[0] if series else None))

    async def first_known(self, readings: Sequence[Reading]) -> Reading | None:
        """Pseudonyms hold no slash, so there is nothing to choose between."""
        return next((reading for reading in readings if not any("/" in (part or "") for part in reading)), None)

    async def links(self, images: Sequence[DeidentifiedImage], base: str) -> list[Link]:
        """Links below ``base``, which :meth:`serve_or` answers."""
        tokens = [f"{_FILES}/{image.key}" for image in images]
        signed = [(token, *self._links.sign(token)) for token in tokens]
        return [
            Link(f"{base}/files/{token}?expires={expires}&signature={signature}", expires)
            for token, expires, signature in signed
        ]

    async def bundle(self, study_id: str, series_id: str) -> Bundle | None:
        """The archive's own download, each image de-identified as it comes."""
        bundle = await self._archive.bundle(*await self._real(study_id, series_id))
        return None if bundle is None else Bundle(bundle.images, self._pieces(bundle.pieces))

    def serve_or(self, serve: ServeFile) -> ServeFile:
        """Answers what lies below ``/files/``: our own links, and with ``serve`` those of the archive."""

        async def choose(request: Request, cors: Headers, receive: Receive, send: Send) -> None:
            if request.path.startswith(f"/files/{_FILES}/"):
                await self._serve(request, cors, send)
            else:
                await serve(request, cors, receive, send)

        return choose

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _serve(self, request: Request, cors: Headers, send: Send) -> None:
        if request.method != "GET":
            await send_answer(send, not_get(request, cors), cors)
            return
        token = request.path.removeprefix("/files/")
        self._links.check(token, request.query("expires") or "", request.query("signature") or "")
        study, series, sop = await self._real(*token.split("/")[1:])
        async with self._room:  # one that waits has not read its instance yet
            past_cache = "no-cache" in (request.header(b"cache-control") or "")
            data = await self._made(await self._archive.content(study, series, sop, past_cache=past_cache))
        await send_start(send, 200, len(data), b"application/dicom", cors)
        await send({"type": "http.response.body", "body": data})

    async def _pieces(self, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
        parts, packer = Parts(f"multipart/related; boundary={BOUNDARY}"), Packer()
        begun: deque[Image] = deque()
        content: list[bytes] = []
        size = 0
        async with aclosing(pieces):
            async for piece in pieces:
                begun.extend(piece.images)
                for kind, data in parts.feed(piece.data):
                    if kind is Kind.BEGIN:
                        content, size = [], 0
                    elif kind is Kind.DATA:
                        content.append(data)
                        size += len(data)
                        check_size(size)
                    else:
                        [image] = await self._seen([begun.popleft()])
                        async with self._room:
                            made = await self._made(b"".join(content))
                        content = []
                        packer.begin(image)
                        if (full := packer.add(made)) is not None:
                            yield full
        parts.finish()
        yield packer.end()

    async def _made(self, data: bytes) -> bytes:
        """The instance without the patient, once what stands in it for UIDs is on record."""
        loop = asyncio.get_running_loop()
        made = await loop.run_in_executor(self._threads, deidentify, data, self._pseudonyms.of)
        await self._pseudonyms.keep(made.uids)
        return made.data

    async def _seen(self, images: Sequence[Image]) -> list[DeidentifiedImage]:
        if not all(image.study_uid and image.series_uid and image.sop_uid for image in images):
            raise InputRejected(NOT_DEIDENTIFIABLE, "an image can't be de-identified: it lacks one of its UIDs")
        await self._pseudonyms.keep(
            {uid for one in images for uid in (one.study_uid, one.series_uid, one.sop_uid)}
        )
        of = self._pseudonyms.of
        return [
            DeidentifiedImage(*uids, key="/".join(map(of, uids)))
            for uids in ((one.study_uid, one.series_uid, one.sop_uid) for one in images)
        ]

    async def _real(self, *ids: str) -> list[str]:
        known = await self._pseudonyms.real(ids)
        missing = next((place for place, one in enumerate(ids) if one not in known), None)
        if missing is not None:
            raise _NOT_FOUND[missing]()
        return [known[one] for one in ids]


def _no(what: str, name: str) -> Callable[[], NotFound]:
    message = f"the PACS has no such {name}: an algorithm with deidentify knows images by pseudonyms alone"
    return lambda: NotFound(f"{what}_NOT_FOUND", message)


_NOT_FOUND = (_no("STUDY", "study"), _no("SERIES", "series"), _no("IMAGE", "image"))
