"""Downloads from a DICOMweb server, piece by piece, in threads: a series is hundreds of megabytes, and an event
loop that had to take each packet would do nothing else meanwhile.

Every wait has a limit, and so has all of it, whatever the server is at: its headers, its chunks or what it adds
behind them. Everything here blocks, until another thread cuts the line.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from medical_image_processing.errors import MipError, NotFound, PermanentError, Unavailable
from medical_image_processing.incoming import Incoming

_READ = 2**20
_MOST_IDLE = 16
_IDLE_S = 0.8
"""Orthanc closes a connection after a second without a request."""


@dataclass(frozen=True)
class DicomwebServer:
    """Where a server is and what lets us in; ``authorization`` is a header, ``Basic …`` or ``Bearer …``."""

    base: str
    authorization: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Limits:
    """How long a server may take, in s.

    Until the answer's headers are here ``wait_s``, then ``total_s``, of which it must send ``stall_bytes`` within
    every ``stall_s``. Only the time counts in which we wait for it. A person's search ends after ``look_s``, with
    what is found by then, as API Gateway waits for 29.
    """

    connect_s: float = 5.0
    wait_s: float = 30.0
    stall_s: float = 30.0
    stall_bytes: int = 65_536
    total_s: float = 280.0
    search_s: float = 60.0
    look_s: float = 20.0


class Line:
    """What one reader's download waits for, so that another thread can end that wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_cut = False

    def hold(self, source: socket.socket | None) -> None:
        """This socket from now on; None for none. Unavailable once the line is cut."""
        with self._lock:
            self._socket = source
            if self._is_cut and source is not None:
                raise unavailable("its image is not wanted any more")

    def cut(self) -> None:
        """The reader has gone: the connection ends now."""
        with self._lock:
            self._is_cut = True
            if self._socket is not None:
                with suppress(OSError):
                    # Not SSLSocket's own, which would go on to read what is left as if it were plain text.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Retriever:
    """Asks one server; connections are used again."""

    def __init__(self, server: DicomwebServer, limits: Limits) -> None:
        self._server = server
        self._limits = limits
        parts = urlsplit(server.base)
        self._is_tls, self._host, self._port = parts.scheme == "https", parts.hostname or "", parts.port
        self._path = parts.path.rstrip("/")
        self._tls = (server.tls or ssl.create_default_context()) if self._is_tls else None
        self._idle: list[tuple[http.client.HTTPConnection, float]] = []
        self._lock = threading.Lock()

    def get(self, address: str, accept: str, line: Line) -> Download:
        """The answer to one GET, whose status is good. NotFound, PermanentError or Unavailable otherwise."""
        headers = {"accept": accept}
        if self._server.authorization:
            headers["authorization"] = self._server.authorization
        connection, is_fresh = self._connection()
        while True:
            try:
                line.hold(connection.sock)
                connection.request("GET", self._path + address, headers=headers)
                response = connection.getresponse()
                break
            except MipError:
                connection.close()
                raise
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if is_fresh or isinstance(error, TimeoutError):
                    raise unavailable(f"it can't be reached: {why_unreachable(error)}") from error
                connection, is_fresh = self._new(), True
        if (fault := problem(response.status, response.headers.get("retry-after"))) is not None:
            connection.close()
            raise fault
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            connection.close()
            raise unavailable("an image came in an encoding that was not asked for")
        assert isinstance(response, _Response)
        response.incoming.begin_body()
        return Download(self, connection, response, line)

    def put_back(self, connection: http.client.HTTPConnection) -> None:
        """The connection can be used again."""
        with self._lock:
            if len(self._idle) < _MOST_IDLE:
                self._idle.append((connection, time.monotonic()))
                return
        connection.close()

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        while True:
            with self._lock:
                if not self._idle:
                    break
                connection, since = self._idle.pop()
            if time.monotonic() - since < _IDLE_S:
                return connection, False
            connection.close()
        return self._new(), True

    def _new(self) -> http.client.HTTPConnection:
        if self._is_tls:
            made: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._limits.connect_s, context=self._tls
            )
        else:
            made = http.client.HTTPConnection(self._host, self._port, timeout=self._limits.connect_s)
        try:
            made.connect()
        except OSError as error:
            raise unavailable(f"it can't be reached: {why_unreachable(error)}") from error
        made.sock.settimeout(self._limits.wait_s)
        made.response_class = partial(_Response, limits=self._limits)  # type: ignore[assignment]
        return made


