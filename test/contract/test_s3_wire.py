"""The S3 endpoint, proven by boto3, the aws command and plain HTTP."""

from __future__ import annotations

import base64
import concurrent.futures
import http.client
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_server import BUCKET, REGION, WireServer

from medical_image_processing.engines.embedded.aws_error import AwsError
from medical_image_processing.engines.embedded.credentials import Credential
from medical_image_processing.engines.embedded.object_keys import check_key, is_storable
from medical_image_processing.engines.embedded.objects import ObjectStore

MIB = 1024 * 1024
CONTENT = os.urandom(300_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WireServer]:
    with WireServer(tmp_path_factory.mktemp("s3"), max_object_bytes=48 * MIB) as running:
        yield running


@pytest.fixture(scope="module")
def operator(server: WireServer) -> Any:
    return server.client("s3", server.operator)


@pytest.fixture(scope="module")
def worker(server: WireServer) -> Any:
    return server.client("s3", server.liver)


def refused(code: str, call: Callable[..., Any], **given: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        call(**given)
    assert caught.value.response["Error"]["Code"] == code
    return caught.value


def plain(
    server: WireServer, method: str, url: str, body: bytes = b"", **headers: str
) -> http.client.HTTPResponse:
    """A request without any SDK."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    connection.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
    return connection.getresponse()


def signed(
    server: WireServer, credential: Credential, method: str, target: str, body: bytes = b"", **headers: str
) -> http.client.HTTPResponse:
    """A signed request that no SDK would make."""
    keys = BotoCredentials(credential.access_key_id, credential.secret_access_key)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    request = AWSRequest(method, f"{server.url}{target}", data=body, headers=given)
    S3SigV4Auth(keys, "s3", REGION).add_auth(request)
    return plain(server, method, target, body, **dict(request.headers))


def leftovers(server: WireServer) -> list[str]:
    """Files of unfinished uploads, once the server's threads have had time to remove them."""
    folder, deadline = server.root / ".uploads", time.monotonic() + 5
    while (found := [path.name for path in folder.iterdir()]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def test_an_object_is_a_file_and_comes_back_as_it_was(server: WireServer, worker: Any, operator: Any) -> None:
    key = "liver/study 1/séries+1/image~1_job&<1>.dcm"
    put = worker.put_object(Bucket=BUCKET, Key=key, Body=CONTENT, Metadata={"Job": "1"})
    assert (server.root / key).read_bytes() == CONTENT
    found = operator.get_object(Bucket=BUCKET, Key=key)
    assert found["Body"].read() == CONTENT
    head = operator.head_object(Bucket=BUCKET, Key=key)
    listed = operator.list_objects_v2(Bucket=BUCKET, Prefix=key)["Contents"]
    for answer in (found, head):
        assert (answer["ETag"], answer["ContentLength"]) == (put["ETag"], len(CONTENT))
        assert (answer["ContentType"], answer["Metadata"]) == ("application/dicom", {"job": "1"})
    assert [(one["Key"], one["ETag"], one["Size"]) for one in listed] == [(key, put["ETag"], len(CONTENT))]
    again = worker.put_object(Bucket=BUCKET, Key=key, Body=b"", ContentType="text/x-empty")
    assert again["ETag"] != put["ETag"]
    assert operator.get_object(Bucket=BUCKET, Key=key)["ContentType"] == "text/x-empty"
    operator.delete_object(Bucket=BUCKET, Key=key)
    operator.delete_object(Bucket=BUCKET, Key=key)
    refused("NoSuchKey", operator.get_object, Bucket=BUCKET, Key=key)
    refused("404", operator.head_object, Bucket=BUCKET, Key=key)
    assert not (server.root / "liver").exists(), "a delete leaves no empty folders"


@pytest.mark.parametrize(
    ("header", "expected", "status"),
    [
        ("bytes=0-9", CONTENT[:10], 206),
        ("bytes=299990-", CONTENT[-10:], 206),
        ("bytes=299990-999999", CONTENT[-10:], 206),
        ("bytes=-10", CONTENT[-10:], 206),
        ("bytes=-999999", CONTENT, 206),
        ("bytes=0-299999", CONTENT, 206),
        ("bytes=9-3", CONTENT, 200),
        ("bytes=0-1,5-6", CONTENT, 200),
        ("lines=1-2", CONTENT, 200),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_ranges(server: WireServer, operator: Any, header: str, expected: bytes, status: int) -> None:
    operator.put_object(Bucket=BUCKET, Key="ranges", Body=CONTENT)
    found = operator.get_object(Bucket=BUCKET, Key="ranges", Range=header)
    assert found["Body"].read() == expected
    assert found["ResponseMetadata"]["HTTPStatusCode"] == status
    if status == 206:
        start = len(CONTENT) - len(expected) if header != "bytes=0-9" else 0
        assert found["ContentRange"] == f"bytes {start}-{start + len(expected) - 1}/{len(CONTENT)}"


def test_ranges_that_hold_nothing(operator: Any) -> None:
    operator.put_object(Bucket=BUCKET, Key="ranges", Body=CONTENT)
    for header in ("bytes=300000-", "bytes=-0"):
        refused("InvalidRange", operator.get_object, Bucket=BUCKET, Key="ranges", Range=header)


def test_conditions_on_reads(operator: Any) -> None:
    etag = operator.put_object(Bucket=BUCKET, Key="conditions", Body=b"x")["ETag"]
    operator.get_object(Bucket=BUCKET, Key="conditions", IfMatch=etag)
    operator.get_object(Bucket=BUCKET, Key="conditions", IfNoneMatch='"other"')
    refused("304", operator.get_object, Bucket=BUCKET, Key="conditions", IfNoneMatch=etag)
    refused("PreconditionFailed", operator.get_object, Bucket=BUCKET, Key="conditions", IfMatch='"other"')


def test_what_would_lose_data_if_it_were_ignored_is_refused(operator: Any) -> None:
    operator.put_object(Bucket=BUCKET, Key="kept", Body=b"kept")
    refused("NotImplemented", operator.put_object, Bucket=BUCKET, Key="kept", Body=b"", IfNoneMatch="*")
    refused("NotImplemented", operator.copy_object, Bucket=BUCKET, Key="kept", CopySource=f"{BUCKET}/other")
    refused("NotImplemented", operator.put_object_tagging, Bucket=BUCKET, Key="kept", Tagging={"TagSet": []})
    assert operator.get_object(Bucket=BUCKET, Key="kept")["Body"].read() == b"kept"


def test_listing_pages_through_every_key_in_order(server: WireServer, operator: Any) -> None:
    names = [" x&y", "a-", "a.b/1", "a0/1", "a0/2", "a1", "b", "z/z/z", "é/1"]
    keys = [f"list/{name}" for name in names]
    for key in keys:
        operator.put_object(Bucket=BUCKET, Key=key, Body=b"")
    (server.root / "list/link").symlink_to("/etc")
    (server.root / "list/empty").mkdir()

    def listed(size: int, **given: Any) -> tuple[list[str], list[str]]:
        pages = operator.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, PaginationConfig={"PageSize": size}, **given
        )
        found: tuple[list[str], list[str]] = ([], [])
        for page in pages:
            found[0].extend(one["Key"] for one in page.get("Contents", []))
            found[1].extend(one["Prefix"] for one in page.get("CommonPrefixes", []))
            assert page["KeyCount"] <= size
        return found

    folders = ["list/a.b/", "list/a0/", "list/z/", "list/é/"]
    files = [key for key in keys if key.count("/") == 1]
    for size in (1, 2, 3, 1000):
        assert listed(size, Prefix="list/") == (keys, [])
        assert listed(size, Prefix="list/", Delimiter="/") == (files, folders)
        assert listed(size, Prefix="list/a") == ([key for key in keys if key.startswith("list/a")], [])
        assert listed(size, Prefix="list/a0", Delimiter="/") == ([], ["list/a0/"])
        assert listed(size, Prefix="list/", StartAfter="list/a0/1") == (
            keys[keys.index("list/a0/1") + 1 :],
            [],
        )
        assert listed(size, Prefix="list/", Delimiter="0/") == (
            [key for key in keys if "0/" not in key],
            ["list/a0/"],
        )
    assert listed(1000, Prefix="nothing/here") == ([], [])
    empty = operator.list_objects_v2(Bucket=BUCKET, MaxKeys=0)
    assert (empty["KeyCount"], empty["IsTruncated"]) == (0, False)
    refused("InvalidArgument", operator.list_objects_v2, Bucket=BUCKET, ContinuationToken="?")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_the_checksums_that_sdks_send(operator: Any, algorithm: str) -> None:
    operator.put_object(Bucket=BUCKET, Key="checked", Body=CONTENT, ChecksumAlgorithm=algorithm)
    sizes = {"CRC64NVME": 8, "SHA1": 20, "SHA256": 32}
    name = {f"Checksum{algorithm}": base64.b64encode(bytes(sizes.get(algorithm, 4))).decode()}
    refused("BadDigest", operator.put_object, Bucket=BUCKET, Key="checked", Body=b"other", **name)
    assert operator.get_object(Bucket=BUCKET, Key="checked")["Body"].read() == CONTENT


def test_a_body_that_is_not_the_signed_or_declared_one_is_not_stored(server: WireServer, operator: Any) -> None:
    operator.put_object(Bucket=BUCKET, Key="whole", Body=b"whole")
    target = f"/{BUCKET}/whole"
    answer = signed(server, server.operator, "PUT", target, b"x", Content_MD5="1B2M2Y8AsgTpgAmY7PhCfg==")
    assert (answer.status, b"BadDigest" in answer.read()) == (400, True)
    keys = BotoCredentials(server.operator.access_key_id, server.operator.secret_access_key)
    request = AWSRequest("PUT", f"{server.url}{target}", data=b"other")
    S3SigV4Auth(keys, "s3", REGION).add_auth(request)
    answer = plain(server, "PUT", target, b"OTHER", **dict(request.headers))
    assert (answer.status, b"XAmzContentSHA256Mismatch" in answer.read()) == (400, True)
    assert operator.get_object(Bucket=BUCKET, Key="whole")["Body"].read() == b"whole"
    assert leftovers(server) == []


def test_an_upload_that_breaks_off_leaves_nothing(server: WireServer, operator: Any) -> None:
    keys = BotoCredentials(server.operator.access_key_id, server.operator.secret_access_key)
    body = os.urandom(4 * MIB)
    request = AWSRequest("PUT", f"{server.url}/{BUCKET}/broken", data=body)
    S3SigV4Auth(keys, "s3", REGION).add_auth(request)
    headers = {**dict(request.headers), "Host": f"127.0.0.1:{server.port}", "Content-Length": str(len(body))}
    head = f"PUT /{BUCKET}/broken HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers.items()) + "\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + body[: 3 * MIB])
    assert leftovers(server) == []
    refused("NoSuchKey", operator.get_object, Bucket=BUCKET, Key="broken")


def test_a_multipart_upload_of_a_stream_that_cannot_seek(server: WireServer, worker: Any) -> None:
    content = os.urandom(18 * MIB + 12345)
    reading, writing = os.pipe()

    def pour() -> None:
        with os.fdopen(writing, "wb") as stream:
            stream.write(content)

    with concurrent.futures.ThreadPoolExecutor(1) as pool, os.fdopen(reading, "rb") as stream:
        poured = pool.submit(pour)
        config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=4)
        worker.upload_fileobj(stream, BUCKET, "liver/streamed", Config=config)
        poured.result(20)
    assert (server.root / "liver/streamed").read_bytes() == content
    assert leftovers(server) == []


def test_parts_are_put_together_in_order_and_replaced_by_the_later(worker: Any, server: WireServer) -> None:
    where = {"Bucket": BUCKET, "Key": "liver/parts"}
    upload = worker.create_multipart_upload(**where, ContentType="application/dicom", Metadata={"a": "1"})
    named = {**where, "UploadId": upload["UploadId"]}
    parts = []
    for number, content in ((2, b"late"), (1, b"first-"), (2, b"second"), (7, b"unused")):
        etag = worker.upload_part(**named, PartNumber=number, Body=content)["ETag"]
        parts.append({"PartNumber": number, "ETag": etag})
    complete = worker.complete_multipart_upload
    refused("InvalidPart", complete, **named, MultipartUpload={"Parts": [parts[1], parts[0]]})
    refused("InvalidPartOrder", complete, **named, MultipartUpload={"Parts": [parts[2], parts[1]]})
    refused("InvalidPart", complete, **named, MultipartUpload={"Parts": [{"PartNumber": 9, "ETag": "x"}]})
    done = complete(**named, MultipartUpload={"Parts": [parts[1], parts[2]]})
    assert (server.root / "liver/parts").read_bytes() == b"first-second"
    head = server.client("s3", server.operator).head_object(**where)
    assert (head["ETag"], head["ContentType"], head["Metadata"]) == (
        done["ETag"],
        "application/dicom",
        {"a": "1"},
    )
    refused("NoSuchUpload", complete, **named, MultipartUpload={"Parts": parts[:1]})
    assert leftovers(server) == []


def test_an_aborted_multipart_upload_leaves_nothing(worker: Any, server: WireServer) -> None:
    where = {"Bucket": BUCKET, "Key": "liver/aborted"}
    named = {**where, "UploadId": worker.create_multipart_upload(**where)["UploadId"]}
    worker.upload_part(**named, PartNumber=1, Body=b"x")
    refused("NoSuchUpload", worker.upload_part, **{**named, "Key": "liver/another"}, PartNumber=1, Body=b"x")
    refused("InvalidArgument", worker.upload_part, **named, PartNumber=10_001, Body=b"x")
    worker.abort_multipart_upload(**named)
    refused("NoSuchUpload", worker.upload_part, **named, PartNumber=1, Body=b"x")
    assert leftovers(server) == []


def test_what_an_earlier_life_left_unfinished_is_removed_at_the_start(tmp_path: Path) -> None:
    root = tmp_path / "output"
    (root / ".uploads").mkdir(parents=True)
    (root / ".uploads/old").write_bytes(b"x")
    (root / "kept").write_bytes(b"x")
    store = ObjectStore(root, bucket=BUCKET)
    assert list(store.uploads.iterdir()) == []
    assert (root / "kept").exists()


def test_an_object_has_a_largest_size(server: WireServer, worker: Any) -> None:
    too_large = bytes(48 * MIB + 1)
    refused("EntityTooLarge", worker.put_object, Bucket=BUCKET, Key="liver/large", Body=too_large)
    where = {"Bucket": BUCKET, "Key": "liver/large"}
    named = {**where, "UploadId": worker.create_multipart_upload(**where)["UploadId"]}
    parts = [
        {
            "PartNumber": n,
            "ETag": worker.upload_part(**named, PartNumber=n, Body=too_large[: 30 * MIB])["ETag"],
        }
        for n in (1, 2)
    ]
    refused("EntityTooLarge", worker.complete_multipart_upload, **named, MultipartUpload={"Parts": parts})
    assert not (server.root / "liver/large").exists()
    assert leftovers(server) == []


def test_a_full_disk_is_stated_as_passing_and_leaves_nothing(server: WireServer, worker: Any) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel refuses to write past this, as it does on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 * MIB, hard))
    try:
        error = refused(
            "ServiceUnavailable", worker.put_object, Bucket=BUCKET, Key="liver/x", Body=bytes(21 * MIB)
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert "disk" in error.response["Error"]["Message"]
    assert leftovers(server) == []
    assert not (server.root / "liver/x").exists()


def test_a_key_below_an_object_is_refused(operator: Any) -> None:
    operator.put_object(Bucket=BUCKET, Key="clash/a", Body=b"x")
    for key in ("clash/a/b", "clash/a/b/c", "clash"):
        error = refused("InvalidArgument", operator.put_object, Bucket=BUCKET, Key=key, Body=b"y")
        assert "folder" in error.response["Error"]["Message"]
    refused("NoSuchKey", operator.get_object, Bucket=BUCKET, Key="clash/a/b")
    refused("NoSuchKey", operator.get_object, Bucket=BUCKET, Key="clash")


@pytest.mark.parametrize(
    "key",
    [
        "liver/../lung/x",
        "liver//x",
        "liver/./x",
        "liver/x/",
        "liver/" + "x" * 256,
        "liver/\x01",
        "liver/a\x00b",
    ],
)
def test_keys_that_are_no_paths(server: WireServer, key: str) -> None:
    answer = signed(server, server.operator, "PUT", f"/{BUCKET}/{quote(key)}", b"x")
    assert (answer.status, b"InvalidArgument" in answer.read()) == (400, True)
    assert signed(server, server.liver, "PUT", f"/{BUCKET}/{quote(key)}", b"x").status in (400, 403)
    assert signed(server, server.operator, "GET", f"/{BUCKET}/{quote(key)}").status == 404
    assert signed(server, server.operator, "DELETE", f"/{BUCKET}/{quote(key)}").status == 204


def test_the_folder_of_uploads_is_no_part_of_the_bucket(server: WireServer, operator: Any) -> None:
    (server.root / ".uploads/secret").write_bytes(b"x")
    try:
        refused("NoSuchKey", operator.get_object, Bucket=BUCKET, Key=".uploads/secret")
        refused("InvalidArgument", operator.put_object, Bucket=BUCKET, Key=".uploads/x", Body=b"x")
        assert "Contents" not in operator.list_objects_v2(Bucket=BUCKET, Prefix=".uploads")
    finally:
        (server.root / ".uploads/secret").unlink()


segments = st.one_of(st.sampled_from(["..", ".", "", "a", "a b", ".uploads", "~", "C:", "é"]), st.text(max_size=6))
keys = st.lists(segments, min_size=1, max_size=5).map("/".join).filter(lambda k: k.isprintable() or "\x00" in k)


@settings(max_examples=150, deadline=None)
@given(keys)
def test_no_key_leads_outside_the_folder_and_no_two_to_one_file(key: str) -> None:
    root = Path("/srv/output")
    if not is_storable(key):
        with pytest.raises(AwsError):
            check_key(key)
        return
    path = os.path.normpath(root / key)
    assert path == f"{root}/{key}", "the path is the key, letter by letter"


def test_a_key_has_at_most_1024_bytes(operator: Any) -> None:
    long = "/".join(["x" * 200] * 6)
    refused("KeyTooLongError", operator.put_object, Bucket=BUCKET, Key=long, Body=b"")


def test_presigned_requests(server: WireServer, operator: Any) -> None:
    where = {"Bucket": BUCKET, "Key": "presigned/é x.dcm"}
    put = operator.generate_presigned_url("put_object", Params=where, ExpiresIn=60)
    assert plain(server, "PUT", put, CONTENT).status == 200
    get = operator.generate_presigned_url("get_object", Params=where, ExpiresIn=60)
    answer = plain(server, "GET", get)
    assert (answer.status, answer.read()) == (200, CONTENT)
    assert plain(server, "GET", get, Range="bytes=0-3").read() == CONTENT[:4]
    assert plain(server, "PUT", get, b"x").status == 403
    assert plain(server, "GET", get.replace("presigned", "presigneb")).status == 403
    assert plain(server, "GET", get.replace("X-Amz-Expires=60", "X-Amz-Expires=61")).status == 403
    named = operator.generate_presigned_url(
        "get_object", Params={**where, "ResponseContentDisposition": "attachment; filename=x.dcm"}
    )
    assert plain(server, "GET", named).getheader("content-disposition") == "attachment; filename=x.dcm"


def test_a_presigned_request_is_held_to_its_signers_rights(server: WireServer, worker: Any, operator: Any) -> None:
    operator.put_object(Bucket=BUCKET, Key="liver/secret", Body=b"x")
    url = worker.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "liver/secret"})
    answer = plain(server, "GET", url)
    assert (answer.status, b"AccessDenied" in answer.read()) == (403, True)


