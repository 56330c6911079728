"""Parts of the worker that decide something: configuration, backlog, log, reports."""

from __future__ import annotations

import json
import logging
import threading

import pytest

from medical_image_processing.errors import AlgorithmFailed, InvalidRequest
from medical_image_processing.model.algorithm import OutputKind
from medical_image_processing.model.job import ReportedStatus, ResultMessage
from medical_image_processing.worker import log, report
from medical_image_processing.worker.aws import Received, _bucket_address
from medical_image_processing.worker.backlog import Backlog, Prepared
from medical_image_processing.worker.config import WorkerConfig
from medical_image_processing.worker.leases import Attempt

ENV = {
    "QUEUE_URL": "http://127.0.0.1:1/000000000000/mip-acts.fifo",
    "RESULT_QUEUE": "http://127.0.0.1:1/000000000000/mip-results.fifo",
    "OUTPUT_BUCKET": "mip-output",
    "ALGO_ID": "acts",
    "PACS_API_BASE": "http://127.0.0.1:1/pacs/",
    "PACS_API_KEY": "key",
    "AWS_REGION": "us-east-1",
}


def attempt(*, receive_count: int = 1, handle: str = "handle", job_id: str = "j" * 120) -> Attempt:
    job = {
        "job_id": job_id,
        "client_id": "c",
        "algo_id": "acts",
        "pacs": {"study_id": "1.2", "series_id": "1.2.3", "image_id": "1.2.3.4", "scope": "image"},
    }
    return Attempt.of(Received(json.dumps(job), handle, receive_count))


def prepared(of: Attempt) -> Prepared:
    return Prepared(of, None, [], {})


def test_the_environment_of_the_contract_is_enough() -> None:
    config = WorkerConfig.from_env(ENV)
    assert (config.algo_id, config.pacs_base, config.sqs_endpoint) == (
        "acts",
        "http://127.0.0.1:1/pacs",
        None,
    )
    assert (config.time_limit_s, config.stop_timeout_s, config.parent_pid) == (900, 25, None)
    assert config.image_digest == ""


def test_the_images_digest_is_part_of_the_provenance() -> None:
    digest = WorkerConfig.from_env({**ENV, "MIP_IMAGE_DIGEST": "sha256:ab"}).image_digest
    made = report.provenance(
        revision="1",
        task="",
        source=report.Source(()),
        scope="image",
        durations_ms={},
        meta=None,
        image_digest=digest,
    )
    assert made["image_digest"] == "sha256:ab"


@pytest.mark.parametrize("name", [name for name in ENV if name != "PACS_API_KEY"])
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"BAD_ENVIRONMENT: the environment variable {name} is not set"):
        WorkerConfig.from_env({**ENV, name: " "})


@pytest.mark.parametrize(
    ("name", "value"),
    [("QUEUE_URL", "sqs"), ("ALGO_ID", "Acts!"), ("MIP_TIME_LIMIT_S", "soon"), ("MIP_TIME_LIMIT_S", "nan")],
)
def test_a_bad_variable_is_named_but_not_shown(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        WorkerConfig.from_env({**ENV, name: value})
    assert f" {value}" not in caught.value.message


def test_endpoints_may_be_set_for_all_services_or_for_one() -> None:
    config = WorkerConfig.from_env({**ENV, "AWS_ENDPOINT_URL": "http://a:1", "AWS_ENDPOINT_URL_S3": "http://b:2"})
    assert (config.sqs_endpoint, config.s3_endpoint) == ("http://a:1", "http://b:2")


def test_buckets_are_addressed_as_aws_wants_it() -> None:
    origin, prefix = _bucket_address(None, "eu-south-1", "bucket")
    assert (origin.scheme, origin.netloc, prefix) == ("https", "bucket.s3.eu-south-1.amazonaws.com", "")
    origin, prefix = _bucket_address("http://127.0.0.1:9000/", "eu-south-1", "bucket")
    assert (origin.netloc, prefix) == ("127.0.0.1:9000", "/bucket")


def take_through(backlog: Backlog, took_s: float) -> None:
    """One job from receipt to the end of its computation."""
    one = attempt()
    backlog.expect([one])
    backlog.put(prepared(one))
    assert backlog.take() is not None
    backlog.done(one, took_s)


def wanted(backlog: Backlog) -> int | None:
    """What is wanted now, None if nothing is."""
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(backlog.wait_until_wanted()))
    thread.start()
    thread.join(0.1)
    if thread.is_alive():
        backlog.close()
        thread.join(10)
        return None
    return answers[0]


