"""An HTTP proxy on loopback between the SDK and an emulator of AWS, which answers as a bad day there would.

The SDK numbers the tries of a call, so a fault can befall a first try and spare the next.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FORWARD_S = 30.0
_TRY = re.compile(r"attempt=(\d+)")
_SCOPE = re.compile(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/aws4_request")
_ACTION = re.compile(rb"Action=(\w+)")
_HOP = frozenset({"connection", "transfer-encoding", "keep-alive", "content-length"})


@dataclass(frozen=True)
class Call:
    """One try of one call."""

    operation: str
    """``DynamoDB.PutItem``, ``IAM.CreateRole``; of S3 and others that speak REST the method alone: ``S3.GET``."""
    number: int
    body: bytes

    @property
    def service(self) -> str:
        """Before the point."""
        return self.operation.partition(".")[0]

    @property
    def given(self) -> Any:
        """What was asked for, of the services that speak JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What comes back."""

    status: int
    body: bytes = b""
    kind: str = "application/x-amz-json-1.0"

    @property
    def given(self) -> Any:
        """Its JSON."""
        return json.loads(self.body)


class Trouble(Enum):
    """What happens to a connection."""

    CUT = "before anything is done"
    ANSWER_LOST = "after all is done"
    SILENCE = "no answer comes, and the connection stays"


Fault = Callable[[Call], Answer | Trouble | None]
"""What befalls a call; None lets it through."""

UNAVAILABLE = Answer(503, b"Service Unavailable", "text/plain")
_IAM_UNAVAILABLE = Answer(
    503, b"<ErrorResponse><Error><Code>ServiceUnavailable</Code></Error></ErrorResponse>", "text/xml"
)
_THROTTLING = {
    "DynamoDB": Answer(
        400, b'{"__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"}'
    ),
    "SQS": Answer(403, b'{"__type": "com.amazonaws.sqs#RequestThrottled"}'),
    "S3": Answer(503, b"<Error><Code>SlowDown</Code></Error>", "application/xml"),
    "IAM": Answer(
        400,
        b"<ErrorResponse><Error><Code>Throttling</Code></Error></ErrorResponse>",
        "text/xml",
    ),
    "Lambda": Answer(429, b'{"__type": "TooManyRequestsException"}', "application/json"),
    "API Gateway": Answer(429, b'{"__type": "LimitExceededException"}', "application/json"),
}
_OTHERS_THROTTLING = Answer(400, b'{"__type": "ThrottlingException"}')
_SERVICES = {
    "dynamodb": "DynamoDB",
    "sqs": "SQS",
    "s3": "S3",
    "ecs": "ECS",
    "iam": "IAM",
    "ssm": "SSM",
    "logs": "CloudWatch Logs",
    "execute-api": "API Gateway",
    "secretsmanager": "Secrets Manager",
    "ecr": "ECR",
    "lambda": "Lambda",
}


def throttling(call: Call) -> Answer:
    """What the call's service says when it is asked too much."""
    return _THROTTLING.get(call.service, _OTHERS_THROTTLING)


def unavailable(call: Call) -> Answer:
    """What the call's service says when it is in trouble."""
    return _IAM_UNAVAILABLE if call.service == "IAM" else UNAVAILABLE


def first_tries(fault: Fault) -> Fault:
    """``fault``, for the first try of each call."""
    return lambda call: fault(call) if call.number == 1 else None


class FaultProxy:
    """``endpoint`` stands before the emulator. ``fault`` may change at any time; ``answered`` sees all else."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.fault: Fault = lambda _: None
        self.answered: Callable[[Call, Answer], None] = lambda *_: None


@contextmanager
def fault_proxy(port: int) -> Iterator[FaultProxy]:
    """A proxy before what listens on ``port``."""

    class Handler(_Handler):
        target_port = port

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Handler.proxy = FaultProxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield Handler.proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy
    target_port: int

    def handle_any(self) -> None:
        call = self._read()
        match self.proxy.fault(call):
            case Answer() as answer:
                self._write(answer, {})
            case Trouble.CUT:
                self._cut()
            case Trouble.ANSWER_LOST:
                self._forward(call)
                self._cut()
            case Trouble.SILENCE:
                self.connection.settimeout(FORWARD_S)
                self.rfile.read(1)  # until the caller gives up
                self.close_connection = True
            case None:
                answer, headers = self._forward(call)
                self.proxy.answered(call, answer)
                self._write(answer, headers)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any

    def log_message(self, *_: object) -> None:
        pass

    def _read(self) -> Call:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = self.headers.get("X-Amz-Target")
        signed = _SCOPE.search(self.headers.get("Authorization", ""))  # a link has its signature in its address
        service = _SERVICES[signed[1]] if signed else "S3"
        if target is not None:
            name = target.partition(".")[2]
        else:
            action = _ACTION.match(body) if service == "IAM" else None
            name = action[1].decode() if action else self.command
        operation = f"{service}.{name}"
        tried = _TRY.search(self.headers.get("amz-sdk-request", ""))
        return Call(operation, int(tried[1]) if tried else 1, body)

    def _forward(self, call: Call) -> tuple[Answer, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.target_port, timeout=FORWARD_S)
        try:
            connection.request(self.command, self.path, call.body, dict(self.headers.items()))
            response = connection.getresponse()
            headers = {name.lower(): text for name, text in response.getheaders() if name.lower() not in _HOP}
            return Answer(response.status, response.read(), headers.pop("content-type", "text/plain")), headers
        finally:
            connection.close()

    def _write(self, answer: Answer, headers: dict[str, str]) -> None:
        self.send_response(answer.status)
        length = str(len(answer.body))
        for name, text in {**headers, "Content-Type": answer.kind, "Content-Length": length}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
