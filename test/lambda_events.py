"""Events as AWS hands them to Lambdas (Lambda developer guide, "Working with other services")."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from medical_image_processing.engines.aws.tables import packed
from medical_image_processing.entrypoints.lambdas.runtime import Invocation, LambdaHandler, Work

T = TypeVar("T")


class Context:
    """What a handler is told of its own run."""

    def __init__(self, left_s: float = 29.0) -> None:
        self._ends_at = time.monotonic() + left_s

    def get_remaining_time_in_millis(self) -> int:
        return int((self._ends_at - time.monotonic()) * 1000)


def invoke(work: Work, event: dict[str, Any], *, left_s: float = 29.0) -> Any:
    """Run a Lambda's work on an event."""

    async def limited() -> Any:
        return await asyncio.wait_for(work(Invocation(event, time.monotonic() + left_s)), 60)

    return asyncio.run(limited())


class RestAnswer:
    """What API Gateway makes of a handler's answer."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.status: int = answer["statusCode"]
        self.headers = {**answer.get("headers", {}), **_first(answer.get("multiValueHeaders") or {})}
        self.text: str = answer["body"]

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        error = self.json["error"]
        assert set(error) <= {"code", "message", "details"} and error["message"], error
        return str(error["code"])


def call(handler: LambdaHandler, method: str, address: str, body: Any = None, **headers: str) -> RestAnswer:
    """A request through the REST API's proxy integration. A body that is text is sent as it is."""
    parts = urlsplit(address)
    query = parse_qsl(parts.query, keep_blank_values=True)
    named = {"content-type": "application/json", "host": "api.example", **headers}
    named = {name.replace("_", "-"): value for name, value in named.items()}
    event = {
        "resource": "/{proxy+}",
        "path": parts.path,
        "httpMethod": method,
        "headers": named,
        "multiValueHeaders": {name: [value] for name, value in named.items()},
        "queryStringParameters": dict(query) or None,
        "multiValueQueryStringParameters": {name: [v for n, v in query if n == name] for name, _ in query} or None,
        "requestContext": {"identity": {"sourceIp": "192.0.2.1"}, "stage": "prod", "httpMethod": method},
        "body": body if body is None or isinstance(body, str) else json.dumps(body),
        "isBase64Encoded": False,
    }
    return RestAnswer(handler(event, Context()))


def socket_event(connection_id: str, body: str | None = None) -> dict[str, Any]:
    """A message, or with no body a close."""
    event: dict[str, Any] = {"requestContext": {"connectionId": connection_id}, "isBase64Encoded": False}
    return event if body is None else {**event, "body": body}


def connect_event(connection_id: str, query: Mapping[str, str] | None = None, **headers: str) -> dict[str, Any]:
    """$connect; header names come as clients wrote them."""
    named = {"Host": "ws.example", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return {**socket_event(connection_id), "headers": named, "queryStringParameters": dict(query or {}) or None}


def queue_event(sqs: Any, queue_url: str) -> dict[str, Any]:
    """What waits on a queue, as the event source mapping hands it on. It stays on the queue."""
    records: list[dict[str, Any]] = []
    while True:
        answer = sqs.receive_message(
            QueueUrl=queue_url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"], VisibilityTimeout=30
        )
        if not (messages := answer.get("Messages")):
            return {"Records": records}
        records += [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message["Attributes"],
                "messageAttributes": {},
                "eventSource": "aws:sqs",
            }
            for message in messages
        ]


def stream_record(
    number: int, new: Mapping[str, Any] | None, old: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A change of an item, as DynamoDB's stream tells it."""
    change: dict[str, Any] = {"SequenceNumber": str(number), "StreamViewType": "NEW_AND_OLD_IMAGES"}
    for name, item in (("NewImage", new), ("OldImage", old)):
        if item is not None:
            change[name] = packed(dict(item))
    kind = "REMOVE" if new is None else "INSERT" if old is None else "MODIFY"
    return {"eventName": kind, "eventSource": "aws:dynamodb", "dynamodb": change}


def run(work: Callable[[], Any]) -> Any:
    """An asynchronous call, with a limit."""

    async def limited() -> Any:
        return await asyncio.wait_for(work(), 60)

    return asyncio.run(limited())


def _first(headers: Mapping[str, list[str]]) -> dict[str, str]:
    return {name: values[0] for name, values in headers.items()}
