"""
Sessions that are kept in the store: the browser has a ticket, the store has the session.

A ticket is the session's id and secret, sealed; the record is sealed under that secret. So a dump of the store is of no
use without the cookies, a cookie is of none without the store, and a made-up ticket does not even cost a look-up. A
session that was ended leaves a mark that no write can take back (a refresh that was under way would otherwise bring it
back to life).

It refuses to know how long a session lasts and whose it is.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from authproxy.identity.sessions.cookies import SESSION, Pieces
from authproxy.identity.sessions.seal import Sealer, decode_session, encode_session, open_under, seal_under
from authproxy.identity.sessions.session import Session
from authproxy.identity.shared.state import StateStore, key

PURPOSE: Final = "ticket"
_SECRET_BYTES: Final = 32
_ID_CHARS: Final = 22
"""Of a session's id: 128 bits, base64url."""
_SECONDS: Final = 2**32
_ENDED: Final = 99_999_999_999_999
"""Version of the mark; Lua writes whole numbers of up to 14 digits as they are."""


class Ticket(NamedTuple):
    """What the cookie says, and has been sealed by us. Shows nobody its secret."""

    session_id: str
    secret: bytes

    def __repr__(self) -> str:
        return "Ticket(...)"


class Tickets:
    """The records of all tenants whose sessions are kept in the store."""

    def __init__(self, sealer: Sealer, store: StateStore) -> None:
        self._sealer = sealer
        self._store = store

    def read(self, tenant: str, pieces: Pieces) -> Ticket | None:
        """The ticket; None for anything that is not one of this tenant's. Never raises."""
        plain = self._sealer.open(tenant, PURPOSE, SESSION, pieces.text) if pieces.number == 1 else None
        if plain is None or len(plain) != _SECRET_BYTES + _ID_CHARS:
            return None
        return Ticket(plain[_SECRET_BYTES:].decode("ascii", "replace"), plain[:_SECRET_BYTES])

    def write(self, session: Session) -> str:
        """The text of the cookie; the same ticket serves for every version of the session."""
        return self._sealer.seal(session.tenant, PURPOSE, SESSION, session.secret + session.id.encode("ascii"))

    async def load(self, tenant: str, ticket: Ticket) -> Session | None:
        """
        The session; None when it has ended, or nothing that opens is there.

        Raises: StoreUnavailable.
        """
        data = await self._store.get(_key(tenant, ticket.session_id))
        plain = open_under(ticket.secret, PURPOSE, tenant, data) if data else None
        session = decode_session(plain, tenant) if plain is not None else None
        return session if session is not None and session.id == ticket.session_id else None

    async def save(self, session: Session, ttl_s: float) -> None:
        """
        Write this version, and when it was last used, unless a newer one is there or the session has ended.

        Raises: StoreUnavailable; ValueError as ``encode_session``.
        """
        sealed = seal_under(session.secret, PURPOSE, session.tenant, encode_session(session))
        version = min(session.version * _SECONDS + int(session.seen_at), _ENDED - 1)
        await self._store.put_newer(_key(session.tenant, session.id), version, sealed, ttl_s)

    async def end(self, tenant: str, session_id: str, ttl_s: float) -> None:
        """
        The record goes, and nothing can be written in its place for ``ttl_s``.

        Raises: StoreUnavailable.
        """
        await self._store.put_newer(_key(tenant, session_id), _ENDED, b"", ttl_s)


def _key(tenant: str, session_id: str) -> str:
    return key(tenant, PURPOSE, session_id)
