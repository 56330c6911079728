"""Results, as clients fetch them beside the API: signed links, read with plain HTTP, also from behind a proxy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import boto3
import httpx
import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from starlette.types import ASGIApp, Message

from medical_image_processing.engines.embedded.credentials import Credential, Credentials, Operator
from medical_image_processing.engines.embedded.objects import ObjectStore
from medical_image_processing.engines.embedded.outputs import LIFETIME_S, ResultLinks, SignedOutputs
from medical_image_processing.entrypoints.public_address import PublicAddress, parse_public_url

BUCKET, REGION = "mip-output-links-test", "mip-local-1"
KEY = "liver/study-1/series 1/übung+a_j1.dcm"
CONTENT = bytes(range(256)) * 8192
DIRECT, PUBLIC = "http://127.0.0.1:8080", "https://mip.hospital.example"
PAGE = "http://localhost:3000"

Work = Callable[[httpx.AsyncClient], Awaitable[None]]


class Clock:
    """The checker's time, which a test may move."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


class Stage:
    """A bucket with results in it, and what answers links to them."""

    def __init__(self, folder: Path) -> None:
        self.objects = ObjectStore(folder / "output", bucket=BUCKET)
        self.operator = Credential("MIPOPERATORTEST", "the-operator's-own", Operator())
        self.credentials = Credentials()
        self.credentials.add(self.operator)
        self.clock = Clock()
        self.outputs = SignedOutputs(self.operator, region=REGION)
        self.links = ResultLinks(
            self.objects, self.credentials, region=REGION, allow_origins=(PAGE,), clock=self.clock
        )
        self.store(KEY, CONTENT, "application/dicom")

    def store(self, key: str, content: bytes, media_type: str) -> None:
        upload = self.objects.begin()
        upload.write([content])
        upload.commit(key, {"content-type": media_type})

    def sign(self, base_url: str = DIRECT, key: str = KEY) -> str:
        return self.outputs.sign(BUCKET, key, base_url=base_url)

    def presign(self, operation: str, credential: Credential, **params: Any) -> str:
        """As boto3 does."""
        s3 = boto3.client(
            "s3",
            endpoint_url=DIRECT,
            region_name=REGION,
            aws_access_key_id=credential.access_key_id,
            aws_secret_access_key=credential.secret_access_key,
            config=Config(s3={"addressing_style": "path"}, signature_version="s3v4"),
        )
        return str(s3.generate_presigned_url(operation, Params={"Bucket": BUCKET, **params}))

    def presign_bucket(self, method: str, query: str) -> str:
        """With a slash, which boto3 leaves out and below which the API has it mounted."""
        asked = AWSRequest(method, f"{DIRECT}/{BUCKET}/?{query}")
        key = ReadOnlyCredentials(self.operator.access_key_id, self.operator.secret_access_key, None)
        S3SigV4QueryAuth(key, "s3", REGION, expires=60).add_auth(asked)
        return str(asked.url)

    def ask(self, work: Work, app: ASGIApp | None = None) -> None:
        async def asked() -> None:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app or self.links)) as http:
                await asyncio.wait_for(work(http), 20)

        asyncio.run(asked())


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def changed(url: str, **changes: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query=urlencode({**dict(parse_qsl(parts.query)), **changes})))


