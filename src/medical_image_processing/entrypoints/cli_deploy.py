"""``mip env`` and ``mip deploy``: the platform on AWS."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medical_image_processing import naming
from medical_image_processing.entrypoints import cli_output as output
from medical_image_processing.entrypoints.cli_output import AsJson
from medical_image_processing.entrypoints.client import Client
from medical_image_processing.errors import AlgorithmFailed, InvalidRequest, NotFound

if TYPE_CHECKING:
    from medical_image_processing.entrypoints.deploy import admin_test
    from medical_image_processing.entrypoints.deploy.cdk import Cdk
    from medical_image_processing.entrypoints.deploy.deployment import Step
    from medical_image_processing.entrypoints.deploy.needs import Ready
    from medical_image_processing.entrypoints.deploy.sample_job import Done

_ROOT = Path(__file__).resolve().parents[3]

app = typer.Typer(no_args_is_help=True, help="Run the platform on AWS.")

StackName = Annotated[str, typer.Option("--stack", metavar="NAME", help="The stack's name.")]
Region = Annotated[
    str | None,
    typer.Option(metavar="REGION", help="AWS region; else that of your AWS settings.", show_default=False),
]
Number = Annotated[
    str | None,
    typer.Option("--account", metavar="ID", help="The account that is meant, checked.", show_default=False),
]
Choices = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A choice of infra/stack/settings.py; may be repeated.",
        show_default=False,
    ),
]


def env(
    context: typer.Context,
    stack: StackName = naming.STACK,
    region: Region = None,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="With the operator's keys, for curl. They are secrets.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print a deployed platform's addresses.

    They are `export` lines, as in HOME/env of a platform on one machine: eval "$(mip env)" makes every mip
    command call that platform. The admin key isn't among them: commands read it from Secrets Manager when
    they need it, as whoever you are to AWS.
    """
    from medical_image_processing.entrypoints.deploy import stack as stacks
    from medical_image_processing.entrypoints.deploy.account import Account

    account = Account(region)
    found = stacks.read_stack(account, stack)
    values = {**stacks.addresses(found), **(stacks.keys(account, found) if with_keys else {})}
    if as_json:
        output.print_json(values)
    else:
        typer.echo(stacks.export_lines(values), nl=False)


@app.command()
def run(
    context: typer.Context,
    region: Region = None,
    number: Number = None,
    test_only: Annotated[
        bool, typer.Option("--test-only", help="Deploy nothing: try the admin API and a job.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE", help="Build mip-base on this image, not python:3.11-slim.", show_default=False
        ),
    ] = None,
    choices: Choices = None,
    job: Annotated[bool, typer.Option("--job/--no-job", help="Run a job at the end.")] = True,
    as_json: AsJson = False,
) -> None:
    """Make it on AWS, or bring it up to date.

    First it looks whether all it needs is there, and says everything that isn't. Then it prepares the
    region for the CDK, builds the images and pushes those that ECR lacks, deploys, registers processing_1,
    processing_6 and grayscale_cpp, runs a job, and prints the addresses. Running it again changes nothing
    that is as it should be; what --set chose before stays until it is set anew, to nothing for the default.
    """
    from medical_image_processing import samples
    from medical_image_processing.entrypoints.deploy import deployment as steps
    from medical_image_processing.entrypoints.deploy.stack import addresses, read_stack

    picked = _choices(choices)
    with _progress(as_json) as tell:
        tell("looking at tools, credentials and region")
        ready = _check(region, number, everything=not test_only)
        done: list[Step] = []
        tried: list[admin_test.Step] = []
        if not test_only:
            kept = steps.keep_choices(ready.account, picked)
            deployment = steps.Deployment(ready, _cdk(ready, kept), tell=tell)
            done = [steps.show_choices(kept), *deployment.run(base=base)]
        found = read_stack(ready.account, naming.STACK)
        if test_only:
            with steps.connect(steps.env_with_keys(ready.account, found)) as client:
                tried = _try_admin(client, None, tell)
        sent = job and not _failed(tried)
        sample = None if test_only else samples.ct_small()
        finished = steps.run_job(ready.account, found, sample, tell) if sent else None
    if as_json:
        output.print_json(
            {
                "steps": [asdict(step) for step in done],
                "changed": any(step.changed for step in done),
                "admin_api": [asdict(step) for step in tried],
                "job": asdict(finished) if finished else None,
                "addresses": addresses(found),
            }
        )
    else:
        _print_run(done, tried, addresses(found), finished)
    _refuse(tried)


@app.command()
def diff(context: typer.Context, region: Region = None, number: Number = None, choices: Choices = None) -> None:
    """Show what a deployment would change.

    With what was chosen before, and --set. Images are not compared.
    """
    from medical_image_processing.entrypoints.deploy.deployment import keep_choices

    picked = _choices(choices)
    ready = _check(region, number, everything=True, images=False)
    _cdk(ready, keep_choices(ready.account, picked)).diff()


