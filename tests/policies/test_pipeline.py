"""The order of the questions where sessions, tokens for one function and Portero's own pages come in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.decision import Allow, Answer, Challenge, Decision, Deny, Page, Reason, Refusal
from policies.limits import Spent
from policies.pipeline import Identify, Spend, judge, judge_again
from policies.principal import Principal, anonymous
from policies.rbac_table import RoleInput, build_table
from policies.request import AccessRequest
from policies.tables import PolicySet, TenantTable
from policies.tenancy import PAGES
from tests.fakes.tenancy import a_function, a_policy_set, a_request, a_route, a_tenant
from tests.policies.reference import binding, deny, grant

APP = "https://app.acme.example"
RBAC = build_table(
    [RoleInput("all", (), (grant(["*"], ["*"], rule="all"),))],
    [binding(["all"], subjects=["login|ana"])],
    (),
)
ROUTES = [a_route("/reports", "report", cors_origins=[APP]), a_route("/form", "form"), a_route("/other", "other")]
FUNCTIONS = [a_function("form", is_public=True)]
ACME = a_tenant(routes=ROUTES, functions=FUNCTIONS, rbac=RBAC)
OURS = (b"Sec-Fetch-Site", b"same-origin")
THEIRS = (b"Origin", b"https://evil.example")


def ana(**set_after: Any) -> Principal:
    principal = Principal("login", "ana")
    for name, value in set_after.items():
        setattr(principal, name, value)
    return principal


def nobody() -> Principal:
    """Whose session has ended."""
    principal = anonymous()
    principal.is_session_over = True
    return principal


def decide(request: AccessRequest, answer: Principal | Refusal, tenant: TenantTable = ACME) -> Decision:
    """The decision when question 2 is answered so; limits and cold start say yes."""
    judging = judge(request, policies_of(tenant), 0.0)
    try:
        need = next(judging)
        while True:
            sent: Any = None
            if isinstance(need, Identify):
                sent = answer
            elif isinstance(need, Spend):
                sent = Spent(())
            need = judging.send(sent)
    except StopIteration as end:
        decision: Decision = end.value
        return decision


def decide_again(
    request: AccessRequest, answer: Principal | Refusal, tenant: TenantTable = ACME
) -> Principal | Refusal:
    """The same for a request that was held."""
    first = judge(request, policies_of(tenant), 0.0)
    need = next(first)
    assert isinstance(need, Identify)
    again = judge_again(request, need.place, 0.0)
    next(again)
    with pytest.raises(StopIteration) as end:
        again.send(answer)
    found: Principal | Refusal = end.value.value
    return found


def policies_of(tenant: TenantTable) -> PolicySet:
    return a_policy_set(tenant)


# --- sessions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "fields", "is_allowed"),
    [
        ("GET", "/reports", (), True),
        ("GET", "/reports", (THEIRS,), True),
        ("POST", "/reports", (OURS,), True),
        ("POST", "/reports", ((b"Origin", APP.encode()),), True),
        ("POST", "/other", ((b"Origin", APP.encode()),), False),
        ("POST", "/function/report", ((b"Origin", APP.encode()),), False),
        ("POST", "/reports", (), False),
        ("POST", "/reports", (THEIRS,), False),
        ("DELETE", "/reports", (THEIRS,), False),
        ("POST", "/form", (THEIRS,), False),
    ],
)
def test_a_session_is_used_by_our_own_pages(
    method: str, target: str, fields: tuple[tuple[bytes, bytes], ...], is_allowed: bool
) -> None:
    """Origins that a route lists are that route's alone; a public function is no exception."""
    request = a_request(target, *fields, method=method)
    decision = decide(request, ana(is_by_cookie=True))
    again = decide_again(request, ana(is_by_cookie=True))
    if is_allowed:
        assert isinstance(decision, Allow)
        assert isinstance(again, Principal)
    else:
        for refusal in (decision, again):
            assert isinstance(refusal, Deny)
            assert (refusal.reason, refusal.tenant) == (Reason.ORIGIN_REFUSED, "acme")


def test_every_websocket_by_session_is_asked_about() -> None:
    """Also a GET."""
    request = a_request("/reports", THEIRS)._replace(is_websocket=True)
    decision = decide(request, ana(is_by_cookie=True))
    assert isinstance(decision, Deny)
    assert decision.reason is Reason.ORIGIN_REFUSED
    assert isinstance(decide(request, ana()), Allow)


def test_a_token_is_not_asked_about() -> None:
    """No page can make a browser send an Authorization field unasked."""
    assert isinstance(decide(a_request("/reports", THEIRS, method="POST"), ana()), Allow)


@pytest.mark.parametrize("shadow", [{"policy"}, {"policy", "limits", "identity"}])
def test_shadow_mode_does_not_let_other_origins_in(shadow: set[str]) -> None:
    """Trying out rules must not open a tenant's sessions to every page of the web."""
    tenant = replace(ACME, shadow=frozenset(shadow))
    decision = decide(a_request("/reports", THEIRS, method="POST"), ana(is_by_cookie=True), tenant)
    assert isinstance(decision, Deny)
    assert decision.reason is Reason.ORIGIN_REFUSED