def test_a_link_is_read_whole_in_part_and_not_twice(stage: Stage) -> None:
    url = stage.sign()

    async def work(http: httpx.AsyncClient) -> None:
        whole = await http.get(url)
        assert (whole.status_code, whole.content) == (200, CONTENT)
        assert whole.headers["content-type"] == "application/dicom"
        assert whole.headers["accept-ranges"] == "bytes"
        part = await http.get(url, headers={"range": "bytes=5-8"})
        assert (part.status_code, part.content) == (206, CONTENT[5:9])
        assert part.headers["content-range"] == f"bytes 5-8/{len(CONTENT)}"
        etag = whole.headers["etag"]
        for validator, status, content in (
            (etag, 206, CONTENT[5:9]),
            ('"of-before"', 200, CONTENT),
            (f"W/{etag}", 200, CONTENT),
            (whole.headers["last-modified"], 200, CONTENT),  # a second is too long for it to be a strong validator
        ):
            resumed = await http.get(url, headers={"range": "bytes=5-8", "if-range": validator})
            assert (resumed.status_code, resumed.content) == (status, content), validator
        beyond = await http.get(url, headers={"range": "bytes=999999-", "if-range": '"of-before"'})
        assert (beyond.status_code, beyond.content) == (200, CONTENT)
        known = await http.get(url, headers={"if-none-match": whole.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")

    stage.ask(work)


def test_o1_a_link_opens_that_one_object_until_it_expires_and_nothing_else(stage: Stage) -> None:
    stage.store("liver/other.dcm", b"x", "application/dicom")
    url, other = stage.sign(), stage.sign(key="liver/other.dcm")
    worker = stage.credentials.issue("liver")
    refused = {
        "unsigned": url.partition("?")[0],
        "of another object": urlunsplit(urlsplit(other)._replace(query=urlsplit(url).query)),
        "of another host": url.replace("127.0.0.1", "127.0.0.2"),
        "for longer": changed(url, **{"X-Amz-Expires": "604800"}),
        "an algorithm's own": stage.presign("get_object", worker, Key=KEY),
        "of an unknown key": stage.presign("get_object", Credential("X", "y", Operator()), Key=KEY),
    }

    async def work(http: httpx.AsyncClient) -> None:
        assert (await http.get(other)).content == b"x"
        for what, link in refused.items():
            assert (await http.get(link)).status_code == 403, what
        stage.clock.ahead_s = LIFETIME_S + 60
        assert (await http.get(url)).status_code == 403

    stage.ask(work)


def test_nothing_is_written_removed_or_listed_here_whoever_signs(stage: Stage) -> None:
    links = {
        "PUT": stage.presign("put_object", stage.operator, Key=KEY),
        "DELETE": stage.presign("delete_object", stage.operator, Key=KEY),
        "POST": stage.presign("create_multipart_upload", stage.operator, Key=KEY),
        "GET": stage.presign_bucket("GET", "list-type=2"),
        "HEAD": stage.presign_bucket("HEAD", ""),
    }

    async def work(http: httpx.AsyncClient) -> None:
        for method, url in links.items():
            refused = await http.request(method, url, content=b"")
            assert (refused.status_code, refused.headers.get("allow")) == (405, "GET, HEAD, OPTIONS"), method
        assert (await http.get(stage.sign())).content == CONTENT

    stage.ask(work)


def test_only_the_signature_in_the_link_counts(stage: Stage) -> None:
    """A proxy that asks for a password sends it on, and no header signs for a link that doesn't."""
    url = stage.sign()

    async def work(http: httpx.AsyncClient) -> None:
        for added in ({"authorization": "Basic dTpw"}, {"x-amz-cf-id": "CloudFront's own"}):
            assert (await http.get(url, headers=added)).content == CONTENT
        signed = {"authorization": "AWS4-HMAC-SHA256 Credential=MIPOPERATORTEST/20260101/r/s3/aws4_request"}
        assert (await http.get(url.partition("?")[0], headers=signed)).status_code == 403
        sqs = {"x-amz-target": "AmazonSQS.ReceiveMessage", "content-type": "application/x-amz-json-1.0"}
        assert (await http.post(url, headers=sqs, content=b"{}")).status_code == 405

    stage.ask(work)


@pytest.mark.parametrize("claim", ["text/html", "text/javascript", "image/svg+xml", "application/xhtml+xml"])
def test_what_an_algorithm_stored_is_no_page_and_no_script_of_the_platform(stage: Stage, claim: str) -> None:
    stage.store("liver/page.dcm", b"<script>fetch('/jobs')</script>", claim)
    url = stage.sign(key="liver/page.dcm")

    async def work(http: httpx.AsyncClient) -> None:
        answer = await http.get(url)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert answer.headers["content-disposition"] == "attachment"
        assert answer.headers["cache-control"] == "no-store"

    stage.ask(work)


def test_a_result_is_read_no_further_once_its_client_has_gone(stage: Stage) -> None:
    mib = 2**20
    stage.store(KEY, bytes(16 * mib), "application/dicom")
    url = urlsplit(stage.sign())
    scope = {
        "type": "http",
        "scheme": "http",
        "method": "GET",
        "raw_path": url.path.encode(),
        "query_string": url.query.encode(),
        "headers": [(b"host", b"127.0.0.1:8080")],
    }
    taken: list[int] = []

    async def work() -> None:
        gone = asyncio.Event()

        async def receive() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            """As uvicorn does: what comes for somebody who has gone is let fall without an error."""
            taken.append(len(message.get("body", b"")))
            if sum(taken) >= 2 * mib:
                gone.set()
                await asyncio.sleep(0)

        await stage.links(scope, receive, send)

    asyncio.run(asyncio.wait_for(work(), 20))
    assert 2 * mib <= sum(taken) <= 4 * mib


def test_a_page_of_an_allowed_origin_may_read_and_others_may_not(stage: Stage) -> None:
    url = stage.sign()

    async def work(http: httpx.AsyncClient) -> None:
        read = await http.get(url, headers={"origin": PAGE})
        assert (read.status_code, read.headers["access-control-allow-origin"]) == (200, PAGE)
        assert "Content-Range" in read.headers["access-control-expose-headers"]
        asked = {"access-control-request-method": "GET", "access-control-request-headers": "range"}
        leave = await http.options(url, headers={"origin": PAGE, **asked})
        assert (leave.status_code, leave.headers["access-control-allow-origin"]) == (200, PAGE)
        assert leave.headers["access-control-allow-headers"] == "range"
        assert leave.headers["access-control-allow-methods"] == "GET, HEAD"
        for other in ("http://evil.example", f"{PAGE}1", "null"):
            assert "access-control-allow-origin" not in (await http.get(url, headers={"origin": other})).headers
            assert (await http.options(url, headers={"origin": other, **asked})).status_code == 403

    stage.ask(work)


@pytest.mark.parametrize("sent", ["mip.hospital.example", "127.0.0.1:8080", "mip_upstream", "evil.example"])
def test_behind_a_proxy_a_link_is_good_whatever_host_it_sends_on(stage: Stage, sent: str) -> None:
    link = stage.sign(PUBLIC)
    assert link.startswith(f"{PUBLIC}/{BUCKET}/liver/")

    async def work(http: httpx.AsyncClient) -> None:
        for name in ("x-forwarded-host", "x-forwarded-proto", "forwarded"):
            answer = await http.get(link, headers={"host": sent, name: "evil.example"})
            assert (answer.status_code, answer.content) == (200, CONTENT)
        assert (await http.get(stage.sign(DIRECT), headers={"host": sent})).status_code == 403

    stage.ask(work, PublicAddress(stage.links, parse_public_url(PUBLIC)))
