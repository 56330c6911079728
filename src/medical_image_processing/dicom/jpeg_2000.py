"""What a JPEG 2000 codestream says of itself (ITU-T T.800), to compare with the header before it is decoded."""

from __future__ import annotations

import struct

from medical_image_processing.errors import InputRejected


def read_component(frame: bytes, shape: tuple[int, int, int]) -> tuple[int, bool]:
    """Precision in bits and signedness from the SIZ marker (A.5.1).

    ``shape``: rows, columns and samples, as the header claims; :class:`InputRejected` where it says otherwise.
    """
    start = _codestream_start(frame)
    siz = frame[start : start + 43]
    if siz[:4] != b"\xff\x4f\xff\x51" or len(siz) < 43:
        raise broken()
    right, bottom, left, top = struct.unpack(">4I", siz[8:24])
    components, depth = struct.unpack(">HB", siz[40:43])
    if (bottom - top, right - left, components) != shape:
        raise broken()
    return (depth & 0x7F) + 1, depth >= 0x80


def _codestream_start(frame: bytes) -> int:
    """0, unless somebody left the boxes of a JP2 file around the codestream (I.4)."""
    if frame[4:8] != b"jP  ":
        return 0
    offset = 12
    while frame[offset + 4 : offset + 8] != b"jp2c":
        length = int.from_bytes(frame[offset : offset + 4], "big")
        if length < 8 or offset > len(frame):
            raise broken()
        offset += length
    return offset + 8


def broken() -> InputRejected:
    """The error for a codestream that can't be decoded or contradicts the header."""
    return InputRejected(
        "UNDECODABLE_PIXELS",
        "The JPEG 2000 pixel data is broken or contradicts the header; fetch the file again.",
    )
