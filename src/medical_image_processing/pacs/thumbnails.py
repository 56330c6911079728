"""Small pictures of series for whoever looks for one: of each its middle image."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, Protocol

from medical_image_processing.errors import InputRejected, NotFound
from medical_image_processing.pacs.archive import Found

MOST_BYTES = 2**27
"""Of an image's file; a larger one gets no picture."""
_KEPT_BYTES = 2**23


class Files(Protocol[Found]):
    """An archive's files, as they are read here."""

    async def images(self, study_id: str, series_id: str | None) -> Sequence[Found]:
        """The images of a series, in order."""

    async def read_file(self, image: Found, *, most_bytes: int) -> bytes:
        """All of an image's file. InputRejected ``TOO_LARGE`` when it is longer."""

    def version(self, image: Found) -> str:
        """Changes when the file does."""


class Pictured(NamedTuple, Generic[Found]):
    """The image that stands for its series, and what names its picture."""

    image: Found
    etag: str


class Thumbnails(Generic[Found]):
    """``draw`` makes a PNG of a DICOM file; InputRejected when it has no picture."""

    def __init__(self, files: Files[Found], draw: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._files = files
        self._draw = draw
        self._drawing = asyncio.Semaphore(1)
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._kept_bytes = 0

    async def choose(self, study_id: str, series_id: str) -> Pictured[Found]:
        """The middle image. NotFound as the archive says."""
        images = await self._files.images(study_id, series_id)
        image = images[len(images) // 2]
        return Pictured(image, hashlib.sha256(self._files.version(image).encode()).hexdigest()[:32])

    async def png(self, pictured: Pictured[Found]) -> bytes:
        """The picture. NotFound ``NO_PICTURE`` where the object has none, or too large a one."""
        if (kept := self._kept.get(pictured.etag)) is not None:
            self._kept.move_to_end(pictured.etag)
            return kept
        try:
            # One at a time: a page of them must not take the cores from jobs.
            async with self._drawing:
                data = await self._files.read_file(pictured.image, most_bytes=MOST_BYTES)
                png = await self._draw(data)
        except InputRejected as error:
            raise NotFound(
                "NO_PICTURE", f"the middle image of the series can't be shown ({error.code}); it may be no image"
            ) from error
        self._keep(pictured.etag, png)
        return png

    def _keep(self, etag: str, png: bytes) -> None:
        self._kept_bytes += len(png) - len(self._kept.pop(etag, b""))
        self._kept[etag] = png
        while self._kept_bytes > _KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)
