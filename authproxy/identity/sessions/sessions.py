"""
Question 2 by session cookie: who is calling, vouched for by a login of before.

It decides what a cookie of ours is worth: nobody's (unreadable, another tenant's, garbage, or twice there: nothing is
said of it), over (expired, idle, revoked, or ended by its provider: the browser is told), or somebody's. Where that
cannot be known, because the store or the provider does not answer, the request is refused with 503 (AP-R50).

A session in a cookie is sealed there whole; a session in the store is known by a ticket (``tickets.py``). Which of them
a tenant has is policy's word; a cookie of the other kind is nobody's. Idling is judged by the cookie that is shown: a
copy that is never written anew ends ``idle_s`` after it was made, though the session goes on. A stream that is open
counts as use where the store keeps the session.

It refuses to know how a login goes, how claims are fetched anew and what a caller may do.

Longer than other modules: what becomes of one cookie, at once and with waiting, from a login to its end, is read
together; everything that can be told apart stands beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final, Literal, NamedTuple

from authproxy.audit import get_logger
from authproxy.identity.sessions import cookies, lifetime
from authproxy.identity.sessions.cookies import Pieces
from authproxy.identity.sessions.lifetime import renewed
from authproxy.identity.sessions.opened import MAX_OPENED, Known, OpenedCookies, Slot, is_revoked
from authproxy.identity.sessions.refresh_ahead import RefreshAhead
from authproxy.identity.sessions.seal import Sealer
from authproxy.identity.sessions.session import Session, SessionOver, Tokens
from authproxy.identity.sessions.session_answers import Answers
from authproxy.identity.sessions.session_cookies import SessionCookies, SessionTooLarge, clearing, lines
from authproxy.identity.sessions.session_seams import RefresherLike, RevocationList, SessionMetrics
from authproxy.identity.sessions.tickets import Tickets
from authproxy.identity.shared.state import StateStore
from policies.decision import Deny, Reason, Refusal
from policies.errors import CannotKnow, KeysUnavailable, StoreUnavailable
from policies.principal import Principal
from policies.request import AccessRequest
from policies.tables import ProviderSpec, TenantTable

TICKET_S: Final = 2.0
"""How long what the store said of a ticket is used without asking again."""
MARK_S: Final = 24 * 3600.0
"""A session that was ended is remembered for at least so long after its beginning: policy may lengthen sessions."""

_log = get_logger("identity")
_new: Final[Any] = tuple.__new__
"""NamedTuples of the hot path are made without their Python ``__new__``."""


class _Shown(NamedTuple):
    """One cookie of one request, and the session that it is or stands for."""

    slot: Slot
    session: Session
    version: int
    """Of the session as the cookie itself has it."""


class _Stale(NamedTuple):
    """The claims are too old: somebody has to be asked before the session is worth anything."""

    provider: ProviderSpec
    session: Session


class _Over(NamedTuple):
    """The session is over, and how that is counted."""

    outcome: Literal["expired", "revoked"]
    is_for_now: bool = False
    """By this replica's clock: the browser is to keep it for those whose clocks are right."""


