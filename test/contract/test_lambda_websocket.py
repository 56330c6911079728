"""The WebSocket's Lambdas: real sockets on the emulator, their events handed to our code (law J7)."""

from __future__ import annotations

import itertools
import json
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from aws_emulator import AwsEmulator
from aws_stage import AwsStage
from lambda_events import connect_event, invoke, run, socket_event
from medical_image_processing import naming
from medical_image_processing.engines.aws.connections import Connection
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.engines.aws.settings import AwsSettings
from medical_image_processing.entrypoints.lambdas import websocket
from medical_image_processing.entrypoints.lambdas.assembly import create_push
from medical_image_processing.entrypoints.lambdas.websocket import (
    ARRIVED_AFTER_S,
    IDLE_TIMEOUT_S,
    PUSHED_WITHIN_S,
    SECOND_LOOK_S,
    Conversations,
    Receipts,
)
from medical_image_processing.model.algorithm import AlgorithmSpec
from medical_image_processing.model.job import JobError, JobMessage, JobResult, JobStatus, PacsRef, StoredObject
from medical_image_processing.ports.jobs import DEAD_LETTERED, Report
from medical_image_processing.ports.keys import KeyRole, digest
from oidc_issuer import AUDIENCE, Issuer
from websocket_gateway import Gateway, add_function, is_silent, received

ALGO = "algo_1"
KEY = "the-key-of-the-ward"
CONNECT = "connect-fn"
_TELL = """
import json, os, urllib.request
def handler(event, context):
    urllib.request.urlopen(os.environ["LISTENER"], json.dumps(event).encode(), timeout=10)
"""
_NUMBERS = itertools.count(1)


class Listener:
    """Hears what is posted to it."""

    def __init__(self) -> None:
        self.bodies: queue.Queue[Any] = queue.Queue()
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{server.server_address[1]}"


class Place:
    """An account with a WebSocket API, an algorithm and a key. Our code runs here, and in the clients' sockets'
    Lambdas nothing of it, so that a test decides when what is called."""

    def __init__(self, emulator: AwsEmulator) -> None:
        self.stage = AwsStage(emulator)
        self.gateway = Gateway(self.stage)
        self.engine = self.with_settings()
        self.told = Listener()
        add_function(self.stage, CONNECT, _TELL, LISTENER=self.told.address)
        self.stage.boto("sqs").create_queue(QueueName=naming.queue(ALGO), Attributes={"FifoQueue": "true"})
        spec = AlgorithmSpec(algo_id=ALGO, image_uri="image", cpu=256, memory=512, command=("/app/worker.sh",))
        run(lambda: self.engine.registry.create(spec, actor="root"))
        ids = ["ward-1", "ward-2"]
        key = {"name": "ward", "role": KeyRole.CLIENT, "client_ids": ids, "actor": "root"}
        run(lambda: self.engine.keys.add(digest(KEY), **key))

    def with_settings(self, **environment: str) -> AwsEngine:
        known = {**self.stage.environment, "MIP_WS_ENDPOINT": self.gateway.endpoint, **environment}
        return AwsEngine(AwsSettings.from_environment(known), self.stage.clients)

    def finish(self, client_id: str, *, error: str | None = None) -> str:
        """A job that has just ended, well or with this error code; its id."""
        job_id = f"job-{next(_NUMBERS)}"
        pacs = PacsRef(study_id="study-1", scope="study")
        message = JobMessage(job_id=job_id, client_id=client_id, algo_id=ALGO, pacs=pacs)
        run(lambda: self.engine.jobs.accept(message, "fingerprint"))
        result = JobResult(dicom=StoredObject(bucket=self.stage.bucket, key=f"{ALGO}/study-1/{job_id}.dcm"))
        report = Report(job_id, ALGO, JobStatus.SUCCEEDED, result=result)
        if error is not None:
            report = Report(job_id, ALGO, JobStatus.FAILED, error=JobError(code=error, message="it was given up"))
        [ended] = run(lambda: self.engine.jobs.apply([report]))
        assert ended.job_id == job_id
        return job_id

    def push(self, job_id: str) -> None:
        """As delivery does once a job has ended."""

        async def work() -> None:
            job = await self.engine.jobs.get(job_id)
            assert job is not None
            await create_push(self.engine).push(job)

        run(work)

    def unseen(self, client_id: str) -> list[str]:
        return [job.job_id for job in run(lambda: self.engine.jobs.unseen(client_id, after=None, limit=100))]

    @contextmanager
    def connected(self, client_id: str, *, later_s: float = 0) -> Iterator[tuple[ClientConnection, Connection]]:
        """A socket that is open and on record, and was sent nothing yet."""
        with self.gateway.connection() as (socket, connection_id):
            connection = Connection(client_id, connection_id, "ward", "ws.example", time.time() + later_s)
            run(lambda: self.engine.connections.put(connection))
            yield socket, connection

    def conversations(self, *, later_s: float = 0) -> Conversations:
        """As they are ``later_s`` from now."""
        connections = self.engine.connections
        clock = _ahead(later_s)
        return Conversations(connections, create_push(self.engine), self.receipts(later_s), clock=clock)

    def receipts(self, later_s: float) -> Receipts:
        return Receipts(self.engine.connections, self.engine.jobs, clock=_ahead(later_s))

    def ping(self, connection: Connection, *, later_s: float = 0) -> None:
        hear = self.conversations(later_s=later_s).hear
        run(lambda: hear(connection.connection_id, '{"type": "ping"}'))


