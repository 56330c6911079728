"""Whatever is sent to the API, it answers as its OpenAPI description says, never with a 5xx."""

import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import booleans
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from api_calls import IMAGE, SEED_BODY, Api, error_of, make_pacs, receive
from platform_process import Platform

EXAMPLES = 40
# Left out: that every key matters (on loopback clients need none), and that whatever fits the schema is accepted
# (that 4096 MiB don't go with 256 CPU units is not said in JSON Schema).
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
LEGAL_STATUSES = {200, 201, 202, 204, 400, 401, 403, 404, 405, 409, 411, 412, 413, 415, 422, 429, 431}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("fuzz")
    with Platform(folder / "home", pacs=make_pacs(folder / "pacs")) as platform:
        api = Api(platform)
        api.register("processing_1")
        api.register("idle", desired_count=0, wait_for="INACTIVE")
        yield api
        assert "Traceback" not in platform.log.read_text(), platform.tail(60)


def test_every_route_conforms_to_its_description(api: Api, subtests: pytest.Subtests) -> None:
    schema = schemathesis.openapi.from_dict(api.get("/openapi.json").json())
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 12
    for operation in operations:
        with subtests.test(f"{operation.method.upper()} {operation.path}"):
            _fuzz(api, operation)
    assert api.record("processing_1")["algorithm_id"]


def _fuzz(api: Api, operation: Any) -> None:
    @seed(20261124)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), known=booleans())
    def check(case: Any, known: bool) -> None:
        parameters = case.path_parameters
        if known and "algo_id" in parameters and operation.method != "delete":
            parameters["algo_id"] = "idle"  # random ids end at a 404, before anything else is looked at
        case.call_and_validate(base_url=api.platform.base, headers=api.headers, timeout=20, checks=CHECKS)

    check()


def raw(api: Api, method: str, path: str, content: bytes, **headers: str) -> httpx.Response:
    sent = {"content-type": "application/json", **headers}
    answer = api.http.request(method, path, content=content, headers=sent)
    assert answer.status_code in LEGAL_STATUSES, answer.text
    return answer


BODIES = {
    "empty": b"",
    "not json": b"{",
    "trailing": b"{} {}",
    "null": b"null",
    "list": b"[]",
    "number": b"1e999",
    "string": b'"text"',
    "invalid utf-8": b'{"algo_id": "\xff\xfe"}',
    "utf-16": '{"algo_id": "x"}'.encode("utf-16"),
    "bom": b'\xef\xbb\xbf{"surprise": 1}',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "deep and closed": b'{"parameters":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "nan": b'{"cpu": NaN}',
    "infinity": b'{"cpu": Infinity}',
    "huge integer": b'{"cpu": ' + b"9" * 5000 + b"}",
    "huge float": b'{"cpu": 1e400}',
    "lone surrogate": b'{"algo_id": "\\ud800"}',
    "surrogate key": b'{"\\ud800": 1}',
    "nul": b'{"algo_id": "a\\u0000b"}',
    "duplicate keys": b'{"algo_id": "a", "algo_id": "b"}',
    "control characters": b'{"algo_id": "\x01"}',
}
ROUTES = [
    ("POST", "/admin/algorithms"),
    ("PATCH", "/admin/algorithms/processing_1"),
    ("POST", "/process/processing_1"),
    ("POST", "/admin/keys"),
]


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_malformed_body_is_a_400_or_a_422_in_the_contracts_shape(
    api: Api, method: str, path: str, body: bytes
) -> None:
    answer = raw(api, method, path, body)
    assert answer.status_code in (400, 422), answer.text
    assert error_of(answer) in ("INVALID_JSON", "INVALID_REQUEST")
    assert len(answer.content) < 20_000, "the answer repeats what was sent"


