"""A disk cache of instances: at most so many bytes, the longest unused go first.

It is the PACS API's, so all workers of a machine share it. An entry is one file, written under another name and
renamed when whole; it holds its own name, its length and a checksum, and is read only where all three are right:
what comes out is what was put in under that name, or nothing. A killed process leaves unfinished files, which the
next start removes. Everything here blocks, and may be called from any thread.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from awscrt import checksums

_LOG = logging.getLogger(__name__)
_MAGIC = b"MIPCACH1"
_HEAD = struct.Struct("<8sI")
_TAIL = struct.Struct("<QQ")
_CHUNK = 2**20
_UNFINISHED = ".part"
MAX_AGE_S = 24 * 3600.0
"""An instance never changes under its UID (PS3.5, section 9); some servers let it, so entries end after a day."""


class InstanceCache:
    """Entries below ``folder``, which belongs to one process at a time; what else lies there is removed."""

    def __init__(self, folder: Path, limit_bytes: int, *, max_age_s: float = MAX_AGE_S) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._used = 0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._load()

    @property
    def used_bytes(self) -> int:
        """What entries take, unfinished ones included."""
        return self._used

    def __contains__(self, name: str) -> bool:
        """Whether there is an entry; it may still turn out to be damaged."""
        return _file_name(name) in self._sizes

    def read(self, name: str) -> Iterator[bytes] | None:
        """The content in pieces, checked before the first one; None where it is missing, damaged or old."""
        file_name = _file_name(name)
        with self._lock:
            if file_name not in self._sizes:
                return None
            self._sizes.move_to_end(file_name)
        path = self._folder / file_name
        file = None
        try:
            file = path.open("rb", buffering=0)
            stored_at = os.fstat(file.fileno()).st_mtime
            length = _checked_length(file, name)
            if length is not None and 0 <= time.time() - stored_at <= self._max_age_s:
                os.utime(path, (time.time(), stored_at))
                return _pieces(file, length)
        except OSError as error:
            _LOG.warning("an entry of the PACS cache can't be read (%s); it is dropped", type(error).__name__)
        if file is not None:
            file.close()
        self.drop(name)
        return None

    def begin(self, name: str, length: int | None = None) -> Entry:
        """A new entry, invisible until it is committed.

        ``length`` is what it takes at most, in bytes. One that is larger than the cache is refused before others
        have to go for it; where nobody knows, one may take half of the cache.
        """
        most = self._limit // 2 if length is None else self._limit if length <= self._limit else 0
        return Entry(self, name, most)

    def put(self, name: str, content: bytes) -> None:
        """A whole entry at once."""
        with self.begin(name, len(content)) as entry:
            entry.write(content)
            entry.commit()

    def reserve(self, size: int) -> bool:
        """Make room for ``size`` bytes more; False where that can't be."""
        with self._lock:
            while self._used + size > self._limit and self._sizes:
                file_name, old = self._sizes.popitem(last=False)
                (self._folder / file_name).unlink(missing_ok=True)
                self._used -= old
            if self._used + size > self._limit:
                return False
            self._used += size
            return True

    def release(self, size: int) -> None:
        """Give back what was reserved and is not kept."""
        with self._lock:
            self._used -= size

    def admit(self, unfinished: Path, name: str, size: int) -> None:
        """Make a finished file of ``size`` reserved bytes the entry."""
        file_name = _file_name(name)
        with self._lock:
            unfinished.replace(self._folder / file_name)
            self._used -= self._sizes.pop(file_name, 0)
            self._sizes[file_name] = size

    def unfinished(self) -> Path:
        """A new name for a file that is being written."""
        return self._folder / f"{secrets.token_hex(8)}{_UNFINISHED}"

    def drop(self, name: str) -> None:
        """The entry goes, where there is one."""
        file_name = _file_name(name)
        with self._lock:
            self._used -= self._sizes.pop(file_name, 0)
            (self._folder / file_name).unlink(missing_ok=True)

    def _load(self) -> None:
        found = []
        for path in self._folder.iterdir():
            status = path.lstat()
            if path.suffix == _UNFINISHED or len(path.name) != 64 or not path.is_file():
                if not path.is_dir():
                    path.unlink(missing_ok=True)
                continue
            found.append((status.st_atime, path.name, status.st_size))
        for _, name, size in sorted(found):
            self._sizes[name] = size
            self._used += size
        self.reserve(0)


