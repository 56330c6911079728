"""``mip algorithms``: the registry."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from medical_image_processing.entrypoints import cli_output as output
from medical_image_processing.entrypoints.cli_output import AsJson
from medical_image_processing.entrypoints.client import Client
from medical_image_processing.errors import AlgorithmFailed, InvalidRequest, Unavailable

_DEFAULTS = {"cpu": 1024, "memory": 2048, "command": ["/app/worker.sh"]}
_POLL_S = 0.1
_STAYS_S = 1.5  # a record is ACTIVE before its first worker has lived

app = typer.Typer(no_args_is_help=True, help="Register algorithms, and look after them.")

AlgoId = Annotated[str, typer.Argument(metavar="ALGO_ID", help="The algorithm's id.", show_default=False)]
Image = Annotated[str | None, typer.Option(metavar="URI", help="URI of the container image.", show_default=False)]
Cpu = Annotated[int | None, typer.Option(metavar="UNITS", help="CPU units; 1024 is one vCPU.", show_default=False)]
Memory = Annotated[int | None, typer.Option(metavar="MIB", help="Memory in MiB.", show_default=False)]
Command = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="What the container runs, as one quoted string.", show_default=False),
]
Env = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="A variable for the container; may be repeated.", show_default=False),
]
DesiredCount = Annotated[
    int | None, typer.Option(metavar="N", help="Workers to keep running, or to start with.", show_default=False)
]
MinCount = Annotated[
    int | None,
    typer.Option(metavar="N", help="The fewest workers, where the platform may choose.", show_default=False),
]
MaxCount = Annotated[
    int | None,
    typer.Option(metavar="N", help="The most workers, where the platform may choose.", show_default=False),
]
Outputs = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        metavar="KIND",
        help="What results are made into: SC, SEG or SR; may be repeated.",
        show_default=False,
    ),
]
StoreResults = Annotated[
    bool | None,
    typer.Option(
        "--store-results/--no-store-results",
        help="Put results back into the PACS, where a job doesn't say.",
        show_default=False,
    ),
]
Deidentify = Annotated[
    bool | None,
    typer.Option(
        "--deidentify",
        help="Give it images without what identifies the patient; results get it back. Can't be changed later.",
        show_default=False,
    ),
]
Description = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="What it is for, for those who send it jobs.", show_default=False),
]
ParametersFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="JSON Schema of its jobs' parameters, - for standard input.", show_default=False
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it is ACTIVE, and has stayed so for 1.5 s.")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="The longest to wait.")]


@app.command()
def register(
    context: typer.Context,
    algo_id: AlgoId,
    image: Image = None,
    cpu: Cpu = None,
    memory: Memory = None,
    command: Command = None,
    env: Env = None,
    desired_count: DesiredCount = None,
    min_count: MinCount = None,
    max_count: MaxCount = None,
    outputs: Outputs = None,
    store_results: StoreResults = None,
    deidentify: Deidentify = None,
    description: Description = None,
    parameters_file: ParametersFile = None,
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
    given = _fields(
        image,
        cpu,
        memory,
        command,
        env,
        desired_count,
        min_count,
        max_count,
        outputs,
        store_results,
        description,
        parameters_file,
    )
    if deidentify is not None:
        given["deidentify"] = deidentify
    body = {**_DEFAULTS, **_read_spec(file), **given}
    named = body.pop("algorithm_id", None) or body.get("algo_id") or algo_id
    if named != algo_id:
        raise InvalidRequest("ALGO_ID_DIFFERS", f"{file} is for '{named}', not '{algo_id}'; name the same in both")
    if "image_uri" not in body:
        raise typer.BadParameter("give the container image's URI, here or in --file", param_hint="--image")
    with Client.from_environment() as client:
        record = client.call("POST", "admin", "algorithms", body={**body, "algo_id": algo_id})
        if wait:
            record = _wait_until_settled(client, algo_id, timeout, quiet=as_json)
    _print_record(record, as_json)


@app.command("list")
def list_algorithms(
    context: typer.Context,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Only those in this state.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="The most to show.")] = 100,
    cursor: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Continue an earlier list.", show_default=False)
    ] = None,
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
            _workers(record),
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
def show(context: typer.Context, algo_id: AlgoId, as_json: AsJson = False) -> None:
    """Show one algorithm."""
    with Client.from_environment() as client:
        _print_record(client.call("GET", "admin", "algorithms", algo_id), as_json)


@app.command()
def update(
    context: typer.Context,
    algo_id: AlgoId,
    image: Image = None,
    cpu: Cpu = None,
    memory: Memory = None,
    command: Command = None,
    env: Env = None,
    desired_count: DesiredCount = None,
    min_count: MinCount = None,
    max_count: MaxCount = None,
    outputs: Outputs = None,
    store_results: StoreResults = None,
    description: Description = None,
    parameters_file: ParametersFile = None,
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
    body = _fields(
        image,
        cpu,
        memory,
        command,
        env,
        desired_count,
        min_count,
        max_count,
        outputs,
        store_results,
        description,
        parameters_file,
    )
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
    _print_record(record, as_json)


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
    _print_record(record, as_json)


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


def _fields(
    image: str | None,
    cpu: int | None,
    memory: int | None,
    command: str | None,
    env: list[str] | None,
    desired_count: int | None,
    min_count: int | None,
    max_count: int | None,
    outputs: list[str] | None,
    store_results: bool | None,
    description: str | None,
    parameters_file: Path | None,
) -> dict[str, Any]:
    """The body's fields that were given."""
    fields = {
        "image_uri": image,
        "cpu": cpu,
        "memory": memory,
        "command": _split(command) if command else None,
        "env": dict(_pair(text) for text in env) if env else None,
        "desired_count": desired_count,
        "min_count": min_count,
        "max_count": max_count,
        "outputs": [kind.upper() for kind in outputs] if outputs else None,
        "store_results": store_results,
        "description": description,
        "parameters": _read_object(parameters_file, "--parameters-file") if parameters_file else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


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


def _read_spec(file: Path | None) -> dict[str, Any]:
    return {} if file is None else _read_object(file, "--file")


def _read_object(file: Path, option: str) -> dict[str, Any]:
    try:
        value = json.loads(sys.stdin.read() if str(file) == "-" else file.read_text())
    except OSError as error:
        raise InvalidRequest("BAD_FILE", f"{option} {file} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidRequest("BAD_FILE", f"{option} {file} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("BAD_FILE", f"{option} {file}: must hold one JSON object")
    return value


def _wait_until_settled(client: Client, algo_id: str, timeout_s: float, *, quiet: bool) -> dict[str, Any]:
    """Until the platform has made what the record asks for."""
    if quiet:
        return wait_until_settled(client, algo_id, timeout_s, lambda _: None, stays_s=_STAYS_S)
    with output.progress() as progress:
        return wait_until_settled(client, algo_id, timeout_s, progress.show, stays_s=_STAYS_S)


def wait_until_settled(
    client: Client, algo_id: str, timeout_s: float, tell: Callable[[str], None], *, stays_s: float = 0.0
) -> dict[str, Any]:
    """The record once it has been ACTIVE for ``stays_s``, or is INACTIVE where no workers are wanted.

    AlgorithmFailed ``PROVISIONING_FAILED`` with the reason; Unavailable ``STILL_PENDING``.
    """
    deadline = time.monotonic() + timeout_s
    active_since: float | None = None
    while True:
        record: dict[str, Any] = client.call("GET", "admin", "algorithms", algo_id)
        if record["status"] == ("ACTIVE" if record["desired_count"] else "INACTIVE"):
            active_since = active_since or time.monotonic()
            if not record["desired_count"] or time.monotonic() - active_since >= stays_s:
                return record
            time.sleep(_POLL_S)
            continue
        active_since = None
        reason = f": {record['status_reason']}" if record["status_reason"] else ""
        if record["status"] == "FAILED":
            raise AlgorithmFailed(
                "PROVISIONING_FAILED", f"{algo_id} can't run{reason}; mend it with `mip algorithms update`"
            )
        if time.monotonic() > deadline:
            raise Unavailable(
                "STILL_PENDING",
                f"{algo_id} is still {record['status']} after {timeout_s:.0f} s{reason}; "
                f"`mip algorithms show {algo_id}` tells how it goes on",
            )
        tell(f"{algo_id} is {record['status']}")
        time.sleep(_POLL_S)


def _workers(record: dict[str, Any]) -> str:
    desired, least, most = (record.get(name) for name in ("desired_count", "min_count", "max_count"))
    if not desired or (least is None and most is None):
        return str(desired)
    return f"{desired if least is None else least} to {max(desired, least or 0) if most is None else most}"


def _print_record(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.print_json(record)
        return
    resources = record["resource_status"]
    output.print_fields(
        [
            ("algorithm", record["algorithm_id"]),
            ("is for", record.get("description")),
            ("status", output.state(record["status"])),
            ("reason", record["status_reason"]),
            ("image", record["image_uri"]),
            ("pinned to", resources["image_digest"]),
            ("command", shlex.join(record["command"])),
            ("size", f"{record['cpu']} CPU units, {record['memory']} MiB"),
            ("workers", _workers(record)),
            ("env", "\n".join(f"{name}={value}" for name, value in record["env"].items())),
            ("outputs", ", ".join(record["outputs"])),
            ("results", "go back into the PACS" if record["store_results"] else None),
            ("images", "de-identified" if record.get("deidentify") else None),
            ("parameters", ", ".join((record.get("parameters") or {}).get("properties", {}))),
            ("queue", resources["queue_url"]),
            ("task", resources["task_definition"]),
            ("service", resources["service"]),
            ("revision", str(record["revision"])),
            ("changed", output.ago(record["updated_at"])),
        ]
    )