def test_no_web_page_reads_here(server: WireServer, operator: Any) -> None:
    """Results are read from the API's port: test_result_links.py."""
    operator.put_object(Bucket=BUCKET, Key="cors", Body=b"x")
    url = operator.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "cors"})
    answer = plain(server, "GET", url, Origin="http://localhost:3000")
    assert (answer.status, answer.getheader("access-control-allow-origin")) == (200, None)
    asked = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "GET"}
    preflight = plain(server, "OPTIONS", url, **asked)
    assert preflight.status >= 400 and preflight.getheader("access-control-allow-origin") is None


# Law A1: what an algorithm's credentials do not open. Each denied path, once.
OWN, OTHERS = {"Bucket": BUCKET, "Key": "liver/own"}, {"Bucket": BUCKET, "Key": "lung/other"}
PART = {"UploadId": "x", "PartNumber": 1, "Body": b"x"}
DENIED: list[tuple[str, dict[str, Any]]] = [
    ("get_object", OWN),
    ("delete_object", OWN),
    ("list_objects_v2", {"Bucket": BUCKET}),
    ("list_objects_v2", {"Bucket": BUCKET, "Prefix": "liver/"}),
    ("get_bucket_location", {"Bucket": BUCKET}),
    ("put_object", {**OTHERS, "Body": b"x"}),
    ("put_object", {"Bucket": BUCKET, "Key": "liver", "Body": b"x"}),
    ("put_object", {"Bucket": BUCKET, "Key": "liverish/x", "Body": b"x"}),
    ("put_object", {"Bucket": BUCKET, "Key": "study/series/image_liver.dcm", "Body": b"x"}),
    ("put_object", {"Bucket": "another-bucket", "Key": "liver/x", "Body": b"x"}),
    ("create_multipart_upload", OTHERS),
    ("upload_part", {**OTHERS, **PART}),
    ("complete_multipart_upload", {**OTHERS, "UploadId": "x", "MultipartUpload": {"Parts": []}}),
    ("abort_multipart_upload", {**OTHERS, "UploadId": "x"}),
    ("get_object", OTHERS),
    ("delete_object", OTHERS),
]


