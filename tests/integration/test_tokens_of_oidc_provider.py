"""
Programs at a whole Portero, with tokens of a provider that others wrote: client credentials, opaque tokens by
introspection, DPoP, and keys that change while requests come in.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import jwt
import pytest

from authproxy.identity.providers.jwks import MIN_INTERVAL_S
from tests.fakes.login_world import SECRET, LoginWorld, running_login_world
from tests.fakes.oidc_provider import IssuerSettings
from tests.fakes.provider import Key
from tests.fakes.relying_party import RelyingParty, Reply, dpop_proof

CLAIMS = {"portero": {"groups": ["ci"], "organization": "acme"}}
WITH_SUBJECT = {"portero": {**CLAIMS["portero"], "sub": "portero"}}
"""Of its own accord this provider names no subject when it is asked about a program's token (RFC 7662: optional)."""
JOB = "/function/job"


async def party(world: LoginWorld) -> RelyingParty:
    made = RelyingParty(world.issuer.issuer, client_secret=SECRET)
    await made.discover()
    return made


async def program_token(client: RelyingParty, **more: Any) -> str:
    answer = await client.token("client_credentials", **more)
    assert answer.status == 200, answer
    return str(answer.body["access_token"])


async def ask(world: LoginWorld, authorization: str, path: str = JOB, *, tenant: str = "acme", **fields: str) -> Reply:
    host, port = world.app.public_address
    sent = {"Host": f"{tenant}.localhost:{port}", "Authorization": authorization, **fields}
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.get(f"http://{host}:{port}{path}", headers=sent, allow_redirects=False) as answer,
    ):
        body = await answer.json()
        return Reply(answer.status, body, {name.lower(): value for name, value in answer.headers.items()})


def outcome(reply: Reply) -> tuple[int, str | None]:
    return reply.status, reply.fields.get("x-portero-reason")


async def test_a_program_comes_with_its_own_token() -> None:
    """Client credentials: the subject is the client, its groups are the token's, and its tenant is the token's."""
    async with running_login_world([IssuerSettings(client_claims=CLAIMS)]) as world:
        token = await program_token(await party(world))
        assert (await ask(world, f"Bearer {token}")).status == 200
        whoami = await ask(world, f"Bearer {token}", "/.portero/whoami")
        assert (whoami.body["subject"], whoami.body["roles"]) == ("login|portero", ["program"])
        assert outcome(await ask(world, f"Bearer {token}", tenant="globex")) == (403, "tenant-mismatch")


async def test_opaque_tokens_are_asked_for_once_and_end_when_revoked() -> None:
    """RFC 7662: known for as long as the policy says, then asked again; who is no client of ours learns nothing."""
    introspection = {"client_id": "portero", "client_secret": "login-client", "max_age": "4s"}
    entries = {"login": {"introspection": introspection}}
    settings = IssuerSettings(access_tokens="opaque", client_claims=WITH_SUBJECT)
    async with running_login_world([settings], entries=entries) as world:
        client = await party(world)
        token = await program_token(client)
        answers = await asyncio.gather(*(ask(world, f"Bearer {token}") for _ in range(20)))
        assert {answer.status for answer in answers} == {200}
        assert (await world.issuer.counts())["/token/introspection"] == 1
        assert outcome(await ask(world, f"Bearer {token}x")) == (401, "credential-invalid")
        assert outcome(await ask(world, f"Bearer {token}", tenant="globex")) == (403, "tenant-mismatch")
        await client.ask(client.metadata["revocation_endpoint"], {"token": token})
        deadline = time.monotonic() + 20
        while (reply := await ask(world, f"Bearer {token}")).status == 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        assert outcome(reply) == (401, "credential-invalid")


async def test_an_opaque_token_of_nobody_is_no_credential() -> None:
    """A program is not taken for a person of its client's name: without a subject there is no caller."""
    entries = {"login": {"introspection": {"client_id": "portero", "client_secret": "login-client"}}}
    settings = IssuerSettings(access_tokens="opaque", client_claims=CLAIMS)
    async with running_login_world([settings], entries=entries) as world:
        token = await program_token(await party(world))
        assert outcome(await ask(world, f"Bearer {token}")) == (401, "credential-invalid")


async def test_without_introspection_an_opaque_token_is_no_credential() -> None:
    """Nobody is asked where the policy names nobody to ask."""
    async with running_login_world([IssuerSettings(access_tokens="opaque", client_claims=CLAIMS)]) as world:
        token = await program_token(await party(world))
        assert outcome(await ask(world, f"Bearer {token}")) == (401, "credential-invalid")
        assert "/token/introspection" not in await world.issuer.counts()


