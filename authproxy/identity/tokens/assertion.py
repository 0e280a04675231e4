"""
``X-Portero-Assertion``: a signed statement to one function about who is calling it, which the function can verify by
itself with the keys at ``/.portero/jwks.json`` (docs/examples/verify_assertion.py).

It decides what is stated and for how long. The statement is about a caller and a function, not about one request: it is
made once and used for all their requests until it grows old, and therefore it has no ``jti``. A function that must not
take one request twice needs an idempotency key of its own.

Nobody who is anonymous is vouched for, and nothing is said where there is no key to sign with: the function sees no
field then, and has to refuse. Refuses to know how a caller proved who it is.

Source: RFC 7519, RFC 8725 sections 3.11 and 3.12; rule AP-R15.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from authproxy.identity.tokens.key_files import SigningPrivate
from authproxy.identity.tokens.keyring import SigningKeys
from authproxy.identity.tokens.own_claims import audience_of, issuer_of
from policies.principal import ANONYMOUS_PROVIDER, Principal
from policies.tables import Place

TYPE: Final = "portero-assertion+jwt"
FIELD: Final = "X-Portero-Assertion"
LIFETIME_S: Final = 300
RENEW_LEFT_S: Final = 0.4 * LIFETIME_S
"""With less of its life left it is made anew behind the request that noticed."""
MIN_LEFT_S: Final = 0.2 * LIFETIME_S
"""With less than that it is made anew first: a cold start and a clock behind must not make it expire on its way."""
MAX_BLOCK_BYTES: Final = 4096
"""Of the whole line; common servers take 8 KiB a field."""
MAX_FUNCTIONS: Final = 64
"""Statements kept for one caller, some 1 KiB each."""


class _Blocks(dict[str, tuple[float, bytes]]):
    """Function -> until when, and the line. Good for one tenant, namespace and key alone."""

    __slots__ = ("key", "namespace", "renewing", "tenant")

    def __init__(self, tenant: str, namespace: str, key: SigningPrivate) -> None:
        super().__init__()
        self.tenant = tenant
        self.namespace = namespace
        self.key = key
        self.renewing: set[str] = set()


class Assertions:
    """
    Makes statements and keeps them on the principal they are about. One a process and event loop.

    Args:
        keys: the process's ``KeyFolder``.
        clock: Unix seconds, for what is made anew between two requests.
    """

    def __init__(self, keys: SigningKeys, *, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._clock = clock

    def block(self, place: Place, principal: Principal, now: float) -> bytes:
        """
        ``X-Portero-Assertion: <JWT>`` CRLF; empty when nothing is stated.

        A repeat costs a few probes; the first for a function some 60 us. Never raises.
        """
        if principal.provider == ANONYMOUS_PROVIDER or not place.spec.has_assertion:
            return b""
        key = self._keys.signing_key()
        if key is None:
            return b""
        tenant = place.tenant
        kept = principal.assertion_block
        if (
            type(kept) is not _Blocks
            or kept.key is not key
            or kept.tenant != tenant.name
            or kept.namespace != tenant.namespace
        ):
            kept = principal.assertion_block = _Blocks(tenant.name, tenant.namespace, key)
        function = place.function
        entry = kept.get(function)
        if entry is not None:
            left_s = entry[0] - now
            if RENEW_LEFT_S <= left_s <= LIFETIME_S:
                return entry[1]
            if MIN_LEFT_S <= left_s < RENEW_LEFT_S and self._renew_behind(kept, principal, function):
                return entry[1]
        return self._make(kept, principal, function, now)

    def _renew_behind(self, kept: _Blocks, principal: Principal, function: str) -> bool:
        """After what the event loop is doing now; False where none runs."""
        if function in kept.renewing:
            return True
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        kept.renewing.add(function)
        loop.call_soon(self._renew, kept, principal, function)
        return True

    def _renew(self, kept: _Blocks, principal: Principal, function: str) -> None:
        kept.renewing.discard(function)
        self._make(kept, principal, function, self._clock())

    def _make(self, kept: _Blocks, principal: Principal, function: str, now: float) -> bytes:
        expires_at = int(now) + LIFETIME_S
        claims: dict[str, Any] = {
            "iss": issuer_of(kept.tenant),
            "aud": audience_of(kept.namespace, function),
            "sub": principal.subject,
            "iat": int(now),
            "exp": expires_at,
        }
        shown = (("email", principal.email), ("name", principal.name))
        claims.update({name: value for name, value in shown if value is not None})
        if principal.has_unknown_groups:
            claims["groups_truncated"] = True
        elif principal.groups:
            claims["groups"] = sorted(principal.groups)
        line = _line(kept.key, claims)
        if len(line) > MAX_BLOCK_BYTES and claims.pop("groups", None) is not None:
            claims["groups_truncated"] = True
            line = _line(kept.key, claims)
        if len(kept) >= MAX_FUNCTIONS and function not in kept:
            del kept[next(iter(kept))]
        kept[function] = (float(expires_at), line)
        return line


def _line(key: SigningPrivate, claims: dict[str, Any]) -> bytes:
    return f"{FIELD}: {key.sign(TYPE, claims)}\r\n".encode("ascii")
