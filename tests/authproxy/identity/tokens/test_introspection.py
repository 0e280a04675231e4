"""Opaque tokens: attack family A11 on the cache, one question for all who ask, and a provider that is not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authproxy.identity.tokens.introspection import FAILED_TTL_S, REFUSED_TTL_S, Introspection
from policies.decision import Challenge, Deny, Reason, Refusal
from policies.errors import ProviderUnavailable
from policies.principal import Principal
from policies.tables import TenantTable
from tests.fakes.callers import ScriptedClient, active, an_asked_provider
from tests.fakes.identity import Clock, CountingMetric, a_provider, a_tenant


class ByToken(Introspection):
    """Asked with tokens alone, shown as ``Bearer``."""

    def known_now(self, tenant: TenantTable, token: Any, now: float) -> Principal | None:
        return super().known_now(tenant, digest_of(token), now)

    def identify_now(self, tenant: TenantTable, token: Any, now: float) -> Principal | Refusal | None:
        return super().identify_now(tenant, digest_of(token), now)

    async def ask(self, tenant: TenantTable, token: str, now: float) -> Principal | Refusal:
        return await self.identify(tenant, token, digest_of(token), now)


def digest_of(token: str | bytes) -> bytes:
    """Bytes are a digest already."""
    return token if isinstance(token, bytes) else sha256(f"Bearer {token}".encode()).digest()


class Metrics:
    """Counts questions."""

    def __init__(self) -> None:
        self.introspections_total = CountingMetric()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client() -> ScriptedClient:
    return ScriptedClient()


@pytest.fixture
async def source(client: ScriptedClient) -> AsyncIterator[ByToken]:
    made = ByToken(client)
    yield made
    await made.close()


@pytest.fixture
def tenant() -> TenantTable:
    return a_tenant("acme", an_asked_provider())


def seen(answer: Principal | Refusal | None) -> object:
    """What a caller can tell apart."""
    if isinstance(answer, Principal):
        return (answer.subject, answer.groups, answer.expires_at, answer.confirmation)
    return answer


async def test_a_token_is_asked_about_once(
    source: ByToken, client: ScriptedClient, tenant: TenantTable, clock: Clock
) -> None:
    """Then it is known, the very same caller each time, until the answer is too old."""
    client.answers["opaque"] = active(clock.now)
    assert source.known_now(tenant, "opaque", clock.now) is None
    assert source.identify_now(tenant, "opaque", clock.now) is None
    ana = await source.ask(tenant, "opaque", clock.now)
    assert isinstance(ana, Principal)
    assert source.known_now(tenant, "opaque", clock.now) is ana
    assert await source.ask(tenant, "opaque", clock.pass_s(59)) is ana
    assert client.asked == ["opaque"]
    assert source.known_now(tenant, "opaque", clock.pass_s(1.1)) is None
    assert isinstance(await source.ask(tenant, "opaque", clock.now), Principal)
    assert len(client.asked) == 2


async def test_a_token_that_was_revoked_dies_within_the_answers_age(
    source: ByToken, client: ScriptedClient, tenant: TenantTable, clock: Clock
) -> None:
    """A11: and it does not come back by the old answer."""
    client.answers["opaque"] = active(clock.now)
    assert isinstance(await source.ask(tenant, "opaque", clock.now), Principal)
    client.answers["opaque"] = {"active": False}
    clock.pass_s(60.1)
    for _ in range(2):
        assert isinstance(await source.ask(tenant, "opaque", clock.now), Challenge)
        assert source.known_now(tenant, "opaque", clock.now) is None


async def test_a_token_dies_at_its_own_expiry(
    source: ByToken, client: ScriptedClient, tenant: TenantTable, clock: Clock
) -> None:
    """However long answers are used."""
    client.answers["opaque"] = active(clock.now, exp=clock.now + 5)
    assert isinstance(await source.ask(tenant, "opaque", clock.now), Principal)
    assert source.known_now(tenant, "opaque", clock.pass_s(4.9)) is not None
    assert source.known_now(tenant, "opaque", clock.pass_s(0.1)) is None
    assert isinstance(await source.ask(tenant, "opaque", clock.now), Challenge)


async def test_a_bad_token_is_known_for_a_moment(
    source: ByToken, client: ScriptedClient, tenant: TenantTable, clock: Clock
) -> None:
    """A11: a negative answer holds ten seconds at most; then the provider may have changed its mind."""
    first = await source.ask(tenant, "new", clock.now)
    assert isinstance(first, Challenge)
    assert (first.reason, first.tenant) == (Reason.CREDENTIAL_INVALID, "acme")
    client.answers["new"] = active(clock.now)
    assert source.identify_now(tenant, "new", clock.pass_s(REFUSED_TTL_S - 0.1)) == first
    assert source.identify_now(tenant, "new", clock.pass_s(0.1)) is None
    assert isinstance(await source.ask(tenant, "new", clock.now), Principal)
    assert client.asked == ["new", "new"]


async def test_what_time_alone_heals_is_not_remembered(
    source: ByToken, client: ScriptedClient, tenant: TenantTable, clock: Clock
) -> None:
    """A token that begins in a moment is not refused for ten seconds."""
    client.answers["soon"] = active(clock.now, nbf=clock.now + 31)
    assert isinstance(await source.ask(tenant, "soon", clock.now), Challenge)
    assert isinstance(await source.ask(tenant, "soon", clock.pass_s(2)), Principal)


async def test_the_same_token_is_two_tokens_in_two_tenants(
    source: ByToken, client: ScriptedClient, tenant: TenantTable, clock: Clock
) -> None:
    """AP-R17, A11: what one tenant's provider calls active is asked about anew for another, or another endpoint."""
    client.answers["opaque"] = active(clock.now)
    assert isinstance(await source.ask(tenant, "opaque", clock.now), Principal)
    client.answers["opaque"] = {"active": False}
    provider = tenant.providers[0]
    others = [
        a_tenant("globex", provider),
        a_tenant("acme", replace(provider, endpoints={"introspection_endpoint": "https://id.example/other"})),
        a_tenant("acme", replace(provider, name="second")),
        a_tenant("acme", an_asked_provider("https://other.example")),
    ]
    for other in others:
        assert source.known_now(other, "opaque", clock.now) is None
        assert isinstance(await source.ask(other, "opaque", clock.now), Challenge)
    assert source.known_now(tenant, "opaque", clock.now) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"audiences": frozenset({"other"})},
        {"tenant_claim": "organization"},
        {"groups_claim": "roles"},
        {"requires_bound_tokens": True},
        {"introspection": replace(an_asked_provider().introspection, max_age_s=1.0)},  # type: ignore[type-var]  # not None
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_reload_with_other_terms_voids_answers(
    source: ByToken, client: ScriptedClient, tenant: TenantTable, clock: Clock, change: dict[str, Any]
) -> None:
    """What was judged under other terms, good or bad, says nothing; equal terms go on."""
    client.answers["opaque"] = active(clock.now)
    ana = await source.ask(tenant, "opaque", clock.now)
    assert source.known_now(a_tenant("acme", replace(tenant.providers[0])), "opaque", clock.now) is ana
    assert source.known_now(a_tenant("acme", replace(tenant.providers[0], **change)), "opaque", clock.now) is None


