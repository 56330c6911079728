"""AWS Signature Version 4, the server's side of it, and presigned URLs.

Sources: "Signature Version 4 for API requests" in the IAM user guide; "Authenticating Requests (AWS Signature
Version 4)" in the Amazon S3 API reference for the payload hashes, presigned URLs and path encoding.

Any region is accepted: it is part of what is signed, and the keys are this platform's alone.
"""

from __future__ import annotations

import hmac
import re
from calendar import timegm
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from time import gmtime, strftime
from urllib.parse import quote, unquote_to_bytes

from medical_image_processing.engines.embedded.aws_error import AwsError

ALGORITHM = "AWS4-HMAC-SHA256"
MAX_SKEW_S = 15 * 60
MAX_EXPIRES_S = 7 * 24 * 3600
EMPTY_SHA256 = sha256(b"").hexdigest()
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/, ]{1,128})/(\d{8})/([^/, ]{1,64})/([^/, ]{1,32})/aws4_request,\s*"
    r"SignedHeaders=([^, ]{1,8192}),\s*Signature=([0-9a-f]{64})\s*"
)
_CREDENTIAL = re.compile(r"([^/]{1,128})/(\d{8})/([^/]{1,64})/([^/]{1,32})/aws4_request")
_TIMESTAMP = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._~-]*")
_SPACES = re.compile(r"\s+")

Query = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Signature:
    """A request's claim about who sent it, taken apart."""

    access_key_id: str
    date: str
    region: str
    service: str
    timestamp: str
    signed_headers: str
    signature: str
    expires_s: int | None = None
    """Set for a presigned URL."""

    @property
    def scope(self) -> str:
        """The credential scope, without the key id."""
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


@dataclass(frozen=True)
class Request:
    """The parts of an HTTP request that are signed; names of headers in lower case, path and query as sent."""

    method: str
    raw_path: str
    query: Query
    """Decoded names and values, in the order sent."""
    headers: Mapping[str, str]


def parse(request: Request) -> Signature | None:
    """The request's signature, or None when it has none. AwsError when it has a bad one."""
    authorization = request.headers.get("authorization")
    if authorization is not None:
        return _parse_header(authorization, request.headers)
    values = {name: value for name, value in request.query if name.startswith("X-Amz-")}
    if "X-Amz-Signature" not in values and "X-Amz-Algorithm" not in values:
        if any(name == "AWSAccessKeyId" for name, _ in request.query):
            raise _version_2()
        return None
    return _parse_query(values)


def _parse_header(authorization: str, headers: Mapping[str, str]) -> Signature:
    match = _AUTHORIZATION.fullmatch(authorization)
    if authorization.startswith("AWS "):
        raise _version_2()
    if match is None:
        raise AwsError(
            "AuthorizationHeaderMalformed", "the Authorization header is not one of Signature Version 4"
        )
    key_id, date, region, service, signed, signature = match.groups()
    timestamp = headers.get("x-amz-date")
    if timestamp is None:
        raise AwsError("AccessDenied", "a signed request needs an x-amz-date header", status=403)
    return Signature(key_id, date, region, service, timestamp, signed, signature)


def _version_2() -> AwsError:
    # boto3 still presigns so in us-east-1, unless told Config(signature_version="s3v4").
    return AwsError(
        "InvalidRequest",
        "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
    )


def _parse_query(values: Mapping[str, str]) -> Signature:
    match = _CREDENTIAL.fullmatch(values.get("X-Amz-Credential", ""))
    expires = values.get("X-Amz-Expires", "")
    signed, signature = values.get("X-Amz-SignedHeaders", ""), values.get("X-Amz-Signature", "")
    if match is None or values.get("X-Amz-Algorithm") != ALGORITHM or not expires.isdecimal() or len(expires) > 6:
        raise AwsError("AuthorizationQueryParametersError", "the X-Amz- query is not one of Signature Version 4")
    if not 1 <= int(expires) <= MAX_EXPIRES_S:
        raise AwsError("AuthorizationQueryParametersError", f"X-Amz-Expires is from 1 to {MAX_EXPIRES_S} seconds")
    key_id, date, region, service = match.groups()
    timestamp = values.get("X-Amz-Date", "")
    return Signature(key_id, date, region, service, timestamp, signed, signature, int(expires))


