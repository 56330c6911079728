"""A small HTTP/1.1 client with connections that stay open.

A worker makes four calls a job. ``http.client`` costs 70 µs of CPU each, ``urllib3`` 230 µs, this 20 µs
(bench_signing.py), mostly because it does not parse headers as e-mail. It speaks what AWS, the platform and a
PACS send: Content-Length and chunked bodies, TLS checked against the system's authorities. No redirects, no
proxies.
"""

from __future__ import annotations

import contextlib
import io
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple
from urllib.parse import urlsplit

from medical_image_processing.errors import InputRejected, Unavailable
from medical_image_processing.incoming import Incoming

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
_MAX_LINE = 65_536
_MAX_HEADERS = 256
_JOINED_BODY = 65_536
_PIECE = 2**20


class Origin(NamedTuple):
    """Where connections go to."""

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """What the Host header says: no port where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Response:
    """A whole answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Streamed:
    """An answer whose body is still on its way. ``postpone(s)``: it has so many seconds more for all of it."""

    status: int
    headers: Mapping[str, str]
    pieces: Iterator[bytes]
    postpone: Callable[[float], None]


class ConnectionFailed(Unavailable):
    """No answer: refused, reset, timed out, or not HTTP."""

    def __init__(self, origin: Origin, reason: str) -> None:
        super().__init__("NO_ANSWER", f"{origin.netloc} does not answer: {reason}")


@cache
def origin_of(base: str) -> Origin:
    """The origin of an http or https address; ValueError if it is none."""
    parts = urlsplit(base)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("not an http or https address")
    return Origin(parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme])


