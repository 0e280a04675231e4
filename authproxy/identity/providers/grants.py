"""
A code or a refresh token, exchanged for who it is: the two grants that logins live on.

It decides whether what a token endpoint gives names a person who may log in, or still the same one. A login fails
closed. A refresh does too, but after the provider has answered the old refresh token may be spent, so a passing failure
must not lose the new one. It refuses to know browsers, cookies and sessions' life times.

Source: OpenID Connect Core sections 3.1.3 and 12, RFC 6749 sections 4.1.3, 5.2 and 6, RFC 7636 section 4.5.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from authproxy.identity.providers import login_claims
from authproxy.identity.providers.id_token import KeyNotKnown, NotSigned, Trust, make_ready, verify
from authproxy.identity.providers.provider_calls import ProviderCalls, refused
from authproxy.identity.providers.token_answer import (
    INVALID_GRANT,
    MAX_LIFETIME_S,
    MIN_LIFETIME_S,
    Grant,
    error_code,
    read_grant,
)
from authproxy.identity.sessions.session import GrantInvalid, Session, Tokens
from policies.claims import person
from policies.decision import Deny, Reason
from policies.errors import ProviderUnavailable
from policies.id_token import ID_TOKEN_TYPES, MAX_ID_CHARS, claims_to_keep, judge_id_token
from policies.principal import Principal
from policies.tables import LoginSpec, ProviderSpec, TenantTable

GRANT_TIMEOUT_S: Final = 15.0
"""A token endpoint that has begun may have spent code or refresh token already: longer than for a document."""
RETRY_S: Final = 30.0
"""How long a refreshed session goes on when its groups could not be asked for."""

log = logging.getLogger(__name__)


class LoginRefused(Exception):
    """What a provider says names nobody who may log in, or nobody who is logged out by it."""

    def __init__(self, refusal: Deny) -> None:
        self.refusal = refusal
        """``login-failed`` or ``tenant-mismatch``; its detail is a constant sentence."""
        super().__init__(refusal.detail)


class Grants:
    """One a process."""

    def __init__(self, trust: Trust, calls: ProviderCalls, timeout_s: float) -> None:
        self._trust = trust
        self._calls = calls
        self._timeout_s = timeout_s

    async def redeem(
        self, tenant: TenantTable, provider: ProviderSpec, fields: Mapping[str, str], nonce: str, now: float
    ) -> Tokens:
        """
        Exchange a code for who has logged in. The keys are made sure of first: a code is good only once.

        Args:
            tenant: whose login it is.
            provider: that the browser was sent to.
            fields: ``code``, ``redirect_uri`` and ``code_verifier``.
            nonce: that the ID token must have.
            now: Unix seconds.

        Raises: LoginRefused, ProviderUnavailable.
        """
        login, began = login_of(provider), time.monotonic()
        await make_ready(self._trust, tenant, provider, now)
        grant = await self._grant(tenant, provider, login, {"grant_type": "authorization_code", **fields})
        if grant is None:
            raise LoginRefused(_deny("the provider did not accept the login's code", tenant))
        if grant.id_token is None:
            raise ProviderUnavailable("the token endpoint gave no ID token")
        later = now + (time.monotonic() - began)
        id_claims = await self._verified(tenant, provider, grant, later, nonce=nonce)
        if isinstance(id_claims, NotSigned):
            raise LoginRefused(_deny(id_claims.detail, tenant))
        found = await login_claims.of_tokens(
            self._trust, tenant, provider, claims_to_keep(id_claims), grant.access_token, later
        )
        if not isinstance(found, login_claims.LoginClaims):
            raise LoginRefused(_deny(found.detail, tenant))
        claims, is_asked = await self._completed(tenant, provider, found, grant.access_token)
        tokens = _tokens(provider, grant, claims, float(id_claims["exp"]), later, keeps_access_token=is_asked)
        who = person(claims, provider, tenant.name, tokens.expires_at)
        if not isinstance(who, Principal):
            raise LoginRefused(who if isinstance(who, Deny) else _deny(who.detail, tenant))
        return tokens

    async def refresh(self, tenant: TenantTable, provider: ProviderSpec, session: Session, now: float) -> Tokens:
        """
        The same person's claims anew. Once the provider has answered, the old refresh token may be spent: what goes
        wrong after that ends the session or leaves its groups unknown, but never loses the new token for a passing
        failure.

        Raises: GrantInvalid when the login is over; ProviderUnavailable for what may pass.
        """
        began = time.monotonic()
        if provider.login is None or session.refresh_token is None or session.issuer != provider.issuer:
            raise GrantInvalid("nothing to refresh with")
        await make_ready(self._trust, tenant, provider, now)
        fields = {"grant_type": "refresh_token", "refresh_token": session.refresh_token}
        grant = await self._grant(tenant, provider, provider.login, fields)
        if grant is None:
            raise GrantInvalid("the provider refuses the refresh token")
        later = now + (time.monotonic() - began)
        expires_at, base = later + MIN_LIFETIME_S, login_claims.without_id_token(session)
        if grant.id_token is not None:
            id_claims = await self._verified(tenant, provider, grant, later, sub=session.sub)
            if isinstance(id_claims, KeyNotKnown):
                raise ProviderUnavailable(id_claims.detail)
            if isinstance(id_claims, NotSigned):
                raise GrantInvalid(id_claims.detail)
            expires_at, base = float(id_claims["exp"]), claims_to_keep(id_claims)
        found = await login_claims.of_tokens(self._trust, tenant, provider, base, grant.access_token, later)
        if not isinstance(found, login_claims.LoginClaims):
            raise GrantInvalid(found.detail)
        try:
            if grant.id_token is None and provider.groups.source != "access_token":
                if not await self._calls.offers(tenant, provider, "userinfo_endpoint"):
                    raise GrantInvalid("neither ID token nor userinfo says anew what the person may")
                found = found._replace(needs_userinfo=True)
            claims, is_asked = await self._completed(tenant, provider, found, grant.access_token)
        except ProviderUnavailable as error:
            log.warning("refresh without groups: %s", error, extra={"tenant": tenant.name, "provider": provider.name})
            claims, is_asked = login_claims.with_unknown_groups(found.claims, provider), True
            grant = grant._replace(lifetime_s=RETRY_S)
        return _tokens(provider, grant, claims, expires_at, later, keeps_access_token=is_asked)

    async def _completed(
        self, tenant: TenantTable, provider: ProviderSpec, found: login_claims.LoginClaims, access_token: str
    ) -> tuple[dict[str, Any], bool]:
        """
        The claims with userinfo's where they are needed, and whether they were. Groups that stand elsewhere (overage)
        at a provider without userinfo stay unknown, which ``claims.groups_of`` sees. Raises: ProviderUnavailable.
        """
        if not found.needs_userinfo:
            return found.claims, False
        is_wanted = provider.groups.source == "userinfo"
        if not is_wanted and not await self._calls.offers(tenant, provider, "userinfo_endpoint"):
            return found.claims, False
        return await login_claims.with_answer(self._calls, tenant, provider, found.claims, access_token), True

    async def _grant(
        self, tenant: TenantTable, provider: ProviderSpec, login: LoginSpec, fields: Mapping[str, str]
    ) -> Grant | None:
        """None for ``invalid_grant``: code or refresh token is no good, for good. Raises: ProviderUnavailable."""
        document = await self._calls.post(
            tenant, provider, login.client, "token_endpoint", fields, timeout_s=self._timeout_s
        )
        if document.status >= 400:
            if error_code(document) == INVALID_GRANT:
                return None
            raise refused(document, "to give tokens")
        return read_grant(document)

    async def _verified(
        self,
        tenant: TenantTable,
        provider: ProviderSpec,
        grant: Grant,
        now: float,
        *,
        nonce: str | None = None,
        sub: str | None = None,
    ) -> dict[str, Any] | NotSigned:
        """The claims of the answer's ID token. Raises: ProviderUnavailable."""
        signed = await verify(
            grant.id_token or "",
            ID_TOKEN_TYPES,
            self._trust,
            tenant,
            now,
            issuer=provider.issuer,
            patience_s=login_claims.PATIENCE_S,
        )
        if isinstance(signed, NotSigned):
            return signed
        refusal = judge_id_token(
            signed.claims,
            provider,
            tenant.name,
            now,
            client_id=login_of(provider).client.client_id,
            algorithm=signed.algorithm,
            access_token=grant.access_token,
            nonce=nonce,
            sub=sub,
        )
        return signed.claims if refusal is None else NotSigned(refusal.detail)


