"""``mip demo``: the whole of it, on a platform of its own that is gone afterwards."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pydicom

from medical_image_processing.dicom.picture import side_by_side_png
from medical_image_processing.dicom.read import read_series
from medical_image_processing.entrypoints import cli_output as output
from medical_image_processing.entrypoints.cli_jobs import time_taken
from medical_image_processing.entrypoints.client import Client, Results
from medical_image_processing.entrypoints.private_platform import private_platform
from medical_image_processing.entrypoints.sample_pacs import sample_pacs
from medical_image_processing.entrypoints.waiting import SUCCEEDED, failure, wait_until_settled
from medical_image_processing.errors import Unavailable

_ACTIVE_S = 60.0
_RESULT_S = 120.0

# The body of the seed's own POST.
_ALGORITHM: dict[str, Any] = {
    "algo_id": "processing_1",
    "image_uri": "123456789.dkr.ecr.us-east-1.amazonaws.com/mip-algos:processing_1",
    "cpu": 1024,
    "memory": 2048,
    "command": ["/app/worker.sh"],
}


def run_demo(folder: Path, *, as_json: bool) -> None:
    """Process the sample CT and leave ``image-result.dcm``, ``series-result.dcm`` and ``overlay.png``.

    Unavailable or AlgorithmFailed where a step fails; whatever was started is stopped.
    """
    pacs = sample_pacs()
    began = time.monotonic()
    with output.progress() as progress:
        progress.show("starting a platform")
        with private_platform(pacs, command="demo", runtime="process") as platform:
            client = platform.client
            progress.show("registering processing_1")
            client.call("POST", "admin", "algorithms", body=_ALGORITHM)
            wait_until_settled(client, "processing_1", _ACTIVE_S, lambda _: None)
            jobs = []
            client_id = client.call("POST", "provision", body={})["client_id"]
            with client.results(client_id) as results:
                for scope, reference in _references(pacs).items():
                    progress.show(f"processing {'one image' if scope == 'image' else 'the whole series'}")
                    body = {"job_id": f"demo-{scope}", "client_id": client_id, "pacs": reference}
                    jobs.append(_process(client, results, body, folder / f"{scope}-result.dcm"))
            progress.show("drawing the result, stopping the platform")
            _draw(pacs, folder)
    _print(jobs, folder / "overlay.png", time.monotonic() - began, as_json)


def _references(pacs: Path) -> dict[str, dict[str, str]]:
    """The middle image of the series, and the series, by scope."""
    files = sorted(pacs.glob("*.dcm"))
    middle = pydicom.dcmread(files[len(files) // 2], stop_before_pixels=True)
    series = {"study_id": str(middle.StudyInstanceUID), "series_id": str(middle.SeriesInstanceUID)}
    return {
        "image": {**series, "image_id": str(middle.SOPInstanceUID), "scope": "image"},
        "series": {**series, "scope": "series"},
    }


def _process(client: Client, results: Results, body: dict[str, Any], file: Path) -> dict[str, Any]:
    """Send one job, await its result on the WebSocket, and fetch that into ``file``; the job."""
    job_id = client.call("POST", "process", _ALGORITHM["algo_id"], body=body)["job_id"]
    message = _await_result(results, job_id)
    job: dict[str, Any] = client.call("GET", "jobs", job_id)
    if job["status"] != SUCCEEDED:
        raise failure(job)
    client.download(message["dicom"]["url"], file)
    return {**job, "output": str(file)}


def _await_result(results: Results, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + _RESULT_S
    while (left := deadline - time.monotonic()) > 0:
        message = results.receive(left)
        if message is not None and message.get("job_id") == job_id:
            return message
    raise Unavailable("NO_RESULT", f"no result came within {_RESULT_S:.0f} s; try `mip demo` again")


def _draw(pacs: Path, folder: Path) -> None:
    original = read_series([file.read_bytes() for file in sorted(pacs.glob("*.dcm"))])
    picture = side_by_side_png(original, pydicom.dcmread(folder / "series-result.dcm"))
    (folder / "overlay.png").write_bytes(picture)


def _print(jobs: list[dict[str, Any]], picture: Path, passed_s: float, as_json: bool) -> None:
    if as_json:
        output.print_json({"jobs": jobs, "picture": str(picture), "seconds": round(passed_s, 3)})
        return
    rows = [(job["job_id"], output.state(job["status"]), time_taken(job), job["output"]) for job in jobs]
    output.print_table(("job", "state", "time", "output"), rows, right=("time",))
    output.print_note(f"What it found, beside the original: {picture}   (all in {output.seconds(passed_s)})")
