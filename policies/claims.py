"""
Question 2, its last step: what are claims worth whose signature has been verified?

``judge_claims`` decides whether they name a caller of this tenant, and who it is. The order matters: issuer and
audience are judged before the tenant claim, so that a token that is not meant for us learns nothing about tenants, and
time before identity. It refuses to know keys, signatures and where the claims came from.

Source: RFC 7519 section 4.1, RFC 7800 section 3, RFC 9068 section 4, OpenID Connect Core sections 5.1, 5.6.2 and 5.7;
rules AP-R4, R15, R24, R25 and T3 to T5.

Longer than other modules: what one token is worth is read from top to bottom.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any, Final, TypeGuard, assert_never

from policies.decision import Challenge, Deny, Reason
from policies.groups import normalise
from policies.principal import SERVICE_ACCOUNT_PROVIDER, Confirmation, Principal
from policies.tables import GroupsSpec, ProviderSpec, ServiceAccountSpec

LEEWAY_S: Final = 30.0
"""How far an issuer's clock may run ahead of ours; not granted to ``exp``: a clock ahead only ends tokens early."""
MAX_ACCOUNT_LIFETIME_S: Final = 3600.0
"""Dispatch's own command made tokens of one hour."""
MAX_SUB_CHARS: Final = 255
"""OpenID Connect Core section 2."""
MAX_GROUPS: Final = 1000
"""``groups.py`` bounds each of them."""
MAX_EMAIL_CHARS: Final = 254
"""RFC 5321 section 4.5.3.1.3, less the brackets."""
MAX_AUDIENCES: Final = 100
MAX_NAME_CHARS: Final = 128
"""Of the name shown to its bearer."""

KINDS: Final[dict[str, frozenset[str]]] = {
    "token_use": frozenset(("access", "access_token")),
    "typ": frozenset(("jwt", "at+jwt", "application/at+jwt", "bearer", "dpop", "access_token")),
}
"""Claims by which providers tell their tokens apart, and what an access token may be called there, lower case: Ory and
Amazon; Keycloak."""

_INVALID: Final = "invalid_token"
_CONFIRMED_BY: Final[dict[str, str]] = {"jkt": "jkt", "x5t#S256": "x5t"}
"""Member of ``cnf`` -> of ``Confirmation``. Others (``jwk``, ``kid``, ``jku`` ...) are constraints we cannot check."""
_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", re.ASCII)
"""32 bytes in base64url without padding and with zero spare bits: one spelling."""


def _refuse(detail: str) -> Challenge:
    return Challenge(Reason.CREDENTIAL_INVALID, _INVALID, detail)


_OTHER_ISSUER: Final = _refuse("the token is of another issuer")
OTHER_KIND: Final = _refuse("the token is of another type than an access token")
_NO_EXPIRY: Final = _refuse("the token has no usable expiry time")
_EXPIRED: Final = _refuse("the token has expired")
_TOO_LONG_LIVED: Final = _refuse("the token is valid for longer than allowed here")
_FROM_THE_FUTURE: Final = _refuse("the token was issued in the future")
_NOT_YET: Final = _refuse("the token is not valid yet")
_BAD_TIMES: Final = _refuse("the token's times are not numbers")
_NO_AUDIENCE: Final = _refuse("the token names no audience")
_OTHER_AUDIENCE: Final = _refuse("the token is meant for another audience")
_NO_SUBJECT: Final = _refuse("the token names no usable subject")
_OTHER_BOND: Final = _refuse("the token is bound to something that cannot be checked here")
_NOT_BOUND: Final = _refuse("the token is not bound to a key or certificate, as its provider's have to be")

_MAY_HEAL: Final = frozenset(refusal.detail for refusal in (_TOO_LONG_LIVED, _FROM_THE_FUTURE, _NOT_YET))


def may_heal(refusal: Challenge | Deny) -> bool:
    """Whether the same claims may be accepted later, by time alone; such a refusal must not be remembered."""
    return refusal.detail in _MAY_HEAL


