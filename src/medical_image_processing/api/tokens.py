"""Clients by the tokens of an OpenID Connect issuer, in the place of keys (RFC 7519; OpenID Connect Discovery).

A token counts when the issuer signed it with RS256 or ES256, for our audience, and it has not expired. The keys
are those that the issuer's discovery document points to; they are kept for five minutes, so that a job costs no
call to the issuer. An issuer that doesn't answer is stated as such, and never taken for a wrong token.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

import jwt

from medical_image_processing.errors import InvalidRequest, Unauthorized, Unavailable
from medical_image_processing.naming import NAME_PATTERN
from medical_image_processing.ports.keys import KeyHolder, KeyRole

ALGORITHMS = ("RS256", "ES256")
LEEWAY_S = 10
"""By how much the issuer's clock may differ from ours."""
_MAX_TOKEN_CHARS = 16_384
_MAX_DOCUMENT_BYTES = 1_048_576
_KEYS_LIFETIME_S = 300.0
_CALL_TIMEOUT_S = 3.0
_FETCH_TIMEOUT_S = 8.0
"""The whole of it: an issuer that answers a byte at a time is no better than a silent one."""
_AFTER_FAILURE_S = 5.0
"""For so long a silent issuer is not asked again, or every caller would wait for it."""
_MOST_CLIENT_IDS = 1000
_NAME = re.compile(NAME_PATTERN)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class TokenVerifier:
    """Checks tokens of ``issuer`` made for ``audience``. ``clock`` gives monotonic seconds.

    InvalidRequest ``BAD_ISSUER`` when the issuer's address isn't https.
    """

    def __init__(self, issuer: str, audience: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        _check_address(issuer, issuer, "the issuer's address")
        if not audience:
            raise InvalidRequest("NO_AUDIENCE", "an OIDC issuer needs an audience: set MIP_OIDC_AUDIENCE")
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._keys: jwt.PyJWKClient | None = None
        self._silent_until = float("-inf")

    async def holder(self, token: str | None) -> KeyHolder:
        """Whose token it is: first a client_id of its own, then those of its claim ``client_ids``.

        Unauthorized ``CLIENT_TOKEN_REQUIRED``; Unavailable ``ISSUER_UNAVAILABLE``.
        """
        if not token or len(token) > _MAX_TOKEN_CHARS:
            raise _refused(
                "send a token of the OIDC issuer as Authorization: Bearer …, or ?token= on the WebSocket"
            )
        try:
            key = await self._key_of(jwt.get_unverified_header(token).get("kid"))
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise _refused("the token has expired; get a new one from the issuer") from error
        except jwt.InvalidTokenError as error:
            # What PyJWT says may quote the token.
            raise _refused("the token is not one of this platform's issuer and audience") from error
        return self._holder_of(claims)

    async def _key_of(self, kid: Any) -> jwt.PyJWK:
        if self._clock() < self._silent_until:
            raise self._silent()
        try:
            async with asyncio.timeout(_FETCH_TIMEOUT_S):
                return await asyncio.to_thread(self._find_key, str(kid))
        except jwt.PyJWKClientConnectionError as error:
            self._silent_until = self._clock() + _AFTER_FAILURE_S
            raise self._silent() from error
        except jwt.PyJWKClientError as error:
            raise _refused("the token was signed with a key that the issuer does not name") from error
        except (OSError, HTTPException, ValueError, KeyError, jwt.PyJWKSetError) as error:
            self._silent_until = self._clock() + _AFTER_FAILURE_S
            raise self._silent() from error

    def _find_key(self, kid: str) -> jwt.PyJWK:
        if self._keys is None:
            self._keys = self._discover()
        return self._keys.get_signing_key(kid)

    def _discover(self) -> jwt.PyJWKClient:
        """OpenID Connect Discovery 1.0, section 4: the document must name the issuer that was asked."""
        address = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        # Its scheme was checked when the platform started.
        with urllib.request.urlopen(address, timeout=_CALL_TIMEOUT_S) as answer:  # noqa: S310
            document = json.loads(answer.read(_MAX_DOCUMENT_BYTES))
        if document["issuer"] != self._issuer:
            raise ValueError("the discovery document is another issuer's")
        keys = str(document["jwks_uri"])
        _check_address(keys, self._issuer, "the address of the issuer's keys")
        return jwt.PyJWKClient(keys, lifespan=_KEYS_LIFETIME_S, timeout=_CALL_TIMEOUT_S)

    def _silent(self) -> Unavailable:
        return Unavailable(
            "ISSUER_UNAVAILABLE",
            f"the OIDC issuer {self._issuer} gives no keys to check tokens with; try again, and if it stays so, "
            "check that its discovery document can be read",
            retry_after_s=_AFTER_FAILURE_S,
        )

    def _holder_of(self, claims: dict[str, Any]) -> KeyHolder:
        said = f"{self._issuer}\n{claims['sub']}".encode()
        name = base64.urlsafe_b64encode(hashlib.sha256(said).digest()).decode()[:22]
        named = claims.get("client_ids", [])
        given = [named] if isinstance(named, str) else named if isinstance(named, list) else []
        allowed = [one for one in given[:_MOST_CLIENT_IDS] if isinstance(one, str) and _NAME.fullmatch(one)]
        client_ids = tuple(dict.fromkeys([f"client-{name}", *allowed]))
        return KeyHolder(f"oidc:{name}", KeyRole.CLIENT, client_ids, created_at=float(claims.get("iat", 0)))


def _refused(message: str) -> Unauthorized:
    return Unauthorized("CLIENT_TOKEN_REQUIRED", message)


def _check_address(address: str, issuer: str, what: str) -> None:
    """Tokens are worth what the keys' way here is worth; only an issuer on this machine needs no TLS."""
    parts = urlsplit(address)
    local = {parts.hostname, urlsplit(issuer).hostname} <= set(_LOOPBACK)
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise InvalidRequest("BAD_ISSUER", f"{what} must begin with https://")
