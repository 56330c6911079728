"""``mip build``, ``mip new`` and ``mip check``: what an algorithm's author needs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from medical_image_processing.entrypoints import cli_output as output
from medical_image_processing.entrypoints import images
from medical_image_processing.entrypoints.cli_output import AsJson

_STYLES = {"pass": "green", "FAIL": "bold red", "not reached": "dim"}

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


def new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The algorithm's id.", show_default=False)],
    kind: Annotated[str, typer.Option(metavar="python|native", help="What it is written in.")],
    folder: Annotated[
        Path | None,
        typer.Option("--output", metavar="FOLDER", help="Where to put it; else ./NAME.", show_default=False),
    ] = None,
) -> None:
    """Make a folder for a new algorithm.

    It has all that the algorithm needs, and builds, tests and registers as it is: a Dockerfile, the
    algorithm in Python or C++, its test, and algorithm.json, the body with which it is registered.
    """
    from medical_image_processing.entrypoints.new import create_algorithm

    target = folder or Path(name)
    for file in create_algorithm(name, kind, target):
        output.print_note(f"{target / file}")
    output.print_note(f"next: `mip check {target}` builds it and tries it; {target / 'README.md'} has the rest")


def check(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="FOLDER|IMAGE", help="What to check.", show_default=False)],
    base: Base = None,
    sample: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A DICOM image to run it on; else a small CT.", show_default=False),
    ] = None,
    time_limit: Annotated[float, typer.Option(metavar="SECONDS", help="A job without an end hangs.")] = 300,
    budget: Annotated[float, typer.Option(metavar="SECONDS", help="A job that takes longer is too slow.")] = 60,
    as_json: AsJson = False,
) -> None:
    """Try an image, say what is wrong with it.

    A folder is built first. The image is registered with a platform of its own, as FOLDER/algorithm.json
    says, and runs one job on a sample. The exit status is 1 when a check failed.
    """
    from medical_image_processing import samples
    from medical_image_processing.entrypoints.check import observe_image, read_algorithm_json, read_registration
    from medical_image_processing.entrypoints.verdicts import judge

    folder = Path(what) if Path(what).is_dir() else None
    given = read_algorithm_json(folder) if folder else {}
    with images.docker_engine() as engine, output.progress() as progress:
        tell = _ignore if as_json else progress.show
        if folder is None:
            image = images.find_image(engine, what)
        else:
            tag = images.default_tag(folder)
            image = images.build_image(engine, folder, tag=tag, base=base, tell=tell, log=_ignore)
        body = read_registration(given, image)
        file = sample or samples.ct_small()
        seen = observe_image(engine, image, body, file, time_limit_s=time_limit, budget_s=budget, tell=tell)
    verdicts = judge(seen)
    passed = all(verdict.outcome != "FAIL" for verdict in verdicts)
    if as_json:
        output.print_json({"image": image.tag, "passed": passed, "checks": [asdict(v) for v in verdicts]})
    else:
        rows = [(v.check, Text(v.outcome, style=_STYLES[v.outcome]), v.what) for v in verdicts]
        output.print_table(("check", "verdict", "what to do"), rows)
    raise typer.Exit(0 if passed else 1)


def _ignore(_: str) -> None:
    pass
