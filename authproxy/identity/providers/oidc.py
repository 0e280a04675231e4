"""
Portero as a client of OpenID Providers: what is asked of them, and what of their answers is believed.

It decides where a browser is sent to log in, whether what comes back names a person, and whether a refresh still names
the same one. Whatever a provider says is hostile until it is judged: where endpoints are (``discovery``), the shape of
answers (``http``, ``token_answer``), signatures (``id_token``), claims (``policies.id_token``). It refuses to know
browsers, cookies and sessions: those who call it bind ``state``, ``nonce`` and ``code_verifier`` to one browser.

Nothing that a provider wrote gets into a text of ours but an error code that is a plain word. Codes, tokens and secrets
never do.

Source: OpenID Connect Core 1.0 sections 3.1 and 12, RFC 6749 sections 4.1 and 6, RFC 7636 (S256, always), RFC 7009,
RFC 7662, RFC 9126, RFC 9207, OpenID Connect RP-Initiated Logout 1.0 section 2.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from authlib.common.urls import add_params_to_uri
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from authproxy.identity.providers.discovery import Discovery
from authproxy.identity.providers.grants import GRANT_TIMEOUT_S, Grants, LoginRefused, login_of
from authproxy.identity.providers.http import ProviderHttp
from authproxy.identity.providers.id_token import Trust
from authproxy.identity.providers.logout_token import LogoutNotice, read_logout_token
from authproxy.identity.providers.provider_calls import CallCounter, ProviderCalls, refused
from authproxy.identity.secrets import Secrets
from authproxy.identity.sessions.session import Session, Tokens
from policies.decision import Deny
from policies.errors import ProviderUnavailable
from policies.tables import LoginSpec, ProviderSpec, TenantTable

MAX_HINT_CHARS: Final = 4096
"""A longer ID token is no hint: addresses of more than 8 KiB are refused by most servers."""
MAX_REQUEST_URI_CHARS: Final = 512

log = logging.getLogger(__name__)


class OidcMetrics(Protocol):
    """What ``authproxy.metrics.Metrics`` has for the client."""

    @property
    def provider_calls_total(self) -> CallCounter: ...


class OidcClient:
    """
    One a process; belongs to one event loop. Every call is bounded in time.

    Args:
        http: how providers are asked; not closed with this.
        secrets: where the clients' secrets and keys are.
        trust: the key sources that bearer tokens are verified with.
        clock: Unix seconds, where no ``now`` is given.
        metrics: None: nothing is counted.
        grant_timeout_s: patience with token endpoints.
    """

    def __init__(
        self,
        http: ProviderHttp,
        secrets: Secrets,
        trust: Trust,
        *,
        clock: Callable[[], float] = time.time,
        metrics: OidcMetrics | None = None,
        grant_timeout_s: float = GRANT_TIMEOUT_S,
    ) -> None:
        self._trust = trust
        self._discovery = Discovery(http, clock=clock)
        self._http = http
        counter = metrics.provider_calls_total if metrics is not None else None
        self._calls = ProviderCalls(http, self._discovery, secrets, clock, counter)
        self._grants = Grants(trust, self._calls, grant_timeout_s)

    async def close(self) -> None:
        """Stop what is being fetched."""
        await self._discovery.close()

    async def begin(
        self,
        tenant: TenantTable,
        provider: ProviderSpec,
        *,
        redirect_uri: str,
        state: str,
        nonce: str,
        code_verifier: str,
        prompt: str | None = None,
    ) -> str:
        """
        Where to send the browser. Where the provider offers it, the request is pushed first and the address only
        refers to it, so that nobody on the way can change or read it (RFC 9126).

        Raises: ProviderUnavailable.
        """
        login = login_of(provider)
        metadata = await self._discovery.of(tenant.name, provider)
        address = self._for_browser(metadata.endpoint("authorization_endpoint"))
        request = {
            "redirect_uri": redirect_uri,
            "scope": " ".join(login.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": str(create_s256_code_challenge(code_verifier)),
            "code_challenge_method": "S256",
            **({} if prompt is None else {"prompt": prompt}),
        }
        is_offered = "pushed_authorization_request_endpoint" in metadata.endpoints
        if login.pushes == "require" or (login.pushes == "auto" and (is_offered or metadata.requires_pushed_requests)):
            pushed = await self._push(tenant, provider, login, request)
            return _with(address, {"client_id": login.client.client_id, "request_uri": pushed})
        try:
            return str(prepare_grant_uri(address, login.client.client_id, "code", **request))
        except ValueError as error:
            raise ProviderUnavailable("the authorization endpoint's query cannot be added to") from error

    async def names_issuer(self, tenant: TenantTable, provider: ProviderSpec) -> bool:
        """
        Whether the provider promises to name itself in its answers (RFC 9207 section 3).

        Raises: ProviderUnavailable.
        """
        return (await self._discovery.of(tenant.name, provider)).names_issuer_in_response

    async def check_response_issuer(self, tenant: TenantTable, provider: ProviderSpec, iss: str | None) -> bool:
        """
        Whether the authorization response is of the provider that was asked. To be asked before the code is spent: a
        code that another provider gave must not get to this one's token endpoint, nor the other way round.

        Args:
            tenant: whose login it is.
            provider: that the browser was sent to.
            iss: of the response; None: it had none, which is good only where the provider never promised one.

        Raises: ProviderUnavailable.

        Source: RFC 9207 section 2.4.
        """
        if iss is not None:
            return iss == provider.issuer
        return not await self.names_issuer(tenant, provider)

    async def redeem(
        self,
        tenant: TenantTable,
        provider: ProviderSpec,
        *,
        code: str,
        redirect_uri: str,
        code_verifier: str,
        nonce: str,
        now: float,
    ) -> Tokens:
        """Exchange a code for who has logged in. Raises: LoginRefused, ProviderUnavailable."""
        fields = {"code": code, "redirect_uri": redirect_uri, "code_verifier": code_verifier}
        return await self._grants.redeem(tenant, provider, fields, nonce, now)

    async def refresh(self, tenant: TenantTable, provider: ProviderSpec, session: Session, now: float) -> Tokens:
        """The same person's claims anew. Raises: GrantInvalid when the login is over; ProviderUnavailable."""
        return await self._grants.refresh(tenant, provider, session, now)

    async def userinfo(
        self, tenant: TenantTable, provider: ProviderSpec, access_token: str, sub: str, now: float
    ) -> Mapping[str, Any]:
        """
        What the provider says of the bearer of an access token. ``now`` is not needed: nothing in it is dated.

        Raises: ProviderUnavailable, also when it speaks of somebody else than ``sub``.
        """
        del now
        return await self._calls.userinfo(tenant, provider, access_token, sub)

    async def end_session_url(
        self,
        tenant: TenantTable,
        provider: ProviderSpec,
        *,
        id_token: str | None,
        post_logout_redirect_uri: str,
        state: str | None,
    ) -> str | None:
        """
        Where to send the browser so that the provider's own session ends too; None where the provider offers none or
        cannot be asked: our logout has happened all the same.
        """
        if provider.login is None:
            return None
        fields = {"client_id": provider.login.client.client_id, "post_logout_redirect_uri": post_logout_redirect_uri}
        if id_token is not None and len(id_token) <= MAX_HINT_CHARS:
            fields["id_token_hint"] = id_token
        if state is not None:
            fields["state"] = state
        try:
            metadata = await self._discovery.of(tenant.name, provider)
            return _with(self._for_browser(metadata.endpoint("end_session_endpoint")), fields)
        except ProviderUnavailable as error:
            log.info("no logout at the provider: %s", error, extra=_labels(tenant, provider))
            return None

    async def revoke_refresh_token(self, tenant: TenantTable, provider: ProviderSpec, refresh_token: str) -> None:
        """Tell the provider that the token is done with, if it listens; never raises. Source: RFC 7009 section 2.1."""
        if provider.login is None:
            return
        fields = {"token": refresh_token, "token_type_hint": "refresh_token"}
        try:
            await self._calls.post(tenant, provider, provider.login.client, "revocation_endpoint", fields)
        except ProviderUnavailable as error:
            log.debug("refresh token not revoked: %s", error, extra=_labels(tenant, provider))

    async def introspect(self, tenant: TenantTable, provider: ProviderSpec, token: str) -> Mapping[str, Any]:
        """
        The provider's word about an opaque token, as it is but for ``active``, which is a boolean. Judging the rest is
        the caller's.

        Raises: ProviderUnavailable.

        Source: RFC 7662 sections 2.1 to 2.3.
        """
        if provider.introspection is None:
            raise ProviderUnavailable("the policy lets nobody ask about tokens of this provider")
        fields = {"token": token, "token_type_hint": "access_token"}
        document = await self._calls.post(
            tenant, provider, provider.introspection.client, "introspection_endpoint", fields
        )
        if document.status != 200:
            raise refused(document, "introspection")
        if not isinstance(document.value.get("active"), bool):
            raise ProviderUnavailable("introspection does not say whether the token is active")
        return document.value

    async def judge_logout_token(self, tenant: TenantTable, token: str, now: float) -> LogoutNotice:
        """
        Which sessions a provider says are over. Whether the token was seen before is asked by the caller.

        Raises: LoginRefused (``login-failed``), ProviderUnavailable.
        """
        notice = await read_logout_token(self._trust, tenant, token, now)
        if isinstance(notice, Deny):
            raise LoginRefused(notice)
        return notice

    async def _push(
        self, tenant: TenantTable, provider: ProviderSpec, login: LoginSpec, request: Mapping[str, str]
    ) -> str:
        """Source: RFC 9126 sections 2.1 and 2.2. A refusal is never answered by asking in the open instead."""
        fields = {"response_type": "code", "client_id": login.client.client_id, **request}
        document = await self._calls.post(
            tenant, provider, login.client, "pushed_authorization_request_endpoint", fields
        )
        if document.status >= 400:
            raise refused(document, "the pushed login request")
        reference = document.value.get("request_uri")
        if not isinstance(reference, str) or not 0 < len(reference) <= MAX_REQUEST_URI_CHARS or not reference.isascii():
            raise ProviderUnavailable("the pushed login request was answered without request_uri")
        return reference

    def _for_browser(self, address: str) -> str:
        """An address of the policy's has not been looked at yet. Raises: ProviderUnavailable."""
        self._http.judge_url(address)
        return address


def _with(address: str, fields: Mapping[str, str]) -> str:
    """The address with more in its query. Raises: ProviderUnavailable."""
    try:
        return str(add_params_to_uri(address, list(fields.items())))
    except ValueError as error:
        raise ProviderUnavailable("the provider's address has a query that cannot be added to") from error


def _labels(tenant: TenantTable, provider: ProviderSpec) -> dict[str, str]:
    return {"tenant": tenant.name, "provider": provider.name}


__all__ = ["LoginRefused", "LogoutNotice", "OidcClient", "OidcMetrics"]
