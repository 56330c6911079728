"""The web client's files over HTTP: what they are sent with, and what can't be reached through them."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse

from medical_image_processing.entrypoints.web_client import WebClient

SCRIPT = "console.log(1);" * 200


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    built = tmp_path / "built"
    (built / "assets").mkdir(parents=True)
    (built / "index.html").write_text("<!doctype html><title>client</title>")
    (built / "assets/index-abc123.js").write_text(SCRIPT)
    (built / "assets/index-abc123.js.gz").write_bytes(gzip.compress(SCRIPT.encode(), 9))
    (built / "assets/codec-def456.wasm").write_bytes(b"\0asm" + bytes(2000))
    (built / ".hidden").write_text("secret")
    (tmp_path / "secret.txt").write_text("secret")
    (built / "link.txt").symlink_to(tmp_path / "secret.txt")
    return built


def ask(folder: Path | None, work: Callable[[httpx.AsyncClient], Awaitable[None]], **config: str) -> None:
    client = WebClient(PlainTextResponse("the API"), folder, config=config)

    async def asked() -> None:
        transport = httpx.ASGITransport(client)
        async with httpx.AsyncClient(transport=transport, base_url="http://platform.example:8080") as http:
            await asyncio.wait_for(work(http), 20)

    asyncio.run(asked())


def test_a_page_may_load_and_call_this_platform_and_nobody_else(folder: Path) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        page = await http.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        policy = dict(
            part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";") if part
        )
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == "'self' 'wasm-unsafe-eval'" and policy["style-src"] == "'self'"
        assert policy["connect-src"].split() == [
            "'self'",
            "ws://platform.example:8080",
            "wss://platform.example:8080",
        ]
        for name, value in {
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "x-frame-options": "DENY",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
        }.items():
            assert page.headers[name] == value
        assert "access-control-allow-origin" not in page.headers

    ask(folder, work)


@pytest.mark.parametrize("host", ["a.example; script-src *", "a b", "x' 'unsafe-inline", ""])
def test_no_host_header_writes_into_the_policy(folder: Path, host: str) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        policy = (await http.get("/", headers={"host": host})).headers["content-security-policy"]
        assert "connect-src 'self' ws://127.0.0.1 wss://127.0.0.1;" in policy and policy.count("script-src") == 1
        assert "unsafe-inline" not in policy

    ask(folder, work)


def test_what_has_its_hash_in_its_name_is_kept_and_the_page_is_asked_for_anew(folder: Path) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        script = await http.get("/assets/index-abc123.js", headers={"accept-encoding": "gzip"})
        assert script.text == SCRIPT and script.headers["content-encoding"] == "gzip"
        assert int(script.headers["content-length"]) < len(SCRIPT) / 5
        assert script.headers["content-type"] == "text/javascript; charset=utf-8"
        assert "immutable" in script.headers["cache-control"]
        plain = await http.get("/assets/index-abc123.js", headers={"accept-encoding": "identity"})
        assert plain.text == SCRIPT and "content-encoding" not in plain.headers
        assert (await http.get("/assets/codec-def456.wasm")).headers["content-type"] == "application/wasm"
        page = await http.get("/")
        assert page.headers["cache-control"] == "no-cache"
        again = await http.get("/", headers={"if-none-match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        head = await http.head("/")
        assert (head.status_code, head.content) == (200, b"")

    ask(folder, work)


@pytest.mark.parametrize(
    ("accepted", "is_packed"),
    [
        ("gzip, deflate, br", True),
        ("br;q=1.0, GZIP;q=0.8", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0, identity", False),
        ("br, x-gzip-not", False),
        ("", False),
    ],
    ids=["browser", "weighed", "refused", "refused with zeros", "another", "none"],
)
def test_who_does_not_take_gzip_gets_none(folder: Path, accepted: str, *, is_packed: bool) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        script = await http.get("/assets/index-abc123.js", headers={"accept-encoding": accepted})
        assert script.text == SCRIPT and ("content-encoding" in script.headers) is is_packed
        assert script.headers["vary"] == "accept-encoding"

    ask(folder, work)


@pytest.mark.parametrize(
    "packed",
    [gzip.compress(b"another"), gzip.compress(SCRIPT.encode())[:-9], b"none"],
    ids=["other", "cut", "none"],
)
def test_what_was_compressed_of_something_else_is_not_sent(folder: Path, packed: bytes) -> None:
    (folder / "assets/index-abc123.js.gz").write_bytes(packed)

    async def work(http: httpx.AsyncClient) -> None:
        script = await http.get("/assets/index-abc123.js", headers={"accept-encoding": "gzip"})
        assert script.text == SCRIPT and "content-encoding" not in script.headers

    ask(folder, work)


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/assets/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/link.txt",
        "/.hidden",
        "/assets",
        "/assets/",
        "//index.html",
        "/jobs",
        "/assets/index-abc123.js/",
        "/assets/index-abc123.js.gz",
    ],
)
def test_whatever_is_no_file_of_the_client_is_the_apis(folder: Path, path: str) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        request = http.build_request("GET", "/")
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = await http.send(request)
        assert answer.text == "the API"

    ask(folder, work)


def test_a_file_that_went_when_the_client_was_built_again_is_none_of_its(folder: Path) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        assert (await http.get("/")).status_code == 200
        (folder / "index.html").unlink()
        (folder / "assets/index-abc123.js").unlink()
        assert (await http.get("/assets/index-abc123.js")).text == "the API"
        assert "client" in (await http.get("/")).text, "what was read is kept"

    ask(folder, work)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:80; script-src *", "127.0.0.1 evil.example", "evil.example *", "127.0.0.1:800000", "x" * 300],
)
def test_what_a_host_header_says_beside_a_host_is_no_part_of_the_policy(folder: Path, host: str) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        policy = (await http.get("/", headers={"host": host})).headers["content-security-policy"]
        assert "connect-src 'self' ws://127.0.0.1 wss://127.0.0.1; font-src" in policy

    ask(folder, work)


def test_only_reading_is_the_clients(folder: Path) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        assert (await http.post("/")).text == "the API"
        assert (await http.delete("/index.html")).text == "the API"

    ask(folder, work)


def test_the_page_is_told_where_the_platform_is(folder: Path) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        told = await http.get("/config.json")
        assert json.loads(told.text) == {"pacs_key": "devkey"} and told.headers["cache-control"] == "no-cache"

    ask(folder, work, pacs_key="devkey")


def test_without_a_built_client_the_page_says_how_to_get_one() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        page = await http.get("/", headers={"accept": "text/html,*/*;q=0.8"})
        assert page.status_code == 404 and "not built" in page.text and "./mip up" in page.text
        assert "content-security-policy" in page.headers
        assert (await http.get("/assets/x.js")).text == "the API"
        assert (await http.get("/")).text == "the API", "programs get the contract's errors"

    ask(None, work)
