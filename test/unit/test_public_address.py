"""The address that ``mip up --public-url`` names, and what a request looks like behind it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from medical_image_processing.entrypoints.public_address import PublicAddress, parse_public_url
from medical_image_processing.errors import InvalidRequest


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://mip.hospital.example", "https://mip.hospital.example"),
        ("https://MIP.Hospital.Example/", "https://mip.hospital.example"),
        ("https://mip.hospital.example:443", "https://mip.hospital.example"),
        ("https://mip.hospital.example:8443/", "https://mip.hospital.example:8443"),
        ("http://mip:80", "http://mip"),
        ("https://mip:80", "https://mip:80"),
        ("https://192.0.2.7:0443", "https://192.0.2.7"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("https://[2001:0DB8:0:0::0001]", "https://[2001:db8::1]"),
    ],
)
def test_an_address_is_what_browsers_make_of_it(given: str, origin: str) -> None:
    assert parse_public_url(given).origin == origin


@pytest.mark.parametrize(
    "given",
    [
        "",
        "mip.hospital.example",
        "//mip.hospital.example",
        "ftp://mip.hospital.example",
        "https://",
        "https://mip.hospital.example/path",
        "https://mip.hospital.example?x",
        "https://mip.hospital.example#x",
        "https://user@mip.hospital.example",
        "https://mip.hospital.example:0",
        "https://mip.hospital.example:65536",
        "https://mip.hospital.example:",
        "https://mip hospital",
        "https://[2001:db8:::1]",
        "https://[192.0.2.7]",
        "https://mip.hospital.example; script-src *",
        "https://mip.hospital.example\n",
        "https://-mip",
        "https://mip.",
        "https://müp.example",
    ],
)
def test_what_is_no_plain_address_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_public_url(given)
    assert caught.value.code == "BAD_PUBLIC_URL" and "https://mip.hospital.example" in caught.value.message


@pytest.mark.parametrize(
    ("kind", "url", "scheme", "host"),
    [
        ("http", "https://mip.example", "https", b"mip.example"),
        ("websocket", "https://mip.example:8443", "wss", b"mip.example:8443"),
        ("http", "http://mip.example", "http", b"mip.example"),
        ("websocket", "http://mip.example", "ws", b"mip.example"),
    ],
)
def test_a_request_has_one_host_and_it_is_the_public_one(kind: str, url: str, scheme: str, host: bytes) -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update(scope)

    async def nothing(*_: object) -> Any:
        return {}

    sent = [(b"host", b"evil.example"), (b"accept", b"*/*"), (b"host", b"127.0.0.1:8080")]
    sent += [(b"x-forwarded-host", b"evil.example"), (b"x-forwarded-proto", b"gopher")]
    scope = {"type": kind, "scheme": "http", "headers": sent}
    asyncio.run(PublicAddress(app, parse_public_url(url))(scope, nothing, nothing))
    assert seen["scheme"] == scheme
    assert [value for name, value in seen["headers"] if name == b"host"] == [host]
    assert (b"accept", b"*/*") in seen["headers"] and scope["headers"] == sent
