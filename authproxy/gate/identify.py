"""
Question 2 with its guard: who is calling, unless the address has been guessing.

Beyond the ``identity-failure`` limit an address is answered 429 before any signature is looked at, so that guessing
costs the guesser and not us. A token that was good a moment ago (it is in the token cache) passes all the same, one
that is bound to a key with a good proof: a stranger behind the same address must not lock out those who are known. Only
``credential-invalid`` counts, never a missing credential.
"""

from __future__ import annotations

from authproxy.identity.callers import Callers
from authproxy.limits.store import LimitStore
from policies.decision import Challenge, Deny, Reason, Refusal
from policies.limits import Check, failure_check
from policies.principal import Principal
from policies.request import AccessRequest
from policies.tables import TenantTable


class Identifier:
    """Asks the identity source, and the limit store about the address behind a credential that is not known yet."""

    def __init__(self, source: Callers, store: LimitStore) -> None:
        self._source = source
        self._store = store
        self.known_now = source.known_now
        """Who is known to be calling without anything being verified; None: ask on."""
        self.is_revoked = source.is_revoked
        """Whether a logout has ended who was named before."""

    def identify_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal | None:
        """Answer from what is at hand; None when the store or a provider has to be asked."""
        known = self.known_now(tenant, request, now)
        if known is not None:
            return known
        check = failure_check(tenant, request.client_ip)
        if check is None:
            return self._source.identify_now(tenant, request, now)
        peeked = self._store.peek_now(tenant.name, (check,), now)
        if peeked is None:
            return None
        if peeked.refused is not None:
            is_known = self._source.awaits_proof(tenant, request, now)
            return None if is_known else _too_many(tenant, check, peeked.retry_after_s)
        answer = self._source.identify_now(tenant, request, now)
        if _counts(answer) and self._store.spend_now(tenant.name, (check,), now) is None:
            return None
        return answer

    async def identify(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal:
        """Answer with whatever it takes."""
        known = self.known_now(tenant, request, now)
        if known is not None:
            return known
        check = failure_check(tenant, request.client_ip)
        if check is not None:
            peeked = await self._store.peek(tenant.name, (check,), now)
            if peeked.refused is not None and not self._source.awaits_proof(tenant, request, now):
                return _too_many(tenant, check, peeked.retry_after_s)
        answer = await self._source.identify(tenant, request, now)
        if check is not None and _counts(answer):
            await self._store.spend(tenant.name, (check,), now)
        return answer


def _counts(answer: Principal | Refusal | None) -> bool:
    return isinstance(answer, Challenge) and answer.reason is Reason.CREDENTIAL_INVALID


def _too_many(tenant: TenantTable, check: Check, retry_after_s: int) -> Deny:
    return Deny(
        Reason.TOO_MANY_FAILURES,
        detail="too many credentials from this address were invalid",
        rule=check.ref,
        retry_after_s=retry_after_s,
        tenant=tenant.name,
    )
