"""
Question 2, its last step: what are claims worth whose signature has been verified?

``judge_claims`` decides whether they name a caller of this tenant, and who it is. The order matters: issuer and
audience are judged before the tenant claim, so that a token that is not meant for us learns nothing about tenants, and
time before identity. It refuses to know keys, signatures and where the claims came from.

Source: RFC 7519 section 4.1, RFC 9068 section 4, OpenID Connect Core sections 5.1 and 5.7; rules AP-R4, R24, R25 and
T3 to T5.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Final, TypeGuard, assert_never

from policies.decision import Challenge, Deny, Reason
from policies.principal import SERVICE_ACCOUNT_PROVIDER, Principal
from policies.tables import ProviderSpec, ServiceAccountSpec

LEEWAY_S: Final = 30.0
"""How far an issuer's clock may run ahead of ours; not granted to ``exp``: a clock ahead only ends tokens early."""
MAX_ACCOUNT_LIFETIME_S: Final = 3600.0
"""Dispatch's own command made tokens of one hour."""
MAX_SUB_CHARS: Final = 255
"""OpenID Connect Core section 2."""
MAX_GROUPS: Final = 1000
MAX_GROUP_CHARS: Final = 256
MAX_EMAIL_CHARS: Final = 254
"""RFC 5321 section 4.5.3.1.3, less the brackets."""
MAX_AUDIENCES: Final = 100
MAX_NAME_CHARS: Final = 128
"""Of the name shown to its bearer."""

_INVALID: Final = "invalid_token"


def _refuse(detail: str) -> Challenge:
    return Challenge(Reason.CREDENTIAL_INVALID, _INVALID, detail)


_OTHER_ISSUER: Final = _refuse("the token is of another issuer")
_NO_EXPIRY: Final = _refuse("the token has no usable expiry time")
_EXPIRED: Final = _refuse("the token has expired")
_TOO_LONG_LIVED: Final = _refuse("the token is valid for longer than allowed here")
_FROM_THE_FUTURE: Final = _refuse("the token was issued in the future")
_NOT_YET: Final = _refuse("the token is not valid yet")
_BAD_TIMES: Final = _refuse("the token's times are not numbers")
_NO_AUDIENCE: Final = _refuse("the token names no audience")
_OTHER_AUDIENCE: Final = _refuse("the token is meant for another audience")
_NO_SUBJECT: Final = _refuse("the token names no usable subject")

_MAY_HEAL: Final = frozenset(refusal.detail for refusal in (_TOO_LONG_LIVED, _FROM_THE_FUTURE, _NOT_YET))


def may_heal(refusal: Challenge | Deny) -> bool:
    """Whether the same claims may be accepted later, by time alone; such a refusal must not be remembered."""
    return refusal.detail in _MAY_HEAL


def judge_claims(
    claims: dict[str, Any], provider: ProviderSpec | ServiceAccountSpec, tenant: str, now: float
) -> Principal | Challenge | Deny:
    """
    Decide who the claims name.

    Args:
        claims: of a token whose signature by a key of ``provider`` has been verified; strict JSON.
        provider: the tenant's own entry for the token's issuer.
        tenant: the tenant that the host named.
        now: Unix seconds.

    Returns: the caller; 401 for a token that is not good here; 403 ``tenant-mismatch`` for one that is good and for
    other tenants only. Never raises, whatever the claims hold.
    """
    match provider:
        case ServiceAccountSpec():
            issuer, longest_s = account_issuer(tenant, provider.name), MAX_ACCOUNT_LIFETIME_S
            may_lack_audience = provider.allows_missing_audience
        case ProviderSpec():
            issuer, longest_s, may_lack_audience = provider.issuer, provider.max_token_lifetime_s, False
        case _:
            assert_never(provider)
    if claims.get("iss") != issuer:
        return _OTHER_ISSUER
    refusal = _judge_times(claims, longest_s, now)
    if refusal is None and ("aud" in claims or not may_lack_audience):
        refusal = _judge_audience(claims.get("aud"), provider.audiences)
    if refusal is not None:
        return refusal
    if isinstance(provider, ServiceAccountSpec):
        return _account(claims, provider, issuer)
    return person(claims, provider, tenant, float(claims["exp"]))


