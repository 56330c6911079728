"""The worker's protection from scale-in, against an agent's endpoint that answers as ECS documents it."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from medical_image_processing.worker.aws import Received, SqsClient
from medical_image_processing.worker.http import HttpClient
from medical_image_processing.worker.leases import Attempt, Leases
from medical_image_processing.worker.protection import EXPIRES_MIN, Agent, Protector, start_protector
from medical_image_processing.worker.sigv4 import load_credentials

PROTECT = {"ProtectionEnabled": True, "ExpiresInMinutes": EXPIRES_MIN}
RELEASE = {"ProtectionEnabled": False}
SOON_S = 5.0


class EcsAgent:
    """The endpoint. ``answers``: what it says next, status and body; else what was asked for is done."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.asked: queue.Queue[tuple[str, str, dict[str, Any]]] = queue.Queue()
        self.answers: queue.Queue[tuple[int, bytes]] = queue.Queue()

    def next_state(self) -> dict[str, Any]:
        method, path, state = self.asked.get(timeout=SOON_S)
        assert (method, path) == ("PUT", "/api/task-1/task-protection/v1/state")
        return state


@contextmanager
def ecs_agent() -> Iterator[EcsAgent]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            state = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            enabled = state["ProtectionEnabled"]
            said = {"protection": {"ProtectionEnabled": enabled, "ExpirationDate": None, "TaskArn": "arn:task"}}
            try:
                status, body = agent.answers.get_nowait()
            except queue.Empty:
                status, body = 200, json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            agent.asked.put((self.command, self.path, state))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        agent = EcsAgent(f"http://127.0.0.1:{server.server_port}/api/task-1")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield agent
        finally:
            server.shutdown()


@pytest.fixture
def agent() -> Iterator[EcsAgent]:
    with ecs_agent() as running:
        yield running


@pytest.fixture
def leases() -> Leases:
    credentials = load_credentials({"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"})
    url = "http://127.0.0.1:1/000000000000/mip-acts.fifo"
    sqs = SqsClient(HttpClient(), credentials, region="us-east-1", endpoint=None, queue_url=url)
    return Leases(sqs, limit_s=900)


def attempt(job_id: str) -> Attempt:
    pacs = {"study_id": "1.2", "scope": "study"}
    job = {"job_id": job_id, "client_id": "c", "algo_id": "acts", "pacs": pacs}
    return Attempt.of(Received(json.dumps(job), f"handle-{job_id}", 1))


def test_a_task_is_protected_while_it_holds_jobs_and_free_when_it_has_been_idle(
    agent: EcsAgent, leases: Leases
) -> None:
    Protector(Agent(agent.uri), leases, idle_s=0.3).start()
    for job_id in ("first", "second"):
        held = attempt(job_id)
        leases.hold([held])
        assert agent.next_state() == PROTECT
        leases.release([held])
        assert agent.next_state() == RELEASE
    assert agent.asked.empty()


def test_short_jobs_one_after_the_other_cost_one_call(agent: EcsAgent, leases: Leases) -> None:
    idle_s = 1.0
    Protector(Agent(agent.uri), leases, idle_s=idle_s).start()
    leases.hold([first := attempt("first")])
    assert agent.next_state() == PROTECT
    free_since, longest_s, calls = time.monotonic(), 0.0, []
    leases.release([first])
    with suppress(queue.Empty):
        calls.append(agent.asked.get(timeout=0.3))
    for number in range(20):
        held = attempt(str(number))
        leases.hold([held])
        longest_s = max(longest_s, time.monotonic() - free_since)
        free_since = time.monotonic()
        leases.release([held])
    calls += list(agent.asked.queue)
    longest_s = max(longest_s, time.monotonic() - free_since)
    # Held up for longer, this test itself would have left the task idle.
    assert not calls or longest_s > idle_s
    if not calls:
        assert agent.next_state() == RELEASE
        assert agent.asked.empty()


def test_the_protection_is_renewed_while_the_job_lasts(agent: EcsAgent, leases: Leases) -> None:
    Protector(Agent(agent.uri), leases, renew_after_s=0.05, idle_s=0.05).start()
    held = attempt("long")
    leases.hold([held])
    for _ in range(3):
        assert agent.next_state() == PROTECT
    leases.release([held])
    deadline = time.monotonic() + SOON_S
    while agent.next_state() != RELEASE:
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (400, {"requestID": "r", "error": {"Arn": "arn:task", "Code": "AccessDeniedException", "Message": "no"}},
         "AccessDeniedException"),
        (200, {"requestID": "r", "failure": {"Arn": "arn:task", "Reason": "TASK_NOT_VALID", "Detail": None}},
         "TASK_NOT_VALID"),
        (500, "no JSON", "HTTP status 500"),
        (200, {"protection": {"ProtectionEnabled": False}}, "HTTP status 200"),
    ],
)  # fmt: skip
def test_a_refusal_is_logged_in_the_agents_word_and_tried_again(
    agent: EcsAgent,
    leases: Leases,
    caplog: pytest.LogCaptureFixture,
    status: int,
    body: object,
    told: str,
) -> None:
    agent.answers.put((status, body.encode() if isinstance(body, str) else json.dumps(body).encode()))
    with caplog.at_level(logging.WARNING):
        Protector(Agent(agent.uri), leases, retry_after_s=0.05, renew_after_s=60).start()
        leases.hold([attempt("job")])
        assert agent.next_state() == PROTECT
        assert agent.next_state() == PROTECT
    assert f"the task could not be protected from scale-in: {told}" in caplog.text


def test_an_agent_that_does_not_answer_or_has_no_address_stops_no_job(
    leases: Leases, caplog: pytest.LogCaptureFixture
) -> None:
    with ecs_agent() as gone:
        uri = gone.uri
    logged = threading.Event()
    protector = Protector(Agent(uri), leases, retry_after_s=60)
    handler = logging.Handler()
    handler.emit = lambda _: logged.set()  # type: ignore[method-assign]
    logging.getLogger("medical_image_processing.worker").addHandler(handler)
    with caplog.at_level(logging.WARNING):
        protector.start()
        held = attempt("job")
        leases.hold([held])
        assert logged.wait(SOON_S)
        start_protector("nonsense", leases)
    logging.getLogger("medical_image_processing.worker").removeHandler(handler)
    assert leases.start(held) and leases.claim(held) and protector.is_alive()
    assert "NO_ANSWER" in caplog.text and "ECS_AGENT_URI is not an http or https address" in caplog.text
