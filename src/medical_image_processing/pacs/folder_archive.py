"""The archive over a folder, and its files behind the links that it gives.

A link names its file by an opaque token, because the paths of a PACS folder may hold patients' names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from starlette.types import Receive, Send

from medical_image_processing.byte_ranges import RangeNotSatisfiable, Span, asked_span
from medical_image_processing.errors import Conflict, InputRejected, NotFound, Unavailable
from medical_image_processing.pacs.archive import Described, Link, Reading, too_large
from medical_image_processing.pacs.bundle import Bundle, Packer, Piece, run_in
from medical_image_processing.pacs.catalogue import ImageFile
from medical_image_processing.pacs.files import FileReader
from medical_image_processing.pacs.folder import FolderIndex
from medical_image_processing.pacs.http import (
    Headers,
    Request,
    error_answer,
    not_get,
    send_answer,
    send_chunks,
    send_start,
    while_read,
)
from medical_image_processing.pacs.links import LinkSigner

_DICOM = b"application/dicom"


class FolderArchive:
    """Implements :class:`pacs.archive.Archive` over ``index``."""

    def __init__(self, index: FolderIndex, links: LinkSigner) -> None:
        self._index = index
        self._links = links
        self._files = FileReader(index.folder)

    async def studies(self) -> list[str]:
        """Study Instance UIDs."""
        return await self._index.studies()

    async def image(self, study_id: str, series_id: str, image_id: str) -> ImageFile:
        """One image."""
        return await self._index.image(study_id, series_id, image_id)

    async def images(self, study_id: str, series_id: str | None) -> list[ImageFile]:
        """Those of a series or of a whole study."""
        return await self._index.images(study_id, series_id)

    async def first_known(self, readings: Sequence[Reading]) -> Reading | None:
        """The first reading that names something, after a scan if none does at once."""
        known = [reading for reading in readings if self._index.knows(*reading)]
        if not known:
            await self._index.rescan()
            known = [reading for reading in readings if self._index.knows(*reading)]
        return known[0] if known else None

    async def links(self, images: Sequence[ImageFile], base: str) -> list[Link]:
        """Links below ``base``, which :meth:`serve` answers."""
        return [self._link(image, base) for image in images]

    def _link(self, image: ImageFile, base: str) -> Link:
        token = self._index.token(image)
        expires, signature = self._links.sign(token)
        return Link(f"{base}/files/{token}?expires={expires}&signature={signature}", expires)

    async def bundle(self, study_id: str, series_id: str) -> Bundle:
        """A series' files, one after the other."""
        images = await self._index.images(study_id, series_id)
        return Bundle(len(images), run_in(self._files.threads, self._pieces(images)))

    def _pieces(self, images: Sequence[ImageFile]) -> Iterator[Piece]:
        packer = Packer()
        for image in images:
            packer.begin(image)
            try:
                for data in self._files.blocks(image):
                    if (piece := packer.add(data)) is not None:
                        yield piece
            except NotFound as error:  # the series is there, or it would not have come to this
                raise Unavailable(
                    "PACS_UNAVAILABLE", "an image was removed while its series was read; it is listed anew"
                ) from error
        yield packer.end()

    async def content(self, study_uid: str, series_uid: str, sop_uid: str, *, past_cache: bool = False) -> bytes:
        """An image's file, whole. InputRejected ``NOT_DEIDENTIFIABLE`` where other files claim the same UIDs."""
        image = await self._index.image(study_uid, series_uid, sop_uid)
        return await asyncio.get_running_loop().run_in_executor(
            self._files.threads, self._only, image, self._index.copies(image)
        )

    def _only(self, image: ImageFile, copies: Sequence[ImageFile]) -> bytes:
        data = self._files.whole(image)
        if any(one.stamp.size != len(data) or self._files.whole(one) != data for one in copies):
            raise InputRejected("NOT_DEIDENTIFIABLE", "several images of the PACS have the same UIDs")
        return data

    async def read_file(self, image: ImageFile, *, most_bytes: int) -> bytes:
        """All of an image's file. InputRejected ``TOO_LARGE``; else as :meth:`FileReader.whole`."""
        if image.stamp.size > most_bytes:
            raise too_large(most_bytes)
        return await asyncio.get_running_loop().run_in_executor(self._files.threads, self._files.whole, image)

    def version(self, image: ImageFile) -> str:
        """The file and its state."""
        return f"{self._index.token(image)} {image.stamp}"

    async def describe(
        self, study_id: str | None, series_id: str | None, limit: int, search: str | None = None
    ) -> Described:
        """The first ``limit`` series; of a study, or the one with that UID; that have the words of ``search``."""
        return await self._index.describe(study_id, series_id, limit, search)

    async def serve(self, request: Request, cors: Headers, receive: Receive, send: Send) -> None:
        """Answer what lies below ``/files/``."""
        if request.method not in ("GET", "HEAD"):
            await send_answer(send, not_get(request, cors), cors)
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
            headers = ((b"content-range", part.content_range(size).encode()), *headers)
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
            await send_chunks(send, while_read(content, receive))


def _part(request: Request, size: int) -> Span | None:
    # A link opens one state of one file, so there is no validator that If-Range could name.
    if request.method == "HEAD" or request.header(b"if-range") is not None:
        return None
    return asked_span(request.header(b"range"), size)
