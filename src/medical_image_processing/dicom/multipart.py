"""multipart/related bodies, part by part as they arrive (RFC 2046, section 5.1; DICOM PS3.18, section 8.6.1.2).

How DICOMweb servers send instances, and the PACS API a series. Called by both ends of that.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

_BOUNDARY = re.compile(r'multipart/related\b.*?;\s*boundary=(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
_MOST_HEADER_BYTES = 16_384
_LOCATION = re.compile(rb"^content-location:[ \t]*([^\r\n]*?)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


class Kind(Enum):
    """What :meth:`Parts.feed` found."""

    BEGIN = "begin"
    DATA = "data"
    END = "end"


class Event(NamedTuple):
    """``data``: the part's headers where it begins, a piece of its content, or nothing where it ends."""

    kind: Kind
    data: bytes


class _State(Enum):
    BEFORE = "before"
    BETWEEN = "between"
    INSIDE = "inside"
    AFTER = "after"


class Parts:
    """Takes a body in pieces, however they are cut, and tells its parts. ValueError ``how`` it is broken."""

    def __init__(self, content_type: str) -> None:
        match = _BOUNDARY.match(content_type.strip())
        if match is None:
            raise ValueError("is neither multipart/related with a boundary nor application/dicom")
        self._delimiter = b"\r\n--" + (match.group(1) or match.group(2)).encode("latin-1", "replace")
        self._held = b"\r\n"
        self._state = _State.BEFORE

    def feed(self, data: bytes) -> list[Event]:
        """What has become known with these bytes."""
        events: list[Event] = []
        held, at = self._held + data if self._held else data, 0
        while (found := self._next(held, at, events)) is not None:
            at = found
        rest = len(held) - at
        if self._state is _State.INSIDE:
            rest = self._unsure(held, at)
            if at < len(held) - rest:
                events.append(Event(Kind.DATA, held[at : len(held) - rest] if at or rest else held))
        elif self._state is _State.AFTER:
            rest = 0
        elif rest > _MOST_HEADER_BYTES:
            raise ValueError("comes without the boundary that its header names")
        self._held = held[len(held) - rest :]
        return events

    def finish(self) -> None:
        """The body has ended. ValueError unless its last part had."""
        if self._state is not _State.AFTER:
            what = "last boundary" if self._state is _State.INSIDE else "first part, or the next one, began"
            raise ValueError(f"ended before its {what}")

    def _unsure(self, held: bytes, at: int) -> int:
        """How many of the last bytes may begin the delimiter. Mostly none: then nothing is copied."""
        start = max(at, len(held) - len(self._delimiter) + 1)
        while (start := held.find(b"\r", start)) >= 0:
            if self._delimiter.startswith(held[start:]):
                return len(held) - start
            start += 1
        return 0

    def _next(self, held: bytes, at: int, events: list[Event]) -> int | None:
        """One step from ``at``: where the next one begins, None when more bytes are needed for it."""
        if self._state is _State.BETWEEN:
            if held[at : at + 2] == b"--":
                self._state = _State.AFTER
                return None
            end = held.find(b"\r\n\r\n", at)
            if end < 0 or len(held) < at + 2:
                return None
            events.append(Event(Kind.BEGIN, held[at:end].removeprefix(b"\r\n")))
            self._state = _State.INSIDE
            return end + 4
        if self._state is _State.AFTER or (end := held.find(self._delimiter, at)) < 0:
            return None
        if self._state is _State.INSIDE:
            if end > at:
                events.append(Event(Kind.DATA, held[at:end]))
            events.append(Event(Kind.END, b""))
        self._state = _State.BETWEEN
        return end + len(self._delimiter)


def location(headers: bytes) -> str:
    """The part's Content-Location; "" where it has none."""
    match = _LOCATION.search(headers)
    return match.group(1).decode("latin-1") if match else ""