class _Watched(Incoming):
    """What one answer's socket receives, within the limits. ``held``, which keeps it open, is closed with it."""

    def __init__(self, source: socket.socket, held: io.IOBase, limits: Limits) -> None:
        super().__init__(source, limits.wait_s)
        self._held = held
        self._limits = limits
        self._window: tuple[float, int] | None = None
        self.deadline = time.monotonic() + limits.wait_s

    def begin_body(self) -> None:
        """The headers are here."""
        self.deadline = time.monotonic() + self._limits.total_s
        self._window = (0.0, 0)

    def readinto(self, buffer: Any) -> int:
        """As :class:`Incoming`; Unavailable when the body comes too slowly."""
        begun = time.monotonic()
        if self._window is None:
            return super().readinto(buffer)
        if begun >= self.deadline:
            raise unavailable(f"it takes longer than {self._limits.total_s:g} s to send what was asked for")
        size = super().readinto(buffer)
        window_s, window_bytes = self._window[0] + time.monotonic() - begun, self._window[1] + size
        if window_s > self._limits.stall_s and size:
            if window_bytes < self._limits.stall_bytes:
                least, within = self._limits.stall_bytes, self._limits.stall_s
                raise unavailable(f"it sends too slowly: less than {least} bytes in {within:g} s")
            window_s, window_bytes = 0.0, 0
        self._window = (window_s, window_bytes)
        return size

    def close(self) -> None:
        """Nothing more is read."""
        self._held.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """Every byte of it is read through :class:`_Watched`."""

    def __init__(self, source: socket.socket, *more: Any, limits: Limits, **named: Any) -> None:
        super().__init__(source, *more, **named)
        self.incoming = _Watched(source, self.fp, limits)
        self.fp = io.BufferedReader(self.incoming, 65_536)


class Download:
    """One answer's body. Close it."""

    def __init__(
        self, retriever: Retriever, connection: http.client.HTTPConnection, response: _Response, line: Line
    ) -> None:
        self._retriever = retriever
        self._connection = connection
        self._response = response
        self._line = line
        self.content_type = response.headers.get("content-type", "")
        self.length: int | None = response.length
        """In bytes, where the server says it."""
        self.is_framed = response.length is not None or bool(response.chunked)
        """Whether the end of the body can be told from a connection that broke."""

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes. Unavailable when it breaks off, or comes too slowly."""
        while data := self._read():
            begun = time.monotonic()
            yield data
            self._response.incoming.deadline += time.monotonic() - begun
        if self._response.length:
            raise unavailable("an image broke off")

    def close(self) -> None:
        """Leave the connection to the next one where it is fit for that."""
        self._line.hold(None)
        if self._response.length == 0:
            self._response.close()
        if self._response.isclosed() and self._connection.sock is not None:
            self._retriever.put_back(self._connection)
        else:
            self._response.close()
            self._connection.close()

    def _read(self) -> bytes:
        try:
            return self._response.read1(_READ)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise unavailable(f"an image broke off: {why_unreachable(error)}") from error


def problem(status: int, retry_after: str | None = None) -> MipError | None:
    """What an answer's status says is wrong; None for a good one."""
    if status in (200, 204, 206):
        return None
    if status in (404, 410):
        return NotFound("IMAGE_NOT_FOUND", "the PACS has no such image any more; ask for a new link")
    if status in (401, 403):
        # Not the caller's fault, and mended by the operator: the job waits for that.
        return unavailable(
            f"it refuses the platform ({status}); its user and password, or token, must be corrected"
        )
    if status == 429 or status >= 500:
        text = retry_after or ""
        return unavailable(
            f"it answers {status}", min(float(text), 300.0) if text.isdecimal() and len(text) < 6 else 5.0
        )
    return PermanentError(
        "PACS_REFUSED", f"the DICOMweb server answers {status}; is its address the DICOMweb root?"
    )


def why_unreachable(error: BaseException) -> str:
    """What a person can act on, from the failure itself or from what caused it; nothing of what a peer wrote."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__
    for kind, why in (
        (
            ssl.SSLCertVerificationError,
            "its certificate is not one that is trusted; --pacs-ca-file names who signs it",
        ),
        (ssl.SSLError, "TLS fails; is its address https, and does it want a client certificate?"),
        (socket.gaierror, "there is no host of that name"),
        (ConnectionRefusedError, "nothing listens there; is it running, and is the port right?"),
        (TimeoutError, "it does not answer in time"),
    ):
        if any(isinstance(one, kind) for one in found):
            return why
    return type(error).__name__


def unavailable(what: str, retry_after_s: float = 5.0) -> Unavailable:
    """The server is in trouble, which may pass."""
    return Unavailable("PACS_UNAVAILABLE", f"the DICOMweb server: {what}", retry_after_s=retry_after_s)
