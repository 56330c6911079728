"""``mip algorithms``: the registry."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from medical_image_processing.entrypoints import cli_output as output
from medical_image_processing.entrypoints.algorithm_output import (
    describe_offer,
    print_record,
    print_statistics,
    workers_of,
)
from medical_image_processing.entrypoints.cli_output import AsJson, Cursor
from medical_image_processing.entrypoints.client import Client
from medical_image_processing.entrypoints.record_options import RecordOptions, read_object, with_record_options
from medical_image_processing.entrypoints.waiting import wait_until_settled
from medical_image_processing.errors import InvalidRequest

_DEFAULTS = {"cpu": 1024, "memory": 2048, "command": ["/app/worker.sh"]}
_STAYS_S = 1.5  # a record is ACTIVE before its first worker has lived

app = typer.Typer(no_args_is_help=True, help="Register algorithms, and look after them.")

AlgoId = Annotated[str, typer.Argument(metavar="ALGO_ID", help="The algorithm's id.", show_default=False)]
Deidentify = Annotated[
    bool | None,
    typer.Option(
        "--deidentify",
        help="Give it images without what identifies the patient; results get it back. Can't be changed later.",
        show_default=False,
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it is ACTIVE, and has stayed so for 1.5 s.")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="The longest to wait.")]


@app.command()
@with_record_options
def register(
    context: typer.Context,
    algo_id: AlgoId,
    options: RecordOptions,
    deidentify: Deidentify = None,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The POST body as JSON, - for standard input; options override it."),
    ] = None,
    wait: Wait = False,
    timeout: Timeout = 120,
    as_json: AsJson = False,
) -> None:
    """Register an algorithm.

    It takes jobs once it is ACTIVE; --wait waits for that, and a moment longer, in which a worker that can't
    start shows. Registering the same again changes nothing.

    Unless said otherwise it gets one vCPU (--cpu 1024), 2 GiB (--memory 2048), one worker, and runs
    /app/worker.sh, the entry point of our base image. Results are Secondary Captures, which any viewer shows;
    --output SC --output SEG --output SR adds a Segmentation and a Structured Report of what it measures.
    """
    given = options.fields()
    if deidentify is not None:
        given["deidentify"] = deidentify
    body = {**_DEFAULTS, **(read_object(file, "--file") if file else {}), **given}
    named = body.pop("algorithm_id", None) or body.get("algo_id") or algo_id
    if named != algo_id:
        raise InvalidRequest("ALGO_ID_DIFFERS", f"{file} is for '{named}', not '{algo_id}'; name the same in both")
    if "image_uri" not in body:
        raise typer.BadParameter("give the container image's URI, here or in --file", param_hint="--image")
    with Client.from_environment() as client:
        record = client.call("POST", "admin", "algorithms", body={**body, "algo_id": algo_id})
        if wait:
            record = _wait_until_settled(client, algo_id, timeout, quiet=as_json)
    print_record(record, as_json)


@app.command("list")
def list_algorithms(
    context: typer.Context,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Only those in this state.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="The most to show.")] = 100,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """List the registered algorithms."""
    params = {"status": status.upper() if status else None, "limit": limit, "cursor": cursor}
    with Client.from_environment() as client:
        page = client.call("GET", "admin", "algorithms", params=params)
    if as_json:
        output.print_json(page)
        return
    records = page["algorithms"]
    if not records:
        output.print_note("no algorithms; `mip algorithms register --help` says how to add one")
        return
    rows = [
        (
            record["algorithm_id"],
            output.state(record["status"]),
            workers_of(record),
            str(record["cpu"]),
            str(record["memory"]),
            output.ago(record["updated_at"]),
        )
        for record in records
    ]
    headings = ("algorithm", "status", "workers", "cpu", "memory", "changed")
    output.print_table(headings, rows, right=("workers", "cpu", "memory"))
    for record in records:
        if record["status_reason"]:
            output.print_note(f"{record['algorithm_id']}: {record['status_reason']}")
    output.print_more(page["next_cursor"])


@app.command()
def catalogue(
    context: typer.Context,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="The most to show.")] = 100,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """List the algorithms as clients see them.

    What each is for, the parameters it takes and what it makes, its jobs that are not finished, its workers.
    Needs no admin key, but a client's where clients have keys.
    """
    with Client.from_environment() as client:
        page = client.call("GET", "algorithms", params={"limit": limit, "cursor": cursor})
    if as_json:
        output.print_json(page)
        return
    if not page["algorithms"]:
        output.print_note("no algorithms yet; whoever has the admin key registers them")
        return
    output.print_named([(offer["algo_id"], describe_offer(offer)) for offer in page["algorithms"]])
    output.print_more(page["next_cursor"])


@app.command()
def show(context: typer.Context, algo_id: AlgoId, as_json: AsJson = False) -> None:
    """Show one algorithm."""
    with Client.from_environment() as client:
        print_record(client.call("GET", "admin", "algorithms", algo_id), as_json)


@app.command()
@with_record_options
def update(
    context: typer.Context,
    algo_id: AlgoId,
    options: RecordOptions,
    if_revision: Annotated[
        int | None,
        typer.Option(metavar="N", help="Only if it is still at this revision.", show_default=False),
    ] = None,
    wait: Wait = False,
    timeout: Timeout = 120,
    as_json: AsJson = False,
) -> None:
    """Change an algorithm; what isn't named stays.

    Jobs that run end as they began, the next start with the change. --env replaces all variables, --output all
    outputs.
    """
    body = options.fields()
    if not body:
        raise typer.BadParameter("name at least one thing to change, for example --memory 4096")
    headers = None if if_revision is None else {"if-match": f'"{if_revision}"'}
    with Client.from_environment() as client:
        before = client.call("GET", "admin", "algorithms", algo_id)["revision"]
        record = client.call("PATCH", "admin", "algorithms", algo_id, body=body, headers=headers)
        if record["revision"] == before:
            output.print_note("nothing changed; an image that was built anew needs a new name to be taken up")
        if wait:
            record = _wait_until_settled(client, algo_id, timeout, quiet=as_json)
    print_record(record, as_json)


@app.command()
def scale(
    context: typer.Context,
    algo_id: AlgoId,
    workers: Annotated[int, typer.Argument(metavar="N", min=0, help="Workers to keep running; 0 stops it.")],
    wait: Wait = False,
    timeout: Timeout = 120,
    as_json: AsJson = False,
) -> None:
    """Set how many workers an algorithm has.

    With 0 it takes no more jobs; those that run are finished.
    """
    with Client.from_environment() as client:
        record = client.call("PATCH", "admin", "algorithms", algo_id, body={"desired_count": workers})
        if wait:
            record = _wait_until_settled(client, algo_id, timeout, quiet=as_json)
    print_record(record, as_json)


@app.command()
def remove(
    context: typer.Context,
    algo_id: AlgoId,
    hard: Annotated[
        bool, typer.Option("--hard", help="Remove it for good: workers, queue, role and record.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --hard: fail the jobs that still wait, instead of refusing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take an algorithm out of service.

    Without --hard it is scaled to no workers: it takes no more jobs, jobs that run are finished, and
    `mip algorithms scale ALGO_ID 1` brings it back.

    With --hard its workers, queue, role and record go for good, and only the audit record stays. While
    jobs wait that is refused, unless --force, which fails each of them with a reason.
    """
    if force and not hard:
        raise typer.BadParameter("--force goes with --hard", param_hint="--force")
    if hard and not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("nobody is there to be asked; say --yes", param_hint="--hard")
        what = " and fails the jobs that wait" if force else ""
        typer.confirm(f"This removes '{algo_id}' for good{what}. Go on?", abort=True, err=True)
    params = {"hard": "true" if hard else None, "force": "true" if force else None}
    with Client.from_environment() as client:
        record = client.call("DELETE", "admin", "algorithms", algo_id, params=params)
    if as_json:
        output.print_json(record)
    elif hard:
        output.print_note(f"{algo_id} is being removed for good")
    else:
        output.print_note(f"{algo_id} takes no more jobs; `mip algorithms scale {algo_id} 1` brings it back")


