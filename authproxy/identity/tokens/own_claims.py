"""
What a token of Portero's own says of the original it stands for, and whom it names by the policy of now.

It decides what is copied into a token and what a copy is worth: provider, account or API key must still be the
policy's; groups that are the policy's are read anew. Values in, values out: it refuses to know keys, signatures and
files, and what it is handed has been verified.

A copy never widens. Conditions look at the original's claims, which are carried; where they were too many to be
carried, every condition on them cannot be known, and so it is with groups. A binding to a key or certificate
(``cnf``) is carried as well.

Source: RFC 8693 section 2.2, RFC 9068 section 2.2, RFC 7800 section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from policies.claims import LEEWAY_S, tenants_of
from policies.decision import Challenge
from policies.principal import API_KEY_PROVIDER, SERVICE_ACCOUNT_PROVIDER, Confirmation, Principal
from policies.tables import TenantTable
from policies.tenancy import is_function_name
from policies.tokens import refuse

ISSUER: Final = "urn:portero:"
MAX_LIFETIME_S: Final = 3600.0
_NOT_COPIED: Final = frozenset({"_claim_sources"})
"""It may hold an access token (OpenID Connect Core section 5.6.2), and whoever is handed the copy can read it."""
DROPPED_FIRST: Final = ("claims", "groups")
"""Members that a token which grows too long does without, in this order."""

_OTHER_AUDIENCE: Final = refuse("the token is not for one function of this tenant")
_BAD_TIMES: Final = refuse("the token has no usable times")
_EXPIRED: Final = refuse("the token has expired")
_NOT_YET: Final = refuse("the token is not valid yet")
_BAD_CLAIMS: Final = refuse("the token's claims are not complete")
_NO_LONGER: Final = refuse("who vouched for the token's subject does so no longer")


def issuer_of(tenant: str) -> str:
    """``iss`` of what Portero signs for one tenant: ``urn:portero:<tenant>``."""
    return ISSUER + tenant


def audience_of(namespace: str, function: str) -> str:
    """``aud`` of what Portero signs for one function: ``function:<namespace>/<function>``."""
    return f"function:{namespace}/{function}"


class UnknownClaims(Mapping[str, Any]):
    """Claims that there are and that are not at hand: a condition that looks at them cannot be known."""

    def __getitem__(self, key: str) -> Any:
        raise LookupError("the claims of an exchanged token are not known")

    def __contains__(self, key: object) -> bool:
        raise LookupError("the claims of an exchanged token are not known")

    def __iter__(self) -> Iterator[str]:
        raise LookupError("the claims of an exchanged token are not known")

    def __len__(self) -> int:
        return 1

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ARG002 (Mapping's signature)
        """For who shows a claim or does without it; conditions do not read so."""
        return default


class _Vouched(NamedTuple):
    """What the policy says now of who vouched for the original."""

    groups: frozenset[str] | None
    """None: the token's own."""
    issuer: str | None = None
    expires_at: float | None = None
    tenant_claim: str | None = None
    email_domains: frozenset[str] = frozenset()
    requires_bound_tokens: bool = False


def copied(principal: Principal) -> dict[str, Any]:
    """The members that stand for ``principal``. What is not said cannot be known later, and never counts as absent."""
    said = (
        ("orig_iss", principal.issuer),
        ("orig_sid", principal.sid),
        ("email", principal.email),
        ("name", principal.name),
    )
    members: dict[str, Any] = {name: value for name, value in said if value is not None}
    members["sub"] = principal.subject
    members["orig_iat"] = principal.issued_at
    if not principal.has_unknown_groups:
        members["groups"] = sorted(principal.groups)
    if not isinstance(principal.claims, UnknownClaims):
        members["claims"] = {name: value for name, value in principal.claims.items() if name not in _NOT_COPIED}
    if principal.confirmation is not None:
        bound = (("jkt", principal.confirmation.jkt), ("x5t#S256", principal.confirmation.x5t))
        members["cnf"] = {name: value for name, value in bound if value is not None}
    return members


