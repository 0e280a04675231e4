"""
Groups of callers with a token whose groups stand elsewhere: the provider's userinfo endpoint is asked.

It decides for which callers that is (``groups.from: userinfo``, or too many groups for the token) and how long what was
said is used: ``groups.max_age``, then it is fetched again and replaces the whole (AP-R12). Userinfo that cannot be had
is a refusal (503) and never "no groups": a deny rule may wait for the group that is missing. The caller who was named
by the token stays who he is: only the groups come from here. Every hit compares the token's own entry, the provider's
terms and the clock.

Refuses to know how tokens are verified. Source: OpenID Connect Core sections 5.3 and 5.6.2; rules AP-R12, R17, R18.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol

from authproxy.identity.tokens.flights import MAX_IN_FLIGHT, Flights, TooManyAsked
from policies.claims import has_overage, person, with_userinfo
from policies.decision import Deny, Reason, Refusal
from policies.errors import ProviderUnavailable
from policies.principal import Principal
from policies.tables import ProviderSpec, TenantTable

MAX_KNOWN: Final = 10_000
"""Callers kept, of all tenants together."""
MAX_FAILED: Final = 1024
FAILED_TTL_S: Final = 1.0
BACKWARDS_S: Final = 5.0
"""A clock that was put back by more voids what was asked later than it says."""
_PURPOSE: Final = "userinfo"

Key = tuple[str, str, str, str, str, bytes]


class UserInfoClient(Protocol):
    """What is asked of ``OidcClient``."""

    async def userinfo(
        self, tenant: TenantTable, provider: ProviderSpec, access_token: str, sub: str, now: float
    ) -> Mapping[str, Any]:
        """What the provider says of ``sub``. Raises: ProviderUnavailable, also when it speaks of somebody else."""


class _Answer(NamedTuple):
    value: Mapping[str, Any]
    asked_at: float
    epoch: int


class _Known:
    """What userinfo said, and the caller that it made of one principal. Follows equal terms and newer principals."""

    __slots__ = ("answer", "base", "completed", "provider", "until")

    def __init__(
        self, answer: _Answer, base: Principal, completed: Principal | Refusal, provider: ProviderSpec
    ) -> None:
        self.answer = answer
        self.base = base
        self.completed = completed
        self.provider = provider
        self.until = answer.asked_at + provider.groups.max_age_s


class UserInfo:
    """
    Of all tenants. One per process and event loop.

    Args:
        client: asks the provider.
        max_known: bound of the callers kept.
        max_in_flight: questions to one provider at a time.
    """

    def __init__(
        self, client: UserInfoClient, *, max_known: int = MAX_KNOWN, max_in_flight: int = MAX_IN_FLIGHT
    ) -> None:
        self._client = client
        self._max_known = max_known
        self._flights: Flights[_Answer] = Flights(max_in_flight)
        self._known: OrderedDict[Key, _Known] = OrderedDict()
        self._failed: OrderedDict[Key, float] = OrderedDict()
        """Until when it is not asked again."""
        self._epoch = 0

    def is_needed(self, principal: Principal, provider: ProviderSpec) -> bool:
        """Whether the groups of who was named by the provider's token have to be asked for."""
        if provider.groups_claim is None:
            return False
        return provider.groups.source == "userinfo" or has_overage(principal.claims, provider)

    def complete_now(
        self, tenant: TenantTable, provider: ProviderSpec, digest: bytes, principal: Principal, now: float
    ) -> Principal | Refusal | None:
        """
        The caller with groups, from what is at hand; None when the provider has to be asked.

        Args:
            tenant: of the request's host.
            provider: whose token it is.
            digest: SHA-256 of the credential; ``AccessRequest.credential_digest``.
            principal: whom the token names.
            now: Unix seconds.
        """
        key = _key(tenant, provider, digest)
        known = self._known.get(key)
        if known is None:
            return _unavailable(tenant) if now < self._failed.get(key, 0.0) <= now + 2 * FAILED_TTL_S else None
        is_young = known.answer.asked_at - BACKWARDS_S <= now < known.until
        has_same_terms = known.provider is provider or known.provider == provider
        is_his = known.base.sub == principal.sub
        if not is_young or not has_same_terms or not is_his or known.answer.epoch != self._epoch:
            del self._known[key]
            return None
        if known.base is not principal:  # the token was verified anew meanwhile
            known.base, known.completed = principal, _completed(tenant, provider, principal, known.answer)
        known.provider = provider
        self._known.move_to_end(key)
        return known.completed

    async def complete(
        self, tenant: TenantTable, provider: ProviderSpec, token: str, digest: bytes, principal: Principal, now: float
    ) -> Principal | Refusal:
        """
        The caller with groups, with whatever it takes, in bounded time; ``token`` is for the provider alone.

        Raises: what a defect of the client raises, and nothing that a provider can cause.
        """
        found = self.complete_now(tenant, provider, digest, principal, now)
        if found is not None:
            return found
        key = _key(tenant, provider, digest)
        began = time.monotonic()
        try:
            answer = await self._flights.ask(
                (*key, principal.sub, self._epoch),
                key[:5],
                lambda: self._ask(tenant, provider, token, principal.sub, now),
            )
        except TooManyAsked:
            return Deny(
                Reason.OVERLOADED, "too many callers are being asked about", retry_after_s=1, tenant=tenant.name
            )
        except ProviderUnavailable:
            self._failed[key] = now + time.monotonic() - began + FAILED_TTL_S
            if len(self._failed) > MAX_FAILED:
                self._failed.popitem(last=False)
            return _unavailable(tenant)
        self._failed.pop(key, None)
        shared = self.complete_now(tenant, provider, digest, principal, now + time.monotonic() - began)
        if shared is not None:
            return shared  # who asked at the same time has judged it already
        known = _Known(answer, principal, _completed(tenant, provider, principal, answer), provider)
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > self._max_known:
            self._known.popitem(last=False)
        return known.completed

    def revoke_all(self) -> None:
        """Everybody is asked about anew; answers that are on their way are not kept."""
        self._epoch += 1

    async def close(self) -> None:
        """End the questions that are under way. Idempotent."""
        await self._flights.close()

    async def _ask(self, tenant: TenantTable, provider: ProviderSpec, token: str, sub: str, now: float) -> _Answer:
        epoch = self._epoch
        return _Answer(await self._client.userinfo(tenant, provider, token, sub, now), now, epoch)


def _completed(
    tenant: TenantTable, provider: ProviderSpec, principal: Principal, answer: _Answer
) -> Principal | Refusal:
    """Who the token and userinfo name together: the token's bond, session and times, and userinfo's groups."""
    merged = with_userinfo(principal.claims, answer.value, provider)
    completed = person(merged, provider, tenant.name, principal.expires_at or 0.0)
    if not isinstance(completed, Principal):
        return replace(completed, tenant=tenant.name)
    completed.confirmation = principal.confirmation
    completed.sid, completed.issued_at = principal.sid, principal.issued_at
    return completed


def _key(tenant: TenantTable, provider: ProviderSpec, digest: bytes) -> Key:
    endpoint = provider.endpoints.get("userinfo_endpoint", "")
    return (tenant.name, provider.name, provider.issuer, endpoint, _PURPOSE, digest)


def _unavailable(tenant: TenantTable) -> Deny:
    return Deny(
        Reason.PROVIDER_UNAVAILABLE,
        "the caller's groups cannot be had from the provider at the moment",
        retry_after_s=1,
        tenant=tenant.name,
    )
