"""What a worker says of its jobs on the results queue (CONTRACT.md, "Result message")."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medical_image_processing.errors import AlgorithmFailed, MipError
from medical_image_processing.model.algorithm import OutputKind
from medical_image_processing.model.job import JobError, Output, ReportedStatus, ResultMessage, StoredObject
from medical_image_processing.worker.aws import Outgoing
from medical_image_processing.worker.leases import Attempt

_LISTED_UIDS = 50
_MAX_META_BYTES = 16_384


@dataclass(frozen=True)
class Source:
    """What a result was made from. ``gaps``: at how many places slices seem to be missing."""

    instance_uids: tuple[str, ...]
    gaps: int = 0


def succeeded(
    attempt: Attempt, *, bucket: str, keys: Mapping[OutputKind, str], provenance: dict[str, Any]
) -> Outgoing:
    """The job's results lie at ``keys``, the first of which an earlier client sees as the only one."""
    return _message(
        attempt,
        "result",
        status=ReportedStatus.SUCCEEDED,
        dicom=StoredObject(bucket=bucket, key=next(iter(keys.values()))),
        outputs=tuple(Output(kind=kind, bucket=bucket, key=key) for kind, key in keys.items()),
        provenance=provenance,
    )


def failed(attempt: Attempt, error: MipError) -> Outgoing:
    """The job can't succeed."""
    return _message(attempt, "result", status=ReportedStatus.FAILED, error=_stated(error))


def trouble(attempt: Attempt, error: MipError) -> Outgoing:
    """This attempt came to nothing; the job goes back. The platform keeps the reason."""
    return _message(attempt, "trouble", status=ReportedStatus.RUNNING, error=_stated(error))


def running(attempt: Attempt, number: int) -> Outgoing:
    """It is being computed. ``number`` counts these reports of the attempt."""
    return _message(attempt, f"running:{number}", status=ReportedStatus.RUNNING, progress=attempt.progress)


def provenance(
    *,
    revision: str,
    task: str,
    source: Source,
    scope: str,
    durations_ms: dict[str, float],
    meta: Any,
    image_digest: str = "",
) -> dict[str, Any]:
    """What made a result, from what, and how long it took; ``meta`` is what the algorithm says of it.

    ``image_digest`` names the container image, where there is one.
    """
    made: dict[str, Any] = {
        "revision": revision,
        "task": task,
        "scope": scope,
        "input": {
            "count": len(source.instance_uids),
            "sop_instance_uids": list(source.instance_uids[:_LISTED_UIDS]),
        },
        "durations_ms": {name: round(value, 3) for name, value in durations_ms.items()},
    }
    if source.gaps:
        made["input"]["gaps"] = source.gaps
    if image_digest:
        made["image_digest"] = image_digest
    if meta and _is_small_json(meta):
        made["meta"] = meta
    return made


def time_limit_exceeded(limit_s: float) -> AlgorithmFailed:
    """The error for a job that took too long."""
    return AlgorithmFailed(
        "TIME_LIMIT_EXCEEDED", f"the algorithm took longer than its {limit_s:g} s; send less at once"
    )


def _is_small_json(value: Any) -> bool:
    try:
        return len(json.dumps(value, allow_nan=False)) <= _MAX_META_BYTES
    except (TypeError, ValueError, RecursionError):
        return False


def _stated(error: MipError) -> JobError:
    return JobError(code=error.code, message=error.message[:2000])


def _message(attempt: Attempt, purpose: str, **said: Any) -> Outgoing:
    result = ResultMessage(
        job_id=attempt.job.job_id,
        algo_id=attempt.job.algo_id,
        client_id=attempt.job.client_id,
        attempt=attempt.receive_count,
        started_at=attempt.started_at,
        **said,
    )
    body = result.model_dump_json(exclude_none=True)
    return Outgoing(body, attempt.job.job_id, attempt.dedup_id(purpose))
