"""
What becomes of a request that cannot be held, or not for long enough: what its function's ``overflow`` says.

A refusal; for a browser a page that comes back by itself; 202, to be fetched later; or another function, which the
caller must be allowed to invoke like any other. Nothing here lets anybody do more than the policy says of the function
that is reached in the end. Source: design section 7; FA-R20.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from policies.decision import Deny, Reason
from policies.request import AccessRequest
from policies.tables import Place
from policies.tenancy import function_spec

OVERFLOWS: Final = frozenset({Reason.QUEUE_FULL, Reason.OVERLOADED, Reason.COLD_START_TIMEOUT})
"""Refusals of a request that the function would have taken, had there been time or room."""


def may_defer(place: Place, request: AccessRequest) -> bool:
    """Whether a request of this place can be answered later at all: a websocket cannot."""
    return place.spec.deferred.is_allowed and not request.is_websocket


def is_deferred_at_once(place: Place, request: AccessRequest) -> bool:
    """Whether the caller asks to be answered later: ``Prefer: respond-async``, or ``/async-function/``."""
    return (place.is_deferred or request.wants_async) and may_defer(place, request)


def is_spared(place: Place, request: AccessRequest, refusal: Deny) -> bool:
    """Whether 202 takes the place of ``refusal``."""
    overflow = place.spec.cold_start.overflow
    return overflow == "async" and refusal.reason in OVERFLOWS and may_defer(place, request)


def with_page(place: Place, request: AccessRequest, refusal: Deny) -> Deny:
    """``refusal``, as a page that comes back by itself where the function says so and a browser asks."""
    if place.spec.cold_start.overflow == "page" and refusal.reason in OVERFLOWS and request.accepts_html:
        return replace(refusal, comes_back=True)
    return refusal


def fallback_of(place: Place) -> Place | None:
    """The same request at the function that takes what overflows; None when there is none."""
    name = place.spec.cold_start.fallback
    if name is None:
        return None
    return replace(place, function=name, spec=function_spec(place.tenant.functions, name))


def takes_body(place: Place, request: AccessRequest) -> bool:
    """Whether the function takes a body as long as the request says that its own is."""
    length, most = request.content_length, place.spec.max_body_bytes
    return length is None or most is None or length <= most
