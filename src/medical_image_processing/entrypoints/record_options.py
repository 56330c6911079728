"""The options by which ``mip algorithms register`` and ``update`` name an algorithm's fields."""

from __future__ import annotations

import functools
import inspect
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from medical_image_processing.errors import InvalidRequest


@dataclass(frozen=True)
class RecordOptions:
    """The options as given; None and an empty text are not."""

    image: Annotated[
        str | None, typer.Option(metavar="URI", help="URI of the container image.", show_default=False)
    ] = None
    cpu: Annotated[
        int | None, typer.Option(metavar="UNITS", help="CPU units; 1024 is one vCPU.", show_default=False)
    ] = None
    memory: Annotated[int | None, typer.Option(metavar="MIB", help="Memory in MiB.", show_default=False)] = None
    command: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What the container runs, as one quoted string.", show_default=False),
    ] = None
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A variable for the container; may be repeated.", show_default=False
        ),
    ] = None
    desired_count: Annotated[
        int | None,
        typer.Option(metavar="N", help="Workers to keep running, or to start with.", show_default=False),
    ] = None
    min_count: Annotated[
        int | None,
        typer.Option(metavar="N", help="The fewest workers, where the platform may choose.", show_default=False),
    ] = None
    max_count: Annotated[
        int | None,
        typer.Option(metavar="N", help="The most workers, where the platform may choose.", show_default=False),
    ] = None
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            metavar="KIND",
            help="What results are made into: SC, SEG or SR; may be repeated.",
            show_default=False,
        ),
    ] = None
    store_results: Annotated[
        bool | None,
        typer.Option(
            "--store-results/--no-store-results",
            help="Put results back into the PACS, where a job doesn't say.",
            show_default=False,
        ),
    ] = None
    description: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What it is for, for those who send it jobs.", show_default=False),
    ] = None
    parameters_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON Schema of its jobs' parameters, - for standard input.",
            show_default=False,
        ),
    ] = None

    def fields(self) -> dict[str, Any]:
        """The body's fields that were given. BadParameter that names the option; InvalidRequest ``BAD_FILE``."""
        parameters = read_object(self.parameters_file, "--parameters-file") if self.parameters_file else None
        fields = {
            "image_uri": self.image,
            "cpu": self.cpu,
            "memory": self.memory,
            "command": _split(self.command) if self.command else None,
            "env": dict(_pair(text) for text in self.env) if self.env else None,
            "desired_count": self.desired_count,
            "min_count": self.min_count,
            "max_count": self.max_count,
            "outputs": [kind.upper() for kind in self.outputs] if self.outputs else None,
            "store_results": self.store_results,
            "description": self.description,
            "parameters": parameters,
        }
        return {name: value for name, value in fields.items() if value is not None}


def with_record_options(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` as typer needs it, which knows options only as parameters: ``options`` is spread into them."""
    fields = inspect.signature(RecordOptions, eval_str=True).parameters

    @functools.wraps(command)
    def spread(**given: Any) -> None:
        options = RecordOptions(**{name: given.pop(name) for name in fields})
        command(options=options, **given)

    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        parameters += fields.values() if parameter.name == "options" else [parameter]
    spread.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return spread


def read_object(file: Path, option: str) -> dict[str, Any]:
    """The JSON object in ``file``, - for standard input. InvalidRequest ``BAD_FILE``, which names ``option``."""
    try:
        value = json.loads(sys.stdin.read() if str(file) == "-" else file.read_text())
    except OSError as error:
        raise InvalidRequest("BAD_FILE", f"{option} {file} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidRequest("BAD_FILE", f"{option} {file} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("BAD_FILE", f"{option} {file}: must hold one JSON object")
    return value


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; quote it as for a shell", param_hint="--command") from error


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise typer.BadParameter("must be NAME=VALUE", param_hint="--env")
    return name, value