VALUES = [
    None, True, 0, -1, 1.5, 10**30, 1e308, "", " ", "\0", "\ud83d\ude00", "a" * 100_000, "../..", "%2e%2e",
    "x\ny", [], {}, [[]], {"a": {"b": {}}}, ["x"] * 1000,
]  # fmt: skip


@pytest.mark.parametrize(
    "field", ["algo_id", "image_uri", "cpu", "memory", "command", "env", "desired_count", "legacy_output_keys"]
)
def test_any_value_in_any_field_of_a_registration(api: Api, field: str) -> None:
    for value in VALUES:
        body = {"algo_id": "fuzzed", **SEED_BODY, "desired_count": 0, field: value}
        answer = raw(api, "POST", "/admin/algorithms", json.dumps(body).encode())
        if answer.status_code == 422:
            assert field in answer.text or "algorithm_id" in answer.text
            assert answer.json()["error"]["details"]["fields"]


@pytest.mark.parametrize("field", ["job_id", "client_id", "pacs", "parameters", "surprise"])
def test_any_value_in_any_field_of_a_job(api: Api, field: str) -> None:
    for value in VALUES:
        body = {"pacs": IMAGE, field: value}
        raw(api, "POST", "/process/processing_1", json.dumps(body).encode())


@pytest.mark.parametrize("text", [b'{"x": NaN}', b'{"x": 1e400}', b'{"x": "\\ud800"}', b"[" * 300 + b"]" * 300])
def test_parameters_that_are_no_plain_json(api: Api, text: bytes) -> None:
    body = b'{"pacs": ' + json.dumps(IMAGE).encode() + b', "parameters": ' + text + b"}"
    assert raw(api, "POST", "/process/processing_1", body).status_code in (400, 422)


def test_duplicate_keys_are_one_job_whichever_counts(api: Api) -> None:
    pacs = json.dumps(IMAGE).encode()
    body = b'{"job_id": "dup-1", "job_id": "dup-2", "pacs": ' + pacs + b"}"
    assert raw(api, "POST", "/process/processing_1", body).json()["job_id"] in ("dup-1", "dup-2")