def check_time(signature: Signature, now: float) -> None:
    """AwsError ``RequestTimeTooSkewed``, or ``AccessDenied`` for a presigned URL that is over."""
    match = _TIMESTAMP.fullmatch(signature.timestamp)
    if match is None or not signature.timestamp.startswith(signature.date):
        raise AwsError("AccessDenied", "the request's date is malformed, or not that of its scope", status=403)
    try:
        signed_at = timegm((*map(int, match.groups()), 0, 0, 0))
    except ValueError as error:
        raise AwsError("AccessDenied", "the request's date is in no calendar", status=403) from error
    if signed_at - now > MAX_SKEW_S or (signature.expires_s is None and now - signed_at > MAX_SKEW_S):
        raise AwsError(
            "RequestTimeTooSkewed",
            "the sender's clock and the platform's differ by over 15 minutes",
            status=403,
        )
    if signature.expires_s is not None and now > signed_at + signature.expires_s:
        raise AwsError("AccessDenied", "Request has expired", status=403)


def check(signature: Signature, request: Request, secret_access_key: str, payload_hash: str) -> bytes:
    """Return the signing key if ``secret_access_key`` made this signature; AwsError ``SignatureDoesNotMatch``."""
    canonical = _canonical_request(signature, request, payload_hash)
    to_sign = f"{ALGORITHM}\n{signature.timestamp}\n{signature.scope}\n{sha256(canonical.encode()).hexdigest()}"
    key = signing_key(secret_access_key, signature.date, signature.region, signature.service)
    expected = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
    if not hmac.compare_digest(expected.encode(), signature.signature.encode()):
        raise AwsError(
            "SignatureDoesNotMatch",
            "the request's signature does not match; check the secret key and what lies between",
            status=403,
        )
    return key


def _canonical_request(signature: Signature, request: Request, payload_hash: str) -> str:
    names = signature.signed_headers.split(";")
    signed = set(names)
    headers = request.headers
    unsigned = [name for name in headers if name.startswith("x-amz-") and name not in signed]
    if "host" not in signed or unsigned:
        raise AwsError(
            "AccessDenied",
            "the host and every x-amz- header present must be among the signed headers",
            status=403,
        )
    lines = "".join(f"{name}:{_trimmed(headers.get(name, ''))}\n" for name in names)
    path = _canonical_path(request.raw_path, signature.service)
    query = _canonical_query(request.query)
    return f"{request.method}\n{path}\n{query}\n{lines}\n{signature.signed_headers}\n{payload_hash}"


def _trimmed(value: str) -> str:
    return _SPACES.sub(" ", value).strip() if "  " in value or value[:1] == " " or value[-1:] == " " else value


def _canonical_path(raw_path: str, service: str) -> str:
    if service == "s3":
        if _PLAIN_PATH.fullmatch(raw_path):
            return raw_path or "/"
        return quote(unquote_to_bytes(raw_path), safe="/~")
    # Every other service: dot segments and doubled slashes go, and what is left is encoded once more.
    kept: list[str] = []
    for segment in raw_path.split("/"):
        if segment == ".." and kept:
            kept.pop()
        elif segment not in ("", ".", ".."):
            kept.append(segment)
    path = "/" + "/".join(kept)
    return quote(path + "/" if raw_path.endswith("/") and kept else path, safe="/~")


def _canonical_query(query: Query) -> str:
    if not query:
        return ""
    pairs = sorted((quote(n, safe="~"), quote(v, safe="~")) for n, v in query if n != "X-Amz-Signature")
    return "&".join(f"{name}={value}" for name, value in pairs)


@lru_cache(maxsize=4096)
def signing_key(secret_access_key: str, date: str, region: str, service: str) -> bytes:
    """The key of one day, region and service."""
    key = f"AWS4{secret_access_key}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def presign_get(
    *,
    access_key_id: str,
    secret_access_key: str,
    base_url: str,
    bucket: str,
    key: str,
    region: str,
    expires_s: int,
    now: float,
) -> str:
    """A URL that reads one object, path style, until ``now + expires_s``. ``base_url`` has no path."""
    timestamp = strftime("%Y%m%dT%H%M%SZ", gmtime(now))
    date = timestamp[:8]
    host = base_url.partition("://")[2].lower()
    path = f"/{bucket}/{quote(key, safe='/~')}"
    query = (
        f"X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={access_key_id}%2F{date}%2F{region}%2Fs3%2Faws4_request"
        f"&X-Amz-Date={timestamp}&X-Amz-Expires={expires_s}&X-Amz-SignedHeaders=host"
    )
    canonical = f"GET\n{path}\n{query}\nhost:{host}\n\nhost\n{UNSIGNED_PAYLOAD}"
    hashed = sha256(canonical.encode()).hexdigest()
    to_sign = f"{ALGORITHM}\n{timestamp}\n{date}/{region}/s3/aws4_request\n{hashed}"
    day_key = signing_key(secret_access_key, date, region, "s3")
    return f"{base_url}{path}?{query}&X-Amz-Signature={hmac.new(day_key, to_sign.encode(), 'sha256').hexdigest()}"
