"""Who a DICOM file is, read without its pixels and without looking at any patient attribute.

Called by the PACS API on files in a folder and on what a server sends, and by the worker on what it was given.
The elements are walked here and not by pydicom: its warnings about damaged headers quote the values, of
which a broken length can make the patient's name and more (law A3). It is also several times faster.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from struct import Struct
from typing import BinaryIO

_PREAMBLE_BYTES = 128
_MEDIA_STORAGE_SOP_CLASS_UID = 0x0002_0002
_MEDIA_STORAGE_SOP_INSTANCE_UID = 0x0002_0003
_TRANSFER_SYNTAX_UID = 0x0002_0010
_CHARACTER_SET = 0x0008_0005
_DESCRIBING = (0x0008_0020, 0x0008_0060, 0x0008_1030, 0x0008_103E)
_SOP_CLASS_UID = 0x0008_0016
_SOP_INSTANCE_UID = 0x0008_0018
_STUDY_INSTANCE_UID = 0x0020_000D
_SERIES_INSTANCE_UID = 0x0020_000E
_IMAGE_POSITION = 0x0020_0032
_IMAGE_ORIENTATION = 0x0020_0037
_FILE_META = frozenset({_MEDIA_STORAGE_SOP_CLASS_UID, _TRANSFER_SYNTAX_UID})
_UIDS = frozenset({_SOP_INSTANCE_UID, _STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID})
_DESCRIPTION = frozenset({_CHARACTER_SET, *_DESCRIBING})
_IDENTITY = _UIDS | {_SOP_CLASS_UID, _IMAGE_POSITION, _IMAGE_ORIENTATION}
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD

_DICOMDIR = "1.2.840.10008.1.3.10"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"

# PS3.5 table 7.1-1: these have a length of 32 bits behind two reserved bytes.
_LONG_VR = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_UNDEFINED = 0xFFFF_FFFF
# Digits and dots by PS3.5 9.1; anonymizers in the field also write letters.
_UID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DICOM_UID = re.compile(r"[0-9.]{1,64}")
_VALUE_BYTES = 256
_MAX_ELEMENTS = 200_000
_INFLATED_BYTES = 1 << 20


@dataclass(frozen=True)
class Identity:
    """Who an image is; a UID that is missing or malformed is ``""``.

    ``position`` is the distance in mm along the normal of the image plane (PS3.3 C.7.6.2.1.1), None where
    the header does not say.
    """

    study_uid: str = ""
    series_uid: str = ""
    sop_uid: str = ""
    position: float | None = None
    sop_class_uid: str = ""


def read_identity(file: BinaryIO) -> Identity | None:
    """The identity of the DICOM file open at its start.

    None when it is no DICOM file (PS3.10 7.1), or a DICOMDIR. A broken header gives what can be read of
    it: whoever fetches the file by its path learns from the reader what is wrong. Only OSError is raised.
    """
    raw = _values(file, _IDENTITY, last=_IMAGE_ORIENTATION)
    return None if raw is None else _identity(raw)


def _identity(raw: Mapping[int, bytes]) -> Identity:
    return Identity(
        study_uid=_uid(raw.get(_STUDY_INSTANCE_UID)),
        series_uid=_uid(raw.get(_SERIES_INSTANCE_UID)),
        sop_uid=_uid(raw.get(_SOP_INSTANCE_UID)),
        position=_position(raw.get(_IMAGE_POSITION), raw.get(_IMAGE_ORIENTATION)),
        sop_class_uid=_uid(raw.get(_SOP_CLASS_UID)),
    )


def read_uids(head: bytes) -> tuple[str, str, str] | None:
    """Study, Series and SOP Instance UID in a DICOM file that begins with ``head``.

    Those of its data set, which is what readers go by, whatever its file meta information says. None where any of
    them is missing: it may be in the bytes that follow, or the file is none that can be named.
    """
    raw = _values(BytesIO(head), _UIDS, last=_SERIES_INSTANCE_UID) or {}
    study, series, sop = (
        _uid(raw.get(tag)) for tag in (_STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID, _SOP_INSTANCE_UID)
    )
    return (study, series, sop) if study and series and sop else None


def are_uids(*texts: str) -> bool:
    """Whether each is written as a DICOM UID (PS3.5, section 9.1)."""
    return all(_DICOM_UID.fullmatch(text) for text in texts)


def distance_along_normal(position: Sequence[float], orientation: Sequence[float]) -> float:
    """How far an image plane is from the origin, in mm (PS3.3, C.7.6.2.1.1).

    ``position`` and ``orientation`` are its Image Position and Image Orientation.
    """
    row_x, row_y, row_z, column_x, column_y, column_z = orientation
    normal = (
        row_y * column_z - row_z * column_y,
        row_z * column_x - row_x * column_z,
        row_x * column_y - row_y * column_x,
    )
    return sum(a * b for a, b in zip(normal, position, strict=True))


@dataclass(frozen=True)
class FileMeta:
    """What a file says of the data set in it (PS3.10 7.1); "" for what is missing."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


