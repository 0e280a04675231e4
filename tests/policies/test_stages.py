"""
Some of the questions alone: a chain of them comes to the decision that all of them at once would come to.

Longer than other modules: each stage, alone and after others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.decision import Allow, Answer, Challenge, Decision, Defer, Deny, Known, LimitState, Page, Reason, Refusal
from policies.limits import Spent
from policies.pipeline import Identify, Need, Ready, Spend, judge
from policies.principal import Principal, anonymous
from policies.rbac_table import RoleInput, build_table
from policies.request import AccessRequest
from policies.stages import ORDER, Asking, Earlier, Stage, judge_stages
from policies.tables import ColdStart, LimitSpec, PolicySet, TenantTable
from tests.fakes.tenancy import a_function, a_policy_set, a_request, a_route, a_tenant
from tests.policies.reference import binding, deny, grant

APP = "https://app.acme.example"
REQUEST_ID = "0123456789abcdef0123456789abcdef"
REVISION = "r1"
RBAC = build_table(
    [RoleInput("all", (), (grant(["*"], ["*"], rule="all"),))],
    [binding(["all"], subjects=["login|ana"])],
    [deny(["secret"], ["*"], rule="no")],
)
ROUTES = [
    a_route("/reports", "report", cors_origins=[APP]),
    a_route("/form", "form"),
    a_route("/secret", "secret"),
    a_route("/old", "old", is_https_only=True),
    a_route("/slow", "slow"),
]
FUNCTIONS = [
    a_function("form", is_public=True, max_body_bytes=100),
    a_function("report"),
    a_function("slow", cold_start=ColdStart(overflow="fallback", fallback="form")),
]
RATE = LimitSpec("rate", "subject", None, 1.0, 1, 1, 1, None, None, "local", "acme.yaml:9")
ACME = a_tenant(routes=ROUTES, functions=FUNCTIONS, rbac=RBAC, limits=(RATE,))
EVERY_STAGE = frozenset(ORDER)


class Answers(NamedTuple):
    """What the needs of one request are answered with."""

    caller: Principal | Refusal
    spent: Spent
    ready: Principal | Refusal | None

    def to(self, need: Need) -> Any:
        match need:
            case Identify():
                return self.caller
            case Spend():
                return self.spent
            case Ready():
                return self.ready


def run(judging: Asking, answers: Answers) -> tuple[Decision | Known, list[str]]:
    """The decision, and the needs that came up."""
    asked = []
    try:
        need = next(judging)
        while True:
            asked.append(f"{type(need).__name__} {need.place.function}")
            need = judging.send(answers.to(need))
    except StopIteration as end:
        decision: Decision | Known = end.value
        return decision, asked


def found(known: Known, done: frozenset[Stage]) -> Earlier:
    place = known.place
    return Earlier(
        done,
        known.principal,
        known.rule,
        known.limits,
        known.shadowed,
        REQUEST_ID,
        place.tenant.name,
        place.function,
        REVISION,
    )


def run_chain(
    request: AccessRequest, policies: PolicySet, answers: Answers, pieces: list[frozenset[Stage]]
) -> tuple[Decision | Known, list[str]]:
    """One piece after the other, each with what those before have found; the last one is final."""
    earlier, asked = None, []
    done: frozenset[Stage] = frozenset()
    decision: Decision | Known | None = None
    for piece in pieces:
        is_final = piece is pieces[-1]
        judging = judge_stages(request, policies, 0.0, piece, earlier, is_final=is_final)
        decision, needs = run(judging, answers)
        asked += needs
        if not isinstance(decision, Known):
            break
        done |= piece
        earlier = found(decision, done)
    assert decision is not None
    return decision, asked


def alone(
    stages: set[Stage], request: AccessRequest, answers: Answers, earlier: Earlier | None = None, *, final: bool = False
) -> tuple[Decision | Known, list[str]]:
    judging = judge_stages(request, a_policy_set(ACME), 0.0, frozenset(stages), earlier, is_final=final)
    return run(judging, answers)


def ana(**changes: Any) -> Principal:
    principal = Principal("login", "ana")
    for name, value in changes.items():
        setattr(principal, name, value)
    return principal


YES = Answers(ana(), Spent((LimitState("rate", 1, 1, 0, 1),)), None)
REPORT = a_request("/reports")


# --- a chain is the whole -------------------------------------------------------------------------------------------

LOGGED_OUT = anonymous()
LOGGED_OUT.is_session_over = True
CALLERS: list[Principal | Refusal] = [
    ana(),
    ana(is_by_cookie=True),
    ana(only_function="report"),
    Principal("login", "bob"),
    anonymous(),
    LOGGED_OUT,
    Challenge(Reason.CREDENTIAL_INVALID, "invalid_token"),
    Deny(Reason.KEYS_UNAVAILABLE),
]
SPENT = [Spent(()), YES.spent, Spent(YES.spent.states, 0, 3)]
READY: list[Principal | Refusal | None] = [
    None,
    Principal("login", "ana"),
    Deny(Reason.QUEUE_FULL, tenant="acme"),
    Deny(Reason.FUNCTION_ASLEEP, tenant="acme"),
    Challenge(Reason.CREDENTIAL_INVALID, "invalid_token"),
]
FIELDS: list[tuple[tuple[bytes, bytes], ...]] = [
    (),
    ((b"Content-Length", b"101"),),
    ((b"Origin", b"https://evil.example"),),
    ((b"Prefer", b"respond-async"),),
    ((b"Origin", APP.encode()), (b"Access-Control-Request-Method", b"GET")),
]
TARGETS = ["/reports", "/form", "/secret", "/old", "/slow", "/nothing", "/function/report", "/.portero/whoami"]
SHADOWS = [frozenset[str](), frozenset({"policy"}), frozenset({"limits"}), frozenset({"policy", "limits", "identity"})]
SPLITS = [
    [{Stage.TENANT}, {Stage.RBAC}, {Stage.RATELIMIT}, {Stage.COLDSTART}],
    [{Stage.TENANT, Stage.RBAC}, {Stage.RATELIMIT, Stage.COLDSTART}],
    [{Stage.RBAC}, {Stage.RATELIMIT}],
    [{Stage.TENANT}, {Stage.RATELIMIT}],
    [EVERY_STAGE],
]


@given(
    st.sampled_from(TARGETS),
    st.sampled_from(["GET", "POST", "OPTIONS"]),
    st.sampled_from(FIELDS),
    st.sampled_from(CALLERS),
    st.sampled_from(SPENT),
    st.sampled_from(READY),
    st.sampled_from(SHADOWS),
    st.sampled_from(SPLITS),
)
@example("/reports", "GET", (), LOGGED_OUT, YES.spent, None, frozenset(), SPLITS[0])
def test_a_chain_decides_as_the_whole_does(
    target: str,
    method: str,
    fields: tuple[tuple[bytes, bytes], ...],
    caller: Principal | Refusal,
    spent: Spent,
    ready: Principal | Refusal | None,
    shadow: frozenset[str],
    split: list[set[Stage]],
) -> None:
    """However the questions are shared out, as long as each is asked: same decision, same needs in the same order."""
    policies = a_policy_set(replace(ACME, shadow=shadow))
    request = a_request(target, *fields, method=method)
    answers = Answers(caller, spent, ready)
    whole = run(judge(request, policies, 0.0), answers)
    chain = run_chain(request, policies, answers, [frozenset(piece) for piece in split])
    assert _told(chain) == _told(whole)


def _told(run: tuple[Decision | Known, list[str]]) -> tuple[object, list[str]]:
    """Comparable: principals are compared by who they are."""
    decision, asked = run
    if isinstance(decision, Defer):
        return (_allowed(decision.allow), decision.instead_of), asked
    return (_allowed(decision) if isinstance(decision, Allow) else decision), asked


def _allowed(allow: Allow) -> object:
    return allow.place, allow.principal.subject, allow.rule, allow.limits, allow.shadowed, allow.instead_of


# --- one piece alone ------------------------------------------------------------------------------------------------


def test_the_tenant_stage_asks_nobody_who_he_is() -> None:
    """Question 1 is answered from tables alone."""
    known, asked = alone({Stage.TENANT}, REPORT, YES)
    assert isinstance(known, Known)
    assert (known.place.function, known.principal, asked) == ("report", None, [])


def test_rates_are_counted_for_who_is_calling() -> None:
    """Without rbac before it, the ratelimit stage finds out who; and not whether he may: that is another's question."""
    known, asked = alone({Stage.RATELIMIT}, REPORT, YES._replace(caller=Principal("login", "bob")))
    assert isinstance(known, Known)
    assert known.principal is not None
    assert (known.principal.subject, asked) == ("login|bob", ["Identify report", "Spend report"])


