"""
A login that has begun and not yet come back: what is remembered of it, in a cookie of the browser that began it.

The cookie binds the provider's answer to the browser (AP-R42): without it a code is not redeemed, whoever brings it. It
is sealed for the tenant and under its own name, holds what must not be chosen by anybody else (nonce, code_verifier,
provider, where to return to), and there is one for each tab. What it cannot do is be used once: the callback sees to
that. Refuses to know providers and how a login ends.

Source: RFC 6749 section 10.12, RFC 7636, OpenID Connect Core section 15.5.2; rules AP-R42, R47, R48.
"""

from __future__ import annotations

import json
import re
import secrets
from hmac import compare_digest
from typing import Final, NamedTuple

from authproxy.identity.sessions.cookies import (
    MAX_LOGINS,
    clear_cookie,
    login_cookies,
    login_name,
    read_cookie,
    session_names,
    set_cookie,
)
from authproxy.pages.parts import CookieSealer
from policies.navigation import read_return_to
from policies.strict_json import NotStrict, read_object
from policies.tables import ProviderSpec

PURPOSE: Final = "login"
MAX_AGE_S: Final = 600.0
"""How long a person may take at the provider (AP-R47)."""
KEPT_S: Final = 3600
"""How long the browser keeps the cookie: of a login that has expired, where it was to return to is still known."""
MAX_OURS_BYTES: Final = 7900
"""
Of their cookies together, the session's included. Any page may make a browser begin logins, and common servers in front
take lines of 8 KiB: a browser that sends more gets no answer but 400 from them.
"""
MAX_TEXT_CHARS: Final = 3900
"""Of one cookie; with its name and attributes below the 4096 bytes that browsers keep."""
_MAX_CLEARED: Final = 32
_MAX_PLAIN_BYTES: Final = 8 * 1024
_STATE: Final = re.compile(r"[A-Za-z0-9_-]{22,64}")


class Pending(NamedTuple):
    """One login under way."""

    state: str
    nonce: str
    code_verifier: str
    provider: str
    """Name of the provider in the tenant's policy, and who that was: the policy may have changed meanwhile."""
    issuer: str
    return_to: str
    redirect_uri: str
    expires_at: float
    """Unix seconds."""

    def __repr__(self) -> str:
        return f"Pending(provider={self.provider!r})"


def new_pending(provider: ProviderSpec, return_to: str, redirect_uri: str, now: float) -> Pending:
    """A new login: 192 bits of state and nonce, 384 of code_verifier (RFC 7636 section 4.1: 43 to 128 characters)."""
    return Pending(
        state=secrets.token_urlsafe(24),
        nonce=secrets.token_urlsafe(24),
        code_verifier=secrets.token_urlsafe(48),
        provider=provider.name,
        issuer=provider.issuer,
        return_to=return_to,
        redirect_uri=redirect_uri,
        expires_at=now + MAX_AGE_S,
    )


def pending_cookie(sealer: CookieSealer, tenant: str, pending: Pending, cookie: bytes | None = None) -> str:
    """
    One ``Set-Cookie`` value; without where to return to when that makes it larger than browsers keep, or leaves no room
    beside the session that stands in ``cookie``.
    """
    name = login_name(pending.state)
    plain = json.dumps(pending._asdict(), separators=(",", ":")).encode()
    text = sealer.seal(tenant, PURPOSE, name, plain)
    is_too_long = len(text) > MAX_TEXT_CHARS or _size(name, text) + _session_bytes(cookie) > MAX_OURS_BYTES
    if is_too_long and pending.return_to != "/":
        return pending_cookie(sealer, tenant, pending._replace(return_to="/"), cookie)
    return set_cookie(name, text, KEPT_S)


def find_pending(sealer: CookieSealer, tenant: str, cookie: bytes | None, state: str) -> Pending | None:
    """
    The login that ``state`` belongs to, in the browser that began it; None when there is none. Never raises.

    It may have expired: that is the caller's to judge.
    """
    if _STATE.fullmatch(state) is None:
        return None
    name = login_name(state)
    text = read_cookie(cookie, name)
    pending = None if text is None else _open(sealer, tenant, name, text)
    if pending is None or not compare_digest(pending.state.encode(), state.encode()):
        return None
    return pending


def clear_pending(state: str) -> str:
    """One ``Set-Cookie`` value that takes the login's cookie away."""
    return clear_cookie(login_name(state))


def clear_surplus(sealer: CookieSealer, tenant: str, cookie: bytes | None, new: str) -> tuple[str, ...]:
    """
    ``Set-Cookie`` values that make room for one login more.

    Cleared are cookies that do not open, and the oldest beyond what is kept.
    ``new`` is the ``Set-Cookie`` value of the new login.
    """
    useless: list[str] = []
    kept: list[tuple[float, int, str]] = []
    for name, text in login_cookies(cookie):
        pending = _open(sealer, tenant, name, text)
        if pending is None:
            useless.append(name)
        else:
            kept.append((pending.expires_at, _size(name, text), name))
    kept.sort()
    total = len(new.partition(";")[0]) + _session_bytes(cookie) + sum(size for _, size, _ in kept)
    while kept and (len(kept) >= MAX_LOGINS or total > MAX_OURS_BYTES):
        _, size, name = kept.pop(0)
        total -= size
        useless.append(name)
    return tuple(clear_cookie(name) for name in useless[:_MAX_CLEARED])


def _session_bytes(cookie: bytes | None) -> int:
    return sum(_size(name, read_cookie(cookie, name) or b"") for name in session_names(cookie))


def _size(name: str, text: str | bytes) -> int:
    """In a Cookie field, with ``=`` and ``; ``."""
    return len(name) + len(text) + 3


def _open(sealer: CookieSealer, tenant: str, name: str, text: bytes) -> Pending | None:
    plain = sealer.open(tenant, PURPOSE, name, text)
    if plain is None:
        return None
    try:
        members = read_object(plain, _MAX_PLAIN_BYTES)
    except NotStrict:
        return None
    expires_at = members.pop("expires_at", None)
    if not isinstance(expires_at, int | float) or members.keys() != _TEXTS:
        return None
    if not all(isinstance(value, str) and value for value in members.values()):
        return None
    pending = Pending(expires_at=float(expires_at), **members)
    return pending._replace(return_to=read_return_to(pending.return_to) or "/")


_TEXTS: Final = frozenset(Pending._fields) - {"expires_at"}