async def test_a_tenant_whose_provider_is_not_asked_knows_nobody(
    source: ByToken, client: ScriptedClient, tenant: TenantTable, clock: Clock
) -> None:
    """Also when it was asked before the reload."""
    client.answers["opaque"] = active(clock.now)
    assert source.is_for(tenant)
    assert isinstance(await source.ask(tenant, "opaque", clock.now), Principal)
    without = a_tenant("acme", a_provider())
    assert not source.is_for(without)
    assert source.known_now(without, "opaque", clock.now) is None
    assert isinstance(await source.ask(without, "opaque", clock.now), Deny)


async def test_revocation_voids_answers_also_those_on_their_way(
    source: ByToken, client: ScriptedClient, tenant: TenantTable, clock: Clock
) -> None:
    """A11: what was asked before a revocation is not kept after it."""
    client.answers["opaque"] = active(clock.now)
    client.opened.clear()
    waiting = asyncio.create_task(source.ask(tenant, "opaque", clock.now))
    await asyncio.sleep(0.01)
    source.revoke_all()
    client.opened.set()
    await waiting
    assert source.known_now(tenant, "opaque", clock.now) is None
    assert isinstance(await source.ask(tenant, "opaque", clock.now), Principal)
    assert source.known_now(tenant, "opaque", clock.now) is not None
    source.revoke_all()
    assert source.known_now(tenant, "opaque", clock.now) is None


