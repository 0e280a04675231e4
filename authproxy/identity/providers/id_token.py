"""
The signature of a token that a provider gave to Portero itself: ID token, logout token, the access token of a login.

It decides whether one of the tenant's own providers has signed it, by the same rules as for bearer tokens: the key set
is chosen by the tenant and the issuer, the key by kid, and the algorithm must be one that policy allows and that fits
the key (AP-R45). It refuses to know what the claims are worth (``policies.id_token``, ``policies.claims``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

from authproxy.identity.providers.keys import Missing, Unavailable
from authproxy.identity.providers.signature import is_signed
from authproxy.identity.providers.trust import Trusted
from policies.decision import Challenge
from policies.errors import ProviderUnavailable
from policies.id_token import inspect_kind
from policies.tables import ProviderSpec, TenantTable

ANY_ALGORITHM: Final = "RS256"
"""For asking whether there are keys at all; which of them fit is asked with a token's own."""


class Trust(Protocol):
    """What is needed of ``trust.TrustStore``: the very key sources that bearer tokens are verified with."""

    def of(self, tenant: TenantTable) -> Mapping[str, Trusted]: ...


class Signed(NamedTuple):
    """A token that its issuer has signed."""

    provider: ProviderSpec
    algorithm: str
    claims: dict[str, Any]


class NotSigned(NamedTuple):
    """A token that is not believed, and why: a constant sentence."""

    detail: str


class KeyNotKnown(NotSigned):
    """The provider has no such key as far as could be asked now: its next key set may have it."""


class KeyNotAskedFor(KeyNotKnown):
    """And its key set may not be asked for again yet: nobody can tell."""


async def make_ready(trust: Trust, tenant: TenantTable, provider: ProviderSpec, now: float) -> None:
    """
    See to it that there are keys *before* something is spent for a token that could not be verified without.

    Raises: ProviderUnavailable.
    """
    trusted = trust.of(tenant).get(provider.issuer)
    if trusted is None:
        raise ProviderUnavailable("the provider is not one of this tenant's any more")
    if trusted.source.current(now) is None:
        found = await trusted.source.key(None, ANY_ALGORITHM, now)
        if isinstance(found, Unavailable):
            raise ProviderUnavailable("the provider's keys cannot be had")


async def verify(
    token: str,
    kinds: frozenset[str],
    trust: Trust,
    tenant: TenantTable,
    now: float,
    *,
    issuer: str | None = None,
    patience_s: float = 0.0,
) -> Signed | NotSigned:
    """
    Whether one of the tenant's own providers has signed a token.

    Args:
        token: in compact form, of any origin.
        kinds: what ``typ`` may be, lower case; it may be absent too.
        trust: whom the tenant trusts.
        tenant: fixed before the token is looked at.
        now: Unix seconds.
        issuer: the only one it may be of; None: whichever of the tenant's providers it names.
        patience_s: how long to wait until a key that is not known may be asked for. Only for tokens that came from the
            provider itself: strangers name keys that nobody has.

    Raises: ProviderUnavailable when there are no keys to tell.
    """
    header = inspect_kind(token, kinds)
    if isinstance(header, Challenge):
        return NotSigned(header.detail)
    trusted = trust.of(tenant).get(header.issuer)
    if trusted is None or not isinstance(trusted.spec, ProviderSpec) or issuer not in {None, header.issuer}:
        return NotSigned("the token is of another issuer")
    if header.alg not in trusted.algorithms:
        return NotSigned("the token's algorithm is not one that is allowed for its issuer")
    began = time.monotonic()
    keys = await trusted.source.key(header.kid, header.alg, now)
    while isinstance(keys, Missing) and 0 < keys.retry_after_s <= patience_s - (time.monotonic() - began):
        await asyncio.sleep(keys.retry_after_s)
        keys = await trusted.source.key(header.kid, header.alg, now + (time.monotonic() - began))
    if isinstance(keys, Unavailable):
        raise ProviderUnavailable("the provider's keys cannot be had")
    if isinstance(keys, Missing):
        kind = KeyNotAskedFor if keys.retry_after_s > 0 else KeyNotKnown
        return kind("the token is signed with a key that its issuer does not have")
    if not any(is_signed(token, key, header) for key in keys):
        return NotSigned("the token's signature does not verify")
    return Signed(trusted.spec, header.alg, header.claims)
