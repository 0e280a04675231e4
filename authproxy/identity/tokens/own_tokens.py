"""
Tokens of Portero's own for one function of one tenant (RFC 8693), signed by the folder of keys.

A token is a copy, narrower and shorter, of an identity that was proven another way; ``own_claims`` says what a copy is
worth. This module decides who may have one, and whether a token that is shown was given out here and still stands:
signed by a key of the folder of now, for this tenant, of the one type. Issuer, session and time of the original are in
it, so that whoever checks logouts ends the copies with the original.

Never accepted in its place: an assertion or any other kind of token, though the keys are the same (AP-R15).

Source: RFC 8693 section 2.2, RFC 9068 section 2, RFC 8725 section 3.11; rules AP-R15, R18, R44, R45.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final, Protocol

import jwt

from authproxy.identity.providers.keys import KeySet, SigningKey
from authproxy.identity.tokens.keyring import SigningKeys
from authproxy.identity.tokens.own_claims import (
    DROPPED_FIRST,
    ISSUER,
    MAX_LIFETIME_S,
    audience_of,
    copied,
    issuer_of,
    not_before,
    original,
)
from policies.decision import Challenge, Deny, Reason, Refusal
from policies.errors import KeysUnavailable, PorteroError
from policies.principal import API_KEY_PROVIDER, Principal
from policies.tables import TenantTable
from policies.tenancy import is_function_name
from policies.tokens import UnverifiedHeader, inspect, refuse

__all__ = ["ISSUER", "MAX_TOKENS", "TYPE", "ExchangeRefused", "OwnTokens", "audience_of", "issuer_of"]

TYPE: Final = "at+jwt"
MAX_TOKEN_CHARS: Final = 7 * 1024
"""Below the 8 KiB of an Authorization field."""
MAX_TOKENS: Final = 4096
"""Tokens remembered, of all tenants together."""
RETRY_AFTER_S: Final = 2

_ALGORITHMS: Final = frozenset(("ES256", "EdDSA"))
_OTHER_ISSUER: Final = refuse("the token is of another tenant or issuer")
_OTHER_KIND: Final = refuse("the token is of another type than an access token")
_UNKNOWN_KEY: Final = refuse("the token is signed with a key that its issuer does not have")
_FORGED: Final = refuse("the token's signature does not verify")
_KEY_REVOKED: Final = refuse("the API key that the token was given out for is no longer good")

_jws: Final = jwt.PyJWS(algorithms=sorted(_ALGORITHMS))


class ExchangeRefused(PorteroError):
    """This caller gets no token for that function; the text and the refusal quote nothing."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.refusal = refuse(detail)


class LiveKeys(Protocol):
    """What is asked of ``ApiKeys``."""

    def is_live(self, tenant: TenantTable, name: str, key_id: str, now: float) -> bool | None: ...


class _Known:
    """A token judged before, and what it was judged by. Mutable in ``keys`` alone, which follows the set in use."""

    __slots__ = (
        "accounts",
        "api_keys",
        "expires_at",
        "key",
        "keys",
        "namespace",
        "not_before",
        "principal",
        "providers",
    )

    def __init__(
        self, principal: Principal, not_before: float, tenant: TenantTable, keys: KeySet, key: SigningKey
    ) -> None:
        self.principal = principal
        self.not_before = not_before
        self.expires_at = principal.expires_at or 0.0
        self.providers = tenant.providers
        self.accounts = tenant.service_accounts
        self.api_keys = tenant.api_keys
        self.namespace = tenant.namespace
        self.keys = keys
        self.key = key

    def is_of(self, tenant: TenantTable) -> bool:
        """
        Whether the policy still says what the token was judged by. By identity: equal lists of another generation are
        judged again, and the table as a whole is not kept, since that would keep an old generation alive.
        """
        return (
            self.providers is tenant.providers
            and self.accounts is tenant.service_accounts
            and self.api_keys is tenant.api_keys
            and self.namespace == tenant.namespace
        )

    def is_signed_in(self, keys: KeySet | None) -> bool:
        """Whether the key is still one of ours."""
        if keys is self.keys:
            return True
        if keys is None or self.key.thumbprint not in keys.thumbprints:
            return False
        self.keys = keys
        return True


