"""One pass over a PACS folder: what is new, changed and gone."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO

from medical_image_processing.dicom.identity import read_identity_and_description
from medical_image_processing.pacs.catalogue import Catalogue, Found, Stamp

_BATCH = 200
# A file may have become a link since it was listed, or a pipe, which would block. Windows has neither flag.
_READ_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Stopped(Exception):
    """The scan was told to stop."""


def scan_folder(folder: bytes, catalogue: Catalogue, stopped: Callable[[], bool]) -> None:
    """Bring ``catalogue`` up to date with the files below ``folder``.

    Only files whose size or time changed are opened. Symbolic links are never followed; hidden files and
    folders are skipped. What was read is committed in batches, so that a long first scan shows early.

    What can't be read now is not forgotten. Raises OSError when the folder itself can't be listed, and
    :class:`Stopped`; what was committed stays.
    """
    gone = catalogue.stamps()
    unreadable: list[bytes] = []
    batch: list[Found] = []
    for path, stamp in _walk(folder, unreadable):
        if stopped():
            raise Stopped
        if gone.pop(path, None) == stamp:
            continue
        found = _read(folder, path)
        if found is not None:
            batch.append(found)
        if len(batch) >= _BATCH:
            catalogue.put(batch)
            batch = []
    catalogue.put(batch)
    kept = tuple(path + b"/" for path in unreadable)
    catalogue.remove(path for path in gone if not (path + b"/").startswith(kept))


def _walk(folder: bytes, unreadable: list[bytes]) -> Iterator[tuple[bytes, Stamp]]:
    """Paths relative to ``folder``, with slashes, of the regular files below it.

    Files and subfolders that are there and can't be read are added to ``unreadable``.
    """
    pending = [b""]
    while pending:
        prefix = pending.pop()
        try:
            with os.scandir(below(folder, prefix)) as listing:
                entries = list(listing)
        except OSError as error:
            if not prefix:
                raise
            _note(error, prefix, unreadable)
            continue
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            path = prefix + b"/" + entry.name if prefix else entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                elif entry.is_file(follow_symlinks=False):
                    yield path, stamp_of(entry.stat(follow_symlinks=False))
            except OSError as error:
                _note(error, path, unreadable)


def _note(error: OSError, path: bytes, unreadable: list[bytes]) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        unreadable.append(path)


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of a file with that status."""
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def below(folder: bytes, path: bytes) -> bytes:
    """The file system's path of what the index calls ``path``."""
    return os.path.join(folder, path)  # noqa: PTH118 - bytes, as names need not be text


def open_file(path: bytes) -> BinaryIO:
    """Open for reading what must be a file itself, no symbolic link. Raises OSError."""
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | _READ_FLAGS))


def _read(folder: bytes, path: bytes) -> Found | None:
    """The file at ``path``; None when it can't be opened now: the next scan tries again."""
    try:
        with open_file(below(folder, path)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return None
            return Found(path, stamp_of(status), read_identity_and_description(file))
    except OSError:
        return None