class Entry:
    """Content on its way into the cache, a context manager. Trouble with the disk, or no room, only ends it."""

    def __init__(self, cache: InstanceCache, name: str, most: int) -> None:
        self._cache = cache
        self._name = name
        self._most = most
        self._path = cache.unfinished()
        self._file: BinaryIO | None = None
        self._reserved = 0
        self._length = 0
        self._checksum = 0
        self._is_finished = False
        self._is_over = False

    def __enter__(self) -> Entry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """What was not committed goes."""
        self._abandon()

    def write(self, data: bytes) -> None:
        """Append."""
        if self._is_over:
            return
        name = self._name.encode()
        head = b"" if self._file else _HEAD.pack(_MAGIC, len(name)) + name
        try:
            if not self._reserve(len(head) + len(data)):
                self._abandon()
                return
            if self._file is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                self._file = open(os.open(self._path, flags, 0o600), "wb", buffering=0)  # noqa: SIM115, PTH123
                _write_all(self._file, head)
            _write_all(self._file, data)
        except OSError as error:
            _LOG.warning("the PACS cache can't be written: %s", os.strerror(error.errno or 0))
            self._abandon()
            return
        self._length += len(data)
        self._checksum = checksums.crc64nvme(data, self._checksum)

    def finish(self) -> None:
        """There is no more to write; whether it is kept may still be open."""
        try:
            if self._is_over or self._is_finished or self._file is None or not self._reserve(_TAIL.size):
                return
            _write_all(self._file, _TAIL.pack(self._length, self._checksum))
            self._file.close()
            self._is_finished = True
        except OSError as error:
            _LOG.warning("the PACS cache can't be written: %s", os.strerror(error.errno or 0))
        finally:
            if not self._is_finished:
                self._abandon()

    def commit(self) -> None:
        """The content is whole."""
        self.finish()
        if self._is_over:
            return
        try:
            self._cache.admit(self._path, self._name, self._reserved)
            self._is_over = True
        except OSError as error:
            _LOG.warning("the PACS cache can't be written: %s", os.strerror(error.errno or 0))
        finally:
            self._abandon()

    def _reserve(self, size: int) -> bool:
        if self._reserved + size > self._most or not self._cache.reserve(size):
            self._cache.drop(self._name)  # what is there is not what there is now
            return False
        self._reserved += size
        return True

    def _abandon(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)
        self._cache.release(self._reserved)


def _file_name(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _checked_length(file: BinaryIO, name: str) -> int | None:
    """How long the content is, with ``file`` at its start; None unless all of the file is as it was written."""
    expected = name.encode()
    head = file.read(_HEAD.size + len(expected))
    if head != _HEAD.pack(_MAGIC, len(expected)) + expected:
        return None
    length = os.fstat(file.fileno()).st_size - len(head) - _TAIL.size
    if length < 0:
        return None
    checksum, left = 0, length
    while left:
        piece = file.read(min(left, _CHUNK))
        if not piece:
            return None
        checksum = checksums.crc64nvme(piece, checksum)
        left -= len(piece)
    if file.read(_TAIL.size + 1) != _TAIL.pack(length, checksum):
        return None
    file.seek(len(head))
    return length


def _pieces(file: BinaryIO, length: int) -> Iterator[bytes]:
    with file:
        while length:
            piece = file.read(min(length, _CHUNK))
            if not piece:
                raise OSError("an entry became shorter while it was read")
            length -= len(piece)
            yield piece
