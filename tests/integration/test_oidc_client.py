"""
The client against a provider that others wrote (panva's oidc-provider): login, PAR, every way to prove who the client
is, refresh with rotation, key rotation, introspection, logout there and logout tokens from there.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urljoin, urlsplit

import aiohttp
import pytest
from aiohttp import web

from authproxy.identity.providers.oidc import LoginRefused, OidcClient
from authproxy.identity.sessions.session import GrantInvalid, Tokens
from policies.claims import groups_of
from policies.tables import TenantTable
from tests.fakes.identity import Clock, a_tenant
from tests.fakes.login_client import a_running_client, a_session
from tests.fakes.login_provider import REDIRECT_URI, SECRET, VERIFIER, a_client, a_login, secrets_folder
from tests.fakes.oidc_provider import Issuer, IssuerSettings, OidcProvider, running_oidc_provider
from tests.fakes.provider import Key

KEYS: Final = {"ES256": Key("c", "EC", 3), "EdDSA": Key("c", "Ed25519", 3), "RS256": Key("c", "RSA", 3)}


def registered(auth: str = "client_secret_basic", **metadata: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "client_id": "portero",
        "redirect_uris": [REDIRECT_URI],
        "post_logout_redirect_uris": ["http://acme.localhost/"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": auth,
    }
    if auth.startswith("client_secret"):
        known["client_secret"] = SECRET
    return known | metadata


@pytest.fixture
async def provider() -> AsyncIterator[OidcProvider]:
    settings = IssuerSettings("login", [registered()], login_as="ana", access_tokens="userinfo")
    async with running_oidc_provider([settings]) as running:
        yield running


@pytest.fixture
def issuer(provider: OidcProvider) -> Issuer:
    return provider["login"]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[OidcClient]:
    async with a_running_client(secrets_folder(tmp_path), Clock(time.time())) as running:
        yield running


def tenant_of(issuer: Issuer, **changes: Any) -> TenantTable:
    return a_tenant("acme", a_login(issuer, **changes))


class Visitor:
    """A browser with cookies that follows redirects until it is sent back to us; it never goes there."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def follow(self, url: str) -> dict[str, str]:
        for _ in range(10):
            async with self._session.get(url, allow_redirects=False) as answer:
                if "Location" not in answer.headers:
                    raise AssertionError(f"{answer.status} at {urlsplit(url).path}: {(await answer.text())[:500]}")
                url = urljoin(url, answer.headers["Location"])
            if url.startswith(REDIRECT_URI):
                return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        raise AssertionError("too many redirects")


@pytest.fixture
async def visitor() -> AsyncIterator[Visitor]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield Visitor(session)


async def log_in(client: OidcClient, tenant: TenantTable, visitor: Visitor) -> Tokens:
    spec = tenant.providers[0]
    url = await client.begin(
        tenant, spec, redirect_uri=REDIRECT_URI, state="s", nonce="the-nonce", code_verifier=VERIFIER
    )
    back = await visitor.follow(url)
    assert back["state"] == "s"
    assert await client.check_response_issuer(tenant, spec, back["iss"])
    assert not await client.check_response_issuer(tenant, spec, None)
    return await client.redeem(
        tenant,
        spec,
        code=back["code"],
        redirect_uri=REDIRECT_URI,
        code_verifier=VERIFIER,
        nonce="the-nonce",
        now=time.time(),
    )


@pytest.mark.parametrize("pushes", ["auto", "never"])
async def test_a_person_logs_in(pushes: str, client: OidcClient, issuer: Issuer, visitor: Visitor) -> None:
    """Code, PKCE, nonce, issuer in the response; pushed where the provider offers it."""
    tokens = await log_in(client, tenant_of(issuer, pushes=pushes), visitor)
    assert (tokens.sub, tokens.issuer) == ("ana", issuer.issuer)
    assert tokens.claims["groups"] == ["analysts"]
    assert tokens.refresh_token
    counts = await issuer.counts()
    assert any("request" in path for path in counts) is (pushes == "auto"), counts


@pytest.mark.parametrize(
    ("auth", "metadata"),
    [
        ("client_secret_post", {}),
        ("none", {}),
        *(
            ("private_key_jwt", {"token_endpoint_auth_signing_alg": name, "jwks": {"keys": [key.jwk()]}})
            for name, key in KEYS.items()
        ),
    ],
    ids=["post", "none", *KEYS],
)
async def test_the_client_is_known_by_each_proof(
    auth: str, metadata: dict[str, Any], issuer: Issuer, visitor: Visitor, tmp_path: Path
) -> None:
    """At the token endpoint and at PAR, where the audience is the issuer as well."""
    await issuer.set_clients(registered(auth, **metadata))
    key = KEYS.get(metadata.get("token_endpoint_auth_signing_alg", ""))
    folder = secrets_folder(tmp_path, content=key.pem() if key is not None else None)
    async with a_running_client(folder, Clock(time.time())) as client:
        assert (await log_in(client, tenant_of(issuer, client=a_client(auth)), visitor)).sub == "ana"


