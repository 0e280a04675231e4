"""
``/.portero/result/ID``: GET fetches what a deferred request came to, DELETE has it forgotten.

Only its owner may: the same subject in the same tenant, or, where an anonymous caller began it, whoever knows the id.
Everybody else gets one answer, whether there is such a result or not. While it is pending the answer is 202 and says
when to come again; ``X-Portero-Result`` tells that apart from a function's own 202.

A function's answer is served here under an address of ours, so nothing in it may act beyond itself: it is sandboxed
(no script, no origin), kept by nobody, and read by no page of another origin, and fields that work on the browser's
view of the whole host are left out. Refuses to know where results are kept, and what runs.

Source: RFC 9110 section 15.3.3, RFC 7240 section 4.1; HTML Living Standard section 7.1.5 (sandbox); Service Workers
section 3.4 (``Service-Worker: script``).
"""

from __future__ import annotations

from typing import Final

from authproxy.gate.verdict import PageAnswer
from authproxy.pages.answers import cookies_of, document, page, set_cookies
from authproxy.pages.parts import Answered, Parts, Visit, identify
from authproxy.results.result import Owner, Result
from policies.decision import Challenge, Deny, Reason
from policies.errors import StoreUnavailable
from policies.header_fields import ANSWER_KINDS, KEEP
from policies.origin import refuse_cross_origin
from policies.principal import Principal
from policies.tenancy import OUR_PAGES, RESULT

METHODS: Final = ("GET", "HEAD", "DELETE")
POLL_S: Final = 2
"""``Retry-After`` of a pending result."""

_STATE: Final = "X-Portero-Result"
_ITSELF: Final = {"location": "", "detail": ""}
"""The page comes back to its own address, and there is nothing more to say."""
_ALWAYS: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),  # for an anonymous caller the address is the credential
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_OURS: Final = frozenset({b"x-portero-reason", b"x-portero-cold-start"})
"""What Portero itself said when it kept a refusal, or a cold start; a function's own do not get as far as here."""
_LEFT_OUT: Final = frozenset(
    {
        # Said anew above.
        b"x-content-type-options",
        b"referrer-policy",
        b"cross-origin-resource-policy",
        # Of another moment.
        b"age",
        b"pragma",
        b"ratelimit",
        b"ratelimit-policy",
        # These act upon more than the answer that they stand in.
        b"set-cookie",
        b"set-cookie2",
        b"service-worker-allowed",
        b"clear-site-data",
        b"strict-transport-security",
        b"alt-svc",
        b"origin-agent-cluster",
        b"nel",
        b"report-to",
        b"reporting-endpoints",
        b"speculation-rules",
        b"timing-allow-origin",
        b"refresh",
    }
)
_CORS: Final = b"access-control-"
"""With the owner's cookie, and a function's leave, any page could read it."""
_CONTROLS: Final = bytes(n for n in (*range(32), 127) if n != 9)
_STATUSES: Final = range(200, 600)
_UNAVAILABLE: Final = Deny(Reason.SESSION_STORE_UNAVAILABLE, "results cannot be read at the moment")


async def answer(parts: Parts, visit: Visit) -> Answered:
    """See the module."""
    tenant = visit.tenant
    if _is_worker(visit):
        return Deny(Reason.BAD_REQUEST, "a result is nothing to run", tenant=tenant.name)
    caller = await identify(parts, visit)
    if not isinstance(caller, Principal):
        return caller
    if caller.only_function is not None:
        # The function that was handed the token must not read what others have answered.
        return Challenge(Reason.CREDENTIAL_INVALID, "invalid_token", "the token is for a function", tenant.name)
    if caller.is_by_cookie and (refusal := refuse_cross_origin(visit.request, tenant.name)):
        return refusal
    if parts.results is None:
        return _unknown(visit, caller)
    try:
        found = await parts.results.read(tenant.name, visit.call.page.rest)
        if found is None or not _may_have(caller, found[0]):
            return _unknown(visit, caller)
        if visit.request.method == "DELETE":
            return await _delete(parts, visit, caller)
    except StoreUnavailable:
        return _UNAVAILABLE
    result = found[1]
    return _pending(visit, caller) if result is None else _done(result, caller)


def _is_worker(visit: Visit) -> bool:
    """
    A page of a function asks for a script that would stand between this browser and all results of the host.

    Only whether one of the fields says so matters; what a function answers as a script runs where it says it does.
    """
    fields = visit.call.case.head.fields
    return any(
        (name.lower(), value.strip().lower()) in {(b"service-worker", b"script"), (b"sec-fetch-dest", b"serviceworker")}
        for name, value in fields
    )


def _may_have(caller: Principal, owner: Owner) -> bool:
    return owner.subject is None or (not caller.is_anonymous and caller.subject == owner.subject)


def _unknown(visit: Visit, caller: Principal) -> Answered:
    """One answer to all that is not this caller's; whose session has ended is told that, whatever there is."""
    if caller.is_session_over:
        return Challenge(Reason.SESSION_EXPIRED, tenant=visit.tenant.name)
    return Deny(Reason.RESULT_UNKNOWN, tenant=visit.tenant.name)


async def _delete(parts: Parts, visit: Visit, caller: Principal) -> Answered:
    """Raises: StoreUnavailable."""
    if parts.results is None or not await parts.results.delete(visit.tenant.name, visit.call.page.rest):
        return _unknown(visit, caller)  # somebody else was faster, or its time was over
    if parts.forget_job is not None:
        parts.forget_job(visit.tenant.name, visit.call.page.rest)
    return PageAnswer(204, (*_ALWAYS, *set_cookies(cookies_of(caller))), subject=_subject(caller))


def _pending(visit: Visit, caller: Principal) -> PageAnswer:
    cookies, subject = cookies_of(caller), _subject(caller)
    said = (("Retry-After", str(POLL_S)), (_STATE, "pending"))
    if not visit.request.accepts_html:
        members = {"status": "pending", "result": f"{OUR_PAGES}{RESULT}/{visit.call.page.rest}"}
        return document(members, status=202, cookies=cookies, fields=(*_ALWAYS, *said), subject=subject)
    values = {"tenant": visit.tenant.name, "host": visit.request.authority, "seconds": POLL_S, **_ITSELF}
    shown = page("pending.html", values, status=202, cookies=cookies, subject=subject)
    return shown._replace(fields=(*shown.fields, *said))


def _done(result: Result, caller: Principal) -> Answered:
    if result.status not in _STATUSES:
        return Deny(Reason.UPSTREAM_GARBLED)
    fields = [
        *((name.decode("latin-1"), value.decode("latin-1")) for name, value in result.fields if _is_kept(name, value)),
        *_ALWAYS,
        # Beside a policy of the function's own: browsers hold an answer to each of several.
        ("Content-Security-Policy", "sandbox"),
        (_STATE, "done"),
        *set_cookies(cookies_of(caller)),
    ]
    return PageAnswer(result.status, tuple(fields), result.body, subject=_subject(caller))


def _is_kept(name: bytes, value: bytes) -> bool:
    """Whether a field of the function's answer is written: never one that would end its own line."""
    if value.translate(None, _CONTROLS) != value:
        return False
    lowered = name.lower()
    if lowered in _OURS:
        return True
    return ANSWER_KINDS[name] == KEEP and lowered not in _LEFT_OUT and not lowered.startswith(_CORS)


def _subject(caller: Principal) -> str | None:
    return None if caller.is_anonymous else caller.subject