@pytest.mark.parametrize("stage", ORDER)
def test_nothing_leaves_without_having_been_asked(stage: Stage) -> None:
    """Whatever the last one of a chain is called: who is calling and whether he may is asked before the function."""
    decision, _ = alone({stage}, REPORT, YES._replace(caller=anonymous()), final=True)
    assert isinstance(decision, Challenge)
    assert decision.reason is Reason.CREDENTIAL_MISSING
    allowed, asked = alone({stage}, REPORT, YES, final=True)
    assert isinstance(allowed, Allow)
    assert asked[0] == "Identify report"
    assert asked[-1] == "Ready report"
    assert ("Spend report" in asked) is (stage is Stage.RATELIMIT)


def test_the_coldstart_stage_holds_nothing_where_it_is_not_the_last() -> None:
    """A place at the function is taken by who lets the request out."""
    known, asked = alone({Stage.COLDSTART}, REPORT, YES)
    assert isinstance(known, Known)
    assert asked == []


@pytest.mark.parametrize("stages", [{Stage.COLDSTART}, {Stage.RATELIMIT, Stage.COLDSTART}], ids=len)
def test_what_was_asked_is_not_asked_again(stages: set[Stage]) -> None:
    """The last one takes the caller, the rule and the limits from those before it; a rate is spent once."""
    earlier = Earlier(
        frozenset({Stage.TENANT, Stage.RBAC, Stage.RATELIMIT}),
        ana(),
        None,
        YES.spent.states,
        (),
        REQUEST_ID,
        "acme",
        "report",
        REVISION,
    )
    allowed, asked = alone(stages, REPORT, YES, earlier, final=True)
    assert isinstance(allowed, Allow)
    assert (allowed.principal, allowed.limits, asked) == (earlier.principal, YES.spent.states, ["Ready report"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tenant": "globex"}, Reason.POLICY_UNAVAILABLE),
        ({"function": "form"}, Reason.POLICY_UNAVAILABLE),
        ({"function": ""}, Reason.POLICY_UNAVAILABLE),
        ({"principal": None}, Reason.INTERNAL_ERROR),
    ],
    ids=["another tenant", "another function", "a page of ours", "nobody named"],
)
@pytest.mark.parametrize("is_final", [True, False])
def test_what_does_not_fit_the_request_is_a_refusal(changes: dict[str, Any], reason: Reason, is_final: bool) -> None:
    """A policy that was swapped in the middle of a chain, or a chain that lost something, never widens access."""
    earlier = Earlier(frozenset({Stage.RBAC}), ana(), None, (), (), REQUEST_ID, "acme", "report", REVISION)
    refused, asked = alone({Stage.COLDSTART}, REPORT, YES, earlier._replace(**changes), final=is_final)
    assert isinstance(refused, Deny)
    assert (refused.reason, refused.tenant, asked) == (reason, "acme", [])