class OwnTokens:
    """
    Gives out and judges. One a process; no I/O but the folder of keys.

    Args:
        keys: the process's ``KeyFolder``.
        api_keys: asked whether the API key that a token was given out for is still good; None: then tokens of API keys
            are not accepted.
    """

    def __init__(self, keys: SigningKeys, *, api_keys: LiveKeys | None = None) -> None:
        self._keys = keys
        self._api_keys = api_keys
        self._tokens: OrderedDict[tuple[str, bytes], _Known] = OrderedDict()

    def exchange(self, tenant: TenantTable, principal: Principal, function: str, now: float) -> tuple[str, float]:
        """
        A token for one function that stands for ``principal``, and for how many seconds it is good.

        Args:
            tenant: whose caller it is.
            principal: proven by a credential of its own; not by a cookie, whose end a token could not follow.
            function: its name in the tenant's namespace.
            now: Unix seconds.

        Raises:
            KeysUnavailable: there is no key to sign with.
            ExchangeRefused: a caller who is nobody, who brought a session or a token for one function already, or whose
                own time is up; or no name of a function.
        """
        if principal.is_anonymous:
            raise ExchangeRefused("without a credential there is nothing to exchange")
        if principal.is_by_cookie or principal.session_id is not None:
            raise ExchangeRefused("a session is not exchanged")
        if principal.only_function is not None:
            raise ExchangeRefused("a token for one function is not exchanged again")
        if not is_function_name(function):
            raise ExchangeRefused("that is not the name of a function")
        until = now + min(tenant.token_lifetime_s, MAX_LIFETIME_S)
        issued_at, expires_at = (
            int(now),
            int(until if principal.expires_at is None else min(until, principal.expires_at)),
        )
        if expires_at <= now:
            raise ExchangeRefused("the credential has expired")
        key = self._keys.signing_key()
        if key is None:
            raise KeysUnavailable("there is no key to sign tokens with")
        claims: dict[str, Any] = {
            **copied(principal),
            "iss": issuer_of(tenant.name),
            "aud": audience_of(tenant.namespace, function),
            "iat": issued_at,
            "exp": min(expires_at, issued_at + int(MAX_LIFETIME_S)),
            "jti": secrets.token_urlsafe(12),
        }
        token = key.sign(TYPE, claims)
        for member in DROPPED_FIRST:
            if len(token) > MAX_TOKEN_CHARS and claims.pop(member, None) is not None:
                token = key.sign(TYPE, claims)
        return token, claims["exp"] - now

    def known_now(self, tenant: TenantTable, digest: bytes, now: float) -> Principal | None:
        """
        Whom a token names that was judged before, if all that made it good still holds; costs a few probes.

        Args:
            tenant: of the request's host.
            digest: as handed to ``judge``: ``AccessRequest.credential_digest``.
            now: Unix seconds.
        """
        slot = (tenant.name, digest)
        known = self._tokens.get(slot)
        if known is None:
            return None
        principal = known.principal
        if (
            not known.not_before <= now < known.expires_at
            or not known.is_of(tenant)
            or not known.is_signed_in(self._keys.key_set())
            or (principal.provider == API_KEY_PROVIDER and not self._is_live(tenant, principal, now))
        ):
            del self._tokens[slot]
            return None
        self._tokens.move_to_end(slot)
        return principal

    def judge(self, tenant: TenantTable, token: str, now: float, digest: bytes | None = None) -> Principal | Refusal:
        """
        Whom a token names whose unverified issuer begins with ``ISSUER``. Never raises.

        Args:
            tenant: of the request's host.
            token: of the Authorization field, without its scheme.
            now: Unix seconds.
            digest: SHA-256 of the credential, under which the answer is remembered; by default of the token.

        Returns: the principal, with ``only_function`` and issuer, session and time of the original; 401 for a token
        that is not good here; 503 when the file of API keys has to be read first.
        """
        digest = digest or sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self.known_now(tenant, digest, now)
        if known is not None:
            return known
        found = self._verify(tenant, token)
        if isinstance(found, Challenge):
            return _in(tenant, found)
        claims, keys, key = found
        principal = original(tenant, claims, now)
        if isinstance(principal, Challenge):
            return _in(tenant, principal)
        if principal.provider == API_KEY_PROVIDER:
            live = self._is_live(tenant, principal, now)
            if live is None:
                detail = "API keys cannot be read at the moment"
                return Deny(Reason.KEYS_UNAVAILABLE, detail, retry_after_s=RETRY_AFTER_S, tenant=tenant.name)
            if not live:
                return _in(tenant, _KEY_REVOKED)
        self._tokens[(tenant.name, digest)] = _Known(principal, not_before(claims), tenant, keys, key)
        if len(self._tokens) > MAX_TOKENS:
            self._tokens.popitem(last=False)
        return principal

    def revoke_all(self) -> None:
        """Every token is judged anew, whatever was known of it."""
        self._tokens.clear()

    def _verify(self, tenant: TenantTable, token: str) -> tuple[dict[str, Any], KeySet, SigningKey] | Challenge:
        """The claims of a token that Portero signed for this tenant and as this type."""
        header = inspect(token)
        if isinstance(header, Challenge):
            return header
        if header.issuer != issuer_of(tenant.name):
            return _OTHER_ISSUER
        keys = self._keys.key_set()
        if keys is None or header.kid is None or header.alg not in _ALGORITHMS:
            return _UNKNOWN_KEY
        chosen = keys.choose(header.kid, header.alg)
        if not isinstance(chosen, tuple):
            return _UNKNOWN_KEY
        kind = _signed_type(token, chosen[0], header)
        if kind is None:
            return _FORGED
        # ``inspect`` takes ``JWT`` and no type at all as well: of ours there are none such.
        return (header.claims, keys, chosen[0]) if kind == TYPE else _OTHER_KIND

    def _is_live(self, tenant: TenantTable, principal: Principal, now: float) -> bool | None:
        if self._api_keys is None or principal.sid is None:
            return False
        return self._api_keys.is_live(tenant, principal.sub, principal.sid, now)


def _signed_type(token: str, key: SigningKey, header: UnverifiedHeader) -> object:
    """``typ`` of a token that ``key`` signed, over exactly the bytes that the claims were read from; else None."""
    try:
        whole = _jws.decode_complete(token, key.key, algorithms=[header.alg], options={"verify_signature": True})
    except (jwt.PyJWTError, ValueError, TypeError):  # cryptography's own for a signature of a wrong shape
        return None
    return whole["header"].get("typ", "") if whole["payload"] == header.payload else None


def _in(tenant: TenantTable, refusal: Challenge) -> Challenge:
    return replace(refusal, tenant=tenant.name)