def judge_claims(
    claims: dict[str, Any], provider: ProviderSpec | ServiceAccountSpec, tenant: str, now: float
) -> Principal | Challenge | Deny:
    """
    Decide who the claims of a bearer token name. What the token is bound to stands in ``Principal.confirmation``, and
    whoever shows it has to prove that yet.

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
    if isinstance(provider, ProviderSpec) and is_of_other_kind(claims, KINDS):
        return OTHER_KIND
    refusal = _judge_times(claims, longest_s, now)
    if refusal is None and ("aud" in claims or not may_lack_audience):
        refusal = _judge_audience(claims.get("aud"), provider.audiences)
    if refusal is not None:
        return refusal
    if isinstance(provider, ServiceAccountSpec):
        return bound(_account(claims, provider, issuer), claims, is_required=False)
    caller = person(claims, provider, tenant, float(claims["exp"]))
    return bound(caller, claims, is_required=provider.requires_bound_tokens)


def bound(
    caller: Principal | Challenge | Deny, claims: Mapping[str, Any], *, is_required: bool
) -> Principal | Challenge | Deny:
    """
    ``caller`` with what its token is bound to; the refusal when the bond cannot be checked, or is needed and missing.

    A bond that is not understood is never ignored: the token may have been taken from who could have proved it.

    Args:
        caller: whom the token names; a refusal stays as it is.
        claims: of the access token, or what introspection said of it.
        is_required: ``requires_bound_tokens`` of the provider.

    Source: RFC 7800 section 3.1; RFC 9449 section 6.1; RFC 8705 section 3.1.
    """
    if not isinstance(caller, Principal):
        return caller
    if "cnf" not in claims:
        return _NOT_BOUND if is_required else caller
    members = claims["cnf"]
    if not isinstance(members, dict) or not members or not _CONFIRMED_BY.keys() >= members.keys():
        return _OTHER_BOND
    if not all(isinstance(value, str) and _THUMBPRINT.fullmatch(value) for value in members.values()):
        return _OTHER_BOND
    caller.confirmation = Confirmation(**{_CONFIRMED_BY[name]: value for name, value in members.items()})
    return caller


def is_of_other_kind(claims: Mapping[str, Any], kinds: Mapping[str, frozenset[str]]) -> bool:
    """
    Whether a provider says of its token that it is none for us: a header's ``typ`` is often the same for all of them,
    and where the audience is the client's own an ID token would pass (AP-R15). ``events`` make it one that tells of
    something, such as a logout token (RFC 8417 section 2.2).
    """
    for name, names in kinds.items():
        kind = claims.get(name)
        if kind is not None and not (isinstance(kind, str) and kind.lower() in names):
            return True
    return "events" in claims


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


def _account(claims: Mapping[str, Any], account: ServiceAccountSpec, issuer: str) -> Principal | Challenge:
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
    claims: Mapping[str, Any], provider: ProviderSpec, tenant: str, expires_at: float
) -> Principal | Challenge | Deny:
    """
    Whom claims name that are known to be the provider's and meant for us; 403 when for other tenants only.

    Args:
        claims: of an access token, or what a login came to (ID token and userinfo).
        provider: the tenant's own entry for the claims' issuer.
        tenant: the tenant that the host named.
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


def tenants_of(claims: Mapping[str, Any], tenant_claim: str) -> frozenset[str]:
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


