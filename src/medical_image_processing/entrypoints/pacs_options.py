"""What `mip up` was told of its PACS: a folder, or a DICOMweb server and what lets us in.

Secrets are read from files, once, and are never shown; messages name the option and never what a file holds.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import os
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from medical_image_processing.errors import InvalidRequest
from medical_image_processing.pacs.retrieve import DicomwebServer

_LOG = logging.getLogger(__name__)
_MOST_SECRET_BYTES = 16_384
CACHE_MIB = 2048


@dataclass(frozen=True)
class PacsOptions:
    """The options as given. ``pacs`` is a folder or an http address; the others are for the latter."""

    pacs: str | None = None
    user: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    ca_file: Path | None = None
    cache_mib: int | None = None

    @property
    def is_server(self) -> bool:
        """Whether the PACS is a DICOMweb server."""
        return self.pacs is not None and "://" in self.pacs

    def server(self) -> DicomwebServer | None:
        """The server; None for a folder. InvalidRequest that names the option that is wrong."""
        given = [name for name, value in self._server_options().items() if value is not None]
        if not self.is_server:
            if given:
                raise InvalidRequest(
                    "PACS_OPTIONS",
                    f"{given[0]} is for a DICOMweb server: give its address, as --pacs http://HOST:PORT/dicom-web",
                )
            return None
        assert self.pacs is not None
        base = _checked_base(self.pacs)
        authorization = self._authorization()
        if authorization and base.startswith("http://") and not _is_local(base):
            _LOG.warning("--pacs is no https address: the PACS's password or token crosses the network in clear")
        return DicomwebServer(base, authorization, self._tls(base))

    def _server_options(self) -> dict[str, object]:
        return {
            "--pacs-user": self.user,
            "--pacs-password-file": self.password_file,
            "--pacs-token-file": self.token_file,
            "--pacs-client-certificate": self.client_certificate,
            "--pacs-client-key": self.client_key,
            "--pacs-ca-file": self.ca_file,
            "--pacs-cache-mib": self.cache_mib,
        }

    def _authorization(self) -> str | None:
        if self.token_file is not None:
            if self.user is not None or self.password_file is not None:
                raise _wrong("--pacs-token-file", "a token goes without --pacs-user and --pacs-password-file")
            token = _read_secret("--pacs-token-file", self.token_file)
            if not token.isascii() or not token.isprintable() or " " in token:
                raise _wrong("--pacs-token-file", "the file must hold one token, and nothing else")
            return f"Bearer {token}"
        if (self.user is None) != (self.password_file is None):
            raise _wrong("--pacs-user", "it goes with --pacs-password-file, and that with it")
        if self.user is None or self.password_file is None:
            return None
        if ":" in self.user or not self.user.isprintable():
            raise _wrong("--pacs-user", "a name holds no colon and no control character (RFC 7617)")
        password = _read_secret("--pacs-password-file", self.password_file)
        return "Basic " + base64.b64encode(f"{self.user}:{password}".encode()).decode()

    def _tls(self, base: str) -> ssl.SSLContext | None:
        given = self.client_certificate or self.client_key or self.ca_file
        if given is None:
            return None
        if not base.startswith("https://"):
            raise _wrong("--pacs", "certificates need an https address")
        if self.client_key is not None and self.client_certificate is None:
            raise _wrong("--pacs-client-key", "it goes with --pacs-client-certificate")
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise _wrong("--pacs-ca-file", f"{self.ca_file} can't be used: {_reason(error)}") from error
        if self.client_certificate is not None:
            try:
                context.load_cert_chain(self.client_certificate, self.client_key, password=_no_password)
            except (OSError, ssl.SSLError, ValueError) as error:
                raise _wrong(
                    "--pacs-client-certificate",
                    f"it or its key can't be used: {_reason(error)}; both are PEM, the key unencrypted",
                ) from error
        return context


def _checked_base(address: str) -> str:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise _wrong("--pacs", "it is no address, as http://HOST:PORT/dicom-web") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise _wrong("--pacs", "it is neither a folder nor an address, as http://HOST:PORT/dicom-web")
    if parts.username is not None or parts.password is not None:
        raise _wrong("--pacs", "a password doesn't belong into an address: give --pacs-user and a file")
    if parts.query or parts.fragment or not address.isascii() or not address.isprintable() or " " in address:
        raise _wrong("--pacs", "an address of a DICOMweb server has no '?', no '#' and no blanks")
    return address.rstrip("/")


def _is_local(base: str) -> bool:
    host = urlsplit(base).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_secret(option: str, file: Path) -> str:
    try:
        with file.expanduser().open("rb") as stream:
            if os.fstat(stream.fileno()).st_mode & (stat.S_IRGRP | stat.S_IROTH):
                _LOG.warning("%s: other users can read the file; `chmod 600` it", option)
            content = stream.read(_MOST_SECRET_BYTES + 1)
        text = content.decode().rstrip("\r\n")
    except OSError as error:
        raise _wrong(option, f"{file} can't be read: {_reason(error)}") from error
    except UnicodeDecodeError as error:
        raise _wrong(option, f"{file} is no UTF-8 text") from error
    if not text or len(content) > _MOST_SECRET_BYTES or "\n" in text:
        raise _wrong(option, f"{file} must hold one line, and nothing else")
    return text


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "it is no certificate"
    return str(error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)


def _wrong(option: str, what: str) -> InvalidRequest:
    return InvalidRequest("PACS_OPTIONS", f"{option}: {what}")
