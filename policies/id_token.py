"""
What an ID token and a logout token are worth whose signature has been verified.

Each kind of token has its own judge, so that one is never taken for the other: an access token logs nobody in, an ID
token logs nobody out. Both share with access tokens what every token has (issuer, audience, times), which
``claims.judge_claims`` judges on the terms of the tenant's client at the provider. ``inspect_kind`` looks at what is
not yet believed, as ``tokens.inspect`` does, and only ever refuses. This module refuses to know keys, nonces' origin
and clocks.

Source: OpenID Connect Core sections 2, 3.1.3.6, 3.1.3.7 and 12.2; OpenID Connect Back-Channel Logout 1.0 sections 2.4
and 2.6; RFC 8725 sections 3.11 and 3.12; rules AP-R15, R24 and R25.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256, sha384, sha512
from hmac import compare_digest
from typing import Any, Final, NamedTuple

from policies.claims import LEEWAY_S, judge_claims
from policies.decision import Challenge, Deny, Reason
from policies.principal import Principal
from policies.strict_json import NotStrict, read_object
from policies.tables import ProviderSpec
from policies.tokens import MAX_HEADER_BYTES, UnverifiedHeader, decode_segment, inspect, refuse

ID_TOKEN_TYPES: Final = frozenset(("jwt",))
"""Lower case; absent is allowed too."""
LOGOUT_TOKEN_TYPES: Final = frozenset(("logout+jwt", "application/logout+jwt", "jwt"))
"""The specification recommends the first; where a provider does not follow, ``events`` tells the kinds apart."""
MAX_AGE_S: Final = 600.0
"""Both kinds are made when they are sent: an older one was kept by somebody. mod_auth_openidc's default is as long."""
MAX_ID_CHARS: Final = 255
"""Of ``sid`` and ``jti``, as of ``sub``."""
LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"

_SHARED: Final = ("iss", "aud", "exp", "iat", "nbf", "sub")
_OF_THE_ANSWER: Final = frozenset(("nonce", "at_hash", "c_hash", "s_hash"))
"""They say something of the answer that the token came with, and nothing of a person."""
_HASHES: Final = {"256": sha256, "384": sha384, "512": sha512, "DSA": sha512}
"""By the end of ``alg``; EdDSA with Ed25519 uses SHA-512."""
_BAD_TYPE: Final = refuse("the token is of another type than asked for")
_BAD_HEADER: Final = refuse("the token's header is not acceptable")


class LogoutNotice(NamedTuple):
    """What a provider says by a logout token: these sessions are over. At least one of ``sub`` and ``sid`` is there."""

    provider: str
    """Name in the tenant's policy."""
    issuer: str
    sub: str | None
    """All sessions of this person, when ``sid`` is None."""
    sid: str | None
    jti: str
    expires_at: float
    """Until then the same token would be accepted again, Unix seconds: how long ``jti`` has to be remembered."""


def inspect_kind(token: str, kinds: frozenset[str]) -> UnverifiedHeader | Challenge:
    """
    Everything that disqualifies a token of another kind than an access token before any key is touched.

    Args:
        token: in compact form, of any origin.
        kinds: what ``typ`` may be, lower case; it may be absent too.
    """
    first, dot, rest = token.partition(".")
    if len(first) > 2 * MAX_HEADER_BYTES or (data := decode_segment(first)) is None:
        return _BAD_HEADER
    try:
        header = read_object(data, MAX_HEADER_BYTES)
    except NotStrict:
        return _BAD_HEADER
    if "typ" in header:
        kind = header.pop("typ")
        if not isinstance(kind, str) or kind.lower() not in kinds:
            return _BAD_TYPE
    # The type has been judged; everything else is judged where access tokens are, in one place.
    bare = urlsafe_b64encode(json.dumps(header).encode("utf-8")).rstrip(b"=").decode("ascii")
    return inspect(bare + dot + rest)


def judge_id_token(
    claims: Mapping[str, Any],
    provider: ProviderSpec,
    tenant: str,
    now: float,
    *,
    client_id: str,
    algorithm: str,
    access_token: str,
    nonce: str | None = None,
    sub: str | None = None,
) -> Deny | None:
    """
    None when the ID token says who has logged in at this provider, for this client; else why not.

    Args:
        claims: of a token whose signature by a key of ``provider`` has been verified.
        provider: the tenant's own entry for the token's issuer.
        tenant: whose login it is.
        now: Unix seconds.
        client_id: the tenant's at the provider.
        algorithm: the token's, which ``at_hash`` goes by.
        access_token: that came in the same answer.
        nonce: of the login; None for a refresh, whose token need not have one.
        sub: of the session that is refreshed; None for a login.
    """
    detail = _shared(claims, provider, tenant, now, client_id)
    if detail is not None:
        return _deny(detail, tenant)
    if not _is_recent(claims, now):
        return _deny("the ID token was not issued just now", tenant)
    if not _is_ours(claims, client_id):
        return _deny("the ID token was issued to another client", tenant)
    if nonce is not None and not _is_equal(claims.get("nonce"), nonce):
        return _deny("the ID token is not of this login", tenant)
    if "at_hash" in claims and not _is_equal(claims["at_hash"], half_hash(access_token, algorithm)):
        return _deny("the ID token came with another access token", tenant)
    if sub is not None and not _is_equal(claims.get("sub"), sub):
        return _deny("the ID token names another person", tenant)
    return None


