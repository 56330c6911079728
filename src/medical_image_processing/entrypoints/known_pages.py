"""On loopback pages of the configured origins read images without a key, as the earlier system's client does.

There the key is the seed's, which everybody knows, so this opens nothing: a browser says itself whose page calls,
and what is no browser can send the key as well. Called by the server.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send


class KnownPages:
    """``app``, called with ``key`` by pages of ``origins`` that send none. ``*`` names none, and lets none in."""

    def __init__(self, app: ASGIApp, origins: Iterable[str], key: str) -> None:
        self._app = app
        self._origins = {origin.encode() for origin in origins} - {b"*"}
        self._key = (b"x-api-key", key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        headers = dict(scope["headers"])
        if headers.get(b"origin") in self._origins and b"x-api-key" not in headers:
            scope = {**scope, "headers": [*scope["headers"], self._key]}
        await self._app(scope, receive, send)
