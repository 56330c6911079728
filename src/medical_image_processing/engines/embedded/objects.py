"""The output bucket as a folder of plain files. Everything here blocks: call it in a thread.

An object appears whole or not at all: its content is written below ``.uploads`` in the same folder, flushed to
the disk, and renamed. What a killed platform left there is removed at the next start. Content type and
metadata stand in an extended attribute; on a file system without those, the type is guessed from the name.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mimetypes
import os
import secrets
import shutil
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from medical_image_processing.engines.embedded.aws_error import AwsError
from medical_image_processing.engines.embedded.object_keys import RESERVED, check_key, is_storable

MAX_OBJECT_BYTES = 5 * 1024**3

_XATTR = "user.mip.headers"
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_TYPES = {".dcm": "application/dicom", ".json": "application/json", ".nii": "application/octet-stream"}
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_IOV_MAX = 512


@dataclass(frozen=True)
class Stored:
    """An object as found. ``modified`` is epoch seconds; ``etag`` is quoted and changes with the content."""

    key: str
    size: int
    modified: float
    etag: str


class ObjectStore:
    """Objects of ``bucket`` below ``root``."""

    def __init__(self, root: Path, *, bucket: str, max_object_bytes: int = MAX_OBJECT_BYTES) -> None:
        self.bucket = bucket
        self.max_object_bytes = max_object_bytes
        self.root = root.absolute()
        self.uploads = self.root / RESERVED
        shutil.rmtree(self.uploads, ignore_errors=True)
        self.uploads.mkdir(parents=True)

    def begin(self) -> Upload:
        """A new, still invisible file."""
        return Upload(self)

    def open(self, key: str) -> tuple[BinaryIO, Stored, dict[str, str]] | None:
        """The content, the object, and the headers it was stored with; None when there is no such object."""
        if not is_storable(key):
            return None
        try:
            number = os.open(self.root / key, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise
        file = os.fdopen(number, "rb", buffering=0) if _is_file(found := os.fstat(number)) else None
        if file is None:
            os.close(number)
            return None
        return file, stored(key, found), _headers(number, key)

    def delete(self, key: str) -> None:
        """Remove the object, if there is one, and the folders that it leaves empty."""
        if not is_storable(key):
            return
        path = self.root / key
        try:
            path.unlink()
        except OSError as error:
            if error.errno in _ABSENT or path.is_dir():
                return
            raise
        for folder in path.parents:
            if folder == self.root:
                break
            try:
                folder.rmdir()
            except OSError:
                break


class Upload:
    """Content on its way to becoming an object. ``abort`` may come from another thread, in the middle."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._aborted = False
        self.path = store.uploads / secrets.token_hex(12)
        self._file: int | None = None
        self.size = 0

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append. AwsError ``ServiceUnavailable`` when the disk is full; ``EntityTooLarge``."""
        with self._lock, _disk_full_stated():
            if self._file is None:
                self._check_open()
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._file = os.open(self.path, flags, 0o600)
            for at in range(0, len(pieces), _IOV_MAX):
                _write_all(self._file, pieces[at : at + _IOV_MAX])
        self.size += sum(map(len, pieces))
        if self.size > self._store.max_object_bytes:
            raise AwsError("EntityTooLarge", f"an object has at most {self._store.max_object_bytes} bytes")

    def append(self, other: Upload) -> None:
        """Append what ``other`` holds, and end it."""
        with other.path.open("rb") as source:
            while block := source.read(8 * 1024 * 1024):
                self.write([block])
        other.abort()

    def pause(self) -> None:
        """Close the file, to be reopened by :meth:`resume`."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def resume(self) -> None:
        """Go on at the end."""
        with self._lock:
            self._check_open()
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def commit(self, key: str, headers: Mapping[str, str]) -> Stored:
        """Make it the object ``key``, durably; returns once it would survive a power cut.

        AwsError ``InvalidArgument`` for a key that can't be a path here, such as one below another object.
        """
        check_key(key)
        with self._lock, _disk_full_stated():
            if self._file is None:
                self.write([])
            assert self._file is not None
            _set_headers(self._file, key, headers)
            os.fsync(self._file)
            found = os.fstat(self._file)
            self.pause()
            try:
                self._rename(self._store.root / key)
            except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
                raise AwsError(
                    "InvalidArgument", "objects are stored as files: one key can't be a folder of another"
                ) from error
        return stored(key, found)

    def abort(self) -> None:
        """Leave nothing behind; does nothing after :meth:`commit`."""
        with self._lock:
            self._aborted = True
            self.pause()
            self.path.unlink(missing_ok=True)

    def _check_open(self) -> None:
        if self._aborted:
            raise AwsError("RequestTimeout", "the upload was given up")

    def _rename(self, target: Path) -> None:
        for _ in range(10):
            try:
                self.path.rename(target)
            except FileNotFoundError:
                # No such folder yet, or a delete has just removed it because it was empty.
                _make_folders(target.parent, self._store.root)
            else:
                _sync_folder(target.parent)
                return
        raise AwsError("ServiceUnavailable", "the object's folder is being removed again and again", status=503)


def stored(key: str, found: os.stat_result) -> Stored:
    """The object that a stat describes."""
    # In the form of a multipart upload's, so that no client takes it for the MD5 of the content.
    etag = f'"{found.st_mtime_ns:016x}{found.st_size & 0xFFFFFFFF:08x}{found.st_ino & 0xFFFFFFFF:08x}-1"'
    return Stored(key, found.st_size, found.st_mtime, etag)


def _is_file(found: os.stat_result) -> bool:
    return found.st_mode & 0o170000 == 0o100000


def _write_all(file: int, pieces: Sequence[bytes | memoryview]) -> None:
    wanted = sum(map(len, pieces))
    written = os.writev(file, pieces) if pieces else 0
    if written < wanted:
        rest = memoryview(b"".join(pieces))[written:]
        while rest:
            rest = rest[os.write(file, rest) :]


def _headers(file: int, key: str) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(os.getxattr(file, _XATTR)))
    return {"content-type": _guess_type(key)}


def _set_headers(file: int, key: str, headers: Mapping[str, str]) -> None:
    if headers and headers != {"content-type": _guess_type(key)}:
        with contextlib.suppress(OSError):
            os.setxattr(file, _XATTR, json.dumps({"content-type": _guess_type(key), **headers}).encode())


def _guess_type(key: str) -> str:
    name = key.rpartition("/")[2]
    return _TYPES.get(Path(name).suffix.lower()) or mimetypes.guess_type(name)[0] or "binary/octet-stream"


def _make_folders(folder: Path, root: Path) -> None:
    missing = [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]
    folder.mkdir(parents=True, exist_ok=True)
    for parent in missing[1:]:
        _sync_folder(parent)


def _sync_folder(folder: Path) -> None:
    try:
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # removed again meanwhile, with the object
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def _disk_full_stated() -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise AwsError(
            "ServiceUnavailable",
            "the disk that holds the output is full; free some space and try again",
            status=503,
        ) from error
