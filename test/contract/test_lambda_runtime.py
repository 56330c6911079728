"""The Lambdas as AWS runs them: each in a process of its own, told everything by its environment."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import Any

import pytest

from aws_emulator import AwsEmulator
from aws_stage import AwsStage

SECRET = "patient-jane-doe"
_RUN = """
import json, sys, time
from importlib import import_module
module, function, *events = json.loads(sys.stdin.read())
class Context:
    def get_remaining_time_in_millis(self):
        return 20_000
handler = getattr(import_module(f"medical_image_processing.entrypoints.lambdas.{module}"), function)
for event in events:
    began = time.monotonic()
    try:
        answer = handler(event, Context())
    except Exception as error:
        answer = {"raised": f"{type(error).__name__}: {error}", "cause": str(error.__cause__ or error.__context__)}
    print("ANSWER", json.dumps(answer))
    print("TOOK", time.monotonic() - began)
"""


class Run:
    """What a Lambda answered to each event, how long that took once it was loaded, and what it logged."""

    def __init__(self, stage: AwsStage, module: str, function: str, *events: Any, **environment: str) -> None:
        environment = {**stage.environment, **stage.account.environment, **environment}
        done = subprocess.run(
            [sys.executable, "-c", _RUN],
            input=json.dumps([module, function, *events]),
            env={"PATH": "/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        self.output = done.stdout + done.stderr
        lines = done.stdout.splitlines()
        self.answers = [json.loads(line.removeprefix("ANSWER ")) for line in lines if line.startswith("ANSWER ")]
        self.took_s = [float(line.removeprefix("TOOK ")) for line in lines if line.startswith("TOOK ")]
        self.logged = [json.loads(line) for line in lines if not line.startswith(("ANSWER ", "TOOK "))]


@pytest.fixture(scope="module")
def stage(aws_emulator: AwsEmulator) -> AwsStage:
    return AwsStage(aws_emulator, MIP_WS_ENDPOINT=f"{aws_emulator.endpoint}/_aws/execute-api/none/prod")


def _request(path: str, **headers: str) -> dict[str, Any]:
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": "GET",
        "headers": headers,
        "requestContext": {"identity": {"sourceIp": "192.0.2.1"}},
        "body": None,
    }


def test_one_engine_serves_all_events_of_a_container(stage: AwsStage) -> None:
    listing = _request("/admin/algorithms", **{"x-admin-key": stage.admin_key})

    run = Run(stage, "admin", "handler", listing, listing, _request("/admin/keys"))

    assert [answer["statusCode"] for answer in run.answers] == [200, 200, 401]
    assert stage.admin_key not in run.output


@pytest.mark.parametrize(
    ("module", "function", "event"),
    [
        ("websocket", "disconnect", {"requestContext": [SECRET]}),
        ("delivery", "handler", {"Records": [{"body": SECRET, "messageId": "1", "attributes": SECRET}]}),
        ("websocket", "message", {"requestContext": SECRET}),
        ("websocket", "connect", {"requestContext": {"connectionId": SECRET}, "headers": [SECRET]}),
    ],
)
def test_a_fault_is_told_by_class_and_place_and_never_by_what_the_event_held(
    stage: AwsStage, module: str, function: str, event: Any
) -> None:
    run = Run(stage, module, function, event, AWS_LAMBDA_FUNCTION_NAME="any")

    [answer] = run.answers
    assert answer["raised"].startswith("RuntimeError: ") and answer["raised"].endswith("Error")
    assert SECRET not in run.output
    [line] = [line for line in run.logged if line["level"] == "ERROR"]
    assert line["exception"].endswith("Error") and any("lambdas" in place for place in line["at"])


def test_a_setting_that_is_missing_is_named(stage: AwsStage) -> None:
    run = Run(stage, "processing", "handler", _request("/jobs"), MIP_KEYS_TABLE="")

    assert "MIP_KEYS_TABLE" in run.answers[0]["raised"]


def test_a_hostile_message_is_logged_without_its_text(stage: AwsStage) -> None:
    attributes = {
        "ApproximateReceiveCount": "1",
        "SentTimestamp": "1",
        "ApproximateFirstReceiveTimestamp": "1",
        "SenderId": "AIDA",
    }
    record = {"messageId": "1", "receiptHandle": "r", "body": json.dumps({"job_id": SECRET, "x": SECRET})}

    run = Run(stage, "delivery", "handler", {"Records": [{**record, "attributes": attributes}]})

    assert run.answers == [{"batchItemFailures": []}]
    assert SECRET not in run.output and run.logged, "it is logged that something came"


def test_a_caller_is_told_that_aws_is_silent_before_the_gateway_ends_the_request(stage: AwsStage) -> None:
    request = _request("/jobs", **{"x-api-key": "a key"}) | {"queryStringParameters": {"client_id": "c"}}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        ran = Run(stage, "processing", "handler", request, AWS_ENDPOINT_URL=address)
    [answer], [took_s] = ran.answers, ran.took_s
    assert (answer["statusCode"], json.loads(answer["body"])["error"]["code"]) == (503, "AWS_UNAVAILABLE")
    assert took_s < 29
