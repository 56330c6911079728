"""A finished job as its client sees it."""

import pytest
from starlette.requests import HTTPConnection

from medical_image_processing.api.results import base_url_of, host_of, job_answer, result_message
from medical_image_processing.model.job import (
    Job,
    JobError,
    JobMessage,
    JobResult,
    JobStatus,
    Output,
    PacsRef,
    Scope,
    StoredObject,
)

MESSAGE = JobMessage(
    job_id="test-123", client_id="client-456", algo_id="liver", pacs=PacsRef(study_id="s", scope=Scope.STUDY)
)


class Addresses:
    """Names the object instead of signing it."""

    def sign(self, bucket: str, key: str, *, base_url: str) -> str:
        return f"{base_url}/{bucket}/{key}?signed"


def a_job(**changes: object) -> Job:
    fields = {
        "job_id": "test-123",
        "algo_id": "liver",
        "client_id": "client-456",
        "message": MESSAGE.model_dump_json(),
        "status": JobStatus.SUCCEEDED,
        "created_at": "2026-01-01T00:00:00Z",
        "result": JobResult(
            dicom=StoredObject(bucket="out", key="liver/a.dcm", url="https://evil.example/a.dcm"),
            outputs=(Output(kind="SC", bucket="out", key="liver/a.dcm"),),
        ),
    }
    return Job.model_validate({**fields, **changes})


def test_every_url_is_made_anew_and_none_is_the_senders() -> None:
    message = result_message(a_job(), Addresses(), "https://pacs.local")
    assert message["dicom"]["url"] == "https://pacs.local/out/liver/a.dcm?signed"
    assert message["outputs"][0]["url"] == "https://pacs.local/out/liver/a.dcm?signed"
    assert "evil" not in str(message) + str(job_answer(a_job(), Addresses(), "pacs.local"))
    assert (message["job_id"], message["algo_id"], message["client_id"]) == ("test-123", "liver", "client-456")


def test_a_failure_has_its_reason_and_no_dicom() -> None:
    error = JobError(code="NO_PIXELS", message="the image has no pixels")
    job = a_job(status=JobStatus.FAILED, result=None, error=error)
    message = result_message(job, Addresses(), "h")
    assert message["status"] == "FAILED" and message["error"]["code"] == "NO_PIXELS"
    assert "dicom" not in message
    assert job_answer(job, Addresses(), "h")["result"] is None


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("pacs.local:8080", "pacs.local:8080"),
        ("PACS.Local:8080", "pacs.local:8080"),
        ("192.0.2.1", "192.0.2.1"),
        ("mip_server:8080", "mip_server:8080"),
        ("[::1]:8080", "[::1]:8080"),
        (None, "127.0.0.1"),
        ("evil/../x", "127.0.0.1"),
        ("a b", "127.0.0.1"),
        ("user@evil", "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
def test_a_host_header_that_is_no_host_is_not_repeated(header: str | None, host: str) -> None:
    assert host_of(header) == host


@pytest.mark.parametrize(
    ("scheme", "base_url"),
    [("http", "http://p:1"), ("https", "https://p:1"), ("ws", "http://p:1"), ("wss", "https://p:1")],
)
def test_a_websocket_s_client_fetches_results_from_where_it_is_connected(scheme: str, base_url: str) -> None:
    kind = "http" if scheme.startswith("http") else "websocket"
    connection = HTTPConnection({"type": kind, "scheme": scheme, "headers": [(b"host", b"p:1")]})
    assert base_url_of(connection) == base_url
