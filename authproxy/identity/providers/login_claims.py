"""
The claims of a login: the ID token's, with groups from where the policy says they come.

It decides which document the groups of one login or refresh are taken from, and asks for it. Groups are one document's
alone and never a union (AP-R12): what a person has lost must be gone with the next refresh. Where the provider keeps
groups elsewhere (overage), userinfo is asked whatever the policy says. It refuses to know sessions, and what groups
are good for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol

from authproxy.identity.providers.id_token import NotSigned, Trust, verify
from authproxy.identity.sessions.session import Session
from policies.claims import has_overage, judge_claims, with_userinfo
from policies.decision import Deny, Reason
from policies.principal import Principal
from policies.tables import ProviderSpec, TenantTable
from policies.tokens import ACCESS_TOKEN_TYPES

PATIENCE_S: Final = 11.0
"""
For the key of a token that the provider has just given: its keys are asked for once in ten seconds, and code or refresh
token is spent. Without it a key that signs before it is published costs whoever is refreshed then the session.
"""
_IDENTITY: Final = ("aud", "azp", "sid", "auth_time", "acr", "amr")
"""What a refresh without ID token may go on with: who it is, and nothing that the provider may have changed since."""
_ELSEWHERE: Final = ("_claim_names", "_claim_sources", "hasgroups")


class Userinfo(Protocol):
    """``provider_calls.ProviderCalls.userinfo``."""

    async def userinfo(
        self, tenant: TenantTable, provider: ProviderSpec, access_token: str, sub: str
    ) -> Mapping[str, Any]: ...


class LoginClaims(NamedTuple):
    claims: dict[str, Any]
    needs_userinfo: bool
    """Userinfo has to be asked too: ``with_answer``."""


async def of_tokens(
    trust: Trust,
    tenant: TenantTable,
    provider: ProviderSpec,
    id_claims: Mapping[str, Any],
    access_token: str,
    now: float,
) -> LoginClaims | Deny:
    """
    What ID token and access token say together, and whether userinfo has to be asked too.

    Args:
        trust: whom the tenant trusts.
        tenant: whose login it is.
        provider: where.
        id_claims: of the ID token, verified, or ``without_id_token``.
        access_token: that came with it.
        now: Unix seconds.

    Returns: a refusal when the groups are the access token's and it is not good here.

    Raises: ProviderUnavailable.
    """
    claims = dict(id_claims)
    if provider.groups.source == "access_token":
        found = await _of_access_token(trust, tenant, provider, access_token, now)
        if not isinstance(found, dict):
            return found
        if found.get("sub") != claims.get("sub"):
            return _deny("the access token names another person", tenant)
        claims = _merged(claims, {name: found[name] for name in _group_members(provider) if name in found}, provider)
    return LoginClaims(claims, provider.groups.source == "userinfo" or has_overage(claims, provider))


async def with_answer(
    calls: Userinfo, tenant: TenantTable, provider: ProviderSpec, claims: dict[str, Any], access_token: str
) -> dict[str, Any]:
    """The claims with userinfo's. Raises: ProviderUnavailable."""
    userinfo = await calls.userinfo(tenant, provider, access_token, claims["sub"])
    return _merged(claims, userinfo, provider)


def without_id_token(session: Session) -> dict[str, Any]:
    """What is left of a session's claims when its refresh brought no ID token (OpenID Connect Core section 12.2)."""
    kept = {name: session.claims[name] for name in _IDENTITY if name in session.claims}
    return {**kept, "iss": session.issuer, "sub": session.sub}


def with_unknown_groups(claims: Mapping[str, Any], provider: ProviderSpec) -> dict[str, Any]:
    """
    The claims of somebody whose groups could not be asked for: unknown, which is neither none nor what they were, so
    that no role comes from a group and every deny rule on groups holds (``claims.groups_of``).
    """
    path = provider.groups_claim
    return dict(claims) if path is None else {**claims, path: False}


async def _of_access_token(
    trust: Trust, tenant: TenantTable, provider: ProviderSpec, token: str, now: float
) -> dict[str, Any] | Deny:
    """Claims of an access token that is good here: a token for somebody else's functions tells nothing of ours."""
    signed = await verify(token, ACCESS_TOKEN_TYPES, trust, tenant, now, issuer=provider.issuer, patience_s=PATIENCE_S)
    if isinstance(signed, NotSigned):
        return _deny("the groups are the access token's, and it is no token that can be verified here", tenant)
    # Nobody shows it to us, so nobody has to prove that it is his; its tenants are judged with the ID token's.
    terms = replace(provider, requires_bound_tokens=False, tenant_claim=None)
    judged = judge_claims(
        {name: value for name, value in signed.claims.items() if name != "cnf"}, terms, tenant.name, now
    )
    return signed.claims if isinstance(judged, Principal) else _deny(judged.detail, tenant)


def _merged(claims: Mapping[str, Any], source: Mapping[str, Any], provider: ProviderSpec) -> dict[str, Any]:
    """Groups are the source's alone; everything else stays what the token says (``claims.with_userinfo``)."""
    return with_userinfo(claims, source, replace(provider, groups=replace(provider.groups, source="userinfo")))


def _group_members(provider: ProviderSpec) -> set[str]:
    """The members of an access token that say which groups somebody has, and in which tenant."""
    paths = [path for path in (provider.groups_claim, provider.tenant_claim) if path is not None]
    return {*paths, *(path.partition(".")[0] for path in paths), *_ELSEWHERE}


def _deny(detail: str, tenant: TenantTable) -> Deny:
    return Deny(Reason.LOGIN_FAILED, detail=detail, tenant=tenant.name)
