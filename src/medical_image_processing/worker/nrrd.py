"""Volumes as NRRD files, which ITK, SimpleITK and 3D Slicer read and write: what native algorithms get and give.

The format is "Definition of NRRD File Format", teem.sourceforge.net/nrrd/format.html. Written are an attached
header, raw encoding and the patient's coordinates (left-posterior-superior, DICOM's own). Read is the same, and
gzip; nothing else: a file that an algorithm wrote is not trusted, so no data files elsewhere, no sizes but the
ones expected, and no byte read beyond them. That, and mapping instead of copying, is why this isn't pynrrd.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medical_image_processing.dicom.normal import Vector
from medical_image_processing.errors import AlgorithmFailed
from medical_image_processing.processing.base import invalid_result

Pixels = npt.NDArray[Any]

HEADER_BYTES = 4096
"""Headers we write are padded to this, so that pixels can be written first, and lie on a page of their own."""

_MAX_HEADER_BYTES = 65_536
_GZIP_WINDOW = 31  # zlib's word for: a gzip header and the largest window
_GZIP_STEP = 2**20
_PADDING = b"# " + b"." * 61 + b"\n"
_MAGIC = re.compile(rb"NRRD000[1-5]\r?\n")
_FIELD = re.compile(r"([^:#]+): ?(.*)")
_COUNT = re.compile(r"[0-9]{1,9}")

_TYPE_NAMES = {"int16": "short", "float32": "float"}
_TYPES: dict[str, str] = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_ENDIAN = {"little": "<", "big": ">"}
_ELSEWHERE = frozenset({"data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"})


@dataclass(frozen=True)
class Placement:
    """Where a volume lies: mm in the patient's coordinates. Where the image doesn't say, only its spacing."""

    origin: Vector
    directions: tuple[Vector, Vector, Vector]

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Placement:
        """From what a :class:`Processor` is told of the image."""
        slices, rows, columns = meta.get("spacing") or (1.0, 1.0, 1.0)
        straight = ((0.0, 0.0, slices), (0.0, rows, 0.0), (columns, 0.0, 0.0))
        return cls(meta.get("origin") or (0.0, 0.0, 0.0), meta.get("directions") or straight)


@dataclass(frozen=True)
class MappedVolume:
    """The pixels of a new file, mapped."""

    pixels: Pixels
    _map: mmap.mmap

    def is_whole(self) -> bool:
        """Whether the file is as long as it was made; to read pixels beyond its end would end this process."""
        return self._map.size() >= len(self._map)


def create_volume(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> MappedVolume:
    """A new file for a volume; :func:`write_header` completes it.

    AlgorithmFailed ``NO_SPACE`` where there is no room: written through a mapping, a full disk would kill.
    """
    kind = np.dtype(dtype)
    length = HEADER_BYTES + int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, length)
        mapped = mmap.mmap(descriptor, length)
    except OSError as error:
        raise AlgorithmFailed(
            "NO_SPACE",
            f"The work folder has no room for a volume of {length} bytes; raise its memory.",
        ) from error
    finally:
        os.close(descriptor)
    return MappedVolume(np.frombuffer(mapped, kind, offset=HEADER_BYTES).reshape(shape), mapped)


def write_header(path: Path, pixels: Pixels, placement: Placement) -> None:
    """Complete the file of :func:`create_volume`; ``pixels`` are int16 or float32, a slice or a volume."""
    shape = (1,) * (3 - pixels.ndim) + pixels.shape
    directions = " ".join(_vector(step) for step in reversed(placement.directions))
    lines = (
        "NRRD0004",
        f"type: {_TYPE_NAMES[pixels.dtype.name]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {shape[2]} {shape[1]} {shape[0]}",
        f"space directions: {directions}",
        "kinds: domain domain domain",
        f"endian: {sys.byteorder}",
        "encoding: raw",
        f"space origin: {_vector(placement.origin)}",
    )
    text = "".join(f"{line}\n" for line in lines).encode("ascii")
    missing = HEADER_BYTES - 1 - len(text)
    # Comments end with a line of their own, which is at least "#" and a line feed.
    padding = _PADDING * ((missing - 2) // len(_PADDING))
    padding += b"#" * (missing - len(padding) - 1) + b"\n"
    with path.open("r+b") as file:
        file.write(text + padding + b"\n")


def read_volume(path: Path, shape: tuple[int, ...]) -> Pixels:
    """The pixels of the NRRD file that an algorithm wrote, which must have ``shape``; raw ones are mapped.

    Call it when nobody can write to the file any more. AlgorithmFailed ``INVALID_RESULT`` for whatever is wrong.
    """
    with _opened(path) as (descriptor, length):
        head = os.pread(descriptor, _MAX_HEADER_BYTES, 0)
        fields, start = _read_fields(head)
        dtype, encoding = _read_type(fields)
        _check_sizes(fields, shape)
        expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if encoding == "raw":
            if length - start < expected:
                raise _invalid(f"it is cut short: {length - start} bytes of pixels instead of {expected}")
            mapped = mmap.mmap(descriptor, start + expected, prot=mmap.PROT_READ)
            pixels = np.frombuffer(mapped, np.uint8, expected, start)
        else:
            pixels = _inflate(descriptor, start, expected)
    typed: Pixels = pixels.view(dtype).reshape(shape)
    return typed if dtype.isnative else typed.astype(dtype.newbyteorder("="))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """Descriptor and length of a plain file: no link that leads elsewhere, no pipe that never ends."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise _invalid("it was not written") from error
    except OSError as error:
        raise _invalid("it is no plain file that can be read") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _invalid("it is no plain file")
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


