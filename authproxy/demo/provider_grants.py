"""
What the demo's provider remembers: who is logged in there, which codes and refresh tokens are good, and for what.

It decides what a code or a refresh token is worth, once; it refuses to know HTTP, pages and signatures. A code that
comes twice, or a refresh token that was rotated away, was stolen by somebody: all that came of its grant ends.

Source: RFC 6749 sections 4.1.2, 4.1.3 and 6; RFC 7636 section 4.6; RFC 9700 sections 2.2.2 and 4.14.2 (rotation).
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from authlib.oauth2.rfc6749 import InvalidGrantError
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from authproxy.demo.people import Person

CODE_S: Final = 60.0
SESSION_S: Final = 8 * 3600.0
"""Of a login at the provider, and of every refresh token that came of it."""
MAX_KEPT: Final = 2000
"""Of each kind; the oldest make room. A demo has a handful of people."""

ValueT = TypeVar("ValueT")


@dataclass(slots=True)
class ProviderSession:
    """One login of one person in one browser. Compared by identity."""

    id: str
    """Value of the browser's cookie."""
    sid: str
    """What ID tokens and logout tokens call it; says nothing of the cookie."""
    person: Person
    logged_in_at: float
    expires_at: float
    redirect_uris: set[str] = field(default_factory=set)
    """Where it was used to log in: who has to be told of its end."""
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """What a client asked for by way of the browser, checked."""

    redirect_uri: str
    state: str
    nonce: str
    code_challenge: str
    """S256."""
    scope: str


@dataclass(slots=True)
class Grant:
    """What one login of one client came to."""

    session: ProviderSession
    request: AuthorizationRequest
    expires_at: float
    """Of the code, as long as it has not been redeemed."""
    is_redeemed: bool = False
    is_over: bool = False
    is_refreshed: bool = False

    @property
    def is_good(self) -> bool:
        return not self.is_over and not self.session.is_over


class _Kept(Generic[ValueT]):
    """A bounded dictionary: the oldest entry makes room for a new one."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, ValueT] = OrderedDict()

    def put(self, key: str, value: ValueT) -> None:
        self._values[key] = value
        while len(self._values) > MAX_KEPT:
            self._values.popitem(last=False)

    def get(self, key: str) -> ValueT | None:
        return self._values.get(key)

    def all(self) -> list[ValueT]:
        return list(self._values.values())


class Grants:
    """All of one provider. ``clock`` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._sessions: _Kept[ProviderSession] = _Kept()
        self._codes: _Kept[Grant] = _Kept()
        self._refresh_tokens: _Kept[tuple[Grant, list[str]]] = _Kept()
        """Token -> its grant, and the one token of that grant that is good (a list that all of them share)."""

    def log_in(self, person: Person) -> ProviderSession:
        now = self._clock()
        session = ProviderSession(_random(), _random(), person, now, now + SESSION_S)
        self._sessions.put(session.id, session)
        return session

    def session(self, session_id: str) -> ProviderSession | None:
        """Who is logged in by this cookie, if anybody still is."""
        session = self._sessions.get(session_id)
        return session if session is not None and self._is_running(session) else None

    def sessions_of(self, sub: str) -> list[ProviderSession]:
        return [one for one in self._sessions.all() if one.person.sub == sub and self._is_running(one)]

    def give_code(self, session: ProviderSession, request: AuthorizationRequest) -> str:
        code = _random()
        session.redirect_uris.add(request.redirect_uri)
        self._codes.put(code, Grant(session, request, self._clock() + CODE_S))
        return code

    def redeem(self, code: str, redirect_uri: str, code_verifier: str) -> tuple[Grant, str]:
        """
        The grant of a code and its first refresh token.

        Raises: InvalidGrantError; for a code that comes again, after ending all that came of it.
        """
        grant = self._codes.get(code)
        if grant is None:
            raise InvalidGrantError("the code is not good")
        if grant.is_redeemed:
            grant.is_over = True
            raise InvalidGrantError("the code was used before")
        grant.is_redeemed = True  # whatever is wrong with the rest: a code is tried once
        if self._clock() >= grant.expires_at or not grant.is_good or not self._is_running(grant.session):
            raise InvalidGrantError("the code is over")
        if grant.request.redirect_uri != redirect_uri:
            raise InvalidGrantError("the code is for another redirect_uri")
        if not _verifies(code_verifier, grant.request.code_challenge):
            raise InvalidGrantError("code_verifier does not match")
        return grant, self._new_refresh_token(grant, [])

    def refresh(self, refresh_token: str) -> tuple[Grant, str]:
        """
        The grant of a refresh token and the token that takes its place.

        Raises: InvalidGrantError; for one that was rotated away, after ending all that came of its grant.
        """
        known = self._refresh_tokens.get(refresh_token)
        if known is None:
            raise InvalidGrantError("the refresh token is not good")
        grant, good = known
        if good != [refresh_token]:
            grant.is_over = True
            raise InvalidGrantError("the refresh token was used before")
        if not grant.is_good or not self._is_running(grant.session):
            raise InvalidGrantError("the login is over")
        grant.is_refreshed = True
        return grant, self._new_refresh_token(grant, good)

    def revoke(self, refresh_token: str) -> None:
        """All that came of its grant; nothing for a token that is not known (RFC 7009 section 2.2)."""
        known = self._refresh_tokens.get(refresh_token)
        if known is not None:
            known[0].is_over = True

    def end(self, session: ProviderSession) -> None:
        """The person has logged out: neither codes nor refresh tokens of the session are good any more."""
        session.is_over = True

    def _is_running(self, session: ProviderSession) -> bool:
        return not session.is_over and self._clock() < session.expires_at

    def _new_refresh_token(self, grant: Grant, good: list[str]) -> str:
        token = _random()
        good[:] = [token]
        self._refresh_tokens.put(token, (grant, good))
        return token


def _verifies(code_verifier: str, code_challenge: str) -> bool:
    """Source: RFC 7636 section 4.1: 43 to 128 characters, all of them ASCII."""
    if not 43 <= len(code_verifier) <= 128 or not code_verifier.isascii():
        return False
    return hmac.compare_digest(str(create_s256_code_challenge(code_verifier)).encode(), code_challenge.encode())


def _random() -> str:
    return secrets.token_urlsafe(32)