def test_who_brings_an_ended_session_is_told() -> None:
    """401 session-expired, without an error code: nothing was wrong with what the browser did."""
    for found in (decide(a_request("/reports"), nobody()), decide_again(a_request("/reports"), nobody())):
        assert isinstance(found, Challenge)
        assert (found.reason, found.error, found.tenant) == (Reason.SESSION_EXPIRED, None, "acme")
    found = decide(a_request("/reports"), anonymous())
    assert isinstance(found, Challenge)
    assert found.reason is Reason.CREDENTIAL_MISSING


def test_an_ended_session_closes_no_public_function() -> None:
    """Nobody may ask there, and somebody whose session has ended may, too."""
    decision = decide(a_request("/form"), nobody())
    assert isinstance(decision, Allow)
    assert decision.principal.is_anonymous
    assert isinstance(decide_again(a_request("/form"), nobody()), Principal)


def test_an_ended_session_explains_no_other_refusal() -> None:
    """A deny rule stays a deny rule."""
    tenant = replace(ACME, rbac=build_table((), (), [deny(["form"], ["invoke"], rule="closed")]))
    decision = decide(a_request("/form"), nobody(), tenant)
    assert isinstance(decision, Deny)
    assert decision.reason is Reason.DENIED_BY_RULE


# --- tokens for one function ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "is_allowed"),
    [("/reports", True), ("/function/report", True), ("/other", False), ("/function/report2", False), ("/form", False)],
)
def test_a_token_for_one_function_is_good_there_alone(target: str, is_allowed: bool) -> None:
    """However the function is reached; elsewhere it is a bad token, at public functions as well."""
    request = a_request(target, method="POST")
    decision = decide(request, ana(only_function="report"))
    again = decide_again(request, ana(only_function="report"))
    if is_allowed:
        assert isinstance(decision, Allow)
        assert isinstance(again, Principal)
    else:
        for refusal in (decision, again):
            assert isinstance(refusal, Challenge)
            assert (refusal.reason, refusal.error) == (Reason.CREDENTIAL_INVALID, "invalid_token")
            assert refusal.tenant == "acme"


def test_a_token_for_one_function_gives_no_role_to_its_bearer_in_shadow() -> None:
    """Where a bad credential is let through, its bearer is nobody."""
    tenant = replace(ACME, shadow=frozenset({"policy", "identity"}))
    decision = decide(a_request("/other"), ana(only_function="report"), tenant)
    assert isinstance(decision, Allow)
    assert decision.principal.is_anonymous
    assert [refusal.reason for refusal in decision.shadowed] == [Reason.CREDENTIAL_INVALID, Reason.CREDENTIAL_MISSING]


def test_a_session_and_a_function_hold_together() -> None:
    """A principal that is both is confined by both."""
    both = {"is_by_cookie": True, "only_function": "report"}
    assert isinstance(decide(a_request("/reports", OURS, method="POST"), ana(**both)), Allow)
    assert isinstance(decide(a_request("/reports", THEIRS, method="POST"), ana(**both)), Deny)
    assert isinstance(decide(a_request("/other", OURS, method="POST"), ana(**both)), Challenge)


# --- Portero's own pages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PAGES))
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_own_page_is_found_before_anybody_is_asked(name: str, method: str) -> None:
    """No function, no limit, no identity: the page judges its callers itself."""
    judging = judge(a_request(f"/.portero/{name}?a=b", method=method), policies_of(ACME), 0.0)
    with pytest.raises(StopIteration) as end:
        next(judging)
    assert end.value.value == Page(ACME, name)


@pytest.mark.parametrize(
    "path",
    [
        *("/.portero", "/.portero/", "/.portero/x", "/.portero/login/", "/.portero/login/x", "/.portero/Login"),
        *("/.portero/result/1", "/.Portero/login", "/function/.portero", "/.portero/jwks"),
    ],
)
def test_nothing_else_is_an_own_page(path: str) -> None:
    """One spelling each; what looks like one is nothing, also beside a route that takes everything."""
    found = decide(a_request(path), ana(), a_tenant(routes=[a_route("/*", "site")], rbac=RBAC))
    assert isinstance(found, Allow if path.startswith("/.P") else Deny)


def test_own_pages_belong_to_the_tenant_of_the_host() -> None:
    """An unknown host has none, a tenant that is switched off neither; a preflight is for routes alone."""
    found = decide(a_request("/.portero/login", host=b"nobody.example"), ana())
    assert isinstance(found, Deny)
    assert found.reason is Reason.TENANT_UNKNOWN
    found = decide(a_request("/.portero/login"), ana(), replace(ACME, is_disabled=True))
    assert isinstance(found, Deny)
    assert found.reason is Reason.TENANT_DISABLED
    fields = ((b"Origin", APP.encode()), (b"Access-Control-Request-Method", b"POST"))
    page = decide(a_request("/.portero/token", *fields, method="OPTIONS"), ana())
    assert isinstance(page, Page)
    assert isinstance(decide(a_request("/reports", *fields, method="OPTIONS"), ana()), Answer)


@pytest.mark.parametrize("path", ["/%2eportero/login", "/.portero/%6cogin", "/.%70ortero/login"])
def test_an_own_page_has_one_canonical_path(path: str) -> None:
    """Escapes that mean nothing are the same path, judged once (AP-R3)."""
    assert decide(a_request(path), ana()) == Page(ACME, "login")
