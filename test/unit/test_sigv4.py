"""Signature Version 4: botocore signs, we check; whatever is changed on the way is found out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from medical_image_processing.engines.embedded import sigv4
from medical_image_processing.engines.embedded.aws_chunked import ChunkedDecoder, ChunkSigner
from medical_image_processing.engines.embedded.aws_error import AwsError
from medical_image_processing.engines.embedded.payload import Payload, payload_hash
from medical_image_processing.engines.embedded.sigv4 import Request

KEY_ID, SECRET = "MIPATESTTESTTESTTEST", "secret/with+signs"
CREDENTIALS = BotoCredentials(KEY_ID, SECRET)

segments = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=("Cs",)), min_size=1, max_size=12
)
keys = st.lists(segments, min_size=1, max_size=4).map("/".join)
queries = st.dictionaries(
    st.text("abcXYZ019-_.~ +/&=%", min_size=1, max_size=6),
    st.text("abc 019-_.~+/&=%é", max_size=8),
    max_size=3,
)
metadata = st.dictionaries(
    st.sampled_from(["x-amz-meta-a", "x-amz-meta-b", "content-type"]),
    st.text("abc  ;:,=19", max_size=12),
    max_size=3,
)


def received(request: AWSRequest) -> Request:
    """What a server sees of a request that botocore has signed."""
    prepared = request.prepare()
    parts = urlsplit(prepared.url)
    headers = {"host": parts.netloc}
    for name, value in prepared.headers.items():
        headers[name.lower()] = value.decode() if isinstance(value, bytes) else str(value).strip()
    query = parse_qsl(parts.query.replace("+", "%2B"), keep_blank_values=True)
    return Request(prepared.method, parts.path, query, headers)


def check(request: Request, payload: str, secret: str = SECRET, now: float | None = None) -> None:
    signature = sigv4.parse(request)
    assert signature is not None
    assert signature.access_key_id == KEY_ID
    sigv4.check_time(signature, time.time() if now is None else now)
    sigv4.check(signature, request, secret, payload)


@pytest.mark.parametrize("timestamp", ["20261301T000000Z", "20260001T000000Z", "00000101T000000Z"])
def test_a_date_that_is_in_no_calendar_is_refused(timestamp: str) -> None:
    signature = sigv4.Signature(KEY_ID, timestamp[:8], "r", "s3", timestamp, "host", "0" * 64)
    for expires_s in (None, 60):
        with pytest.raises(AwsError) as caught:
            sigv4.check_time(replace(signature, expires_s=expires_s), time.time())
        assert (caught.value.code, caught.value.status) == ("AccessDenied", 403)


def refused(request: Request, payload: str, code: str | None = None, **given: object) -> None:
    with pytest.raises(AwsError) as caught:
        check(request, payload, **given)  # type: ignore[arg-type]
    assert code is None or caught.value.code == code


def s3_request(
    method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
) -> AWSRequest:
    text = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in query.items())
    url = f"http://127.0.0.1:8081/bucket/{quote(key, safe='/~')}" + (f"?{text}" if text else "")
    return AWSRequest(method, url, headers=dict(headers), data=body)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["GET", "PUT"]), keys, queries, metadata, st.binary(max_size=40))
def test_s3_requests_that_botocore_signs_are_accepted(
    method: str, key: str, query: dict[str, str], headers: dict[str, str], body: bytes
) -> None:
    request = s3_request(method, key, query, headers, body)
    S3SigV4Auth(CREDENTIALS, "s3", "eu-south-1").add_auth(request)
    seen = received(request)
    check(seen, seen.headers["x-amz-content-sha256"])
    assert seen.headers["x-amz-content-sha256"] == hashlib.sha256(body).hexdigest()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["/", "/a/b", "/a//b/../c/", "/a%20b/é", "//"]), queries, st.binary(max_size=40))
def test_requests_of_other_services_are_accepted(path: str, query: dict[str, str], body: bytes) -> None:
    text = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in query.items())
    request = AWSRequest("POST", f"http://127.0.0.1:8081{path}" + (f"?{text}" if text else ""), data=body)
    SigV4Auth(CREDENTIALS, "sqs", "us-east-1").add_auth(request)
    check(received(request), hashlib.sha256(body).hexdigest())


@settings(max_examples=40, deadline=None)
@given(keys, queries)
def test_presigned_requests_are_accepted_until_they_expire(key: str, query: dict[str, str]) -> None:
    request = s3_request("GET", key, query, {}, b"")
    S3SigV4QueryAuth(CREDENTIALS, "s3", "us-east-1", expires=60).add_auth(request)
    seen = received(request)
    check(seen, sigv4.UNSIGNED_PAYLOAD)
    refused(seen, sigv4.UNSIGNED_PAYLOAD, "AccessDenied", now=time.time() + 62)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_single_change_is_found_out(data: st.DataObject) -> None:
    request = s3_request(
        "PUT", "liver/a b.dcm", {"partNumber": "1", "uploadId": "x y"}, {"x-amz-meta-a": "1"}, b"body"
    )
    S3SigV4Auth(CREDENTIALS, "s3", "us-east-1").add_auth(request)
    seen = received(request)
    payload = seen.headers["x-amz-content-sha256"]
    check(seen, payload)
    what = data.draw(
        st.sampled_from(["method", "path", "query", "header", "new header", "payload", "secret", "signature"])
    )
    changed, secret = seen, SECRET
    if what == "method":
        changed = replace(seen, method="DELETE")
    elif what == "path":
        changed = replace(seen, raw_path=_altered(data, seen.raw_path))
    elif what == "query":
        at = data.draw(st.integers(0, len(seen.query) - 1))
        pairs = [(n, _altered(data, v)) if i == at else (n, v) for i, (n, v) in enumerate(seen.query)]
        changed = replace(
            seen, query=data.draw(st.sampled_from([pairs, seen.query[1:], [*seen.query, ("a", "")]]))
        )
    elif what == "header":
        name = data.draw(st.sampled_from(["host", "x-amz-date", "x-amz-meta-a", "x-amz-content-sha256"]))
        changed = replace(seen, headers={**seen.headers, name: _altered(data, seen.headers[name])})
        if name == "x-amz-content-sha256":
            payload = changed.headers[name]
    elif what == "new header":
        changed = replace(seen, headers={**seen.headers, "x-amz-copy-source": "/bucket/other"})
    elif what == "payload":
        payload = hashlib.sha256(b"other").hexdigest()
    elif what == "secret":
        secret = _altered(data, SECRET)
    else:
        authorization = seen.headers["authorization"]
        end = "0" if authorization[-1] != "0" else "1"
        changed = replace(seen, headers={**seen.headers, "authorization": authorization[:-1] + end})
    refused(changed, payload, secret=secret)


def _altered(data: st.DataObject, text: str) -> str:
    at = data.draw(st.integers(0, len(text) - 1))
    return text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]


@pytest.mark.parametrize(
    ("shift_s", "is_accepted"), [(0, True), (890, True), (-890, True), (910, False), (-910, False)]
)
def test_clocks_may_differ_by_a_quarter_of_an_hour(shift_s: int, is_accepted: bool) -> None:
    request = s3_request("GET", "a", {}, {}, b"")
    S3SigV4Auth(CREDENTIALS, "s3", "us-east-1").add_auth(request)
    seen = received(request)
    now = time.time() + shift_s
    if is_accepted:
        check(seen, sigv4.EMPTY_SHA256, now=now)
    else:
        refused(seen, sigv4.EMPTY_SHA256, "RequestTimeTooSkewed", now=now)


@pytest.mark.parametrize("expires", [0, 604_801, 99_999_999])
def test_a_presigned_request_lasts_a_week_at_most(expires: int) -> None:
    request = s3_request("GET", "a", {}, {}, b"")
    S3SigV4QueryAuth(CREDENTIALS, "s3", "us-east-1", expires=expires).add_auth(request)
    refused(received(request), sigv4.UNSIGNED_PAYLOAD, "AuthorizationQueryParametersError")


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer x",
        "AWS4-HMAC-SHA256 Credential=a/b/c",
        "AWS4-HMAC-SHA256 " + "x" * 10_000,
        "AWS key:signature",
    ],
)
def test_malformed_authorization_is_stated(authorization: str) -> None:
    request = Request("GET", "/", [], {"host": "h", "authorization": authorization})
    with pytest.raises(AwsError) as caught:
        sigv4.parse(request)
    assert caught.value.code in ("AuthorizationHeaderMalformed", "InvalidRequest")


@settings(max_examples=30, deadline=None)
@given(keys)
def test_what_we_presign_is_what_botocore_presigns(key: str) -> None:
    now = time.time()
    url = sigv4.presign_get(
        access_key_id=KEY_ID,
        secret_access_key=SECRET,
        base_url="http://127.0.0.1:8081",
        bucket="bucket",
        key=key,
        region="us-east-1",
        expires_s=60,
        now=now,
    )
    parts = urlsplit(url)
    seen = Request("GET", parts.path, parse_qsl(parts.query), {"host": parts.netloc})
    check(seen, sigv4.UNSIGNED_PAYLOAD, now=now)
    request = AWSRequest("GET", f"http://127.0.0.1:8081{parts.path}")
    signer = S3SigV4QueryAuth(CREDENTIALS, "s3", "us-east-1", expires=60)
    signer.add_auth(request)
    theirs = dict(parse_qsl(urlsplit(request.url).query))
    ours = dict(parse_qsl(parts.query))
    if theirs["X-Amz-Date"] == ours["X-Amz-Date"]:
        assert theirs == ours


# The example of the S3 API reference, "Transferring Payload in Multiple Chunks": 66,560 letters "a".
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
AWS_CHUNKS = [
    (65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
    (1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
    (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
]
AWS_BODY = b"".join(b"%x;chunk-signature=%s\r\n%s\r\n" % (n, s.encode(), b"a" * n) for n, s in AWS_CHUNKS)


def aws_decoder() -> ChunkedDecoder:
    key = sigv4.signing_key(AWS_SECRET, "20130524", "us-east-1", "s3")
    scope = "20130524/us-east-1/s3/aws4_request"
    return ChunkedDecoder(ChunkSigner(key, "20130524T000000Z", scope, SEED), with_trailer=False)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, len(AWS_BODY)), max_size=5).map(sorted))
def test_the_chunks_of_the_documentation_are_accepted_in_any_pieces(cuts: list[int]) -> None:
    decoder = aws_decoder()
    edges = [0, *cuts, len(AWS_BODY)]
    pieces = [AWS_BODY[a:b] for a, b in pairwise(edges)]
    content = b"".join(bytes(part) for piece in pieces for part in decoder.feed(piece))
    decoder.finish()
    assert content == b"a" * 66_560


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(AWS_BODY) - 5), st.booleans())
def test_chunks_that_were_changed_or_cut_are_refused(at: int, cut: bool) -> None:
    changed = AWS_BODY[:at] if cut else AWS_BODY[:at] + bytes([AWS_BODY[at] ^ 1]) + AWS_BODY[at + 1 :]
    decoder = aws_decoder()
    with pytest.raises(AwsError):
        list(decoder.feed(changed))
        decoder.finish()


def payload_of(kind: str, body: bytes, length: int, **headers: str) -> bytes:
    """Feed ``body`` through a payload with these headers; what came out."""
    given = {
        "x-amz-content-sha256": kind,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    given["x-amz-decoded-content-length" if kind.startswith("STREAMING") else "content-length"] = str(length)
    signature = sigv4.Signature(KEY_ID, "20130524", "us-east-1", "s3", "20130524T000000Z", "host", SEED)
    key = sigv4.signing_key(AWS_SECRET, "20130524", "us-east-1", "s3")
    assert payload_hash(given, signature) == kind
    payload = Payload(given, signature, key, max_bytes=1 << 20)
    content = b"".join(bytes(part) for part in payload.feed([body]))
    payload.finish()
    return content


TRAILED = b"3\r\nabc\r\n0\r\nx-amz-checksum-crc32:NSRBwg==\r\n\r\n"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


def test_a_trailing_checksum_is_checked() -> None:
    name = {"x_amz_trailer": "x-amz-checksum-crc32"}
    assert payload_of(UNSIGNED_TRAILER, TRAILED, 3, **name) == b"abc"
    for body, length, code in (
        (TRAILED.replace(b"NSRB", b"NSRC"), 3, "BadDigest"),
        (TRAILED.replace(b"abc", b"abd"), 3, "BadDigest"),
        (TRAILED.replace(b"x-amz-checksum-crc32:NSRBwg==\r\n", b""), 3, "BadDigest"),
        (TRAILED, 4, "IncompleteBody"),
        (TRAILED, 2, "IncompleteBody"),
        (TRAILED[:-2], 3, "IncompleteBody"),
        (b"zz\r\nabc", 3, "IncompleteBody"),
    ):
        with pytest.raises(AwsError) as caught:
            payload_of(UNSIGNED_TRAILER, body, length, **name)
        assert caught.value.code == code


def test_a_signed_trailer_is_checked() -> None:
    key = sigv4.signing_key(AWS_SECRET, "20130524", "us-east-1", "s3")
    signer = ChunkSigner(key, "20130524T000000Z", "20130524/us-east-1/s3/aws4_request", SEED)
    chunks = [
        (b"abc", signer.chunk(hashlib.sha256(b"abc").hexdigest())),
        (b"", signer.chunk(sigv4.EMPTY_SHA256)),
    ]
    body = b"".join(b"%x;chunk-signature=%s\r\n%s\r\n" % (len(c), s.encode(), c) for c, s in chunks[:1])
    trailer = b"x-amz-checksum-crc32:NSRBwg=="
    body += b"0;chunk-signature=%s\r\n%s\r\n" % (chunks[1][1].encode(), trailer)
    body += b"x-amz-trailer-signature:%s\r\n\r\n" % signer.trailer(trailer + b"\n").encode()
    kind, name = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", {"x_amz_trailer": "x-amz-checksum-crc32"}
    assert payload_of(kind, body, 3, **name) == b"abc"
    with pytest.raises(AwsError, match="SignatureDoesNotMatch"):
        payload_of(kind, body.replace(b"trailer-signature:", b"trailer-signature:0")[:-5] + b"\r\n\r\n", 3, **name)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("content_md5", "kAFQmDzST7DWlj99KOF/cg=="),
        ("x_amz_checksum_crc32", "NSRBwg=="),
        ("x_amz_checksum_crc32c", "Nks/tw=="),
        ("x_amz_checksum_crc64nvme", "BeXKuz/B+us="),
        ("x_amz_checksum_sha1", "qZk+NkcGgWq6PiVxeFDCbJzQ2J0="),
        ("x_amz_checksum_sha256", "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="),
    ],
)
def test_checksums_of_abc(header: str, value: str) -> None:
    assert payload_of(sigv4.UNSIGNED_PAYLOAD, b"abc", 3, **{header: value}) == b"abc"
    with pytest.raises(AwsError, match="BadDigest"):
        payload_of(sigv4.UNSIGNED_PAYLOAD, b"abd", 3, **{header: value})
    with pytest.raises(AwsError, match="InvalidDigest"):
        payload_of(sigv4.UNSIGNED_PAYLOAD, b"abc", 3, **{header: "????"})


def test_a_body_that_is_not_the_signed_one_is_refused() -> None:
    assert payload_of(hashlib.sha256(b"abc").hexdigest(), b"abc", 3) == b"abc"
    with pytest.raises(AwsError, match="XAmzContentSHA256Mismatch"):
        payload_of(hashlib.sha256(b"abc").hexdigest(), b"abd", 3)
    with pytest.raises(AwsError, match="InvalidArgument"):
        payload_of("NONSENSE", b"abc", 3)
    with pytest.raises(AwsError, match="EntityTooLarge"):
        payload_of(sigv4.UNSIGNED_PAYLOAD, b"", 1 << 21)
