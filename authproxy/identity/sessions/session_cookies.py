"""
A session and the cookies that give it to a browser: sealed whole, or as a ticket, in as many pieces as it takes.

It decides how a session is written and whether what was read is one; it refuses to know how long a session lasts, who
may bring it, and when it is written anew.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from authproxy.identity.sessions import cookies
from authproxy.identity.sessions.cookies import Pieces
from authproxy.identity.sessions.seal import Sealer, decode_session, encode_session, sealed_chars
from authproxy.identity.sessions.session import Session
from authproxy.identity.sessions.tickets import Tickets
from policies.request import AccessRequest
from policies.tables import TenantTable

PURPOSE: Final = "session"


class SessionTooLarge(Exception):
    """The session does not fit into cookies, or cannot be kept at all; its text is for operators."""


class SessionCookies:
    """Writes and reads the cookies of all tenants."""

    def __init__(self, sealer: Sealer, tickets: Tickets) -> None:
        self._sealer = sealer
        self._tickets = tickets

    def read(self, tenant: str, pieces: Pieces) -> Session | None:
        """The session that stands in the cookie itself; None for anything that is not one of this tenant's."""
        plain = self._sealer.open(tenant, PURPOSE, _sealed_name(pieces.number), pieces.text)
        return None if plain is None else decode_session(plain, tenant)

    def values(self, tenant: TenantTable, session: Session, request: AccessRequest) -> tuple[str, ...]:
        """
        The values of the ``Set-Cookie`` fields: the session, and the stale pieces of ``request`` cleared.

        Raises: SessionTooLarge.
        """
        if tenant.sessions.store == "redis":
            parts = cookies.split_session(self._tickets.write(session))
        else:
            parts = self._sealed_parts(session)
        names = {name for name, _ in parts}
        stale = [cookies.clear_cookie(name) for name in cookies.session_names(request.cookie) if name not in names]
        return (*(cookies.set_cookie(name, value, None) for name, value in parts), *stale)

    def _sealed_parts(self, session: Session) -> list[tuple[str, str]]:
        """Without the ID token where only that makes it fit: the provider then asks at a logout whose it is."""
        for kept in (session, replace(session, id_token=None)):
            try:
                plain = encode_session(kept)
            except ValueError:
                raise SessionTooLarge("the provider's claims cannot be kept in a session") from None
            number = cookies.piece_count(sealed_chars(len(plain)))
            if number > cookies.MAX_PIECES:
                continue
            parts = cookies.split_session(self._sealer.seal(kept.tenant, PURPOSE, _sealed_name(number), plain))
            if sum(len(name) + len(value) + 3 for name, value in parts) <= cookies.MAX_COOKIE_BYTES:
                return parts
        raise SessionTooLarge(
            f"the session takes more than {cookies.MAX_COOKIE_BYTES} bytes of cookies: use sessions.store: redis"
        )


def clearing(request: AccessRequest) -> tuple[str, ...]:
    """The values of the ``Set-Cookie`` fields that make the browser forget what it has of a session."""
    return tuple(cookies.clear_cookie(name) for name in cookies.session_names(request.cookie))


def lines(values: tuple[str, ...]) -> bytes:
    """``Set-Cookie`` values as lines of a head; an answer that sets a cookie is kept by no cache."""
    if not values:
        return b""
    fields = "".join([f"Set-Cookie: {value}\r\n" for value in values])
    return f"{fields}Cache-Control: private, no-store\r\n".encode("ascii")


def _sealed_name(number: int) -> str:
    """The number of pieces is part of the name that is sealed in: nobody can say another number (AP-R21)."""
    return f"{cookies.SESSION}/{number}"
