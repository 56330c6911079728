"""``mip build``, ``mip new`` and ``mip check``: what an algorithm's author needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medical_image_processing.entrypoints import cli_output as output
from medical_image_processing.entrypoints import images
from medical_image_processing.entrypoints.cli_output import AsJson

Base = Annotated[
    str | None,
    typer.Option(metavar="IMAGE", help="Build on this image instead of the Dockerfile's.", show_default=False),
]


def build(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Has the Dockerfile.", show_default=False)],
    tag: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The image's name; else mip-algos:FOLDER.", show_default=False),
    ] = None,
    base: Base = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show all that the build prints.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build an algorithm's image.

    What a failed step printed last is shown. `mip build containers/base` makes mip-base:latest, on which
    algorithms are built.
    """
    named = tag or images.default_tag(folder)
    with images.docker_engine() as engine, output.progress() as progress:
        image = images.build_image(
            engine,
            folder,
            tag=named,
            base=base,
            tell=_ignore if verbose or as_json else progress.show,
            log=output.print_note if verbose else _ignore,
        )
    if as_json:
        output.print_json({"tag": image.tag, "image_id": image.image_id, "size_bytes": image.size_bytes})
        return
    output.print_fields([("tag", image.tag), ("image", image.image_id), ("size", output.size(image.size_bytes))])


def _ignore(_: str) -> None:
    pass
