"""The web client's files at ``/``, before the API: whatever is none of them goes on to it.

Only what lay in the folder when the platform started can be asked for, by its name: no path leads anywhere else.
A page may load and call nothing but this platform (Content-Security-Policy Level 3).
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import hashlib
import json
import mimetypes
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from medical_image_processing.api.results import host_of

PACKAGE = Path(__file__).parents[1]
_HASHED = "/assets/"
"""What lies here has its content's hash in its name, so a browser may keep it for good."""
_PACKED = ".gz"
"""Beside a file its gzip, which the build made (``web_build``)."""
_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
}
_REFUSED = re.compile(r";\s*q=0(\.0*)?\s*$")
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self' {others}; font-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
_MISSING = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Medical image processing</title>
<h1>The web client is not built</h1>
<p>This platform runs, and its web client is missing. Install Node 18.18 or newer and npm, then start the platform
again with <code>./mip up</code>, which builds it and says what fails. The API describes itself at
<a href="/openapi.json">/openapi.json</a>; everything can be done with the <code>mip</code> command, too.</p>
</html>
"""


def find_built() -> Path | None:
    """The folder of the built client: the package's own, or in a clone of the sources the one npm built."""
    clone = PACKAGE.parents[1] / "clients" / "react-app" / "dist"
    return next((folder for folder in (PACKAGE / "web", clone) if (folder / "index.html").is_file()), None)


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: bytes
    packed: bytes | None
    keep: bool
    status: int = 200

    @functools.cached_property
    def etag(self) -> bytes:
        return b'"%s"' % hashlib.sha256(self.content).hexdigest()[:32].encode()


class WebClient:
    """``folder``'s files, and everything else from ``app``. Without a folder ``/`` tells people how to get one.

    ``config`` is what the page is told at ``/config.json``.
    """

    def __init__(self, app: ASGIApp, folder: Path | None, *, config: dict[str, str]) -> None:
        self._app = app
        self._folder = folder
        self._config = json.dumps(config).encode()
        self._paths = {} if folder is None else _names(folder)
        self._read: dict[str, _File] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        file = await self._file(scope["path"], dict(scope["headers"]).get(b"accept", b""))
        if file is None:
            await self._app(scope, receive, send)
            return
        await self._answer(file, scope, send)

    async def _file(self, path: str, accept: bytes) -> _File | None:
        if path == "/config.json":
            return _File(self._config, b"application/json", None, keep=False)
        if path == "/" and self._folder is None and b"text/html" in accept:
            return _File(_MISSING.encode(), b"text/html; charset=utf-8", None, keep=False, status=404)
        name = "/index.html" if path == "/" else path
        if name not in self._paths:
            return None
        if name not in self._read:
            try:
                keep = name.startswith(_HASHED)
                self._read[name] = await asyncio.to_thread(_load, self._paths[name], keep=keep)
            except FileNotFoundError:
                return None  # the client was built again while this platform runs
        return self._read[name]

    async def _answer(self, file: _File, scope: Scope, send: Send) -> None:
        asked = dict(scope["headers"])
        is_known = file.etag in asked.get(b"if-none-match", b"") and file.status == 200
        packed = file.packed if _takes_gzip(asked.get(b"accept-encoding", b"")) else None
        body = b"" if is_known else packed or file.content
        caching = b"public, max-age=31536000, immutable" if file.keep else b"no-cache"
        headers = [
            (b"content-type", file.media_type),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", caching),
            (b"etag", file.etag),
            (b"vary", b"accept-encoding"),
            (b"content-security-policy", _policy(asked.get(b"host"))),
            *_SECURITY,
        ]
        if body and body is packed:
            headers.append((b"content-encoding", b"gzip"))
        await send({"type": "http.response.start", "status": 304 if is_known else file.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _policy(header: bytes | None) -> bytes:
    """The page's own origin, over WebSocket too: not every browser takes that for ``'self'``."""
    # Nothing else of what was sent: a policy's words are anybody's to add to, if a header's are.
    own = host_of((header or b"").decode("latin-1"))
    return _POLICY.format(others=f"ws://{own} wss://{own}").encode()


def _names(folder: Path) -> dict[str, Path]:
    """Path below ``/`` → file. Links, hidden files and what is compressed are none of the client's."""
    found = {}
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in below.parts)
        if path.is_file() and not path.is_symlink() and not is_hidden and path.suffix != _PACKED:
            found["/" + below.as_posix()] = path
    return found


def _load(path: Path, *, keep: bool) -> _File:
    content = path.read_bytes()
    media_type = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if media_type.startswith("text/"):
        media_type += "; charset=utf-8"
    return _File(content, media_type.encode(), _packed(path, content), keep)


def _packed(path: Path, content: bytes) -> bytes | None:
    """``content`` as the build compressed it; None where it didn't, or what it compressed was another one's."""
    try:
        packed = path.with_name(path.name + _PACKED).read_bytes()
        return packed if gzip.decompress(packed) == content else None
    except (OSError, EOFError, zlib.error):  # gzip's own error is an OSError
        return None


def _takes_gzip(accepted: bytes) -> bool:
    """What Accept-Encoding says (RFC 9110, section 12.5.3): a coding with a weight of 0 is refused."""
    codings = accepted.decode("latin-1").lower().split(",")
    return any(one.split(";")[0].strip() == "gzip" and not _REFUSED.search(one) for one in codings)