async def test_a_refresh_token_is_rotated_and_its_reuse_ends_the_login(
    client: OidcClient, issuer: Issuer, visitor: Visitor
) -> None:
    """The new ID token is judged like the first; claims are the new ones; the old token is no good any more."""
    tenant = tenant_of(issuer)
    tokens = await log_in(client, tenant, visitor)
    session = a_session(tenant, Clock(time.time()), refresh_token=tokens.refresh_token, sid=tokens.sid)
    await issuer.set_accounts({"ana": {"groups": ["others"]}})
    newer = await client.refresh(tenant, tenant.providers[0], session, time.time())
    assert newer.refresh_token not in {None, tokens.refresh_token}
    assert newer.claims["groups"] == ["others"]
    with pytest.raises(GrantInvalid):
        await client.refresh(tenant, tenant.providers[0], session, time.time())


async def test_keys_rotated_between_login_and_refresh_cost_nobody_the_session(
    client: OidcClient, issuer: Issuer, visitor: Visitor
) -> None:
    """A key that was announced before it signs is known in time."""
    tenant = tenant_of(issuer)
    await issuer.rotate("announce")
    tokens = await log_in(client, tenant, visitor)
    await issuer.rotate("sign")
    session = a_session(tenant, Clock(time.time()), refresh_token=tokens.refresh_token)
    assert (await client.refresh(tenant, tenant.providers[0], session, time.time())).sub == "ana"


async def test_groups_come_from_userinfo(client: OidcClient, issuer: Issuer, visitor: Visitor) -> None:
    """With the access token of the login."""
    tenant = tenant_of(issuer)
    spec = tenant.providers[0]
    tenant = a_tenant("acme", replace(spec, groups=replace(spec.groups, source="userinfo")))
    tokens = await log_in(client, tenant, visitor)
    assert groups_of(tokens.claims, tenant.providers[0], "acme") == frozenset({"analysts"})
    assert tokens.access_token is not None


async def test_introspection_and_revocation(client: OidcClient, issuer: Issuer, visitor: Visitor) -> None:
    """A refresh token that was revoked is no good any more; a token that nobody knows is not active."""
    tenant = tenant_of(issuer)
    spec = tenant.providers[0]
    tokens = await log_in(client, tenant, visitor)
    assert (await client.introspect(tenant, spec, "nonsense"))["active"] is False
    await client.revoke_refresh_token(tenant, spec, tokens.refresh_token or "")
    session = a_session(tenant, Clock(time.time()), refresh_token=tokens.refresh_token)
    with pytest.raises(GrantInvalid):
        await client.refresh(tenant, spec, session, time.time())


async def test_a_code_is_good_once(client: OidcClient, issuer: Issuer, visitor: Visitor) -> None:
    """A code that comes again names nobody."""
    tenant = tenant_of(issuer)
    spec = tenant.providers[0]
    url = await client.begin(tenant, spec, redirect_uri=REDIRECT_URI, state="s", nonce="n", code_verifier=VERIFIER)
    back = await visitor.follow(url)
    given = {"code": back["code"], "redirect_uri": REDIRECT_URI, "code_verifier": VERIFIER, "nonce": "n"}
    await client.redeem(tenant, spec, **given, now=time.time())
    with pytest.raises(LoginRefused):
        await client.redeem(tenant, spec, **given, now=time.time())


async def test_logout_there_has_an_address(client: OidcClient, issuer: Issuer, visitor: Visitor) -> None:
    """The provider knows client, token and where to come back to."""
    tenant = tenant_of(issuer)
    tokens = await log_in(client, tenant, visitor)
    url = await client.end_session_url(
        tenant,
        tenant.providers[0],
        id_token=tokens.id_token,
        post_logout_redirect_uri="http://acme.localhost/",
        state="x",
    )
    assert url is not None
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200


async def test_its_logout_tokens_are_understood(client: OidcClient, issuer: Issuer) -> None:
    """Sent to a socket of ours, as to Portero's back channel."""
    got: list[str] = []

    async def take(request: web.Request) -> web.Response:
        got.append(str((await request.post())["logout_token"]))
        return web.Response()

    app = web.Application()
    app.router.add_post("/backchannel", take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    uri = f"http://127.0.0.1:{runner.addresses[0][1]}/backchannel"
    told = []
    try:
        for sid in (None, "the-sid"):
            metadata: dict[str, Any] = {
                "backchannel_logout_uri": uri,
                "backchannel_logout_session_required": sid is not None,
            }
            await issuer.set_clients(registered(**metadata))
            told.append(await issuer.tell_logout("portero", "ana", sid))
    finally:
        await runner.cleanup()
    assert len(got) == 2, told
    tenant = tenant_of(issuer)
    notices = [await client.judge_logout_token(tenant, token, time.time()) for token in got]
    assert [(notice.sub, notice.sid) for notice in notices] == [("ana", None), ("ana", "the-sid")]
