"""A WebSocket API on the emulator whose messages are answered with the connection's id.

For tests that hand the events of a connection to our Lambdas themselves; they hold its other end.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.sync.client import ClientConnection, connect

from aws_stage import AwsStage

_ANSWER = """
def handler(event, context):
    return {"statusCode": 200, "body": event["requestContext"]["connectionId"]}
"""
_STAGE = "prod"


class Gateway:
    """The API. ``endpoint`` is where connections are posted to."""

    def __init__(self, stage: AwsStage) -> None:
        gateway = stage.boto("apigatewayv2")
        arn = add_function(stage, "who-am-i", _ANSWER)
        api = gateway.create_api(
            Name="results", ProtocolType="WEBSOCKET", RouteSelectionExpression="$request.body.type"
        )["ApiId"]
        uri = f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{arn}/invocations"
        integration = gateway.create_integration(ApiId=api, IntegrationType="AWS_PROXY", IntegrationUri=uri)
        target = f"integrations/{integration['IntegrationId']}"
        gateway.create_route(ApiId=api, RouteKey="who", Target=target)
        gateway.create_stage(ApiId=api, StageName=_STAGE)
        self.endpoint = f"{stage.account.endpoint}/_aws/execute-api/{api}/{_STAGE}"

    @contextmanager
    def connection(self) -> Iterator[tuple[ClientConnection, str]]:
        """A client's socket, and the id of its connection."""
        with connect(self.endpoint.replace("http", "ws", 1), proxy=None, open_timeout=10) as socket:
            socket.send('{"type": "who"}')
            yield socket, str(socket.recv(timeout=20))


def add_function(stage: AwsStage, name: str, code: str, **environment: str) -> str:
    """A Lambda of one file with a ``handler``; its ARN."""
    made = stage.boto("lambda").create_function(
        FunctionName=name,
        Runtime="python3.11",
        Role=f"arn:aws:iam::{stage.account.account}:role/any",
        Handler="answer.handler",
        Code={"ZipFile": _zipped("answer.py", code)},
        Environment={"Variables": environment},
    )
    return str(made["FunctionArn"])


def received(socket: ClientConnection, *, wait_s: float = 10) -> Any:
    """The next message."""
    return json.loads(socket.recv(timeout=wait_s))


def is_silent(socket: ClientConnection, *, for_s: float = 0.7) -> bool:
    """Whether nothing comes; the emulator hands out what was posted within half a second."""
    try:
        socket.recv(timeout=for_s)
    except TimeoutError:
        return True
    return False


def _zipped(name: str, text: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, text)
    return content.getvalue()
