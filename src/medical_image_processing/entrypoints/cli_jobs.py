"""``mip process`` and ``mip jobs``: work sent to algorithms, and what became of it."""

from __future__ import annotations

import json
import re
import time
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer
from rich.text import Text

from medical_image_processing.entrypoints import cli_output as output
from medical_image_processing.entrypoints.cli_output import AsJson, Cursor
from medical_image_processing.entrypoints.client import Client, Results
from medical_image_processing.entrypoints.waiting import SUCCEEDED, failure, wait_until_finished

_STORED_S = 10.0
_STORED_POLL_S = 0.1

app = typer.Typer(no_args_is_help=True, help="Look at jobs.")

JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="The job's id.", show_default=False)]


def process(
    context: typer.Context,
    algo_id: Annotated[str, typer.Argument(metavar="ALGO_ID", help="Who processes it.", show_default=False)],
    study: Annotated[str, typer.Option(metavar="ID", help="Study Instance UID, or the study's path in the PACS.")],
    series: Annotated[
        str | None, typer.Option(metavar="ID", help="Series UID or path.", show_default=False)
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="ID", help="SOP Instance UID or file name.", show_default=False)
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(
            metavar="SCOPE",
            help="image, series or study; unless said, the smallest named.",
            show_default=False,
        ),
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(metavar="JSON", help="A JSON object for the algorithm.", show_default=False)
    ] = None,
    job_id: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="An id of one's own: sent twice for one --client-id, it is one job.",
            show_default=False,
        ),
    ] = None,
    client_id: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Send it for this client, whose own connection gets the result too.",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        bool | None,
        typer.Option(
            "--store/--no-store",
            help="Put the results back into the PACS; unless said, as the algorithm's record says.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the result and fetch it.")] = True,
    file: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Where the result goes, else JOB_ID.dcm, here. Of several outputs the others go beside it: "
            "FILE_seg.dcm, FILE_sr.dcm.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Process images, fetch the result.

    They are named as the PACS names them: an image, a series or a whole study. With --no-wait it prints
    the job's id and ends. A job once accepted is run, whatever becomes of this command: `mip jobs watch
    JOB_ID` finds it again.
    """
    pacs = {"study_id": study, "series_id": series, "image_id": image}
    pacs = {name: value for name, value in pacs.items() if value is not None}
    body: dict[str, Any] = {"pacs": {**pacs, "scope": scope or _smallest(series, image)}}
    if parameters is not None:
        body["parameters"] = _parse(parameters)
    if job_id is not None:
        body["job_id"] = job_id
    if store is not None:
        body["store"] = store
    with Client.from_environment() as client, ExitStack() as stack:
        results = None
        body["client_id"] = client_id or client.call("POST", "provision", body={})["client_id"]
        if wait and client_id is None:
            results = stack.enter_context(client.results(body["client_id"]))
        accepted = client.call("POST", "process", algo_id, body=body)
        if not wait:
            _print_accepted(accepted, as_json)
            return
        job = _watch(client, accepted["job_id"], results, quiet=as_json)
        _finish(client, job, file or Path(f"{job['job_id']}.dcm"), as_json)


@app.command("list")
def list_jobs(
    context: typer.Context,
    status: Annotated[
        str | None,
        typer.Option(metavar="STATE", help="Only those in this state.", show_default=False),
    ] = None,
    algo: Annotated[
        str | None, typer.Option(metavar="ALGO_ID", help="Only this algorithm's.", show_default=False)
    ] = None,
    client_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Only this client's.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="The most to show.")] = 20,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    params = {
        "status": status.upper() if status else None,
        "algo_id": algo,
        "client_id": client_id,
        "limit": limit,
        "cursor": cursor,
    }
    with Client.from_environment() as client:
        page = client.call("GET", "jobs", params=params)
    if as_json:
        output.print_json(page)
        return
    if not page["jobs"]:
        output.print_note("no such jobs; `mip process --help` says how to send one")
        return
    # Beside these there is no room for the time, if no name is to be folded.
    ways = {"stored": "stored", "returned": "sent"}
    ways = {heading: way for heading, way in ways.items() if any(job.get(way) for job in page["jobs"])}
    rows = [
        (
            job["job_id"],
            job["algo_id"],
            output.state(job["status"]),
            _place(job),
            output.ago(job["created_at"]),
            *((job.get(way) or {}).get("status", "") for way in ways.values()),
            *([] if ways else [time_taken(job)]),
        )
        for job in page["jobs"]
    ]
    headings = ("job", "algorithm", "state", "place", "sent", *ways, *([] if ways else ["time"]))
    output.print_table(headings, rows, right=("place", "time"))
    output.print_more(page["next_cursor"])


@app.command()
def show(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Show a job: state, times, result or why not."""
    with Client.from_environment() as client:
        _print_job(client.call("GET", "jobs", job_id), as_json)


@app.command()
def watch(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Wait until a job is finished.

    The exit status is 1 when it failed. The result still goes to the client that sent the job: watching
    takes nothing from it.
    """
    with Client.from_environment() as client:
        job = _watch(client, job_id, None, quiet=as_json)
        _print_job(job, as_json)
    if job["status"] != SUCCEEDED:
        raise typer.Exit(1)


def cancel(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Cancel a job that waits.

    Once it runs it is too late, and the exit status is 1.
    """
    with Client.from_environment() as client:
        job = client.call("POST", "jobs", job_id, "cancel")
    if as_json:
        output.print_json(job)
    else:
        output.print_note(f"{job_id} is cancelled")


@app.command()
def replay(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Send a dead-lettered job once more.

    That is a job that failed after all its attempts. Needs the admin key.
    """
    with Client.from_environment() as client:
        answer = client.call("POST", "admin", "jobs", job_id, "replay")
    if as_json:
        output.print_json(answer)
    else:
        output.print_note(f"{job_id} was sent again; `mip jobs watch {job_id}` waits for it")


def time_taken(job: dict[str, Any]) -> str:
    """From sent to finished, or empty while it isn't."""
    if not job["finished_at"]:
        return ""
    passed = output.parse_time(job["finished_at"]) - output.parse_time(job["created_at"])
    return output.seconds(passed.total_seconds())


def _watch(client: Client, job_id: str, results: Results | None, *, quiet: bool) -> dict[str, Any]:
    if quiet:
        return wait_until_finished(client, job_id, results, lambda _: None)
    try:
        with output.progress() as progress:

            def tell(job: dict[str, Any]) -> None:
                done = job["progress"]
                percent = None if done is None else done * 100
                progress.show(f"{job['algo_id']}: {job['job_id']} is {job['status']}", percent=percent)

            return wait_until_finished(client, job_id, results, tell)
    except KeyboardInterrupt:
        output.print_note(f"the job goes on; `mip jobs watch {job_id}` finds it again")
        raise


def _finish(client: Client, job: dict[str, Any], file: Path, as_json: bool) -> None:
    if job["status"] != SUCCEEDED:
        if as_json:
            output.print_json(job)
        raise failure(job)
    job = _until_stored(client, job)
    files = _files(job["result"], file)
    sizes = {target: client.download(url, target) for target, url in files.items()}
    if as_json:
        output.print_json({**job, "output": str(file), "files": [str(target) for target in files]})
        return
    output.print_fields(
        [
            ("job", job["job_id"]),
            ("state", output.state(job["status"])),
            ("place", _place(job) and f"{_place(job)} in the queue"),
            ("takes", None if job.get("expected_s") is None else f"about {output.seconds(job['expected_s'])}"),
            ("time", time_taken(job)),
            *(("output", f"{target} ({output.size(size)})") for target, size in sizes.items()),
            ("stored", _way_of(job.get("stored"))),
            ("returned", _way_of(job.get("sent"))),
        ]
    )


def _until_stored(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    """The job once its results are in the PACS, can't be, or meet some trouble; it is not waited for long."""
    deadline = time.monotonic() + _STORED_S
    while (stored := job.get("stored")) and stored["status"] == "pending" and not stored["error"]:
        if time.monotonic() > deadline:
            break
        time.sleep(_STORED_POLL_S)
        job = client.call("GET", "jobs", job["job_id"])
    return job


def _files(result: dict[str, Any], file: Path) -> dict[Path, str]:
    """Where each output goes, and its link: the first into ``file``, the others beside it, named by their kind."""
    first = result["dicom"]
    files: dict[Path, str] = {file: first["url"]}
    for item in result["outputs"]:
        if (item["bucket"], item["key"]) == (first["bucket"], first["key"]):
            continue
        suffix = file.suffix if item["kind"] != "other" else _suffix(item["key"])
        name = f"{file.stem}_{item['kind'].lower()}"
        target, number = file.with_name(f"{name}{suffix}"), 2
        while target in files:  # two of a kind
            target, number = file.with_name(f"{name}_{number}{suffix}"), number + 1
        files[target] = item["url"]
    return files


def _suffix(key: str) -> str:
    """That of a file whose name an algorithm chose, unless it is an odd one."""
    suffix = PurePosixPath(key).suffix
    return suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", suffix) else ""


def _print_accepted(accepted: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.print_json(accepted)
    else:
        typer.echo(accepted["job_id"])
        output.print_note(f"`mip jobs watch {accepted['job_id']}` waits for it")


def _print_job(job: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.print_json(job)
        return
    error, result = job["error"], job["result"]
    done = "" if job["progress"] is None else f"{job['progress']:.0%}"
    output.print_fields(
        [
            ("job", job["job_id"]),
            ("algorithm", job["algo_id"]),
            ("client", job["client_id"]),
            ("state", output.state(job["status"])),
            ("reason", Text(f"{error['message']} ({error['code']})") if error else None),
            ("progress", done if job["status"] == "RUNNING" else None),
            ("sent", output.ago(job["created_at"])),
            ("time", time_taken(job)),
            ("attempts", str(job["attempts"])),
            ("stored", _way_of(job.get("stored"))),
            ("returned", _way_of(job.get("sent"))),
            ("result", result["dicom"]["key"] if result else None),
            ("link", result["dicom"]["url"] if result else None),
        ]
    )


def _place(job: dict[str, Any]) -> str:
    """Its place in the queue; nothing where it has none."""
    return str(job.get("queue_position") or "")


def _way_of(stored: dict[str, Any] | None) -> str | None:
    """How the result's way into the PACS, or to a node, goes; None where it stays here."""
    if stored is None:
        return None
    error = stored["error"]
    return f"{stored['status']}: {error['message']} ({error['code']})" if error else str(stored["status"])


def _smallest(series: str | None, image: str | None) -> str:
    if image is not None:
        return "image"
    return "study" if series is None else "series"


def _parse(parameters: str) -> dict[str, Any]:
    try:
        value = json.loads(parameters)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--parameters") from error
    if not isinstance(value, dict):
        raise typer.BadParameter("must be a JSON object, as '{\"level\": 3}'", param_hint="--parameters")
    return value