def not_before(claims: dict[str, Any], provider: ProviderSpec | ServiceAccountSpec) -> float:
    """
    From when on ``judge_claims`` accepts these claims, Unix seconds; until when is ``exp``. Only for claims that it has
    accepted: what a cache compares with the clock instead of judging again.
    """
    longest_s = MAX_ACCOUNT_LIFETIME_S if isinstance(provider, ServiceAccountSpec) else provider.max_token_lifetime_s
    return float(max(claims["exp"] - longest_s, claims.get("iat", 0.0), claims.get("nbf", 0.0))) - LEEWAY_S


def account_issuer(tenant: str, name: str) -> str:
    """``iss`` of a service account's tokens, as Dispatch wrote it."""
    return f"{tenant}/{name}"


def _judge_times(claims: dict[str, Any], longest_s: float, now: float) -> Challenge | None:
    expires_at = claims.get("exp")
    if not _is_instant(expires_at):
        return _NO_EXPIRY
    if expires_at <= now:
        return _EXPIRED
    if expires_at > now + longest_s + LEEWAY_S:
        return _TOO_LONG_LIVED
    for name, refusal in (("iat", _FROM_THE_FUTURE), ("nbf", _NOT_YET)):
        if name in claims:
            instant = claims[name]
            if not _is_instant(instant):
                return _BAD_TIMES
            if instant > now + LEEWAY_S:
                return refusal
    return None


def _is_instant(value: Any) -> TypeGuard[float]:
    """A NumericDate (RFC 7519 section 2); a bool is an int to Python and a string is a number to many libraries."""
    return type(value) is int or (type(value) is float and isfinite(value))


def _judge_audience(audience: Any, wanted: frozenset[str]) -> Challenge | None:
    """Any match of ``aud``. ``azp`` never stands in for it: it says who asked for the token, not whom it is for."""
    if isinstance(audience, str):
        audience = [audience]
    if not isinstance(audience, list) or not 0 < len(audience) <= MAX_AUDIENCES:
        return _NO_AUDIENCE
    if not all(isinstance(item, str) for item in audience):
        return _NO_AUDIENCE
    return None if any(item in wanted for item in audience) else _OTHER_AUDIENCE


def _account(claims: dict[str, Any], account: ServiceAccountSpec, issuer: str) -> Principal | Challenge:
    """The key is the identity: ``sub`` may only repeat it. Groups are the policy's, never the token's."""
    names_itself = claims.get("sub") in (account.name, issuer)
    if not names_itself and ("sub" in claims or not account.allows_missing_audience):
        return _NO_SUBJECT  # Dispatch's tokens had neither aud nor sub; ours have both
    return Principal(
        SERVICE_ACCOUNT_PROVIDER,
        account.name,
        groups=account.groups,
        claims=claims,
        expires_at=float(claims["exp"]),
    )


def person(
    claims: dict[str, Any], provider: ProviderSpec, tenant: str, expires_at: float
) -> Principal | Challenge | Deny:
    """
    Whom claims name that are known to be the provider's and meant for us; 403 when for other tenants only.

    Args:
        claims: of an access token, or what a login came to (ID token and userinfo).
        expires_at: until when they may be used, Unix seconds.
    """
    sub = claims.get("sub")
    if not isinstance(sub, str) or not 0 < len(sub) <= MAX_SUB_CHARS or not sub.isprintable():
        return _NO_SUBJECT
    if provider.tenant_claim is not None:
        tenants = tenants_of(claims, provider.tenant_claim)
        if tenant not in tenants:
            return Deny(Reason.TENANT_MISMATCH, detail="the token is not for this tenant", tenant=tenant)
    groups = groups_of(claims, provider, tenant)
    principal = Principal(
        provider.name,
        sub,
        groups=groups or frozenset(),
        has_unknown_groups=groups is None,
        email=_email(claims, provider),
        claims=claims,
        expires_at=expires_at,
    )
    principal.issuer = provider.issuer
    sid, name, issued_at = claims.get("sid"), _at(claims, provider.name_claim), claims.get("iat")
    principal.sid = sid if isinstance(sid, str) else None
    principal.name = name[:MAX_NAME_CHARS] if isinstance(name, str) and name.isprintable() else None
    principal.issued_at = float(issued_at) if _is_instant(issued_at) else 0.0
    return principal


