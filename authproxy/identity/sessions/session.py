"""
What a session is: who logged in, until when that is known, and what is needed to know it again. Values only.

A session is made by a login and never extended into another one: each login makes a new id and a new secret (AP-R5).
Refreshing makes a further *version* of the same session. Refuses to know cookies, stores and providers.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_TO_URL: Final = bytes.maketrans(b"+/", b"-_")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a provider's token endpoint came to, verified: of a login or of a refresh."""

    issuer: str
    sub: str
    sid: str | None
    """The provider's session, when the ID token names it."""
    claims: Mapping[str, Any] = field(repr=False)
    """Of ID token, access token and userinfo as ``GroupsSpec.source`` says: what ``policies.claims.person`` reads."""
    id_token: str | None = field(repr=False)
    """For ``id_token_hint``; a refresh may bring none (OpenID Connect Core section 12.2)."""
    access_token: str | None = field(repr=False)
    """Kept only where userinfo has to be asked again."""
    refresh_token: str | None = field(repr=False)
    """None: the provider gives none, or (of a refresh) the old one stays in use."""
    expires_at: float
    """Of the access token, or of the ID token where the provider says nothing of the former; Unix seconds."""
    fetched_at: float
    """When the claims were had, Unix seconds."""


class PackedJwt:
    """
    A JWT as a record keeps it; its text is made when somebody wants it: a session is opened often, and hardly ever does
    anybody ask for its ID token. Equal to its text.
    """

    __slots__ = ("parts",)

    def __init__(self, header: bytes, payload: bytes, signature: bytes) -> None:
        self.parts = (header, payload, signature)

    def __str__(self) -> str:
        texts = [b2a_base64(part, newline=False).rstrip(b"=") for part in self.parts]
        return b".".join(texts).translate(_TO_URL).decode("ascii")

    def __repr__(self) -> str:
        return "PackedJwt(...)"

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) if isinstance(other, PackedJwt | str) else NotImplemented

    def __hash__(self) -> int:
        return hash(str(self))


@dataclass(frozen=True, slots=True)
class Session:
    """One version of one session of one tenant. Instants are Unix seconds."""

    id: str
    """128 random bits, base64url; new at each login."""
    secret: bytes = field(repr=False)
    """32 random bytes, known only to who holds the cookie: seals what is kept of the session elsewhere."""
    version: int
    """Grows by one with each refresh; the first is 1."""
    tenant: str
    provider: str
    """Name of the provider in the tenant's policy."""
    issuer: str
    sub: str
    sid: str | None
    claims: Mapping[str, Any] = field(repr=False)
    created_at: float
    """Of the login: ``absolute_s`` counts from here, and a logout ends what was created before it."""
    seen_at: float
    """``idle_s`` counts from here; written anew only now and then."""
    fresh_until: float
    """From then on the claims have to be fetched again (access token expired, or groups too old)."""
    id_token: str | PackedJwt | None = field(repr=False)
    access_token: str | None = field(repr=False)
    refresh_token: str | None = field(repr=False)
    fetched_at: float = 0.0
    """When the claims were had: a refresh may begin before ``fresh_until``, counted from here."""


class SessionOver(Exception):
    """The session cannot be refreshed any more: grant invalid, subject changed, or ended meanwhile. It is over."""


class GrantInvalid(Exception):
    """The provider refuses the refresh token for good (``invalid_grant``, RFC 6749 section 5.2): the login is over."""
