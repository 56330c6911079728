"""A client of the platform's HTTP API and its WebSocket, for the command line and the demo.

Failures come as the classes of :mod:`medical_image_processing.errors`, with the code and the sentence the
platform gave; where no platform answers, Unavailable ``PLATFORM_UNREACHABLE``.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shlex
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode, urlsplit

import httpx

from medical_image_processing.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    MipError,
    NotFound,
    StaleRevision,
    Throttled,
    Unauthorized,
    Unavailable,
)

if TYPE_CHECKING:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import ClientConnection

DEFAULT_BASE = "http://127.0.0.1:8080"
PONG_S = 20.0
"""How long a platform of one process may take to answer a ping of the WebSocket protocol."""
# The key of the seed's curl lines; a platform takes it only while it listens on loopback alone (law A2).
_LOOPBACK_ADMIN_KEY = "dev-admin"
_LOOPBACK_PACS_KEY = "devkey"

_CLIENT_KEY = "MIP_CLIENT_KEY"
_KEYS = {"admin": "MIP_ADMIN_KEY", "pacs": "PACS_API_KEY"}
"""Which variable holds the key that opens what lies below a first segment, where it is not the client's."""
_ERRORS: Mapping[int, Callable[[str, str], MipError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: StaleRevision,
    429: Throttled,
}


def results_address(environ: Mapping[str, str]) -> str | None:
    """``WS_ENDPOINT``, where it was set together with the address in use: a gateway's is on another host."""
    base = environ.get("MIP_API_BASE") or environ.get("API_BASE")
    return environ.get("WS_ENDPOINT") if base and base == environ.get("API_BASE") else None


def read_env(file: Path) -> dict[str, str]:
    """The ``export NAME=value`` lines of a platform's ``HOME/env``."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("export ")]
    return dict(shlex.split(line)[1].split("=", 1) for line in lines)


class Client:
    """Speaks to one platform. Use as a context manager.

    ``base`` is its address, with a path where it has one. ``admin_key`` goes with ``/admin`` calls only,
    ``client_key`` with all others, or ``client_token`` of an OIDC issuer; ``pacs_key`` goes to the PACS API.
    ``ws_endpoint`` is where results come, unless that is ``/ws`` below ``base``. ``admin_secret`` is where the
    admin key lies in Secrets Manager; it is read when it is first needed.
    """

    def __init__(
        self,
        base: str,
        *,
        admin_key: str | None = None,
        client_key: str | None = None,
        client_token: str | None = None,
        ws_endpoint: str | None = None,
        admin_secret: str | None = None,
        pacs_key: str | None = None,
    ) -> None:
        self.base = base.rstrip("/")
        if not self.base.startswith(("http://", "https://")):
            raise InvalidRequest("BAD_ADDRESS", f"MIP_API_BASE is '{base}'; it must be like {DEFAULT_BASE}")
        self._is_loopback = _is_loopback(base)
        own = f"ws{self.base.removeprefix('http')}/ws"
        self._ws_endpoint = (ws_endpoint or own).rstrip("/")
        # API Gateway promises no pong, so a connection to it is not given up for want of one.
        self._pong_s = PONG_S if self._ws_endpoint == own else None
        self._admin_secret = admin_secret if admin_key is None else None
        loopback_key = _LOOPBACK_ADMIN_KEY if self._is_loopback and not admin_secret else None
        self._admin_key = admin_key or loopback_key
        self._client_key = client_key
        self._client_token = client_token
        self._pacs_key = pacs_key or (_LOOPBACK_PACS_KEY if self._is_loopback else None)
        given = {
            "MIP_ADMIN_KEY": admin_key,
            "MIP_CLIENT_KEY": client_key,
            "MIP_CLIENT_TOKEN": client_token,
            "PACS_API_KEY": pacs_key,
        }
        for name, key in given.items():
            if key and not (key.isascii() and key.isprintable()):
                raise InvalidRequest("BAD_KEY", f"{name} holds characters that no key has; set it again")
        # A proxy for the outside world is not asked for this machine's own address; SSL_CERT_FILE holds for all.
        self._http = httpx.Client(timeout=30, trust_env=not self._is_loopback, verify=_trusted())

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """The platform that ``MIP_API_BASE``, else ``API_BASE``, names, with the keys beside it."""
        base = environ.get("MIP_API_BASE") or environ.get("API_BASE") or DEFAULT_BASE
        return cls(
            base,
            admin_key=environ.get("MIP_ADMIN_KEY") or None,
            client_key=environ.get("MIP_CLIENT_KEY"),
            client_token=environ.get("MIP_CLIENT_TOKEN"),
            pacs_key=environ.get("PACS_API_KEY"),
            ws_endpoint=results_address(environ),
            admin_secret=environ.get("MIP_ADMIN_SECRET") if base == environ.get("API_BASE") else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        *path: str,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """One call; the answer's JSON, None when it has none. ``path`` is given segment by segment."""
        url = "/".join([self.base, *(quote(segment, safe="") for segment in path)])
        wanted = {name: value for name, value in (params or {}).items() if value is not None}
        sent = {**self._key(path[0]), **(headers or {})}
        answer = self._send(method, url, body, wanted, sent)
        if answer.status_code == 401 and path[0] == "admin" and self._has_previous_key():
            # A key that was just rotated opens within a minute; until then the one before does.
            answer = self._send(method, url, body, wanted, {**sent, **self._key("admin")})
        if not answer.is_success:
            raise _error(answer, self.base, _KEYS.get(path[0], _CLIENT_KEY))
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise self._not_a_platform() from error

    def _send(
        self, method: str, url: str, body: Any, params: Mapping[str, Any], headers: Mapping[str, str]
    ) -> httpx.Response:
        try:
            return self._http.request(method, url, json=body, params=params, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error

    @contextmanager
    def results(self, client_id: str) -> Iterator[Results]:
        """The WebSocket on which the results for ``client_id`` come, those it missed first."""
        # Most commands need no WebSocket, and importing this takes a while.
        from websockets.exceptions import InvalidStatus, WebSocketException
        from websockets.sync.client import connect

        try:
            socket = connect(
                f"{self._ws_endpoint}?{urlencode({'client_id': client_id})}",
                additional_headers=self._key("ws"),
                proxy=None if _is_loopback(self._ws_endpoint) else True,
                max_size=None,
                ping_timeout=self._pong_s,
            )
        except InvalidStatus as error:
            raise _refused(error, self.base) from error
        except (WebSocketException, OSError, ValueError) as error:
            raise self._unreachable(error) from error
        with socket:
            yield Results(socket)

    def download(self, url: str, file: Path) -> int:
        """Fetch a result by its signed ``url`` into ``file``, whole or not at all; the bytes written."""
        try:
            with self._http.stream("GET", url) as answer:
                if not answer.is_success:
                    raise Unavailable(
                        "DOWNLOAD_FAILED",
                        f"the result's link answered {answer.status_code}; links expire: ask for a new one "
                        "with `mip jobs show`",
                    )
                return _write(answer.iter_bytes(), file)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = _distrust(error, urlsplit(url).netloc) or "the result's link does not answer; try again"
            raise Unavailable("DOWNLOAD_FAILED", why) from error

    def _key(self, first_segment: str) -> dict[str, str]:
        if first_segment == "admin":
            if self._admin_key is None and self._admin_secret:
                self._admin_key = _read_secret(self._admin_secret, stage="AWSCURRENT")
            return {"x-admin-key": self._admin_key} if self._admin_key else {}
        if first_segment == "pacs":
            return {"x-api-key": self._pacs_key} if self._pacs_key else {}
        if self._client_token:
            return {"authorization": f"Bearer {self._client_token}"}
        return {"x-api-key": self._client_key} if self._client_key else {}

    def _has_previous_key(self) -> bool:
        """Whether the secret has a key before this one; then that is the key from now on."""
        arn, self._admin_secret = self._admin_secret, None
        previous = _read_secret(arn, stage="AWSPREVIOUS") if arn else None
        self._admin_key = previous or self._admin_key
        return previous is not None

    def _unreachable(self, error: Exception) -> Unavailable:
        return Unavailable(
            "PLATFORM_UNREACHABLE",
            _distrust(error, self.base)
            or f"no platform answers at {self.base}; start one with `mip up`, or set MIP_API_BASE to its address",
        )

    def _not_a_platform(self) -> Unavailable:
        return Unavailable(
            "NOT_A_PLATFORM", f"what answers at {self.base} is no platform; check MIP_API_BASE and its port"
        )


class Results:
    """Result messages as they come (CONTRACT.md, "Result message")."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """The next message, or None after ``timeout_s``. Unavailable ``CONNECTION_LOST``."""
        from websockets.exceptions import WebSocketException

        try:
            message = json.loads(self._socket.recv(timeout=timeout_s))
        except TimeoutError:
            return None
        except (WebSocketException, OSError, ValueError) as error:
            raise Unavailable("CONNECTION_LOST", "the platform closed the WebSocket; try again") from error
        if not isinstance(message, dict):
            return None
        with suppress(WebSocketException, OSError):  # it comes again then
            self._socket.send(json.dumps({"type": "received", "job_id": message.get("job_id")}))
        return message


def _read_secret(arn: str, *, stage: str) -> str | None:
    from medical_image_processing.entrypoints.deploy.account import Account

    region = arn.split(":")[3] if arn.count(":") >= 6 else None  # an ARN names its region
    return Account(region).secret(arn, stage=stage)


def _trusted() -> ssl.SSLContext:
    """Whose certificates are believed: of the authorities that SSL_CERT_FILE names, else of the usual ones."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # also what ssl says of a file with no certificate in it
        raise InvalidRequest(
            "BAD_CERTIFICATES",
            "SSL_CERT_FILE names no file of certificates (PEM) that can be read; set it to your authority's, or "
            "unset it",
        ) from error


def _distrust(error: BaseException | None, where: str) -> str | None:
    """What to do about a certificate, where that is why a call failed."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    if error is None:
        return None
    return (
        f"the certificate of {where} is not trusted: {error.verify_message}; set SSL_CERT_FILE to the PEM file of "
        "the authority that issued it"
    )


def _is_loopback(base: str) -> bool:
    try:
        host = urlsplit(base).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _error(answer: httpx.Response, base: str, key: str = _CLIENT_KEY) -> MipError:
    try:
        said = answer.json()["error"]
        code, message = str(said["code"]), str(said["message"])
    except (ValueError, KeyError, TypeError):
        return Unavailable("NOT_A_PLATFORM", f"{base} answered {answer.status_code}; check MIP_API_BASE")
    if answer.status_code == 401:
        message = f"{message}: set {key}, or run `. HOME/env` of the platform"
    if answer.status_code >= 500:
        return Unavailable(code, message)
    return _ERRORS.get(answer.status_code, InvalidRequest)(code, message)


def _refused(error: InvalidStatus, base: str) -> MipError:
    refusal = error.response
    return _error(httpx.Response(refusal.status_code, content=bytes(refusal.body or b"")), base)


def _write(chunks: Iterator[bytes], file: Path) -> int:
    """Write beside ``file`` and rename, so that a broken download leaves nothing behind."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as temporary:
        partial = Path(temporary.name)
        try:
            size = sum(temporary.write(chunk) for chunk in chunks)
        except BaseException:
            partial.unlink()
            raise
    partial.chmod(0o600)
    partial.replace(file)
    return size
