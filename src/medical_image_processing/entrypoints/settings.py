"""What `mip up` was asked to do, read once."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from medical_image_processing.entrypoints.dimse_options import DimseSettings
from medical_image_processing.entrypoints.pacs_options import CACHE_MIB
from medical_image_processing.entrypoints.public_address import PublicUrl, parse_public_url
from medical_image_processing.errors import InvalidRequest
from medical_image_processing.pacs.retrieve import DicomwebServer

RUNTIMES = ("docker", "process")
EVERY_IPV4 = "0.0.0.0"  # noqa: S104 - compared, not bound
QUEUE_LIMIT = 200_000
STOP_GRACE_S = 5.0


@dataclass(frozen=True)
class Settings:
    """The platform's configuration. ``port`` 0 takes a free one; ``pacs`` is a folder of DICOM files, or a server.

    ``runtime`` is one of :data:`RUNTIMES`, None for docker where an engine answers.
    """

    home: Path
    pacs: Path | DicomwebServer
    host: str = "127.0.0.1"
    port: int = 8080
    runtime: str | None = None
    allow_commands: Path | None = None
    client_keys: Path | None = None
    open_clients: bool = False
    allow_origins: tuple[str, ...] = ("http://localhost:3000", "http://127.0.0.1:3000")
    admin_key: str | None = field(default=None, repr=False)
    queue_limit: int = QUEUE_LIMIT
    pacs_cache_mib: int = CACHE_MIB
    may_store: bool = True
    """Whether results may be stored in the PACS: not in the sample that stands in for one."""
    dimse: DimseSettings | None = None
    """None where no C-STORE is taken."""
    public_url: str | None = None
    """Where clients reach a proxy that passes on to the platform; None where they reach the platform itself."""

    @property
    def is_private(self) -> bool:
        """Whether only this machine can reach the platform: it is on loopback, and no proxy passes on to it."""
        return self.public_url is None and self.is_on_loopback

    @property
    def is_on_loopback(self) -> bool:
        """Whether it listens where only programs on this machine can call it, as a proxy does."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def public_address(self) -> PublicUrl | None:
        """``public_url``, taken apart; None where clients call the platform itself. InvalidRequest."""
        return None if self.public_url is None else parse_public_url(self.public_url)

    @property
    def local_host(self) -> str:
        """A name under which this machine itself reaches the platform."""
        host = {EVERY_IPV4: "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"[{host}]" if ":" in host else host

    def check(self) -> None:
        """Raise InvalidRequest when this would be unsafe or can't work; the message says what to do."""
        _ = self.public_address  # raises
        if not 0 <= self.port <= 65535:
            raise InvalidRequest("BAD_PORT", f"--port {self.port}: ports are 0 to 65535; 0 takes a free one")
        if self.dimse is not None and not self.may_store:
            raise InvalidRequest("DIMSE_OPTIONS", "--dimse-port: what nodes send needs a PACS; give --pacs")
        if self.runtime not in (None, *RUNTIMES):
            raise InvalidRequest("BAD_RUNTIME", f"--runtime {self.runtime}: it is docker or process")
        if self.allow_commands is not None and self.runtime == "docker":
            raise InvalidRequest(
                "COMMANDS_NEED_PROCESSES",
                "--allow-commands is for workers that are processes: add --runtime process, or leave it out; "
                "containers run any command of their image",
            )
        reached = f"--host {self.host}" if self.public_url is None else "--public-url"
        if not self.is_private and self.client_keys is None and not self.open_clients:
            raise InvalidRequest(
                "CLIENTS_UNPROTECTED",
                f"{reached} lets other machines in, so clients need keys: give --client-keys FILE "
                "(make it with `mip keys add NAME --file FILE`), or --open-clients if anybody there may "
                "send jobs and read results",
            )
        if not self.is_private and self.admin_key is not None and len(self.admin_key) < 16:
            raise InvalidRequest(
                "WEAK_ADMIN_KEY",
                "MIP_ADMIN_KEY is too short for a platform that other machines reach; use 16 characters or "
                "more, or leave it unset and one is made",
            )
        pacs = self.pacs if isinstance(self.pacs, Path) else None
        for name, folder in (("--pacs", pacs), ("--allow-commands", self.allow_commands)):
            if folder is not None and not folder.is_dir():
                raise InvalidRequest("NO_SUCH_FOLDER", f"{name} {folder}: there is no such folder")