@pytest.mark.parametrize("access_tokens", ["jwt", "opaque"])
async def test_a_token_bound_to_a_key_wants_its_proof(access_tokens: Any) -> None:
    """RFC 9449: without proof, by another key, for another address, or with a proof seen before it is refused."""
    introspection = {"client_id": "portero", "client_secret": "login-client"}
    entries = {"login": {"introspection": introspection}}
    settings = IssuerSettings(access_tokens=access_tokens, client_claims=WITH_SUBJECT)
    async with running_login_world([settings], entries=entries) as world:
        client, key = await party(world), Key("proof", "EC", 5)
        proof = dpop_proof(key, "POST", client.metadata["token_endpoint"])
        token, url = await program_token(client, dpop=proof), world.origin() + JOB

        def proven(by: Key = key, at: str = url, method: str = "GET", of: str = token) -> str:
            return dpop_proof(by, method, at, access_token=of)

        good = proven()
        assert (await ask(world, f"DPoP {token}", DPoP=good)).status == 200
        assert (await ask(world, f"DPoP {token}", DPoP=proven())).status == 200
        for authorization, fields in (
            (f"DPoP {token}", {"DPoP": good}),
            (f"DPoP {token}", {}),
            (f"Bearer {token}", {}),
            (f"Bearer {token}", {"DPoP": proven()}),
            (f"DPoP {token}", {"DPoP": proven(by=Key("other", "EC", 6))}),
            (f"DPoP {token}", {"DPoP": proven(at=world.origin() + "/function/open")}),
            (f"DPoP {token}", {"DPoP": proven(at=world.origin("globex") + JOB)}),
            (f"DPoP {token}", {"DPoP": proven(method="POST")}),
            (f"DPoP {token}", {"DPoP": proven(of="another")}),
        ):
            assert (await ask(world, authorization, **fields)).status == 401, fields


async def test_keys_rotate_under_traffic_and_nobody_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Signing keys change three times, announced and not, while requests come in: no valid token is refused.

    Ten seconds between two fetches of keys are made 0.2 s, so that rotations may follow each other within the test.
    """
    monkeypatch.setattr("authproxy.identity.providers.jwks.MIN_INTERVAL_S", 0.2)
    async with running_login_world([IssuerSettings(client_claims=CLAIMS)]) as world:
        client, is_over, statuses = await party(world), asyncio.Event(), []
        used: set[str] = set()

        async def traffic() -> None:
            while not is_over.is_set():
                token = await program_token(client)
                statuses.append((await ask(world, f"Bearer {token}")).status)
                used.add(jwt.get_unverified_header(token)["kid"])

        async with asyncio.timeout(40), asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(traffic())
            kids = set()
            for how in ("sign", "announce", "sign", "sign"):
                await asyncio.sleep(0.4)
                kids.add(kid := await world.issuer.rotate(how))
                # The next change comes when keys may be asked for again, however late these were.
                while how == "sign" and kid not in used:  # noqa: ASYNC110  # the traffic tells nobody
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.4)
            is_over.set()
        assert len(kids) == 3
        assert len(statuses) > 20
        assert set(statuses) == {200}


async def test_a_flood_of_unknown_keys_is_one_refetch() -> None:
    """At most one refetch a minimum interval, however many tokens name keys that nobody has."""
    async with running_login_world([IssuerSettings(client_claims=CLAIMS)]) as world:
        client, forger = await party(world), Key("x", "EC", 8)
        token = await program_token(client)
        assert (await ask(world, f"Bearer {token}")).status == 200
        before, began = (await world.issuer.counts())["/jwks"], time.monotonic()
        claims = jwt.decode(token, options={"verify_signature": False})
        for batch in range(5):
            forged = [
                jwt.encode(claims, forger.pem(), algorithm="ES256", headers={"kid": f"k{batch}-{n}", "typ": "at+jwt"})
                for n in range(20)
            ]
            replies = await asyncio.gather(*(ask(world, f"Bearer {one}") for one in forged))
            assert {reply.status for reply in replies} <= {401, 429}
        assert (await world.issuer.counts())["/jwks"] - before <= 1 + (time.monotonic() - began) // MIN_INTERVAL_S
        assert (await ask(world, f"Bearer {token}")).status == 200
