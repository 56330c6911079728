"""The embedded engine's AWS endpoint: SQS and S3 on one port, told apart as AWS's own hosts can't be.

An SQS request names its action in ``x-amz-target``; everything else is S3.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from itertools import count
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from medical_image_processing.engines.embedded import s3_xml, sqs
from medical_image_processing.engines.embedded.authentication import Authenticator
from medical_image_processing.engines.embedded.aws_error import AwsError
from medical_image_processing.engines.embedded.aws_request import AwsRequest, ClientGone, Response
from medical_image_processing.engines.embedded.credentials import Credentials
from medical_image_processing.engines.embedded.objects import ObjectStore
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.s3 import S3Endpoint
from medical_image_processing.engines.embedded.sqs import SqsEndpoint
from medical_image_processing.errors import TransientError, without_text

_LOG = logging.getLogger(__name__)
_EXPOSED = "ETag, Content-Length, Content-Range, Content-Type"


def create_aws_app(
    queues: FifoQueues,
    objects: ObjectStore,
    credentials: Credentials,
    *,
    region: str,
    account: str,
    bucket: str,
    allow_origins: Sequence[str] = (),
    page_port: int | None = None,
    clock: Callable[[], float] = time.time,
) -> ASGIApp:
    """An ASGI application. ``allow_origins`` may read objects from a browser; ``*`` is any.

    ``page_port`` is where this host serves pages of its own, which may, too.
    """
    if objects.bucket != bucket:
        raise ValueError(f"the object store holds '{objects.bucket}', not '{bucket}'")
    authenticator = Authenticator(credentials, clock)
    return _AwsApp(
        SqsEndpoint(queues, authenticator, region=region, account=account),
        S3Endpoint(objects, authenticator, region=region),
        frozenset(allow_origins),
        page_port,
    )


class _AwsApp:
    def __init__(
        self,
        sqs_endpoint: SqsEndpoint,
        s3_endpoint: S3Endpoint,
        origins: frozenset[str],
        page_port: int | None,
    ) -> None:
        self._sqs = sqs_endpoint
        self._s3 = s3_endpoint
        self._origins = origins
        self._page_port = page_port
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            return
        request = AwsRequest(scope, receive)
        request_id = f"{next(self._numbers):016X}"
        with contextlib.suppress(ClientGone):
            if "x-amz-target" in request.headers:
                response = await self._answer_sqs(request)
                response.headers["x-amzn-requestid"] = request_id
            else:
                response = await self._answer_s3(request)
                response.headers["x-amz-request-id"] = request_id
            if request.leaves_body_unsent:
                response.headers["connection"] = "close"
            await _send(response, send)

    async def _answer_sqs(self, request: AwsRequest) -> Response:
        try:
            return await self._sqs.answer(request)
        except Exception as error:
            return sqs.error_response(_stated(error))

    async def _answer_s3(self, request: AwsRequest) -> Response:
        origin = request.headers.get("origin")
        if request.method == "OPTIONS":
            return self._preflight(request, origin)
        try:
            response = await self._s3.answer(request)
        except Exception as error:
            response = s3_xml.error_response(_stated(error), with_body=request.method != "HEAD")
        if origin is not None and request.method in ("GET", "HEAD"):
            response.headers.update(self._cors(request, origin))
        return response

    def _preflight(self, request: AwsRequest, origin: str | None) -> Response:
        allowed = self._cors(request, origin) if origin is not None else {}
        if "access-control-allow-origin" not in allowed:
            error = AwsError("AccessForbidden", "CORSResponse: This CORS request is not allowed.", status=403)
            return s3_xml.error_response(error, with_body=True)
        asked = request.headers.get("access-control-request-headers", "")
        return Response(
            headers={
                **allowed,
                "access-control-allow-methods": "GET, HEAD",
                "access-control-max-age": "3600",
                **({"access-control-allow-headers": asked} if asked else {}),
            }
        )

    def _cors(self, request: AwsRequest, origin: str) -> dict[str, str]:
        if not {origin, "*"} & self._origins and not self._is_own_page(request, origin):
            return {"vary": "Origin"}
        return {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": _EXPOSED,
            "vary": "Origin",
        }

    def _is_own_page(self, request: AwsRequest, origin: str) -> bool:
        """Whether the origin is this host, as the browser calls it, at the port of its pages."""
        if self._page_port is None:
            return False
        try:
            host = urlsplit(f"//{request.headers.get('host', '')}").hostname
        except ValueError:
            return False
        port = "" if self._page_port == 80 else f":{self._page_port}"  # HTTP's own is left out of an origin
        return host is not None and origin == f"http://{_in_brackets(host)}{port}"


def _in_brackets(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _stated(error: Exception) -> AwsError:
    """Any failure in AWS's words; one that nobody foresaw is logged with its place, without its text (law A3)."""
    if isinstance(error, ClientGone):
        raise error
    if isinstance(error, AwsError):
        return error
    if isinstance(error, TransientError):
        return AwsError("ServiceUnavailable", error.message, status=503)
    _LOG.error("an AWS request failed with %s", type(error).__name__, exc_info=without_text(error))
    return AwsError("InternalError", "We encountered an internal error. Please try again.", status=500)


async def _send(response: Response, send: Send) -> None:
    headers = [(name.encode(), value.encode()) for name, value in response.headers.items()]
    if response.status not in (204, 304) and "content-length" not in response.headers:
        headers.append((b"content-length", b"%d" % len(response.body)))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if response.stream is not None:
        async for block in response.stream:
            await send({"type": "http.response.body", "body": block, "more_body": True})
    await send({"type": "http.response.body", "body": response.body})