@app.command()
def statistics(
    context: typer.Context,
    algo_id: AlgoId,
    hours: Annotated[int, typer.Option(metavar="N", min=1, max=168, help="How far back to look.")] = 24,
    as_json: AsJson = False,
) -> None:
    """Show how an algorithm does.

    How many jobs wait, and for how long the next one has; what ended when and how, in rows of some minutes;
    and how long jobs that succeeded took from start to end.
    """
    with Client.from_environment() as client:
        path = ("admin", "algorithms", algo_id, "statistics")
        found = client.call("GET", *path, params={"hours": hours})
    if as_json:
        output.print_json(found)
    else:
        print_statistics(found, hours)


@app.command()
def logs(
    context: typer.Context,
    algo_id: AlgoId,
    lines: Annotated[int, typer.Option(metavar="N", min=1, max=2000, help="How many of the newest lines.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what its workers logged."""
    if follow and as_json:
        raise typer.BadParameter("--json prints one answer; log lines are JSON as they are", param_hint="--follow")
    with Client.from_environment() as client:

        def read(cursor: str | None = None) -> dict[str, Any]:
            params = {"lines": lines if cursor is None else 1000, "cursor": cursor}
            answer: dict[str, Any] = client.call("GET", "admin", "algorithms", algo_id, "logs", params=params)
            return answer

        answer = read()
        if as_json:
            output.print_json({"lines": answer["lines"]})
            return
        _echo(answer["lines"])
        while follow:
            time.sleep(0.5)
            answer = read(answer["cursor"])
            if answer["gap"]:
                output.print_note("some lines may be missing here")
            _echo(answer["lines"])


def _echo(lines: list[str]) -> None:
    for line in lines:
        typer.echo(line)


def _wait_until_settled(client: Client, algo_id: str, timeout_s: float, *, quiet: bool) -> dict[str, Any]:
    """Until the platform has made what the record asks for."""
    if quiet:
        return wait_until_settled(client, algo_id, timeout_s, lambda _: None, stays_s=_STAYS_S)
    with output.progress() as progress:
        return wait_until_settled(client, algo_id, timeout_s, progress.show, stays_s=_STAYS_S)