def _ahead(seconds: float) -> Any:
    return lambda: time.time() + seconds


A_MINUTE_S = ARRIVED_AFTER_S + 2


@pytest.fixture(scope="module")
def place(aws_emulator: AwsEmulator) -> Place:
    return Place(aws_emulator)


@pytest.fixture
def client_id() -> str:
    return f"client-{next(_NUMBERS)}"


class TestConnect:
    """Who is let in."""

    @pytest.fixture(autouse=True)
    def _name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", CONNECT)

    @pytest.mark.parametrize(
        ("query", "headers", "status", "code"),
        [
            ({"client_id": "ward-1"}, {}, 401, "CLIENT_KEY_REQUIRED"),
            ({"client_id": "ward-1", "key": "wrong"}, {}, 401, "CLIENT_KEY_REQUIRED"),
            ({"client_id": "ward-9", "key": KEY}, {}, 403, "NOT_YOUR_CLIENT_ID"),
            ({"key": KEY}, {}, 422, "INVALID_REQUEST"),
            ({"client_id": "connection#x", "key": KEY}, {}, 422, "INVALID_REQUEST"),
            ({}, {"X_Api_Key": KEY}, 422, "INVALID_REQUEST"),
        ],
    )
    def test_others_are_told_why_not(
        self, place: Place, query: dict[str, str], headers: dict[str, str], status: int, code: str
    ) -> None:
        event = connect_event("refused", query, **headers)

        answer = invoke(websocket.create_connect(place.engine), event)

        assert (answer["statusCode"], json.loads(answer["body"])["error"]["code"]) == (status, code)
        assert run(lambda: place.engine.connections.find("refused")) is None

    @pytest.mark.parametrize("where", ["query", "header", "lower"])
    def test_a_key_opens_its_client_ids_and_the_replay_is_asked_for(self, place: Place, where: str) -> None:
        query = {"client_id": "ward-2", **({"key": KEY} if where == "query" else {})}
        headers = {"header": {"X_Api_Key": KEY}, "lower": {"x_api_key": KEY}}.get(where, {})

        answer = invoke(websocket.create_connect(place.engine), connect_event(f"in-{where}", query, **headers))

        assert answer == {"statusCode": 200}
        found = run(lambda: place.engine.connections.find(f"in-{where}"))
        assert (found.client_id, found.holder, found.host) == ("ward-2", "ward", "ws.example")
        assert place.told.bodies.get(timeout=20) == {"replay": {"connection_id": f"in-{where}"}}

    def test_a_token_opens_the_socket_where_an_issuer_is_trusted(self, place: Place) -> None:
        with Issuer() as issuer:
            oidc = {"MIP_CLIENTS": "oidc", "MIP_OIDC_ISSUER": issuer.address, "MIP_OIDC_AUDIENCE": AUDIENCE}
            connect = websocket.create_connect(place.with_settings(**oidc))
            query = {"client_id": "ward-7", "token": issuer.token(client_ids=["ward-7"])}

            assert invoke(connect, connect_event("by-token", query))["statusCode"] == 200
            assert invoke(connect, connect_event("no", {**query, "client_id": "ward-8"}))["statusCode"] == 403
            assert invoke(connect, connect_event("no", {"client_id": "ward-7", "key": KEY}))["statusCode"] == 401