def groups_of(claims: Mapping[str, Any], provider: ProviderSpec, tenant: str) -> frozenset[str] | None:
    """
    The caller's groups *in this tenant* (T5), by the names that bindings use; None when the token speaks of groups and
    they cannot be had: then no role comes from a group, and a condition on groups cannot be known, so that a deny rule
    on them holds (P4).

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
            value = _at(entry, rest) if isinstance(entry, dict) else None
            return None if value is None and _is_elsewhere(claims, path) else _as_groups(value, provider.groups)
        if len(tenants_of(claims, provider.tenant_claim)) > 1:
            return frozenset() if _at(claims, path) is None and not _is_elsewhere(claims, path) else None
    value = _at(claims, path)
    return None if value is None and _is_elsewhere(claims, path) else _as_groups(value, provider.groups)


def has_overage(claims: Mapping[str, Any], provider: ProviderSpec) -> bool:
    """
    Whether the token says that the caller's groups stand elsewhere, because they were too many for it: userinfo has to
    be asked. Until then the groups are unknown, and so they stay when userinfo does not name them either.

    Source: OpenID Connect Core section 5.6.2 (``_claim_names``); ``hasgroups`` of Microsoft's implicit flow.
    """
    path = provider.groups_claim
    return path is not None and _at(claims, path) is None and _is_elsewhere(claims, path)


def with_userinfo(claims: Mapping[str, Any], userinfo: Mapping[str, Any], provider: ProviderSpec) -> dict[str, Any]:
    """
    Claims of a token and of userinfo as one: the token's word stands, but groups are userinfo's, and its alone, where
    they come from there (``groups.from: userinfo``, or overage); elsewhere userinfo's groups are left out.

    Where the provider says of each tenant which groups somebody has in it, only the token's own tenants are looked up
    in userinfo: a token never becomes good for a tenant that it was not issued for. An e-mail address and the flag that
    says it is verified are taken from one of the two, never one from each.

    Args:
        claims: of a token, verified.
        userinfo: of the same ``sub``, which the caller has seen to.
        provider: the tenant's own entry for the claims' issuer.
    """
    address = {provider.email_claim, provider.email_claim + "_verified"}
    taken = set() if claims.keys().isdisjoint(address) else address
    merged = {**{name: value for name, value in userinfo.items() if name not in taken}, **claims}
    path, claim = provider.groups_claim, provider.tenant_claim
    if path is None:
        return merged
    is_theirs = provider.groups.source == "userinfo" or has_overage(claims, provider)
    is_flat = path in userinfo or path in claims
    if not is_flat and claim is not None and path.startswith(claim + "."):
        entries = _at(userinfo, claim)
        if is_theirs and claim in claims:
            known = entries if isinstance(entries, dict) else {}
            merged[claim] = {name: known.get(name, {}) for name in sorted(tenants_of(claims, claim))}
        return merged
    name = path if is_flat else path.partition(".")[0]
    source = userinfo if is_theirs else claims
    if name in source:
        merged[name] = source[name]
    else:
        merged.pop(name, None)
    return merged


def _is_elsewhere(claims: Mapping[str, Any], path: str) -> bool:
    elsewhere = claims.get("_claim_names")
    if isinstance(elsewhere, dict) and (path in elsewhere or path.partition(".")[0] in elsewhere):
        return True
    return claims.get("hasgroups", False) is not False


def _as_groups(value: Any, spec: GroupsSpec) -> frozenset[str] | None:
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
    found = set()
    for item in value:
        group = normalise(item, spec.form) if isinstance(item, str) else None
        if group is None:
            return None
        if group in spec.names:
            found.add(spec.names[group])
        elif not spec.drops_unnamed:
            found.add(group)
    return frozenset(found)


def _email(claims: Mapping[str, Any], provider: ProviderSpec) -> str | None:
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


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """
    The value under a dotted path, None when there is none. A member of exactly that name comes first: namespaced claims
    (``https://app.example/groups``) have dots in their names.
    """
    if path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value


__all__ = [
    "KINDS",
    "LEEWAY_S",
    "MAX_ACCOUNT_LIFETIME_S",
    "OTHER_KIND",
    "account_issuer",
    "bound",
    "groups_of",
    "has_overage",
    "is_of_other_kind",
    "judge_claims",
    "may_heal",
    "not_before",
    "person",
    "tenants_of",
    "with_userinfo",
]