def read_file_meta(file: BinaryIO) -> FileMeta:
    """The File Meta Information of the file open at its start."""
    if file.read(_PREAMBLE_BYTES + 4)[_PREAMBLE_BYTES:] != b"DICM":
        return FileMeta("", "", "")
    wanted = (_MEDIA_STORAGE_SOP_CLASS_UID, _MEDIA_STORAGE_SOP_INSTANCE_UID, _TRANSFER_SYNTAX_UID)
    meta = dict(_elements(file, frozenset(wanted), last=_TRANSFER_SYNTAX_UID))
    return FileMeta(*(_uid(meta.get(tag)) for tag in wanted))


@dataclass(frozen=True)
class Description:
    """What a series is, without its patient; "" for what the header lacks."""

    date: str
    modality: str
    study: str
    series: str


def read_description(file: BinaryIO) -> Description:
    """The description in the DICOM file open at its start."""
    return _description(_values(file, _DESCRIPTION, last=_DESCRIBING[-1]) or {})


def read_identity_and_description(file: BinaryIO) -> tuple[Identity, Description] | None:
    """Both in one pass; None as :func:`read_identity`."""
    raw = _values(file, _IDENTITY | _DESCRIPTION, last=_IMAGE_ORIENTATION)
    return None if raw is None else (_identity(raw), _description(raw))


def _description(raw: Mapping[int, bytes]) -> Description:
    encoding = "utf-8" if b"192" in raw.get(_CHARACTER_SET, b"") else "latin-1"
    texts = (raw.get(tag, b"").decode(encoding, "replace").strip("\0 ") for tag in _DESCRIBING)
    return Description(*("".join(c for c in text if c.isprintable()) for text in texts))


def _values(file: BinaryIO, wanted: frozenset[int], *, last: int) -> dict[int, bytes] | None:
    """The raw values of ``wanted``; None when the file open at its start is no DICOM file, or a DICOMDIR."""
    if file.read(_PREAMBLE_BYTES + 4)[_PREAMBLE_BYTES:] != b"DICM":
        return None
    meta = dict(_elements(file, _FILE_META, last=0x0002_FFFF))
    if _uid(meta.get(_MEDIA_STORAGE_SOP_CLASS_UID)) == _DICOMDIR:
        return None
    syntax = _uid(meta.get(_TRANSFER_SYNTAX_UID))
    if syntax == _DEFLATED:
        file = _inflated(file)
    return dict(_elements(file, wanted, last=last, big_endian=syntax == _BIG_ENDIAN))


def _elements(
    file: BinaryIO, wanted: frozenset[int], *, last: int, big_endian: bool = False
) -> Iterator[tuple[int, bytes]]:
    """The raw values of ``wanted`` at the top level of the data set, up to the tag ``last`` (PS3.5 7.1).

    The file is left at the first element after that. Whether an element is in explicit or implicit VR is
    seen from itself, as files in the field mix them and contradict their transfer syntax.
    """
    order = ">" if big_endian else "<"
    implicit, explicit, long_length = (Struct(order + fields) for fields in ("HHL", "HH2sH", "L"))
    depth = 0
    for _ in range(_MAX_ELEMENTS):
        head = file.read(8)
        if len(head) < 8:
            return
        group, element, vr, length = explicit.unpack(head)
        tag = group << 16 | element
        is_delimiter = group == 0xFFFE
        if depth == 0 and (tag > last or is_delimiter):
            file.seek(-8, os.SEEK_CUR)
            return
        if is_delimiter or not (vr.isalpha() and vr.isupper()):
            length = implicit.unpack(head)[2]
        elif vr in _LONG_VR:
            more = file.read(4)
            length = long_length.unpack(more)[0] if len(more) == 4 else 0
        if tag in (_ITEM_END, _SEQUENCE_END):
            depth -= 1
        elif length == _UNDEFINED:
            depth += 1
        elif depth == 0 and tag in wanted and length <= _VALUE_BYTES:
            value = file.read(length)
            if len(value) < length:  # the half of a UID is another's
                return
            yield tag, value
        else:
            file.seek(length, os.SEEK_CUR)


def _inflated(file: BinaryIO) -> BinaryIO:
    try:
        return BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(_INFLATED_BYTES), _INFLATED_BYTES))
    except zlib.error:
        return BytesIO()


def _uid(raw: bytes | None) -> str:
    text = (raw or b"").decode("ascii", "replace").strip("\0 ")
    return text if _UID.fullmatch(text) else ""


def _position(position: bytes | None, orientation: bytes | None) -> float | None:
    try:
        return distance_along_normal(_numbers(position, 3), _numbers(orientation, 6))
    except ValueError:
        return None


def _numbers(raw: bytes | None, count: int) -> Sequence[float]:
    values = [float(text.strip(b"\0 ")) for text in (raw or b"").split(b"\\")]
    if len(values) != count:
        raise ValueError("wrong number of values")
    return values
