"""Every command explains itself, and docs/cli.md is what they say."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from medical_image_processing.entrypoints.cli import app

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


COMMANDS = list(commands(typer.main.get_command(app)))


def test_all_commands_are_there() -> None:
    wanted = {
        *("up", "demo", "test", "process"),
        *(
            f"algorithms {name}"
            for name in (
                "register",
                "list",
                "show",
                "update",
                "scale",
                "remove",
                "logs",
                "statistics",
                "catalogue",
            )
        ),
        *(f"jobs {name}" for name in ("list", "show", "watch", "replay")),
        *(f"keys {name}" for name in ("add", "list", "remove")),
    }
    assert wanted <= {" ".join(path) for path in COMMANDS}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_fits_a_terminal(path: tuple[str, ...]) -> None:
    answer = CliRunner(env={"COLUMNS": "80", "MIP_HOME": ""}).invoke(app, [*path, "--help"], prog_name="mip")
    assert answer.exit_code == 0
    assert answer.stdout.startswith(" ".join(["Usage: mip", *path]))
    assert "..." not in answer.stdout.partition("Commands:")[2], "a command's summary is cut off"
    assert max(len(line) for line in answer.stdout.splitlines()) <= 80


def test_reference_is_up_to_date(tmp_path: Path) -> None:
    made = tmp_path / "cli.md"
    module = "medical_image_processing.entrypoints.cli"
    command = [sys.executable, "-m", "typer", module, "utils", "docs", "--name", "mip", "--output", str(made)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    again = f"typer {module} utils docs --name mip --output docs/cli.md"
    assert made.read_text() == DOCS.read_text(), f"make it again with: {again}"
    assert not re.search(r"^\* .*\.\.\.$", made.read_text(), re.MULTILINE), "a command's summary is cut off"
    for path in COMMANDS:
        assert f"`{' '.join(['mip', *path])}`" in DOCS.read_text()
