"""
Portero as a client: what it asks of an honest provider, and what it makes of the answers.

Longer than other modules: one protocol, step by step.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest

from authproxy.identity.providers.oidc import LoginRefused, OidcClient
from authproxy.identity.sessions.session import GrantInvalid
from policies.claims import groups_of
from policies.decision import Reason
from policies.errors import ProviderUnavailable
from policies.tables import ProviderSpec, TenantTable
from tests.fakes.identity import Clock, a_tenant
from tests.fakes.login_client import ClientMetrics, a_running_client, a_session, begin, log_in
from tests.fakes.login_provider import (
    CLIENT_ID,
    CODE,
    NONCE,
    REDIRECT_URI,
    SECRET,
    VERIFIER,
    LoginProvider,
    a_client,
    a_login,
    s256,
    secrets_folder,
)
from tests.fakes.provider import Key

Source = Literal["id_token", "access_token", "userinfo"]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> ClientMetrics:
    return ClientMetrics()


@pytest.fixture
async def provider(clock: Clock) -> AsyncIterator[LoginProvider]:
    async with LoginProvider() as running:
        running.now = clock
        yield running


@pytest.fixture
async def client(clock: Clock, tmp_path: Path, metrics: ClientMetrics) -> AsyncIterator[OidcClient]:
    async with a_running_client(secrets_folder(tmp_path), clock, metrics=metrics) as running:
        yield running


@pytest.fixture
def tenant(provider: LoginProvider) -> TenantTable:
    return a_tenant("acme", a_login(provider))


def with_groups_from(provider: LoginProvider, source: Source, **changes: Any) -> TenantTable:
    spec = a_login(provider, **changes)
    return a_tenant("acme", replace(spec, groups=replace(spec.groups, source=source)))


def query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, strict_parsing=True).items()}


async def test_a_browser_is_sent_with_pkce_state_and_nonce(
    client: OidcClient, tenant: TenantTable, provider: LoginProvider
) -> None:
    """Always S256, whatever the provider says that it supports; the address is a GET and holds no secret."""
    provider.metadata = {"code_challenge_methods_supported": ["plain"]}
    url = await begin(client, tenant, prompt="login")
    assert url.startswith(f"{provider.issuer}/authorization?")
    assert query(url) == {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": REDIRECT_URI,
        "scope": "openid profile",
        "state": "the-state",
        "nonce": NONCE,
        "code_challenge": s256(VERIFIER),
        "code_challenge_method": "S256",
        "prompt": "login",
    }
    assert VERIFIER not in url


async def test_the_endpoints_own_query_is_kept(
    client: OidcClient, tenant: TenantTable, provider: LoginProvider
) -> None:
    """RFC 6749 section 3.1: some providers tell their customers apart by it."""
    provider.metadata = {"authorization_endpoint": f"{provider.issuer}/authorization?realm=a%26b"}
    assert query(await begin(client, tenant))["realm"] == "a&b"


@pytest.mark.parametrize("address", ["javascript:alert(1)", "http://u@id.example/", "data:text/html,x", "/login", ""])
async def test_a_browser_is_sent_to_no_address_that_is_none(
    address: str, client: OidcClient, provider: LoginProvider
) -> None:
    """R41: also when the policy itself names it."""
    written = {"authorization_endpoint": address, "end_session_endpoint": address}
    tenant = a_tenant("acme", a_login(provider, endpoints=written))
    with pytest.raises(ProviderUnavailable):
        await begin(client, tenant)
    spec = tenant.providers[0]
    assert await client.end_session_url(tenant, spec, id_token=None, post_logout_redirect_uri="/", state=None) is None


async def test_a_request_is_pushed_where_that_is_offered(
    client: OidcClient, tenant: TenantTable, provider: LoginProvider
) -> None:
    """RFC 9126: the address names client and reference, everything else went ahead, with the client's proof."""
    provider.metadata = {"pushed_authorization_request_endpoint": f"{provider.issuer}/par"}
    assert query(await begin(client, tenant)) == {"client_id": CLIENT_ID, "request_uri": "urn:example:1"}
    (asked,) = provider.of("par")
    assert asked.form["code_challenge"] == s256(VERIFIER)
    assert asked.form["redirect_uri"] == REDIRECT_URI
    assert asked.form["response_type"] == "code"
    assert asked.fields["Authorization"].startswith("Basic ")


