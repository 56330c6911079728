"""On loopback the seed's fixed keys may be good, or none be needed, so only who means this platform is answered.

A web page can let a name of its own point to 127.0.0.1 (DNS rebinding); the browser then takes the platform for
the page's own server, but names it in the Host header by that name. Called by the server.
"""

from __future__ import annotations

import json
import re

from starlette.types import ASGIApp, Receive, Scope, Send

_LOOPBACK = r"localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\]"
_PRIVATE = (
    "this platform answers to 127.0.0.1 and localhost only; use those, or give it a --host, or where a proxy "
    "called it its --public-url"
)
_BEHIND_A_PROXY = (
    "this platform answers to the name in its --public-url, 127.0.0.1 and localhost only; the proxy has to send "
    "on the name it was called by: in nginx, proxy_set_header Host $host"
)


class LoopbackNames:
    """``app`` for requests whose Host is this machine's loopback, ``own``, an address of the platform's own, or
    ``public``, the name by which a proxy is called."""

    def __init__(self, app: ASGIApp, *, own: str | None = None, public: str | None = None) -> None:
        self._app = app
        names = "|".join([_LOOPBACK, *(re.escape(name) for name in (own, public) if name is not None)])
        self._host = re.compile(rf"(?:{names})(?::\d{{1,5}})?".encode(), re.IGNORECASE)
        message = _PRIVATE if public is None else _BEHIND_A_PROXY
        self._refusal = json.dumps({"error": {"code": "HOST_NOT_LOOPBACK", "message": message}}).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        # A request without the header comes from no browser.
        if all(name != b"host" or self._host.fullmatch(value) for name, value in scope["headers"]):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(self._refusal))]
            await send({"type": "http.response.start", "status": 421, "headers": headers})
            await send({"type": "http.response.body", "body": self._refusal})
