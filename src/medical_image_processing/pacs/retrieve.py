"""Downloads from a DICOMweb server, piece by piece, in threads: a series is hundreds of megabytes, and an event
loop that had to take each packet would do nothing else meanwhile.

Every wait has a limit, and so has all of it; Everything here blocks.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from medical_image_processing.errors import MipError, NotFound, PermanentError, Unavailable

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
    """How long a server may take. It must send ``stall_bytes`` within every ``stall_s`` that we wait for it."""

    connect_s: float = 5.0
    wait_s: float = 30.0
    stall_s: float = 30.0
    stall_bytes: int = 65_536
    total_s: float = 280.0
    search_s: float = 60.0


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

    def get(self, address: str, accept: str) -> Download:
        """The answer to one GET, whose status is good. NotFound, PermanentError or Unavailable otherwise."""
        headers = {"accept": accept}
        if self._server.authorization:
            headers["authorization"] = self._server.authorization
        connection, is_fresh = self._connection()
        while True:
            try:
                connection.request("GET", self._path + address, headers=headers)
                response = connection.getresponse()
                break
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
        return Download(self, connection, response, self._limits)

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
        return made


class Download:
    """One answer's body. Close it."""

    def __init__(
        self,
        retriever: Retriever,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        limits: Limits,
    ) -> None:
        self._retriever = retriever
        self._connection = connection
        self._response = response
        self._limits = limits
        self._waited_s = 0.0
        self._window: tuple[float, int] = (0.0, 0)
        self.content_type = response.headers.get("content-type", "")

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes. Unavailable when it breaks off, or comes too slowly."""
        while data := self._read():
            yield data
        if self._response.length:
            raise unavailable("an image broke off")

    def close(self) -> None:
        """Leave the connection to the next one where it is fit for that."""
        if self._response.isclosed() and self._connection.sock is not None:
            self._retriever.put_back(self._connection)
        else:
            self._response.close()
            self._connection.close()

    def _read(self) -> bytes:
        begun = time.monotonic()
        try:
            data = self._response.read1(_READ)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise unavailable(f"an image broke off: {type(error).__name__}") from error
        waited = time.monotonic() - begun
        self._waited_s += waited
        window_s, window_bytes = self._window[0] + waited, self._window[1] + len(data)
        if window_s > self._limits.stall_s and data:
            if window_bytes < self._limits.stall_bytes:
                least, within = self._limits.stall_bytes, self._limits.stall_s
                raise unavailable(f"it sends too slowly: less than {least} bytes in {within:g} s")
            window_s, window_bytes = 0.0, 0
        self._window = (window_s, window_bytes)
        if self._waited_s > self._limits.total_s:
            raise unavailable(f"it takes longer than {self._limits.total_s:g} s to send what was asked for")
        return data


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