class Sessions:
    """
    The sessions of all tenants. One per process and event loop. Longer than other modules: a session's whole way.

    Args:
        sealer: seals what goes to the browser.
        store: keeps the sessions of tenants that want them kept.
        revocations: says which sessions were ended.
        refresher: fetches claims anew.
        metrics: None: nothing is counted.
        clock: Unix seconds, for what happens between two requests.
        max_opened: bound of the cache of opened cookies.
    """

    def __init__(
        self,
        sealer: Sealer,
        store: StateStore,
        revocations: RevocationList,
        refresher: RefresherLike,
        *,
        metrics: SessionMetrics | None = None,
        clock: Callable[[], float] = time.time,
        max_opened: int = MAX_OPENED,
    ) -> None:
        self._tickets = Tickets(sealer, store)
        self._cookies = SessionCookies(sealer, self._tickets)
        self._revocations = revocations
        self._refresher = refresher
        self._answers = Answers(metrics)
        self._clock = clock
        self._opened = OpenedCookies(revocations, sealer.keys_now, max_opened)
        self._ahead = RefreshAhead()

    # -- who is calling ----------------------------------------------------------------------------------------------

    def has_session(self, request: AccessRequest) -> bool:
        """A cheap look for our cookie's name; what it is worth is another question."""
        return cookies.has_session(request.cookie)

    def known_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | None:
        """Whose the cookie is, if it was opened before and there is nothing to do about it."""
        pieces = cookies.read_pieces(request.cookie)
        return None if pieces is None else self._opened.find(tenant, _slot(tenant, pieces), now)

    def identify_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal | None:
        """
        See ``IdentitySource``: None when the store or the provider has to be asked.

        Never ``credential-invalid``: a browser cannot help what it sends.
        """
        pieces = cookies.read_pieces(request.cookie)
        if pieces is None:
            return self._answers.nobody(tenant.name)
        slot = _slot(tenant, pieces)
        found = self._opened.find(tenant, slot, now)
        if found is not None:
            return found
        if tenant.sessions.store == "redis":
            # A record must have been read within TICKET_S; ``find`` would have had it.
            return (
                None if self._tickets.read(tenant.name, pieces) is not None else self._answers.unreadable(tenant.name)
            )
        shown = self._show(tenant, pieces, slot, now)
        if shown is None:
            return self._answers.unreadable(tenant.name)
        return self._conclude(tenant, shown, self._judge(tenant, shown, request, now), request)

    async def identify(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal:
        """See ``IdentitySource``."""
        answer = self.identify_now(tenant, request, now)
        pieces = cookies.read_pieces(request.cookie)
        if answer is not None or pieces is None:
            return answer or self._answers.nobody(tenant.name)
        try:
            return await self._identify(tenant, pieces, request, now)
        except SessionOver:
            return self._answers.over(tenant.name, request, "expired")
        except CannotKnow as error:
            return _unknown(tenant, error)

    async def _identify(
        self, tenant: TenantTable, pieces: Pieces, request: AccessRequest, now: float
    ) -> Principal | Refusal:
        """Raises: SessionOver, CannotKnow."""
        began = time.monotonic()
        slot = _slot(tenant, pieces)
        shown = await self._fetch(tenant, pieces, slot, now)
        if shown is None:
            return self._answers.unreadable(tenant.name)
        judged = self._judge(tenant, shown, request, now)
        if isinstance(judged, _Stale):
            session = await self._refresh(tenant, judged, now)
            if not _is_same(session, judged.session):
                raise SessionOver("the refreshed session is another one")
            now += time.monotonic() - began
            shown = shown._replace(session=replace(session, seen_at=shown.session.seen_at))
            if tenant.sessions.store == "redis":
                await self._save_quietly(tenant, shown.session, now)
            judged = self._judge(tenant, shown, request, now)
        # Stale twice: the provider's new tokens are past their time already.
        return self._conclude(tenant, shown, judged, request) or self._answers.over(tenant.name, request, "expired")

    # -- begin and end -----------------------------------------------------------------------------------------------

    async def begin(
        self, tenant: TenantTable, provider: ProviderSpec, tokens: Tokens, request: AccessRequest, now: float
    ) -> tuple[Session, tuple[str, ...]]:
        """
        A new session after a login, and the values of the ``Set-Cookie`` fields that give it to the browser.

        The session that the browser had is ended first, whosever it was, and with it a planted one (AP-R5).

        Raises: StoreUnavailable; SessionTooLarge; SessionOver when a logout has come in between that ends it already:
            a browser that is sent on with such a session is sent to log in again and again.
        """
        session = lifetime.begun(tenant.name, provider, tokens, now)
        if is_revoked(self._revocations, session):
            raise SessionOver("the login was ended by a logout as it began")
        values = self._cookies.values(tenant, session, request)
        old = await self._shown_session(tenant, request)
        if old is not None:
            await self._revoke(tenant, old, now)
            self._answers.count(tenant.name, "ended")
        if tenant.sessions.store == "redis":
            try:
                await self._tickets.save(session, _ttl_s(tenant, session, now))
            except ValueError:
                raise SessionTooLarge("the provider's claims cannot be kept in a session") from None
        self._answers.count(tenant.name, "begun")
        return session, values

    async def open(self, tenant: TenantTable, request: AccessRequest, now: float) -> Session | None:
        """
        The newest known version of the browser's session, for our own pages; its claims may be too old to be judged by.

        None when there is none, or it is over. Raises: StoreUnavailable.
        """
        session = await self._shown_session(tenant, request)
        if session is None or lifetime.is_over(session, tenant.sessions, now) or is_revoked(self._revocations, session):
            return None
        newest = self._newest(session, now)
        return None if is_revoked(self._revocations, newest) else newest

    async def end(
        self, tenant: TenantTable, session: Session | None, request: AccessRequest, now: float
    ) -> tuple[str, ...]:
        """
        End a session for good, and every copy of it; the values of the ``Set-Cookie`` fields that clear the browser.

        Without ``session`` the one that the browser shows is ended although its cookie is over: a copy of it that was
        used since may not be.

        Raises: StoreUnavailable when other replicas cannot be told; what can be done here is done all the same.
        """
        if session is None:
            session = await self._shown_session(tenant, request)
        if session is not None and session.tenant == tenant.name:
            await self._revoke(tenant, session, now)
            self._answers.count(tenant.name, "ended")
        return clearing(request)

    # -- life --------------------------------------------------------------------------------------------------------

    def revoke_all(self) -> None:
        """Every cookie is opened and judged anew, whatever was known of it."""
        self._opened.clear()

    async def close(self) -> None:
        """Stop what runs behind requests."""
        await self._ahead.close()

    # -- what a cookie is --------------------------------------------------------------------------------------------

    def _show(self, tenant: TenantTable, pieces: Pieces, slot: Slot, now: float) -> _Shown | None:
        """A session that stands in the cookie itself; what was opened before is not opened again."""
        known = self._opened.peek(tenant, slot, now)
        if known is not None:
            return _Shown(slot, known.session, known.cookie_version)
        session = self._cookies.read(tenant.name, pieces)
        return None if session is None else _new(_Shown, (slot, session, session.version))

    async def _fetch(self, tenant: TenantTable, pieces: Pieces, slot: Slot, now: float) -> _Shown | None:
        """As ``_show``, asking the store. Raises: StoreUnavailable; SessionOver for a ticket without a session."""
        if tenant.sessions.store != "redis":
            return self._show(tenant, pieces, slot, now)
        ticket = self._tickets.read(tenant.name, pieces)
        if ticket is None:
            return None
        session = await self._tickets.load(tenant.name, ticket)
        if session is None:
            raise SessionOver("nothing is kept under this ticket")
        spec = tenant.sessions
        if now - session.seen_at >= lifetime.stamp_every_s(spec) and not lifetime.is_over(session, spec, now):
            session = replace(session, seen_at=now)
            await self._save_quietly(tenant, session, now)
        return _Shown(slot, session, session.version)

    async def _shown_session(self, tenant: TenantTable, request: AccessRequest) -> Session | None:
        """The session that the browser shows, over or not. Raises: StoreUnavailable."""
        pieces = cookies.read_pieces(request.cookie)
        if pieces is None:
            return None
        if tenant.sessions.store != "redis":
            return self._cookies.read(tenant.name, pieces)
        ticket = self._tickets.read(tenant.name, pieces)
        return None if ticket is None else await self._tickets.load(tenant.name, ticket)

    # -- what it is worth --------------------------------------------------------------------------------------------

    def _judge(
        self, tenant: TenantTable, shown: _Shown, request: AccessRequest, now: float
    ) -> Principal | Refusal | _Stale | _Over:
        session, spec = shown.session, tenant.sessions
        if is_revoked(self._revocations, session):
            return _Over("revoked")
        provider = next((p for p in tenant.providers if p.name == session.provider), None)
        if lifetime.is_over(session, spec, now) or provider is None or provider.issuer != session.issuer:
            return _Over("expired", lifetime.is_early(session, now))
        session = lifetime.by_policy(self._newest(session, now), provider)
        if session.sid != shown.session.sid and is_revoked(self._revocations, session):
            return _Over("revoked")
        if now >= session.fresh_until:
            return _Over("expired") if session.refresh_token is None else _Stale(provider, session)
        holder = lifetime.holder(session, provider, spec)
        if isinstance(holder, Deny):
            return holder
        if not isinstance(holder, Principal) or holder.sub != session.sub:
            return _Over("expired")
        self._keep(tenant, provider, _new(_Shown, (shown.slot, session, shown.version)), holder, request, now)
        return holder

    def _conclude(
        self,
        tenant: TenantTable,
        shown: _Shown,
        judged: Principal | Refusal | _Stale | _Over,
        request: AccessRequest,
    ) -> Principal | Refusal | None:
        """The answer; None for a session whose claims are too old."""
        if isinstance(judged, _Stale):
            return None
        if isinstance(judged, _Over):
            self._opened.forget(shown.slot)
            return self._answers.over(tenant.name, request, judged.outcome, keeps_cookie=judged.is_for_now)
        return judged

    def _keep(
        self,
        tenant: TenantTable,
        provider: ProviderSpec,
        shown: _Shown,
        holder: Principal,
        request: AccessRequest,
        now: float,
    ) -> None:
        """Remember whose the cookie is until there is something to do; do now what is due."""
        slot, session, version = shown
        spec = tenant.sessions
        every_s = lifetime.stamp_every_s(spec)
        until = holder.expires_at or 0.0
        if spec.store == "redis":
            until = min(until, now + TICKET_S)
        elif session.version > version or now - session.seen_at >= every_s:
            holder.set_cookie = self._rewritten(tenant, replace(session, seen_at=now), request)
            until = min(until, now + every_s)
        else:
            until = min(until, session.seen_at + every_s)
        refresh_at = lifetime.refresh_at(session)
        if now >= refresh_at:
            refresh_at = self._refresh_ahead(tenant, provider, session, slot, now)
        until = min(until, refresh_at)
        generation = self._revocations.generation
        self._opened.keep(slot, Known(holder, session, version, tenant, generation, now, until))

    def _newest(self, session: Session, now: float) -> Session:
        """With the claims that another request may have fetched meanwhile; the last use stays the cookie's own."""
        newer = self._refresher.known_now(session, now)
        if newer is None or newer.version <= session.version or not _is_same(newer, session):
            return session
        return replace(newer, seen_at=session.seen_at)

    # -- what is answered --------------------------------------------------------------------------------------------

    def _rewritten(self, tenant: TenantTable, session: Session, request: AccessRequest) -> bytes:
        """The lines that give the browser its session anew; none where that cannot be: it has the old one."""
        try:
            return lines(self._cookies.values(tenant, session, request))
        except SessionTooLarge:
            _log.warning("a renewed session does not fit into cookies any more", tenant=tenant.name)
            return b""

    # -- what is asked of others -------------------------------------------------------------------------------------

    async def _refresh(self, tenant: TenantTable, stale: _Stale, now: float) -> Session:
        """Raises: SessionOver, CannotKnow."""
        try:
            return await self._refresher.refresh(tenant, stale.provider, stale.session, now)
        except SessionOver:
            await self._tell_over(tenant, stale.session, now)
            raise

    def _refresh_ahead(
        self, tenant: TenantTable, provider: ProviderSpec, session: Session, slot: Slot, now: float
    ) -> float:
        """Fetch the claims before anybody has to wait for them; returns when to look again."""

        async def refresh() -> None:
            newer = await self._refresh(tenant, _Stale(provider, session), now)
            if tenant.sessions.store == "redis":
                await self._save_quietly(tenant, newer, self._clock())

        return self._ahead.begin(session.id, now, refresh, lambda: self._opened.look_again(slot))

    async def _tell_over(self, tenant: TenantTable, session: Session, now: float) -> None:
        """Copies of the cookie that still look fresh end too; if nobody can be told, they end when they are stale."""
        try:
            await self._revoke(tenant, session, now)
        except StoreUnavailable:
            _log.warning("replicas could not be told that a session is over", tenant=tenant.name)

    async def _revoke(self, tenant: TenantTable, session: Session, now: float) -> None:
        until = session.created_at + max(tenant.sessions.absolute_s, MARK_S) + lifetime.SKEW_S
        if until <= now:
            return
        try:
            if tenant.sessions.store == "redis":
                await self._tickets.end(tenant.name, session.id, until - now)
        finally:
            await self._revocations.revoke_session(tenant.name, session.id, until)

    async def _save_quietly(self, tenant: TenantTable, session: Session, now: float) -> None:
        """What is known is known without it; the next look at the store says whether it answers."""
        try:
            await self._tickets.save(session, _ttl_s(tenant, session, now))
        except (StoreUnavailable, ValueError):
            _log.warning("a session could not be written to the store", tenant=tenant.name)


def _slot(tenant: TenantTable, pieces: Pieces) -> Slot:
    return tenant.name, pieces.number, sha256(pieces.text).digest()


def _is_same(one: Session, other: Session) -> bool:
    """Whether they are versions of one session."""
    return (one.id, one.tenant, one.issuer, one.sub) == (other.id, other.tenant, other.issuer, other.sub)


def _ttl_s(tenant: TenantTable, session: Session, now: float) -> float:
    """Until the session is over if it is not used again."""
    spec = tenant.sessions
    until = min(session.created_at + spec.absolute_s, session.seen_at + spec.idle_s)
    return max(1.0, until - now + lifetime.SKEW_S)


def _unknown(tenant: TenantTable, error: CannotKnow) -> Deny:
    match error:
        case StoreUnavailable():
            reason = Reason.SESSION_STORE_UNAVAILABLE
        case KeysUnavailable():
            reason = Reason.KEYS_UNAVAILABLE
        case _:
            reason = Reason.PROVIDER_UNAVAILABLE
    return Deny(reason, tenant=tenant.name)


__all__ = [
    "RefresherLike",
    "RevocationList",
    "SessionMetrics",
    "SessionTooLarge",
    "Sessions",
    "renewed",
]