class HttpClient:
    """Sends requests, from any thread, and keeps the connections for the next ones."""

    def __init__(
        self, *, connect_timeout_s: float = CONNECT_TIMEOUT_S, read_timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._idle: dict[Origin, list[_Connection]] = {}
        self._busy: set[_Connection] = set()
        self._lock = threading.Lock()
        self._hung_up = False

    def request(
        self,
        method: str,
        origin: Origin,
        target: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        max_bytes: int = 2**24,
        total_s: float = 120.0,
    ) -> Response:
        """One request and its whole answer, whatever its status.

        The answer must be whole within ``total_s`` of the request's last byte, however slowly it comes.
        A connection that the server had closed meanwhile is replaced, so requests must be safe to repeat.
        Raises :class:`ConnectionFailed`, and :class:`InputRejected` ``TOO_LARGE`` beyond ``max_bytes``.
        """
        connection, is_reused = self._take(origin)
        try:
            return self._ask(connection, method, target, headers, body, max_bytes, total_s)
        except _ClosedBeforeAnswer as error:
            if not is_reused or self._hung_up:
                raise ConnectionFailed(origin, "it closed the connection") from error
        connection = self._register(_Connection(origin, self._connect_timeout_s, self._read_timeout_s))
        try:
            return self._ask(connection, method, target, headers, body, max_bytes, total_s)
        except _ClosedBeforeAnswer as error:
            raise ConnectionFailed(origin, "it closed the connection") from error

    @contextlib.contextmanager
    def stream(
        self, origin: Origin, target: str, headers: Mapping[str, str], *, total_s: float
    ) -> Iterator[Streamed]:
        """A GET whose answer is read as it comes, over a connection of its own.

        Raises :class:`ConnectionFailed`, and so does the reading.
        """
        connection = self._register(_Connection(origin, self._connect_timeout_s, self._read_timeout_s))
        try:
            connection.send("GET", target, headers, b"")
            yield connection.receive_slowly(total_s)
        except _ClosedBeforeAnswer as error:
            raise ConnectionFailed(origin, "it closed the connection") from error
        except (OSError, ValueError) as error:
            raise ConnectionFailed(origin, _reason(error)) from error
        finally:
            self._put_back(connection, False)

    def hang_up(self) -> None:
        """Tell the servers of requests under way that no answer is wanted; one already sent is still read."""
        with self._lock:
            self._hung_up = True
            for connection in self._busy:
                connection.half_close()

    def _ask(
        self,
        connection: _Connection,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        max_bytes: int,
        total_s: float,
    ) -> Response:
        is_reusable = False
        try:
            connection.send(method, target, headers, body)
            response, is_reusable = connection.receive(max_bytes, total_s)
            return response
        except (OSError, ValueError) as error:
            raise ConnectionFailed(connection.origin, _reason(error)) from error
        finally:
            self._put_back(connection, is_reusable)

    def _take(self, origin: Origin) -> tuple[_Connection, bool]:
        while True:
            with self._lock:
                idle = self._idle.get(origin)
                connection = idle.pop() if idle else None
            if connection is None:
                new = _Connection(origin, self._connect_timeout_s, self._read_timeout_s)
                return self._register(new), False
            if connection.is_alive():
                return self._register(connection), True
            connection.close()

    def _register(self, connection: _Connection) -> _Connection:
        with self._lock:
            self._busy.add(connection)
            if self._hung_up:
                connection.half_close()
        return connection

    def _put_back(self, connection: _Connection, is_reusable: bool) -> None:
        with self._lock:
            self._busy.discard(connection)
            if is_reusable and not self._hung_up:
                self._idle.setdefault(connection.origin, []).append(connection)
                return
        connection.close()


class _ClosedBeforeAnswer(Exception):
    """The other side closed before the first byte of an answer."""


class _Connection:
    """One connection, one request at a time."""

    def __init__(self, origin: Origin, connect_timeout_s: float, read_timeout_s: float) -> None:
        self.origin = origin
        try:
            self._socket = _connected(origin, connect_timeout_s)
        except OSError as error:
            raise ConnectionFailed(origin, _reason(error)) from error
        self._socket.settimeout(read_timeout_s)
        self._incoming = Incoming(self._socket, read_timeout_s)
        self._file = io.BufferedReader(self._incoming, 65_536)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def is_alive(self) -> bool:
        """An idle connection has nothing to read unless it was closed."""
        return not self._poll.poll(0)

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def half_close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        lines = [f"{method} {target} HTTP/1.1\r\nhost: {self.origin.netloc}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
        if body or method not in ("GET", "HEAD"):
            lines.append(f"content-length: {len(body)}\r\n")
        head = "".join((*lines, "\r\n")).encode("latin-1")
        try:
            if len(body) <= _JOINED_BODY:
                self._socket.sendall(head + body)
            else:
                self._socket.sendall(head)
                # Piece by piece, since sendall's timeout is for all that it is given.
                view = memoryview(body)
                for start in range(0, len(body), _PIECE):
                    self._socket.sendall(view[start : start + _PIECE])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _ClosedBeforeAnswer from error

    def receive_slowly(self, total_s: float) -> Streamed:
        """The answer; its body is read by whoever takes the pieces."""
        self._incoming.deadline = time.monotonic() + total_s
        status, headers, _ = self._final_head()
        return Streamed(status, headers, self._pieces(headers), self._postpone)

    def _postpone(self, seconds: float) -> None:
        self._incoming.deadline += seconds

    def _pieces(self, headers: Mapping[str, str]) -> Iterator[bytes]:
        if headers.get("transfer-encoding", "").lower().endswith("chunked"):
            while size := int(self._file.readline(_MAX_LINE).partition(b";")[0], 16):
                yield from self._piecewise(size)
                self._file.readline(_MAX_LINE)
        elif (length := headers.get("content-length")) is not None:
            yield from self._piecewise(int(length))
        else:
            while part := self._file.read1(_PIECE):
                yield part

    def _piecewise(self, length: int) -> Iterator[bytes]:
        while length > 0:
            part = self._file.read1(min(length, _PIECE))
            if not part:
                raise ValueError("the answer was cut short")
            length -= len(part)
            yield part

    def receive(self, max_bytes: int, total_s: float) -> tuple[Response, bool]:
        """The answer, and whether the connection can be used again."""
        self._incoming.deadline = time.monotonic() + total_s
        status, headers, version = self._final_head()
        is_open = version == b"HTTP/1.1" and headers.get("connection", "").lower() != "close"
        if headers.get("transfer-encoding", "").lower().endswith("chunked"):
            body = self._chunks(max_bytes)
        elif status in (204, 304):
            body = b""
        elif (length := headers.get("content-length")) is not None:
            body = self._exactly(int(length), max_bytes)
        else:
            body, is_open = self._until_closed(max_bytes), False
        return Response(status, headers, body), is_open

    def _final_head(self) -> tuple[int, dict[str, str], bytes]:
        status, headers, version = self._head()
        while 100 <= status < 200:
            status, headers, version = self._head()
        return status, headers, version

    def _head(self) -> tuple[int, dict[str, str], bytes]:
        try:
            start = self._file.readline(_MAX_LINE)
        except ConnectionResetError as error:
            raise _ClosedBeforeAnswer from error
        if not start:
            raise _ClosedBeforeAnswer
        version, _, rest = start.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            raise ValueError("the answer is not HTTP/1.1")
        headers: dict[str, str] = {}
        for _ in range(_MAX_HEADERS):
            line = self._file.readline(_MAX_LINE)
            if line in (b"\r\n", b"\n"):
                return int(rest[:3]), headers, version
            name, colon, value = line.partition(b":")
            if not colon:
                raise ValueError("the answer's headers are broken")
            headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        raise ValueError("the answer has too many headers")

    def _exactly(self, length: int, max_bytes: int) -> bytes:
        if length < 0:
            raise ValueError("the answer has a negative length")
        if length > max_bytes:
            raise _too_large(max_bytes)
        parts = []
        while length > 0:
            part = self._file.read1(min(length, 2**20))
            if not part:
                raise ValueError("the answer was cut short")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _chunks(self, max_bytes: int) -> bytes:
        parts: list[bytes] = []
        total = 0
        while size := int(self._file.readline(_MAX_LINE).partition(b";")[0], 16):
            total += size
            parts.append(self._exactly(size, max_bytes - total + size))
            self._file.readline(_MAX_LINE)
        while self._file.readline(_MAX_LINE) not in (b"\r\n", b"\n", b""):
            pass  # trailers
        return b"".join(parts)

    def _until_closed(self, max_bytes: int) -> bytes:
        parts: list[bytes] = []
        total = 0
        while part := self._file.read1(2**20):
            parts.append(part)
            total += len(part)
            if total > max_bytes:
                raise _too_large(max_bytes)
        return b"".join(parts)


def _connected(origin: Origin, timeout_s: float) -> socket.socket:
    plain = socket.create_connection((origin.host, origin.port), timeout_s)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if origin.scheme == "http":
        return plain
    try:
        return _tls_context().wrap_socket(plain, server_hostname=origin.host)
    except BaseException:
        plain.close()
        raise


@cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()


def _too_large(max_bytes: int) -> InputRejected:
    return InputRejected("TOO_LARGE", f"the answer is larger than {max_bytes} bytes; ask for less at once")


def _reason(error: Exception) -> str:
    """Why a connection failed, in words that hold no address and no content."""
    if isinstance(error, TimeoutError):
        return "it takes too long"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or type(error).__name__})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) if isinstance(error, ValueError) else type(error).__name__
