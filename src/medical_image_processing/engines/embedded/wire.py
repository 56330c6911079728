"""The embedded engine's AWS endpoint: SQS and S3 on one port, told apart as AWS's own hosts can't be.

An SQS request names its action in ``x-amz-target``; everything else is S3.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from itertools import count

from starlette.types import ASGIApp, Receive, Scope, Send

from medical_image_processing.engines.embedded import s3_xml, sqs
from medical_image_processing.engines.embedded.authentication import Authenticator
from medical_image_processing.engines.embedded.aws_error import stated
from medical_image_processing.engines.embedded.aws_request import AwsRequest, ClientGone, Response, send_response
from medical_image_processing.engines.embedded.credentials import Credentials
from medical_image_processing.engines.embedded.objects import ObjectStore
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.s3 import S3Endpoint
from medical_image_processing.engines.embedded.sqs import SqsEndpoint


def create_aws_app(
    queues: FifoQueues,
    objects: ObjectStore,
    credentials: Credentials,
    *,
    region: str,
    account: str,
    bucket: str,
    clock: Callable[[], float] = time.time,
) -> ASGIApp:
    """An ASGI application, for workers and programs: no web page may read from it."""
    if objects.bucket != bucket:
        raise ValueError(f"the object store holds '{objects.bucket}', not '{bucket}'")
    authenticator = Authenticator(credentials, clock)
    return _AwsApp(
        SqsEndpoint(queues, authenticator, region=region, account=account),
        S3Endpoint(objects, authenticator, region=region),
    )


class _AwsApp:
    def __init__(self, sqs_endpoint: SqsEndpoint, s3_endpoint: S3Endpoint) -> None:
        self._sqs = sqs_endpoint
        self._s3 = s3_endpoint
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
            await send_response(response, request, send)

    async def _answer_sqs(self, request: AwsRequest) -> Response:
        try:
            return await self._sqs.answer(request)
        except ClientGone:
            raise
        except Exception as error:
            return sqs.error_response(stated(error))

    async def _answer_s3(self, request: AwsRequest) -> Response:
        try:
            return await self._s3.answer(request)
        except ClientGone:
            raise
        except Exception as error:
            return s3_xml.error_response(stated(error), with_body=request.method != "HEAD")
