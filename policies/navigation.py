r"""
Where a browser is sent: to the login when nobody is logged in, and back to the page asked for afterwards.

Only a navigation is ever sent to a login (AP-R49): a script or a program that is redirected takes the login page for
its answer. Where a login returns to is a path of our own host and nothing else, judged by the same grammar as every
other path (AP-R8, R41): ``//host``, ``/\host``, ``https:``, blanks and encoded separators are no such path.

Refuses to know how a login works. Source: design section 5.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from policies.decision import Challenge, Deny, Reason
from policies.request import AccessRequest
from policies.tables import TenantTable
from policies.target import canonical_target

MAX_RETURN_CHARS: Final = 2048
"""Longer addresses are not remembered: the login ends at ``/`` then."""
LOGIN_PATH: Final = "/.portero/login"
_OUR_PAGES: Final = "/.portero/"
_RETURNABLE_PAGES: Final = frozenset({"/.portero/whoami", "/.portero/logout"})
_REASONS: Final = frozenset({Reason.CREDENTIAL_MISSING, Reason.SESSION_EXPIRED})


def login_location(request: AccessRequest, refusal: Challenge | Deny, tenant: TenantTable | None) -> str | None:
    """Where to send the browser instead of a 401, relative to our host; None: it gets the 401."""
    if tenant is None or not request.accepts_html or refusal.reason not in _REASONS:
        return None
    if not any(provider.login is not None for provider in tenant.providers):
        return None
    asked = request.target.path if request.target.query is None else f"{request.target.path}?{request.target.query}"
    returns_to = read_return_to(asked)
    return LOGIN_PATH if returns_to is None or returns_to == "/" else f"{LOGIN_PATH}?return_to={quote(returns_to, '/')}"


def read_return_to(text: str) -> str | None:
    """
    The path that a login may return to, with its query; None for what is not a path of ours. Never raises.

    Args:
        text: decoded once from the query of ``/.portero/login``.
    """
    if not 0 < len(text) <= MAX_RETURN_CHARS or not text.isascii() or not text.isprintable() or " " in text:
        return None
    if text[0] != "/" or text[1:2] in {"/", "\\"} or "\\" in text or "#" in text:
        return None
    target = canonical_target(text.encode("ascii"))
    if isinstance(target, Deny) or target.has_encoded_slash:
        return None
    if (target.path + "/").startswith(_OUR_PAGES) and target.path not in _RETURNABLE_PAGES:
        return None
    return target.path if target.query is None else f"{target.path}?{target.query}"
