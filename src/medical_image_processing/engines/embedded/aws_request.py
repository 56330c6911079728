"""An HTTP request and its answer, as the SQS and S3 endpoints see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import unquote

from starlette.types import Receive, Scope, Send

from medical_image_processing.engines.embedded.aws_error import AwsError
from medical_image_processing.engines.embedded.sigv4 import Query, Request


class ClientGone(Exception):
    """The connection was closed before the request was complete; there is nobody to answer."""


class AwsRequest:
    """One request. ``headers`` have names in lower case; repeated ones are joined by commas."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.method: str = scope["method"]
        self.receive = receive
        self._scope = scope
        self._body_begun = False
        self.headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1"), raw_value.decode("utf-8", "replace")
            self.headers[name] = f"{self.headers[name]},{value}" if name in self.headers else value

    @cached_property
    def raw_path(self) -> str:
        """The path as it was sent, percent-encoded."""
        return (self._scope.get("raw_path") or b"/").partition(b"?")[0].decode("latin-1")

    @cached_property
    def query(self) -> Query:
        """Decoded names and values in order."""
        text = self._scope["query_string"].decode("latin-1")
        parts = (part.partition("=") for part in text.split("&") if part)
        return [(unquote(name), unquote(value)) for name, _, value in parts]

    @cached_property
    def parameters(self) -> dict[str, str]:
        """The query without order; the last of a repeated name."""
        return dict(self.query)

    @property
    def base_url(self) -> str:
        """Scheme and host by which the caller has reached us."""
        return f"{self._scope['scheme']}://{self.headers.get('host', 'localhost')}"

    @property
    def leaves_body_unsent(self) -> bool:
        """Whether the client waits for ``100 Continue`` and, answered without, may keep its body.

        What comes next on the connection is then the body, or not; it has to be closed (RFC 9110, 10.1.1).
        """
        return not self._body_begun and "expect" in self.headers

    @property
    def signed(self) -> Request:
        """What a signature covers."""
        return Request(self.method, self.raw_path, self.query, self.headers)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives. ClientGone."""
        more = self._body_begun = True
        while more:
            message: Any = await self.receive()
            if message["type"] != "http.request":
                raise ClientGone
            more = message.get("more_body", False)
            if body := message.get("body"):
                yield body

    async def until_gone(self) -> None:
        """Return once the connection is closed; only when nobody reads the body any more."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def body(self, *, max_bytes: int) -> bytes:
        """The whole body. AwsError ``EntityTooLarge``; ClientGone."""
        received: list[bytes] = []
        size = 0
        async for piece in self.pieces():
            size += len(piece)
            if size > max_bytes:
                raise AwsError(
                    "EntityTooLarge", f"the body of this request has at most {max_bytes} bytes", status=413
                )
            received.append(piece)
        return received[0] if len(received) == 1 else b"".join(received)


@dataclass
class Response:
    """An answer. ``stream``, when given, follows ``body``, and ``content-length`` is among the headers then."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: AsyncGenerator[bytes, None] | None = None


async def send_response(response: Response, request: AwsRequest, send: Send) -> None:
    """The answer to ``request`` as ASGI's messages; of a stream no more than somebody waits for."""
    headers = [(name.encode(), value.encode()) for name, value in response.headers.items()]
    if response.status not in (204, 304) and "content-length" not in response.headers:
        headers.append((b"content-length", b"%d" % len(response.body)))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if response.stream is not None:
        await _send_stream(response.stream, request, send)
    await send({"type": "http.response.body", "body": response.body})


async def _send_stream(stream: AsyncGenerator[bytes, None], request: AwsRequest, send: Send) -> None:
    # A server takes what it can't send any more without a word, so the file would be read to its end for nobody.
    gone = asyncio.create_task(request.until_gone())
    try:
        async with aclosing(stream):
            async for block in stream:
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": block, "more_body": True})
    finally:
        gone.cancel()
