"""Where clients need no key, any web page could make a browser send what it sends without asking us first.

That is a POST that is no JSON (Fetch Standard, "CORS protocol"), as the one that cancels a job, for which a job_id
is enough. About all others a browser asks, and hears no. Called by the server.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from medical_image_processing.api.failures import answer

_REFUSAL = answer(
    403,
    "FOREIGN_PAGE",
    "a page of another origin can't do this; start the platform with --cors-origin for it, or behind a proxy with "
    "its --public-url",
)


class ForeignPages:
    """``app``, without what pages send that are neither its own nor of ``origins``; ``*`` is any.

    Its own are of the origin ``own``; where that is None, of the host that was called, by either scheme.
    """

    def __init__(self, app: ASGIApp, origins: Iterable[str], *, own: str | None = None) -> None:
        self._app = app
        self._own = None if own is None else own.encode()
        self._origins = {origin.encode() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        is_refused = scope["type"] == "http" and scope["method"] == "POST" and self._is_foreign(scope)
        await (_REFUSAL if is_refused else self._app)(scope, receive, send)

    def _is_foreign(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        origin: bytes | None = headers.get(b"origin")
        if origin is None or {origin, b"*"} & self._origins:
            return False
        if headers.get(b"content-type", b"").startswith(b"application/json"):
            return False
        if self._own is not None:
            return origin != self._own
        _, _, host = origin.partition(b"://")
        return not host or host != headers.get(b"host")
