"""
``GET /.portero/callback``: a provider's answer to a login that this browser began, once, or nothing.

In this order: the login's cookie (AP-R42: another browser has none, and its code is not spent), the terms it was begun
under, its single use (AP-R47; a store that cannot tell means no), who answers (RFC 9207), and only then what is
answered. A login makes a session of its own and ends the one before it (AP-R5). Refuses to know tokens.

Source: RFC 6749 sections 4.1.2 and 10.12, RFC 9207 section 2.4, RFC 9700 section 4.7; AP-R5, R8, R42, R47, R52.
"""

from __future__ import annotations

import asyncio
from typing import Final

from authproxy.gate.verdict import PageAnswer
from authproxy.identity.providers.oidc import LoginRefused
from authproxy.identity.sessions.lifetime import SKEW_S
from authproxy.identity.sessions.session import SessionOver, Tokens
from authproxy.identity.sessions.sessions import SessionTooLarge
from authproxy.identity.shared.state import key
from authproxy.pages.answers import cookies_of, page, redirect
from authproxy.pages.form import read_query
from authproxy.pages.guard import refuse_too_many
from authproxy.pages.login import callback_path, login_link
from authproxy.pages.parts import Answered, Parts, Visit, logged_in, login_providers
from authproxy.pages.pending import MAX_AGE_S, Pending, clear_pending, find_pending
from policies.decision import Deny, Reason
from policies.errors import CannotKnow, StoreUnavailable
from policies.principal import Principal
from policies.problem import STATUS
from policies.tables import ProviderSpec

METHODS: Final = ("GET",)
"""Not HEAD: whoever looks at a link in advance must not spend its code."""
MAX_CODE_CHARS: Final = 4096

_NOT_BEGUN: Final = Deny(
    Reason.LOGIN_FAILED, "this login was not begun in this browser, or too long ago; start it again"
)
_REPEATED: Final = Deny(Reason.LOGIN_FAILED, "this login has been used already; start it again")
_OTHER_ADDRESS: Final = Deny(Reason.LOGIN_FAILED, "the login came back to another address than it was begun from")
_OTHER_POLICY: Final = Deny(Reason.LOGIN_FAILED, "the provider is no longer one to log in with; start it again")
_OTHER_ISSUER: Final = Deny(Reason.LOGIN_FAILED, "the answer is not of the provider that was asked")
_NO_CODE: Final = Deny(Reason.LOGIN_FAILED, "the provider's answer holds neither a code nor an error")
_TOO_LARGE: Final = Deny(
    Reason.LOGIN_FAILED, "the session would be too large for cookies; the tenant needs sessions.store: redis"
)
_LOGGED_OUT: Final = Deny(Reason.LOGIN_FAILED, "you were logged out everywhere a moment ago; start the login again")
_ERRORS: Final = {
    "access_denied": "The provider did not let you in, or you did not agree.",
    "login_required": "The provider wants you to log in there first.",
    "interaction_required": "The provider has a question to you that it could not ask.",
    "consent_required": "The provider needs your consent first.",
    "account_selection_required": "The provider wants you to choose an account first.",
    "temporarily_unavailable": "The provider cannot log anybody in at the moment.",
    "server_error": "Something went wrong at the provider.",
    "invalid_request": "The provider did not understand the request; the operators have to look at it.",
    "invalid_scope": "The provider does not know a scope that was asked for; the operators have to look at it.",
    "unauthorized_client": "The provider does not let Portero log anybody in; the operators have to look at it.",
    "unsupported_response_type": "The provider does not log in by code; the operators have to look at it.",
}
"""A provider's error -> what its reader is told. Nothing of a provider's own text is ever shown."""
_UNREAD: Final = frozenset({"error_description", "error_uri"})
"""A provider's own text is neither shown nor kept, and some write lines into it."""
_OTHER_ERROR: Final = "The provider refused the login."


async def answer(parts: Parts, visit: Visit) -> Answered:
    """See the module."""
    tenant, request = visit.tenant, visit.request
    if refusal := await refuse_too_many(parts.store, tenant, "login", request.client_ip, visit.now):
        return refusal
    query = read_query(request.target.query, _UNREAD)
    if isinstance(query, Deny):
        return query
    pending = find_pending(parts.sealer, tenant.name, request.cookie, query.get("state", ""))
    if pending is None or not visit.now < pending.expires_at <= visit.now + MAX_AGE_S + SKEW_S:
        return await _without_login(parts, visit, pending)
    if pending.redirect_uri != request.own_origin + request.target.path:
        return _failed(parts, visit, pending, _OTHER_ADDRESS)
    provider = next((p for p in login_providers(tenant) if p.name == pending.provider), None)
    if provider is None or provider.issuer != pending.issuer:
        return _failed(parts, visit, pending, _OTHER_POLICY)
    # Kept for longer than any cookie with this state may be used: the store's clock may differ from ours.
    if not await parts.state.add(key(tenant.name, "state", pending.state), b"", 2 * MAX_AGE_S):
        return _failed(parts, visit, pending, _REPEATED)
    if not await _is_of(parts, visit, provider, query.get("iss")):
        return _failed(parts, visit, pending, _OTHER_ISSUER)
    if "error" in query:
        error = query["error"] if query["error"] in _ERRORS else "another error"
        refusal = Deny(Reason.LOGIN_FAILED, _ERRORS.get(error, _OTHER_ERROR))
        return _failed(parts, visit, pending, refusal, error)
    code = query.get("code", "")
    if not 0 < len(code) <= MAX_CODE_CHARS or not code.isascii():
        return _failed(parts, visit, pending, _NO_CODE)
    return await _redeem(parts, visit, pending, provider, code)