def earlier_of(*done: Stage, **changes: Any) -> Earlier:
    spared = (Deny(Reason.NO_RULE_ALLOWS), Deny(Reason.RATE_LIMITED))
    states = YES.spent.states
    return Earlier(frozenset(done), ana(), None, states, spared, REQUEST_ID, "acme", "report", REVISION)._replace(
        **changes
    )


@pytest.mark.parametrize(
    "changes", [{"revision": "r0"}, {"principal": ana(expires_at=0.0)}], ids=["another policy", "an old token"]
)
@pytest.mark.parametrize("is_final", [True, False])
def test_what_does_not_hold_any_more_is_asked_again(changes: dict[str, Any], is_final: bool) -> None:
    """Who is calling, and whether he may; a rate that was spent is not spent again."""
    earlier = earlier_of(Stage.TENANT, Stage.RBAC, Stage.RATELIMIT, **changes)
    last = {Stage.COLDSTART}
    allowed, asked = alone(last, REPORT, YES, earlier, final=is_final)
    assert isinstance(allowed, Allow if is_final else Known)
    assert asked[0] == "Identify report"
    assert not [need for need in asked if need.startswith("Spend")]
    assert [refusal.reason for refusal in allowed.shadowed] == [Reason.RATE_LIMITED]
    refused, _ = alone(last, REPORT, YES._replace(caller=Principal("login", "bob")), earlier, final=is_final)
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.NO_RULE_ALLOWS


def test_what_nobody_has_asked_is_not_asked_again_either() -> None:
    """Of a policy that has changed: whether he may is asked by the last one, as it would have been."""
    known, asked = alone({Stage.COLDSTART}, REPORT, YES, earlier_of(Stage.RATELIMIT, revision="r0"))
    assert isinstance(known, Known)
    assert (known.principal, asked) == (None, [])


def test_pages_and_preflights_are_nobodys_to_judge() -> None:
    """They come out of question 1, whoever asks it."""
    preflight = a_request(
        "/reports", (b"Origin", APP.encode()), (b"Access-Control-Request-Method", b"GET"), method="OPTIONS"
    )
    for stage in ORDER:
        assert isinstance(alone({stage}, a_request("/.portero/whoami"), YES)[0], Page)
        assert isinstance(alone({stage}, preflight, YES)[0], Answer)


def test_what_was_found_shows_nobody() -> None:
    """Its text may stand in a log."""
    earlier = Earlier(frozenset({Stage.RBAC}), ana(), None, (), (), REQUEST_ID, "acme", "report", REVISION)
    assert "ana" not in repr(earlier)


def test_tenants_are_told_apart() -> None:
    """A tenant that is switched off meanwhile refuses in the middle of a chain."""
    off: TenantTable = replace(ACME, is_disabled=True)
    earlier = Earlier(frozenset({Stage.RBAC}), ana(), None, (), (), REQUEST_ID, "acme", "report", REVISION)
    judging = judge_stages(REPORT, a_policy_set(off), 0.0, frozenset({Stage.COLDSTART}), earlier, is_final=True)
    decision, _ = run(judging, YES)
    assert isinstance(decision, Deny)
    assert decision.reason is Reason.TENANT_DISABLED
