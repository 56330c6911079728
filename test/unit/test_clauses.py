"""The page of laws and clauses says what the tests are, and leaves no clause without one."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_tests_say_and_no_clause_is_without_one() -> None:
    made = runpy.run_path(str(DOCS / "make_clauses.py"))["page"]()
    assert made == (DOCS / "clauses.md").read_text(), "make it again with: .venv/bin/python docs/make_clauses.py"
    assert "**nothing**" not in made