def test_an_unknown_algorithm_gets_one_job_and_nothing_beside_it() -> None:
    backlog = Backlog()
    assert wanted(backlog) == 1
    backlog.expect([attempt()])
    assert wanted(backlog) is None


@pytest.mark.parametrize(("took_s", "batch"), [(0.001, 10), (0.02, 5), (0.09, 1), (60, 1)])
def test_the_shorter_the_jobs_the_more_are_received_at_once(took_s: float, batch: int) -> None:
    backlog = Backlog()
    take_through(backlog, took_s)
    assert wanted(backlog) == batch


def test_one_job_is_prepared_beside_a_running_one_and_no_more() -> None:
    backlog = Backlog()
    take_through(backlog, 1.0)
    running, waiting = attempt(), attempt()
    backlog.expect([running])
    backlog.put(prepared(running))
    backlog.take()
    assert wanted(backlog) == 1
    backlog.expect([waiting])
    backlog.put(prepared(waiting))
    assert wanted(backlog) is None


def test_nothing_waits_beside_jobs_of_many_seconds() -> None:
    backlog = Backlog()
    take_through(backlog, 30.0)
    backlog.expect([attempt()])
    assert wanted(backlog) is None


def test_nothing_is_received_beside_a_suspect() -> None:
    backlog = Backlog()
    take_through(backlog, 0.001)
    backlog.expect([attempt(receive_count=2)])
    assert wanted(backlog) is None


def test_closing_wakes_both_sides() -> None:
    backlog = Backlog()
    backlog.close()
    assert backlog.take() is None
    assert backlog.wait_until_wanted() == 0


def test_a_report_fits_the_contract_and_the_queue() -> None:
    one = attempt()
    provenance = report.provenance(
        revision="3",
        task="t",
        source=report.Source(tuple(f"2.25.{'9' * 38}{i}" for i in range(5000))),
        scope="series",
        durations_ms={"run": 1.23456},
        meta={"volume_ml": 3},
    )
    sent = report.succeeded(one, bucket="b", keys={OutputKind.SC: "acts/k.dcm"}, provenance=provenance)
    result = ResultMessage.model_validate_json(sent.body)
    assert result.status is ReportedStatus.SUCCEEDED
    assert result.dicom is not None and result.dicom.key == "acts/k.dcm"
    assert result.provenance is not None
    assert result.provenance["input"]["count"] == 5000
    assert len(result.provenance["input"]["sop_instance_uids"]) == 50
    assert result.provenance["meta"] == {"volume_ml": 3}
    assert len(sent.body) < 16_384
    assert sent.group_id == one.job.job_id and len(sent.dedup_id) <= 128


@pytest.mark.parametrize("meta", [{"x": object()}, {"x": "y" * 20_000}, {"x": float("nan")}, None])
def test_meta_that_is_no_small_json_is_left_out(meta: object) -> None:
    made = report.provenance(
        revision="1", task="", source=report.Source(()), scope="image", durations_ms={}, meta=meta
    )
    assert "meta" not in made


def test_every_receive_and_every_report_has_its_own_deduplication_id() -> None:
    error = AlgorithmFailed("X", "x")
    one, again = attempt(handle="a"), attempt(handle="b")
    ids = {
        report.failed(one, error).dedup_id,
        report.failed(again, error).dedup_id,
        report.trouble(one, error).dedup_id,
        report.running(one, 1).dedup_id,
        report.running(one, 2).dedup_id,
    }
    assert len(ids) == 5
    assert report.failed(one, error).dedup_id == report.failed(one, error).dedup_id


def line_of(error: BaseException, job_id: str | None = None) -> dict[str, object]:
    formatter = log.JsonLines("acts")
    formatter.job_id = job_id
    record = logging.LogRecord(
        "x", 40, __file__, 1, "it %s", ("broke",), (type(error), error, error.__traceback__)
    )
    parsed: dict[str, object] = json.loads(formatter.format(record))
    return parsed


def test_a_log_line_tells_where_but_not_what_was_said() -> None:
    try:
        int("SMITH^JOHN")
    except ValueError as error:
        line = line_of(error, job_id="j1")
    assert (line["algo_id"], line["job_id"], line["message"]) == ("acts", "j1", "it broke")
    assert line["exception"] == "ValueError"
    assert "test_a_log_line_tells_where_but_not_what_was_said" in str(line["traceback"])
    assert "SMITH" not in json.dumps(line)