async def test_who_asks_after_a_revocation_shares_no_question_of_before(
    source: ByToken, client: ScriptedClient, tenant: TenantTable, clock: Clock
) -> None:
    """The provider may have said "active" before it heard of the logout."""
    client.opened.clear()
    waiting = [asyncio.create_task(source.ask(tenant, "opaque", clock.now))]
    await asyncio.sleep(0.01)
    source.revoke_all()
    waiting.append(asyncio.create_task(source.ask(tenant, "opaque", clock.now)))
    await asyncio.sleep(0.01)
    assert len(client.asked) == 2
    client.opened.set()
    await asyncio.gather(*waiting)


async def test_a_clock_that_is_put_back_lengthens_nothing(
    source: ByToken, client: ScriptedClient, tenant: TenantTable, clock: Clock
) -> None:
    """A11: an answer from the future is no answer."""
    client.answers["opaque"] = active(clock.now)
    assert isinstance(await source.ask(tenant, "opaque", clock.now), Principal)
    assert source.known_now(tenant, "opaque", clock.pass_s(-3600)) is None


async def test_all_who_ask_share_one_question_and_one_who_leaves_ends_it_for_nobody(
    source: ByToken, client: ScriptedClient, tenant: TenantTable, clock: Clock
) -> None:
    """Single flight; every one gets the same caller."""
    client.answers["opaque"] = active(clock.now)
    client.opened.clear()
    waiting = [asyncio.create_task(source.ask(tenant, "opaque", clock.now)) for _ in range(50)]
    await asyncio.sleep(0.01)
    waiting[0].cancel()
    await asyncio.sleep(0.01)
    client.opened.set()
    people = await asyncio.gather(*waiting[1:])
    assert client.asked == ["opaque"]
    assert isinstance(people[0], Principal)
    assert all(one is people[0] for one in people)
    assert waiting[0].cancelled()


async def test_a_provider_that_does_not_answer_is_503_and_asked_again_soon(
    client: ScriptedClient, tenant: TenantTable, clock: Clock
) -> None:
    """AP-R50: never access, never a 401 that a client would give up on; remembered for a second at most."""
    metrics = Metrics()
    source = ByToken(client, metrics=metrics)
    client.answers["opaque"] = ProviderUnavailable("no")
    for _ in range(3):
        refusal = await source.ask(tenant, "opaque", clock.now)
        assert isinstance(refusal, Deny)
        assert (refusal.reason, refusal.retry_after_s) == (Reason.PROVIDER_UNAVAILABLE, 1)
    assert len(client.asked) == 1
    client.answers["opaque"] = active(clock.now)
    assert isinstance(await source.ask(tenant, "opaque", clock.pass_s(FAILED_TTL_S + 0.5)), Principal)
    assert metrics.introspections_total.counts[("acme", "login", "unavailable")] == 1
    assert metrics.introspections_total.counts[("acme", "login", "active")] == 1
    await source.close()


async def test_a_token_that_is_known_outlives_its_provider_for_its_time(
    source: ByToken, client: ScriptedClient, tenant: TenantTable, clock: Clock
) -> None:
    """Within the age of the answer nobody is asked; after it there is no answer."""
    client.answers["opaque"] = active(clock.now)
    assert isinstance(await source.ask(tenant, "opaque", clock.now), Principal)
    client.answers["opaque"] = ProviderUnavailable("no")
    assert isinstance(await source.ask(tenant, "opaque", clock.pass_s(30)), Principal)
    assert isinstance(await source.ask(tenant, "opaque", clock.pass_s(31)), Deny)


