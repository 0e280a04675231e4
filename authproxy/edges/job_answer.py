"""
What a caller is told whose request is answered later: where, for how long, and whether a restart would lose it.

A program gets JSON; a browser a page that goes on to the result by itself, for nobody behind it reads ``Location``.
"""

from __future__ import annotations

from typing import Final

from authproxy.gate.verdict import Deferred, PageAnswer
from authproxy.pages.answers import document, page
from policies.tenancy import OUR_PAGES, RESULT
from policies.waiting_page import LATEST_S

_KEPT: Final = (
    "once it is there, the result can be fetched from any replica, also after a restart; "
    "a restart of this server before that ends the request"
)
_NOT_KEPT: Final = "a restart of this server loses the result"


def accepted_answer(deferred: Deferred, result_id: str, wait_s: int, *, is_shared: bool) -> PageAnswer:
    """
    202 (RFC 9110 section 15.3.3), to be asked about in ``wait_s`` seconds.

    ``Preference-Applied`` stands where the caller had a preference (RFC 7240 section 3), ``X-Call-Id`` where OpenFaaS'
    callers look for it.
    """
    place = deferred.allow.place
    path = f"{OUR_PAGES}{RESULT}/{result_id}"
    wait_s = max(1, wait_s)
    if deferred.request.accepts_html:
        shown = {"seconds": min(wait_s, LATEST_S), "location": path, "detail": "" if is_shared else _NOT_KEPT}
        whose = {"tenant": place.tenant.name, "host": deferred.request.authority}
        answer = page("pending.html", whose | shown, status=202)
    else:
        said = {
            "result": path,
            "expires_in": int(place.spec.deferred.keep_s),
            "kept_in": "redis" if is_shared else "memory",
            "survives_restart": is_shared,
            "detail": _KEPT if is_shared else _NOT_KEPT,
        }
        answer = document(said, status=202)
    fields = [*answer.fields, ("Location", path), ("Retry-After", str(wait_s))]
    if deferred.request.wants_async:
        fields.append(("Preference-Applied", "respond-async"))
    if place.is_deferred:
        fields.append(("X-Call-Id", result_id))
    return answer._replace(fields=tuple(fields))
