"""
``GET /.portero/login``: a browser is sent to a provider, with what it must bring back.

Who is logged in already is sent where he wanted to go; ``prompt=login`` has him log in anew. Only a navigation is ever
sent on (AP-R49): a script or a program gets 401. Where the login returns to is judged before anything begins (AP-R8).
Refuses to know what a provider is asked for.

Source: OpenID Connect Core section 3.1.2.1, RFC 6749 section 4.1.1, RFC 7636 section 4; AP-R8, R41, R42, R47 to R49.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final
from urllib.parse import urlencode

from authproxy.gate.verdict import PageAnswer
from authproxy.pages.answers import cookies_of, is_location, page, redirect
from authproxy.pages.form import read_query
from authproxy.pages.guard import refuse_too_many
from authproxy.pages.parts import Answered, Parts, Visit, logged_in, login_providers
from authproxy.pages.pending import clear_surplus, new_pending, pending_cookie
from policies.decision import Challenge, Deny, Reason
from policies.navigation import LOGIN_PATH, read_return_to
from policies.principal import Principal
from policies.request import AccessRequest
from policies.tables import ProviderSpec
from policies.tenancy import CALLBACK, OUR_PAGES

METHODS: Final = ("GET",)
"""Not HEAD: a login that nobody sees is none."""
CALLBACK_PATH: Final = OUR_PAGES + CALLBACK
"""Where providers send browsers back to; ``callback_path`` says when another address is used."""

_PROMPT: Final = "login"
"""The one value of ``prompt`` that is taken (OpenID Connect Core section 3.1.2.1)."""
_NO_LOGIN: Final = Deny(Reason.ROUTE_UNKNOWN, "nobody logs in here in the browser: no provider of the tenant has it")
_NEEDS_HTTPS: Final = Deny(
    Reason.HTTPS_REQUIRED,
    "a login needs https, because browsers keep its cookies over nothing else; a proxy in front that ends TLS must be "
    "listed in trusted_peers",
)
_BAD_RETURN: Final = Deny(Reason.BAD_REQUEST, "return_to is not a path of this host")
_BAD_PROMPT: Final = Deny(Reason.BAD_REQUEST, "prompt may be 'login' and nothing else")
_BAD_PROVIDER: Final = Deny(Reason.BAD_REQUEST, "the tenant has no such provider to log in with")
_BAD_ADDRESS: Final = Deny(Reason.PROVIDER_UNAVAILABLE, "the provider's address cannot be used")


async def answer(parts: Parts, visit: Visit) -> Answered:
    """See the module."""
    request = visit.request
    providers = login_providers(visit.tenant)
    if not providers:
        return _NO_LOGIN
    if not is_login_possible(request, may_use_http=parts.allow_loopback_http):
        return _NEEDS_HTTPS
    query = read_query(request.target.query)
    if isinstance(query, Deny):
        return query
    return_to = read_return_to(query.get("return_to", "/"))
    if return_to is None:
        return _BAD_RETURN
    prompt = query.get("prompt")
    if prompt not in {None, _PROMPT}:
        return _BAD_PROMPT
    name = query.get("provider")
    provider = next((p for p in providers if p.name == name), None)
    if name is not None and provider is None:
        return _BAD_PROVIDER
    if not request.accepts_html:
        return Challenge(Reason.CREDENTIAL_MISSING, tenant=visit.tenant.name)
    if refusal := await refuse_too_many(parts.store, visit.tenant, "login", request.client_ip, visit.now):
        return refusal
    if prompt is None:
        caller = await logged_in(parts, visit)
        if isinstance(caller, Principal):
            return redirect(return_to, cookies_of(caller), subject=caller.subject)
        if caller is not None and caller.reason is Reason.SESSION_STORE_UNAVAILABLE:
            return caller  # the login that follows would end there
    if provider is None:
        if len(providers) > 1:
            return _choose(visit, providers, return_to, prompt)
        provider = providers[0]
    return await _begin(parts, visit, provider, return_to, prompt)


def is_login_possible(request: AccessRequest, *, may_use_http: bool) -> bool:
    """
    Whether a browser would keep the cookies of a login: over https, or over http on its own machine.

    ``may_use_http``: for trials with clients that are no browsers.
    """
    if request.scheme == "https" or may_use_http:
        return True
    host = request.host
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def login_link(return_to: str, provider: str | None = None, prompt: str | None = None) -> str:
    """The address of the login page, relative to our host; for links on our own pages."""
    asked = {"provider": provider, "return_to": None if return_to == "/" else return_to, "prompt": prompt}
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    return f"{LOGIN_PATH}?{query}" if query else LOGIN_PATH


def callback_path(provider: ProviderSpec) -> str:
    """
    The address that answers of this provider alone come to.

    Used where a tenant has several providers to log in at and this one does not promise to name itself in its answers
    (RFC 9207): else a code of it could be brought to another provider, who would have it redeemed as his own (mix-up,
    RFC 9700 section 4.4.2).
    """
    return f"{CALLBACK_PATH}/{provider.name}"


def _choose(visit: Visit, providers: tuple[ProviderSpec, ...], return_to: str, prompt: str | None) -> PageAnswer:
    """Links and no forms: to choose changes nothing."""
    choices = [
        {
            "title": (provider.login.title if provider.login is not None else "") or provider.name,
            "href": login_link(return_to, provider.name, prompt),
        }
        for provider in providers
    ]
    return page("choose.html", {"tenant": visit.tenant.name, "host": visit.request.authority, "choices": choices})


async def _begin(
    parts: Parts, visit: Visit, provider: ProviderSpec, return_to: str, prompt: str | None
) -> PageAnswer | Deny:
    tenant, request = visit.tenant, visit.request
    path = CALLBACK_PATH
    if len(login_providers(tenant)) > 1 and not await parts.client.names_issuer(tenant, provider):
        path = callback_path(provider)
    pending = new_pending(provider, return_to, request.own_origin + path, visit.now)
    location = await parts.client.begin(
        tenant,
        provider,
        redirect_uri=pending.redirect_uri,
        state=pending.state,
        nonce=pending.nonce,
        code_verifier=pending.code_verifier,
        prompt=prompt,
    )
    if not is_location(location):
        return _BAD_ADDRESS
    cookie = pending_cookie(parts.sealer, tenant.name, pending, request.cookie)
    surplus = clear_surplus(parts.sealer, tenant.name, request.cookie, cookie)
    return redirect(location, (*surplus, cookie))
