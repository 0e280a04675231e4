"""
Question 2 by opaque token: the tenant's provider is asked what the token is worth, and its answer is kept for a while.

It decides when the provider is asked: once for everybody who shows the same token, not again while the answer is young
enough, and never more than so many questions at a time. What an answer is worth is judged as a signed token's claims
are (``policies.introspection``, ``policies.claims``). A hit is worth exactly what a miss is (AP-R18): clock, terms of
the provider and epoch are compared on every look. Keys hold tenant, issuer, endpoint, purpose and a digest (AP-R17), so
that one tenant's answer, or another endpoint's, is nobody else's. Tokens that are not good are kept apart and shortly,
so that strangers push out no good one. A provider that does not answer is a refusal (503), hardly remembered.

Refuses to know JWTs, and what a token is bound to. Source: RFC 7662 sections 2.2 and 4.

Longer than other modules: what is remembered, and what makes it void, are read together.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from authproxy.identity.tokens.flights import MAX_IN_FLIGHT, Flights, TooManyAsked
from policies.claims import judge_claims, may_heal, not_before
from policies.decision import Challenge, Deny, Reason, Refusal
from policies.errors import ProviderUnavailable
from policies.introspection import claims_of
from policies.principal import Principal
from policies.tables import ProviderSpec, TenantTable

MAX_KNOWN: Final = 10_000
"""Active tokens kept, of all tenants together."""
MAX_REFUSED: Final = 1024
REFUSED_TTL_S: Final = 10.0
"""A client with a bad token repeats it; a provider's replicas may hear of a new token a little later than we."""
FAILED_TTL_S: Final = 1.0
BACKWARDS_S: Final = 5.0
"""A clock that was put back by more voids what was asked later than it says."""
_PURPOSE: Final = "introspection"

T = TypeVar("T")
Key = tuple[str, str, str, str, str, bytes]


class IntrospectionClient(Protocol):
    """What is asked of ``OidcClient``."""

    async def introspect(self, tenant: TenantTable, provider: ProviderSpec, token: str) -> Mapping[str, Any]:
        """The provider's answer, strict JSON. Raises: ProviderUnavailable."""


class AskCounter(Protocol):
    """Counts by (tenant, provider, outcome): ``known``, ``active``, ``refused``, ``unavailable``, ``overloaded``."""

    def add(self, labels: tuple[str, str, str], /) -> None: ...


class IntrospectionMetrics(Protocol):
    """What ``authproxy.metrics.Metrics`` has for introspection."""

    @property
    def introspections_total(self) -> AskCounter: ...


class _Answer(NamedTuple):
    """What the provider said, and when and at which epoch it was asked."""

    value: Mapping[str, Any]
    asked_at: float
    epoch: int


class _Known:
    """An active token. Mutable in ``provider`` alone, which follows equal terms over reloads."""

    __slots__ = ("asked_at", "epoch", "not_before", "principal", "provider", "until")

    def __init__(
        self, principal: Principal, provider: ProviderSpec, asked_at: float, begins: float, until: float, epoch: int
    ) -> None:
        self.principal = principal
        self.provider = provider
        self.asked_at = asked_at
        self.not_before = begins
        self.until = until
        self.epoch = epoch


class _Refused(NamedTuple):
    refusal: Refusal
    provider: ProviderSpec
    asked_at: float
    until: float
    epoch: int


