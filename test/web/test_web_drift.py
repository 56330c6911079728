"""What the client knows of the API is what the API says, and its own checks pass."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from web_client import CLIENT, built_client, run_npm

ROOT = Path(__file__).resolve().parents[2]


def test_the_description_and_the_sizes_are_the_apis_own() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    import make_web_api

    assert make_web_api.OPENAPI.read_text() == make_web_api.openapi(), "run docs/make_web_api.py"
    assert make_web_api.SIZES.read_text() == make_web_api.sizes(), "run docs/make_web_api.py"


def test_the_types_are_made_of_the_description(tmp_path: Path) -> None:
    built_client()  # so that the packages are there
    made = tmp_path / "openapi.d.ts"
    run_npm("exec", "--no", "--", "openapi-typescript", "openapi.json", "--output", str(made))
    assert (CLIENT / "src/api/openapi.d.ts").read_text() == made.read_text(), "run npm run types"


def test_lint_and_unit_tests_of_the_client_pass() -> None:
    built_client()
    run_npm("run", "check")


def test_the_lock_names_no_registry() -> None:
    assert '"resolved"' not in (CLIENT / "package-lock.json").read_text()


@pytest.mark.parametrize("most_kb", [400])
def test_the_first_page_is_small(most_kb: int) -> None:
    import gzip
    import re

    built = built_client()
    page = (built / "index.html").read_text()
    names = re.findall(r'(?:src|href)="/(assets/[^"]+\.js)"', page)
    assert names, page
    # And what the entry imports at once.
    for name in list(names):
        text = (built / name).read_text()
        names += [f"assets/{one}" for one in re.findall(r'from"\./([^"]+\.js)"', text)]
    size = sum(len(gzip.compress((built / name).read_bytes())) for name in set(names))
    assert size <= most_kb * 1000, f"{size} bytes in {sorted(set(names))}"
