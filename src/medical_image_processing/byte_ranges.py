"""The one range of bytes that a reader may ask for of a file (RFC 9110, section 14): the PACS API's and S3's."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


@dataclass(frozen=True)
class Span:
    """The bytes ``start`` to ``end`` of a file, ``end`` excluded."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """How many they are."""
        return self.end - self.start

    def content_range(self, size: int) -> str:
        """The header that says which part of ``size`` bytes an answer is."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


class RangeNotSatisfiable(Exception):
    """The range asked for lies outside the file."""


def asked_span(header: str | None, size: int) -> Span | None:
    """The part of a file of ``size`` bytes that a Range header asks for.

    None for the whole file: without a header, and where one asks for several ranges or is malformed, which
    a server may ignore. Raises :class:`RangeNotSatisfiable`.
    """
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first and last and int(first) > int(last):
        return None
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= end:
        raise RangeNotSatisfiable
    return Span(start, end)
