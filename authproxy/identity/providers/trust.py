"""
Whom one tenant trusts: issuer -> terms and keys, the only place where a token's unverified issuer is looked up (T3).

It decides which provider or service account of *this* tenant an issuer is, and keeps key sources alive over reloads of
policy as long as they would fetch the same keys. It refuses to know tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Final, TypeVar

from authproxy.identity.providers import accounts
from authproxy.identity.providers.keys import KeySource
from policies.claims import account_issuer
from policies.tables import ProviderSpec, ServiceAccountSpec, TenantTable
from policies.tokens import ALGORITHMS

SpecT = TypeVar("SpecT", ProviderSpec, ServiceAccountSpec)

MAX_SOURCES: Final = 10_000
"""Key sources kept over reloads; the ones in use live on even when they are forgotten here."""


class Trusted:
    """One issuer on one tenant's terms. Compared by identity: equal terms stay one object over reloads."""

    __slots__ = ("algorithms", "source", "spec")

    def __init__(self, spec: ProviderSpec | ServiceAccountSpec, source: KeySource) -> None:
        self.spec = spec
        self.source = source
        self.algorithms: frozenset[str] = (
            accounts.ALGORITHMS if isinstance(spec, ServiceAccountSpec) else spec.algorithms & ALGORITHMS
        )


class TrustStore:
    """
    Answers ``of`` from a memo for as long as a tenant's table stays the same object.

    Args:
        provider_keys: makes a key source; called once for each (tenant, name, issuer, address, private hosts).
        account_keys: makes a key source; called once for each (tenant, name, files).
    """

    def __init__(
        self,
        provider_keys: Callable[[str, ProviderSpec], KeySource],
        account_keys: Callable[[str, ServiceAccountSpec], KeySource],
    ) -> None:
        self._provider_keys = provider_keys
        self._account_keys = account_keys
        self._memo: dict[str, tuple[TenantTable, dict[str, Trusted]]] = {}
        self._sources: OrderedDict[Hashable, KeySource] = OrderedDict()

    def of(self, tenant: TenantTable) -> Mapping[str, Trusted]:
        """The tenant's own issuers; nothing of another tenant is ever in it."""
        memo = self._memo.get(tenant.name)
        if memo is not None and memo[0] is tenant:
            return memo[1]
        before = memo[1] if memo is not None else {}
        issuers: dict[str, Trusted] = {}
        for provider in tenant.providers:
            issuers.setdefault(provider.issuer, self._trusted(tenant.name, provider, before.get(provider.issuer)))
        for account in tenant.service_accounts:
            issuer = account_issuer(tenant.name, account.name)
            issuers.setdefault(issuer, self._trusted(tenant.name, account, before.get(issuer)))
        self._memo[tenant.name] = (tenant, issuers)
        return issuers

    async def close(self) -> None:
        """Stop all key sources."""
        sources = list(self._sources.values())
        self._sources.clear()
        self._memo.clear()
        for source in sources:
            await source.close()

    def _trusted(self, tenant: str, spec: ProviderSpec | ServiceAccountSpec, before: Trusted | None) -> Trusted:
        if before is not None and before.spec == spec:
            return before
        if isinstance(spec, ServiceAccountSpec):
            return Trusted(spec, self._source((tenant, spec.name, spec.public_keys), self._account_keys, tenant, spec))
        key = (tenant, spec.name, spec.issuer, spec.jwks_uri, spec.allowed_private_hosts)
        return Trusted(spec, self._source(key, self._provider_keys, tenant, spec))

    def _source(self, key: Hashable, make: Callable[[str, SpecT], KeySource], tenant: str, spec: SpecT) -> KeySource:
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = make(tenant, spec)
            if len(self._sources) > MAX_SOURCES:
                self._sources.popitem(last=False)
        self._sources.move_to_end(key)
        return source