def login_of(provider: ProviderSpec) -> LoginSpec:
    if provider.login is None:
        raise ProviderUnavailable("nobody logs in at this provider")
    return provider.login


def _deny(detail: str, tenant: TenantTable) -> Deny:
    return Deny(Reason.LOGIN_FAILED, detail=detail, tenant=tenant.name)


def _tokens(
    provider: ProviderSpec,
    grant: Grant,
    claims: dict[str, Any],
    id_token_expires_at: float,
    now: float,
    *,
    keeps_access_token: bool,
) -> Tokens:
    """
    ``expires_at`` is the access token's; an ID token's ``exp`` says how long it may be taken for proof of a login and
    is often minutes, so it stands in only where the provider says nothing of the former. Either way within bounds.
    """
    lifetime_s = grant.lifetime_s if grant.lifetime_s is not None else id_token_expires_at - now
    sid = claims.get("sid")
    return Tokens(
        issuer=provider.issuer,
        sub=claims["sub"],
        sid=sid if isinstance(sid, str) and 0 < len(sid) <= MAX_ID_CHARS else None,
        claims=claims,
        id_token=grant.id_token,
        access_token=grant.access_token if keeps_access_token else None,
        refresh_token=grant.refresh_token,
        expires_at=now + min(max(lifetime_s, MIN_LIFETIME_S), MAX_LIFETIME_S),
        fetched_at=now,
    )
