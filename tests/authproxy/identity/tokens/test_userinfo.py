"""Groups that stand at userinfo: fetched, kept for their time, replaced whole, and never "none" for want of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from authproxy.identity.tokens.userinfo import FAILED_TTL_S, UserInfo
from policies.decision import Deny, Reason, Refusal
from policies.errors import ProviderUnavailable
from policies.principal import Confirmation, Principal
from policies.tables import GroupsSpec, ProviderSpec, TenantTable
from tests.fakes.callers import ScriptedClient
from tests.fakes.identity import Clock, a_provider, a_tenant

OVERAGE = {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://evil.example/"}}}


class ByToken(UserInfo):
    """Asked with tokens alone."""

    def complete_now(
        self, tenant: TenantTable, provider: ProviderSpec, token: Any, principal: Principal, now: float
    ) -> Principal | Refusal | None:
        digest = token if isinstance(token, bytes) else token.encode()
        return super().complete_now(tenant, provider, digest, principal, now)

    async def ask(
        self, tenant: TenantTable, provider: ProviderSpec, token: str, principal: Principal, now: float
    ) -> Principal | Refusal:
        return await self.complete(tenant, provider, token, token.encode(), principal, now)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client() -> ScriptedClient:
    return ScriptedClient()


@pytest.fixture
async def userinfo(client: ScriptedClient) -> AsyncIterator[ByToken]:
    made = ByToken(client)
    yield made
    await made.close()


@pytest.fixture
def provider() -> ProviderSpec:
    return a_provider(groups=GroupsSpec(source="userinfo", max_age_s=900.0))


@pytest.fixture
def tenant(provider: ProviderSpec) -> TenantTable:
    return a_tenant("acme", provider)


def named(now: float, **claims: Any) -> Principal:
    """Whom a verified token names, its own groups included."""
    principal = Principal(
        "login",
        "ana",
        groups=frozenset({"from-token"}),
        claims={"iss": "https://id.example", "sub": "ana", "groups": ["from-token"], **claims},
        expires_at=now + 3600,
    )
    principal.issuer, principal.sid, principal.issued_at = "https://id.example", "s1", now - 5
    principal.confirmation = Confirmation("k")
    return principal


def test_who_is_asked_about(userinfo: ByToken, provider: ProviderSpec, clock: Clock) -> None:
    """Everybody where policy says so; elsewhere those whose groups were too many for the token."""
    own = a_provider()
    many = named(clock.now)
    many.claims = {"sub": "ana", **OVERAGE}
    assert userinfo.is_needed(named(clock.now), provider)
    assert not userinfo.is_needed(named(clock.now), own)
    assert userinfo.is_needed(many, own)
    assert not userinfo.is_needed(many, replace(own, groups_claim=None))
    assert not userinfo.is_needed(named(clock.now), replace(provider, groups_claim=None))


async def test_groups_are_userinfos_and_the_rest_is_the_tokens(
    userinfo: ByToken, client: ScriptedClient, tenant: TenantTable, provider: ProviderSpec, clock: Clock
) -> None:
    """The caller stays who he is: subject, session, bond and times of the token, whatever userinfo says of them."""
    client.answers["t"] = {"sub": "ana", "groups": ["analysts"], "sid": "other", "exp": 1, "cnf": {}, "iat": 2}
    ana = named(clock.now)
    assert userinfo.complete_now(tenant, provider, "t", ana, clock.now) is None
    found = await userinfo.ask(tenant, provider, "t", ana, clock.now)
    assert isinstance(found, Principal)
    assert (found.subject, found.groups, found.expires_at) == ("login|ana", frozenset({"analysts"}), ana.expires_at)
    assert (found.sid, found.issued_at, found.issuer) == ("s1", ana.issued_at, "https://id.example")
    assert found.confirmation == ana.confirmation
    assert userinfo.complete_now(tenant, provider, "t", ana, clock.now) is found
    assert client.asked == ["t"]


async def test_groups_that_are_gone_are_gone(
    userinfo: ByToken, client: ScriptedClient, tenant: TenantTable, provider: ProviderSpec, clock: Clock
) -> None:
    """AP-R12 (CVE-2021-41230): after their age they are fetched again, and the new answer replaces the whole."""
    ana = named(clock.now)
    client.answers["t"] = {"sub": "ana", "groups": ["analysts", "admins"]}
    await userinfo.ask(tenant, provider, "t", ana, clock.now)
    client.answers["t"] = {"sub": "ana"}
    kept = await userinfo.ask(tenant, provider, "t", ana, clock.pass_s(899))
    assert isinstance(kept, Principal)
    assert "admins" in kept.groups
    found = await userinfo.ask(tenant, provider, "t", ana, clock.pass_s(1.5))
    assert isinstance(found, Principal)
    assert found.groups == frozenset()
    assert not found.has_unknown_groups


async def test_userinfo_that_cannot_be_had_is_503(
    userinfo: ByToken, client: ScriptedClient, tenant: TenantTable, provider: ProviderSpec, clock: Clock
) -> None:
    """AP-R50: never "no groups", also when they were known before; asked again after a second."""
    ana = named(clock.now)
    client.answers["t"] = ProviderUnavailable("no")
    for _ in range(2):
        refusal = await userinfo.ask(tenant, provider, "t", ana, clock.now)
        assert isinstance(refusal, Deny)
        assert refusal.reason is Reason.PROVIDER_UNAVAILABLE
    assert client.asked == ["t"]
    client.answers["t"] = {"sub": "ana", "groups": ["analysts"]}
    assert isinstance(await userinfo.ask(tenant, provider, "t", ana, clock.pass_s(FAILED_TTL_S + 0.5)), Principal)
    client.answers["t"] = ProviderUnavailable("no")
    assert isinstance(await userinfo.ask(tenant, provider, "t", ana, clock.pass_s(901)), Deny)


async def test_groups_that_userinfo_does_not_know_either_stay_unknown(
    userinfo: ByToken, client: ScriptedClient, clock: Clock
) -> None:
    """P4: with overage, silence is not "no groups"; and no address out of the token is ever asked."""
    provider = a_provider()
    tenant = a_tenant("acme", provider)
    many = named(clock.now)
    many.claims = {"iss": "https://id.example", "sub": "ana", **OVERAGE}
    found = await userinfo.ask(tenant, provider, "t", many, clock.now)
    assert isinstance(found, Principal)
    assert found.has_unknown_groups
    client.answers["u"] = {"sub": "ana", "groups": ["analysts"]}
    known = await userinfo.ask(tenant, provider, "u", many, clock.now)
    assert isinstance(known, Principal)
    assert (known.groups, known.has_unknown_groups) == (frozenset({"analysts"}), False)


async def test_a_caller_whose_token_was_verified_anew_keeps_the_answer(
    userinfo: ByToken, client: ScriptedClient, tenant: TenantTable, provider: ProviderSpec, clock: Clock
) -> None:
    """The answer is the token's; what it made of an older principal is not handed on."""
    client.answers["t"] = {"sub": "ana", "groups": ["analysts"]}
    first = await userinfo.ask(tenant, provider, "t", named(clock.now), clock.now)
    other = named(clock.now)
    other.sid = "s2"
    again = userinfo.complete_now(tenant, provider, "t", other, clock.now)
    assert isinstance(again, Principal)
    assert (again.sid, again is first) == ("s2", False)
    assert client.asked == ["t"]


async def test_answers_are_one_tenants_and_one_providers(
    userinfo: ByToken, client: ScriptedClient, tenant: TenantTable, provider: ProviderSpec, clock: Clock
) -> None:
    """AP-R17: the same token in another tenant, or under other terms, is asked about anew; equal terms go on."""
    client.answers["t"] = {"sub": "ana", "groups": ["analysts"]}
    ana = named(clock.now)
    found = await userinfo.ask(tenant, provider, "t", ana, clock.now)
    assert userinfo.complete_now(tenant, replace(provider), "t", ana, clock.now) is found
    assert userinfo.complete_now(a_tenant("globex", provider), provider, "t", ana, clock.now) is None
    assert userinfo.complete_now(tenant, replace(provider, name="second"), "t", ana, clock.now) is None
    moved = replace(provider, endpoints={"userinfo_endpoint": "https://id.example/other"})
    assert userinfo.complete_now(tenant, moved, "t", ana, clock.now) is None
    other = replace(provider, groups=replace(provider.groups, drops_unnamed=True))
    assert userinfo.complete_now(tenant, other, "t", ana, clock.now) is None


async def test_a_clock_put_back_and_a_revocation_void_answers(
    userinfo: ByToken, client: ScriptedClient, tenant: TenantTable, provider: ProviderSpec, clock: Clock
) -> None:
    """A11: neither makes groups older than they may be."""
    ana = named(clock.now)
    await userinfo.ask(tenant, provider, "t", ana, clock.now)
    assert userinfo.complete_now(tenant, provider, "t", ana, clock.now - 3600) is None
    await userinfo.ask(tenant, provider, "t", ana, clock.now)
    userinfo.revoke_all()
    assert userinfo.complete_now(tenant, provider, "t", ana, clock.now) is None


async def test_all_who_ask_share_one_question_within_a_bound(
    client: ScriptedClient, tenant: TenantTable, provider: ProviderSpec, clock: Clock
) -> None:
    """Single flight, and 503 ``overloaded`` beyond the bound."""
    userinfo = ByToken(client, max_in_flight=2, max_known=3)
    ana = named(clock.now)
    client.opened.clear()
    same = [asyncio.create_task(userinfo.ask(tenant, provider, "t", ana, clock.now)) for _ in range(10)]
    more = [asyncio.create_task(userinfo.ask(tenant, provider, f"t{n}", ana, clock.now)) for n in range(3)]
    await asyncio.sleep(0.01)
    same[0].cancel()
    client.opened.set()
    people = await asyncio.gather(*same[1:])
    assert all(one is people[0] for one in people)
    answers = await asyncio.gather(*more)
    assert [isinstance(one, Deny) and one.reason is Reason.OVERLOADED for one in answers] == [False, True, True]
    assert client.asked == ["t", "t0"]
    for n in range(5):
        await userinfo.ask(tenant, provider, f"x{n}", ana, clock.now)
    assert len(userinfo._known) == 3
    await userinfo.close()


async def test_groups_of_one_are_never_another_ones(
    userinfo: ByToken, client: ScriptedClient, provider: ProviderSpec, tenant: TenantTable, clock: Clock
) -> None:
    """A provider may change its mind about whose an opaque token is: then it is asked about him."""
    client.answers["opaque"] = {"sub": "ana", "groups": ["admins"]}
    ana = await userinfo.ask(tenant, provider, "opaque", named(clock.now), clock.now)
    assert isinstance(ana, Principal)
    assert ana.groups == {"admins"}
    bob = Principal("login", "bob", claims={"iss": "https://id.example", "sub": "bob"}, expires_at=clock.now + 3600)
    client.answers["opaque"] = {"sub": "bob", "groups": []}
    assert userinfo.complete_now(tenant, provider, "opaque", bob, clock.now) is None
    found = await userinfo.ask(tenant, provider, "opaque", bob, clock.now)
    assert isinstance(found, Principal)
    assert (found.sub, found.groups) == ("bob", frozenset())
