"""
Question 2 by bearer token: who is calling, vouched for by the tenant's own providers and service accounts (AP-R15 to
R18, R36 to R38, R45, R46).

It decides with keys at hand, at once, and waits only where a key has to be fetched. The tenant is fixed before the
token is looked at: the token's unverified issuer may only choose among that tenant's own issuers, and there is no look
into other tenants. It refuses to know sessions, policies beyond the list of issuers, and what a caller may do.

A hit in the token cache is worth exactly what a miss is (R18): it checks again that the token has not expired, that the
tenant still trusts that issuer on the same terms, that the key is still in the set in use, and the revocation epoch.

Sessions will be an ``IdentitySource`` that wraps this one: ``Authorization`` wins over a session cookie, so it asks
here first and looks at ``request.cookie`` only when there is no ``Authorization``.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Final, NamedTuple, Protocol, TypeVar

import jwt

from authproxy.identity import accounts
from authproxy.identity.http import ProviderHttp
from authproxy.identity.jwks import FetchCounter, JwksCache
from authproxy.identity.keys import Candidates, KeySet, Missing, SigningKey, Unavailable
from authproxy.identity.secrets import Secrets
from authproxy.identity.trust import Trusted, TrustStore
from policies.claims import groups_of, judge_claims, may_heal, not_before
from policies.decision import Challenge, Deny, Reason, Refusal
from policies.principal import Principal, anonymous
from policies.request import AccessRequest
from policies.tables import ProviderSpec, TenantTable
from policies.tokens import ALGORITHMS, UnverifiedHeader, inspect, read_authorization, refuse

MAX_TOKENS: Final = 10_000
"""Tokens kept; one takes 2 to 20 KiB with its claims."""
MAX_FORGED: Final = 1024
FORGED_TTL_S: Final = 10.0
"""A client with a bad token repeats it; longer would only help those who have made up many."""

T = TypeVar("T")
Slot = tuple[str, bytes]
"""Tenant and SHA-256 of the Authorization field: the same token is two tokens in two tenants (R17)."""

_UNKNOWN_ISSUER: Final = refuse("the token's issuer is not known here")
_OTHER_ALGORITHM: Final = refuse("the token's algorithm is not one that is allowed for its issuer")
_UNKNOWN_KEY: Final = refuse("the token is signed with a key that its issuer does not have")
_FORGED: Final = refuse("the token's signature does not verify")

_jws: Final = jwt.PyJWS(algorithms=sorted(ALGORITHMS))


class CacheCounter(Protocol):
    """Counts looks into the token cache by outcome: ``hit``, ``miss``, ``forged``."""

    def add(self, labels: tuple[str], /) -> None: ...


class IdentityMetrics(Protocol):
    """What ``authproxy.metrics.Metrics`` has for identity."""

    @property
    def jwks_fetches_total(self) -> FetchCounter: ...

    @property
    def token_cache_total(self) -> CacheCounter: ...


class _Known:
    """A token that was verified. Mutable in ``keys`` alone, which follows the set in use."""

    __slots__ = ("epoch", "expires_at", "header", "issuer", "keys", "not_before", "principal", "thumbprint", "trusted")

    def __init__(
        self,
        principal: Principal,
        header: UnverifiedHeader,
        trusted: Trusted,
        keys: KeySet,
        key: SigningKey,
        epoch: int,
    ) -> None:
        self.principal = principal
        self.expires_at = principal.expires_at or 0.0
        self.not_before = not_before(header.claims, trusted.spec)
        self.issuer = header.issuer
        self.header = (header.kid, header.alg)
        self.trusted = trusted
        self.keys = keys
        self.thumbprint = key.thumbprint
        self.epoch = epoch

    def is_signed_in(self, keys: KeySet) -> bool:
        """Whether the token's header would still choose the same key."""
        chosen = keys.choose(*self.header)
        return isinstance(chosen, tuple) and any(key.thumbprint == self.thumbprint for key in chosen)