async def test_a_flood_of_tokens_asks_a_bounded_number_of_questions(
    client: ScriptedClient, tenant: TenantTable, clock: Clock
) -> None:
    """Beyond it 503 ``overloaded`` at once; those who are known pass, and another tenant has its own."""
    source = ByToken(client, max_in_flight=4)
    client.answers["known"] = client.answers["other"] = active(clock.now)
    assert isinstance(await source.ask(tenant, "known", clock.now), Principal)
    client.opened.clear()
    waiting = [asyncio.create_task(source.ask(tenant, f"t{n}", clock.now)) for n in range(20)]
    await asyncio.sleep(0.01)
    refused = [task.result() for task in waiting if task.done()]
    assert len(refused) == 16
    assert all(isinstance(one, Deny) and one.reason is Reason.OVERLOADED for one in refused)
    assert isinstance(await source.ask(tenant, "known", clock.now), Principal)
    other = asyncio.create_task(source.ask(a_tenant("globex", an_asked_provider()), "other", clock.now))
    await asyncio.sleep(0.01)
    client.opened.set()
    assert isinstance(await other, Principal)
    await asyncio.gather(*waiting)
    assert len(client.asked) == 1 + 4 + 1
    await source.close()


async def test_bad_tokens_push_out_no_good_one(client: ScriptedClient, tenant: TenantTable, clock: Clock) -> None:
    """A11: both memories are bounded and apart."""
    source = ByToken(client, max_known=3)
    for name in ("a", "b", "c", "d"):
        client.answers[name] = active(clock.now, name)
        await source.ask(tenant, name, clock.now)
    for n in range(1500):
        await source.ask(tenant, f"bad{n}", clock.now)
    assert [source.known_now(tenant, name, clock.now) is not None for name in ("a", "b", "c", "d")] == [
        False,
        *[True] * 3,
    ]
    assert len(source._refused) <= 1024
    await source.close()


async def test_closing_ends_what_is_under_way(client: ScriptedClient, tenant: TenantTable, clock: Clock) -> None:
    """Twice is harmless, and whoever waits is refused."""
    source = ByToken(client)
    client.opened.clear()
    waiting = asyncio.create_task(source.ask(tenant, "opaque", clock.now))
    await asyncio.sleep(0.01)
    await source.close()
    await source.close()
    assert isinstance(await waiting, Deny)
    assert isinstance(await source.ask(tenant, "opaque", clock.now), Deny)


_step = st.tuples(
    st.sampled_from(["a", "b"]),
    st.floats(0, 40),
    st.sampled_from(
        [
            {},
            {"exp": 20.0},
            {"exp": -1.0},
            {"nbf": 35.0},
            {"aud": "other"},
            {"active": False},
            {"groups": ["x"]},
            {"sub": "bob"},
            {"token_type": "refresh_token"},
        ]
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_step, min_size=1, max_size=8))
def test_ap_r18_a_hit_is_worth_exactly_what_a_miss_is(steps: list[tuple[str, float, dict[str, Any]]]) -> None:
    """
    A11: whatever is asked when, a cache that remembers answers as one does that asks with each request, once the
    provider's word is taken to stand for as long as the answer may be used.
    """

    async def walk() -> None:
        client, oracle_client = ScriptedClient(), ScriptedClient()
        cached = ByToken(client)
        tenant = a_tenant("acme", an_asked_provider(max_age_s=30.0))
        now = 1_790_000_000.0
        said: dict[str, tuple[float, dict[str, Any]]] = {}
        for token, passing_s, change in steps:
            now += passing_s
            times = {name: now + value for name, value in change.items() if isinstance(value, float)}
            fresh = {**active(now), **change, **times}
            before = said.get(token)
            known = cached.known_now(tenant, token, now)
            if known is None:
                # Nothing of it is at hand, or a refusal is: a new answer may come.
                if cached.identify_now(tenant, token, now) is None:
                    said[token] = (now, fresh)
                client.answers[token] = fresh
                got = await cached.ask(tenant, token, now)
            else:
                assert before is not None
                assert now - before[0] < 30.0
                got = known
            oracle_client.answers[token] = said[token][1]
            oracle = ByToken(oracle_client)
            # The oracle judges the same words at this very moment; an expiry that it had to cut is cut as then.
            assert seen(got) == seen(await oracle.ask(tenant, token, now))
            await oracle.close()
        await cached.close()

    asyncio.run(walk())
