"""A whole series as one download (CONTRACT.md, "PACS API"): multipart/related, each part an image with its key.

Making one blocks, so it happens in threads of its own, a megabyte at a time, one piece ahead of the reader.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from medical_image_processing.errors import MipError
from medical_image_processing.pacs.archive import Image

T = TypeVar("T")
PIECE_BYTES = 2**20
BOUNDARY = "mip-8f1c2e7a5d904b63b0c7-series"
"""Long enough to be in no image by chance; every bundle has it."""


class Piece(NamedTuple):
    """Some of a bundle's bytes, and the images that begin in them."""

    images: Sequence[Image]
    data: bytes


class Bundle(NamedTuple):
    """How many images there will be, and their bytes. A MipError in the middle means that the rest never comes."""

    images: int
    pieces: AsyncGenerator[Piece, None]


class Packer:
    """Puts images into pieces. Not thread-safe."""

    def __init__(self) -> None:
        self._images: list[Image] = []
        self._data: list[bytes] = []
        self._size = 0
        self._is_first = True

    def begin(self, image: Image) -> None:
        """An image follows."""
        start = "" if self._is_first else "\r\n"
        self._is_first = False
        self._images.append(image)
        location = quote(image.key)
        head = f"{start}--{BOUNDARY}\r\nContent-Type: application/dicom\r\nContent-Location: {location}\r\n\r\n"
        self._data.append(head.encode("latin-1"))

    def add(self, data: bytes) -> Piece | None:
        """Bytes of the image that began last; a piece when one is full."""
        self._data.append(data)
        self._size += len(data)
        return self._take() if self._size >= PIECE_BYTES else None

    def end(self) -> Piece:
        """The last piece."""
        self._data.append(f"\r\n--{BOUNDARY}--\r\n".encode())
        return self._take()

    def _take(self) -> Piece:
        piece = Piece(self._images, b"".join(self._data))
        self._images, self._data, self._size = [], [], 0
        return piece


async def run_in(
    threads: ThreadPoolExecutor, blocking: Iterator[T], cut: Callable[[], None] = lambda: None
) -> AsyncGenerator[T, None]:
    """The items of ``blocking``, made in ``threads``, each while the one before is used.

    ``cut`` ends what the making of one waits for; it is called when no more of them are wanted.
    """
    step = _step(threads, blocking)
    try:
        while (made := await asyncio.wrap_future(step)) is not None:
            step = _step(threads, blocking)
            yield made[0]
    finally:
        cut()
        if isinstance(blocking, Generator):
            step.add_done_callback(partial(_close, threads, blocking))


def _step(threads: ThreadPoolExecutor, blocking: Iterator[T]) -> Future[tuple[T] | None]:
    def step() -> tuple[T] | None:
        for item in blocking:
            return (item,)
        return None

    return threads.submit(step)


def _close(threads: ThreadPoolExecutor, blocking: Generator[Any, None, None], _: Future[Any]) -> None:
    with suppress(RuntimeError):  # the threads were told to stop, and so was all that they do
        threads.submit(blocking.close)


async def begun(pieces: AsyncGenerator[T, None], nothing: T) -> tuple[T, AsyncGenerator[T, None]]:
    """The first item, so that what is wrong from the start has a status of its own, and the rest."""
    try:
        return await anext(pieces, nothing), pieces
    except MipError:
        await pieces.aclose()
        raise


async def joined(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """``first``, then the rest."""
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk
