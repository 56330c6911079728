"""The PACS API over a bucket: what its container runs, on a real socket, before an emulated AWS."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx
import pytest
import uvicorn
from pydicom.data import get_testdata_file
from starlette.types import Receive, Scope, Send

from aws_emulator import AwsEmulator
from aws_stage import AwsStage
from medical_image_processing.engines.aws.bucket_archive import BucketArchive
from medical_image_processing.engines.aws.clients import AwsClients
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.entrypoints.deploy.account import Account
from medical_image_processing.entrypoints.deploy.deployment import ensure_image
from medical_image_processing.entrypoints.deploy.sample_job import find_image
from medical_image_processing.entrypoints.deploy.stack import Stack
from medical_image_processing.entrypoints.pacs_service import KNOWN_S, ServiceKeys, create_service
from medical_image_processing.errors import InputRejected, InvalidRequest, NotFound
from medical_image_processing.naming import PACS_OPERATOR
from medical_image_processing.ports.keys import digest
from platform_process import CLI, clean_environment

KEY, OPERATOR_KEY = "the-key-of-algo-1", "the-operators-key"
ORIGIN = "https://viewer.example"
CT = get_testdata_file("CT_small.dcm")
KEYS = [
    "study-1/series-1/image-1.dcm",
    "study-1/series-1/image-10.dcm",
    "study-1/series-1/image-2",
    "study-1/series-1/notes.txt",
    "study-1/series-2/1.2.840.5",
    "study-1/series-2/DICOMDIR",
    "a/b/images/c/images.dcm",
]


class Service:
    """The running service."""

    def __init__(self, engine: AwsEngine, bucket: str, port: int) -> None:
        self.engine = engine
        self.bucket = bucket
        self.base = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.base, headers={"x-api-key": KEY}, trust_env=False)

    def link(self, path: str) -> str:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["url"])

    def code(self, path: str, **headers: str) -> str:
        answer = self.http.get(path, headers=headers)
        assert not answer.is_success, answer.text
        return str(answer.json()["error"]["code"])


@pytest.fixture(scope="module")
def service(aws_emulator: AwsEmulator) -> Iterator[Service]:
    with running_service(AwsStage(aws_emulator)) as service:
        s3 = service.engine.clients.client("s3").boto
        for key in KEYS:
            s3.upload_file(CT, service.bucket, key)
        s3.put_object(Bucket=service.bucket, Key="study-1/series-1/", Body=b"")
        yield service


@contextmanager
def running_service(stage: AwsStage) -> Iterator[Service]:
    """Over an empty bucket."""
    clients, engine = stage.clients, stage.engine
    bucket = f"mip-pacs-{stage.account.account}"
    clients.client("s3").boto.create_bucket(Bucket=bucket)
    environment = {
        **stage.environment,
        "MIP_PACS_BUCKET": bucket,
        "MIP_PACS_OPERATOR_KEY": OPERATOR_KEY,
        "MIP_ALLOW_ORIGINS": ORIGIN,
    }
    asyncio.run(engine.pacs_keys.let_in(digest(KEY), "algo_1"))
    app = create_service(environment, clients).app

    async def also_below_pacs(scope: Scope, receive: Receive, send: Send) -> None:
        """As clients reach it through the REST API."""
        await app({**scope, "root_path": "/pacs" if scope["path"].startswith("/pacs/") else ""}, receive, send)

    server = uvicorn.Server(uvicorn.Config(also_below_pacs, lifespan="off", log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield Service(engine, bucket, listening.getsockname()[1])
        server.should_exit = True
        thread.join(10)


@pytest.mark.parametrize("image", ["image-1", "image-1.dcm", "image-2"])
def test_a_link_opens_the_object_itself_without_a_key(service: Service, image: str) -> None:
    file = httpx.get(service.link(f"/studies/study-1/images/series-1/{image}"), trust_env=False)

    assert file.status_code == 200
    assert file.headers["content-type"] == "application/dicom"
    assert file.content == Path(CT).read_bytes()


def test_a_link_says_when_it_expires(service: Service) -> None:
    answer = service.http.get("/studies/study-1/images/series-1/image-1").json()

    expires = time.strptime(answer["expires"], "%Y-%m-%dT%H:%M:%SZ")
    assert 500 < time.mktime(expires) - time.mktime(time.gmtime()) <= 600


def test_a_series_and_a_study_are_listed_without_what_is_no_image(service: Service) -> None:
    series = service.http.get("/studies/study-1/images", params={"series_id": "series-1"}).json()
    study = service.http.get("/studies/study-1/images").json()

    assert [one["key"] for one in series] == [KEYS[0], KEYS[1], KEYS[2]]
    assert [one["key"] for one in study] == [KEYS[0], KEYS[1], KEYS[2], KEYS[4]]
    assert all(httpx.get(one["url"], trust_env=False).is_success for one in study)


def test_studies_are_listed(service: Service) -> None:
    assert service.http.get("/studies").json() == ["a", "study-1"]


def test_a_folder_called_images_is_one_like_any_other(service: Service) -> None:
    assert "a/b/images/c/images.dcm" in service.link("/studies/a/b/images/images/c/images")
    assert "a/b/images/c/images.dcm" in service.link("/studies/a/images/b/images/c/images")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/studies/study-1/images/series-1/image-3", "IMAGE_NOT_FOUND"),
        ("/studies/study-1/images/series-1/image", "IMAGE_NOT_FOUND"),
        ("/studies/study-1/images/series-9/image-1", "SERIES_NOT_FOUND"),
        ("/studies/study-9/images/series-1/image-1", "STUDY_NOT_FOUND"),
        ("/studies/study/images", "STUDY_NOT_FOUND"),
        ("/studies/study-1/images?series_id=series", "SERIES_NOT_FOUND"),
        ("/studies/study-1/images?series_id=../x", "INVALID_ID"),
        ("/studies/%2e%2e/images", "INVALID_ID"),
        ("/files/anything", "UNKNOWN_ROUTE"),
        ("/", "UNKNOWN_ROUTE"),
    ],
)
def test_what_is_not_there_is_named(service: Service, path: str, code: str) -> None:
    assert service.code(path) == code


@pytest.mark.parametrize("key", ["", "wrong", KEY.upper(), "devkey", "dev-admin"])
def test_other_keys_open_nothing(service: Service, key: str) -> None:
    assert service.code("/studies", **{"x-api-key": key}) == "UNAUTHORIZED"


def test_the_operators_key_opens_it_and_is_named_in_the_record(service: Service) -> None:
    path = "/studies/a/images/b/images/c/images"
    assert service.http.get(path, headers={"x-api-key": OPERATOR_KEY}).is_success

    entries = asyncio.run(service.engine.audit.entries("a"))
    assert PACS_OPERATOR in {entry.actor for entry in entries}


DESCRIBED = [
    {"study_id": "a", "series_id": "b/images/c", "images": 1},
    {"study_id": "study-1", "series_id": "series-1", "images": 3},
    {"study_id": "study-1", "series_id": "series-2", "images": 1},
]
SAID = {"date": "20040119", "modality": "CT", "study_description": "e+1", "series_description": None}


def test_the_operator_is_told_what_series_there_are_without_their_patient(service: Service) -> None:
    def series(**query: str) -> list[dict[str, object]]:
        return told(service.http.get("/series", params=query, headers={"x-api-key": OPERATOR_KEY}))

    def found(**body: object) -> list[dict[str, object]]:
        return told(service.http.post("/series/search", json=body, headers={"x-api-key": OPERATOR_KEY}))

    def told(answer: httpx.Response) -> list[dict[str, object]]:
        assert answer.status_code == 200, answer.text
        assert "CompressedSamples" not in answer.text
        return [one for one in answer.json() if one["study_id"] != "long"]

    assert series() == [{**SAID, **one} for one in DESCRIBED]
    assert series(limit="1") == [{**SAID, **DESCRIBED[0]}]
    assert found(study_id="study-1", search="ct SERIES-2") == [{**SAID, **DESCRIBED[2]}]
    assert found(search="Series-1 2004") == [{**SAID, **DESCRIBED[1]}]
    assert series(series_id="series-1") == [{**SAID, **DESCRIBED[1]}]
    assert series(study_id="a/b", series_id="images/c") == [
        {**SAID, "study_id": "a/b", "series_id": "images/c", "images": 1}
    ]
    assert series(study_id="study-9") == series(study_id="study") == found(search="mr") == []
    for one in series():
        images = service.http.get(
            f"/studies/{one['study_id']}/images", params={"series_id": str(one["series_id"])}
        )
        assert len(images.json()) == one["images"]


def test_what_can_not_be_read_or_asked_for_hides_no_other_series(aws_emulator: AwsEmulator) -> None:
    with running_service(AwsStage(aws_emulator)) as service:
        s3 = service.engine.clients.client("s3").boto
        s3.upload_file(CT, service.bucket, "study/ct/1.dcm")
        for key in ("Doe^Jane/series/1.dcm", "alone.dcm", "study/alone.dcm", "study/../1.dcm", "study//1.dcm"):
            s3.upload_file(CT, service.bucket, key)
        s3.put_object(Bucket=service.bucket, Key="study/text/1.dcm", Body=b"no DICOM file")
        answer = service.http.get("/series", headers={"x-api-key": OPERATOR_KEY}).json()

    nothing = dict.fromkeys(SAID)
    named = [{"study_id": "study", "series_id": name, "images": 1} for name in ("ct", "text")]
    assert answer == [{**SAID, **named[0]}, {**nothing, **named[1]}]


def test_all_of_a_bucket_is_looked_through_and_a_list_says_that_it_ends_early(aws_emulator: AwsEmulator) -> None:
    with running_service(AwsStage(aws_emulator)) as service:
        s3 = service.engine.clients.client("s3").boto
        for number in range(70):
            s3.put_object(Bucket=service.bucket, Key=f"study/series-{number:02}/1.dcm", Body=b"no DICOM file")
        s3.upload_file(CT, service.bucket, "study/series-99/1.dcm")

        def found(limit: int, search: str) -> tuple[int, str]:
            body = {"search": search, "limit": limit}
            answer = service.http.post("/series/search", json=body, headers={"x-api-key": OPERATOR_KEY})
            return len(answer.json()), answer.headers["x-more-series"]

        def listed(limit: int) -> tuple[int, str]:
            answer = service.http.get("/series", params={"limit": limit}, headers={"x-api-key": OPERATOR_KEY})
            return len(answer.json()), answer.headers["x-more-series"]

        assert found(1, "20040119 ct") == (1, "false")
        assert [found(limit, "study") for limit in (70, 71)] == [(70, "true"), (71, "false")]
        assert [listed(limit) for limit in (70, 71)] == [(70, "true"), (71, "false")]


def test_a_listing_that_takes_longer_than_a_search_goes_on_with_the_next_one() -> None:
    go_on = threading.Event()
    asked: list[str] = []

    class Slow(BaseHTTPRequestHandler):
        """Three pages of one series each, of which the second takes long, and objects that are gone."""

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            if "list-type" in query:
                number = int(query.get("continuation-token", ["0"])[0])
                asked.append(str(number))
                if number == 1:
                    go_on.wait(60)
                more = (
                    f"<IsTruncated>true</IsTruncated><NextContinuationToken>{number + 1}</NextContinuationToken>"
                )
                item = f"<Key>study/series-{number}/1.dcm</Key><ETag>e</ETag><Size>9</Size>"
                body = f"{more if number < 2 else ''}<Contents>{item}</Contents>"
                self.answer(200, f"<ListBucketResult>{body}</ListBucketResult>")
            else:
                self.answer(404, "<Error><Code>NoSuchKey</Code></Error>")

        def answer(self, status: int, body: str) -> None:
            with suppress(OSError):
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    async def search(base: str) -> list[tuple[list[str], bool]]:
        session = boto3.Session("key", "secret", region_name="eu-south-1")
        clients = AwsClients(session=session, endpoint_url=base)
        archive = BucketArchive(clients.client("s3"), "bucket", look_s=5)
        answers = []
        try:
            for _ in range(3):
                found = await archive.describe(None, None, 10, "series")
                answers.append(([one.series_id for one in found.series], found.is_all))
                go_on.set()
        finally:
            go_on.set()
            clients.close()
        return answers

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        answers = asyncio.run(asyncio.wait_for(search(f"http://127.0.0.1:{server.server_port}"), 60))
        server.shutdown()
    everything = ["series-0", "series-1", "series-2"]
    assert answers == [([], False), (everything, True), (everything, True)]
    assert asked == ["0", "1", "1", "2", "0", "1", "2"], "what came through is listed anew, for what is new"


@pytest.mark.parametrize("path", ["/series", "/series?study_id=study-1", "/thumbnail?study_id=a&series_id=b"])
def test_an_algorithms_key_is_told_of_no_series_whatever_the_algorithm_is_called(
    service: Service, path: str
) -> None:
    asyncio.run(service.engine.pacs_keys.let_in(digest("the-key-of-operator"), PACS_OPERATOR))

    assert service.code(path) == "UNKNOWN_ROUTE"
    assert service.code(path, **{"x-api-key": "the-key-of-operator"}) == "UNKNOWN_ROUTE"
    assert service.code(path, **{"x-api-key": "wrong"}) == "UNAUTHORIZED"


def test_series_are_listed_by_the_command_line(service: Service) -> None:
    environment = clean_environment(MIP_API_BASE=service.base, PACS_API_KEY=OPERATOR_KEY)
    shown = subprocess.run(
        [*CLI, "studies", "study-1", "--json"], env=environment, capture_output=True, text=True, timeout=60
    )

    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["series"] == [{**SAID, **one} for one in DESCRIBED[1:]]


def test_over_a_dicomweb_server_series_are_asked_of_it_for_the_operator_alone(aws_emulator: AwsEmulator) -> None:
    stage = AwsStage(aws_emulator)
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        url = f"http://127.0.0.1:{closed_soon.getsockname()[1]}"
    environment = {**stage.environment, "MIP_DICOMWEB_URL": url, "MIP_PACS_OPERATOR_KEY": OPERATOR_KEY}
    app = create_service(environment, stage.clients).app

    async def ask() -> list[tuple[int, str]]:
        await stage.engine.pacs_keys.let_in(digest(KEY), "algo_1")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pacs") as client:
            answers = [await client.get("/series", headers={"x-api-key": key}) for key in (OPERATOR_KEY, KEY, "")]
        return [(answer.status_code, answer.json()["error"]["code"]) for answer in answers]

    assert asyncio.run(ask()) == [(503, "PACS_UNAVAILABLE"), (404, "UNKNOWN_ROUTE"), (401, "UNAUTHORIZED")]


def test_a_series_is_drawn_for_the_operator_and_kept_by_the_browser(service: Service) -> None:
    path, operator = "/thumbnail?study_id=study-1&series_id=series-1", {"x-api-key": OPERATOR_KEY}
    drawn = service.http.get(path, headers={**operator, "origin": ORIGIN}, timeout=60)
    kept = service.http.get(path, headers={**operator, "if-none-match": drawn.headers["etag"]})
    s3 = service.engine.clients.client("s3").boto
    s3.put_object(Bucket=service.bucket, Key="torn/series/1.dcm", Body=Path(CT).read_bytes()[:20_000])
    s3.put_object(Bucket=service.bucket, Key="torn/text/1.dcm", Body=b"no DICOM at all")

    assert (drawn.status_code, drawn.headers["content-type"]) == (200, "image/png")
    assert drawn.content.startswith(b"\x89PNG")
    assert drawn.headers["access-control-allow-origin"] == ORIGIN
    assert (kept.status_code, kept.content) == (304, b"")
    for series in ("series", "text"):
        torn = service.http.get(f"/thumbnail?study_id=torn&series_id={series}", headers=operator, timeout=60)
        assert (torn.status_code, torn.json()["error"]["code"]) == (404, "NO_PICTURE")
    assert service.code(path) == "UNKNOWN_ROUTE", "not for algorithms"
    read = [
        (entry.actor, entry.details["images"])
        for entry in asyncio.run(service.engine.audit.entries("study-1"))
        if entry.actor == PACS_OPERATOR and entry.details["series"] == "series-1"
    ]
    assert (PACS_OPERATOR, ["image-10"]) in read, "the middle one is on record"


def test_a_file_that_is_too_long_or_went_since_it_was_listed_is_not_read(service: Service) -> None:
    archive = BucketArchive(service.engine.clients.client("s3"), service.bucket)

    async def read(most_bytes: int, key: str) -> bytes:
        [first, *_] = await archive.images("study-1", "series-1")
        return await archive.read_file(first._replace(key=key), most_bytes=most_bytes)

    size = Path(CT).stat().st_size
    assert asyncio.run(read(size, KEYS[0])) == Path(CT).read_bytes()
    with pytest.raises(InputRejected, match="more than"):
        asyncio.run(read(size - 1, KEYS[0]))
    with pytest.raises(NotFound, match="went since"):
        asyncio.run(read(size, "study-1/series-1/gone.dcm"))


def test_who_read_what_for_which_job_is_on_record_before_the_link_is_given(service: Service) -> None:
    service.http.get("/studies/study-1/images/series-1/image-1", headers={"x-job-id": "job-7"})

    [entry] = [
        entry
        for entry in asyncio.run(service.engine.audit.entries("study-1"))
        if entry.details["job_id"] == "job-7"
    ]
    assert (entry.actor, entry.action) == ("algo_1", "read")
    assert (entry.details["series"], entry.details["images"]) == ("series-1", ["image-1"])


def test_pages_of_the_allowed_origin_may_call(service: Service) -> None:
    allowed = service.http.get("/studies", headers={"origin": ORIGIN})
    other = service.http.get("/studies", headers={"origin": "https://evil.example"})

    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-origin" not in other.headers


def test_a_long_series_is_listed_to_its_end(service: Service) -> None:
    s3 = service.engine.clients.client("s3").boto
    for number in range(1003):
        s3.put_object(Bucket=service.bucket, Key=f"long/series/{number:04d}.dcm", Body=b"x")

    listed = service.http.get("/studies/long/images", params={"series_id": "series"}, timeout=60).json()

    assert [one["key"] for one in listed] == [f"long/series/{number:04d}.dcm" for number in range(1003)]


def test_an_image_that_is_found_is_named_so_that_a_job_finds_it_again(service: Service) -> None:
    found = find_image(service.base, OPERATOR_KEY)

    assert found == {"study_id": "a/b/images", "series_id": "c", "image_id": "images.dcm", "scope": "image"}
    service.link(path_of(found))


def path_of(reference: dict[str, str]) -> str:
    return "/studies/{study_id}/images/{series_id}/{image_id}".format_map(reference)


def test_the_sample_of_a_deployment_is_found_in_the_stacks_own_bucket_and_put_into_no_other(
    aws_emulator: AwsEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = AwsStage(aws_emulator)
    for name, value in stage.account.environment.items():
        monkeypatch.setenv(name, value)
    account = Account("us-east-1")
    given = Stack("ImgPipeline", "us-east-1", "CREATE_COMPLETE", "", {})
    with running_service(stage) as empty:
        own = replace(given, outputs={"PacsBucketName": empty.bucket})
        env = {"PACS_API_BASE": empty.base, "PACS_API_KEY": OPERATOR_KEY}
        for stack, sample in ((given, Path(CT)), (own, None)):
            with pytest.raises(NotFound, match="no study"):
                ensure_image(account, stack, env, sample, lambda _: None)
        assert empty.http.get("/studies").json() == []

        ensure_image(account, own, env, Path(CT), lambda _: None)

        found = find_image(empty.base, OPERATOR_KEY)
        assert httpx.get(empty.link(path_of(found)), trust_env=False).content == Path(CT).read_bytes()


class _Table:
    def __init__(self, **algorithms: str) -> None:
        self.algorithms = {digest(key): algo for key, algo in algorithms.items()}
        self.asked = 0

    async def find_pacs_key(self, digest: str) -> str | None:
        self.asked += 1
        return self.algorithms.get(digest)


def test_a_key_is_looked_up_once_a_minute_and_a_removed_one_opens_nothing_after_that() -> None:
    now, table = [0.0], _Table(key="algo_1")
    keys = ServiceKeys(table, None, clock=lambda: now[0])

    def algo(key: str = "key") -> str | None:
        return asyncio.run(keys.algo_for(key))

    assert [algo(), algo(), algo()] == ["algo_1"] * 3
    assert table.asked == 1
    table.algorithms.clear()
    now[0] = KNOWN_S + 1
    assert algo() is None
    table.algorithms[digest("key")] = "algo_2"
    assert algo() == "algo_2", "that a key was unknown is not remembered"


def test_keys_that_documents_print_are_no_operators_keys() -> None:
    assert asyncio.run(ServiceKeys(_Table(), "devkey").algo_for("devkey")) is None


def test_a_service_that_can_not_work_says_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="MIP_PACS_BUCKET"):
        create_service({})
    over_dicomweb = {"MIP_DICOMWEB_URL": "http://pacs.example", "MIP_PACS_FOLDER": str(tmp_path)}
    with pytest.raises(InvalidRequest, match="MIP_PACS_CACHE_MIB"):
        create_service({**over_dicomweb, "MIP_PACS_CACHE_MIB": "-1"})
    (tmp_path / "cache").write_text("a file where the cache should be")
    with pytest.raises(InvalidRequest, match="MIP_PACS_FOLDER"):
        create_service({**over_dicomweb, "MIP_PACS_CACHE_MIB": "1"})
