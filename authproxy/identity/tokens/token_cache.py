"""
Tokens judged before, so that a repeated one costs a digest and a few probes instead of a signature.

It decides only whether everything that led to the earlier answer still holds; the answer itself was somebody else's. A
hit is worth exactly what a miss is (AP-R18): the clock, the tenant's terms for that issuer, the key set in use and the
revocation epoch are compared on every look. Bad tokens have a small memory of their own, so that they never push out
good ones. It refuses to know tokens: it sees digests.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple, Protocol

from authproxy.identity.providers.keys import KeySet, SigningKey
from authproxy.identity.providers.trust import Trusted, TrustStore
from policies.claims import may_heal, not_before
from policies.decision import Refusal
from policies.principal import Principal
from policies.tables import TenantTable
from policies.tokens import UnverifiedHeader

MAX_TOKENS: Final = 10_000
"""Good tokens kept; one takes 2 to 20 KiB with its claims."""
MAX_CLAIMS_BYTES: Final = 16 * 1024 * 1024
"""Of all their claims, as signed. Who signs may choose them, and JSON can take 27 times as much in memory."""
MAX_FORGED: Final = 1024
FORGED_TTL_S: Final = 10.0
"""A client with a bad token repeats it; longer would only help those who have made up many."""

Slot = tuple[str, bytes]
"""Tenant and SHA-256 of the Authorization field: the same token is two tokens in two tenants (AP-R17)."""


class CacheCounter(Protocol):
    """Counts looks by outcome: ``hit``, ``miss`` (a token had to be verified), ``forged`` (known to be bad)."""

    def add(self, labels: tuple[str], /) -> None: ...

    def cell(self, labels: tuple[str], /) -> list[float]:
        """Where the number of one outcome stands: hits are counted on every request."""


class Known:
    """A token that was verified. Mutable in ``keys``, which follows the set in use, and in ``settled``."""

    __slots__ = (
        "epoch",
        "expires_at",
        "header",
        "issuer",
        "keys",
        "not_before",
        "principal",
        "settled",
        "size",
        "tenant",
        "thumbprint",
        "trusted",
        "was_used",
    )

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
        self.size = len(header.payload)
        self.trusted = trusted
        self.keys = keys
        self.thumbprint = key.thumbprint
        self.epoch = epoch
        self.tenant: TenantTable | None = None
        """The generation of its tenant's policy that was last seen to have the same terms for its issuer."""
        self.was_used = False
        self.settled = -1
        """Generation of revocations at which nothing was left to ask about the caller but this entry (``callers``)."""

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


class TokenCache:
    """
    Bounded; what was not used for long goes first.

    Args:
        trust: whom each tenant trusts now.
        counter: of looks by outcome; None: nothing is counted.
        max_tokens: good tokens kept, of all tenants together.
    """

    def __init__(self, trust: TrustStore, counter: CacheCounter | None, max_tokens: int) -> None:
        self._trust = trust
        self._hits = counter.cell(("hit",)) if counter is not None else [0.0]
        self._count = counter.add if counter is not None else _count_nothing
        self._max_tokens = max_tokens
        self._tokens: OrderedDict[Slot, Known] = OrderedDict()
        self._claims_bytes = 0
        self._forged: OrderedDict[Slot, _Forged] = OrderedDict()
        self._epoch = 0

    def find(self, tenant: TenantTable, slot: Slot, now: float) -> Known | None:
        """The token that was verified, if everything that made it good still holds at ``now`` (Unix seconds)."""
        known = self._tokens.get(slot)
        if known is None:
            return None
        trusted = known.trusted
        if not known.not_before <= now < known.expires_at or known.epoch != self._epoch:
            self._drop(slot)
            return None
        if known.tenant is not tenant:  # another generation of policy: are its terms for this issuer the same?
            if self._trust.of(tenant).get(known.issuer) is not trusted:
                self._drop(slot)
                return None
            known.tenant = tenant
        keys = trusted.source.current(now)
        if keys is not known.keys:
            if keys is None or not known.is_signed_in(keys):
                return None
            known.keys = keys
        known.was_used = True
        self._hits[0] += 1
        return known

    def find_refusal(self, tenant: TenantTable, slot: Slot, now: float) -> Refusal | None:
        """Why a token was refused a moment ago, if it would be again; else it has to be verified."""
        forged = self._forged.get(slot)
        if forged is not None:
            trusted = forged.trusted
            if (
                forged.until - FORGED_TTL_S <= now < forged.until
                and self._trust.of(tenant).get(forged.issuer) is trusted
                and trusted.source.current(now) is forged.keys
            ):
                self._count(("forged",))
                return forged.refusal
            del self._forged[slot]
        self._count(("miss",))
        return None

    def keep(
        self, slot: Slot, principal: Principal, header: UnverifiedHeader, trusted: Trusted, key: SigningKey, now: float
    ) -> None:
        """Remember a token that ``key`` signed; not if that key has gone out of use meanwhile."""
        keys = trusted.source.current(now)
        if keys is None or key.thumbprint not in keys.thumbprints:
            return
        self._drop(slot)
        known = self._tokens[slot] = Known(principal, header, trusted, keys, key, self._epoch)
        self._claims_bytes += known.size
        while len(self._tokens) > self._max_tokens or self._claims_bytes > MAX_CLAIMS_BYTES:
            self._drop_one()

    def keep_refusal(self, slot: Slot, refusal: Refusal, issuer: str, trusted: Trusted, now: float) -> None:
        """Remember a bad token for a moment; not one that time alone may make good."""
        keys = trusted.source.current(now)
        if keys is not None and not may_heal(refusal):
            self._forged[slot] = _Forged(refusal, now + FORGED_TTL_S, issuer, trusted, keys)
            self._forged.move_to_end(slot)
            if len(self._forged) > MAX_FORGED:
                self._forged.popitem(last=False)

    def revoke_all(self) -> None:
        """A new epoch: every token is verified anew."""
        self._epoch += 1

    def clear(self) -> None:
        """Forget everything."""
        self._tokens.clear()
        self._claims_bytes = 0
        self._forged.clear()

    def _drop_one(self) -> None:
        """The oldest that was not used since it was looked at last (second chance: a hit costs a mark, no move)."""
        while True:
            slot, known = next(iter(self._tokens.items()))
            if not known.was_used:
                self._drop(slot)
                return
            known.was_used = False
            self._tokens.move_to_end(slot)

    def _drop(self, slot: Slot) -> None:
        known = self._tokens.pop(slot, None)
        if known is not None:
            self._claims_bytes -= known.size


def _count_nothing(labels: tuple[str], /) -> None:
    """Stands in for a counter."""