def test_d2_j7_what_a_client_missed_comes_once_oldest_first_and_stays_unseen(place: Place, client_id: str) -> None:
    missed = [place.finish(client_id) for _ in range(3)]
    with place.connected(client_id) as (socket, connection):
        event = {"replay": {"connection_id": connection.connection_id}}
        invoke(websocket.create_connect(place.engine), event)

        results = [received(socket) for _ in missed]
        assert [result["job_id"] for result in results] == missed
        assert results[0]["dicom"]["url"].startswith("http") and results[0]["status"] == "SUCCEEDED"
        assert is_silent(socket)
    assert place.unseen(client_id) == missed


def test_a_replay_that_is_done_again_repeats_nothing(place: Place, client_id: str) -> None:
    place.finish(client_id)
    with place.connected(client_id) as (socket, connection):
        for _ in range(2):
            run(lambda: place.conversations().replay(connection.connection_id))
        received(socket)
        assert is_silent(socket)


def test_what_ends_while_the_client_is_there_is_not_sent_twice(place: Place, client_id: str) -> None:
    ago_s = 10  # by more than clocks may differ
    with place.connected(client_id, later_s=-ago_s) as (socket, connection):
        job_id = place.finish(client_id)
        place.push(job_id)
        replay = place.conversations(later_s=-ago_s).replay
        began = time.monotonic()
        run(lambda: replay(connection.connection_id))

        assert time.monotonic() - began > SECOND_LOOK_S, "it looks a second time, for the index may lag"
        assert received(socket)["job_id"] == job_id
        assert is_silent(socket)


def test_a_replay_for_a_connection_that_is_not_on_record_does_nothing(place: Place) -> None:
    run(lambda: place.conversations().replay("unheard-of"))


def test_a_ping_is_answered_and_says_nothing_in_the_first_minute(place: Place, client_id: str) -> None:
    with place.connected(client_id) as (socket, connection):
        job_id = place.finish(client_id)
        place.push(job_id)
        received(socket)
        place.ping(connection)

        assert received(socket) == {"type": "pong"}
        assert place.unseen(client_id) == [job_id]


def test_in_the_first_minute_a_ping_leaves_what_was_missed_to_the_replay(place: Place, client_id: str) -> None:
    place.finish(client_id)
    with place.connected(client_id, later_s=A_MINUTE_S) as (socket, connection):
        place.ping(connection, later_s=A_MINUTE_S + 30)

        assert received(socket) == {"type": "pong"}
        assert is_silent(socket)


def test_j7_a_ping_later_means_that_what_was_pushed_and_replayed_arrived(place: Place, client_id: str) -> None:
    before = place.finish(client_id)
    with place.connected(client_id) as (socket, connection):
        run(lambda: place.conversations().replay(connection.connection_id))
        pushed = place.finish(client_id)
        place.push(pushed)
        assert [received(socket)["job_id"] for _ in range(2)] == [before, pushed]

        place.ping(connection, later_s=A_MINUTE_S)
        assert place.unseen(client_id) == [pushed], "its push may have failed, and be tried again"
        place.ping(connection, later_s=PUSHED_WITHIN_S + 2)

        assert place.unseen(client_id) == []
        assert [received(socket) for _ in range(2)] == [{"type": "pong"}] * 2
        assert is_silent(socket)


def test_j7_what_the_platform_ended_and_never_pushed_is_sent_by_a_ping(place: Place, client_id: str) -> None:
    with place.connected(client_id) as (socket, connection):
        lost = place.finish(client_id, error=DEAD_LETTERED)

        place.ping(connection, later_s=A_MINUTE_S)
        assert received(socket) == {"type": "pong"}
        assert received(socket)["job_id"] == lost
        assert place.unseen(client_id) == [lost]
        place.ping(connection, later_s=2 * A_MINUTE_S)
        assert received(socket) == {"type": "pong"}
        assert is_silent(socket)
    assert place.unseen(client_id) == []


