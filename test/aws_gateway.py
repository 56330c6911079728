"""What the emulator's API Gateway leaves out, in front of it: the HTTP proxy integration of the PACS API.

The emulator drops the headers of such an integration's answers, maps none into its requests, and converts no
content. Here that is done as the Amazon API Gateway developer guide says, with the deployed API's own settings:
"Set up HTTP proxy integrations in API Gateway" (headers, query and body pass through both ways), "API Gateway
mapping template and … data mapping" (``integration.request.header.…``), and "Content type conversions in API
Gateway" (what is binary passes only where the first type of ``Accept`` is binary, too; else it is Base64 text, and
what has another type is taken for UTF-8). All other requests go on to the emulator as they came.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aws_stack import AwsStack

STAGE = "prod"
HOST = "execute-api.localhost"
"""Browsers take every name below ``localhost`` for this machine; the emulator, this one for an API's."""
MOST_BYTES = 10 * 2**20
"""Amazon API Gateway developer guide, "Quotas for configuring and running a REST API": payload size."""
WAIT_S = 29.0
"""The same: integration timeout."""
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]
_HOPS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "date"})
ANYBODY = {"access-control-allow-origin": "*"}
"""As the template's gateway responses have it."""
_ERROR = b'{"error": {"code": "INTEGRATION_FAILURE", "message": "Internal server error"}}'


@dataclass(frozen=True)
class PacsIntegration:
    """How the deployed API forwards what lies below ``/pacs``."""

    uri: str
    headers: Mapping[str, str]
    methods: frozenset[str]
    binary: frozenset[str]


def converted(body: bytes, media_type: str, accept: str, binary: frozenset[str]) -> bytes | None:
    """The answer's body as a client gets it; None where it can't be made."""
    wants_binary = accept.partition(",")[0].partition(";")[0].strip().lower() in binary
    if media_type.partition(";")[0].strip().lower() in binary:
        return body if wants_binary else base64.b64encode(body)
    if wants_binary:
        try:
            return base64.b64decode(body, validate=True)
        except binascii.Error:
            return None
    return body.decode("utf-8", "replace").encode()


@dataclass
class Gateway:
    """The REST API's address for browsers, and what was asked of the PACS API through it."""

    port: int
    api_id: str
    integration: PacsIntegration
    emulator: str
    asked: list[str] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """Its origin."""
        return f"http://{self.api_id}.{HOST}:{self.port}"

    @property
    def base(self) -> str:
        """What goes into REACT_APP_API_BASE."""
        return f"{self.origin}/{STAGE}"

    def app(self) -> Starlette:
        """As an ASGI application."""
        return Starlette(routes=[Route("/{path:path}", self._answer, methods=_METHODS)])

    async def _answer(self, request: Request) -> Response:
        below = f"/{STAGE}/pacs/"
        path = request.scope["raw_path"].decode()
        if path.startswith(below) and request.method in self.integration.methods:
            return await self._forward(request, path.removeprefix(below))
        return await self._pass_on(request, path)

    async def _forward(self, request: Request, proxy: str) -> Response:
        self.asked.append(f"{request.method} /{proxy}")
        url = self.integration.uri.replace("{proxy}", proxy)
        headers = _passed(request.headers) | dict(self.integration.headers)
        try:
            answer = await _send(request, url, headers)
        except httpx.HTTPError:
            return Response(_ERROR, 504, ANYBODY, media_type="application/json")
        media_type, accept = answer.headers.get("content-type", ""), request.headers.get("accept", "")
        body = converted(answer.content, media_type, accept, self.integration.binary)
        if body is None or len(answer.content) > MOST_BYTES:
            return Response(_ERROR, 500, ANYBODY, media_type="application/json")
        return Response(body, answer.status_code, _passed(answer.headers))

    async def _pass_on(self, request: Request, path: str) -> Response:
        host = f"{self.api_id}.{HOST}:{self.emulator.rpartition(':')[2]}"
        try:
            answer = await _send(request, f"{self.emulator}{path}", {**dict(request.headers), "host": host})
        except httpx.HTTPError:
            return Response(_ERROR, 504, ANYBODY, media_type="application/json")
        return Response(answer.content, answer.status_code, _passed(answer.headers))


def deployed_integration(stack: AwsStack) -> PacsIntegration:
    """What the template made of the routes below ``/pacs``."""
    emulator = stack.emulator
    boto = emulator.session().client("apigateway", endpoint_url=emulator.endpoint)
    api_id = stack.rest_api_id
    resources = boto.get_resources(restApiId=api_id, limit=500)["items"]
    [found] = [one for one in resources if one["path"] == "/pacs/{proxy+}"]
    methods = frozenset(found["resourceMethods"]) - {"OPTIONS"}
    made = [
        boto.get_integration(restApiId=api_id, resourceId=found["id"], httpMethod=method) for method in methods
    ]
    assert all((one["type"], one["uri"]) == ("HTTP_PROXY", made[0]["uri"]) for one in made)
    mapped = {
        name.rpartition(".")[2]: text.strip("'")
        for name, text in made[0]["requestParameters"].items()
        if name.startswith("integration.request.header.")
    }
    binary = frozenset(boto.get_rest_api(restApiId=api_id).get("binaryMediaTypes", ()))
    return PacsIntegration(made[0]["uri"], mapped, methods, binary)


@contextmanager
def running_gateway(stack: AwsStack) -> Iterator[Gateway]:
    """In a thread."""
    gateway = Gateway(0, stack.rest_api_id, deployed_integration(stack), stack.emulator.endpoint)
    config = uvicorn.Config(
        gateway.app(),
        host="127.0.0.1",
        port=0,
        lifespan="off",
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    with config.bind_socket() as listening:
        gateway.port = listening.getsockname()[1]
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            yield gateway
        finally:
            server.should_exit = True
            thread.join()


async def _send(request: Request, url: str, headers: dict[str, str]) -> httpx.Response:
    query = request.url.query
    async with httpx.AsyncClient(timeout=WAIT_S, trust_env=False) as client:
        return await client.request(
            request.method, f"{url}?{query}" if query else url, headers=headers, content=await request.body()
        )


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in headers.items() if name.lower() not in _HOPS | {"host"}}
