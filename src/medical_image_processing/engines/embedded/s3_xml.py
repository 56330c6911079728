"""The XML that S3 clients send and parse."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from time import gmtime, strftime
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from medical_image_processing.engines.embedded.aws_error import AwsError
from medical_image_processing.engines.embedded.aws_request import Response
from medical_image_processing.engines.embedded.object_listing import Listing
from medical_image_processing.engines.embedded.objects import Stored

CONTENT_TYPE = "application/xml"
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def error_response(error: AwsError, *, with_body: bool) -> Response:
    """The answer that S3 clients parse."""
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{error.code}</Code>'
        f"<Message>{escape(error.message)}</Message><RequestId>{secrets.token_hex(8)}</RequestId></Error>"
    )
    return Response(error.status, {"content-type": CONTENT_TYPE}, body.encode() if with_body else b"")


def document(root: str, content: Mapping[str, Any] | list[tuple[str, Any]]) -> Response:
    """An answer with one XML document of the S3 namespace."""
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{NAMESPACE}">{_elements(content)}</{root}>'
    return Response(headers={"content-type": CONTENT_TYPE}, body=text.encode())


def _elements(content: Mapping[str, Any] | list[tuple[str, Any]]) -> str:
    pairs = content.items() if isinstance(content, Mapping) else content
    return "".join(
        f"<{name}>{_elements(value) if isinstance(value, Mapping) else escape(str(value))}</{name}>"
        for name, value in pairs
    )


def listing(
    bucket: str, given: Mapping[str, str], found: Listing, *, max_keys: int, next_token: str | None
) -> Response:
    """The answer to ListObjectsV2; ``given`` are the request's parameters."""
    is_encoded = given.get("encoding-type") == "url"
    encode: Callable[[str], str] = (lambda text: quote(text, safe="/")) if is_encoded else str
    optional = {
        "Delimiter": encode(given["delimiter"]) if given.get("delimiter") else None,
        "EncodingType": "url" if is_encoded else None,
        "ContinuationToken": given.get("continuation-token"),
        "StartAfter": encode(given["start-after"]) if "start-after" in given else None,
        "NextContinuationToken": next_token,
    }
    content: list[tuple[str, Any]] = [
        ("Name", bucket),
        ("Prefix", encode(given.get("prefix", ""))),
        ("KeyCount", len(found.objects) + len(found.common_prefixes)),
        ("MaxKeys", max_keys),
        ("IsTruncated", "false" if next_token is None else "true"),
        *((name, value) for name, value in optional.items() if value is not None),
        *(("Contents", _listed(stored, encode)) for stored in found.objects),
        *(("CommonPrefixes", {"Prefix": encode(common)}) for common in found.common_prefixes),
    ]
    return document("ListBucketResult", content)


def _listed(stored: Stored, encode: Callable[[str], str]) -> dict[str, Any]:
    return {
        "Key": encode(stored.key),
        "LastModified": strftime("%Y-%m-%dT%H:%M:%S.000Z", gmtime(stored.modified)),
        "ETag": stored.etag,
        "Size": stored.size,
        "StorageClass": "STANDARD",
    }


def named_parts(body: bytes) -> list[tuple[int, str]]:
    """Numbers and ETags of a CompleteMultipartUpload. AwsError ``MalformedXML``."""
    try:
        # Expat limits what entities may grow to, and the body is small.
        root = ElementTree.fromstring(body)  # noqa: S314
        parts = [part for part in root if part.tag.rpartition("}")[2] == "Part"]
        fields = [{field.tag.rpartition("}")[2]: field.text or "" for field in part} for part in parts]
        return [(int(field["PartNumber"]), field["ETag"]) for field in fields]
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise AwsError("MalformedXML", "the list of parts is not the XML that S3 defines") from error
