"""Data elements in Explicit VR Little Endian (PS3.5 7.1.2), for objects this package makes itself.

A result has some sixty elements whose values are known strings and numbers; writing them straight to bytes
takes a tenth of what building a pydicom Dataset and writing that does. Nothing here reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
# Made once from a UUID (PS3.5 B.2); names this implementation in file meta information (PS3.7 D.3.3.2).
IMPLEMENTATION_CLASS_UID = "2.25.112338225606232069172264609337322998143"
IMPLEMENTATION_VERSION_NAME = "MIP_1"

# VRs whose length takes four bytes (PS3.5 Table 7.1-1), of those written here.
_LONG = frozenset({"OB", "OW", "SQ"})
_PADDED_WITH_NUL = frozenset({"UI", "OB", "OW"})
_ITEM = b"\xfe\xff\x00\xe0"

Elements = Mapping[int, bytes]


def element_header(tag: int, vr: str, length: int) -> bytes:
    """Tag, VR and length; the value follows."""
    if vr in _LONG:
        return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr.encode(), 0, length)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), length)


def encode(tag: int, vr: str, value: bytes | str) -> bytes:
    """An element whose value is text, or bytes already as they should stand. Raises ValueError if too long."""
    data = value.encode("ascii", "replace") if isinstance(value, str) else value
    if len(data) % 2:
        data += b"\0" if vr in _PADDED_WITH_NUL else b" "
    if vr not in _LONG and len(data) > 0xFFFF:
        raise ValueError(f"a value of ({tag >> 16:04X},{tag & 0xFFFF:04X}) may have 65534 bytes")
    return element_header(tag, vr, len(data)) + data


def unsigned_shorts(tag: int, *numbers: int) -> bytes:
    """A US element."""
    return encode(tag, "US", struct.pack(f"<{len(numbers)}H", *numbers))


def sequence(tag: int, items: Iterable[Elements]) -> bytes:
    """An SQ element of defined length."""
    encoded = (in_order(item) for item in items)
    return encode(tag, "SQ", b"".join(_ITEM + struct.pack("<I", len(item)) + item for item in encoded))


def code(tag: int, value: str, meaning: str) -> bytes:
    """A sequence with one code of the DICOM Controlled Terminology (PS3.16, PS3.3 8.8)."""
    item = {
        0x00080100: encode(0x00080100, "SH", value),
        0x00080102: encode(0x00080102, "SH", "DCM"),
        0x00080104: encode(0x00080104, "LO", meaning),
    }
    return sequence(tag, [item])


def in_order(elements: Elements) -> bytes:
    """The encoded elements, ascending by tag as PS3.5 7.1 demands."""
    return b"".join(elements[tag] for tag in sorted(elements))


def file_start(sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Preamble, prefix and file meta information (PS3.10 7.1)."""
    meta = b"".join(
        (
            encode(0x00020001, "OB", b"\x00\x01"),
            encode(0x00020002, "UI", sop_class_uid),
            encode(0x00020003, "UI", sop_instance_uid),
            encode(0x00020010, "UI", EXPLICIT_VR_LITTLE_ENDIAN),
            encode(0x00020012, "UI", IMPLEMENTATION_CLASS_UID),
            encode(0x00020013, "SH", IMPLEMENTATION_VERSION_NAME),
        )
    )
    return bytes(128) + b"DICM" + encode(0x00020000, "UL", struct.pack("<I", len(meta))) + meta
