"""What becomes of requests that cannot be held: pages, later answers, fallbacks, and what wakes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.decision import Allow, Answer, Challenge, Decision, Defer, Deny, Reason, Refusal
from policies.limits import Spent
from policies.no_wake import no_wake_rule
from policies.overflow import OVERFLOWS
from policies.pipeline import Identify, Ready, Spend, judge
from policies.principal import Principal, anonymous
from policies.rbac_table import RoleInput, build_table
from policies.request import AccessRequest
from policies.scope import pattern
from policies.tables import AsyncSpec, ColdStart, FunctionSpec, NoWake, Place, TenantTable
from tests.fakes.tenancy import a_function, a_policy_set, a_request, a_route, a_tenant
from tests.policies.reference import binding, grant

ANA = Principal("login", "ana")
RBAC = build_table(
    [RoleInput("one", (), (grant(["report"], ["invoke"], rule="one"),))], [binding(["one"], subjects=["login|ana"])], ()
)
BROWSER = ((b"Sec-Fetch-Mode", b"navigate"), (b"Accept", b"text/html"))
FULL = Deny(Reason.QUEUE_FULL, retry_after_s=7)


def world(cold_start: ColdStart | None = None, **spec: Any) -> TenantTable:
    report = a_function("report", cold_start=cold_start or ColdStart(), **spec)
    functions: list[FunctionSpec] = [
        report,
        a_function("sorry", is_public=True),
        a_function("small", is_public=True, max_body_bytes=3),
        a_function("secret"),
    ]
    return a_tenant(routes=[a_route("/report", "report")], functions=functions, rbac=RBAC)


def decide(
    request: AccessRequest, tenant: TenantTable, answers: dict[str, Refusal | None], who: Principal | Refusal = ANA
) -> tuple[Decision, list[str]]:
    """The decision when question 5 of each function is answered so, and the functions it was asked of."""
    judging = judge(request, a_policy_set(tenant), 0.0)
    asked: list[str] = []
    try:
        need = next(judging)
        while True:
            sent: Any = None
            if isinstance(need, Identify):
                sent = who
            elif isinstance(need, Spend):
                sent = Spent(())
            elif isinstance(need, Ready):
                asked.append(need.place.function)
                sent = answers[need.place.function]
            need = judging.send(sent)
    except StopIteration as end:
        decision: Decision = end.value
        return decision, asked


@pytest.mark.parametrize("reason", sorted(OVERFLOWS))
def test_a_browser_gets_a_page_that_comes_back(reason: Reason) -> None:
    """Only a browser, only where the function says so; the reason stays what it was."""
    tenant, refusal = world(ColdStart(overflow="page")), Deny(reason, retry_after_s=7)
    decision, _ = decide(a_request("/report", *BROWSER), tenant, {"report": refusal})
    assert decision == replace(refusal, comes_back=True)
    assert decide(a_request("/report"), tenant, {"report": refusal})[0] == refusal
    assert decide(a_request("/report", *BROWSER), world(), {"report": refusal})[0] == refusal


@pytest.mark.parametrize("reason", sorted(set(Reason) - OVERFLOWS - {Reason.FUNCTION_ASLEEP}))
@pytest.mark.parametrize("overflow", ["page", "async", "fallback"])
def test_other_refusals_stay_refusals(reason: Reason, overflow: Any) -> None:
    """A credential that ended while the request was held, a wake that failed: nothing of that overflows."""
    tenant = world(ColdStart(overflow=overflow, fallback="sorry" if overflow == "fallback" else None))
    refusal = Deny(reason)
    decision, asked = decide(a_request("/report", *BROWSER), tenant, {"report": refusal})
    assert decision == refusal
    assert asked == ["report"]
    ended = Challenge(Reason.CREDENTIAL_INVALID)
    assert decide(a_request("/report"), tenant, {"report": ended})[0] == ended


@pytest.mark.parametrize("reason", sorted(OVERFLOWS))
def test_what_overflows_may_be_answered_later(reason: Reason) -> None:
    """With the refusal that it is spared, for whoever has no room either."""
    tenant, refusal = world(ColdStart(overflow="async")), Deny(reason)
    decision, _ = decide(a_request("/report"), tenant, {"report": refusal})
    assert isinstance(decision, Defer)
    assert decision.instead_of == refusal
    assert decision.allow.principal is ANA


def test_a_websocket_is_never_answered_later() -> None:
    """There would be nobody to talk to."""
    fields = (
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Prefer", b"respond-async"),
    )
    request = a_request("/report", *fields)
    assert request.is_websocket
    assert decide(request, world(ColdStart(overflow="async")), {"report": FULL})[0] == FULL
    assert isinstance(decide(request, world(), {"report": None})[0], Allow)


@pytest.mark.parametrize(
    ("target", "fields"),
    [("/report", ((b"Prefer", b"respond-async"),)), ("/async-function/report", ())],
    ids=["preference", "path"],
)
def test_who_asks_to_be_answered_later_is_not_held(target: str, fields: tuple[tuple[bytes, bytes], ...]) -> None:
    """Judged like any other first; question 5 is asked when it runs."""
    request = a_request(target, *fields, method="POST")
    decision, asked = decide(request, world(), {})
    assert isinstance(decision, Defer)
    assert (decision.instead_of, asked) == (None, [])
    assert isinstance(decide(request, world(), {}, who=anonymous())[0], Challenge)


def test_a_function_may_refuse_to_be_answered_later() -> None:
    """A preference is then no more than that; the path for it is no path."""
    tenant = world(deferred=AsyncSpec(is_allowed=False))
    preferring = a_request("/report", (b"Prefer", b"respond-async"))
    assert isinstance(decide(preferring, tenant, {"report": None})[0], Allow)
    decision, _ = decide(a_request("/async-function/report", method="POST"), tenant, {})
    assert isinstance(decision, Deny)
    assert decision.reason is Reason.ROUTE_UNKNOWN


# --- fallback -------------------------------------------------------------------------------------------------------


def test_a_fallback_takes_what_overflows() -> None:
    """Under the same path, as the same caller, and with its own spec."""
    tenant = world(ColdStart(overflow="fallback", fallback="sorry"))
    decision, asked = decide(a_request("/function/report/a/b"), tenant, {"report": FULL, "sorry": None})
    assert isinstance(decision, Allow)
    assert (decision.place.function, decision.place.path, asked) == ("sorry", "/a/b", ["report", "sorry"])
    assert decision.place.spec.is_public
    assert decision.principal is ANA


def test_a_fallback_widens_nothing() -> None:
    """Who may not invoke it is told of the overflow, and nothing of the other function."""
    tenant = world(ColdStart(overflow="fallback", fallback="secret"))
    decision, asked = decide(a_request("/report"), tenant, {"report": FULL})
    assert decision == FULL
    assert asked == ["report"]


def test_a_fallback_that_overflows_is_the_first_refusal() -> None:
    """Once, never in a chain."""
    tenant = world(ColdStart(overflow="fallback", fallback="sorry"))
    decision, asked = decide(a_request("/report"), tenant, {"report": FULL, "sorry": Deny(Reason.OVERLOADED)})
    assert decision == FULL
    assert asked == ["report", "sorry"]


def test_a_fallback_takes_no_body_that_is_too_large_for_it() -> None:
    """Its own bound holds."""
    tenant = world(ColdStart(overflow="fallback", fallback="small"))
    request = a_request("/report", (b"Content-Length", b"4"), method="POST")
    assert decide(request, tenant, {"report": FULL})[0] == FULL


# --- no wake --------------------------------------------------------------------------------------------------------


RULES = (
    NoWake(frozenset({"HEAD"}), None, None, None),
    NoWake(None, (pattern("/healthz"), pattern("/probe/*")), None, 204),
    NoWake(None, None, ("googlebot", "curl/"), 503),
)


def place(path: str, rules: tuple[NoWake, ...] = RULES) -> Place:
    spec = a_function("report", cold_start=ColdStart(no_wake=rules))
    return Place(a_tenant(), "report", spec, None, (), has_trailing_slash=False, path=path)


@pytest.mark.parametrize(
    ("path", "method", "fields", "expected"),
    [
        ("/", "HEAD", (), 0),
        ("/", "GET", (), None),
        ("/healthz", "GET", (), 1),
        ("/healthz/x", "GET", (), None),
        ("/probe/", "GET", (), 1),
        ("/probe", "GET", (), None),
        ("/", "GET", ((b"User-Agent", b"Mozilla/5.0 (compatible; Googlebot/2.1)"),), 2),
        ("/", "GET", ((b"USER-AGENT", b"curl/8"),), 2),
        ("/", "GET", ((b"X-User-Agent", b"curl/8"),), None),
        ("/", "GET", ((b"X-Note", b"user-agent: curl/8"),), None),
        ("/", "GET", ((b"User-Agent", b"\xff\xfe"),), None),
        ("/", "GET", ((b"User-Agent", b""),), None),
    ],
)
def test_rules(path: str, method: str, fields: tuple[tuple[bytes, bytes], ...], expected: int | None) -> None:
    """By method, by path, by a piece of the User-Agent and of no other field."""
    found = no_wake_rule(place(path), a_request(path, *fields, method=method))
    assert found is (None if expected is None else RULES[expected])


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [("/", "HEAD", None), ("/healthz", "GET", 204), ("/", "GET", None)],
)
def test_what_wakes_nothing_is_answered(path: str, method: str, expected: int | None) -> None:
    """With its rule's status, else with the refusal."""
    tenant = world(ColdStart(no_wake=RULES))
    asleep = Deny(Reason.FUNCTION_ASLEEP, retry_after_s=3, tenant="acme")
    decision, _ = decide(a_request(f"/function/report{path}", method=method), tenant, {"report": asleep})
    if expected is None:
        assert decision == asleep
    else:
        assert isinstance(decision, Answer)
        assert decision.status == expected