class _Forged(NamedTuple):
    """A token that was refused under these keys and terms."""

    refusal: Refusal
    until: float
    issuer: str
    trusted: Trusted
    keys: KeySet


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
        self._max_tokens = max_tokens
        self._metrics = metrics
        self._tokens: OrderedDict[Slot, _Known] = OrderedDict()
        self._forged: OrderedDict[Slot, _Forged] = OrderedDict()
        self._anonymous: dict[str, Principal] = {}
        fetches = metrics.jwks_fetches_total if metrics is not None else None
        self._trust = TrustStore(
            lambda tenant, provider: JwksCache(tenant, provider, http, clock=clock, fetches=fetches),
            lambda tenant, account: accounts.AccountKeys(tenant, account, secrets),
        )
        self._count = metrics.token_cache_total.add if metrics is not None else _count_nothing
        self.epoch = 0
        """Of revocation: a token verified in another epoch is verified anew."""
        self.unusable_groups = 0
        """Tokens verified whose groups claim could not be used."""

    def identify_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal | None:
        """See ``IdentitySource``. A token seen before costs a digest and a few probes."""
        authorization = request.authorization
        if authorization is None:
            return self._nobody(tenant)
        slot = (tenant.name, sha256(authorization).digest())
        known = self._find(tenant, slot, now)
        if known is not None:
            self._count(("hit",))
            return known.principal
        found = self._judge(tenant, slot, authorization, now)
        return None if isinstance(found, _Pending) else found

    async def identify(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal:
        """See ``IdentitySource``. Waits for the provider at most ``jwks.WAIT_S``."""
        authorization = request.authorization
        if authorization is None:
            return self._nobody(tenant)
        slot = (tenant.name, sha256(authorization).digest())
        known = self._find(tenant, slot, now)
        if known is not None:
            self._count(("hit",))
            return known.principal
        found = self._judge(tenant, slot, authorization, now)
        if not isinstance(found, _Pending):
            return found
        began = time.monotonic()
        keys = await found.trusted.source.key(found.header.kid, found.header.alg, now)
        return self._conclude(tenant, found, keys, now + (time.monotonic() - began))

    def is_cached(self, tenant: TenantTable, request: AccessRequest, now: float | None = None) -> bool:
        """
        Whether ``identify_now`` would verify nothing: there is no token, or one that is known to be good.

        For the gate's ``identity-failure`` limit: an address that is guessing gets no more verifications, but those
        behind it who have been seen before go on. Costs as much as a hit; ask only for addresses that have failed.
        """
        if request.authorization is None:
            return True
        slot = (tenant.name, sha256(request.authorization).digest())
        return self._find(tenant, slot, self._clock() if now is None else now) is not None

    async def close(self) -> None:
        """See ``IdentitySource``."""
        await self._trust.close()
        await self._http.close()

    def _nobody(self, tenant: TenantTable) -> Principal:
        """One anonymous caller a tenant, so that its role mask is worked out once a policy generation."""
        nobody = self._anonymous.get(tenant.name)
        if nobody is None:
            nobody = self._anonymous[tenant.name] = anonymous()
        return nobody

    def _find(self, tenant: TenantTable, slot: Slot, now: float) -> _Known | None:
        """A token in the cache, if everything that made it good still holds."""
        known = self._tokens.get(slot)
        if known is None:
            return None
        trusted = known.trusted
        if (
            not known.not_before <= now < known.expires_at
            or known.epoch != self.epoch
            or self._trust.of(tenant).get(known.issuer) is not trusted
        ):
            del self._tokens[slot]
            return None
        keys = trusted.source.current(now)
        if keys is not known.keys:
            if keys is None or not known.is_signed_in(keys):
                return None
            known.keys = keys
        self._tokens.move_to_end(slot)
        return known

    def _judge(
        self, tenant: TenantTable, slot: Slot, authorization: bytes, now: float
    ) -> Principal | Refusal | _Pending:
        """A token that is not in the cache."""
        issuers = self._trust.of(tenant)
        forged = self._forged.get(slot)
        if forged is not None:
            trusted = forged.trusted
            is_same = issuers.get(forged.issuer) is trusted and trusted.source.current(now) is forged.keys
            if is_same and forged.until - FORGED_TTL_S <= now < forged.until:
                self._count(("forged",))
                return forged.refusal
            del self._forged[slot]
        self._count(("miss",))
        token = read_authorization(authorization)
        if not isinstance(token, str):
            return token if token is not None else refuse("the Authorization field is empty")
        header = inspect(token)
        if isinstance(header, Challenge):
            return header
        found = issuers.get(header.issuer)
        if found is None:
            return _UNKNOWN_ISSUER
        if header.alg not in found.algorithms:
            return _OTHER_ALGORITHM
        pending = _Pending(slot, token, header, found)
        keys = found.source.key_now(header.kid, header.alg, now)
        return pending if keys is None else self._conclude(tenant, pending, keys, now)

    def _conclude(
        self, tenant: TenantTable, pending: _Pending, found: Candidates | Missing | Unavailable, now: float
    ) -> Principal | Refusal:
        """Verify the signature, then judge the claims; remember either outcome."""
        match found:
            case Missing():
                return _UNKNOWN_KEY
            case Unavailable(retry_after_s):
                return Deny(
                    Reason.KEYS_UNAVAILABLE,
                    detail="the keys of the token's issuer cannot be had at the moment",
                    retry_after_s=retry_after_s,
                    tenant=tenant.name,
                )
        slot, token, header, trusted = pending
        key = next((key for key in found if _is_signed(token, key, header)), None)
        spec = trusted.spec
        answer = _FORGED if key is None else judge_claims(header.claims, spec, tenant.name, now)
        keys = trusted.source.current(now)
        if not isinstance(answer, Principal):
            if keys is not None and not may_heal(answer):
                _keep(self._forged, slot, _Forged(answer, now + FORGED_TTL_S, header.issuer, trusted, keys), MAX_FORGED)
            return answer
        if isinstance(spec, ProviderSpec) and groups_of(header.claims, spec, tenant.name) is None:
            self.unusable_groups += 1
        if keys is not None and key is not None and key.thumbprint in keys.thumbprints:
            _keep(self._tokens, slot, _Known(answer, header, trusted, keys, key, self.epoch), self._max_tokens)
        return answer


def _is_signed(token: str, key: SigningKey, header: UnverifiedHeader) -> bool:
    """
    Whether ``key`` signed the token and exactly the bytes that the claims were read from.

    Only the signature is PyJWT's business here: its claim checks take strings for numbers and the last of two members.
    """
    try:
        signed = _jws.decode(
            token,
            key.key,
            algorithms=[header.alg],
            options={"verify_signature": True, "enforce_minimum_key_length": True},
        )
    except (jwt.PyJWTError, ValueError, TypeError):  # cryptography's own for a signature of a wrong shape
        return False
    return bool(signed == header.payload)


def _count_nothing(labels: tuple[str], /) -> None:
    """Stands in for a counter."""


def _keep(cache: OrderedDict[Slot, T], slot: Slot, value: T, most: int) -> None:
    """Put a value last; drop the first beyond ``most``."""
    cache[slot] = value
    cache.move_to_end(slot)
    if len(cache) > most:
        cache.popitem(last=False)
