"""docs/scaling.md says what the code does, and its figures come out again."""

import subprocess
import sys
from pathlib import Path

import pytest

from medical_image_processing.control.scaler import DEFAULT_POLICY

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "scaling.md"


def bench(code: str) -> str:
    """What a bit of code prints that runs beside the benches."""
    command = [sys.executable, "-c", f"from simulate_scaling import *; from page_tables import *; {code}"]
    ran = subprocess.run(command, cwd=ROOT / "bench", capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_the_page_s_words_are_the_default_s_figures() -> None:
    text = " ".join(PAGE.read_text().split())
    policy = DEFAULT_POLICY
    assert f"more than {policy.jobs_per_worker} open jobs" in text
    assert f"fewer than {policy.busy_share * 100:.0f} % of the workers" in text
    assert policy.scale_in_share == 0.5
    assert "at most half of them a minute" in text
    assert f"no open job for {policy.idle_s / 60:.0f} minutes" in text


def test_the_best_policy_is_the_default() -> None:
    name = bench("print(name_of(DEFAULT_POLICY))")
    assert f"| **{name}** | steady |" in PAGE.read_text()
    first = bench("print(read_part(PAGES / 'scaling.md', 'ranking'))").splitlines()[2]
    assert first.startswith(f"| {name} | ")


@pytest.mark.parametrize("load", ["steady", "bursty"])
def test_the_figures_come_out_again(load: str) -> None:
    again = bench(f"print(*row('', '{load}', days(lambda: ours(DEFAULT_POLICY), '{load}')), sep=' | ')")
    assert f"{again} |" in PAGE.read_text()


def test_of_a_few_policies_over_one_day_the_default_does_best() -> None:
    code = """
rivals = [replace(DEFAULT_POLICY, jobs_per_worker=8), replace(DEFAULT_POLICY, busy_share=1.0)]
own = {p: {load: days(partial(ours, p), load, seeds=[9]) for load in LOADS} for p in (*rivals, DEFAULT_POLICY)}
other = {name: {load: days(create, load, seeds=[9]) for load in LOADS} for name, create in OTHERS.items()}
found = Comparison(own, other)
best = found.ranking()[0]
print(best == DEFAULT_POLICY, min(map(found.score, other.values())) > found.score(own[best]))
"""
    assert bench(f"exec({code!r})") == "True True"
