"""docs/costs.md is what the program makes, and adds up."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "costs.md"


def bench(code: str) -> str:
    """What a bit of code prints that runs beside the benches."""
    command = [sys.executable, "-c", f"from aws_costs import *; from page_tables import *; {code}"]
    ran = subprocess.run(command, cwd=ROOT / "bench", capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_the_page_s_tables_are_the_program_s() -> None:
    page = "PAGES / 'costs.md'"
    differ = bench(f"print([name for name, text in tables().items() if read_part({page}, name) != text])")
    assert differ == "[]", "make them again with: .venv/bin/python bench/aws_costs.py --write"


def test_every_price_has_its_page_and_every_item_its_price() -> None:
    text = PAGE.read_text()
    assert bench("print(PRICES_OF)") in text
    assert bench("print(all(page.startswith('aws.amazon.com/') for _, page in PRICES.values()))") == "True"
    assert bench("print(all(i.price in PRICES for i in (*JOB, *WORKER, *IDLE, *fixed(COUNTED))))") == "True"


def test_an_idle_algorithm_costs_cents() -> None:
    (cost,) = re.findall(r"\*\*an idle algorithm\*\*.*\*\*([0-9.]+)\*\*", PAGE.read_text())
    assert float(cost) < 0.05
