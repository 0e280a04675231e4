"""
Attack families A4 to A6, A9 and A10 for logins: whatever a provider or somebody in its name says, nobody is logged in
by it who has not logged in, nobody is refreshed into somebody else, and nobody is logged out by a stranger.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from authproxy.identity.providers.oidc import LoginRefused, OidcClient
from authproxy.identity.sessions.session import GrantInvalid
from policies.decision import Reason
from policies.errors import ProviderUnavailable
from policies.tables import ProviderSpec, TenantTable
from tests.fakes.evil_login import ENDPOINT_LIES, FORGERIES, EvilLogin
from tests.fakes.identity import Clock, a_tenant
from tests.fakes.login_client import a_running_client, a_session, begin, log_in
from tests.fakes.login_provider import (
    CLIENT_ID,
    CODE,
    EVENT,
    NONCE,
    VERIFIER,
    LoginProvider,
    a_login,
    secrets_folder,
)
from tests.fakes.patient_http import PatientHttp
from tests.fakes.provider import Key, compact

HOSTILE: dict[str, dict[str, Any]] = {
    "iss-missing": {"iss": None},
    "iss-other": {"iss": "https://evil.example"},
    "iss-slash": {"iss": "SLASH"},
    "iss-list": {"iss": ["https://id.example"]},
    "aud-missing": {"aud": None},
    "aud-other": {"aud": "somebody"},
    "aud-number": {"aud": 7},
    "aud-empty": {"aud": []},
    "aud-object": {"aud": {CLIENT_ID: True}},
    "aud-mixed": {"aud": [CLIENT_ID, 7], "azp": CLIENT_ID},
    "aud-prefix": {"aud": CLIENT_ID + "-x"},
    "azp-instead-of-aud": {"aud": "somebody", "azp": CLIENT_ID},
    "aud-of-the-functions": {"aud": "survey"},
    "exp-missing": {"exp": None},
    "exp-past": {"exp": 1},
    "exp-text": {"exp": "1999999999"},
    "exp-true": {"exp": True},
    "exp-huge": {"exp": 1e300},
    "exp-far": {"exp": 4_000_000_000},
    "exp-negative": {"exp": -1},
    "iat-missing": {"iat": None},
    "iat-text": {"iat": "1790000000"},
    "iat-true": {"iat": True},
    "iat-future": {"iat": 1_790_000_000 + 3600},
    "iat-old": {"iat": 1_790_000_000 - 3600},
    "iat-huge": {"iat": 1e300},
    "nbf-future": {"nbf": 1_790_000_000 + 3600},
    "nbf-text": {"nbf": "0"},
}
"""Claims that no token may have, whatever its kind."""
ID_CLAIMS: dict[str, dict[str, Any]] = HOSTILE | {
    "azp-other": {"azp": "somebody"},
    "azp-null-text": {"azp": ""},
    "azp-list": {"azp": [CLIENT_ID]},
    "aud-several-without-azp": {"aud": [CLIENT_ID, "somebody"]},
    "aud-several-azp-other": {"aud": [CLIENT_ID, "somebody"], "azp": "somebody"},
    "nonce-missing": {"nonce": None},
    "nonce-other": {"nonce": "another"},
    "nonce-empty": {"nonce": ""},
    "nonce-list": {"nonce": [NONCE]},
    "nonce-true": {"nonce": True},
    "nonce-supported-false": {"nonce": None, "nonce_supported": False},
    "at-hash-other": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
    "at-hash-empty": {"at_hash": ""},
    "at-hash-list": {"at_hash": []},
    "sub-missing": {"sub": None},
    "sub-empty": {"sub": ""},
    "sub-number": {"sub": 7},
    "sub-list": {"sub": ["ana"]},
    "sub-long": {"sub": "a" * 256},
    "sub-control": {"sub": "ana\n"},
}
LOGOUT_CLAIMS: dict[str, dict[str, Any]] = {
    name: claims for name, claims in HOSTILE.items() if name != "exp-missing"
} | {
    "nonce": {"nonce": "x"},
    "nonce-null": {"nonce": "NULL"},
    "neither-sub-nor-sid": {"sub": None, "sid": None},
    "sid-empty": {"sid": "", "sub": None},
    "sid-number": {"sid": 7},
    "sid-long": {"sid": "s" * 256},
    "sub-empty": {"sub": ""},
    "sub-list": {"sub": ["ana"]},
    "jti-missing": {"jti": None},
    "jti-empty": {"jti": ""},
    "jti-number": {"jti": 7},
    "jti-long": {"jti": "j" * 256},
    "events-missing": {"events": None},
    "events-list": {"events": [EVENT]},
    "events-text": {"events": EVENT},
    "events-other": {"events": {"http://schemas.openid.net/event/frontchannel-logout": {}}},
    "event-null": {"events": {EVENT: None}},
    "event-text": {"events": {EVENT: "yes"}},
    "events-upper-case": {"events": {EVENT.upper(): {}}},
    "old": {"iat": 1_790_000_000 - 601},
    "azp-instead-of-aud": {"aud": "somebody", "azp": CLIENT_ID},
}

NO_TOKENS = {"blank", "huge", "json-form"}
"""Forgeries that a token endpoint may not answer with, whatever they claim."""
UNKNOWN_KEYS = {"unknown-kid", "kid-path", "kid-sql", "kid-unicode", "alg-of-another-key"}


@pytest.fixture(autouse=True)
def _quick_refetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that a provider's own token names is waited for until it may be asked for: ten seconds otherwise."""
    monkeypatch.setattr("authproxy.identity.providers.jwks.MIN_INTERVAL_S", 0.05)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def elsewhere(clock: Clock) -> AsyncIterator[LoginProvider]:
    """Where lies lead: another server, which must never hear of us."""
    async with LoginProvider(Key("k1", "EC", 78)) as running:
        running.now = clock
        yield running