def judge_logout_token(
    claims: Mapping[str, Any], provider: ProviderSpec, tenant: str, now: float, *, client_id: str
) -> LogoutNotice | Deny:
    """
    Whose sessions a logout token ends.

    ``iat`` and ``jti`` are required. ``exp`` is judged when it is there: the final specification has it, older
    providers do not, and ``MAX_AGE_S`` bounds the token more closely than any of them.

    Args:
        claims: of a token whose signature by a key of ``provider`` has been verified.
        provider: the tenant's own entry for the token's issuer.
        tenant: whose sessions they are.
        now: Unix seconds.
        client_id: the tenant's at the provider.
    """
    if not _is_recent(claims, now):
        return _deny("the logout token was not issued just now", tenant)
    dies_at = claims["iat"] + MAX_AGE_S
    identifiers = {name: claims[name] for name in ("sub", "sid") if name in claims}
    if not identifiers or not all(map(_is_id, identifiers.values())):
        return _deny("the logout token names neither person nor session", tenant)
    stand_ins = {"exp": dies_at, "sub": "-"}  # what only other tokens must have
    detail = _shared({**stand_ins, **claims}, provider, tenant, now, client_id)
    if detail is not None:
        return _deny(detail, tenant)
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
        return _deny("the token tells of no logout", tenant)
    if "nonce" in claims:
        return _deny("a logout token has no nonce: this is another kind of token", tenant)
    jti = claims.get("jti")
    if not isinstance(jti, str) or not _is_id(jti):
        return _deny("the logout token has no identifier", tenant)
    expires_at = min(float(claims.get("exp", dies_at)), dies_at) + LEEWAY_S
    return LogoutNotice(provider.name, provider.issuer, identifiers.get("sub"), identifiers.get("sid"), jti, expires_at)


def claims_to_keep(claims: Mapping[str, Any]) -> dict[str, Any]:
    """An ID token's claims without those that speak of the answer it came with."""
    return {name: value for name, value in claims.items() if name not in _OF_THE_ANSWER}


def half_hash(access_token: str, algorithm: str) -> str | None:
    """
    ``at_hash`` of an access token; None for an algorithm whose hash is not known, which then equals nothing.

    Source: OpenID Connect Core section 3.1.3.6.
    """
    digest = _HASHES.get(algorithm[-3:])
    if digest is None:
        return None
    value = digest(access_token.encode("ascii", "replace")).digest()
    return urlsafe_b64encode(value[: len(value) // 2]).rstrip(b"=").decode("ascii")


def _shared(claims: Mapping[str, Any], provider: ProviderSpec, tenant: str, now: float, client_id: str) -> str | None:
    """What every token has, judged as an access token's, but for the client instead of for the functions."""
    terms = replace(
        provider,
        audiences=frozenset((client_id,)),
        tenant_claim=None,
        groups_claim=None,
        requires_bound_tokens=False,
    )
    judged = judge_claims({name: claims[name] for name in _SHARED if name in claims}, terms, tenant, now)
    return None if isinstance(judged, Principal) else judged.detail


def _is_recent(claims: Mapping[str, Any], now: float) -> bool:
    """``iat`` is there and is neither old nor ahead; a bool and a string are no numbers."""
    issued_at: Any = claims.get("iat")
    return type(issued_at) in (int, float) and bool(now - MAX_AGE_S <= issued_at <= now + LEEWAY_S)


def _is_ours(claims: Mapping[str, Any], client_id: str) -> bool:
    """``azp`` never replaces ``aud`` and must agree with it; several audiences need it. Core section 3.1.3.7, 3-5."""
    audience = claims.get("aud")
    if isinstance(audience, list) and len(audience) > 1 and "azp" not in claims:
        return False
    return _is_equal(claims["azp"], client_id) if "azp" in claims else True


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS and value.isprintable()


def _is_equal(value: object, expected: str | None) -> bool:
    if not isinstance(value, str) or expected is None:
        return False
    return compare_digest(value.encode("utf-8"), expected.encode("utf-8"))


def _deny(detail: str, tenant: str) -> Deny:
    return Deny(Reason.LOGIN_FAILED, detail=detail, tenant=tenant)
