"""
``GET /.portero/whoami``: who Portero takes the caller for, which roles that gives, and until when.

A page for a browser's navigation, JSON for everybody else. No token stands in either (AP-R14), and no page of another
origin can read it: there is no CORS here. A token that was given out for one function learns nothing here. Refuses to
know how callers are identified.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from authproxy.identity.sessions.session import Session
from authproxy.pages.answers import cookies_of, document, page
from authproxy.pages.logout import logout_targets
from authproxy.pages.parts import Answered, Parts, Visit, identify
from policies.decision import Challenge, Reason
from policies.principal import Principal
from policies.rbac import roles_of
from policies.tables import TenantTable

METHODS: Final = ("GET", "HEAD")


async def answer(parts: Parts, visit: Visit) -> Answered:
    """See the module."""
    tenant = visit.tenant
    caller = await identify(parts, visit)
    if not isinstance(caller, Principal):
        return caller
    if caller.is_anonymous:
        reason = Reason.SESSION_EXPIRED if caller.is_session_over else Reason.CREDENTIAL_MISSING
        return Challenge(reason, tenant=tenant.name)
    if caller.only_function is not None:
        return Challenge(Reason.CREDENTIAL_INVALID, "invalid_token", "the token is for a function", tenant.name)
    session = await parts.sessions.open(tenant, visit.request, visit.now) if caller.is_by_cookie else None
    facts = _facts(tenant, caller, session)
    cookies = cookies_of(caller)
    if not visit.request.accepts_html:
        return document(facts, cookies=cookies, subject=caller.subject)
    targets = () if session is None else await logout_targets(parts, visit, session)
    values = {**facts, "host": visit.request.authority, "session": _shown(facts["session"])}
    return page("whoami.html", values, form_action=targets, cookies=cookies, subject=caller.subject)


def _facts(tenant: TenantTable, caller: Principal, session: Session | None) -> dict[str, Any]:
    """Instants are Unix seconds. ``groups`` is null when the provider speaks of groups that cannot be had."""
    return {
        "tenant": tenant.name,
        "subject": caller.subject,
        "provider": caller.provider,
        "name": caller.name,
        "email": caller.email,
        "groups": None if caller.has_unknown_groups else sorted(caller.groups),
        "roles": list(roles_of(tenant.rbac, caller)),
        "expires_at": _seconds(caller.expires_at),
        "session": None if session is None else _times(tenant, session),
    }


def _times(tenant: TenantTable, session: Session) -> dict[str, int | None]:
    return {
        "created_at": _seconds(session.created_at),
        "idle_ends_at": _seconds(session.seen_at + tenant.sessions.idle_s),
        "ends_at": _seconds(session.created_at + tenant.sessions.absolute_s),
    }


def _seconds(instant: float | None) -> int | None:
    return None if instant is None else int(instant)


def _shown(times: dict[str, int | None] | None) -> dict[str, dict[str, str]] | None:
    """For persons: UTC, because nothing here knows where they are."""
    if times is None:
        return None
    shown = {}
    for name, at in times.items():
        moment = datetime.fromtimestamp(at or 0, UTC)
        shown[name] = {"machine": moment.isoformat(), "person": f"{moment:%Y-%m-%d %H:%M} UTC"}
    return shown
