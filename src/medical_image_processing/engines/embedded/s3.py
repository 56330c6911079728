"""The S3 endpoint: path style, one bucket, the operations of CONTRACT.md.

Source: Amazon S3 API reference. Server-side encryption, storage class, ACL and tagging headers are accepted and
have no effect; copy sources and conditions on writes are refused, because ignoring them would lose data.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote

from medical_image_processing.byte_ranges import RangeNotSatisfiable, Span, asked_span
from medical_image_processing.engines.embedded import s3_xml
from medical_image_processing.engines.embedded.authentication import Authenticator, Caller
from medical_image_processing.engines.embedded.aws_error import AwsError
from medical_image_processing.engines.embedded.aws_request import AwsRequest, Response
from medical_image_processing.engines.embedded.multipart import MAX_PARTS, MultipartUploads
from medical_image_processing.engines.embedded.object_keys import check_key
from medical_image_processing.engines.embedded.object_listing import list_objects
from medical_image_processing.engines.embedded.objects import ObjectStore, Stored, Upload
from medical_image_processing.engines.embedded.payload import Payload, payload_hash

T = TypeVar("T")

_THREADS = 4
_BLOCK = 1024 * 1024
_MAX_XML = 4 * 1024 * 1024
_MAX_KEYS = 1000
_STORED_HEADERS = frozenset(
    {
        "content-type",
        "content-encoding",
        "content-disposition",
        "content-language",
        "cache-control",
        "expires",
    }
)
_IGNORED_PARAMETERS = frozenset({"x-id"})
_UNSUPPORTED_ON_WRITE = ("x-amz-copy-source", "if-match", "if-none-match", "x-amz-write-offset-bytes")


class S3Endpoint:
    """Answers S3 requests from an :class:`ObjectStore`."""

    def __init__(self, store: ObjectStore, authenticator: Authenticator, *, region: str) -> None:
        self._store = store
        self._multipart = MultipartUploads(store)
        self._authenticator = authenticator
        self._region = region
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="s3")
        self._operations: dict[tuple[str, bool, str], Callable[[AwsRequest, Caller, str], Any]] = {
            # method, has a key, the parameter that tells operations apart
            ("PUT", True, ""): self._put_object,
            ("GET", True, ""): self._get_object,
            ("HEAD", True, ""): self._get_object,
            ("DELETE", True, ""): self._delete_object,
            ("POST", True, "uploads"): self._create_multipart_upload,
            ("PUT", True, "uploadId"): self._upload_part,
            ("POST", True, "uploadId"): self._complete_multipart_upload,
            ("DELETE", True, "uploadId"): self._abort_multipart_upload,
            ("GET", False, "list-type"): self._list_objects,
            ("HEAD", False, ""): self._head_bucket,
            ("GET", False, "location"): self._get_bucket_location,
        }

    async def answer(self, request: AwsRequest) -> Response:
        """The answer to one request. AwsError."""
        caller = self._authenticator.authenticate(
            request, "s3", lambda signature: payload_hash(request.headers, signature)
        )
        bucket, key = _split_path(request.raw_path)
        selector = _selector(request)
        operation = self._operations.get((request.method, bool(key), selector))
        if operation is None or not bucket:
            raise AwsError(
                "NotImplemented", "the platform's S3 endpoint does not offer this operation", status=501
            )
        if bucket != self._store.bucket:
            caller.require("s3:ListAllMyBuckets", "")
            raise AwsError("NoSuchBucket", "The specified bucket does not exist", status=404)
        response: Response = await operation(request, caller, key)
        return response

    async def _put_object(self, request: AwsRequest, caller: Caller, key: str) -> Response:
        caller.require("s3:PutObject", key)
        check_key(key)
        _refuse_unsupported(request.headers)
        headers = _headers_to_store(request.headers)
        stored = await self._receive(request, caller, lambda upload: upload.commit(key, headers))
        return Response(headers={"etag": stored.etag})

    async def _receive(self, request: AwsRequest, caller: Caller, finish: Callable[[Upload], T]) -> T:
        """Write the body to a new upload, check it, and ``finish`` the upload in the same thread call."""
        limit = self._store.max_object_bytes
        payload = Payload(request.headers, caller.signature, caller.signing_key, max_bytes=limit)
        upload = self._store.begin()
        pieces: list[bytes] = []
        size = 0

        def write_last(pieces: list[bytes]) -> T:
            content = payload.feed(pieces)
            payload.finish()
            upload.write(content)
            return finish(upload)

        try:
            async for piece in request.pieces():
                pieces.append(piece)
                size += len(piece)
                if size >= _BLOCK:
                    await self._in_thread(lambda block: upload.write(payload.feed(block)), pieces)
                    pieces, size = [], 0
            return await self._in_thread(write_last, pieces)
        except BaseException:
            self._threads.submit(upload.abort)
            raise

    async def _get_object(self, request: AwsRequest, caller: Caller, key: str) -> Response:
        caller.require("s3:GetObject", key)
        response, rest = await self._in_thread(self._read, request, key)
        if rest is not None:
            response.stream = self._blocks(*rest)
        return response

    def _read(self, request: AwsRequest, key: str) -> tuple[Response, tuple[BinaryIO, Span] | None]:
        """The answer, with a small object in it; for a large one the file, and what of it follows."""
        opened = self._store.open(key)
        if opened is None:
            raise AwsError("NoSuchKey", "The specified key does not exist.", status=404)
        file, stored, headers = opened
        response, span = _describe(request, stored, headers)
        if request.method == "HEAD" or response.status == 304:
            file.close()
        elif span.length <= _BLOCK:
            with file:
                response.body = os.pread(file.fileno(), span.length, span.start)
        else:
            return response, (file, span)
        return response, None

    async def _blocks(self, file: BinaryIO, span: Span) -> AsyncGenerator[bytes, None]:
        with file:
            start = span.start
            while start < span.end:
                block = await self._in_thread(os.pread, file.fileno(), min(_BLOCK, span.end - start), start)
                if not block:
                    return  # somebody truncated the file by hand; the client sees a short body
                start += len(block)
                yield block

    async def _delete_object(self, request: AwsRequest, caller: Caller, key: str) -> Response:
        caller.require("s3:DeleteObject", key)
        await self._in_thread(self._store.delete, key)
        return Response(204)

    async def _create_multipart_upload(self, request: AwsRequest, caller: Caller, key: str) -> Response:
        caller.require("s3:PutObject", key)
        check_key(key)
        _refuse_unsupported(request.headers)
        upload_id = await self._in_thread(self._multipart.create, key, _headers_to_store(request.headers))
        return s3_xml.document(
            "InitiateMultipartUploadResult", {"Bucket": self._store.bucket, "Key": key, "UploadId": upload_id}
        )

    async def _upload_part(self, request: AwsRequest, caller: Caller, key: str) -> Response:
        caller.require("s3:PutObject", key)
        _refuse_unsupported(request.headers)
        upload_id, text = request.parameters["uploadId"], request.parameters.get("partNumber", "")
        if not text.isascii() or not text.isdecimal() or len(text) > 5 or not 1 <= int(text) <= MAX_PARTS:
            raise AwsError("InvalidArgument", f"partNumber is from 1 to {MAX_PARTS}")
        self._multipart.check(upload_id, key)
        etag = await self._receive(
            request, caller, lambda upload: self._multipart.add_part(upload_id, key, int(text), upload)
        )
        return Response(headers={"etag": etag})

    async def _complete_multipart_upload(self, request: AwsRequest, caller: Caller, key: str) -> Response:
        caller.require("s3:PutObject", key)
        _refuse_unsupported(request.headers)
        parts = s3_xml.named_parts(await self._small_body(request, caller))
        stored = await self._in_thread(self._multipart.complete, request.parameters["uploadId"], key, parts)
        location = f"{request.base_url}{request.raw_path}"
        return s3_xml.document(
            "CompleteMultipartUploadResult",
            {"Location": location, "Bucket": self._store.bucket, "Key": key, "ETag": stored.etag},
        )

    async def _abort_multipart_upload(self, request: AwsRequest, caller: Caller, key: str) -> Response:
        caller.require("s3:AbortMultipartUpload", key)
        await self._in_thread(self._multipart.abort, request.parameters["uploadId"], key)
        return Response(204)

    async def _small_body(self, request: AwsRequest, caller: Caller) -> bytes:
        payload = Payload(request.headers, caller.signature, caller.signing_key, max_bytes=_MAX_XML)
        content = b"".join(payload.feed([await request.body(max_bytes=_MAX_XML)]))
        payload.finish()
        return content

    async def _list_objects(self, request: AwsRequest, caller: Caller, key: str) -> Response:
        caller.require("s3:ListBucket", "")
        given = request.parameters
        if given["list-type"] != "2":
            raise AwsError("NotImplemented", "only version 2 of listing is offered", status=501)
        max_keys = _max_keys(given.get("max-keys"))
        token = given.get("continuation-token")
        after = given.get("start-after", "") if token is None else _from_token(token)
        prefix, delimiter = given.get("prefix", ""), given.get("delimiter", "")
        listing = await self._in_thread(
            lambda: list_objects(
                self._store.root, prefix=prefix, delimiter=delimiter, after=after, max_keys=max_keys
            )
        )
        next_token = _to_token(listing.next_after) if listing.next_after is not None else None
        return s3_xml.listing(self._store.bucket, given, listing, max_keys=max_keys, next_token=next_token)

    async def _head_bucket(self, request: AwsRequest, caller: Caller, key: str) -> Response:
        caller.require("s3:ListBucket", "")
        return Response(headers={"x-amz-bucket-region": self._region})

    async def _get_bucket_location(self, request: AwsRequest, caller: Caller, key: str) -> Response:
        caller.require("s3:GetBucketLocation", "")
        # us-east-1 is the empty one (API reference, GetBucketLocation).
        region = "" if self._region == "us-east-1" else self._region
        return Response(
            headers={"content-type": s3_xml.CONTENT_TYPE},
            body=f'<LocationConstraint xmlns="{s3_xml.NAMESPACE}">{region}</LocationConstraint>'.encode(),
        )

    async def _in_thread(self, run: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, run, *given)


def _split_path(raw_path: str) -> tuple[str, str]:
    bucket, _, key = raw_path.removeprefix("/").partition("/")
    try:
        return bucket, unquote(key, errors="strict")
    except UnicodeDecodeError as error:
        raise AwsError("InvalidURI", "Couldn't parse the specified URI.") from error


def _selector(request: AwsRequest) -> str:
    """The parameter that names the operation; ``""`` for none, ``"?"`` for one that is not offered."""
    names = {n for n in request.parameters if not n.startswith(("X-Amz-", "response-"))} - _IGNORED_PARAMETERS
    if "list-type" in names:
        return "list-type"
    names.discard("partNumber" if "uploadId" in names else "")
    return names.pop() if len(names) == 1 else "?" if names else ""


def _refuse_unsupported(headers: Mapping[str, str]) -> None:
    for name in _UNSUPPORTED_ON_WRITE:
        if name in headers:
            raise AwsError("NotImplemented", f"writes with the header {name} are not offered", status=501)


def _headers_to_store(headers: Mapping[str, str]) -> dict[str, str]:
    kept = {n: v for n, v in headers.items() if n in _STORED_HEADERS or n.startswith("x-amz-meta-")}
    if sum(map(len, (*kept, *kept.values()))) > 2048:
        raise AwsError("MetadataTooLarge", "content headers and metadata have at most 2 KB together")
    encodings = [
        e for e in kept.pop("content-encoding", "").replace(" ", "").split(",") if e not in ("", "aws-chunked")
    ]
    return {**kept, "content-encoding": ",".join(encodings)} if encodings else kept


def _matches(condition: str, etag: str) -> bool:
    return condition.strip() == "*" or etag.strip('"') in (c.strip().strip('"') for c in condition.split(","))


def _describe(request: AwsRequest, stored: Stored, kept: Mapping[str, str]) -> tuple[Response, Span]:
    """The answer to a read without its body, and what was asked for."""
    if_match, if_none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    if if_match is not None and not _matches(if_match, stored.etag):
        raise AwsError("PreconditionFailed", "the object has another ETag by now", status=412)
    if if_none_match is not None and _matches(if_none_match, stored.etag):
        return Response(304, {"etag": stored.etag}), Span(0, 0)
    # A part of what has changed since fits nothing that its reader has. A date is no strong validator here, and a
    # weak ETag never is (RFC 9110, section 13.1.5).
    is_same = request.headers.get("if-range", stored.etag) == stored.etag
    try:
        asked = asked_span(request.headers.get("range") if is_same else None, stored.size)
    except RangeNotSatisfiable as error:
        raise AwsError("InvalidRange", "The requested range is not satisfiable", status=416) from error
    span = asked or Span(0, stored.size)
    headers = {
        **kept,
        "etag": stored.etag,
        "last-modified": formatdate(stored.modified, usegmt=True),
        "accept-ranges": "bytes",
        "content-length": str(span.length),
    }
    for name, value in request.parameters.items():
        if name.startswith("response-") and name.removeprefix("response-") in _STORED_HEADERS:
            headers[name.removeprefix("response-")] = value
    if asked:
        headers["content-range"] = asked.content_range(stored.size)
    return Response(206 if asked else 200, headers), span


def _max_keys(text: str | None) -> int:
    if text is None:
        return _MAX_KEYS
    if not text.isascii() or not text.isdecimal() or len(text) > 10:
        raise AwsError("InvalidArgument", "max-keys is a number")
    return min(int(text), _MAX_KEYS)


def _to_token(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _from_token(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise AwsError("InvalidArgument", "The continuation token provided is incorrect") from error
