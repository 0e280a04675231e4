"""
``POST /.portero/backchannel-logout``: a provider says that somebody has logged out there.

It decides what a logout token ends, and that it does so once: a token that was used may not end what has begun since.
``sid`` names one session and only that ends; without it all sessions of the subject end (section 2.4: "If a sid Claim
is not present, the intent is that all sessions at the RP for the End-User identified by the iss and sub Claims be
logged out"). What cannot be told to every replica, or whose single use cannot be known, is not done and answered 503,
so that the provider sends it again (AP-R26). Refuses to know how a token is verified and how replicas are told.

Source: OpenID Connect Back-Channel Logout 1.0 sections 2.4 to 2.8; AP-R26.
"""

from __future__ import annotations

from typing import Final

from authproxy.gate.verdict import PageAnswer
from authproxy.identity.providers.oidc import LoginRefused
from authproxy.identity.sessions.sessions import MARK_S
from authproxy.identity.shared.state import key
from authproxy.pages.answers import failure
from authproxy.pages.form import read_form
from authproxy.pages.parts import Answered, Parts, Visit
from policies.decision import Deny, Reason
from policies.id_token import LogoutNotice

METHODS: Final = ("POST",)

_MIN_KEPT_S: Final = 120.0
"""How long a used token is remembered at least: the store's clock may differ from ours."""
_BEGUN: Final = b"begun"
_DONE: Final = b"done"
_ERROR: Final = "invalid_request"
_FIELDS: Final = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))


async def answer(parts: Parts, visit: Visit) -> Answered:
    """See the module."""
    tenant = visit.tenant
    form = read_form(visit.call.case.head.fields, visit.body)
    if isinstance(form, Deny):
        return failure(_ERROR, form.detail, form.reason)
    token = form.get("logout_token", "")
    if not token:
        return failure(_ERROR, "logout_token is missing", Reason.BAD_REQUEST)
    try:
        notice = await parts.client.judge_logout_token(tenant, token, visit.now)
    except LoginRefused as refused:
        return failure(_ERROR, refused.refusal.detail, Reason.CREDENTIAL_INVALID)
    used = key(tenant.name, "logout-jti", notice.issuer, notice.jti)
    kept_s = max(notice.expires_at - visit.now, 0.0) + _MIN_KEPT_S
    # Two steps: a logout that was begun and could not be finished may be sent again, one that was done may not.
    if not await parts.state.add(used, _BEGUN, kept_s) and await parts.state.get(used) != _BEGUN:
        return failure(_ERROR, "the logout token was used before", Reason.CREDENTIAL_INVALID)
    await _revoke(parts, visit, notice)
    await parts.state.put(used, _DONE, kept_s)
    parts.count_logout(tenant, "back-channel")
    subject = None if notice.sub is None else f"{notice.provider}|{notice.sub}"
    return PageAnswer(200, _FIELDS, subject=subject)


async def _revoke(parts: Parts, visit: Visit, notice: LogoutNotice) -> None:
    """What was established up to now, until the longest-lived of it has expired by itself. Raises: StoreUnavailable."""
    tenant, now = visit.tenant, visit.now
    lifetimes = [p.max_token_lifetime_s for p in tenant.providers if p.issuer == notice.issuer]
    until = now + max(tenant.sessions.absolute_s, *lifetimes, MARK_S) + _MIN_KEPT_S
    if notice.sid is not None:
        await parts.revocations.revoke_sid(tenant.name, notice.issuer, notice.sid, now, until)
    elif notice.sub is not None:
        await parts.revocations.revoke_subject(tenant.name, notice.issuer, notice.sub, now, until)
