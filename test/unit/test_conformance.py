"""The conformance statement's tables are what the code does, and it claims what the objects hold."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_statement_s_tables_are_what_the_code_does() -> None:
    made = runpy.run_path(str(DOCS / "make_conformance.py"))
    page = made["page"]()
    assert page == (DOCS / "conformance.md").read_text(), (
        "make it again with: .venv/bin/python docs/make_conformance.py"
    )
    for name in made["TABLES"]:
        assert f"<!-- made: {name} -->" in page, f"{name} is made and has no place on the page"


def test_no_private_attribute_is_written() -> None:
    made = runpy.run_path(str(DOCS / "make_conformance.py"))
    assert made["private"]() == "Private attributes written: none.\n"
