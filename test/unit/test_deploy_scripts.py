"""The scripts for PowerShell, which can't run here, say the same as those for a shell, which are run elsewhere."""

import os
import re
from pathlib import Path

import typer

from medical_image_processing.entrypoints.cli import app

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = (ROOT / "infra" / "deploy-complete", ROOT / "test" / "test-admin-api")


def test_each_script_has_its_twin_and_both_only_call_the_command_line() -> None:
    for script, command in zip(SCRIPTS, ("deploy run", "deploy test-admin"), strict=True):
        shell, power = script.with_suffix(".sh"), script.with_suffix(".ps1")
        assert os.access(shell, os.X_OK)
        assert f'/../mip" {command} "$@"' in shell.read_text()
        assert "'../mip.ps1'" in power.read_text()
        assert command.split() == re.findall(r"(?<=['\s(])(?:deploy|run|test-admin)(?=['\s])", code(power))[:2]
        assert len(code(power).splitlines()) < 20


def test_what_the_script_maps_is_an_option() -> None:
    given = set(re.findall(r"'(--[a-z-]+)'", code(SCRIPTS[0].with_suffix(".ps1"))))
    assert given == {"--region", "--account", "--test-only"}
    deploy = typer.main.get_command(app).commands["deploy"]  # type: ignore[attr-defined]
    assert given <= {option for parameter in deploy.commands["run"].params for option in parameter.opts}


def code(file: Path) -> str:
    """Without comments."""
    return "\n".join(line for line in file.read_text().splitlines() if not line.startswith("#"))
