"""Results to WebSocket connections through API Gateway (clauses D1, D2 of ports.push, K2 of ports.keys)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, TypeVar

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from api_calls import until
from aws_emulator import AwsEmulator
from aws_stage import AwsStage
from medical_image_processing.engines.aws.connections import OPENING_S, ApiGatewayPush, Connection
from medical_image_processing.errors import Unavailable
from medical_image_processing.model.job import Job, JobEnd, JobStatus
from websocket_gateway import Gateway, is_silent, received

T = TypeVar("T")


class Place:
    """A push over an API of the emulator, or over what stands before it."""

    def __init__(self, stage: AwsStage, endpoint: str) -> None:
        self.connections = stage.engine.connections
        self.failures = 0
        self.push = ApiGatewayPush(
            stage.clients, self.connections, endpoint=endpoint, render=_render, on_failure=self._count
        )

    def note(
        self, client_id: str, connection_id: str, *, holder: str | None = None, age_s: float = 60
    ) -> Connection:
        connection = Connection(client_id, connection_id, holder, "api.example", time.time() - age_s)
        run(self.connections.put(connection))
        return connection

    def of(self, client_id: str) -> list[Connection]:
        return run(self.connections.of_client(client_id))

    def _count(self) -> None:
        self.failures += 1


def _render(job: Job, host: str) -> str:
    return f'{{"job_id": "{job.job_id}", "host": "{host}"}}'


def run(work: Awaitable[T]) -> T:
    async def limited() -> T:
        return await asyncio.wait_for(work, 60)

    return asyncio.run(limited())


def job_of(client_id: str, job_id: str = "job-1") -> Job:
    return Job(job_id=job_id, algo_id="algo_1", client_id=client_id, status=JobStatus.SUCCEEDED, created_at="…")


@pytest.fixture(scope="module")
def stage(aws_emulator: AwsEmulator) -> AwsStage:
    return AwsStage(aws_emulator)


@pytest.fixture(scope="module")
def gateway(stage: AwsStage) -> Gateway:
    return Gateway(stage)


@pytest.fixture
def place(stage: AwsStage, gateway: Gateway) -> Place:
    return Place(stage, gateway.endpoint)


def test_d1_a_result_reaches_every_connection_of_its_client_and_nobody_else(
    place: Place, gateway: Gateway
) -> None:
    with gateway.connection() as first, gateway.connection() as second, gateway.connection() as other:
        for client_id, connection_id in (("ana", first[1]), ("ana", second[1]), ("bob", other[1])):
            place.note(client_id, connection_id)

        run(place.push.push(job_of("ana")))

        assert received(first[0]) == received(second[0]) == {"job_id": "job-1", "host": "api.example"}
        assert is_silent(other[0])
    assert place.failures == 0


def test_d1_a_client_without_a_connection_is_no_failure(place: Place) -> None:
    run(place.push.push(job_of("nobody")))


def test_a_connection_that_has_gone_is_forgotten(place: Place, gateway: Gateway) -> None:
    with gateway.connection() as (_, connection_id):
        pass
    gone = place.note("gone", connection_id)
    until(lambda: not run(place.push.is_open(gone)), "the emulator knows that it has gone")

    run(place.push.push(job_of("gone")))

    assert place.of("gone") == []
    assert run(place.connections.find(connection_id)) is None
    assert place.failures == 0


def test_a_connection_that_may_still_be_opening_is_kept_and_known_to_have_missed_something(place: Place) -> None:
    place.note("early", "not-yet-open", age_s=OPENING_S - 10)

    run(place.push.push(job_of("early")))

    [kept] = place.of("early")
    assert kept.behind


def test_d1_one_connection_that_fails_holds_up_no_other_and_the_message_is_tried_again(
    stage: AwsStage, gateway: Gateway
) -> None:
    with gateway.connection() as bad, gateway.connection() as good, _broken_for(gateway, bad[1]) as endpoint:
        place = Place(stage, endpoint)
        place.note("both", bad[1])
        place.note("both", good[1])

        with pytest.raises(Unavailable, match="PUSH_FAILED"):
            run(place.push.push(job_of("both")))

        assert received(good[0])["job_id"] == "job-1"
        behind = {connection.connection_id: connection.behind for connection in place.of("both")}
        assert behind == {bad[1]: True, good[1]: False}
    assert place.failures == 1


def test_what_a_client_can_not_be_sent_at_all_is_counted_and_not_tried_again(
    place: Place, stage: AwsStage
) -> None:
    refusing = Place(stage, f"{stage.account.endpoint}/no-such-api")
    refusing.note("refused", "connection-1")

    run(refusing.push.push(job_of("refused")))

    assert refusing.failures == 1


def test_a_removed_key_closes_what_it_had_opened(place: Place, gateway: Gateway) -> None:
    with gateway.connection() as lost, gateway.connection() as kept:
        place.note("keyed", lost[1], holder="ward")
        place.note("keyed", kept[1], holder="other")

        run(place.push.close("ward"))

        with pytest.raises(ConnectionClosed):
            lost[0].recv(timeout=10)
        assert [connection.connection_id for connection in place.of("keyed")] == [kept[1]]
        run(place.push.push(job_of("keyed")))
        assert received(kept[0])["job_id"] == "job-1"


def test_what_was_replayed_is_known_until_it_is_forgotten(place: Place) -> None:
    connection = place.note("replayed", "connection-r")
    ends = [JobEnd(f"job-{number}", f"message-{number}") for number in range(3)]
    run(place.connections.note_replayed(connection, ends[:2]))
    between = time.time()
    run(place.connections.note_replayed(connection, ends[2:]))

    assert run(place.connections.replayed(connection)) == ends
    assert run(place.connections.replayed(connection, before=between)) == ends[:2]
    run(place.connections.forget_replayed(connection, before=between))
    assert run(place.connections.replayed(connection)) == ends[2:]
    assert place.of("replayed") == [connection], "these lie beside the connections, not among them"


class _broken_for:
    """The gateway, behind a proxy that answers 500 for one connection."""

    def __init__(self, gateway: Gateway, connection_id: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status, content = 500, b"{}"
                if connection_id not in self.path:
                    url = gateway.endpoint.partition("/_aws")[0] + self.path
                    headers = {"authorization": self.headers["authorization"]}
                    answer = httpx.post(url, content=body, headers=headers, trust_env=False)
                    status, content = answer.status_code, answer.content
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._path = gateway.endpoint.partition("/_aws")[2]

    def __enter__(self) -> str:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_address[1]}/_aws{self._path}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
