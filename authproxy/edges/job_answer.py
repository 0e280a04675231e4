"""What a caller is told whose request is answered later: where, for how long, and whether a restart would lose it."""

from __future__ import annotations

import json
from typing import Final

from authproxy.gate.verdict import Deferred, PageAnswer
from policies.tenancy import OUR_PAGES, RESULT

_KEPT: Final = "the result can be fetched from any replica, also after a restart"
_NOT_KEPT: Final = "a restart of this server loses the result"


def accepted_answer(deferred: Deferred, result_id: str, wait_s: int, *, is_shared: bool) -> PageAnswer:
    """
    202 (RFC 9110 section 15.3.3), to be asked about in ``wait_s`` seconds.

    ``Preference-Applied`` stands where the caller had a preference (RFC 7240 section 3), ``X-Call-Id`` where OpenFaaS'
    callers look for it.
    """
    place = deferred.allow.place
    path = f"{OUR_PAGES}{RESULT}/{result_id}"
    said = {
        "result": path,
        "expires_in": int(place.spec.deferred.keep_s),
        "kept_in": "redis" if is_shared else "memory",
        "survives_restart": is_shared,
        "detail": _KEPT if is_shared else _NOT_KEPT,
    }
    fields = [
        ("Content-Type", "application/json"),
        ("Cache-Control", "no-store"),
        ("Location", path),
        ("Retry-After", str(max(1, wait_s))),
    ]
    if deferred.request.wants_async:
        fields.append(("Preference-Applied", "respond-async"))
    if place.is_deferred:
        fields.append(("X-Call-Id", result_id))
    return PageAnswer(202, tuple(fields), json.dumps(said).encode("ascii") + b"\n")
