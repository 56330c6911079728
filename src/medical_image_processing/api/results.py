"""A finished job as its client sees it: the contract's result message, with fresh signed URLs."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import HTTPConnection

from medical_image_processing.control.outlook import NO_OUTLOOK, Outlook
from medical_image_processing.model.job import Job
from medical_image_processing.ports.outputs import Outputs

# No DNS name has a _, but names of containers do, and they are called by them.
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?")


def host_of(header: str | None) -> str:
    """The host and port in a Host header, as the client reached us; the loopback when it has none."""
    return header.lower() if header and _HOST.fullmatch(header) else "127.0.0.1"


def base_url_of(connection: HTTPConnection) -> str:
    """Scheme and host by which the client of a request or a WebSocket has reached us."""
    scheme = "https" if connection.scope["scheme"] in ("https", "wss") else "http"
    return f"{scheme}://{host_of(connection.headers.get('host'))}"


def result_message(job: Job, outputs: Outputs, base_url: str) -> dict[str, Any]:
    """What goes over the WebSocket (CONTRACT.md, "Result message")."""
    message: dict[str, Any] = {
        "job_id": job.job_id,
        "algo_id": job.algo_id,
        "client_id": job.client_id,
        "status": job.status.value,
    }
    if job.error is not None:
        message["error"] = job.error.model_dump(mode="json")
    return message | (_signed(job, outputs, base_url) or {})


def job_answer(job: Job, outputs: Outputs, base_url: str, outlook: Outlook = NO_OUTLOOK) -> dict[str, Any]:
    """What GET /jobs answers of each."""
    asked = job.asked_pacs()
    answer = job.model_dump(mode="json", exclude={"result"}) | {"result": _signed(job, outputs, base_url)}
    answer["pacs"] = asked.model_dump(mode="json", exclude_none=True) if asked is not None else None
    return answer | {"queue_position": outlook.queue_position, "expected_s": outlook.expected_s}


def one_job_answer(job: Job, outputs: Outputs, base_url: str, outlook: Outlook = NO_OUTLOOK) -> dict[str, Any]:
    """What GET /jobs/{job_id} answers."""
    return job_answer(job, outputs, base_url, outlook) | {"parameters": job.asked_parameters()}


def _signed(job: Job, outputs: Outputs, base_url: str) -> dict[str, Any] | None:
    if job.result is None:
        return None
    result = job.result.model_dump(mode="json", exclude_none=True)
    for item in (result["dicom"], *result["outputs"]):
        item["url"] = outputs.sign(item["bucket"], item["key"], base_url=base_url)
    return result
