"""
The contract of every ``IdentitySource``: a suite to inherit from; its fixture ``world`` says what is good there.

Not collected by itself: a room's own tests subclass it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from authproxy.identity.source import IdentitySource
from policies.decision import Challenge, Deny, Reason
from policies.principal import Principal
from policies.request import AccessRequest
from policies.tables import TenantTable


@dataclass
class World:
    """One source with everything the contract asks about."""

    source: IdentitySource
    tenant: TenantTable
    other_tenant: TenantTable
    """Trusts nobody whom ``tenant`` trusts."""
    without_credential: AccessRequest
    good: AccessRequest
    subject: str
    """Whom ``good`` names."""
    bad: Sequence[AccessRequest]
    """Each with a credential that is present and bad."""
    now: float


class IdentitySourceContract:
    """Subclass with a fixture ``world``."""

    async def test_no_credential_is_the_anonymous_caller(self, world: World) -> None:
        """Whether that suffices is policy's question, and no I/O is needed to say so."""
        now = world.source.identify_now(world.tenant, world.without_credential, world.now)
        assert isinstance(now, Principal)
        assert now.is_anonymous
        later = await world.source.identify(world.tenant, world.without_credential, world.now)
        assert isinstance(later, Principal)
        assert later.is_anonymous

    async def test_a_good_credential_names_its_subject_both_ways(self, world: World) -> None:
        """``identify`` knows what ``identify_now`` may have to leave open, and afterwards both say the same."""
        early = world.source.identify_now(world.tenant, world.good, world.now)
        assert early is None or isinstance(early, Principal)
        waited = await world.source.identify(world.tenant, world.good, world.now)
        assert isinstance(waited, Principal)
        assert waited.subject == world.subject
        again = world.source.identify_now(world.tenant, world.good, world.now)
        assert isinstance(again, Principal)
        assert again.subject == world.subject

    async def test_a_bad_credential_is_refused_even_where_none_is_needed(self, world: World) -> None:
        """Present and bad is 401, twice in a row, before and after a good one."""
        for _ in range(2):
            for request in world.bad:
                refusal = await world.source.identify(world.tenant, request, world.now)
                assert isinstance(refusal, Challenge), request.authorization
                assert refusal.reason is Reason.CREDENTIAL_INVALID
                now = world.source.identify_now(world.tenant, request, world.now)
                assert now is None or isinstance(now, Challenge)
            await world.source.identify(world.tenant, world.good, world.now)

    async def test_a_credential_is_worth_nothing_in_another_tenant(self, world: World) -> None:
        """R17, T9: swapping only the host turns the answer into a refusal, also when the token was just accepted."""
        assert isinstance(await world.source.identify(world.tenant, world.good, world.now), Principal)
        swapped = await world.source.identify(world.other_tenant, world.good, world.now)
        assert isinstance(swapped, Challenge | Deny)
        assert isinstance(await world.source.identify(world.tenant, world.good, world.now), Principal)

    async def test_closing_twice_is_harmless(self, world: World) -> None:
        """The composition root closes in any order."""
        await world.source.close()
        await world.source.close()
