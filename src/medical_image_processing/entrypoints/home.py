"""The platform's home directory: one platform at a time, its secrets, and the ``env`` file for shells."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from medical_image_processing.entrypoints.settings import Settings
from medical_image_processing.errors import Conflict, Unavailable

LOOPBACK_ADMIN_KEY = "dev-admin"
LOOPBACK_PACS_KEY = "devkey"


@dataclass(frozen=True)
class Secrets:
    """What only the operator may know. Made once, kept in a file that only its owner can read."""

    admin_key: str
    pacs_key: str
    operator_access_key_id: str
    operator_secret_access_key: str
    link_secret: str
    pseudonym_secret: str


class Home:
    """A directory that belongs to one running platform. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __enter__(self) -> Home:
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(
                "HOME_UNUSABLE", f"--home {self.path} can't be used: {error.strerror}; choose another folder"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "?"
            os.close(self._lock)
            self._lock = None
            raise Conflict(
                "HOME_IN_USE",
                f"{self.path} is used by another `mip up` (process {owner}); stop it, or give another --home",
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        (self.path / "env").unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)

    def secrets(self, settings: Settings) -> Secrets:
        """The secrets of this home. Where it is private, the seed's ``dev-admin`` and ``devkey``; else random."""
        file = self.path / "secrets.json"
        kept = _read_secrets(file)
        random = {
            "admin_key": f"mip-admin-{secrets.token_urlsafe(32)}",
            "pacs_key": f"mip-pacs-{secrets.token_urlsafe(32)}",
            "operator_access_key_id": f"MIPOPERATOR{secrets.token_hex(4).upper()}",
            "operator_secret_access_key": secrets.token_urlsafe(30),
            "link_secret": secrets.token_hex(32),
            "pseudonym_secret": secrets.token_hex(32),
        }
        found = Secrets(**{**random, **kept})
        if asdict(found) != kept:
            write_private(file, json.dumps(asdict(found)))
        loopback = {"admin_key": LOOPBACK_ADMIN_KEY, "pacs_key": LOOPBACK_PACS_KEY} if settings.is_private else {}
        chosen = {"admin_key": settings.admin_key} if settings.admin_key else {}
        return Secrets(**{**asdict(found), **loopback, **chosen})

    def write_env(self, values: Mapping[str, str]) -> Path:
        """``export`` lines for a shell: ``. DIR/env``."""
        file = self.path / "env"
        write_private(file, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items()))
        return file


def _read_secrets(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    try:
        kept = json.loads(file.read_text())
        Secrets(**{**dict.fromkeys(Secrets.__dataclass_fields__, ""), **kept})
    except (OSError, ValueError, TypeError) as error:
        raise Unavailable(
            "SECRETS_UNUSABLE",
            f"{file} can't be used: {type(error).__name__}; restore it, or remove it and new secrets are made",
        ) from error
    return dict(kept)


def write_private(file: Path, text: str) -> None:
    """Replace ``file`` at once, readable by its owner only from the first byte on."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    temporary.replace(file)
