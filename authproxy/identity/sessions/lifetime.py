"""
How long a session lasts, and what becomes of it when it is begun, renewed and used. Pure: ``now`` is a parameter.

It decides when a session is over, when its claims are too old, when they are fetched again ahead of that, and when its
last use is to be written down. It refuses to know cookies, stores, logouts and providers' answers.
"""

from __future__ import annotations

from dataclasses import replace
from secrets import token_bytes, token_urlsafe
from typing import Any, Final

from authproxy.identity.sessions.session import Session, SessionOver, Tokens
from policies.claims import person
from policies.decision import Challenge, Deny
from policies.principal import Principal
from policies.tables import ProviderSpec, SessionsSpec, TenantTable

SKEW_S: Final = 60.0
"""How far the clock may run ahead that a session was written by; what is later is from no time at all."""
SOFT_RATIO: Final = 0.8
"""Of the claims' freshness; from then on they are fetched behind the requests that need them."""
MIN_STAMP_S: Final = 60.0
"""The last use is not written down more often, unless idling is as short."""
_NEVER_NEEDED: Final = ("nonce", "at_hash", "c_hash", "s_hash", "jti")
"""Members that bind a token to its own delivery; once it is judged nobody asks for them."""


def begun(tenant: str, provider: ProviderSpec, tokens: Tokens, now: float) -> Session:
    """
    The first version of a new session: its id and secret are new, whatever the browser brought (AP-R5).

    It counts from when the tokens were had: a logout that arrived since ends it.
    """
    return Session(
        id=token_urlsafe(16),
        secret=token_bytes(32),
        version=1,
        tenant=tenant,
        provider=provider.name,
        issuer=tokens.issuer,
        sub=tokens.sub,
        sid=tokens.sid,
        claims=_kept(tokens, provider),
        created_at=min(now, tokens.fetched_at),
        seen_at=now,
        fresh_until=_fresh_until(tokens, provider, tokens.refresh_token),
        id_token=tokens.id_token,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        fetched_at=tokens.fetched_at,
    )


def renewed(session: Session, tokens: Tokens, provider: ProviderSpec, tenant: TenantTable, now: float) -> Session:  # noqa: ARG001 (callers know when; nothing here depends on it yet)
    """
    The next version: the claims are the new ones and nothing of the old: a group that is gone is gone.

    Id, secret, subject, beginning and last use stay.

    Raises: SessionOver when the tokens are another subject's or issuer's.
    """
    if (tokens.issuer, tokens.sub, tenant.name) != (session.issuer, session.sub, session.tenant):
        raise SessionOver("a session cannot be renewed into somebody else's")
    refresh_token = tokens.refresh_token or session.refresh_token
    return replace(
        session,
        version=session.version + 1,
        sid=tokens.sid or session.sid,
        claims=_kept(tokens, provider),
        fresh_until=_fresh_until(tokens, provider, refresh_token),
        id_token=tokens.id_token or session.id_token,
        access_token=tokens.access_token,
        refresh_token=refresh_token,
        fetched_at=tokens.fetched_at,
    )


def is_over(session: Session, spec: SessionsSpec, now: float) -> bool:
    """Idle too long, older than may be, or from a time that has not come."""
    return now >= session.created_at + spec.absolute_s or now >= session.seen_at + spec.idle_s or is_early(session, now)


def is_early(session: Session, now: float) -> bool:
    """It is from a time that has not come: this clock is behind, or that of the replica that wrote it is ahead."""
    return max(session.created_at, session.seen_at) > now + SKEW_S


def by_policy(session: Session, provider: ProviderSpec) -> Session:
    """Stale as soon as the policy of now says so, which may be sooner than it was when the claims were fetched."""
    if session.refresh_token is None:
        return session
    until = session.fetched_at + provider.groups.max_age_s
    return session if session.fresh_until <= until else replace(session, fresh_until=until)


def expires_at(session: Session, spec: SessionsSpec) -> float:
    """Until when what is known of the session holds, if nothing else happens to it."""
    return min(session.fresh_until, session.created_at + spec.absolute_s, session.seen_at + spec.idle_s)


def refresh_at(session: Session) -> float:
    """When the claims are to be fetched again; infinite where nobody can."""
    if session.refresh_token is None:
        return float("inf")
    return session.fetched_at + SOFT_RATIO * (session.fresh_until - session.fetched_at)


def stamp_every_s(spec: SessionsSpec) -> float:
    """How old the written last use may be while the session is in use."""
    return min(max(MIN_STAMP_S, spec.idle_s / 10), spec.idle_s / 2)


def holder(session: Session, provider: ProviderSpec, spec: SessionsSpec) -> Principal | Challenge | Deny:
    """Whose session it is, by the policy of now. Its claims may be less than that policy wants: then a refusal."""
    claims: dict[str, Any] = session.claims if isinstance(session.claims, dict) else dict(session.claims)
    principal = person(claims, provider, session.tenant, expires_at(session, spec))
    if isinstance(principal, Principal):
        principal.is_by_cookie = True
        principal.session_id = session.id
        principal.issuer = session.issuer
        principal.sid = session.sid or principal.sid
        principal.issued_at = session.created_at
    return principal


def _fresh_until(tokens: Tokens, provider: ProviderSpec, refresh_token: str | None) -> float:
    if refresh_token is None:
        return tokens.expires_at
    return min(tokens.expires_at, tokens.fetched_at + provider.groups.max_age_s)


def _kept(tokens: Tokens, provider: ProviderSpec) -> dict[str, Any]:
    """Without what nobody asks for, unless this provider keeps something else under such a name."""
    paths = (provider.groups_claim, provider.tenant_claim, provider.email_claim, provider.name_claim)
    asked = {path.partition(".")[0] for path in paths if path is not None}
    dropped = [name for name in _NEVER_NEEDED if name not in asked]
    return {name: value for name, value in tokens.claims.items() if name not in dropped}