async def _is_of(parts: Parts, visit: Visit, provider: ProviderSpec, iss: str | None) -> bool:
    """
    Whether the provider that was asked has answered. One of several that does not name itself is known by the address
    that is its own; what it promised when the login began may be another thing than what it promises now.
    """
    is_one_of_several = len(login_providers(visit.tenant)) > 1
    if iss is None and is_one_of_several and visit.request.target.path != callback_path(provider):
        return False
    return await parts.client.check_response_issuer(visit.tenant, provider, iss)


async def _without_login(parts: Parts, visit: Visit, pending: Pending | None) -> Answered:
    """
    No login of this browser, or one that has expired. Who is logged in all the same (in another tab, or by going back
    in the history) is sent on; the code is not looked at.
    """
    caller = await logged_in(parts, visit)
    if isinstance(caller, Principal):
        cookies = (*cookies_of(caller), *(() if pending is None else (clear_pending(pending.state),)))
        return redirect("/" if pending is None else pending.return_to, cookies, subject=caller.subject)
    return _failed(parts, visit, pending, _NOT_BEGUN)


async def _redeem(parts: Parts, visit: Visit, pending: Pending, provider: ProviderSpec, code: str) -> Answered:
    tenant = visit.tenant
    try:
        tokens = await parts.client.redeem(
            tenant,
            provider,
            code=code,
            redirect_uri=pending.redirect_uri,
            code_verifier=pending.code_verifier,
            nonce=pending.nonce,
            now=visit.now,
        )
    except LoginRefused as refused:
        return _failed(parts, visit, pending, refused.refusal)
    except CannotKnow:
        parts.count_login(tenant, provider.name, "unavailable")
        raise
    try:
        _, cookies = await parts.sessions.begin(tenant, provider, tokens, visit.request, visit.now)
    except SessionTooLarge:
        await _give_back(parts, visit, provider, tokens)
        return _failed(parts, visit, pending, _TOO_LARGE)
    except SessionOver:
        await _give_back(parts, visit, provider, tokens)
        return _failed(parts, visit, pending, _LOGGED_OUT)
    except StoreUnavailable:
        parts.count_login(tenant, provider.name, "unavailable")
        await _give_back(parts, visit, provider, tokens)
        raise
    parts.count_login(tenant, provider.name, "ok")
    subject = f"{provider.name}|{tokens.sub}"
    return redirect(pending.return_to, (*cookies, clear_pending(pending.state)), subject=subject)


async def _give_back(parts: Parts, visit: Visit, provider: ProviderSpec, tokens: Tokens) -> None:
    """No session came of it: nobody will ever use the refresh token, so the provider may forget it."""
    if tokens.refresh_token is None:
        return
    try:
        async with asyncio.timeout(REVOKE_S):
            await parts.client.revoke_refresh_token(visit.tenant, provider, tokens.refresh_token)
    except TimeoutError:
        return


REVOKE_S: Final = 2.0
"""Longest that a browser waits for a provider to be told that a refresh token is no longer needed."""


def _failed(parts: Parts, visit: Visit, pending: Pending | None, refusal: Deny, kind: str = "") -> Answered:
    """
    A page that says why and offers to try again; problem+json for what is no browser.

    ``kind`` is the provider's error, of the closed set.
    """
    parts.count_login(visit.tenant, "" if pending is None else pending.provider, "refused" if kind else "failed")
    if not visit.request.accepts_html or refusal.reason not in {Reason.LOGIN_FAILED, Reason.TENANT_MISMATCH}:
        return refusal
    again = login_link("/") if pending is None else login_link(pending.return_to, pending.provider, "login")
    values = {
        "tenant": visit.tenant.name,
        "host": visit.request.authority,
        "detail": refusal.detail,
        "reason": refusal.reason.value,
        "kind": kind,
        "retry": again,
        "request_id": visit.request_id,
    }
    cookies = () if pending is None else (clear_pending(pending.state),)
    answered: PageAnswer = page(
        "failed.html", values, status=STATUS[refusal.reason], cookies=cookies, reason=refusal.reason
    )
    return answered
