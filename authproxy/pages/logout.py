"""
``/.portero/logout``: GET shows a button, POST ends the session here and at the provider.

Only a page of our own host may have a browser log out (AP-R53): the cross-origin rule is asked before the session is.
The session ends first, so that nothing a provider does keeps it alive; then the refresh token is given back, and the
browser goes to the provider's own logout where there is one. Refuses to know how sessions are kept.

Source: OpenID Connect RP-Initiated Logout 1.0 sections 2 and 3; RFC 7009; AP-R53.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from authproxy.identity.sessions.session import Session
from authproxy.pages.answers import cookies_of, is_location, origin_of, page, redirect
from authproxy.pages.parts import Answered, Parts, Visit, identify, login_providers
from policies.errors import CannotKnow
from policies.origin import refuse_cross_origin
from policies.principal import Principal
from policies.tables import ProviderSpec, TenantTable

METHODS: Final = ("GET", "HEAD", "POST")
LOGOUT_PATH: Final = "/.portero/logout"
WAIT_S: Final = 2.0
"""Longest that a browser waits for the provider's part; what is not done by then is left."""


async def answer(parts: Parts, visit: Visit) -> Answered:
    """See the module."""
    if visit.request.method == "POST":
        return await _log_out(parts, visit)
    session = await parts.sessions.open(visit.tenant, visit.request, visit.now)
    values = {"tenant": visit.tenant.name, "host": visit.request.authority}
    if session is None:
        may_log_in = bool(login_providers(visit.tenant))
        return page("logged_out.html", {**values, "may_log_in": may_log_in})
    caller = await identify(parts, visit, visit.by_cookie())
    who, cookies = (caller.name or caller.email, cookies_of(caller)) if isinstance(caller, Principal) else (None, ())
    targets = await logout_targets(parts, visit, session)
    return page("logout.html", {**values, "who": who}, form_action=targets, cookies=cookies)


async def logout_targets(parts: Parts, visit: Visit, session: Session) -> tuple[str, ...]:
    """
    Where the logout form may lead: to us, and on to the provider's logout.

    Browsers hold redirects after a form to ``form-action`` too, so the provider's origin has to be known beforehand;
    when it cannot be had, its issuer's is taken.
    """
    provider = provider_of(visit.tenant, session)
    if provider is None:
        return ("'self'",)
    url = await _end_session_url(parts, visit, provider, session)
    origin = origin_of(provider.issuer if url is None else url)
    return ("'self'",) if origin is None else ("'self'", origin)


def provider_of(tenant: TenantTable, session: Session) -> ProviderSpec | None:
    """The provider that vouched for the session, if it is still the tenant's."""
    found = next((p for p in tenant.providers if p.name == session.provider), None)
    return found if found is not None and found.issuer == session.issuer else None


async def _log_out(parts: Parts, visit: Visit) -> Answered:
    tenant, request = visit.tenant, visit.request
    if refusal := refuse_cross_origin(request, tenant.name):
        return refusal
    session = await parts.sessions.open(tenant, request, visit.now)
    cookies = await parts.sessions.end(tenant, session, request, visit.now)
    if session is None:
        return redirect(LOGOUT_PATH, cookies)
    parts.count_logout(tenant, "own")
    subject = f"{session.provider}|{session.sub}"
    provider = provider_of(tenant, session)
    if provider is None:
        return redirect(LOGOUT_PATH, cookies, subject=subject)
    url, _ = await asyncio.gather(
        _end_session_url(parts, visit, provider, session), _revoke(parts, tenant, provider, session)
    )
    return redirect(url or LOGOUT_PATH, cookies, subject=subject)


async def _end_session_url(parts: Parts, visit: Visit, provider: ProviderSpec, session: Session) -> str | None:
    try:
        async with asyncio.timeout(WAIT_S):
            url = await parts.client.end_session_url(
                visit.tenant,
                provider,
                id_token=None if session.id_token is None else str(session.id_token),
                post_logout_redirect_uri=visit.request.own_origin + LOGOUT_PATH,
                state=secrets.token_urlsafe(16),
            )
    except (TimeoutError, CannotKnow):
        return None
    return url if url is not None and is_location(url) else None


async def _revoke(parts: Parts, tenant: TenantTable, provider: ProviderSpec, session: Session) -> None:
    if session.refresh_token is None:
        return
    try:
        async with asyncio.timeout(WAIT_S):
            await parts.client.revoke_refresh_token(tenant, provider, session.refresh_token)
    except (TimeoutError, CannotKnow):
        return  # it is of no use to anybody but us, and our session is over
