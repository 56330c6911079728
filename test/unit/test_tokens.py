"""Clients by the tokens of an OIDC issuer: a real one, with its own keys, on the loopback interface."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from medical_image_processing.api.tokens import LEEWAY_S, TokenVerifier
from medical_image_processing.errors import InvalidRequest, MipError, Unavailable
from medical_image_processing.ports.keys import KeyHolder
from oidc_issuer import AUDIENCE, Issuer


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


@pytest.fixture
def verifier(issuer: Issuer) -> TokenVerifier:
    return TokenVerifier(issuer.address, AUDIENCE)


def check(verifier: TokenVerifier, token: str | None) -> KeyHolder:
    return asyncio.run(verifier.holder(token))


def refusal(verifier: TokenVerifier, token: str | None) -> str:
    with pytest.raises(MipError) as refused:
        check(verifier, token)
    assert not token or token not in str(refused.value)
    return refused.value.code


@pytest.mark.parametrize("kid", ["rsa", "ec"])
def test_a_token_of_the_issuer_opens_its_own_client_id_and_the_claimed_ones(
    issuer: Issuer, verifier: TokenVerifier, kid: str
) -> None:
    holder = check(verifier, issuer.token(kid, sub="ana", client_ids=["ward-1", "ward-2"]))

    own, *claimed = holder.client_ids
    assert claimed == ["ward-1", "ward-2"]
    assert own.startswith("client-")
    assert "ana" not in own + holder.name


def test_a_subject_keeps_its_client_id_and_shares_it_with_nobody(issuer: Issuer, verifier: TokenVerifier) -> None:
    first, again, other = (check(verifier, issuer.token(sub=sub)).client_ids for sub in ("ana", "ana", "bob"))

    assert first == again != other


def test_claimed_ids_that_are_none_open_nothing(issuer: Issuer, verifier: TokenVerifier) -> None:
    holder = check(verifier, issuer.token(client_ids=["good", "../bad", 7, ""]))

    assert holder.client_ids[1:] == ("good",)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "somebody-else"},
        {"iss": "http://127.0.0.1:1/"},
        {"exp": -LEEWAY_S - 5},
        {"nbf": LEEWAY_S + 60},
        {"sub": None},
        {"exp": None},
        {"aud": None},
    ],
    ids=["audience", "issuer", "expired", "not yet", "no sub", "no expiry", "no audience"],
)
def test_a_token_for_another_place_or_time_opens_nothing(
    issuer: Issuer, verifier: TokenVerifier, claims: dict[str, Any]
) -> None:
    assert refusal(verifier, issuer.token(**claims)) == "CLIENT_TOKEN_REQUIRED"


def test_a_clock_that_is_a_little_off_does_not_matter(issuer: Issuer, verifier: TokenVerifier) -> None:
    assert check(verifier, issuer.token(exp=-LEEWAY_S / 2))


def test_only_the_issuers_own_keys_count(issuer: Issuer, verifier: TokenVerifier) -> None:
    stranger = rsa.generate_private_key(65537, 2048)

    assert refusal(verifier, issuer.token(key=stranger)) == "CLIENT_TOKEN_REQUIRED"
    assert refusal(verifier, issuer.token(key=stranger, header_kid="unheard-of")) == "CLIENT_TOKEN_REQUIRED"


def test_other_ways_of_signing_are_refused(issuer: Issuer, verifier: TokenVerifier) -> None:
    unsigned = jwt.encode(issuer.claims(), "", algorithm="none", headers={"kid": "rsa"})
    with_secret = jwt.encode(issuer.claims(), "s" * 64, algorithm="HS256", headers={"kid": "rsa"})

    for token in (unsigned, with_secret, issuer.token("p384"), issuer.token(algorithm="RS512")):
        assert refusal(verifier, token) == "CLIENT_TOKEN_REQUIRED"


@pytest.mark.parametrize(
    "token", [None, "", "nonsense", "a.b.c", "x" * 20_000], ids=["none", "empty", "nonsense", "dots", "long"]
)
def test_what_is_no_token_opens_nothing(verifier: TokenVerifier, token: str | None) -> None:
    assert refusal(verifier, token) == "CLIENT_TOKEN_REQUIRED"


def test_keys_are_fetched_once_for_many_tokens(issuer: Issuer, verifier: TokenVerifier) -> None:
    before = issuer.asked.count("/keys")
    for sub in "abc":
        check(verifier, issuer.token(sub=sub))
    refusal(verifier, issuer.token(key=rsa.generate_private_key(65537, 2048), header_kid="unheard-of"))

    assert issuer.asked.count("/keys") - before == 1


def test_an_issuer_that_is_away_is_stated_and_asked_again_later() -> None:
    now = [100.0]
    with Issuer() as issuer:
        token, address = issuer.token(), issuer.address
    verifier = TokenVerifier(address, AUDIENCE, clock=lambda: now[0])

    assert refusal(verifier, token) == "ISSUER_UNAVAILABLE"
    with Issuer(port=issuer.port, keys=issuer.keys) as back:
        with pytest.raises(Unavailable):
            check(verifier, token)
        assert not back.asked, "a silent issuer is left alone for a while"
        now[0] += 6
        assert check(verifier, token)


def test_an_issuer_that_falls_silent_is_not_waited_for_long() -> None:
    with Issuer(delay_s=10) as slow:
        verifier = TokenVerifier(slow.address, AUDIENCE)
        began = asyncio.run(_seconds(verifier, slow.token()))

    assert began < 6


async def _seconds(verifier: TokenVerifier, token: str) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(Unavailable, match="ISSUER_UNAVAILABLE"):
        await verifier.holder(token)
    return loop.time() - began


def test_a_discovery_document_of_somebody_else_gives_no_keys() -> None:
    with Issuer(named="https://elsewhere.example") as false:
        assert refusal(TokenVerifier(false.address, AUDIENCE), false.token()) == "ISSUER_UNAVAILABLE"


@pytest.mark.parametrize("address", ["http://issuer.example", "file:///etc/passwd", "issuer.example", ""])
def test_an_issuer_without_tls_is_refused_at_the_start(address: str) -> None:
    with pytest.raises(InvalidRequest, match="BAD_ISSUER"):
        TokenVerifier(address, AUDIENCE)