def test_what_a_replay_overlooked_is_sent_by_a_later_ping_and_not_taken_for_received(
    place: Place, client_id: str
) -> None:
    overlooked = place.finish(client_id)
    with place.connected(client_id) as (socket, connection):
        place.ping(connection, later_s=A_MINUTE_S)

        assert received(socket) == {"type": "pong"}
        assert received(socket)["job_id"] == overlooked
        assert place.unseen(client_id) == [overlooked]
        place.ping(connection, later_s=2 * A_MINUTE_S)
        assert received(socket) == {"type": "pong"}
        assert is_silent(socket)
    assert place.unseen(client_id) == []


def test_where_a_push_failed_nothing_is_taken_for_received_and_all_is_sent_again(
    place: Place, client_id: str
) -> None:
    with place.connected(client_id) as (socket, connection):
        lost = place.finish(client_id)
        run(lambda: place.engine.connections.set_behind(connection, True))

        place.ping(connection, later_s=A_MINUTE_S)

        assert received(socket) == {"type": "pong"}
        assert received(socket)["job_id"] == lost
        assert place.unseen(client_id) == [lost]
        place.ping(connection, later_s=2 * A_MINUTE_S)
        assert place.unseen(client_id) == []


def test_a_client_says_what_it_has_received(place: Place, client_id: str) -> None:
    mine, other = place.finish(client_id), place.finish("somebody-else")
    with place.connected(client_id) as (_, connection):
        for job_id in (mine, other, "unheard-of", "not a name", 7):
            said = json.dumps({"type": "received", "job_id": job_id})
            invoke(websocket.create_message(place.engine), socket_event(connection.connection_id, said))

    assert place.unseen(client_id) == []
    assert other in place.unseen("somebody-else")


@pytest.mark.parametrize("said", ["", "nonsense", "[]", "null", '"ping"', "[" * 50_000, '{"type": ["ping"]}'])
def test_nonsense_is_passed_over(place: Place, client_id: str, said: str) -> None:
    with place.connected(client_id) as (socket, connection):
        answer = invoke(websocket.create_message(place.engine), socket_event(connection.connection_id, said))

        assert answer == {"statusCode": 200}
        assert is_silent(socket, for_s=0.1)


def test_d2_j7_a_close_says_nothing(place: Place, client_id: str) -> None:
    with place.connected(client_id) as (_, connection):
        job_id = place.finish(client_id)
        place.push(job_id)
    invoke(websocket.create_disconnect(place.engine), socket_event(connection.connection_id))

    assert place.unseen(client_id) == [job_id]
    assert run(lambda: place.engine.connections.of_client(client_id)) == []


def test_whoever_stayed_for_longer_than_silence_lasts_has_received_what_is_older(
    place: Place, client_id: str
) -> None:
    before = place.finish(client_id)
    with place.connected(client_id) as (_, connection):
        run(lambda: place.conversations().replay(connection.connection_id))
        pushed = place.finish(client_id)
        place.push(pushed)
    close = place.receipts(IDLE_TIMEOUT_S + 5).close
    run(lambda: close(connection.connection_id))

    assert place.unseen(client_id) == []
    assert before != pushed


def test_of_a_long_connection_that_missed_something_no_push_is_taken_for_received(
    place: Place, client_id: str
) -> None:
    with place.connected(client_id) as (_, connection):
        job_id = place.finish(client_id)
        run(lambda: place.engine.connections.set_behind(connection, True))
    close = place.receipts(IDLE_TIMEOUT_S + 5).close
    run(lambda: close(connection.connection_id))

    assert place.unseen(client_id) == [job_id]


def test_messages_and_closes_of_nobody_are_passed_over(place: Place) -> None:
    for create in (websocket.create_message, websocket.create_disconnect):
        assert invoke(create(place.engine), socket_event("unheard-of", '{"type": "ping"}')) == {"statusCode": 200}
