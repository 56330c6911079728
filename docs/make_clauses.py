"""Makes ``docs/clauses.md``: every law and clause, and the tests that show it on each engine.

    .venv/bin/python docs/make_clauses.py

A test belongs to the clauses that begin its name (``test_b2_j3_…``), and to the AWS engine where its file's name
says ``aws``, ``lambda`` or ``infra``. What the emulator can't show is said in the test modules, in a dict named
``CHECKED_OTHERWISE``.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "clauses.md"
LAWS = ROOT / "ARCHITECTURE.md"
PORTS = ROOT / "src/medical_image_processing/ports"
ELSEWHERE = "CHECKED_OTHERWISE"

_CLAUSE = re.compile(r"^- ([A-Z]\d+) (.+?)(?=^- [A-Z]\d+ |^$|\Z|\"\"\")", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"^(test/\S+?\.py)::.*?test_((?:[a-z]\d+_)+)")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


def page() -> str:
    """The page's text."""
    tests, elsewhere = collected_tests(), checked_elsewhere()
    lines = [
        "# Laws and clauses, and what shows them",
        "",
        "Made by `docs/make_clauses.py` from the tests themselves; one fails when this page is out of date.",
        "The numbers are of tests whose names begin with the clause; `./mip test` runs them all. What an emulator",
        "can't show says where it is checked instead.",
    ]
    for title, clauses in groups().items():
        lines += ["", f"## {title}", "", "| | says | embedded | AWS |", "|---|---|---|---|"]
        for name, text in clauses.items():
            cells = [cell(tests[name, engine], elsewhere.get((name, engine))) for engine in ("embedded", "aws")]
            lines.append(f"| {name} | {text} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def groups() -> dict[str, dict[str, str]]:
    """Clauses by where they are stated."""
    found = {"The laws": clauses_in(LAWS.read_text())}
    for module in sorted(PORTS.glob("*.py")):
        if clauses := clauses_in(module.read_text()):
            found[f"`ports/{module.name}`"] = clauses
    return found


def clauses_in(text: str) -> dict[str, str]:
    """Clause → what it says, on one line."""
    return {
        name: " ".join(said.split()).replace("``", "`").replace("|", "\\|") for name, said in _CLAUSE.findall(text)
    }


def collected_tests() -> dict[tuple[str, str], dict[str, int]]:
    """(Clause, engine) → how many tests of which file."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "test"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tests: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for line in listed.splitlines():
        if match := _NAMED.match(line):
            path, names = match.groups()
            for name in names.rstrip("_").split("_"):
                tests[name.upper(), engine_of(path)][path] += 1
    return tests


def checked_elsewhere() -> dict[tuple[str, str], str]:
    """(Clause, engine) → where it is checked, from the test modules' own words."""
    said = {}
    for path in sorted((ROOT / "test").rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            if any(isinstance(target, ast.Name) and target.id == ELSEWHERE for target in targets):
                assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
                for name, where in ast.literal_eval(node.value).items():
                    clause, _, part = name.partition(" ")
                    said[clause, engine_of(str(path.relative_to(ROOT)))] = f"{part} {where}".strip()
    return said


def engine_of(path: str) -> str:
    """Which engine a test file is about."""
    return "aws" if "aws" in path or "lambda" in path or "infra" in path else "embedded"


def cell(tests: dict[str, int], elsewhere: str | None) -> str:
    """What shows a clause on one engine."""
    shown = [f"{count} in {path.removeprefix('test/')}" for path, count in sorted(tests.items())]
    return "; ".join([*shown, *([elsewhere] if elsewhere else [])]) or "**nothing**"


if __name__ == "__main__":
    main()
