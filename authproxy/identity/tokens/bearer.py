"""
Question 2 by bearer token: who is calling, vouched for by the tenant's own providers and service accounts (AP-R15 to
R18, R36 to R38, R45, R46).

It decides with keys at hand, at once, and waits only where a key has to be fetched. The tenant is fixed before the
token is looked at: the token's unverified issuer may only choose among that tenant's own issuers, and there is no look
into other tenants. It refuses to know sessions, policies beyond the list of issuers, and what a caller may do.

It names the token's subject, whoever shows it: that a token is bound to a key or has been revoked is asked by
``callers``, which asks here among others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Final, NamedTuple, Protocol

from authproxy.identity.providers import accounts
from authproxy.identity.providers.http import ProviderHttp
from authproxy.identity.providers.jwks import FetchCounter, JwksCache
from authproxy.identity.providers.keys import Candidates, Missing, Unavailable
from authproxy.identity.providers.signature import is_signed
from authproxy.identity.providers.trust import Trusted, TrustStore
from authproxy.identity.secrets import Secrets
from authproxy.identity.tokens.token_cache import MAX_TOKENS, CacheCounter, Known, Slot, TokenCache
from policies.claims import groups_of, judge_claims
from policies.decision import Challenge, Deny, Reason, Refusal
from policies.principal import Principal, anonymous
from policies.request import AccessRequest
from policies.tables import ProviderSpec, TenantTable
from policies.tokens import Credential, UnverifiedHeader, inspect, read_authorization, refuse

_EMPTY: Final = refuse("the Authorization field is empty", "invalid_request")
_UNKNOWN_ISSUER: Final = refuse("the token's issuer is not known here")
_OTHER_ALGORITHM: Final = refuse("the token's algorithm is not one that is allowed for its issuer")
_UNKNOWN_KEY: Final = refuse("the token is signed with a key that its issuer does not have")
_FORGED: Final = refuse("the token's signature does not verify")


class IdentityMetrics(Protocol):
    """What ``authproxy.metrics.Metrics`` has for identity."""

    @property
    def jwks_fetches_total(self) -> FetchCounter: ...

    @property
    def token_cache_total(self) -> CacheCounter: ...


class _Pending(NamedTuple):
    """A token whose key is not at hand."""

    slot: Slot
    token: str
    header: UnverifiedHeader
    trusted: Trusted


class BearerIdentity:
    """
    An ``IdentitySource`` over bearer tokens. One per process and event loop.

    Args:
        http: how providers are asked; closed with this.
        secrets: where the service accounts' keys are.
        metrics: None: nothing is counted.
        clock: Unix seconds, for what happens between two requests.
        max_tokens: bound of the token cache.
    """

    def __init__(
        self,
        http: ProviderHttp,
        secrets: Secrets,
        *,
        metrics: IdentityMetrics | None = None,
        clock: Callable[[], float] = time.time,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        self._http = http
        self._clock = clock
        self._anonymous: dict[str, Principal] = {}
        fetches = metrics.jwks_fetches_total if metrics is not None else None
        self._trust = TrustStore(
            lambda tenant, provider: JwksCache(tenant, provider, http, clock=clock, fetches=fetches),
            lambda tenant, account: accounts.AccountKeys(tenant, account, secrets),
        )
        self._tokens = TokenCache(self._trust, None if metrics is None else metrics.token_cache_total, max_tokens)
        self.unusable_groups = 0
        """Tokens verified whose groups claim could not be used."""

    @property
    def trust(self) -> TrustStore:
        """Whom each tenant trusts, with the keys in use: what else is verified uses the same."""
        return self._trust

    def identify_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal | None:
        """See ``IdentitySource``. A token seen before costs a digest and a few probes."""
        authorization = request.authorization
        if authorization is None:
            return self.nobody(tenant)
        slot = (tenant.name, request.credential_digest or sha256(authorization).digest())
        known = self._tokens.find(tenant, slot, now)
        if known is not None:
            return known.principal
        found = self._judge(tenant, slot, authorization, now)
        return None if isinstance(found, _Pending) else found

    async def identify(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal:
        """See ``IdentitySource``. Waits for the provider at most ``jwks.WAIT_S``."""
        known = self.known_now(tenant, request, now)
        authorization = request.authorization
        if known is not None or authorization is None:
            return known or self.nobody(tenant)
        slot = (tenant.name, request.credential_digest or sha256(authorization).digest())
        found = self._judge(tenant, slot, authorization, now)
        if not isinstance(found, _Pending):
            return found
        began = time.monotonic()
        keys = await found.trusted.source.key(found.header.kid, found.header.alg, now)
        return self._conclude(tenant, found, keys, now + (time.monotonic() - began))

    def known_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | None:
        """
        The caller, if nothing has to be verified to name him: no credential, or a token that is known to be good.

        For the gate's ``identity-failure`` limit: an address that is guessing gets no more verifications, but those
        behind it who have been seen before go on. Costs and counts as a hit of ``identify_now`` does.
        """
        if request.authorization is None:
            return self.nobody(tenant)
        known = self.find(tenant, request, now)
        return None if known is None else known.principal

    def find(self, tenant: TenantTable, request: AccessRequest, now: float) -> Known | None:
        """As ``known_now``, with what the cache knows of the token; only for a request with ``Authorization``."""
        digest = request.credential_digest or sha256(request.authorization or b"").digest()
        return self._tokens.find(tenant, (tenant.name, digest), now)

    def revoke_all(self) -> None:
        """Every token is verified anew, whatever was known of it."""
        self._tokens.revoke_all()

    async def close(self) -> None:
        """See ``IdentitySource``."""
        await self._trust.close()
        await self._http.close()

    def nobody(self, tenant: TenantTable) -> Principal:
        """One anonymous caller a tenant, so that its role mask is worked out once a policy generation."""
        nobody = self._anonymous.get(tenant.name)
        if nobody is None:
            nobody = self._anonymous[tenant.name] = anonymous()
        return nobody

    def _judge(
        self, tenant: TenantTable, slot: Slot, authorization: bytes, now: float
    ) -> Principal | Refusal | _Pending:
        """A token that is not in the cache."""
        remembered = self._tokens.find_refusal(tenant, slot, now)
        if remembered is not None:
            return remembered
        credential = read_authorization(authorization)
        if not isinstance(credential, Credential):
            return _in(tenant, credential or _EMPTY)
        token = credential.token
        header = inspect(token)
        if isinstance(header, Challenge):
            return _in(tenant, header)
        found = self._trust.of(tenant).get(header.issuer)
        if found is None:
            return _in(tenant, _UNKNOWN_ISSUER)
        if header.alg not in found.algorithms:
            return _in(tenant, _OTHER_ALGORITHM)
        pending = _Pending(slot, token, header, found)
        keys = found.source.key_now(header.kid, header.alg, now)
        return pending if keys is None else self._conclude(tenant, pending, keys, now)

    def _conclude(
        self, tenant: TenantTable, pending: _Pending, found: Candidates | Missing | Unavailable, now: float
    ) -> Principal | Refusal:
        """Verify the signature, then judge the claims; remember either outcome."""
        match found:
            case Missing():
                return _in(tenant, _UNKNOWN_KEY)
            case Unavailable(retry_after_s):
                return Deny(
                    Reason.KEYS_UNAVAILABLE,
                    detail="the keys of the token's issuer cannot be had at the moment",
                    retry_after_s=retry_after_s,
                    tenant=tenant.name,
                )
        slot, token, header, trusted = pending
        key = next((key for key in found if is_signed(token, key, header)), None)
        spec = trusted.spec
        answer = _FORGED if key is None else judge_claims(header.claims, spec, tenant.name, now)
        if isinstance(answer, Principal) and key is not None:
            if isinstance(spec, ProviderSpec) and groups_of(header.claims, spec, tenant.name) is None:
                self.unusable_groups += 1
            self._tokens.keep(slot, answer, header, trusted, key, now)
        elif not isinstance(answer, Principal):
            answer = _in(tenant, answer)
            self._tokens.keep_refusal(slot, answer, header.issuer, trusted, now)
        return answer


def _in(tenant: TenantTable, refusal: Refusal) -> Refusal:
    """The refusal with its tenant, for those who count and audit it."""
    return replace(refusal, tenant=tenant.name)
