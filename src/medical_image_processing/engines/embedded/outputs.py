"""Results on their way to clients: signed URLs (ports.outputs), and what answers them beside the API.

A URL is S3's presigned GET, path style, of the address that its client has for the API. So clients need no other
port, and what fetched results of the earlier system fetches these.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable

from starlette.types import Receive, Scope, Send

from medical_image_processing.engines.embedded import s3_xml
from medical_image_processing.engines.embedded.authentication import Authenticator
from medical_image_processing.engines.embedded.aws_error import AwsError, stated
from medical_image_processing.engines.embedded.aws_request import AwsRequest, ClientGone, Response, send_response
from medical_image_processing.engines.embedded.credentials import Credential, Credentials
from medical_image_processing.engines.embedded.objects import ObjectStore
from medical_image_processing.engines.embedded.s3 import S3Endpoint
from medical_image_processing.engines.embedded.sigv4 import presign_get

LIFETIME_S = 3600
_READING = ("GET", "HEAD")
_EXPOSED = "ETag, Content-Length, Content-Range, Content-Type"
_DICOM = "application/dicom"
_NO_PAGE = {
    "content-security-policy": "default-src 'none'; sandbox",
    "content-disposition": "attachment",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
"""A result comes from the origin of the web client, and what it is its algorithm has said: a browser may neither
show it as a page, nor run it, nor keep it."""


class SignedOutputs:
    """Implements :class:`ports.outputs.Outputs` with Signature V4 query signing."""

    def __init__(self, signer: Credential, *, region: str) -> None:
        self._signer = signer
        self._region = region

    def sign(self, bucket: str, key: str, *, base_url: str) -> str:
        """A URL that opens one object for an hour; :class:`ResultLinks` answers it at ``base_url``."""
        return presign_get(
            access_key_id=self._signer.access_key_id,
            secret_access_key=self._signer.secret_access_key,
            base_url=base_url,
            bucket=bucket,
            key=key,
            region=self._region,
            expires_s=LIFETIME_S,
            now=time.time(),
        )


class ResultLinks:
    """ASGI, below ``/{bucket}/``: the objects that presigned URLs name, to read, and nothing else of S3.

    Pages of ``allow_origins`` may read them; ``*`` is any.
    """

    def __init__(
        self,
        objects: ObjectStore,
        credentials: Credentials,
        *,
        region: str,
        allow_origins: Iterable[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._s3 = S3Endpoint(objects, Authenticator(credentials, clock), region=region)
        self._origins = frozenset(allow_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        # A proxy's own way to let people in may leave its header, and some add x-amz- ones, which S3 wants signed;
        # the signature in the URL is what counts, and it is over the host alone.
        headers = [one for one in scope["headers"] if not one[0].startswith((b"authorization", b"x-amz-"))]
        request = AwsRequest({**scope, "headers": headers}, receive)
        with contextlib.suppress(ClientGone):
            response = await self._answer(request)
            if request.leaves_body_unsent:
                response.headers["connection"] = "close"
            await send_response(response, request, send)

    async def _answer(self, request: AwsRequest) -> Response:
        origin = request.headers.get("origin")
        if request.method == "OPTIONS":
            return self._preflight(request, origin)
        try:
            response = await self._read(request)
        except ClientGone:
            raise
        except Exception as error:
            response = s3_xml.error_response(stated(error), with_body=request.method != "HEAD")
            if response.status == 405:
                response.headers["allow"] = ", ".join((*_READING, "OPTIONS"))  # RFC 9110, section 15.5.6
        response.headers.update(_NO_PAGE | self._cors(origin))
        return response

    async def _read(self, request: AwsRequest) -> Response:
        _, _, key = request.raw_path.removeprefix("/").partition("/")
        if request.method not in _READING or not key:
            raise AwsError("MethodNotAllowed", "results are read here, with GET and HEAD", status=405)
        response = await self._s3.answer(request)
        if response.headers.get("content-type", _DICOM) != _DICOM:
            response.headers["content-type"] = "application/octet-stream"
        return response

    def _preflight(self, request: AwsRequest, origin: str | None) -> Response:
        allowed = self._cors(origin)
        if "access-control-allow-origin" not in allowed:
            error = AwsError("AccessForbidden", "CORSResponse: This CORS request is not allowed.", status=403)
            return s3_xml.error_response(error, with_body=True)
        asked = request.headers.get("access-control-request-headers", "")
        return Response(
            headers={
                **allowed,
                "access-control-allow-methods": ", ".join(_READING),
                "access-control-max-age": "3600",
                **({"access-control-allow-headers": asked} if asked else {}),
            }
        )

    def _cors(self, origin: str | None) -> dict[str, str]:
        if origin is None or not {origin, "*"} & self._origins:
            return {"vary": "Origin"}
        return {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": _EXPOSED,
            "vary": "Origin",
        }
