"""Reading a folder's DICOM files, whole or a part, in bounded memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from medical_image_processing.byte_ranges import Span
from medical_image_processing.errors import Conflict, NotFound, Unavailable
from medical_image_processing.pacs.catalogue import ImageFile
from medical_image_processing.pacs.scanner import below, open_file, stamp_of

_SMALL_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20


class FileReader:
    """Opens and reads the files below ``folder``, in threads of its own: a slow disk delays nobody else."""

    def __init__(self, folder: bytes) -> None:
        self._folder = folder
        self.threads = ThreadPoolExecutor(4, thread_name_prefix="pacs-file")

    async def read(self, file: ImageFile, span: Span) -> bytes | AsyncGenerator[bytes, None]:
        """The bytes: at once when they are few, else chunk by chunk.

        Raises NotFound ``IMAGE_NOT_FOUND``, Conflict ``IMAGE_CHANGED`` when the file is no longer what the
        index says, Unavailable ``IMAGE_UNREADABLE``. A file that changes while its chunks are read raises
        Conflict before the last of them, so that a mixture never looks whole.
        """
        loop = asyncio.get_running_loop()
        if span.length <= _SMALL_BYTES:
            return await loop.run_in_executor(self.threads, self._read_small, file, span)
        return self._chunks(await loop.run_in_executor(self.threads, self._open, file), file, span)

    def whole(self, file: ImageFile) -> bytes:
        """All of it; blocks the thread. Raises as :meth:`read`."""
        return b"".join(self.blocks(file))

    def blocks(self, file: ImageFile) -> Iterator[bytes]:
        """All of it, block by block; blocks the thread. Raises as :meth:`read`."""
        with self._open(file) as opened:
            for start in range(0, file.stamp.size, _CHUNK_BYTES):
                yield _read(opened, file, Span(start, min(start + _CHUNK_BYTES, file.stamp.size)))

    async def _chunks(self, opened: BinaryIO, file: ImageFile, span: Span) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        with opened:
            for start in range(span.start, span.end, _CHUNK_BYTES):
                part = Span(start, min(start + _CHUNK_BYTES, span.end))
                yield await loop.run_in_executor(self.threads, _read, opened, file, part)

    def _read_small(self, file: ImageFile, span: Span) -> bytes:
        with self._open(file) as opened:
            return _read(opened, file, span)

    def _open(self, file: ImageFile) -> BinaryIO:
        try:
            return open_file(below(self._folder, file.path))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound("IMAGE_NOT_FOUND", "the image behind this link is gone; ask for a new link") from error
        except OSError as error:
            raise _unreadable() from error


def _read(opened: BinaryIO, file: ImageFile, span: Span) -> bytes:
    try:
        opened.seek(span.start)
        data = opened.read(span.length)
        status = os.fstat(opened.fileno())
    except OSError as error:
        raise _unreadable() from error
    if len(data) != span.length or stamp_of(status) != file.stamp:
        raise Conflict("IMAGE_CHANGED", "the image changed since the link was given; ask for a new link")
    return data


def _unreadable() -> Unavailable:
    return Unavailable("IMAGE_UNREADABLE", "the PACS can't read the image's file; check its disk and rights")
