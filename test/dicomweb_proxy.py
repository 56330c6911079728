"""Stands between the platform and a PACS: counts what is asked, and refuses what it is told to."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Refuse = Callable[[str, str], int | None]


class DicomwebProxy:
    """``asked``: the method and path of each request. ``refuse(method, path)``: a status to answer instead."""

    def __init__(self, base: str, tls: ssl.SSLContext | None = None) -> None:
        self._behind = urlsplit(base)
        self.asked: list[tuple[str, str]] = []
        self.refuse: Refuse = lambda *_: None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        scheme, host = "http", "127.0.0.1"
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
            scheme, host = "https", "localhost"
        self.base = f"{scheme}://{host}:{self.server.server_port}{self._behind.path}"

    def paths(self, method: str = "GET") -> list[str]:
        """Without queries."""
        return [path.partition("?")[0] for sent, path in self.asked if sent == method]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                proxy.forward(self)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def forward(self, request: BaseHTTPRequestHandler) -> None:
        """Pass one request on, and its answer back."""
        body = _body(request)
        self.asked.append((request.command, request.path))
        request.close_connection = True
        if (status := self.refuse(request.command, request.path)) is not None:
            request.send_response(status)
            request.send_header("content-length", "0")
            request.end_headers()
            return
        assert self._behind.hostname is not None
        behind = http.client.HTTPConnection(self._behind.hostname, self._behind.port, timeout=30)
        kept = ("accept", "authorization", "content-type")
        headers = {name: value for name, value in request.headers.items() if name.lower() in kept}
        try:
            behind.request(request.command, request.path, body=body or None, headers=headers)
            answer = behind.getresponse()
            request.send_response(answer.status)
            for name in ("content-type", "content-length"):
                if (value := answer.headers.get(name)) is not None:
                    request.send_header(name, value)
            request.end_headers()
            while piece := answer.read(2**18):
                request.wfile.write(piece)
        except OSError:
            pass  # the other side has gone
        finally:
            behind.close()


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("transfer-encoding", "").lower() != "chunked":
        return request.rfile.read(int(request.headers.get("content-length") or 0))
    body = b""
    while size := int(request.rfile.readline().split(b";")[0], 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body


@contextmanager
def running_proxy(base: str, tls: ssl.SSLContext | None = None) -> Iterator[DicomwebProxy]:
    """One in front of the DICOMweb server at ``base``; with ``tls`` at https://localhost."""
    proxy = DicomwebProxy(base, tls)
    thread = threading.Thread(target=proxy.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()
