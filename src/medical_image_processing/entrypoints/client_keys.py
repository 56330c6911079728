"""The file of ``--client-keys``: who may call a platform that other machines reach.

A line a client: ``NAME SHA256-OF-THE-KEY CLIENT_ID[,CLIENT_ID…]``; ``#`` starts a comment. The keys
themselves are not in it (law A2): ``mip keys add NAME --file FILE`` makes a key, prints it once, and
appends its line.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from medical_image_processing.errors import Conflict, InvalidRequest
from medical_image_processing.naming import NAME_PATTERN
from medical_image_processing.ports.keys import KeyRole, Keys, digest

_NAME = re.compile(NAME_PATTERN)
_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_ACTOR = "client-keys file"
_PREFIX = "file:"


@dataclass(frozen=True)
class ClientKey:
    """One line of the file."""

    name: str
    digest: str
    client_ids: tuple[str, ...]


def read(file: Path) -> list[ClientKey]:
    """InvalidRequest ``BAD_CLIENT_KEYS`` names the line that is wrong."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest("BAD_CLIENT_KEYS", f"--client-keys {file} can't be read: {error}") from error
    keys: dict[str, ClientKey] = {}
    for number, line in enumerate(lines, start=1):
        if words := line.partition("#")[0].split():
            key = _parse(file, number, words)
            if key.name in keys:
                raise InvalidRequest(
                    "BAD_CLIENT_KEYS", f"{file}, line {number}: an earlier line has the same NAME; remove one"
                )
            keys[key.name] = key
    return list(keys.values())


def add(file: Path, name: str, client_ids: list[str]) -> str:
    """Make a key, append its line to the file, and return the key."""
    known = read(file) if file.exists() else []
    if any(key.name == name for key in known):
        raise Conflict("KEY_NAME_TAKEN", f"{file} has a key named '{name}'; remove its line first")
    key = f"mip-client-{secrets.token_urlsafe(32)}"
    words = [name, digest(key), ",".join(client_ids)]
    _parse(file, 0, [word for word in words if word])
    file.touch(mode=0o600)
    with file.open("a") as stream:
        stream.write(" ".join(words).rstrip() + "\n")
    return key


async def load(keys: Keys, file: Path) -> None:
    """Make the key records that came from the file what the file says now."""
    wanted = {f"{_PREFIX}{key.name}": key for key in read(file)}
    granted = {h.name: h.granted for h in await keys.holders() if h.name.startswith(_PREFIX)}
    for name in granted:
        await keys.remove(name, actor=_ACTOR)
    for name, key in wanted.items():
        await keys.add(
            key.digest,
            name=name,
            role=KeyRole.CLIENT,
            client_ids=key.client_ids,
            actor=_ACTOR,
            granted=granted.get(name, ()),  # what /provision made for this holder stays theirs
        )


def _parse(file: Path, number: int, words: list[str]) -> ClientKey:
    ids = tuple(words[2].split(",")) if len(words) == 3 else ()
    good = len(words) in (2, 3) and _DIGEST.match(words[1]) and all(map(_NAME.match, (words[0], *ids)))
    if not good:
        raise InvalidRequest(
            "BAD_CLIENT_KEYS",
            f"{file}, line {number}: must be NAME DIGEST CLIENT_ID,CLIENT_ID; `mip keys add NAME --file "
            f"{file}` writes such lines",
        )
    return ClientKey(words[0], words[1], ids)