@pytest.mark.parametrize(("action", "given"), DENIED, ids=lambda value: str(value)[:60])
def test_an_algorithm_is_denied(worker: Any, operator: Any, action: str, given: dict[str, Any]) -> None:
    for where in (OWN, OTHERS):
        operator.put_object(**where, Body=b"kept")
    error = refused("AccessDenied", getattr(worker, action), **given)
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    for where in (OWN, OTHERS):
        assert operator.get_object(**where)["Body"].read() == b"kept"


def test_an_algorithm_can_not_even_ask_whether_an_object_exists(worker: Any) -> None:
    for key in ("liver/own", "lung/other", "nothing"):
        refused("403", worker.head_object, Bucket=BUCKET, Key=key)
    refused("403", worker.head_bucket, Bucket=BUCKET)


def test_earlier_containers_may_write_the_earlier_keys_where_the_record_allows_it(server: WireServer) -> None:
    legacy = server.client("s3", server.credentials.issue("liver", legacy_output_keys=True))
    legacy.put_object(Bucket=BUCKET, Key="study/series/image_liver.dcm", Body=b"x")
    for key in ("study/series/image_lung.dcm", "study/series/image_liver.dcm.exe", "study/series/image.dcm"):
        refused("AccessDenied", legacy.put_object, Bucket=BUCKET, Key=key, Body=b"x")