class Introspection:
    """
    Opaque tokens of all tenants. One per process and event loop.

    Args:
        client: asks the provider.
        metrics: None: nothing is counted.
        max_known: bound of the active tokens kept.
        max_in_flight: questions to one provider at a time.
    """

    def __init__(
        self,
        client: IntrospectionClient,
        *,
        metrics: IntrospectionMetrics | None = None,
        max_known: int = MAX_KNOWN,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> None:
        self._client = client
        self._counter = metrics.introspections_total if metrics is not None else None
        self._max_known = max_known
        self._flights: Flights[_Answer] = Flights(max_in_flight)
        self._known: OrderedDict[Key, _Known] = OrderedDict()
        self._refused: OrderedDict[Key, _Refused] = OrderedDict()
        self._providers: dict[str, tuple[TenantTable, ProviderSpec | None]] = {}
        self._epoch = 0

    def is_for(self, tenant: TenantTable) -> bool:
        """Whether a provider of the tenant may be asked about opaque tokens."""
        return self._provider(tenant) is not None

    def known_now(self, tenant: TenantTable, digest: bytes, now: float) -> Principal | None:
        """
        Whom a token names, when the provider said so lately and nothing has changed since.

        Args:
            tenant: of the request's host.
            digest: SHA-256 of the credential; ``AccessRequest.credential_digest``.
            now: Unix seconds.
        """
        provider = self._provider(tenant)
        if provider is None:
            return None
        known = self._find(_key(tenant, provider, digest), provider, now)
        if known is None:
            return None
        self._count(tenant, provider, "known")
        return known.principal

    def identify_now(self, tenant: TenantTable, digest: bytes, now: float) -> Principal | Refusal | None:
        """The answer from what is at hand; None when the provider has to be asked."""
        known = self.known_now(tenant, digest, now)
        if known is not None:
            return known
        provider = self._provider(tenant)
        if provider is None:
            return None
        key = _key(tenant, provider, digest)
        refused = self._refused.get(key)
        if refused is None:
            return None
        is_young = refused.asked_at - BACKWARDS_S <= now < refused.until
        if is_young and refused.epoch == self._epoch and refused.provider == provider:
            return refused.refusal
        del self._refused[key]
        return None

    async def identify(self, tenant: TenantTable, token: str, digest: bytes, now: float) -> Principal | Refusal:
        """
        The answer with whatever it takes, in bounded time. Only for tenants that ``is_for`` says yes to.

        Args:
            tenant: of the request's host.
            token: as shown, for the provider alone.
            digest: SHA-256 of the credential that it was shown in, under which the answer is known.
            now: Unix seconds.

        Raises: what a defect of the client raises, and nothing that a provider can cause.
        """
        found = self.identify_now(tenant, digest, now)
        provider = self._provider(tenant)
        if found is not None or provider is None:
            return found or _unavailable(tenant)
        key = _key(tenant, provider, digest)
        began = time.monotonic()
        try:
            answer = await self._flights.ask(
                (*key, self._epoch), key[:5], lambda: self._ask(tenant, provider, token, now)
            )
        except TooManyAsked:
            self._count(tenant, provider, "overloaded")
            return Deny(Reason.OVERLOADED, "too many tokens are being asked about", retry_after_s=1, tenant=tenant.name)
        except ProviderUnavailable:
            self._count(tenant, provider, "unavailable")
            refusal = _unavailable(tenant)
            failed = _Refused(refusal, provider, now, now + time.monotonic() - began + FAILED_TTL_S, self._epoch)
            _put(self._refused, key, failed, MAX_REFUSED)
            return refusal
        return self._conclude(tenant, provider, key, answer, now + time.monotonic() - began)

    def revoke_all(self) -> None:
        """Every token is asked about anew; answers that are on their way are not kept."""
        self._epoch += 1

    async def close(self) -> None:
        """End the questions that are under way. Idempotent."""
        await self._flights.close()

    async def _ask(self, tenant: TenantTable, provider: ProviderSpec, token: str, now: float) -> _Answer:
        epoch = self._epoch
        return _Answer(await self._client.introspect(tenant, provider, token), now, epoch)

    def _conclude(
        self, tenant: TenantTable, provider: ProviderSpec, key: Key, answer: _Answer, now: float
    ) -> Principal | Refusal:
        """Judge the answer under the asker's own terms; remember either outcome."""
        shared = self._find(key, provider, now)
        if shared is not None and shared.asked_at == answer.asked_at:
            return shared.principal  # who asked at the same time has judged it already
        claims = claims_of(answer.value, provider, answer.asked_at)
        judged = claims if isinstance(claims, Challenge) else judge_claims(claims, provider, tenant.name, now)
        if isinstance(judged, Principal):
            max_age_s = provider.introspection.max_age_s if provider.introspection is not None else 0.0
            until = min(answer.asked_at + max_age_s, judged.expires_at or 0.0)
            begins = not_before(dict(judged.claims), provider)
            known = _Known(judged, provider, answer.asked_at, begins, until, answer.epoch)
            _put(self._known, key, known, self._max_known)
            self._count(tenant, provider, "active")
            return judged
        refusal = replace(judged, tenant=tenant.name)
        self._count(tenant, provider, "refused")
        if not may_heal(refusal):
            until = answer.asked_at + REFUSED_TTL_S
            _put(self._refused, key, _Refused(refusal, provider, answer.asked_at, until, answer.epoch), MAX_REFUSED)
        return refusal

    def _find(self, key: Key, provider: ProviderSpec, now: float) -> _Known | None:
        """What is known of an active token, if everything that made it good still holds at ``now``."""
        known = self._known.get(key)
        if known is None:
            return None
        is_young = known.asked_at - BACKWARDS_S <= now < known.until
        has_same_terms = known.provider is provider or known.provider == provider
        if not is_young or not has_same_terms or now < known.not_before or known.epoch != self._epoch:
            del self._known[key]
            return None
        known.provider = provider
        self._known.move_to_end(key)
        return known

    def _provider(self, tenant: TenantTable) -> ProviderSpec | None:
        """The tenant's one provider with introspection; looked for once a table."""
        memo = self._providers.get(tenant.name)
        if memo is None or memo[0] is not tenant:
            found = next((provider for provider in tenant.providers if provider.introspection is not None), None)
            memo = self._providers[tenant.name] = (tenant, found)
        return memo[1]

    def _count(self, tenant: TenantTable, provider: ProviderSpec, outcome: str) -> None:
        if self._counter is not None:
            self._counter.add((tenant.name, provider.name, outcome))


def _key(tenant: TenantTable, provider: ProviderSpec, digest: bytes) -> Key:
    endpoint = provider.endpoints.get("introspection_endpoint", "")
    return (tenant.name, provider.name, provider.issuer, endpoint, _PURPOSE, digest)


def _unavailable(tenant: TenantTable) -> Deny:
    return Deny(
        Reason.PROVIDER_UNAVAILABLE,
        "the token's provider cannot be asked about it at the moment",
        retry_after_s=1,
        tenant=tenant.name,
    )


def _put(cache: OrderedDict[Key, T], key: Key, value: T, most: int) -> None:
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > most:
        cache.popitem(last=False)
