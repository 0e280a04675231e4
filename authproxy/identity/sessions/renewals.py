"""
What replicas tell each other about one session's renewal: its newer version, or that it is over.

Both are sealed under the session's own secret, so only who holds the cookie can read them or put others in their place.
Versions decide: a newer one is never overwritten by an older one. A session that is over at version ``v`` (its refresh
token was refused) comes after version ``v`` and before ``v + 1``: who has renewed it all the same is believed.
This module refuses to know providers, leases and waiting.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from hmac import compare_digest
from typing import Final, NamedTuple

from authproxy.identity.sessions.seal import decode_session, encode_session, open_under, seal_under
from authproxy.identity.sessions.session import Session
from authproxy.identity.shared.state import StateStore, key

MAX_KNOWN: Final = 10_000
KNOWN_S: Final = 3600.0
"""How long a replica remembers a renewal by itself; the store has it until the session's end."""
PURPOSE: Final = "renewed session"
_RENEWED: Final = b"r"
_OVER: Final = b"o"


class Over(NamedTuple):
    """The refresh token of this version was refused for good."""

    version: int


Renewal = Session | Over


def is_news(renewal: Renewal, session: Session) -> bool:
    """Whether it says more than ``session`` does."""
    if isinstance(renewal, Over):
        return renewal.version >= session.version
    return renewal.version > session.version


def carried_on(newer: Session, session: Session) -> Session:
    """``newer`` with the last use of either: the one who asks may have been here since."""
    return newer if newer.seen_at >= session.seen_at else replace(newer, seen_at=session.seen_at)


class Renewals:
    """In the store that replicas share."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    async def read(self, session: Session) -> Renewal | None:
        """
        What is known beyond ``session``; None where nothing is, and for what was not sealed by a holder of the session.

        Raises: StoreUnavailable.
        """
        data = await self._store.get(_key(session))
        renewal = _open(session, data) if data is not None else None
        return renewal if renewal is not None and is_news(renewal, session) else None

    async def write(self, session: Session, renewal: Renewal, ttl_s: float) -> bool:
        """
        Tell the others; False when something as new is there.

        Raises: StoreUnavailable; ValueError for a session too large to be written.
        """
        return await self._store.put_newer(_key(session), _rank(renewal), _seal(session, renewal), ttl_s)


class KnownRenewals:
    """In this process: bounded in number and time, looked up without waiting."""

    def __init__(self, *, max_known: int = MAX_KNOWN) -> None:
        self._max_known = max_known
        self._known: OrderedDict[tuple[str, str], tuple[Renewal, bytes, float]] = OrderedDict()

    def find(self, session: Session, now: float) -> Renewal | None:
        """What is known beyond ``session``."""
        slot = (session.tenant, session.id)
        known = self._known.get(slot)
        if known is None:
            return None
        renewal, secret, expires_at = known
        if now >= expires_at:
            del self._known[slot]
            return None
        if not is_news(renewal, session) or not compare_digest(secret, session.secret):
            return None
        self._known.move_to_end(slot)
        return renewal

    def keep(self, session: Session, renewal: Renewal, expires_at: float) -> None:
        """Unless something newer is known."""
        slot = (session.tenant, session.id)
        old = self._known.get(slot)
        if old is not None and _rank(old[0]) >= _rank(renewal):
            return
        self._known[slot] = (renewal, session.secret, expires_at)
        self._known.move_to_end(slot)
        if len(self._known) > self._max_known:
            self._known.popitem(last=False)

    def __len__(self) -> int:
        return len(self._known)


def _rank(renewal: Renewal) -> int:
    """Version 1, over at 1, version 2, over at 2 ..."""
    return 2 * renewal.version + (1 if isinstance(renewal, Over) else 0)


def _key(session: Session) -> str:
    return key(session.tenant, "renewed", session.id)


def _seal(session: Session, renewal: Renewal) -> bytes:
    plain = _OVER + b"%d" % renewal.version if isinstance(renewal, Over) else _RENEWED + encode_session(renewal)
    return seal_under(session.secret, PURPOSE, session.tenant, plain)


def _open(session: Session, data: bytes) -> Renewal | None:
    plain = open_under(session.secret, PURPOSE, session.tenant, data)
    if plain is None:
        return None
    if plain[:1] == _OVER:
        return Over(int(plain[1:])) if plain[1:].isdigit() and len(plain) < 20 else None
    newer = decode_session(plain[1:], session.tenant) if plain[:1] == _RENEWED else None
    if newer is None or (newer.id, newer.issuer, newer.sub) != (session.id, session.issuer, session.sub):
        return None
    return newer