def original(tenant: TenantTable, claims: dict[str, Any], now: float) -> Principal | Challenge:
    """
    Whom a token of ours for a function of ``tenant`` names; whether an API key is still in its file is not known here.

    Args:
        tenant: the one that the token's ``iss`` names.
        claims: verified; strict JSON.
        now: Unix seconds.
    """
    function = _function_of(claims.get("aud"), tenant)
    if function is None:
        return _OTHER_AUDIENCE
    refusal = _judge_times(claims, now)
    if refusal is not None:
        return refusal
    subject, iat, iss, sid = (claims.get(name) for name in ("sub", "orig_iat", "orig_iss", "orig_sid"))
    provider, bar, sub = subject.partition("|") if isinstance(subject, str) else ("", "", "")
    if not bar or not sub or not isinstance(iat, int | float) or not _is_text(iss) or not _is_text(sid):
        return _BAD_CLAIMS
    vouched = _vouched(tenant, provider, sub)
    if vouched is None or vouched.issuer != iss or (vouched.requires_bound_tokens and "cnf" not in claims):
        return _NO_LONGER
    own = claims.get("claims")
    own = own if isinstance(own, dict) else None
    if (
        vouched.tenant_claim is not None
        and own is not None
        and tenant.name not in tenants_of(own, vouched.tenant_claim)
    ):
        return _NO_LONGER
    expires_at = float(claims["exp"])
    groups = _groups(claims) if vouched.groups is None else vouched.groups
    principal = Principal(
        provider,
        sub,
        groups=groups or frozenset(),
        has_unknown_groups=groups is None,
        email=_email(claims, vouched),
        claims=UnknownClaims() if own is None else own,
        expires_at=expires_at if vouched.expires_at is None else min(expires_at, vouched.expires_at),
    )
    name = claims.get("name")
    principal.name = name if isinstance(name, str) else None
    principal.issuer, principal.sid, principal.issued_at = iss, sid, float(iat)
    principal.only_function = function
    if "cnf" in claims:
        principal.confirmation = _confirmation(claims["cnf"])
        if principal.confirmation is None:
            return _BAD_CLAIMS
    return principal if principal.expires_at is not None and now < principal.expires_at else _EXPIRED


def not_before(claims: dict[str, Any]) -> float:
    """From when on ``original`` accepts these claims, Unix seconds; only for claims that it has accepted."""
    return float(claims["iat"]) - LEEWAY_S


def _function_of(audience: object, tenant: TenantTable) -> str | None:
    """The function that ``aud`` names, when it is one text and one function of the tenant's own namespace."""
    start = audience_of(tenant.namespace, "")
    if not isinstance(audience, str) or not audience.startswith(start):
        return None
    name = audience.removeprefix(start)
    return name if is_function_name(name) else None


def _judge_times(claims: dict[str, Any], now: float) -> Challenge | None:
    iat, exp = claims.get("iat"), claims.get("exp")
    if type(iat) is not int or type(exp) is not int or exp - iat > MAX_LIFETIME_S:
        return _BAD_TIMES
    if exp <= now:
        return _EXPIRED
    return _NOT_YET if iat > now + LEEWAY_S else None


def _vouched(tenant: TenantTable, provider: str, sub: str) -> _Vouched | None:
    """None: the policy knows nobody any more who vouches for the original."""
    if provider == SERVICE_ACCOUNT_PROVIDER:
        account = next((account for account in tenant.service_accounts if account.name == sub), None)
        return None if account is None else _Vouched(account.groups)
    if provider == API_KEY_PROVIDER:
        key = next((key for key in tenant.api_keys if key.name == sub), None)
        return None if key is None else _Vouched(key.groups, expires_at=key.expires_at)
    spec = next((spec for spec in tenant.providers if spec.name == provider), None)
    if spec is None:
        return None
    return _Vouched(None, spec.issuer, None, spec.tenant_claim, spec.email_domains, spec.requires_bound_tokens)


def _groups(claims: dict[str, Any]) -> frozenset[str] | None:
    groups = claims.get("groups")
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
        return None
    return frozenset(groups)


def _email(claims: dict[str, Any], vouched: _Vouched) -> str | None:
    """It was verified when the token was given out; the provider must still be one to speak for its domain."""
    email = claims.get("email")
    return email if isinstance(email, str) and email.partition("@")[2] in vouched.email_domains else None


def _confirmation(cnf: object) -> Confirmation | None:
    """None for a binding to nothing that can be proven."""
    if not isinstance(cnf, dict):
        return None
    jkt, x5t = (cnf.get(member) for member in ("jkt", "x5t#S256"))
    if not _is_text(jkt) or not _is_text(x5t) or (jkt is None and x5t is None):
        return None
    return Confirmation(jkt, x5t)


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)
