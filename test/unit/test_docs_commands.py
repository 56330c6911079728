"""Every ``mip`` and ``aws`` command in the docs is one, with the options it is given."""

import re
import shlex
from pathlib import Path
from typing import Any

import botocore.session
import click
import pytest
import typer

from medical_image_processing.entrypoints.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CLI = typer.main.get_command(app)
OF_THE_TOOL = {("logs", "tail"), ("s3", "cp"), ("ecr", "get-login-password")}
"""Commands that the aws tool makes of several calls."""
GLOBAL = {"max-items", "query", "output", "region"}


def commands(page: Path, program: str) -> list[str]:
    """The page's commands of a program: in its shell blocks, and in the code of its sentences and tables."""
    text = page.read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`((?:\./)?(?:mip|aws) [^`|]+)`", prose)
    found = []
    for line in lines:
        for part in re.split(r"\||;|&&", re.sub(r'"\$\((.*?)\)"', r" ; \1 ; ", line)):
            words = part.strip()
            if re.match(rf"(\.{{0,2}}/)?{program} ", words):
                found.append(words.lstrip("./"))
    return found


MIP = [(page.name, command) for page in PAGES if page.name != "cli.md" for command in commands(page, "mip")]
AWS = [(page.name, command) for page in PAGES for command in commands(page, "aws")]


@pytest.mark.parametrize(("page", "command"), MIP, ids=lambda value: str(value)[:70])
def test_the_platform_s_commands_are_there(page: str, command: str) -> None:
    words = shlex.split(command.partition("<<")[0], comments=True)[1:]
    current: Any = CLI
    while isinstance(current, click.Group) or hasattr(current, "commands"):
        if not words or words[0].startswith("-"):
            break
        name = words.pop(0).rstrip("….,:")
        assert name in current.commands, f"{page}: {command}"
        current = current.commands[name]
    options = {option for parameter in current.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-") and len(word) > 1:
            assert word.partition("=")[0] in options | {"--help", "-h"}, f"{page}: {command}"


@pytest.mark.parametrize(("page", "command"), AWS, ids=lambda value: str(value)[:70])
def test_aws_has_such_a_call(page: str, command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    service, call = words[:2]
    if (service, call) in OF_THE_TOOL:
        return
    model = botocore.session.Session().get_service_model(service)
    names = {"-".join(re.findall("[A-Z][a-z0-9]*", name)).lower(): name for name in model.operation_names}
    assert call in names, f"{page}: {command}"
    shape = model.operation_model(names[call]).input_shape
    given = {word.removeprefix("--").removeprefix("no-") for word in words if word.startswith("--")}
    members = {re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower() for name in (shape.members if shape else ())}
    assert given - GLOBAL <= members, f"{page}: {command}"


def test_the_pages_have_commands() -> None:
    assert len(MIP) > 60
    assert len(AWS) > 20
