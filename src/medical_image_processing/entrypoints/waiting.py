"""Waiting for a platform to get somewhere: until an algorithm's workers run, until a job is finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from medical_image_processing.entrypoints.client import Client, Results
from medical_image_processing.errors import AlgorithmFailed, MipError, Unavailable

SUCCEEDED = "SUCCEEDED"
_RECORD_POLL_S = 0.1
_JOB_POLL_S = 0.5
_PATIENCE_S = 30.0


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
            time.sleep(_RECORD_POLL_S)
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
        time.sleep(_RECORD_POLL_S)


def wait_until_finished(
    client: Client, job_id: str, results: Results | None, tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """The job once it is finished; ``tell`` gets its record while it isn't.

    ``results`` ends the wait as soon as the result is pushed. A platform that is away is waited for half
    a minute, since the job is safe with it: then Unavailable.
    """
    answered = time.monotonic()
    while True:
        try:
            job: dict[str, Any] = client.call("GET", "jobs", job_id)
            answered = time.monotonic()
            if job["finished_at"] is not None:
                return job
            tell(job)
        except Unavailable as error:
            if time.monotonic() - answered > _PATIENCE_S:
                message = f"{error.message}; the job goes on: `mip jobs watch {job_id}` finds it again"
                raise Unavailable(error.code, message) from error
        results = _pause(results, job_id)


def failure(job: dict[str, Any]) -> MipError:
    """Why a job did not succeed, as an error to raise."""
    error = job["error"] or {"code": job["status"], "message": "no reason was given"}
    return AlgorithmFailed(error["code"], f"job {job['job_id']} {job['status'].lower()}: {error['message']}")


def _pause(results: Results | None, job_id: str) -> Results | None:
    """Until the job's result is pushed, or it is time to ask again. None once the WebSocket is lost."""
    deadline = time.monotonic() + _JOB_POLL_S
    if results is None:
        time.sleep(_JOB_POLL_S)
        return None
    try:
        while (left := deadline - time.monotonic()) > 0:
            message = results.receive(left)
            if message is not None and message.get("job_id") == job_id:
                break
    except Unavailable:
        return None
    return results
