"""Tables in docs/ that programs make: each stands between two comments that carry its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

PAGES = Path(__file__).resolve().parents[1] / "docs"


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without its last line break."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read_part(page: Path, name: str) -> str:
    """What stands between the comments. KeyError where the page has no such part."""
    found = _pattern(name).search(page.read_text())
    if found is None:
        raise KeyError(f"{page} has no part named '{name}'")
    return found[2].strip("\n")


def replace_part(page: Path, name: str, text: str) -> None:
    """Put ``text`` between the comments of that name."""
    read_part(page, name)
    page.write_text(_pattern(name).sub(lambda found: f"{found[1]}\n{text}\n{found[3]}", page.read_text()))


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- made: {name} -->)\n(.*?)(<!-- end: {name} -->)", re.DOTALL)
