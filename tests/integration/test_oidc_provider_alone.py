"""The provider that others wrote does what Portero's tests ask of it: without this, those tests would prove nothing."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl

import jwt
import pytest
from aiohttp import web

from tests.fakes.oidc_provider import FOLDER, IssuerSettings, OidcProvider, Ttl, running_oidc_provider
from tests.fakes.provider import Key
from tests.fakes.relying_party import RelyingParty, dpop_proof
from tests.fakes.scripted_browser import ScriptedBrowser

CLIENT = {
    "client_id": "portero",
    "client_secret": "a-secret",
    "grant_types": ["authorization_code", "refresh_token", "client_credentials"],
    "redirect_uris": ["http://acme.localhost:1/callback"],
    "post_logout_redirect_uris": ["http://acme.localhost:1/"],
}
ISSUERS = (
    IssuerSettings("login", clients=[CLIENT], client_claims={"portero": {"groups": ["ci"]}}),
    IssuerSettings("strict", clients=[CLIENT], par="require", access_tokens="opaque", dpop_nonce=True),
    IssuerSettings("plain", clients=[CLIENT], par="none", access_tokens="userinfo", id_token_claims=False),
)


@pytest.fixture
async def provider() -> AsyncIterator[OidcProvider]:
    async with running_oidc_provider(ISSUERS) as running:
        yield running


async def party(provider: OidcProvider, name: str = "login") -> RelyingParty:
    made = RelyingParty(provider[name].issuer)
    await made.discover()
    return made


async def verified(of: RelyingParty, token: str, audience: str) -> dict[str, Any]:
    keys = (await of.ask(of.metadata["jwks_uri"], method="GET")).body["keys"]
    [key] = [key for key in keys if key["kid"] == jwt.get_unverified_header(token)["kid"]]
    algorithms = ["ES256"]
    return dict(jwt.decode(token, jwt.PyJWK(key).key, algorithms=algorithms, audience=audience, issuer=of.issuer))


async def test_logs_in_by_its_form_and_rotates_refresh_tokens(provider: OidcProvider) -> None:
    """Code with PKCE: form, code, tokens with claims, refresh with rotation, and reuse that ends the grant."""
    client, browser = await party(provider), ScriptedBrowser()
    begun = await client.begin()
    back = await client.log_in(browser, begun, {"login": "ana"})
    assert (back["state"], back["iss"]) == (begun.state, client.issuer)
    answer = await client.redeem(back["code"], begun.code_verifier)
    assert answer.status == 200
    claims = await verified(client, answer.body["id_token"], "portero")
    assert (claims["sub"], claims["nonce"], claims["groups"]) == ("ana", begun.nonce, ["analysts"])
    access = await verified(client, answer.body["access_token"], "survey")
    assert (access["sub"], access["organization"]) == ("ana", "acme")
    first = answer.body["refresh_token"]
    second = await client.token("refresh_token", refresh_token=first)
    assert second.status == 200
    assert second.body["refresh_token"] != first
    assert (await client.token("refresh_token", refresh_token=first)).body["error"] == "invalid_grant"
    after = await client.token("refresh_token", refresh_token=second.body["refresh_token"])
    assert after.body["error"] == "invalid_grant"
    counts = await provider["login"].counts()
    assert (counts["refresh_token granted"], counts["refresh_token invalid_grant"], counts["/interaction"]) == (1, 2, 2)


async def test_wants_pkce_and_par_where_it_says_so(provider: OidcProvider) -> None:
    """A wrong code_verifier is refused, and so is a request that was not pushed where PAR is required."""
    client, browser = await party(provider), ScriptedBrowser()
    begun = await client.begin(by_par=True)
    back = await client.log_in(browser, begun, {"login": "ana"})
    assert (await client.redeem(back["code"], "another" * 8)).body["error"] == "invalid_grant"
    strict = await party(provider, "strict")
    refused = await ScriptedBrowser().go((await strict.begin()).url, stop_at=strict.redirect_uri)
    assert "error=invalid_request" in (refused.location or "") or refused.status == 400
    begun = await strict.begin(by_par=True)
    back = await strict.log_in(browser, begun, {"login": "ana"})
    assert (await strict.redeem(back["code"], begun.code_verifier)).status == 200
    assert "pushed_authorization_request_endpoint" not in (await party(provider, "plain")).metadata


async def test_opaque_tokens_are_introspected(provider: OidcProvider) -> None:
    """Opaque access tokens are told to a client that asks, with audience and claims, until they are revoked."""
    client, browser = await party(provider, "strict"), ScriptedBrowser()
    begun = await client.begin(by_par=True)
    back = await client.log_in(browser, begun, {"login": "ana"})
    token = (await client.redeem(back["code"], begun.code_verifier)).body["access_token"]
    assert token.count(".") == 0
    told = (await client.ask(client.metadata["introspection_endpoint"], {"token": token})).body
    assert (told["active"], told["sub"], told["aud"], told["groups"]) == (True, "ana", "survey", ["analysts"])
    assert await provider["strict"].revoke("ana") == 1
    assert (await client.ask(client.metadata["introspection_endpoint"], {"token": token})).body == {"active": False}


async def test_userinfo_tells_what_the_id_token_does_not(provider: OidcProvider) -> None:
    """OpenID Connect Core section 5.4: a conforming ID token has the subject alone; new claims are told at once."""
    client, browser = await party(provider, "plain"), ScriptedBrowser()
    begun = await client.begin()
    back = await client.log_in(browser, begun, {"login": "ana"})
    answer = (await client.redeem(back["code"], begun.code_verifier)).body
    assert "groups" not in await verified(client, answer["id_token"], "portero")
    await provider["plain"].set_accounts({"ana": {"groups": ["sre"]}})
    endpoint = client.metadata["userinfo_endpoint"]
    told = await client.ask(endpoint, method="GET", bearer=answer["access_token"])
    assert told.body == {"sub": "ana", "groups": ["sre"]}


@pytest.mark.parametrize("name", ["login", "strict"])
async def test_binds_tokens_by_dpop(provider: OidcProvider, name: str) -> None:
    """Client credentials with a proof give a token bound to its key; a nonce that is wanted is told by the refusal."""
    client, key = await party(provider, name), Key("proof")
    endpoint = client.metadata["token_endpoint"]
    answer = await client.token("client_credentials", dpop=dpop_proof(key, "POST", endpoint))
    if name == "strict":
        assert answer.body["error"] == "use_dpop_nonce"
        proof = dpop_proof(key, "POST", endpoint, nonce=answer.fields["dpop-nonce"])
        answer = await client.token("client_credentials", dpop=proof)
        told = (
            await client.ask(client.metadata["introspection_endpoint"], {"token": answer.body["access_token"]})
        ).body
        assert told["cnf"]["jkt"]
    else:
        claims = await verified(client, answer.body["access_token"], "survey")
        assert claims["cnf"]["jkt"]
        assert (claims["sub"], claims["groups"]) == ("portero", ["ci"])
    assert answer.body["token_type"] == "DPoP"


async def test_keys_rotate_while_it_runs(provider: OidcProvider) -> None:
    """Announced, signing, alone: the published keys and the one that signs follow, and a session outlives it."""
    client = await party(provider)

    async def kid() -> str:
        token = (await client.token("client_credentials")).body["access_token"]
        return str(jwt.get_unverified_header(token)["kid"])

    async def published() -> list[str]:
        return [key["kid"] for key in (await client.ask(client.metadata["jwks_uri"], method="GET")).body["keys"]]

    old = await kid()
    announced = await provider["login"].rotate("announce")
    assert (await kid(), set(await published())) == (old, {old, announced})
    assert await provider["login"].rotate("sign") == announced
    assert (await kid(), set(await published())) == (announced, {old, announced})
    alone = await provider["login"].rotate("replace")
    assert (await kid(), await published()) == (alone, [alone])


async def test_faults_are_made_to_order(provider: OidcProvider) -> None:
    """As many requests as a test says fail, no more."""
    client = await party(provider)
    await provider["login"].fault("/token", status=503, times=1)
    assert (await client.token("client_credentials")).status == 503
    assert (await client.token("client_credentials")).status == 200


@contextlib.asynccontextmanager
async def logout_listener(got: list[dict[str, str]]) -> AsyncIterator[int]:
    async def answer(request: web.Request) -> web.Response:
        got.append({"Host": request.host, **dict(parse_qsl(await request.text()))})
        return web.Response()

    app = web.Application()
    app.router.add_post("/backchannel-logout", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def test_logs_out_by_form_and_by_the_back_channel(provider: OidcProvider) -> None:
    """A person's own logout and an end of sessions tell the client, with sid; then the person is unknown."""
    got: list[dict[str, str]] = []
    async with logout_listener(got) as port:
        uri = f"http://acme.localhost:{port}/backchannel-logout"
        told_client = CLIENT | {"backchannel_logout_uri": uri, "backchannel_logout_session_required": True}
        await provider["login"].set_clients(told_client)
        client, browser = await party(provider), ScriptedBrowser()
        begun = await client.begin()
        back = await client.log_in(browser, begun, {"login": "ana"})
        tokens = (await client.redeem(back["code"], begun.code_verifier)).body
        sid = (await verified(client, tokens["id_token"], "portero"))["sid"]
        end = f"{client.metadata['end_session_endpoint']}?id_token_hint={tokens['id_token']}&state=s"
        asked = await browser.go(f"{end}&post_logout_redirect_uri=http://acme.localhost:1/")
        out = await browser.submit(asked, {"logout": "yes"}, stop_at="http://acme.localhost:1/")
        assert out.location == "http://acme.localhost:1/?state=s"
        notice = await verified(client, got[0]["logout_token"], "portero")
        assert (notice["sub"], notice["sid"], got[0]["Host"]) == ("ana", sid, f"acme.localhost:{port}")
        assert "http://schemas.openid.net/event/backchannel-logout" in notice["events"]
        assert [one["status"] for one in await provider["login"].logouts()] == [200]
        refresh = await client.token("refresh_token", refresh_token=tokens["refresh_token"])
        assert refresh.body["error"] == "invalid_grant"
        await client.log_in(browser, await client.begin(), {"login": "ana"})
        [told] = await provider["login"].end_sessions("ana")
        assert (told["told"], told["status"], len(got)) == (True, 200, 2)
        again = await browser.go((await client.begin({"prompt": "none"})).url, stop_at=client.redirect_uri)
        assert "error=login_required" in (again.location or "")


async def test_tokens_end_when_their_time_is_over() -> None:
    """Lifetimes are as short as a test says."""
    async with running_oidc_provider([IssuerSettings(clients=[CLIENT], ttl=Ttl(access_token=2))]) as running:
        client = await party(running)
        answer = await client.token("client_credentials")
        assert answer.body["expires_in"] == 2


def test_the_lock_names_no_host_to_fetch_from() -> None:
    """What is installed is held by digests; where from is the business of who installs."""
    lock = json.loads((FOLDER / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: said for name, said in lock["packages"].items() if name}
    assert packages
    assert all(said["integrity"].startswith("sha512-") and "resolved" not in said for said in packages.values())
    assert not re.search(r"registry|npmjs", json.dumps(lock))
