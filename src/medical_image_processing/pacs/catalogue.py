"""The list of a PACS folder's files in one SQLite file, so that a start reads only what changed.

It is a cache: deleting it costs one full scan, and one that is damaged, of another version or of another
folder is made anew. Paths may hold a patient's name, so the file is readable by its owner only.

One thread writes; the event loop's thread reads, through a connection of its own, and those that describe share
one. None is opened later, as the file may be deleted meanwhile.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from medical_image_processing.dicom.identity import Description, Identity
from medical_image_processing.pacs.archive import Described, SeriesDescription

_VERSION = 2
# AUTOINCREMENT: an id is never given to another file, so that a link opens one file or none.
_SCHEMA = f"""
CREATE TABLE source (folder BLOB NOT NULL, epoch TEXT NOT NULL);
CREATE TABLE files (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    dicom INTEGER NOT NULL,
    study TEXT NOT NULL,
    series TEXT NOT NULL,
    sop TEXT NOT NULL,
    position REAL,
    date TEXT NOT NULL,
    modality TEXT NOT NULL,
    study_description TEXT NOT NULL,
    series_description TEXT NOT NULL
);
CREATE INDEX files_by_uid ON files (study, series, sop, path);
PRAGMA user_version = {_VERSION};
"""
_COLUMNS = "id, study, series, sop, position, path, size, mtime_ns, ctime_ns"


class Stamp(NamedTuple):
    """What tells that a file was written again, or that another one took its place.

    The time of change can't be set by programs, as the time of modification can: a copy that kept its
    time shows, and so does a file from elsewhere that a symbolic link put here.
    """

    size: int
    mtime_ns: int
    ctime_ns: int


class ImageFile(NamedTuple):
    """A DICOM file of the folder; ``path`` is relative to it, with slashes, as the file system spells it.

    UIDs that its header lacks are ``""``; ``position`` is in mm along the normal of the image plane.
    """

    row: int
    study_uid: str
    series_uid: str
    sop_uid: str
    position: float | None
    path: bytes
    stamp: Stamp

    @property
    def key(self) -> str:
        """The PACS path, for people and JSON."""
        return self.path.decode("utf-8", "replace")


@dataclass(frozen=True)
class Found:
    """A file that the scan read: ``said`` is None when it is not DICOM."""

    path: bytes
    stamp: Stamp
    said: tuple[Identity, Description] | None


class Catalogue:
    """Files by path and by UID."""

    def __init__(self, path: Path, folder: bytes) -> None:
        try:
            self._writer = _open(path, folder)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise
            _remove(path)
            self._writer = _open(path, folder)
        self._reader, self._describer = _connect(path), _connect(path)
        self._describing = threading.Lock()
        # SQLite opens some of its files at the first query.
        self._describer.execute("SELECT epoch FROM source").close()
        self.epoch: str = self._reader.execute("SELECT epoch FROM source").fetchone()[0]

    def close(self) -> None:
        """Close the file."""
        with self._describing:
            self._describer.close()
        self._reader.close()
        self._writer.close()

    # The scanning thread's side.

    def stamps(self) -> dict[bytes, Stamp]:
        """Every known file, DICOM or not."""
        rows = self._writer.execute("SELECT path, size, mtime_ns, ctime_ns FROM files")
        return {path: Stamp(*stamp) for path, *stamp in rows}

    def put(self, found: Iterable[Found]) -> None:
        """Add files, or replace them: under a new id, as another content is another file."""
        rows = [_row(one) for one in found]
        with self._writer:
            self._writer.executemany(
                "INSERT OR REPLACE INTO files"
                " (path, size, mtime_ns, ctime_ns, dicom, study, series, sop, position,"
                " date, modality, study_description, series_description)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def remove(self, paths: Iterable[bytes]) -> None:
        """Forget files that are gone."""
        with self._writer:
            self._writer.executemany("DELETE FROM files WHERE path = ?", [(path,) for path in paths])

    # The event loop's side.

    def studies(self) -> list[str]:
        """Study Instance UIDs, in the order of their first path."""
        rows = self._reader.execute(
            "SELECT study FROM files WHERE dicom AND study != '' GROUP BY study ORDER BY MIN(path)"
        )
        return [study for (study,) in rows]

    def by_row(self, row: int) -> ImageFile | None:
        """The file with that id."""
        found = self._select("id = ? AND dicom", row)
        return found[0] if found else None

    def by_uid(self, study: str, series: str, sop: str) -> ImageFile | None:
        """The instance; of several copies the one whose path comes first."""
        found = self._select("study = ? AND series = ? AND sop = ? ORDER BY path LIMIT 1", study, series, sop)
        return found[0] if found else None

    def by_path(self, path: bytes) -> ImageFile | None:
        """The DICOM file at that path."""
        found = self._select("path = ? AND dicom", path)
        return found[0] if found else None

    def of_study(self, study: str) -> list[ImageFile]:
        """All files of a study, by path."""
        return self._select("study = ? AND dicom ORDER BY path", study)

    def of_series(self, study: str, series: str) -> list[ImageFile]:
        """All files of a series, by path."""
        return self._select("study = ? AND series = ? AND dicom ORDER BY path", study, series)

    def under(self, folder: bytes) -> list[ImageFile]:
        """All DICOM files below a folder, by path."""
        # "0" is the byte after "/".
        return self._select("path >= ? AND path < ? AND dicom ORDER BY path", folder + b"/", folder + b"0")

    # Any thread's.

    def describe(self, study: str | None, series: str | None, limit: int, search: str | None) -> Described:
        """The first ``limit`` series, in the order of their first files, which say what they are.

        Those of ``study``, with the UID ``series``, that have the words of ``search``, where these are given.
        """
        # Only what is asked for, so that a study's series are found by their index.
        asked = {name: uid for name, uid in (("study", study), ("series", series)) if uid is not None}
        conditions = "dicom AND study != '' AND series != ''" + "".join(f" AND {name} = ?" for name in asked)
        columns = "study, series, date, modality, study_description, series_description, COUNT(*), MIN(path)"
        found_in = f"files WHERE {conditions} GROUP BY study, series ORDER BY MIN(path)"
        query = f"SELECT {columns} FROM {found_in}"  # noqa: S608 - the words above
        with self._describing:
            # Beside MIN() the other columns are those of the row that it is of (SQLite, "Bare columns in an
            # aggregate query").
            rows = self._describer.execute(query, tuple(asked.values()))
            described = (SeriesDescription._make(one or None for one in row[:-1]) for row in rows)
            found = list(islice((one for one in described if one.has(search or "")), limit + 1))
            rows.close()
        return Described(found[:limit], len(found) <= limit)

    def _select(self, condition: str, *values: str | bytes | int) -> list[ImageFile]:
        query = f"SELECT {_COLUMNS} FROM files WHERE {condition}"  # noqa: S608 - the conditions above
        rows = self._reader.execute(query, values).fetchall()
        return [
            ImageFile(row, study, series, sop, position, path, Stamp(*stamp))
            for row, study, series, sop, position, path, *stamp in rows
        ]


def _row(found: Found) -> tuple[bytes | int | str | float | None, ...]:
    identity, description = found.said or (Identity(), Description("", "", "", ""))
    return (
        found.path,
        *found.stamp,
        found.said is not None,
        identity.study_uid,
        identity.series_uid,
        identity.sop_uid,
        identity.position,
        description.date,
        description.modality,
        description.study,
        description.series,
    )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, timeout=5)
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _open(path: Path, folder: bytes) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    writer = _connect(path)
    try:
        version = writer.execute("PRAGMA user_version").fetchone()[0]
        if version == _VERSION and writer.execute("SELECT folder FROM source").fetchone() == (folder,):
            return writer
        if version == 0 and not writer.execute("SELECT name FROM sqlite_master").fetchone():
            writer.execute("PRAGMA journal_mode = WAL")
            writer.executescript(_SCHEMA)
            with writer:
                writer.execute("INSERT INTO source VALUES (?, ?)", (folder, secrets.token_hex(8)))
            return writer
    except BaseException:
        writer.close()
        raise
    writer.close()
    _remove(path)
    return _open(path, folder)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