@app.command()
def destroy(
    context: typer.Context,
    region: Region = None,
    number: Number = None,
    choices: Choices = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    broken: Annotated[
        bool, typer.Option("--broken", help="The API doesn't answer: leave algorithms to the person who asks.")
    ] = False,
) -> None:
    """Take the platform down.

    Its algorithms go for good, jobs that wait fail with a reason, then the stack goes. What holds data stays:
    tables, buckets, images. It is listed before anything is done. With --broken the algorithms' services,
    queues, roles and log groups are yours to remove; a service that is left keeps the cluster from going.
    """
    from medical_image_processing.entrypoints.deploy import deployment as steps
    from medical_image_processing.entrypoints.deploy.stack import find_stack, retained

    stack = naming.STACK
    with _progress(False) as tell:
        tell("looking at tools, credentials and the stack")
        ready = _check(region, number, everything=True, images=False)
        found = find_stack(ready.account, stack)
        kept = retained(ready.account, stack) if found else []
    if found is None:
        output.print_note(f"there is no stack {stack} in {ready.account.region}; nothing to do")
        return
    if kept:
        output.print_table(("stays", "name"), [(kind, name) for kind, name in kept])
    output.print_note(f"everything else of {stack} in account {ready.number}, {found.region}, goes.")
    _confirm(stack, yes)
    with _progress(False) as tell:
        if "ProcessingApiEndpoint" in found.outputs and not broken:
            with steps.connect(steps.env_with_keys(ready.account, found)) as client:
                steps.remove_algorithms(client, tell)
        tell(f"destroying {stack}")
        _cdk(ready, _choices(choices)).destroy(stack, tell)
    output.print_note(f"{stack} is gone; what was listed stays, and costs what it holds")


@app.command("rotate-admin-key")
def rotate_admin_key(context: typer.Context, region: Region = None, stack: StackName = naming.STACK) -> None:
    """Make a new root admin key.

    The one before stays valid until the next rotation, so nobody is shut out at once; to shut a key out that
    became known, rotate twice. The key isn't shown: commands read it from Secrets Manager.
    """
    from medical_image_processing.entrypoints.deploy import admin_key
    from medical_image_processing.entrypoints.deploy.account import Account
    from medical_image_processing.entrypoints.deploy.stack import read_stack

    account = Account(region)
    admin_key.rotate(account, read_stack(account, stack).output("AdminKeySecretArn"))
    output.print_note("there is a new root admin key; the one before is valid until the next rotation")


@app.command("test-admin")
def test_admin(
    context: typer.Context,
    image: Annotated[
        str | None,
        typer.Option(metavar="URI", help="The image to register; else processing_1's.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Test the admin API of any platform.

    It registers an algorithm of its own with the platform at MIP_API_BASE, lists, shows and changes it, scales
    it down and deletes it for good. The exit status is 1 when a step failed.
    """
    with Client.from_environment() as client, _progress(as_json) as tell:
        tried = _try_admin(client, image, tell)
    if as_json:
        output.print_json({"admin_api": [asdict(step) for step in tried]})
    else:
        _print_tried(tried)
    _refuse(tried)


def _try_admin(client: Client, image: str | None, tell: Any) -> list[admin_test.Step]:
    from medical_image_processing.entrypoints.deploy.admin_test import IMAGE, AdminTest

    if image is None:
        try:
            image = client.call("GET", "admin", "algorithms", "processing_1")["image_uri"]
        except NotFound:
            image = IMAGE
    return AdminTest(client, image=str(image)).run(tell)


def _print_tried(tried: list[admin_test.Step]) -> None:
    rows = [(step.name, "FAILED" if step.failure else "passed", step.failure or step.what) for step in tried]
    output.print_table(("admin API", "verdict", "what"), rows)


def _failed(tried: list[admin_test.Step]) -> list[str]:
    return [step.name for step in tried if step.failure]


def _refuse(tried: list[admin_test.Step]) -> None:
    if names := _failed(tried):
        raise AlgorithmFailed("ADMIN_API_FAILED", f"the admin API does not do what it should: {', '.join(names)}")


def _check(region: str | None, number: str | None, *, everything: bool, images: bool | None = None) -> Ready:
    from medical_image_processing.entrypoints.deploy import needs

    with_images = everything if images is None else images
    return needs.check(region=region, number=number, root=_ROOT, images=with_images, cdk=everything)


def _cdk(ready: Ready, context: Mapping[str, str]) -> Cdk:
    from medical_image_processing.entrypoints.deploy.cdk import Cdk

    return Cdk(ready.root, ready.account, ready.number, context)


def _choices(given: list[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in given or ()]
    if any(not (name and equals) for name, equals, _ in pairs):
        raise typer.BadParameter("must be NAME=VALUE, as clients=open", param_hint="--set")
    return {name: value for name, _, value in pairs}


def _confirm(stack: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody is there to be asked; say --yes", param_hint="--yes")
    if typer.prompt(f"Type the stack's name, {stack}, to take it down", err=True) != stack:
        raise InvalidRequest("NOT_CONFIRMED", "that isn't the stack's name; nothing was done")


@contextmanager
def _progress(quiet: bool) -> Iterator[Any]:
    if quiet:
        yield lambda _: None
        return
    with output.progress() as progress:
        yield progress.show


def _print_run(
    done: list[Step],
    tried: list[admin_test.Step],
    addresses: dict[str, str],
    finished: Done | None,
) -> None:
    if done:
        output.print_table(("step", "result"), [(step.name, step.what) for step in done])
    if tried:
        _print_tried(tried)
    rows = [(name, value) for name, value in addresses.items() if not name.startswith(("AWS_", "MIP_"))]
    output.print_table(("address", "is"), rows)
    if finished:
        output.print_note(f"job {finished.job_id} came back in {output.seconds(finished.passed_s)}")
    if done and not any(step.changed for step in done):
        output.print_note("nothing had to be changed")
    output.print_note('eval "$(mip env)" lets every mip command call it')
