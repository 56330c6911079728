"""Pages of a table whose rows are numbered by ``seq``, the newest first."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.model.page import Page

T = TypeVar("T")


def read_page(
    database: Database,
    table: str,
    where: Sequence[str],
    given: Sequence[Any],
    read: Callable[[sqlite3.Row], T],
    *,
    limit: int,
    cursor: str | None,
) -> Page[T]:
    """One page of the rows for which ``where``, with ``given`` in place of its question marks, is true.

    A cursor that is not ours leads to an empty page.
    """
    where = [*where]
    given = [*given]
    if cursor is not None:
        where.append("seq < ?")
        given.append(int(cursor) if cursor.isdecimal() and len(cursor) < 19 else 0)
    rows = database.read(
        f"SELECT * FROM {table} WHERE {' AND '.join(where) or '1'} ORDER BY seq DESC LIMIT ?",  # noqa: S608 - fixed text
        *given,
        limit + 1,
    )
    page = rows[:limit]
    return Page(tuple(map(read, page)), str(page[-1]["seq"]) if len(rows) > limit else None)