def test_a_large_upload_that_is_denied_is_answered_and_not_stored(server: WireServer, worker: Any) -> None:
    refused("AccessDenied", worker.put_object, Bucket=BUCKET, Key="lung/large", Body=bytes(20 * MIB))
    assert leftovers(server) == []


def test_keys_that_are_wrong_unknown_or_missing(server: WireServer) -> None:
    wrong = Credential(server.liver.access_key_id, "wrong", server.liver.principal)
    put = {"Bucket": BUCKET, "Key": "liver/x", "Body": b"x"}
    refused("SignatureDoesNotMatch", server.client("s3", wrong).put_object, **put)
    unknown = Credential("MIPANOBODYNOBODYNOBO", "wrong", server.liver.principal)
    refused("InvalidAccessKeyId", server.client("s3", unknown).put_object, **put)
    for method in ("GET", "PUT", "DELETE", "POST", "HEAD", "PATCH"):
        assert plain(server, method, f"{server.url}/{BUCKET}/liver/own").status == 403
    old = f"{server.url}/{BUCKET}/x?AWSAccessKeyId=x&Signature=y&Expires=9"
    assert b"AWS4-HMAC-SHA256" in plain(server, "GET", old).read()


def test_buckets(server: WireServer, operator: Any) -> None:
    operator.head_bucket(Bucket=BUCKET)
    assert operator.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] == REGION
    refused("NoSuchBucket", operator.put_object, Bucket="another-bucket", Key="x", Body=b"")
    refused("NotImplemented", operator.list_buckets)
    refused("NotImplemented", operator.list_objects, Bucket=BUCKET)