def _read_fields(head: bytes) -> tuple[dict[str, str], int]:
    """The header's fields, and where the pixels begin."""
    if _MAGIC.match(head) is None:
        raise _invalid("it does not begin with NRRD0001 to NRRD0005")
    end = re.search(rb"\r?\n\r?\n", head)
    if end is None:
        raise _invalid(f"its header has no empty line at its end, or is longer than {_MAX_HEADER_BYTES} bytes")
    fields: dict[str, str] = {}
    for line in head[: end.start()].decode("latin-1").split("\n")[1:]:
        if line.startswith("#") or ":=" in line:
            continue
        if (field := _FIELD.fullmatch(line.rstrip("\r"))) is None:
            raise _invalid("a line of its header is neither a field nor a comment")
        name = field[1].strip().lower()
        if name in fields:
            raise _invalid("its header says something twice")
        fields[name] = field[2].strip()
    return fields, end.end()


def _read_type(fields: Mapping[str, str]) -> tuple[np.dtype[Any], str]:
    if _ELSEWHERE & set(fields):
        raise _invalid("its pixels must follow its header: no data file, line skip or byte skip")
    if (kind := _TYPES.get(fields.get("type", "").lower())) is None:
        raise _invalid("its type is missing or not a number type of NRRD")
    encoding = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}.get(fields.get("encoding", "").lower())
    if encoding is None:
        raise _invalid("its encoding must be raw or gzip")
    endian = _ENDIAN.get(fields.get("endian", "").lower())
    if endian is None and not kind.endswith("1"):
        raise _invalid("its endian must be little or big")
    return np.dtype((endian or "<") + kind), encoding


def _check_sizes(fields: Mapping[str, str], shape: tuple[int, ...]) -> None:
    sizes = fields.get("sizes", "").split()
    if fields.get("dimension") != str(len(sizes)) or not all(map(_COUNT.fullmatch, sizes)):
        raise _invalid("its dimension and sizes don't go together")
    found = tuple(map(int, reversed(sizes)))
    if _without_single_slice(found) != _without_single_slice(shape):
        # At most nine numbers of nine digits, so nothing else can hide in the message.
        shown = " x ".join(map(str, reversed(found[-9:])))
        wanted = " x ".join(map(str, reversed(shape)))
        raise _invalid(f"it has {shown} pixels, and the input {wanted}")


def _without_single_slice(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape


def _inflate(descriptor: int, start: int, expected: int) -> Pixels:
    """gzip-compressed pixels; no more than ``expected`` bytes are ever made of them."""
    inflated, filled = np.empty(expected, np.uint8), 0
    inflate, offset = zlib.decompressobj(_GZIP_WINDOW), start
    try:
        while filled < expected and not inflate.eof:
            packed = inflate.unconsumed_tail or os.pread(descriptor, _GZIP_STEP, offset)
            if not inflate.unconsumed_tail:
                offset += len(packed)
            if not packed:
                break
            part = inflate.decompress(packed, min(expected - filled, _GZIP_STEP))
            inflated[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
            filled += len(part)
    except zlib.error as error:
        raise _invalid("its compressed pixels are broken") from error
    if filled < expected:
        raise _invalid(f"it is cut short: {filled} bytes of pixels instead of {expected}")
    return inflated


def _vector(vector: Vector) -> str:
    return "(" + ",".join(f"{number:.12g}" for number in vector) + ")"


def _invalid(fault: str) -> AlgorithmFailed:
    return invalid_result(f"its output file can't be read: {fault}")
