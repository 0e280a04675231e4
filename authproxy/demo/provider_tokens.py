"""
The demo provider's signature: access tokens, ID tokens and logout tokens, each of its own type, by one key.

It decides what each kind says and refuses to know who may have one. The key is made at the provider's start: a token of
an earlier run fails on its signature.

Source: RFC 9068 section 2.2; OpenID Connect Core section 2; OpenID Connect Back-Channel Logout 1.0 section 2.4.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Final

from authlib.oidc.core.util import create_half_hash
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from authproxy.demo.people import Person
from authproxy.demo.provider_grants import Grant, ProviderSession

AUDIENCE: Final = "survey"
ALGORITHM: Final = "ES256"  # made in a millisecond, where an RSA key would take half a second of the demo's start
ACCESS_JWT: Final = "at+jwt"
ID_JWT: Final = "JWT"
LOGOUT_JWT: Final = "logout+jwt"
ID_TOKEN_S: Final = 300
"""Of an ID token: taken for proof of a login when it comes, and for nothing afterwards."""
LOGOUT_TOKEN_S: Final = 120
"""Recommended by Back-Channel Logout section 2.4: at most two minutes."""
LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"


class Signer:
    """All tokens of one provider. ``issuer`` is set once it is known, before the first token."""

    def __init__(self, client_id: str) -> None:
        self.issuer = ""
        self._client_id = client_id
        self._key = ECKey.generate_key("P-256", {"use": "sig", "alg": ALGORITHM}, private=True, auto_kid=True)

    def jwks(self) -> dict[str, Any]:
        return {"keys": [self._key.as_dict(private=False)]}

    def access_token(self, person: Person, ttl_s: int, session: ProviderSession | None = None) -> str:
        """For the demo's functions, in the name of one person."""
        claims = {"aud": AUDIENCE, "client_id": self._client_id, "jti": secrets.token_urlsafe(12), **person.claims()}
        if session is not None:
            claims |= {"sid": session.sid, "scope": "openid", "auth_time": int(session.logged_in_at)}
        return self._signed(ACCESS_JWT, claims, ttl_s)

    def id_token(self, grant: Grant, access_token: str) -> str:
        """Who logged in, for the client alone; the first one of a login repeats its nonce."""
        session = grant.session
        claims = {
            "aud": self._client_id,
            "auth_time": int(session.logged_in_at),
            "sid": session.sid,
            "at_hash": create_half_hash(access_token, ALGORITHM).decode(),
            **session.person.claims(),
        }
        if not grant.is_refreshed:
            claims["nonce"] = grant.request.nonce
        return self._signed(ID_JWT, claims, ID_TOKEN_S)

    def logout_token(self, session: ProviderSession) -> str:
        """Never holds a nonce, so that no client takes it for an ID token."""
        claims = {
            "aud": self._client_id,
            "jti": secrets.token_urlsafe(16),
            "sub": session.person.sub,
            "sid": session.sid,
            "events": {LOGOUT_EVENT: {}},
        }
        return self._signed(LOGOUT_JWT, claims, LOGOUT_TOKEN_S)

    def read(self, token: str, kind: str, audience: str, *, may_be_expired: bool = False) -> dict[str, Any] | None:
        """Claims of a token of ours that is of this kind, for this audience and alive; None for every other text."""
        try:
            read = jwt.decode(token, self._key, algorithms=[ALGORITHM])
        except (JoseError, ValueError, TypeError, KeyError, RecursionError):
            return None
        claims: dict[str, Any] = dict(read.claims)
        is_ours = (read.header.get("typ"), claims.get("iss"), claims.get("aud")) == (kind, self.issuer, audience)
        if not is_ours or not (may_be_expired or time.time() < claims["exp"]):
            return None
        return claims

    def _signed(self, kind: str, claims: dict[str, Any], ttl_s: int) -> str:
        now = int(time.time())
        every = {"iss": self.issuer, "iat": now, "exp": now + ttl_s, **claims}
        return str(jwt.encode({"alg": ALGORITHM, "kid": self._key.kid, "typ": kind}, every, self._key))
