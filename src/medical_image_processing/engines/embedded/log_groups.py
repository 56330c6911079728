"""Log groups as files: ``/ecs/mip-x`` is ``DIR/ecs/mip-x/worker.log``. Implements ports.resources.Logs."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from medical_image_processing import naming
from medical_image_processing.errors import InvalidRequest
from medical_image_processing.ports.resources import LogLines

_TAIL_BYTES = 256 * 1024
_MOST_BYTES = 64 * 1024 * 1024
_MARK_BYTES = 64
_CURSOR = re.compile(r"([0-9a-f]{1,12})\.[0-9a-f]{16}")


class LogGroups:
    """Workers append to their group's file themselves: a line costs the platform nothing.

    ``most_bytes`` is what :meth:`trim` leaves of a log at most.
    """

    def __init__(self, root: Path, *, most_bytes: int = _MOST_BYTES) -> None:
        self._root = root
        self._most_bytes = most_bytes

    def exists(self, algo_id: str) -> bool:
        """Whether the group is there."""
        return self._folder(algo_id).is_dir()

    def create(self, algo_id: str) -> None:
        """Make the group."""
        self._folder(algo_id).mkdir(parents=True, exist_ok=True)

    def delete(self, algo_id: str) -> None:
        """Remove the group and its logs."""
        shutil.rmtree(self._folder(algo_id), ignore_errors=True)

    @contextmanager
    def open(self, algo_id: str) -> Iterator[int]:
        """A descriptor that appends to the group."""
        self.create(algo_id)
        descriptor = os.open(self._file(algo_id), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def trim(self) -> None:
        """Drop the older half of each log that has grown too long."""
        for path in self._root.glob("ecs/*/worker.log"):
            if path.stat().st_size > self._most_bytes:
                with path.open("rb+") as file:
                    file.seek(-self._most_bytes // 2, os.SEEK_END)
                    file.readline()
                    newest = file.read()
                    # Appenders hold the file open, so it is rewritten in place, not replaced.
                    file.truncate(0)
                    file.seek(0)
                    file.write(newest)

    async def read(self, algo_id: str, *, lines: int, cursor: str | None = None) -> LogLines:
        """The newest lines, or the first behind ``cursor``: a place in the file, and what stands before it."""
        place = None if cursor is None else _parse(cursor)
        try:
            with self._file(algo_id).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if place is None or not _stands(file, *place, size):
                    return _newest_lines(file, size, lines, gap=place is not None)
                return _next_lines(file, place[0], lines)
        except FileNotFoundError:
            return LogLines((), _cursor(0, b""), gap=place is not None and place[0] > 0)

    def last_line(self, algo_id: str) -> str:
        """The last thing a worker said, shortened."""
        newest = [line for line in self._newest(algo_id, 20) if line.strip()]
        return newest[-1].strip()[:500] if newest else "it logged nothing"

    def _newest(self, algo_id: str, lines: int) -> list[str]:
        try:
            with self._file(algo_id).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return []
        return [_printable(line) for line in text.splitlines()[-lines:]] if lines else []

    def _file(self, algo_id: str) -> Path:
        return self._folder(algo_id) / "worker.log"

    def _folder(self, algo_id: str) -> Path:
        return self._root / naming.log_group(algo_id).lstrip("/")


def _newest_lines(file: BinaryIO, size: int, lines: int, *, gap: bool) -> LogLines:
    start = max(0, size - _TAIL_BYTES)
    whole = _whole_lines(_read_at(file, start, size - start))
    end = start + sum(map(len, whole))
    shown = whole[1:] if start else whole  # the first began before
    return LogLines(_shown(shown[-lines:]), _cursor_at(file, end), gap)


def _next_lines(file: BinaryIO, start: int, lines: int) -> LogLines:
    whole = _whole_lines(_read_at(file, start, _TAIL_BYTES))[:lines]
    return LogLines(_shown(whole), _cursor_at(file, start + sum(map(len, whole))))


def _whole_lines(data: bytes) -> list[bytes]:
    """Lines with their ends. What is still being written is left, unless it is too long to be waited for."""
    whole = re.findall(rb"[^\n]*\n|[^\n]+$", data)
    if whole and not whole[-1].endswith(b"\n") and len(data) < _TAIL_BYTES:
        whole.pop()
    return whole


def _shown(lines: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(_printable(line.decode(errors="replace").rstrip("\r\n")) for line in lines)


def _read_at(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


def _cursor_at(file: BinaryIO, offset: int) -> str:
    before = max(0, offset - _MARK_BYTES)
    return _cursor(offset, _read_at(file, before, offset - before))


def _cursor(offset: int, mark: bytes) -> str:
    return f"{offset:x}.{hashlib.sha256(mark).hexdigest()[:16]}"


def _stands(file: BinaryIO, offset: int, cursor: str, size: int) -> bool:
    """Whether the file still is what the cursor was made of; one that was trimmed or made anew isn't."""
    return offset <= size and _cursor_at(file, offset) == cursor


def _parse(cursor: str) -> tuple[int, str]:
    if (match := _CURSOR.fullmatch(cursor)) is None:
        raise InvalidRequest("INVALID_CURSOR", "cursor: send the one that came with the lines before")
    return int(match[1], 16), cursor


def _printable(line: str) -> str:
    """A worker may write what would command a terminal."""
    return "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in line)
