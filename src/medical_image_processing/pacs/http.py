"""The little of HTTP that the PACS API needs, over ASGI."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote

from starlette.types import Receive, Scope, Send

from medical_image_processing.errors import (
    Conflict,
    Forbidden,
    InputRejected,
    InvalidRequest,
    MipError,
    NotFound,
    PermanentError,
    TransientError,
    Unauthorized,
)

Headers = Sequence[tuple[bytes, bytes]]
T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")
_BASE = re.compile(r"https?://[A-Za-z0-9._:\[\]-]{1,255}(/[A-Za-z0-9._~-]{1,64}){0,8}")
STATUS: tuple[tuple[type[MipError], int], ...] = (
    (InvalidRequest, 422),
    (InputRejected, 422),
    (Unauthorized, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (TransientError, 503),
    (PermanentError, 424),
)
"""What is answered to each kind of failure, 500 to any other. 424, Failed Dependency (RFC 4918, section 11.4), is
that of what stands behind: as any 4xx it says that asking again changes nothing (law J5)."""
_PREFLIGHT: Headers = (
    (b"access-control-allow-methods", b"GET, HEAD, POST"),
    (b"access-control-allow-headers", b"x-api-key, x-job-id, range, cache-control, content-type"),
    (b"access-control-max-age", b"600"),
)
_ALWAYS: Headers = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


class Request:
    """What was asked, below the place where the application is mounted."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._root_path: str = scope.get("root_path", "")
        self.method: str = scope["method"]
        self.path: str = scope["path"].removeprefix(self._root_path)
        self._headers = dict(scope["headers"])
        self._query: dict[str, list[str]] | None = None

    def header(self, name: bytes) -> str | None:
        """The header's value; ``name`` in lower case."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    def query(self, name: str) -> str | None:
        """The query parameter; None when it is missing or empty. Raises InvalidRequest ``INVALID_QUERY``."""
        if self._query is None:
            try:
                self._query = parse_qs(self._scope["query_string"].decode("latin-1"), max_num_fields=20)
            except ValueError as error:
                raise InvalidRequest("INVALID_QUERY", "the query has too many parameters") from error
        values = self._query.get(name)
        return values[-1] if values else None

    def base_url(self) -> str:
        """The address under which the caller reached the application; a gateway before it says it in X-Pacs-Base.

        Raises InvalidRequest ``INVALID_HOST`` for a Host header that is no host.
        """
        if (said := self.header(b"x-pacs-base")) is not None and _BASE.fullmatch(said):
            return said
        host = self.header(b"host") or ":".join(str(part) for part in self._scope.get("server") or ())
        if not _HOST.fullmatch(host):
            raise InvalidRequest("INVALID_HOST", "the Host header is missing or malformed")
        return f"{self._scope.get('scheme', 'http')}://{host}{quote(self._root_path)}"


@dataclass(frozen=True)
class Answer:
    """A response that fits in memory."""

    status: int
    body: bytes
    headers: Headers = ()
    media_type: bytes = b"application/json"


def json_answer(value: Any, headers: Headers = ()) -> Answer:
    """200 with ``value`` as JSON."""
    return Answer(200, json.dumps(value, separators=(",", ":")).encode(), headers)


def error_answer(status: int, code: str, message: str, headers: Headers = ()) -> Answer:
    """An error in the shape of CONTRACT.md."""
    return Answer(status, json.dumps({"error": {"code": code, "message": message}}).encode(), headers)


def failure_answer(error: MipError) -> Answer:
    """The answer that states ``error``."""
    status = next((status for kind, status in STATUS if isinstance(error, kind)), 500)
    retry: Headers = ()
    if isinstance(error, TransientError):
        retry = ((b"retry-after", b"%d" % max(1, round(error.retry_after_s))),)
    return error_answer(status, error.code, error.message, retry)


async def send_start(send: Send, status: int, length: int | None, media_type: bytes, headers: Headers) -> None:
    """Begin a response whose body is ``length`` bytes; None where that isn't known yet."""
    size: Headers = () if length is None else ((b"content-length", b"%d" % length),)
    own = ((b"content-type", media_type), *size)
    said = {name for name, _ in headers}
    always = [one for one in _ALWAYS if one[0] not in said]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *always, *headers]})


async def send_answer(send: Send, answer: Answer, headers: Headers = ()) -> None:
    """Send a whole response; ``headers`` are added to its own."""
    both = (*answer.headers, *headers)
    await send_start(send, answer.status, len(answer.body), answer.media_type, both)
    await send({"type": "http.response.body", "body": answer.body})


def not_get(request: Request, cors: Headers) -> Answer:
    """What is answered to everything else: a preflight's leave where ``cors`` allows it, or 405."""
    if request.method == "OPTIONS" and cors and request.header(b"access-control-request-method"):
        return Answer(200, b"", _PREFLIGHT)
    return not_allowed("the PACS API is read with GET", b"GET, HEAD")


def not_allowed(why: str, methods: bytes) -> Answer:
    """405, with the methods that are."""
    return error_answer(405, "METHOD_NOT_ALLOWED", why, ((b"allow", methods),))


async def read_body(receive: Receive, most_bytes: int) -> bytes:
    """The request's body. Raises InvalidRequest ``INVALID_QUERY`` where it is longer, or breaks off."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest("INVALID_QUERY", "the body broke off")
        body += message.get("body", b"")
        if len(body) > most_bytes:
            raise InvalidRequest("INVALID_QUERY", f"the body is over {most_bytes} bytes")
        if not message.get("more_body"):
            return bytes(body)


async def send_chunks(send: Send, chunks: AsyncGenerator[bytes, None]) -> None:
    """Send the chunks. A failure leaves the response short: the client sees it."""
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except MipError as error:
        _LOG.warning("a download was broken off: %s", error.code)


async def while_read(items: AsyncGenerator[T, None], receive: Receive) -> AsyncGenerator[T, None]:
    """The items as long as somebody waits for them, be it for one that is still being made."""
    gone = asyncio.create_task(_until_gone(receive))
    try:
        while True:
            step = asyncio.ensure_future(anext(items, None))
            try:
                await asyncio.wait((step, gone), return_when=asyncio.FIRST_COMPLETED)
                if not step.done() or (item := step.result()) is None:
                    return
            finally:
                if not step.done():
                    step.cancel()
                    await asyncio.gather(step, return_exceptions=True)
            yield item
    finally:
        gone.cancel()
        await items.aclose()


async def unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T | None:
    """What ``work`` returns; None once nobody waits for it any more, and it is ended."""
    gone, step = asyncio.create_task(_until_gone(receive)), asyncio.create_task(work)
    try:
        await asyncio.wait((step, gone), return_when=asyncio.FIRST_COMPLETED)
        return step.result() if step.done() else None
    finally:
        for task in (gone, step):
            task.cancel()
        await asyncio.gather(gone, step, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