@pytest.fixture
async def provider(clock: Clock, elsewhere: LoginProvider) -> AsyncIterator[EvilLogin]:
    async with EvilLogin() as running:
        running.now = clock
        running.elsewhere = elsewhere.issuer.replace("127.0.0.1", "localhost") + "/token"
        yield running


@pytest.fixture
async def client(clock: Clock, tmp_path: Path, provider: EvilLogin) -> AsyncIterator[OidcClient]:
    http = PatientHttp(provider.is_silent, timeout_s=0.4)
    async with a_running_client(secrets_folder(tmp_path), clock, timeout_s=0.4, http=http) as running:
        yield running


@pytest.fixture
def spec(provider: EvilLogin) -> ProviderSpec:
    return a_login(provider)


@pytest.fixture
def tenant(spec: ProviderSpec) -> TenantTable:
    return a_tenant("acme", spec)


async def test_an_honest_login_refresh_and_logout_work(
    client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """What every case below spoils by one thing."""
    tokens = await log_in(client, tenant, clock)
    assert (tokens.issuer, tokens.sub, tokens.claims["groups"]) == (provider.issuer, "ana", ["analysts"])
    session = a_session(tenant, clock, refresh_token=tokens.refresh_token)
    assert (await client.refresh(tenant, tenant.providers[0], session, clock.now)).sub == "ana"
    notice = await client.judge_logout_token(tenant, provider.logout_token(), clock.now)
    assert (notice.provider, notice.issuer, notice.sub, notice.sid) == ("login", provider.issuer, "ana", "s1")


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forged_id_token_logs_nobody_in(
    name: str, client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """A4, R15, R44, R45: the signature is one of the provider's own keys, by an algorithm that the policy allows."""
    await log_in(client, tenant, clock)  # the keys are at hand
    provider.forge = FORGERIES[name]
    with pytest.raises((LoginRefused, ProviderUnavailable)) as caught:
        await log_in(client, tenant, clock)
    if isinstance(caught.value, LoginRefused):
        assert caught.value.refusal.reason is Reason.LOGIN_FAILED
    else:
        assert name in NO_TOKENS, "only what is no token at all is the endpoint's fault"


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forged_logout_token_ends_nothing(
    name: str, client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """A10: the same, for what anybody may send to the back channel."""
    await log_in(client, tenant, clock)
    token = provider.forged(FORGERIES[name], provider.logout_claims(), "logout+jwt")
    with pytest.raises((LoginRefused, ProviderUnavailable)) as caught:
        await client.judge_logout_token(tenant, token, clock.now)
    if isinstance(caught.value, LoginRefused):
        assert caught.value.refusal.reason is Reason.LOGIN_FAILED
    else:
        assert name in UNKNOWN_KEYS, "only a key that may not be asked for yet is not known to be none"


@pytest.mark.parametrize("name", ID_CLAIMS)
async def test_an_id_token_with_hostile_claims_logs_nobody_in(
    name: str, client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """A4 and the azp trick: issuer, audience, times, nonce, at_hash and subject, each spoilt alone."""
    provider.id_claims = _spoilt(ID_CLAIMS[name], provider)
    with pytest.raises(LoginRefused) as caught:
        await log_in(client, tenant, clock)
    assert caught.value.refusal.reason is Reason.LOGIN_FAILED


@pytest.mark.parametrize("name", LOGOUT_CLAIMS)
async def test_a_logout_token_with_hostile_claims_ends_nothing(
    name: str, client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """A10: old, with nonce, neither sub nor sid, other events, without jti."""
    claims = provider.logout_claims(**_spoilt(LOGOUT_CLAIMS[name], provider))
    if claims.get("nonce") == "NULL":
        claims["nonce"] = None
    token = provider.forged(compact, claims, "logout+jwt")
    with pytest.raises(LoginRefused) as caught:
        await client.judge_logout_token(tenant, token, clock.now)
    assert caught.value.refusal.reason is Reason.LOGIN_FAILED


def _spoilt(claims: dict[str, Any], provider: EvilLogin) -> dict[str, Any]:
    return {name: provider.issuer + "/" if value == "SLASH" else value for name, value in claims.items()}


@pytest.mark.parametrize(
    ("claims", "sub", "sid"),
    [({"sid": None}, "ana", None), ({"sub": None}, None, "s1"), ({}, "ana", "s1")],
    ids=["sub-only", "sid-only", "both"],
)
async def test_a_logout_token_names_a_person_a_session_or_both(
    claims: dict[str, Any],
    sub: str | None,
    sid: str | None,
    client: OidcClient,
    tenant: TenantTable,
    provider: EvilLogin,
    clock: Clock,
) -> None:
    """A10: and says until when its jti has to be remembered."""
    notice = await client.judge_logout_token(tenant, provider.logout_token(**claims), clock.now)
    assert (notice.sub, notice.sid, notice.jti) == (sub, sid, "j1")
    assert clock.now < notice.expires_at <= clock.now + 630


@pytest.mark.parametrize("kind", ["logout+jwt", "LOGOUT+JWT", "application/logout+jwt", "JWT", None])
async def test_types_that_providers_give_logout_tokens_are_taken(
    kind: str | None, client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """Back-Channel Logout section 2.4 recommends the type and does not require it."""
    token = provider.forged(
        lambda header, claims, key: compact(
            header | {"typ": kind} if kind is not None else {"alg": header["alg"], "kid": header["kid"]}, claims, key
        ),
        provider.logout_claims(),
        "JWT",
    )
    assert (await client.judge_logout_token(tenant, token, clock.now)).sid == "s1"


async def test_no_kind_of_token_passes_for_another(
    client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """R15: an ID token and an access token log nobody out, a logout token and an access token log nobody in."""
    for token in (provider.id_token("a"), provider.id_token("a", None), provider.mint(aud=CLIENT_ID)):
        with pytest.raises(LoginRefused):
            await client.judge_logout_token(tenant, token, clock.now)
    at_jwt = provider.mint(aud=CLIENT_ID, nonce=NONCE)
    for token in (provider.logout_token(), provider.logout_token(nonce=NONCE), at_jwt):
        provider.answer = {"id_token": token}
        with pytest.raises(LoginRefused):
            await log_in(client, tenant, clock)


async def test_a_token_of_another_tenants_provider_says_nothing_here(
    client: OidcClient, tenant: TenantTable, provider: EvilLogin, elsewhere: LoginProvider, clock: Clock
) -> None:
    """A3, A6, R46: the key set is chosen by the tenant, and the same kid elsewhere is another key."""
    with pytest.raises(LoginRefused):
        await client.judge_logout_token(tenant, elsewhere.logout_token(), clock.now)
    provider.answer = {"id_token": elsewhere.id_token("a")}
    with pytest.raises(LoginRefused):
        await log_in(client, tenant, clock)
    assert elsewhere.requests["jwks"] == 0


async def test_an_id_token_of_the_tenants_other_provider_is_no_login_at_this_one(
    client: OidcClient, spec: ProviderSpec, provider: EvilLogin, elsewhere: LoginProvider, clock: Clock
) -> None:
    """A6, mix-up: both are this tenant's, and still each speaks only for its own logins."""
    both = a_tenant("acme", spec, replace(a_login(elsewhere), name="other"))
    token = elsewhere.id_token("a")
    assert (await client.judge_logout_token(both, elsewhere.logout_token(), clock.now)).provider == "other"
    provider.answer = {"id_token": token}
    with pytest.raises(LoginRefused):
        await log_in(client, both, clock)


async def test_logout_tokens_are_of_providers_with_login_only(
    client: OidcClient, spec: ProviderSpec, provider: EvilLogin, clock: Clock
) -> None:
    """Where nobody logs in there is no client that the token could be meant for."""
    with pytest.raises(LoginRefused):
        await client.judge_logout_token(a_tenant("acme", replace(spec, login=None)), provider.logout_token(), clock.now)


@pytest.mark.parametrize("lie", ENDPOINT_LIES)
async def test_a_token_endpoint_that_lies_gives_no_login(
    lie: str,
    client: OidcClient,
    tenant: TenantTable,
    provider: EvilLogin,
    elsewhere: LoginProvider,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A5, R25, R43: unavailable in bounded time; nobody else hears the code; nothing of the answer in a text."""
    provider.lie = lie
    started = time.monotonic()
    with caplog.at_level(logging.DEBUG), pytest.raises(ProviderUnavailable) as caught:
        await log_in(client, tenant, clock)
    assert time.monotonic() - started < 10, "an unbounded one would take a minute"
    assert not elsewhere.asked
    assert not elsewhere.requests
    for secret in (CODE, VERIFIER, "s3cr&t", "eyJ", "refresh-"):
        assert secret not in caplog.text + str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("lie", ENDPOINT_LIES)
async def test_a_token_endpoint_that_lies_ends_no_session(
    lie: str, client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """A9: nothing of it is an invalid_grant; a 5xx or 429 that says so is a passing failure like any other."""
    provider.lie = lie
    with pytest.raises(ProviderUnavailable):
        await client.refresh(tenant, tenant.providers[0], a_session(tenant, clock), clock.now)


@pytest.mark.parametrize("lie", ENDPOINT_LIES)
async def test_userinfo_that_lies_gives_no_groups(
    lie: str, client: OidcClient, provider: EvilLogin, elsewhere: LoginProvider, clock: Clock
) -> None:
    """A5: a login waits for better times; a refresh goes on with groups unknown, so that no new token is lost."""
    spec = a_login(provider)
    tenant = a_tenant("acme", replace(spec, groups=replace(spec.groups, source="userinfo")))
    provider.lie, provider.at = lie, "userinfo"
    with pytest.raises(ProviderUnavailable):
        await log_in(client, tenant, clock)
    session = a_session(tenant, clock, refresh_token=provider.refresh_token)
    tokens = await client.refresh(tenant, tenant.providers[0], session, clock.now)
    assert tokens.claims["groups"] is False
    assert tokens.refresh_token == provider.refresh_token
    assert tokens.expires_at <= clock.now + 31
    assert not elsewhere.asked


@pytest.mark.parametrize("lie", ENDPOINT_LIES)
async def test_a_pushed_request_that_is_lied_about_starts_no_login(
    lie: str, client: OidcClient, tenant: TenantTable, provider: EvilLogin, elsewhere: LoginProvider
) -> None:
    """A5: and it is never made in the open instead."""
    provider.metadata = {"pushed_authorization_request_endpoint": f"{provider.issuer}/par"}
    provider.lie, provider.at = lie, "par"
    with pytest.raises(ProviderUnavailable):
        await begin(client, tenant)
    assert not elsewhere.asked


@pytest.mark.parametrize("lie", ENDPOINT_LIES)
async def test_introspection_that_lies_says_nothing(
    lie: str, client: OidcClient, tenant: TenantTable, provider: EvilLogin, elsewhere: LoginProvider
) -> None:
    """A5: neither active nor inactive."""
    provider.lie, provider.at = lie, "introspection"
    with pytest.raises(ProviderUnavailable):
        await client.introspect(tenant, tenant.providers[0], "opaque")
    assert not elsewhere.asked


async def test_an_endless_token_answer_is_read_no_further_than_its_bound(
    client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """R25: 256 KiB, then the connection is cut."""
    provider.lie = "endless"
    with pytest.raises(ProviderUnavailable, match="more than 262144 bytes"):
        await log_in(client, tenant, clock)
    assert provider.requests["pieces"] < 400


@pytest.mark.parametrize(
    "address",
    [
        *("http://10.0.0.1/token", "https://10.0.0.1/token", "http://169.254.169.254/token", "https://[fd00::1]/token"),
        *("http://evil.example/token", "file:///etc/passwd", "https://user:pw@id.example/token", "https://x/#f", "x"),
    ],
)
async def test_a_token_endpoint_written_to_a_private_place_is_never_dialled(
    address: str, client: OidcClient, spec: ProviderSpec, clock: Clock
) -> None:
    """R43: also when the tenant's own policy names it."""
    tenant = a_tenant("acme", replace(spec, endpoints={"token_endpoint": address}))
    with pytest.raises(ProviderUnavailable):
        await log_in(client, tenant, clock)


@pytest.mark.parametrize(
    "members",
    [
        {"access_token": None},
        {"access_token": ""},
        {"access_token": 7},
        {"access_token": "two words"},
        {"access_token": "x" * 20_000},
        {"token_type": None},
        {"token_type": "DPoP"},
        {"token_type": ["Bearer"]},
        {"id_token": None},
        {"id_token": 7},
        {"id_token": ["x"]},
        {"refresh_token": 7},
        {"refresh_token": "line\nbreak"},
    ],
    ids=str,
)
async def test_a_token_answer_of_a_wrong_shape_gives_no_login(
    members: dict[str, Any], client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """R25: types are checked before anything is done with them."""
    provider.answer = members
    with pytest.raises(ProviderUnavailable):
        await log_in(client, tenant, clock)


@pytest.mark.parametrize(
    "body",
    [
        {"error": "invalid_request", "error_description": "invalid_grant"},
        {"error": "not_invalid_grant"},
        {"error": "invalid_grant "},
        {"error": "INVALID_GRANT"},
        {"error": ["invalid_grant"]},
        {"error": {"invalid_grant": 1}},
        {"error": "temporarily_unavailable", "hint": "invalid_grant"},
        {"error": "invalid_client"},
        {"message": "invalid_grant"},
        {"error": None},
        {},
    ],
    ids=str,
)
async def test_only_the_error_member_invalid_grant_ends_a_session(
    body: dict[str, Any], client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """A9: never a substring, never another member, never another error."""
    provider.refusal = (400, body)
    with pytest.raises(ProviderUnavailable):
        await client.refresh(tenant, tenant.providers[0], a_session(tenant, clock), clock.now)
    with pytest.raises(ProviderUnavailable):
        await log_in(client, tenant, clock)


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_invalid_grant_ends_a_session_and_refuses_a_code(
    status: int, client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """A9: RFC 6749 section 5.2 says 400, and some say 401."""
    provider.refusal = (status, {"error": "invalid_grant", "error_description": "<script>"})
    with pytest.raises(GrantInvalid):
        await client.refresh(tenant, tenant.providers[0], a_session(tenant, clock), clock.now)
    with pytest.raises(LoginRefused) as caught:
        await log_in(client, tenant, clock)
    assert caught.value.refusal.detail == "the provider did not accept the login's code"


@pytest.mark.parametrize("code", ["<script>", "x" * 65, "Bad-Code", "a b", "ä", ""])
async def test_an_error_code_that_is_no_plain_word_is_not_repeated(
    code: str, client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """R27, R52: a log line holds what Portero wrote."""
    provider.refusal = (400, {"error": code, "error_description": "canary-description"})
    with pytest.raises(ProviderUnavailable) as caught:
        await log_in(client, tenant, clock)
    assert str(caught.value) == "the provider refuses to give tokens: 400 without a plain error code"


@pytest.mark.parametrize("sub", ["bob", "Ana", "ana ", "an"])
async def test_a_refresh_never_makes_a_session_another_persons(
    sub: str, client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """A9: the refreshed ID token is judged like the first, and sub must be the session's (Core section 12.2)."""
    provider.id_claims = {"sub": sub}
    with pytest.raises(GrantInvalid):
        await client.refresh(tenant, tenant.providers[0], a_session(tenant, clock), clock.now)


@pytest.mark.parametrize("name", sorted(FORGERIES.keys() - NO_TOKENS))
async def test_a_refresh_with_a_forged_id_token_ends_the_session(
    name: str, client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """A9: closed, never kept alive by a token that nobody signed. A key not known yet may be a new one: 503."""
    await log_in(client, tenant, clock)
    provider.forge = FORGERIES[name]
    session = a_session(tenant, clock, refresh_token=provider.refresh_token)
    with pytest.raises(ProviderUnavailable if name in UNKNOWN_KEYS else GrantInvalid):
        await client.refresh(tenant, tenant.providers[0], session, clock.now)


@pytest.mark.parametrize("name", [name for name in ID_CLAIMS if not name.startswith("nonce")])
async def test_a_refresh_with_hostile_claims_ends_the_session(
    name: str, client: OidcClient, tenant: TenantTable, provider: EvilLogin, clock: Clock
) -> None:
    """A9: issuer, audience, azp, times and at_hash as at the login; a nonce need not be there."""
    provider.id_claims = _spoilt(ID_CLAIMS[name], provider)
    with pytest.raises(GrantInvalid):
        await client.refresh(tenant, tenant.providers[0], a_session(tenant, clock), clock.now)


async def test_the_response_issuer_is_compared_byte_for_byte(
    client: OidcClient, tenant: TenantTable, provider: EvilLogin
) -> None:
    """A6, R47, RFC 9207 section 2.4: present it must be equal, promised it must be present."""
    spec = tenant.providers[0]
    for iss in ("", "https://evil.example", provider.issuer + "/", provider.issuer.upper(), " " + provider.issuer):
        assert not await client.check_response_issuer(tenant, spec, iss)
    assert await client.check_response_issuer(tenant, spec, provider.issuer)
    assert await client.check_response_issuer(tenant, spec, None)


async def test_a_promised_response_issuer_must_not_be_missing(
    client: OidcClient, tenant: TenantTable, provider: EvilLogin
) -> None:
    """A6: an attacker's provider leaves it out."""
    provider.metadata = {"authorization_response_iss_parameter_supported": True}
    assert not await client.check_response_issuer(tenant, tenant.providers[0], None)
    assert await client.check_response_issuer(tenant, tenant.providers[0], provider.issuer)
