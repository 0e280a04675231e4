"""
The cross-origin rule: whose page may make a browser use a session?

A browser sends a cookie with every request to our host, whichever page caused it. What changes something, and every
websocket (which no preflight guards), is therefore taken only from a page of our own origin, or of one that the route
lists. Callers with an ``Authorization`` field are not asked: no page can make a browser send one unasked.

Refuses to know sessions. Source: design section 5 (cross-origin); Fetch Metadata section 2.3; RFC 6454; RFC 6455
section 10.2.
"""

from __future__ import annotations

from typing import Final

from policies.decision import Deny, Reason
from policies.request import AccessRequest

_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
_OWN_SITES: Final = frozenset({"same-origin", "none"})
"""``none``: the person did it, not a page (typed, bookmarked)."""
_NOBODY: Final[frozenset[str]] = frozenset()


def refuse_cross_origin(request: AccessRequest, tenant: str, listed: frozenset[str] = _NOBODY) -> Deny | None:
    """
    The refusal of a request whose credential is a cookie, when a page of another origin may have caused it.

    Args:
        request: authenticated by a cookie.
        tenant: for the refusal.
        listed: ``cors.origins`` of the route.
    """
    if request.method in _SAFE_METHODS and not request.is_websocket:
        return None
    if request.fetch_site in _OWN_SITES:
        return None
    origin = request.origin
    if origin is not None and (origin == request.own_origin or origin in listed):
        return None
    return Deny(Reason.ORIGIN_REFUSED, "a page of another origin may not use this session", tenant=tenant)