def test_a_body_over_the_limit_is_a_413_whatever_it_says_of_its_length(api: Api) -> None:
    large = b'{"x": "' + b"x" * (2 << 20) + b'"}'
    for method, path in ROUTES:
        answer = raw(api, method, path, large)
        assert (answer.status_code, error_of(answer)) == (413, "BODY_TOO_LARGE")

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(large), 65536):
            yield large[start : start + 65536]

    answer = api.http.post("/process/processing_1", content=chunks(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_the_description_has_the_link_of_every_file_of_a_result(api: Api) -> None:
    schemas = api.get("/openapi.json").json()["components"]["schemas"]
    result = schemas["JobAnswerResult"]["properties"]
    for described in (result["dicom"], result["outputs"]["items"]):
        file = schemas[described["$ref"].rpartition("/")[2]]
        assert "url" in file["properties"] and "url" in file["required"]


def test_a_refusal_says_it_in_the_words_of_a_person(api: Api) -> None:
    refused = api.post("/admin/algorithms", {"algo_id": "a", **SEED_BODY, "cpu": 3})
    assert refused.status_code == 422
    assert "cpu must be one of" in refused.text and "Value error" not in refused.text
    plain = raw(
        api,
        "POST",
        "/process/processing_1",
        json.dumps({"pacs": IMAGE}).encode(),
        **{"content-type": "text/plain"},
    )
    assert plain.status_code == 422
    assert "Content-Type: application/json" in plain.json()["error"]["message"]


def test_other_content_types(api: Api) -> None:
    body = json.dumps({"pacs": IMAGE}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", ""):
        answer = raw(api, "POST", "/process/processing_1", body, **{"content-type": kind})
        assert answer.status_code in (202, 415, 422), (kind, answer.text)
    ok = raw(api, "POST", "/process/processing_1", body, **{"content-type": "application/json; charset=utf-8"})
    assert ok.status_code == 202


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/%00",
        "/jobs/..%2f..%2fetc",
        "/jobs/%ff%fe",
        "/jobs/" + "x" * 5000,
        "/jobs?limit=-1",
        "/jobs?limit=99999999999999999999",
        "/jobs?cursor=abc",
        "/jobs?cursor=99999999999999999999",
        "/jobs?cursor=%00",
        "/jobs?client_id=%00",
        "/jobs?status=NONE",
        "/jobs?algo_id=..",
        "/jobs/%2e%2e",
        "/admin/algorithms/%2e%2e",
        "/admin/algorithms/..%2fx",
        "/admin/algorithms/%F0%9F%98%80",
        "/admin/algorithms?cursor=%00",
        "/admin/algorithms?limit=0",
        "/admin/algorithms?limit=x",
        "/admin/algorithms/processing_1/logs?lines=0",
        "/admin/algorithms/processing_1/logs?lines=1e9",
        "/process/%2e%2e",
        "/%00",
        "//",
        "//no",
        "/algorithms?limit=0",
        "/algorithms?cursor=%00",
        "/admin/algorithms/processing_1/logs?cursor=%00",
        "/admin/algorithms/processing_1/statistics?hours=1e9",
        "/pacs/thumbnail?study_id=%00&series_id=a",
        "/pacs/thumbnail",
        "/pacs/studies/%ff/images",
        "/pacs/studies/a/images?series_id=%00",
        "/no/such/route",
    ],
)
def test_strange_addresses(api: Api, path: str) -> None:
    # As it stands: httpx would take what follows two slashes for a host.
    answer = api.http.get(api.http.base_url.copy_with(raw_path=path.encode()))
    assert 400 <= answer.status_code < 500, answer.text
    assert error_of(answer)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
        b"POST /process/x HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /process/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /process/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 1000,
    ],
    ids=range(9),
)
def test_what_is_no_http(api: Api, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", api.platform.port), timeout=10) as raw_socket:
        raw_socket.sendall(request_bytes)
        raw_socket.shutdown(socket.SHUT_WR)
        try:
            said = raw_socket.recv(65536)
        except ConnectionResetError:
            said = b""
    assert not said.startswith(b"HTTP/1.1 5"), said
    assert api.get("/health").status_code == 200


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "null",
        "[]",
        '{"type": 1}',
        '{"type": "unknown"}',
        "x" * 60_000,
        "[" * 30_000,
        b"\xff\xfe",
        b"\0" * 100,
        '{"type": "received"}',
        '{"type": "received", "job_id": ["x"]}',
    ],
    ids=range(12),
)
def test_websocket_garbage_does_not_cost_the_client_its_results(api: Api, message: str | bytes) -> None:
    client_id = f"garbage-{uuid.uuid4()}"
    with api.listen(client_id) as listening:
        listening.send(message)
        job_id = api.process("processing_1", client_id=client_id)
        assert receive(listening)[0]["job_id"] == job_id


def test_a_websocket_message_over_the_limit_closes_the_connection_and_nothing_else(api: Api) -> None:
    with api.listen("large") as listening, pytest.raises(ConnectionClosed):
        listening.send("x" * (1 << 20))
        listening.recv(timeout=10)
    api.succeeds("processing_1", client_id="large")
    with api.listen("large") as listening:
        assert receive(listening)


@pytest.mark.parametrize("query", ["", "client_id=", "client_id=%00", "client_id=a%0a", f"client_id={'x' * 200}"])
def test_a_websocket_without_a_good_client_id_is_refused_with_a_reason(api: Api, query: str) -> None:
    from websockets.exceptions import InvalidStatus

    with (
        pytest.raises(InvalidStatus) as refused,
        connect(f"{api.platform.env['WS_ENDPOINT']}?{query}", proxy=None),
    ):
        pass
    assert refused.value.response.status_code == 422
    assert b"client_id" in (refused.value.response.body or b"")