def test_the_aws_command(server: WireServer, tmp_path: Path) -> None:
    large = os.urandom(9 * MIB)
    (tmp_path / "there").mkdir()
    (tmp_path / "there/small.dcm").write_bytes(CONTENT)
    (tmp_path / "there/large.bin").write_bytes(large)
    base = f"s3://{BUCKET}"
    server.aws(server.lung, "s3", "cp", "--recursive", str(tmp_path / "there"), f"{base}/lung/cli/")
    assert (server.root / "lung/cli/large.bin").read_bytes() == large
    listing = server.aws(server.operator, "s3", "ls", f"{base}/lung/cli/").stdout
    assert [line.split()[-1] for line in listing.splitlines()] == ["large.bin", "small.dcm"]
    server.aws(server.operator, "s3", "cp", "--recursive", f"{base}/lung/cli/", str(tmp_path / "back"))
    assert (tmp_path / "back/large.bin").read_bytes() == large
    assert (tmp_path / "back/small.dcm").read_bytes() == CONTENT
    url = server.aws(server.operator, "s3", "presign", f"{base}/lung/cli/small.dcm").stdout.strip()
    assert plain(server, "GET", url).read() == CONTENT
    server.aws(server.operator, "s3", "rm", "--recursive", f"{base}/lung/cli/")
    assert not (server.root / "lung/cli").exists()
    denied = server.aws(server.lung, "s3", "cp", str(tmp_path / "there/small.dcm"), f"{base}/liver/x", check=False)
    assert denied.returncode != 0
    assert "AccessDenied" in denied.stderr
