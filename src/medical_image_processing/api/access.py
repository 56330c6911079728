"""Who is calling: admins by ``x-admin-key``, clients by ``x-api-key`` (CONTRACT.md, "Who may call").

Where the platform trusts an OIDC issuer, clients show its tokens instead, as ``Authorization: Bearer``.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from medical_image_processing.errors import Forbidden, Unauthorized
from medical_image_processing.ports.keys import KeyHolder, KeyRole, Keys, digest

_ADMIN_HEADER = APIKeyHeader(name="x-admin-key", auto_error=False, scheme_name="admin key")
_CLIENT_HEADER = APIKeyHeader(name="x-api-key", auto_error=False, scheme_name="client key")
_BEARER = HTTPBearer(auto_error=False, scheme_name="OIDC token", description="Where an OIDC issuer is set up.")


def _token(sent: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)] = None) -> str | None:
    return sent.credentials if sent is not None else None


AdminKey = Annotated[str | None, Security(_ADMIN_HEADER)]
ClientKey = Annotated[str | None, Security(_CLIENT_HEADER)]
ClientToken = Annotated[str | None, Depends(_token)]
NOBODY_ASKED = "anybody"
"""The name of a client on record where clients need no key."""


class Tokens(Protocol):
    """Checks an OIDC issuer's tokens."""

    async def holder(self, token: str | None) -> KeyHolder:
        """Whose token it is, its own client_id first. Unauthorized; Unavailable when the issuer is away."""


@dataclass(frozen=True)
class Caller:
    """A client. ``holder`` is None where clients need no key; then every client_id is open.

    ``may_grow``: whether the holder can get more client_ids; those of a token are its issuer's to name.
    """

    holder: KeyHolder | None
    may_grow: bool = True

    @property
    def name(self) -> str:
        """The caller's name, for the audit."""
        return self.holder.name if self.holder else NOBODY_ASKED

    @property
    def client_ids(self) -> tuple[str, ...] | None:
        """The client_ids the caller may see, or None for all."""
        return self.holder.client_ids if self.holder else None

    def may_use(self, client_id: str) -> bool:
        """Whether the caller may act for ``client_id``."""
        return self.holder is None or client_id in self.holder.client_ids

    def check(self, client_id: str) -> None:
        """Forbidden ``NOT_YOUR_CLIENT_ID`` unless the caller may act for it."""
        if not self.may_use(client_id):
            raise Forbidden("NOT_YOUR_CLIENT_ID", "this key may not use that client_id; POST /provision makes one")


def fixed_digests(*digests: str) -> Callable[[], Awaitable[Collection[str]]]:
    """Of admin keys that don't change while the platform runs."""

    async def known() -> Collection[str]:
        return digests

    return known


class Access:
    """Checks keys. ``root_admin_digests`` are of the platform's own admin keys; several while they are rotated.

    With ``tokens`` clients show a token, and no key of theirs opens anything.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        root_admin_digests: Callable[[], Awaitable[Collection[str]]],
        open_clients: bool,
        tokens: Tokens | None = None,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._root_digests = root_admin_digests
        self._open = open_clients

    async def admin(self, key: str | None) -> str:
        """The admin's name, for the audit. Unauthorized ``ADMIN_KEY_REQUIRED``."""
        if key:
            given = digest(key)
            # Each is compared, so that the time taken says nothing of which one fits.
            if any([hmac.compare_digest(given, root) for root in await self._root_digests()]):
                return "root"
            holder = await self._keys.find(given)
            if holder is not None and holder.role is KeyRole.ADMIN:
                return holder.name
        raise Unauthorized("ADMIN_KEY_REQUIRED", "send a valid admin key in the x-admin-key header")

    async def client(self, key: str | None, token: str | None = None) -> Caller:
        """The caller. Unauthorized ``CLIENT_KEY_REQUIRED``, ``CLIENT_TOKEN_REQUIRED``."""
        if self._open:
            return Caller(None)
        if self._tokens is not None:
            return Caller(await self._tokens.holder(token), may_grow=False)
        holder = await self._keys.find(digest(key)) if key else None
        if holder is None or holder.role is not KeyRole.CLIENT:
            raise Unauthorized("CLIENT_KEY_REQUIRED", "send a valid client key in the x-api-key header")
        return Caller(holder)
