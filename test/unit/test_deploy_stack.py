"""``mip env`` and the admin key of a stack, on the emulator; clients that find a platform by them."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result
from websockets.sync.server import ServerConnection, serve

from aws_emulator import AwsEmulator
from medical_image_processing.entrypoints.cli import app
from medical_image_processing.entrypoints.client import Client, read_env, results_address
from medical_image_processing.entrypoints.deploy.account import Account
from medical_image_processing.entrypoints.deploy.admin_test import AdminTest
from medical_image_processing.entrypoints.deploy.deployment import check_ours, keep_choices, show_choices
from medical_image_processing.entrypoints.deploy.stack import Stack
from medical_image_processing.errors import Conflict

KEYS = {"AdminKeySecretArn": "AdminKey", "PacsKeySecretArn": "PacsKey"}


def template(api: str, choices: dict[str, str] | None = None) -> str:
    """As much of a stack as commands read: its outputs, the two secrets, what was chosen."""
    secret = {
        "Type": "AWS::SecretsManager::Secret",
        "Properties": {"GenerateSecretString": {"PasswordLength": 48}},
    }
    values: dict[str, Any] = {
        "ProcessingApiEndpoint": f"{api}/",
        "WebSocketEndpoint": "wss://ws1.execute-api.us-east-1.amazonaws.com/prod",
        "ResultsQueueUrl": {"Ref": "Results"},
        "OutputBucketName": "mip-output-1-us-east-1",
        **{name: {"Ref": logical} for name, logical in KEYS.items()},
    }
    return json.dumps(
        {
            "Resources": {
                "AdminKey": {**secret, "DeletionPolicy": "Retain"},
                "PacsKey": secret,
                "Results": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "r.fifo", "FifoQueue": True}},
            },
            "Outputs": {name: {"Value": value} for name, value in values.items()},
            **({} if choices is None else {"Metadata": {"MipChoices": choices}}),
        }
    )


class Deployed:
    """A stack in an account of its own."""

    def __init__(
        self,
        emulator: AwsEmulator,
        *,
        api: str = "https://a.execute-api.us-east-1.amazonaws.com/prod",
        name: str = "ImgPipeline",
        choices: dict[str, str] | None = None,
    ):
        self.emulator = emulator.fresh_account()
        self._client = self.emulator.clients().client("cloudformation").boto
        self._client.create_stack(StackName=name, TemplateBody=template(api, choices))
        self._client.get_waiter("stack_create_complete").wait(
            StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 20}
        )

    def mip(self, *arguments: str, **env: str) -> Result:
        none = dict.fromkeys(
            ("MIP_API_BASE", "API_BASE", "MIP_ADMIN_KEY", "MIP_CLIENT_KEY", "MIP_ADMIN_SECRET"), ""
        )
        return CliRunner(env={**none, **self.emulator.environment, **env}).invoke(app, arguments, prog_name="mip")

    def secret(self, arn: str, stage: str = "AWSCURRENT") -> str:
        boto = self.emulator.clients().client("secretsmanager").boto
        return str(boto.get_secret_value(SecretId=arn, VersionStage=stage)["SecretString"])


@pytest.fixture(scope="module")
def deployed(aws_emulator: AwsEmulator) -> Deployed:
    return Deployed(aws_emulator)


def env_of(answer: Result, tmp_path: Path) -> dict[str, str]:
    assert answer.exit_code == 0, answer.output
    (tmp_path / "env").write_text(answer.stdout)
    return read_env(tmp_path / "env")


def test_env_prints_what_a_shell_needs_and_no_key(deployed: Deployed, tmp_path: Path) -> None:
    env = env_of(deployed.mip("env", "--stack", "ImgPipeline"), tmp_path)
    base = "https://a.execute-api.us-east-1.amazonaws.com/prod"
    assert env["API_BASE"] == env["MIP_API_BASE"] == base
    assert env["PACS_API_BASE"] == f"{base}/pacs"
    assert env["WS_ENDPOINT"] == "wss://ws1.execute-api.us-east-1.amazonaws.com/prod"
    assert env["RESULTS_QUEUE_URL"].endswith("/r.fifo")
    assert env["OUTPUT_BUCKET"] == "mip-output-1-us-east-1"
    assert env["AWS_REGION"] == env["AWS_DEFAULT_REGION"] == "us-east-1"
    assert not {"MIP_ADMIN_KEY", "PACS_API_KEY"} & set(env)
    assert deployed.secret(env["MIP_ADMIN_SECRET"]) not in "".join(env.values())


def test_env_prints_the_keys_when_they_are_asked_for(deployed: Deployed, tmp_path: Path) -> None:
    env = env_of(deployed.mip("env", "--with-keys"), tmp_path)
    assert env["MIP_ADMIN_KEY"] == deployed.secret(env["MIP_ADMIN_SECRET"])
    assert len(env["PACS_API_KEY"]) == 48


def test_a_stack_that_is_not_there_is_said_to_be_so(deployed: Deployed) -> None:
    answer = deployed.mip("env", "--stack", "Another")
    assert answer.exit_code == 1
    assert "no stack Another in us-east-1" in " ".join(answer.stderr.split())


def test_a_rotated_admin_key_is_new_and_the_one_before_stays_valid(
    aws_emulator: AwsEmulator, tmp_path: Path
) -> None:
    mine = Deployed(aws_emulator)
    arn = env_of(mine.mip("env"), tmp_path)["MIP_ADMIN_SECRET"]
    first = mine.secret(arn)
    answer = mine.mip("deploy", "rotate-admin-key")
    assert answer.exit_code == 0, answer.output
    second = mine.secret(arn)
    assert second != first
    assert mine.secret(arn, "AWSPREVIOUS") == first
    assert second not in answer.output


def test_destroy_asks_says_what_stays_and_does_nothing_without_an_answer(deployed: Deployed) -> None:
    answer = deployed.mip("deploy", "destroy")
    assert answer.exit_code == 2
    assert "SecretsManager::Secret" in answer.stdout
    assert "SQS::Queue" not in answer.stdout
    assert "--yes" in answer.stderr
    assert deployed.mip("env").exit_code == 0


def test_destroying_what_is_not_there_is_no_error(aws_emulator: AwsEmulator) -> None:
    other = Deployed(aws_emulator, name="Another")
    answer = other.mip("deploy", "destroy", "--yes")
    assert answer.exit_code == 0, answer.output
    assert "nothing to do" in answer.stderr


@contextmanager
def stage() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A REST API below a stage's path; what it was asked, with which admin key."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("x-admin-key") or self.headers.get("authorization")))
            body = b'{"algorithms": [], "next_cursor": null}'
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/prod", asked
    finally:
        server.shutdown()


def test_commands_read_the_admin_key_where_it_lies_and_call_below_the_stage(
    aws_emulator: AwsEmulator, tmp_path: Path
) -> None:
    with stage() as (base, asked):
        mine = Deployed(aws_emulator, api=base)
        env = env_of(mine.mip("env"), tmp_path)
        answer = mine.mip("algorithms", "list", **env)
        assert answer.exit_code == 0, answer.output
        assert asked == [("/prod/admin/algorithms?limit=100", mine.secret(env["MIP_ADMIN_SECRET"]))]
        # For another platform that key isn't meant.
        mine.mip("algorithms", "list", **{**env, "MIP_API_BASE": base.replace("127.0.0.1", "localhost")})
        assert asked[1][1] == "dev-admin"


def test_results_come_from_the_endpoint_that_belongs_to_the_address() -> None:
    paths: list[str] = []

    def answer(socket: ServerConnection) -> None:
        assert socket.request is not None
        paths.append(socket.request.path)
        socket.send('{"job_id": "j"}')
        socket.recv()

    with serve(answer, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.socket.getsockname()[1]
        env = {"API_BASE": "http://127.0.0.1:9/prod", "WS_ENDPOINT": f"ws://127.0.0.1:{port}/_aws/ws/prod"}
        with Client.from_environment(env) as client, client.results("c 1") as results:
            assert results.receive(5) == {"job_id": "j"}
        server.shutdown()
    assert paths == ["/_aws/ws/prod?client_id=c+1"]


def test_the_endpoint_of_another_address_is_not_used() -> None:
    env = {"API_BASE": "https://a/prod", "WS_ENDPOINT": "wss://b/prod"}
    assert results_address(env) == "wss://b/prod"
    assert results_address({**env, "MIP_API_BASE": "https://a/prod"}) == "wss://b/prod"
    assert results_address({**env, "MIP_API_BASE": "http://127.0.0.1:8080"}) is None
    assert results_address({"WS_ENDPOINT": "wss://b/prod"}) is None


def test_a_stack_of_somebody_else_is_not_taken_over() -> None:
    ours = Stack("ImgPipeline", "us-east-1", "UPDATE_COMPLETE", "", {"AdminKeySecretArn": "arn"})
    check_ours(ours)
    check_ours(replace(ours, status="ROLLBACK_COMPLETE", outputs={}))
    with pytest.raises(Conflict, match="migration"):
        check_ours(replace(ours, outputs={"ApiEndpoint": "https://a"}))


def test_what_was_chosen_stays_until_something_else_is(
    aws_emulator: AwsEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"clients": "oidc", "nat": "true", "pacs_image_tag": "latest-1"}
    for choices, picked, kept in (
        (before, {}, before),
        (before, {"nat": "", "clients": "keys"}, {"clients": "keys", "nat": "", "pacs_image_tag": "latest-1"}),
        ({}, {"nat": "true"}, {"nat": "true"}),
    ):
        mine = Deployed(aws_emulator, choices=choices).emulator
        for name, value in mine.environment.items():
            monkeypatch.setenv(name, value)
        assert keep_choices(Account("us-east-1"), picked) == kept


def test_a_stack_that_does_not_say_what_was_chosen_is_not_changed_unasked(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in deployed.emulator.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Conflict, match="--set clients=keys"):
        keep_choices(Account("us-east-1"), {"nat": "true"})
    assert keep_choices(Account("us-east-1"), {"clients": "open"}) == {"clients": "open"}
    assert keep_choices(Account("eu-west-1"), {}) == {}, "where there is no stack"


def test_choices_are_shown_and_what_workers_are_told_is_not() -> None:
    chosen = {"nat": "true", "clients": "", "task_env": '{"TOKEN": "t"}'}
    assert show_choices(chosen).what == "nat=true, task_env=…"
    assert show_choices({}).what == "the defaults"


def test_a_platform_that_lets_anybody_in_fails_the_admin_test_and_is_sent_nothing() -> None:
    with stage() as (base, asked), Client(base, admin_key="k") as client:
        (only,) = AdminTest(client).run(lambda _: None)
    assert only.failure == "a wrong admin key was let in"
    assert len(asked) == 1


def test_a_token_of_an_issuer_goes_where_a_key_would() -> None:
    with stage() as (base, asked), Client.from_environment({"API_BASE": base, "MIP_CLIENT_TOKEN": "t"}) as client:
        client.call("GET", "jobs")
        client.call("GET", "admin", "algorithms")
    assert asked == [("/prod/jobs", "Bearer t"), ("/prod/admin/algorithms", "dev-admin")]
