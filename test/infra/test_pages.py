"""docs/permissions.md and docs/costs.md tell of the template as it is now."""

import json
import subprocess
import sys
from pathlib import Path

from aws_stack import ROOT, assemble
from medical_image_processing import naming

BENCH = ROOT / "bench"


def bench(code: str, file: Path) -> str:
    """What a bit of code prints that runs beside the benches, with the template's file as ``file``."""
    prelude = f"import json; from pathlib import Path; from page_tables import *; file = Path({str(file)!r}); "
    ran = subprocess.run(
        [sys.executable, "-c", prelude + code], cwd=BENCH, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_the_page_of_permissions_is_made_from_this_template() -> None:
    file = assemble({}) / f"{naming.STACK}.template.json"
    again = bench(
        "from aws_permissions import tables; "
        "print(tables(json.loads(file.read_text())) == read_part(PAGES / 'permissions.md', 'roles'))",
        file,
    )
    assert again == "True", f"make it again with: .venv/bin/python bench/aws_permissions.py {file} --write"


def test_what_costs_by_the_month_is_counted_in_this_template() -> None:
    file = assemble({}) / f"{naming.STACK}.template.json"
    counted, told = (
        json.loads(line)
        for line in bench(
            "from aws_costs import COUNTED, count; "
            "print(json.dumps(count(json.loads(file.read_text())))); print(json.dumps(COUNTED))",
            file,
        ).splitlines()
    )
    assert counted == told
