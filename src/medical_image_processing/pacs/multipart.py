"""The first part of a multipart/related body, as it arrives (RFC 2046, section 5.1; PS3.18, section 8.6.1.2)."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator

from medical_image_processing.errors import Unavailable

_BOUNDARY = re.compile(r'multipart/related\b.*?;\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_MOST_HEADER_BYTES = 16_384


async def first_part(content_type: str, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The part's bytes; a body that is ``application/dicom`` itself is passed on.

    Raises Unavailable ``PACS_UNAVAILABLE`` when the body isn't what its type says, or ends before its part does.
    """
    if content_type.partition(";")[0].strip().lower() == "application/dicom":
        async for chunk in chunks:
            yield chunk
        return
    match = _BOUNDARY.match(content_type.strip())
    if match is None:
        raise _broken("neither multipart/related with a boundary nor application/dicom")
    delimiter = b"\r\n--" + (match.group(1) or match.group(2)).encode("latin-1", "replace")
    held = b"\r\n" + await _until_headers_end(delimiter, chunks)
    held = held.partition(b"\r\n\r\n")[2]
    while (end := held.find(delimiter)) < 0:
        # The last bytes may be the beginning of the delimiter.
        safe = max(0, len(held) - len(delimiter) + 1)
        if safe:
            yield held[:safe]
        if not (chunk := await _more(chunks)):
            raise _broken("ended before its last boundary")
        held = held[safe:] + chunk
    if end:
        yield held[:end]


async def _until_headers_end(delimiter: bytes, chunks: AsyncIterator[bytes]) -> bytes:
    """What has arrived when the first part's headers are through; without what stands before the part."""
    held = b"\r\n"
    while True:
        begin = held.find(delimiter)
        if begin >= 0 and held.find(b"\r\n\r\n", begin + len(delimiter)) >= 0:
            return held[begin + len(delimiter) :].removeprefix(b"\r\n")
        if len(held) > _MOST_HEADER_BYTES:
            raise _broken("without the boundary that its header names")
        if not (chunk := await _more(chunks)):
            raise _broken("ended before its first part began")
        held += chunk


async def _more(chunks: AsyncIterator[bytes]) -> bytes:
    """The next bytes; none at the end. Decompression may give empty chunks."""
    async for chunk in chunks:
        if chunk:
            return chunk
    return b""


def _broken(how: str) -> Unavailable:
    return Unavailable("PACS_UNAVAILABLE", f"the DICOMweb server: an image came {how}")