async def test_par_never_means_never(client: OidcClient, provider: LoginProvider) -> None:
    """The operator's word, for providers whose offer does not work."""
    provider.metadata = {"pushed_authorization_request_endpoint": f"{provider.issuer}/par"}
    assert "state" in query(await begin(client, a_tenant("acme", a_login(provider, pushes="never"))))
    assert not provider.of("par")


@pytest.mark.parametrize(
    ("pushes", "metadata"),
    [
        ("require", {}),
        ("auto", {"require_pushed_authorization_requests": True}),
        ("require", {"pushed_authorization_request_endpoint": "https://evil.example/par"}),
    ],
)
async def test_a_push_that_is_wanted_and_not_possible_starts_no_login(
    pushes: str, metadata: dict[str, Any], client: OidcClient, provider: LoginProvider
) -> None:
    """And says in the log why."""
    provider.metadata = metadata
    with pytest.raises(ProviderUnavailable, match="pushed_authorization_request_endpoint"):
        await begin(client, a_tenant("acme", a_login(provider, pushes=pushes)))


@pytest.mark.parametrize(
    ("refusal", "why", "remedy"),
    [
        ((401, {"error": "invalid_client"}), "refused: 401 invalid_client", "client_auth"),
        ((400, {"error": "canary <b>"}), "refused: 400 without a plain error code", None),
        ((500, {}), "127.0.0.1 answered 500", None),
    ],
    ids=["wrong-secret", "hostile", "broken"],
)
async def test_a_provider_that_fails_is_told_once_a_minute(
    refusal: tuple[int, Any],
    why: str,
    remedy: str | None,
    client: OidcClient,
    provider: LoginProvider,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With tenant, provider, endpoint and cause, and what to do where that is known; never with what was sent."""
    tenant = a_tenant("acme", a_login(provider))
    provider.refusal = refusal

    async def told() -> list[logging.LogRecord]:
        caplog.clear()
        with pytest.raises(ProviderUnavailable):
            await log_in(client, tenant, clock)
        return [line for line in caplog.records if line.getMessage() == "provider could not be asked"]

    (line,) = await told()
    facts = vars(line)
    assert {name: facts[name] for name in ("tenant", "provider", "call", "why")} == {
        "tenant": "acme",
        "provider": tenant.providers[0].name,
        "call": "token_endpoint",
        "why": why,
    }
    assert (remedy or "") in facts.get("remedy", "")
    assert not any(secret in str(facts) for secret in ("canary", SECRET, CODE, VERIFIER))
    assert await told() == []
    clock.now += 61
    assert len(await told()) == 1


async def test_a_code_that_is_over_is_everyday(
    client: OidcClient, tenant: TenantTable, provider: LoginProvider, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever brings made-up codes does not fill the log."""
    provider.refusal = (400, {"error": "invalid_grant"})
    with pytest.raises(LoginRefused):
        await log_in(client, tenant, clock)
    assert "provider could not be asked" not in caplog.text


async def test_a_code_is_redeemed_with_everything_that_binds_it(
    client: OidcClient, tenant: TenantTable, provider: LoginProvider, clock: Clock, metrics: ClientMetrics
) -> None:
    """RFC 7636 section 4.5; what came is verified claims, and only the tokens that are needed again."""
    tokens = await log_in(client, tenant, clock)
    (asked,) = provider.of("token")
    assert asked.form == {
        "grant_type": "authorization_code",
        "code": CODE,
        "redirect_uri": REDIRECT_URI,
        "code_verifier": VERIFIER,
    }
    pair = b64decode(asked.fields["Authorization"].removeprefix("Basic "))
    assert pair == b"portero:s3cr%26t+of%3Dacme%25"
    assert tokens.claims["groups"] == ["analysts"]
    assert "nonce" not in tokens.claims
    assert tokens.access_token is None
    assert tokens.refresh_token == provider.refresh_token
    assert tokens.id_token is not None
    assert clock.now + 299 < tokens.expires_at < clock.now + 302
    assert metrics.provider_calls_total.counts == {("acme", "login", "token", "ok"): 1}


@pytest.mark.parametrize("auth", ["none", "client_secret_post", "private_key_jwt"])
async def test_the_client_proves_itself_as_the_policy_says(
    auth: str, provider: LoginProvider, clock: Clock, tmp_path: Path
) -> None:
    """At the token endpoint; a signed assertion is for the issuer."""
    key = Key("c", "Ed25519")
    content = key.pem() if auth == "private_key_jwt" else None
    tenant = a_tenant("acme", a_login(provider, client=a_client(auth)))
    async with a_running_client(secrets_folder(tmp_path, content=content), clock) as client:
        await log_in(client, tenant, clock)
    (asked,) = provider.of("token")
    assert "Authorization" not in asked.fields
    assert asked.form["client_id"] == CLIENT_ID
    match auth:
        case "none":
            assert not asked.form.keys() & {"client_secret", "client_assertion"}
        case "client_secret_post":
            assert asked.form["client_secret"] == SECRET
        case _:
            jwt.decode(
                asked.form["client_assertion"],
                key.private.public_key(),
                algorithms=["EdDSA"],
                audience=provider.issuer,
                options={"verify_exp": False, "verify_iat": False},
            )


async def test_another_code_or_verifier_logs_nobody_in(
    client: OidcClient, tenant: TenantTable, clock: Clock, metrics: ClientMetrics
) -> None:
    """The provider says invalid_grant; the caller is told a constant sentence."""
    with pytest.raises(LoginRefused) as caught:
        await log_in(client, tenant, clock, code="replayed")
    assert caught.value.refusal.reason is Reason.LOGIN_FAILED
    assert metrics.provider_calls_total.counts == {("acme", "login", "token", "refused"): 1}


async def test_no_code_is_spent_while_there_are_no_keys(
    client: OidcClient, tenant: TenantTable, provider: LoginProvider, clock: Clock
) -> None:
    """A code and a rotated refresh token are good once: what could not be verified is not asked for."""
    provider.metadata = {"jwks_uri": f"{provider.issuer}/nothing"}
    with pytest.raises(ProviderUnavailable, match="keys"):
        await log_in(client, tenant, clock)
    with pytest.raises(ProviderUnavailable, match="keys"):
        await client.refresh(tenant, tenant.providers[0], a_session(tenant, clock), clock.now)
    assert not provider.of("token")


async def test_a_key_that_is_new_since_is_fetched(
    client: OidcClient, tenant: TenantTable, provider: LoginProvider, clock: Clock
) -> None:
    """Rotation between two logins costs one fetch."""
    await log_in(client, tenant, clock)
    provider.keys.append(Key("k2", "EC", 9))
    clock.pass_s(11)
    assert (await log_in(client, tenant, clock)).sub == "ana"
    assert provider.requests["jwks"] == 2


@pytest.mark.parametrize(
    ("expires_in", "lifetime_s"),
    [
        *((300, 300), (5, 30), (10**9, 86_400), ("300", 300), (None, 600), (0, 600), (-5, 600), ("x", 600)),
        *((True, 600), (1e300, 86_400), ([], 600), ("-1", 600), ("9" * 30, 600), (299.5, 299.5)),
    ],
)
async def test_a_lifetime_is_bounded(
    expires_in: Any, lifetime_s: float, client: OidcClient, tenant: TenantTable, provider: LoginProvider, clock: Clock
) -> None:
    """30 s to 24 h; where the provider says nothing that makes sense, the ID token's exp stands in."""
    provider.answer = {"expires_in": expires_in}
    tokens = await log_in(client, tenant, clock)
    assert abs(tokens.expires_at - clock.now - lifetime_s) < 2


async def test_groups_of_the_access_token_replace_the_id_tokens(
    client: OidcClient, provider: LoginProvider, clock: Clock
) -> None:
    """Never a union (R12); nothing else of the access token gets into the session."""
    tokens = await log_in(client, with_groups_from(provider, "access_token"), clock)
    assert tokens.claims["groups"] == ["from-access-token"]
    assert tokens.claims["aud"] == CLIENT_ID
    assert "scope" not in tokens.claims
    assert tokens.access_token is None


@pytest.mark.parametrize("access_token", ["opaque", "OTHER-AUDIENCE", "OTHER-SUB", "OTHER-KEY", "EXPIRED", "ID-TOKEN"])
async def test_an_access_token_that_is_not_good_here_gives_no_groups(
    access_token: str, client: OidcClient, provider: LoginProvider, clock: Clock
) -> None:
    """Its claims count only when it would be good as a bearer token of the same person."""
    made = {
        "OTHER-AUDIENCE": provider.mint(aud="others", groups=["admins"]),
        "OTHER-SUB": provider.mint("root", groups=["admins"]),
        "OTHER-KEY": provider.mint(key=Key("k1", "EC", 44), groups=["admins"]),
        "EXPIRED": provider.mint(ttl_s=-1, groups=["admins"]),
        "ID-TOKEN": provider.id_token("x"),
    }.get(access_token, access_token)
    provider.answer = {"access_token": made, "id_token": provider.id_token(made)}
    tenant = with_groups_from(provider, "access_token")
    with pytest.raises(LoginRefused):
        await log_in(client, tenant, clock)
    provider.answer["id_token"] = provider.id_token(made, None)
    session = a_session(tenant, clock, refresh_token=provider.refresh_token)
    with pytest.raises(GrantInvalid):
        await client.refresh(tenant, tenant.providers[0], session, clock.now)


async def test_groups_of_userinfo_replace_the_id_tokens(
    client: OidcClient, provider: LoginProvider, clock: Clock
) -> None:
    """Asked with the new access token, which is kept, since it will be asked again."""
    tokens = await log_in(client, with_groups_from(provider, "userinfo"), clock)
    assert tokens.claims["groups"] == ["from-userinfo"]
    assert tokens.access_token is not None
    (asked,) = provider.of("userinfo")
    assert asked.fields["Authorization"] == f"Bearer {tokens.access_token}"


@pytest.mark.parametrize("about", [{"sub": "bob"}, {"sub": None}, {}, {"sub": ["ana"]}, {"sub": "Ana"}], ids=str)
async def test_userinfo_of_somebody_else_is_not_used(
    about: dict[str, Any], client: OidcClient, provider: LoginProvider, clock: Clock
) -> None:
    """OpenID Connect Core section 5.3.2."""
    provider.about = {"groups": ["admins"], **about}
    tenant = with_groups_from(provider, "userinfo")
    with pytest.raises(ProviderUnavailable, match="somebody else"):
        await log_in(client, tenant, clock)
    with pytest.raises(ProviderUnavailable):
        await client.userinfo(tenant, tenant.providers[0], "token", "ana", clock.now)


async def test_overage_is_answered_by_userinfo(
    client: OidcClient, tenant: TenantTable, provider: LoginProvider, clock: Clock
) -> None:
    """Too many groups for a token: they stand elsewhere, whatever the policy says of their source."""
    provider.id_claims = {"groups": None, "_claim_names": {"groups": "src1"}}
    tokens = await log_in(client, tenant, clock)
    assert groups_of(tokens.claims, tenant.providers[0], "acme") == frozenset({"from-userinfo"})
    assert tokens.access_token is not None


async def test_overage_that_nobody_answers_leaves_groups_unknown(
    client: OidcClient, tenant: TenantTable, provider: LoginProvider, clock: Clock
) -> None:
    """Unknown, which is neither none nor an error: a provider without userinfo must not lock everybody out."""
    provider.id_claims = {"groups": None, "_claim_names": {"groups": "src1"}}
    provider.metadata = {"userinfo_endpoint": None}
    tokens = await log_in(client, tenant, clock)
    assert groups_of(tokens.claims, tenant.providers[0], "acme") is None


async def test_a_person_of_another_tenant_is_not_logged_in(
    client: OidcClient, provider: LoginProvider, clock: Clock
) -> None:
    """403 tenant-mismatch, as for a bearer token; also when userinfo claims otherwise."""
    provider.id_claims = {"organization": "globex"}
    provider.about = {"sub": "ana", "organization": "acme", "groups": []}
    sources: tuple[Source, ...] = ("id_token", "userinfo")
    for source in sources:
        with pytest.raises(LoginRefused) as caught:
            await log_in(client, with_groups_from(provider, source, tenant_claim="organization"), clock)
        assert caught.value.refusal.reason is Reason.TENANT_MISMATCH


async def test_a_refresh_replaces_every_claim(
    client: OidcClient, tenant: TenantTable, provider: LoginProvider, clock: Clock
) -> None:
    """R12: what the provider no longer says is gone."""
    provider.id_claims = {"groups": None}
    session = a_session(tenant, clock, claims={"sub": "ana", "groups": ["before"], "email": "ana@acme.example"})
    tokens = await client.refresh(tenant, tenant.providers[0], session, clock.now)
    assert "groups" not in tokens.claims
    assert "email" not in tokens.claims
    (asked,) = provider.of("token")
    assert asked.form == {"grant_type": "refresh_token", "refresh_token": "refresh-1"}


async def test_a_refresh_without_id_token_asks_userinfo(
    client: OidcClient, provider: LoginProvider, clock: Clock
) -> None:
    """OpenID Connect Core section 12.2 allows it; groups and tenant are userinfo's then, not what they were."""
    provider.answer = {"id_token": None, "refresh_token": None}
    provider.about = {"sub": "ana", "groups": ["now"], "organization": "globex"}
    tenant = a_tenant("acme", a_login(provider, tenant_claim="organization"))
    tokens = await client.refresh(tenant, tenant.providers[0], a_session(tenant, clock), clock.now)
    assert tokens.claims["groups"] == ["now"]
    assert tokens.claims["organization"] == "globex"
    assert (tokens.sub, tokens.sid, tokens.issuer) == ("ana", "s1", provider.issuer)
    assert (tokens.id_token, tokens.refresh_token) == (None, None)


async def test_a_refresh_that_says_nothing_anew_ends_the_session(
    client: OidcClient, tenant: TenantTable, provider: LoginProvider, clock: Clock
) -> None:
    """Neither ID token nor userinfo: groups would get older than they may."""
    provider.answer, provider.metadata = {"id_token": None}, {"userinfo_endpoint": None}
    with pytest.raises(GrantInvalid):
        await client.refresh(tenant, tenant.providers[0], a_session(tenant, clock), clock.now)


@pytest.mark.parametrize("path", ["groups", "realm_access.roles", "organization.groups", "https://acme/groups"])
async def test_groups_that_cannot_be_asked_for_are_unknown(
    path: str, client: OidcClient, provider: LoginProvider, clock: Clock
) -> None:
    """No role comes from a group, every deny rule on groups holds; and the new refresh token is not lost."""
    provider.id_claims = {"organization": {"acme": {"groups": ["old"]}, "globex": {}}, "groups": ["old"]}
    provider.about = {"sub": "somebody else"}
    tenant = with_groups_from(provider, "userinfo", groups_claim=path, tenant_claim="organization")
    tokens = await client.refresh(tenant, tenant.providers[0], a_session(tenant, clock), clock.now)
    assert groups_of(tokens.claims, tenant.providers[0], "acme") is None
    assert tokens.refresh_token == provider.refresh_token
    assert tokens.expires_at < clock.now + 32


@pytest.mark.parametrize("changes", [{"refresh_token": None}, {"issuer": "https://old.example"}], ids=str)
async def test_a_session_without_anything_to_refresh_with_is_over(
    changes: dict[str, Any], client: OidcClient, tenant: TenantTable, provider: LoginProvider, clock: Clock
) -> None:
    """And a refresh token is never shown to another issuer than the one that gave it (mix-up by policy change)."""
    with pytest.raises(GrantInvalid):
        await client.refresh(tenant, tenant.providers[0], a_session(tenant, clock, **changes), clock.now)
    assert not provider.asked


async def test_logout_at_the_provider_is_an_address(
    client: OidcClient, tenant: TenantTable, provider: LoginProvider
) -> None:
    """RP-Initiated Logout 1.0 section 2."""
    spec = tenant.providers[0]
    back = "http://acme.localhost/"
    url = await client.end_session_url(tenant, spec, id_token="x.y.z", post_logout_redirect_uri=back, state="s")
    assert url is not None
    assert url.startswith(f"{provider.issuer}/end_session?")
    assert query(url) == {
        "id_token_hint": "x.y.z",
        "client_id": CLIENT_ID,
        "post_logout_redirect_uri": back,
        "state": "s",
    }
    url = await client.end_session_url(tenant, spec, id_token="x" * 5000, post_logout_redirect_uri=back, state=None)
    assert query(url or "") == {"client_id": CLIENT_ID, "post_logout_redirect_uri": back}


@pytest.mark.parametrize(
    "metadata",
    [{"end_session_endpoint": None}, {"end_session_endpoint": "https://evil.example"}, {"issuer": "x"}],
    ids=str,
)
async def test_a_provider_without_logout_is_not_asked_for_one(
    metadata: dict[str, Any], client: OidcClient, tenant: TenantTable, provider: LoginProvider
) -> None:
    """Our own logout has happened all the same, so this is never an error."""
    provider.metadata = metadata
    spec: ProviderSpec = tenant.providers[0]
    assert await client.end_session_url(tenant, spec, id_token=None, post_logout_redirect_uri="/", state=None) is None


async def test_a_refresh_token_is_revoked_where_that_is_offered(
    client: OidcClient, tenant: TenantTable, provider: LoginProvider
) -> None:
    """RFC 7009; an empty answer, no endpoint and a provider that is down are all the same to who logs out."""
    spec = tenant.providers[0]
    await client.revoke_refresh_token(tenant, spec, "refresh-1")
    (asked,) = provider.of("revocation")
    assert asked.form == {"token": "refresh-1", "token_type_hint": "refresh_token"}
    await client.revoke_refresh_token(tenant, replace(spec, endpoints={"revocation_endpoint": "http://10.0.0.1"}), "x")
    await client.revoke_refresh_token(tenant, replace(spec, login=None), "x")


async def test_introspection_is_the_providers_word(
    client: OidcClient, tenant: TenantTable, provider: LoginProvider
) -> None:
    """RFC 7662: as it is, but for active, which must be a boolean."""
    spec = tenant.providers[0]
    assert await client.introspect(tenant, spec, "opaque") == {"active": True, "sub": "ana"}
    (asked,) = provider.of("introspection")
    assert asked.form == {"token": "opaque", "token_type_hint": "access_token"}
    for answer in ({}, {"active": "true"}, {"active": 1}, {"active": None}, {"error": "invalid_request"}):
        provider.introspected = answer
        with pytest.raises(ProviderUnavailable):
            await client.introspect(tenant, spec, "opaque")
    provider.introspected, provider.introspection_status = {"active": True, "sub": "root"}, 401
    with pytest.raises(ProviderUnavailable):
        await client.introspect(tenant, spec, "opaque")
    with pytest.raises(ProviderUnavailable):
        await client.introspect(tenant, replace(spec, introspection=None), "opaque")


async def test_introspection_needs_no_discovery_when_its_address_is_written(
    client: OidcClient, provider: LoginProvider
) -> None:
    """A plain OAuth server has no such document."""
    spec = a_login(provider, endpoints={"introspection_endpoint": f"{provider.issuer}/introspection"})
    tenant = a_tenant("acme", spec)
    assert (await client.introspect(tenant, spec, "opaque"))["active"] is True
    assert provider.requests["discovery"] == 0


async def test_a_provider_without_login_logs_nobody_in(
    client: OidcClient, provider: LoginProvider, clock: Clock
) -> None:
    """The policy may have changed while a browser was away."""
    tenant = a_tenant("acme", replace(a_login(provider), login=None))
    with pytest.raises(ProviderUnavailable):
        await begin(client, tenant)
    with pytest.raises(ProviderUnavailable):
        await log_in(client, tenant, clock)
    with pytest.raises(GrantInvalid):
        await client.refresh(tenant, tenant.providers[0], a_session(tenant, clock), clock.now)


async def test_a_slow_token_endpoint_is_waited_for_longer_than_a_document(
    provider: LoginProvider, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have spent the refresh token already, and a lost answer would log somebody out."""
    answer = provider.post

    async def slow(*words: Any) -> Any:
        await asyncio.sleep(1.0)
        return await answer(*words)

    monkeypatch.setattr(provider, "post", slow)
    tenant = a_tenant("acme", a_login(provider))
    async with a_running_client(secrets_folder(tmp_path), clock, timeout_s=0.5, grant_timeout_s=20.0) as client:
        assert (await log_in(client, tenant, clock)).sub == "ana"
        with pytest.raises(ProviderUnavailable, match=r"within 0\.5 s"):
            await client.introspect(tenant, tenant.providers[0], "opaque")


async def test_nothing_secret_gets_into_a_text(
    client: OidcClient, provider: LoginProvider, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """R27: through success and every kind of failure, at the lowest level of the log."""
    tenant = with_groups_from(provider, "userinfo")
    texts: list[str] = []
    with caplog.at_level(logging.DEBUG):
        tokens = await log_in(client, tenant, clock)
        session = a_session(tenant, clock, refresh_token=provider.refresh_token)
        await client.revoke_refresh_token(tenant, tenant.providers[0], "canary-refresh")
        canary = {"error": "server_error", "error_description": "canary-text"}
        for refusal in (
            (400, canary),
            (401, {"error": "canary-CODE"}),
            (500, canary),
            (400, {"error": "invalid_grant"}),
        ):
            provider.refusal = refusal
            for call in (
                log_in(client, tenant, clock),
                client.refresh(tenant, tenant.providers[0], session, clock.now),
            ):
                with pytest.raises((LoginRefused, ProviderUnavailable, GrantInvalid)) as caught:
                    await call
                texts.append(f"{caught.value} {caught.value!r} {caught.value.__cause__!r}")
    secrets = (CODE, VERIFIER, NONCE, SECRET, "s3cr", "canary", "refresh-", "eyJ", tokens.access_token or "-")
    for text in (caplog.text, *texts):
        assert not [secret for secret in secrets if secret in text.replace("refresh token", "")]
