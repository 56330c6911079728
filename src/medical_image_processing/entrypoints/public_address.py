"""The one address by which clients reach a platform that stands behind a proxy: ``mip up --public-url``.

What a proxy says of a request, any client can say as well, so nobody is asked: the operator has said the address.
Called by the server.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from medical_image_processing.errors import InvalidRequest

_URL = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)(?::0*([0-9]{1,5}))?/?")
_PORTS = {"https": "443", "http": "80"}


class PublicUrl(NamedTuple):
    """An address as browsers write it: lower case, and no port that its scheme has anyway."""

    scheme: str
    name: str
    port: str | None

    @property
    def host(self) -> str:
        """What browsers send as Host."""
        return self.name if self.port is None else f"{self.name}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme and host."""
        return f"{self.scheme}://{self.host}"


def parse_public_url(text: str) -> PublicUrl:
    """InvalidRequest ``BAD_PUBLIC_URL`` for what is no http or https address, or has a path, a query or a user."""
    refusal = InvalidRequest(
        "BAD_PUBLIC_URL",
        f"--public-url '{text}': it is like https://mip.hospital.example, with a port where it has one of its "
        "own, and no path",
    )
    match = _URL.fullmatch(text.lower())
    if match is None or (match[3] is not None and not 1 <= int(match[3]) <= 65535):
        raise refusal
    scheme, name, port = match.groups()
    if name.startswith("["):
        try:
            name = f"[{IPv6Address(name[1:-1]).compressed}]"
        except AddressValueError:
            raise refusal from None
    return PublicUrl(scheme, name, None if port == _PORTS[scheme] else port)


class PublicAddress:
    """``app``, called as if every request had been sent to ``url`` itself.

    So links, the page's policy and the comparison of origins are the public address's, and a signature over the
    host is good whatever Host header the proxy sends on.
    """

    def __init__(self, app: ASGIApp, url: PublicUrl) -> None:
        self._app = app
        self._schemes = {"http": url.scheme, "websocket": url.scheme.replace("http", "ws")}
        self._host = (b"host", url.host.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        headers = [self._host, *(header for header in scope["headers"] if header[0] != b"host")]
        await self._app({**scope, "scheme": self._schemes[scope["type"]], "headers": headers}, receive, send)
