"""How the command line speaks: tables for people, JSON for programs, one line for an error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from medical_image_processing.errors import MipError

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)

_STYLES = {
    "ACTIVE": "green",
    "SUCCEEDED": "green",
    "RUNNING": "cyan",
    "PENDING": "cyan",
    "FAILED": "red",
    "DELETING": "red",
    "CANCELLED": "yellow",
    "INACTIVE": "dim",
}
_AS_JSON = "medical_image_processing.as_json"


def _remember_json(context: typer.Context, value: bool) -> bool:
    context.meta[_AS_JSON] = value
    return value


AsJson = Annotated[
    bool, typer.Option("--json", callback=_remember_json, is_eager=True, help="Print JSON, for programs.")
]
Cursor = Annotated[
    str | None, typer.Option(metavar="CURSOR", help="Continue an earlier list.", show_default=False)
]


def print_json(value: Any) -> None:
    """``value`` on standard output, as it is."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_error(error: MipError, context: typer.Context) -> None:
    """One line on standard error, below the log in its details; with ``--json``, as the API writes it."""
    details = error.details or {}
    if context.meta.get(_AS_JSON):
        said = {"code": error.code, "message": error.message, **({"details": details} if details else {})}
        typer.echo(json.dumps({"error": said}, ensure_ascii=False), err=True)
        return
    for line in details.get("log", ()):
        print_note(line)
    line = Text.assemble(("error: ", "bold red"), error.message, (f" ({error.code})", "dim"))
    ERR.print(line, soft_wrap=True)


def print_note(text: str) -> None:
    """A line for people, on standard error, so that it is in nobody's data."""
    ERR.print(Text(text), soft_wrap=True)


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str | Text]], *, right: Sequence[str] = ()
) -> None:
    """A table as wide as the terminal; long cells are folded, never cut. ``right``: columns of numbers."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(
            heading,
            justify="right" if heading in right else "left",
            overflow="fold",
            # The first column is the name one copies; it gives way last.
            no_wrap=number == 0 and all(len(row[0]) <= 40 for row in rows),
        )
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    OUT.print(table)


def print_fields(fields: Sequence[tuple[str, str | Text | None]]) -> None:
    """One thing, a line a field; fields without a value are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        if value:
            table.add_row(name, Text(value) if isinstance(value, str) else value)
    OUT.print(table)


def print_named(lines: Sequence[tuple[str, str]]) -> None:
    """Names that one copies, never cut or folded, and words about each, which go on below the first of them."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, overflow="ignore")
    table.add_column(overflow="fold")
    for name, words in lines:
        table.add_row(Text(name), Text(words))
    OUT.print(table)


def state(status: str) -> Text:
    """A state, coloured on a terminal."""
    return Text(status, style=_STYLES.get(status, ""))


def count(number: int, what: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def seconds(value: float) -> str:
    """A duration: ``85 ms``, ``3.2 s``, ``4 min``."""
    if value < 1:
        return f"{max(value, 0) * 1000:.0f} ms"
    if value < 100:
        return f"{value:.1f} s"
    if value < 6000:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.0f} h"


def size(number: int) -> str:
    """A number of bytes: ``265 kB``, ``15.7 MB``."""
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.0f} kB"


def ago(moment: str | float, *, now: datetime | None = None) -> str:
    """How long ago ``moment`` was: ISO 8601 in UTC, or seconds since the epoch."""
    then = datetime.fromtimestamp(moment, UTC) if isinstance(moment, int | float) else parse_time(moment)
    passed = max(0.0, ((now or datetime.now(UTC)) - then).total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if passed >= size:
            return f"{int(passed // size)} {unit} ago"
    return f"{int(passed)} s ago"


def clock(text: str) -> str:
    """A time of the API as this machine's clock shows it: ``2026-11-24 13:05``."""
    return f"{parse_time(text).astimezone():%Y-%m-%d %H:%M}"


def parse_time(text: str) -> datetime:
    """A time of the API."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Progress:
    """What is going on, for a person who waits: one living line on a terminal, else a line a change."""

    def __init__(self, status: Status | None) -> None:
        self._status = status
        self._shown = ""

    def show(self, text: str, *, percent: float | None = None) -> None:
        """``text`` is what goes on; ``percent`` (0 to 100) is shown on terminals only."""
        if self._status is not None:
            self._status.update(Text(text if percent is None else f"{text} {percent:.0f} %"))
        elif text != self._shown:
            print_note(text)
        self._shown = text


@contextmanager
def progress() -> Iterator[Progress]:
    """Where to report progress while something is waited for."""
    if ERR.is_terminal:
        with ERR.status("", spinner="dots") as status:
            yield Progress(status)
    else:
        yield Progress(None)


def print_more(cursor: str | None) -> None:
    """Where a list that was cut goes on."""
    if cursor:
        print_note(f"there are more; continue with --cursor {cursor}")