def tenants_of(claims: dict[str, Any], tenant_claim: str) -> frozenset[str]:
    """
    The tenants a token is for: the keys of a map (Keycloak's organizations with attributes), the items of a list, or
    one string. A string is one name, never split: ``a|b`` and ``a b`` are names that no tenant has. Anything else, and
    a list that holds anything else, names no tenant.
    """
    value = _at(claims, tenant_claim)
    if isinstance(value, str):
        return frozenset((value,))
    if isinstance(value, dict):
        return frozenset(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return frozenset(value)
    return frozenset()


def groups_of(claims: dict[str, Any], provider: ProviderSpec, tenant: str) -> frozenset[str] | None:
    """
    The caller's groups *in this tenant* (T5); None when the token speaks of groups and they cannot be had: then no role
    comes from a group, and a condition on groups cannot be known, so that a deny rule on them holds (P4).

    A path that leads through the tenant claim (``organization.groups``, or ``organization.acme.groups``) is read in
    this tenant's entry only, whatever entry it names. Groups that stand elsewhere count only when the token is for this
    tenant alone: in a token for several, nobody can tell in which of them a group was given.
    """
    path = provider.groups_claim
    if path is None:
        return frozenset()
    if provider.tenant_claim is not None:
        inside = provider.tenant_claim + "."
        if path.startswith(inside) and path not in claims:
            entries = _at(claims, provider.tenant_claim)
            entry = entries.get(tenant) if isinstance(entries, dict) else None
            rest = path.removeprefix(inside).removeprefix(tenant + ".")
            return _as_groups(_at(entry, rest) if isinstance(entry, dict) else None)
        if len(tenants_of(claims, provider.tenant_claim)) > 1:
            return frozenset() if _at(claims, path) is None else None
    value = _at(claims, path)
    elsewhere = claims.get("_claim_names")
    if value is None and isinstance(elsewhere, dict) and (path in elsewhere or path.partition(".")[0] in elsewhere):
        return None
    return _as_groups(value)


def _as_groups(value: Any) -> frozenset[str] | None:
    """
    A list of strings or one string; None when it is there and neither. One item of another kind spoils the whole: half
    a list may lack the group that a deny rule waits for.
    """
    if value is None:
        return frozenset()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or len(value) > MAX_GROUPS:
        return None
    if all(isinstance(item, str) and 0 < len(item) <= MAX_GROUP_CHARS and item.isprintable() for item in value):
        return frozenset(value)
    return None


def _email(claims: dict[str, Any], provider: ProviderSpec) -> str | None:
    """
    Lower case, ASCII only: other letters fold onto ASCII ones, and so one person onto another (R4, nOAuth).

    A claim is verified by its own flag: ``email_verified`` speaks of ``email`` and of no ``preferred_username``, which
    people choose for themselves (OpenID Connect Core section 5.1).
    """
    if not provider.email_domains or _at(claims, provider.email_claim + "_verified") is not True:
        return None
    email = _at(claims, provider.email_claim)
    if not isinstance(email, str) or len(email) > MAX_EMAIL_CHARS or not email.isascii() or not email.isprintable():
        return None
    local, at, domain = email.lower().partition("@")
    if not at or not local or " " in email or "@" in domain or domain not in provider.email_domains:
        return None
    return f"{local}@{domain}"


def _at(claims: dict[str, Any], path: str) -> Any:
    """
    The value under a dotted path, None when there is none. A member of exactly that name comes first: namespaced claims
    (``https://app.example/groups``) have dots in their names.
    """
    if path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    return value


__all__ = [
    "LEEWAY_S",
    "MAX_ACCOUNT_LIFETIME_S",
    "account_issuer",
    "groups_of",
    "judge_claims",
    "may_heal",
    "not_before",
    "person",
    "tenants_of",
]
