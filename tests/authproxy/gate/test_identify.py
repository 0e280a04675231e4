"""Question 2 with its guard: guessers are stopped before anybody is asked, and who is known goes on beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from authproxy.gate.identify import Identifier
from authproxy.identity.tokens.flights import MAX_IN_FLIGHT
from authproxy.limits.memory import MemoryStore
from policies.decision import Challenge, Deny, Reason
from policies.principal import Principal
from policies.tables import LimitSpec, TenantTable
from tests.fakes.callers import Parts, active, an_asked_provider
from tests.fakes.identity import Clock, a_tenant
from tests.fakes.proofs import a_proof, jkt_of, showing
from tests.fakes.provider import FakeProvider

GUESSES = LimitSpec("guessing", "identity-failure", None, 3 / 3600, 3, 3600, 3, None, None, "local", "acme.yaml:9")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def parts(clock: Clock) -> AsyncIterator[Parts]:
    made = Parts(clock)
    yield made
    await made.callers.close()


@pytest.fixture
def identifier(parts: Parts) -> Identifier:
    return Identifier(parts.callers, MemoryStore())


async def guess_on(identifier: Identifier, tenant: TenantTable, clock: Clock, count: int) -> list[Reason]:
    """The reasons of so many refusals, one after the other."""
    reasons = []
    for number in range(count):
        answer = await identifier.identify(tenant, showing(f"guess{number}", None, "Bearer"), clock.now)
        assert isinstance(answer, Challenge | Deny)
        reasons.append(answer.reason)
    return reasons


async def test_a_stranger_does_not_have_a_provider_flooded(parts: Parts, identifier: Identifier, clock: Clock) -> None:
    """Each guess at an opaque token is a question to the provider: bounded also where the tenant wrote no limit."""
    tenant = a_tenant("acme", an_asked_provider())
    reasons = await guess_on(identifier, tenant, clock, 200)
    assert Reason.TOO_MANY_FAILURES in reasons
    assert len(parts.client.asked) < 50
    clock.pass_s(1)
    assert Reason.CREDENTIAL_INVALID in await guess_on(identifier, tenant, clock, 1), "for a moment only"
    other = showing("good", None, "Bearer", client_ip="192.0.2.99")
    parts.client.answers["good"] = active(clock.now)
    assert isinstance(await identifier.identify(tenant, other, clock.now), Principal)


async def test_a_burst_of_guesses_is_bounded_too(parts: Parts, identifier: Identifier, clock: Clock) -> None:
    """All at once: none has been counted when the others are let in, and still few are asked about."""
    tenant = a_tenant("acme", an_asked_provider())
    parts.client.opened.clear()
    requests = [showing(f"guess{number}", None, "Bearer") for number in range(500)]
    waiting = asyncio.gather(*(identifier.identify(tenant, request, clock.now) for request in requests))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    parts.client.opened.set()
    await waiting
    await guess_on(identifier, tenant, clock, 200)
    assert len(parts.client.asked) <= MAX_IN_FLIGHT + 50


async def test_the_holder_of_a_key_is_not_locked_out_by_a_guesser(
    parts: Parts, identifier: Identifier, clock: Clock
) -> None:
    """AP-R31: a bound token that was good a moment ago, with a new proof, as any other token that is known."""
    async with FakeProvider() as provider:
        provider.now = clock
        tenant = replace(a_tenant("acme", an_asked_provider(provider.issuer)), limits=(GUESSES,))
        parts.client.answers["opaque"] = active(clock.now, cnf={"jkt": jkt_of()}, token_type="DPoP")
        signed = provider.mint(cnf={"jkt": jkt_of()})
        for token in (signed, "opaque"):
            first = showing(token, a_proof(token, clock.now))
            assert isinstance(await identifier.identify(tenant, first, clock.now), Principal)
        assert Reason.TOO_MANY_FAILURES in await guess_on(identifier, tenant, clock, 4)
        for token in (signed, "opaque"):
            again = showing(token, a_proof(token, clock.now, jti=f"next-{token[:9]}"))
            assert identifier.identify_now(tenant, again, clock.now) is None
            assert isinstance(await identifier.identify(tenant, again, clock.now), Principal)
            thief = showing(token, a_proof(token, clock.now, jti=f"next-{token[:9]}"))
            answer = await identifier.identify(tenant, thief, clock.now)
            assert isinstance(answer, Challenge), "a proof that was used is none"
        fresh = provider.mint("eve", cnf={"jkt": jkt_of()})
        for request in (showing(fresh, a_proof(fresh, clock.now)), showing(signed, None)):
            refusal = identifier.identify_now(tenant, request, clock.now)
            assert isinstance(refusal, Deny), "a token that is new, and one without a proof"
            assert refusal.reason is Reason.TOO_MANY_FAILURES
