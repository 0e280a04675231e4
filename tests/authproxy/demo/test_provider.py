"""The demo's provider: discovery, keys, and tokens that others can verify."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jwt
import pytest

from authproxy.demo.people import PEOPLE, PersonUnknown
from authproxy.demo.provider import Provider
from authproxy.demo.provider_tokens import AUDIENCE


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    made = Provider()
    await made.start()
    yield made
    await made.stop()


async def read(url: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        return dict(await response.json())


async def verified(provider: Provider, token: str) -> dict[str, Any]:
    """The claims, by the keys that discovery leads to and a library that the provider does not use."""
    document = await read(f"{provider.issuer}/.well-known/openid-configuration")
    keys = await read(document["jwks_uri"])
    [key] = [key for key in keys["keys"] if key["kid"] == jwt.get_unverified_header(token)["kid"]]
    return dict(
        jwt.decode(token, jwt.PyJWK(key).key, algorithms=["ES256"], audience=AUDIENCE, issuer=document["issuer"])
    )


async def test_discovery_names_the_issuer_it_was_asked_at(provider: Provider) -> None:
    """OpenID Connect Discovery section 4.3: the issuer in the document is the one that was asked."""
    document = await read(f"{provider.issuer}/.well-known/openid-configuration")
    assert document["issuer"] == provider.issuer
    assert document["jwks_uri"].startswith(provider.issuer)


async def test_keys_hold_nothing_private(provider: Provider) -> None:
    """The key set has public members only, and says what its keys are for."""
    [key] = (await read(f"{provider.issuer}/jwks"))["keys"]
    assert set(key) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    assert (key["use"], key["alg"]) == ("sig", "ES256")


@pytest.mark.parametrize("person", PEOPLE, ids=lambda person: person.sub)
async def test_tokens_say_who_and_which_tenant(provider: Provider, person: Any) -> None:
    """A token verifies against the published keys and carries subject, tenant and groups."""
    token = provider.issue_token(person.tenant, person.sub)
    claims = await verified(provider, token)
    assert (claims["sub"], claims["organization"], claims["groups"]) == (
        person.sub,
        person.tenant,
        list(person.groups),
    )
    assert claims["exp"] - claims["iat"] == 3600
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"


async def test_another_run_has_another_key(provider: Provider) -> None:
    """Tokens end with the demo that issued them."""
    [key] = (await read(f"{provider.issuer}/jwks"))["keys"]
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(Provider().issue_token("acme", "ana"), jwt.PyJWK(key).key, algorithms=["ES256"], audience=AUDIENCE)


@pytest.mark.parametrize(("tenant", "sub"), [("acme", "eve"), ("globex", "ana"), ("nobody", "ana"), ("", "")])
def test_nobody_is_vouched_for_in_another_tenant(tenant: str, sub: str) -> None:
    """Who is not of a tenant gets no token for it, and the message says who would."""
    with pytest.raises(PersonUnknown, match="--tenant acme --as ana"):
        Provider().issue_token(tenant, sub)


@pytest.mark.parametrize("ttl_s", [0, -1, 86_401])
def test_a_token_lives_a_day_at_most(ttl_s: int) -> None:
    """Lifetimes that no policy accepts are refused where they are asked for."""
    with pytest.raises(ValueError, match="from 1 to 86400 seconds"):
        Provider().issue_token("acme", "ana", ttl_s)


def test_claims_are_json_of_plain_values() -> None:
    """The token's payload is what a JWT library of any language reads: no dates, no tuples."""
    claims = jwt.decode(Provider().issue_token("acme", "ana"), options={"verify_signature": False})
    assert json.loads(json.dumps(claims)) == claims
