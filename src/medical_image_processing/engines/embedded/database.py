"""The one SQLite file: registry, jobs, queues.

One writer commits in groups. Whoever wants to write hands in a function of the connection; all functions
handed in while the previous group was being committed run in one transaction, each in a savepoint of its
own, and one fsync makes them durable together (synchronous FULL). ``write`` returns only after that fsync,
so whatever it returned survives kill -9 and a power cut (law J1).

A write that need not outlive a power cut says ``durable=False``: a lease, a receive count, a deletion that
would only be repeated. It still outlives kill -9, since the system has it, and it becomes durable with the
next write that is. A group of nothing else is committed without waiting for the disk.

Functions run on the event loop's thread: they are a few indexed statements each. A COMMIT waits for the
disk: on a quick one in place, since waking a thread costs more than the wait; on a slow one in a thread. So
does moving the write-ahead log into the file (:meth:`Database.checkpoint`). Reads use a connection of their
own and see what is committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from medical_image_processing.engines.embedded.schema import migrate
from medical_image_processing.errors import MipError, Unavailable

T = TypeVar("T")
Write = Callable[[sqlite3.Connection], T]

_LOG = logging.getLogger(__name__)
_GROUP = 256
_LONG_LOG_BYTES = 8 * 1024 * 1024
_QUICK_COMMIT_S = 0.001
_NEWEST_WEIGHT = 0.2


@dataclass
class _Pending:
    run: Write[Any]
    then: Callable[[Any], None] | None
    durable: bool
    done: asyncio.Future[Any]


class Database:
    """Group-committing writer and a reader over one SQLite file. Belongs to one event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._writer = _connect(path)
            migrate(self._writer)
            self._reader = _connect(path)
        except sqlite3.Error as error:
            raise Unavailable(
                "DATABASE_UNUSABLE",
                f"{path} can't be used as the platform's database: {error}; restore it, or choose another folder",
            ) from error
        self._reader.execute("PRAGMA query_only = 1")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-commit")
        self._pending: list[_Pending] = []
        self._flushing: asyncio.Task[None] | None = None
        self._is_full = True
        self._usual_commit_s = 2 * _QUICK_COMMIT_S

    async def write(self, run: Write[T], *, then: Callable[[T], None] | None = None, durable: bool = True) -> T:
        """Run ``run`` in the next group and return its value once it is committed, and durable if asked.

        ``then`` is called with the value right after the commit, even when the caller was cancelled meanwhile.
        What ``run`` raises undoes only its own changes and is raised here. A full or broken disk raises
        :class:`Unavailable` (``STORAGE_FULL``, ``STORAGE_FAILED``); nothing of the group is kept then.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(run, then, durable, done))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return await done

    def read(self, sql: str, *parameters: Any) -> list[sqlite3.Row]:
        """Rows of one short query over committed data."""
        return self._reader.execute(sql, parameters).fetchall()

    async def checkpoint(self) -> None:
        """Move the write-ahead log into the file once it has grown; never holds up a writer."""
        if self.path.with_name(f"{self.path.name}-wal").stat().st_size > _LONG_LOG_BYTES:
            await asyncio.to_thread(self._checkpoint)

    def _checkpoint(self) -> None:
        # A connection of its own: a passive checkpoint and the writer don't wait for each other.
        with contextlib.closing(_connect(self.path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    async def close(self) -> None:
        """Commit what is pending, then close the file."""
        while self._flushing is not None:
            await self._flushing
        self._thread.shutdown()
        self._reader.close()
        self._writer.close()

    async def _flush(self) -> None:
        try:
            while self._pending:
                group, self._pending = self._pending[:_GROUP], self._pending[_GROUP:]
                await self._commit(group)
        finally:
            self._flushing = None

    async def _commit(self, group: list[_Pending]) -> None:
        outcomes: list[tuple[_Pending, Any, Exception | None]] = []
        try:
            self._synchronize(any(pending.durable for pending in group))
            self._writer.execute("BEGIN IMMEDIATE")
            outcomes = [self._run(pending) for pending in group]
            await self._finish_transaction()
        except Exception as error:
            self._roll_back()
            stated = _stated(error)
            outcomes = [(pending, None, stated) for pending in group]
        for pending, value, failure in outcomes:
            if pending.then is not None and failure is None:
                failure = _failure_of(pending.then, value)
            if pending.done.done():
                continue  # its caller was cancelled; the write stands
            if failure is not None:
                pending.done.set_exception(failure)
            else:
                pending.done.set_result(value)

    def _roll_back(self) -> None:
        """What can't be rolled back makes the next BEGIN fail, and is tried again then."""
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error as error:
            _LOG.error("a group of writes can't be rolled back: %s", error)

    async def _finish_transaction(self) -> None:
        began = time.perf_counter()
        if self._is_full and self._usual_commit_s > _QUICK_COMMIT_S:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._writer.execute, "COMMIT")
        else:
            self._writer.execute("COMMIT")
        if self._is_full:
            self._usual_commit_s += _NEWEST_WEIGHT * (time.perf_counter() - began - self._usual_commit_s)

    def _synchronize(self, durable: bool) -> None:
        """FULL waits for the disk at each commit, NORMAL in the write-ahead log mode does not."""
        if durable != self._is_full:
            self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._is_full = durable

    def _run(self, pending: _Pending) -> tuple[_Pending, Any, Exception | None]:
        self._writer.execute("SAVEPOINT one")
        try:
            value = pending.run(self._writer)
        except sqlite3.OperationalError:
            raise  # the disk, not the caller: the whole group fails
        except Exception as error:
            self._writer.execute("ROLLBACK TO one")
            self._writer.execute("RELEASE one")
            return pending, None, error
        self._writer.execute("RELEASE one")
        return pending, value, None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    connection.row_factory = sqlite3.Row
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "wal_autocheckpoint = 0",
        "foreign_keys = ON",
        "cache_size = -16384",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _failure_of(then: Callable[[Any], None], value: Any) -> Exception | None:
    """The write stands, and its neighbours' too, so what goes wrong after it is its caller's alone to hear."""
    try:
        then(value)
    except Exception as error:
        _LOG.exception("what was to follow a write failed")
        return error
    return None


def _stated(error: Exception) -> Exception:
    if isinstance(error, MipError) or not isinstance(error, sqlite3.Error):
        return error
    _LOG.error("the database can't be written: %s", error)
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return Unavailable("STORAGE_FULL", "the disk that holds the platform's database is full; free some space")
    return Unavailable("STORAGE_FAILED", f"the platform's database can't be written: {error}")
