"""What ``explain`` says: the same decision as the data path, and the lines of the files that made it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.compiler import compile_files
from policies.decision import Allow, Challenge, Deny
from policies.explain import ExplainRequest, Explanation, explain_line, explain_request
from policies.limits import Spent
from policies.pipeline import Identify, Ready, Spend, judge
from policies.principal import anonymous
from policies.rehearsal import caller, read_request, rehearse
from policies.request import AccessRequest
from policies.tables import PolicySet

PLATFORM = b"""\
version: 1
backends:
  faas: {kind: openfaas, url: "http://gateway:8080"}
tenants:
  acme: {hosts: [acme.localhost], backend: faas, namespace: acme}
  idle: {hosts: [idle.localhost], backend: faas, namespace: idle}
  rehearsing: {hosts: [shadow.localhost], backend: faas, namespace: shadow}
  open: {hosts: [open.localhost], backend: faas, namespace: open}
"""
ACME = b"""\
version: 1
tenant: acme
identity:
  - {name: login, issuer: "https://id.example", audiences: [acme], algorithms: [ES256], claims: {groups: groups},
     email_domains: [acme.example]}
service_accounts:
  - {name: ci, public_key: ci.pem, audiences: [acme], groups: [robots]}
functions:
  form: {access: public}
  report: {concurrency: 5, cold_start: {max_wait: 20s, max_held: 7, overflow: page}}
routes:
  - {id: reports, path: "/reports/{country}", methods: [GET, PUT], function: report, to: "/by/{country}"}
roles:
  analyst: {allow: [{functions: [report], actions: [invoke], methods: [GET]}]}
  editor: {includes: [analyst], allow: [{functions: [report], actions: [invoke], when: {path_prefix: /by/es}}]}
  robot: {allow: [{functions: ["*"], actions: [deploy]}]}
bindings:
  - {id: analysts, roles: [analyst], groups: [analysts]}
  - {id: eva, roles: [editor], emails: [eva@acme.example]}
  - {id: robots, roles: [robot], service_accounts: [ci], subjects: ["api-key|reporting"]}
deny:
  - {id: eu-only, functions: ["*"], actions: [invoke], when: 'claims.region != "eu"', unless: {groups: [analysts]}}
limits:
  - {id: per-caller, per: subject, rate: 20/s, burst: 40}
  - {id: parallel, per: function, concurrent: 9}
api_keys:
  - {name: reporting, groups: [analysts]}
"""


def tenant(name: str, mode: str) -> bytes:
    roles = "roles: {r: {allow: [{functions: [f], actions: [invoke]}]}}\n"
    return f"version: 1\ntenant: {name}\nmode: {mode}\n{roles}".encode()


@pytest.fixture(scope="module")
def policies() -> PolicySet:
    return compile_files(
        {
            "platform.yaml": PLATFORM,
            "acme.yaml": ACME,
            "idle.yaml": tenant("idle", "disabled"),
            "rehearsing.yaml": tenant("rehearsing", "{shadow: [policy]}"),
            "open.yaml": tenant("open", "{shadow: [policy, identity]}"),
        }
    )


def ask(policies: PolicySet, request: str, provider: str | None = None, subject: str = "", **more: Any) -> Explanation:
    return explain_line(policies, ExplainRequest(request, provider, subject, **more), 0.0)


EU = {"region": "eu"}


def test_an_allowed_request_names_rule_limits_and_bounds(policies: PolicySet) -> None:
    """The five answers with file and line, and what the cold start would hold."""
    said = ask(policies, "GET http://acme.localhost/reports/es", "login", "ana", groups=["analysts"]).text()
    for words in (
        "tenant acme (acme.yaml:2), function report, path /by/es, by route reports (acme.yaml:12)",
        "login|ana in analysts",
        "holds analyst by binding analysts (acme.yaml:18)",
        "rule analyst/1 (acme.yaml:14) allows invoke",
        "would spend per-caller (acme.yaml:24): 20 per 1 s, burst 40",
        "would count in parallel (acme.yaml:25): at most 9 at once per function",
        "held 20 s at most, 7 at once, more are refused",
        "5 at once per replica",
        "=> allowed",
    ):
        assert words in said


SLEEPERS = b"""\
version: 1
tenant: acme
functions:
  form: {access: public, cold_start: {overflow: fallback, fallback: stub}}
  shop: {access: public, cold_start: {overflow: fallback, fallback: till}}
  stub: {access: public, cold_start: {no_wake: [{methods: [HEAD]}, {paths: [/healthz], status: 204}]}}
  till: {}
  both: {access: public, concurrency: 3, concurrency_scope: cluster}
limits:
  - {id: per-caller, per: subject, rate: 20/s, burst: 40}
"""
ONE_TENANT = PLATFORM.partition(b"  idle:")[0]


@pytest.mark.parametrize(
    ("request_line", "words"),
    [
        ("POST /async-function/form", "would spend per-caller"),
        ("POST /async-function/form", "answered with 202 at once, and run within 600 s"),
        ("POST /async-function/form", "=> allowed: 202, and answered later"),
        ("GET /function/form", "more go to the fallback function (stub)"),
        ("GET /function/shop", "more go to the fallback function (till: not this caller's)"),
        ("HEAD /function/stub", "asleep it would not be woken: a no_wake rule answers 503 function-asleep"),
        ("GET /function/stub/healthz", "asleep it would not be woken: a no_wake rule answers 204"),
        ("GET /function/both", "3 at once per replica, counted by all Porteros together"),
    ],
)
def test_what_becomes_of_a_request_at_a_sleeping_function(request_line: str, words: str) -> None:
    """Whether it waits, what it gets instead, and who it would be there; limits of what is answered later, too."""
    policies = compile_files({"platform.yaml": ONE_TENANT, "acme.yaml": SLEEPERS})
    assert words in ask(policies, request_line).text()


def test_a_refusal_says_what_would_have_to_change(policies: PolicySet) -> None:
    """Who lacks what, and which roles would do, with their lines."""
    said = ask(policies, "GET http://acme.localhost/reports/es", "login", "bob", claims=EU)
    assert not said.is_allowed
    assert said.decision == "refused: 403 no-rule-allows"
    assert [step.outcome for step in said.steps] == ["yes", "yes", "no", "not asked", "not asked"]
    assert "no role of bob holds invoke on report for GET" in said.text()
    assert "roles that would: analyst (acme.yaml:14), editor (acme.yaml:15, if its condition holds)" in said.text()


def test_another_method_is_told_apart_from_another_role(policies: PolicySet) -> None:
    """The caller has the role; the role has another method."""
    said = ask(policies, "PUT http://acme.localhost/reports/fr", "login", "ana", groups=["analysts"]).text()
    assert "no role of ana holds invoke on report for PUT" in said
    assert "analyst (acme.yaml:14, for GET only)" in said


def test_a_condition_that_fails_is_named(policies: PolicySet) -> None:
    """The rule is the caller's, its condition does not hold."""
    said = ask(
        policies, "PUT http://acme.localhost/reports/fr", "login", "eva", email="EVA@acme.example", claims=EU
    ).text()
    assert "holds editor by binding eva" in said
    assert "rule editor/1 (acme.yaml:15) would allow it, but its condition does not hold" in said


def test_a_deny_rule_says_why_it_matches(policies: PolicySet) -> None:
    """A claim that is missing matches in deny, and is named."""
    for claims, words in (
        ({}, "its condition cannot be known: region is missing"),
        ({"region": "us"}, "its condition holds"),
    ):
        said = ask(policies, "GET http://acme.localhost/reports/es", "login", "bob", claims=claims)
        assert said.decision == "refused: 403 denied-by-rule"
        assert "deny rule eu-only (acme.yaml:22) matches, and wins over every role" in said.text()
        assert words in said.text()


def test_nobody_is_asked_who_they_are(policies: PolicySet) -> None:
    """401 is an answer to question 2, and question 3 is not asked."""
    said = ask(policies, "GET http://acme.localhost/reports/es")
    assert said.decision == "refused: 401 credential-missing"
    assert [step.outcome for step in said.steps] == ["yes", "no", "not asked", "not asked", "not asked"]
    assert "roles that would" in said.text()


@pytest.mark.parametrize(
    ("request_line", "decision"),
    [
        ("GET http://nowhere.localhost/", "refused: 404 tenant-unknown"),
        ("GET http://acme.localhost/nothing", "refused: 404 route-unknown"),
        ("POST http://acme.localhost/reports/es", "refused: 405 method-not-allowed"),
        ("GET http://acme.localhost/a/../b", "refused: 400 bad-request"),
        ("GET http://acme.localhost//", "refused: 400 bad-request"),
        ("GET http://user@acme.localhost/", "refused: 400 bad-request"),
        ("TRACE http://acme.localhost/", "refused: 405 method-not-allowed"),
        ("GET http://idle.localhost/function/f", "refused: 403 tenant-disabled"),
        ("GET http://acme.localhost/function/f.other", "refused: 404 route-unknown"),
    ],
)
def test_what_question_1_refuses(policies: PolicySet, request_line: str, decision: str) -> None:
    """The line goes through the same canonicaliser as a request on the wire."""
    said = ask(policies, request_line)
    assert said.decision == decision
    assert [step.outcome for step in said.steps] == ["no", *["not asked"] * 4]


@pytest.mark.parametrize(
    "asked",
    [
        ExplainRequest("GET"),
        ExplainRequest(""),
        ExplainRequest("GET /path-of-whom"),
        ExplainRequest("GET ftp://acme.localhost/"),
        ExplainRequest("GET http:///x"),
        ExplainRequest("GET http://acme.localhost/", source_ip="somewhere"),
        ExplainRequest("GET http://acme.localhost/", "ghost", "ana"),
        ExplainRequest("GET http://acme.localhost/", "service-account", "ghost"),
        ExplainRequest("GET http://acme.localhost/", "api-key", "ghost"),
        ExplainRequest("GET http://acme.localhost/", "api-key", "reporting", groups=["more"]),
        ExplainRequest("GET http://acme.localhost/", "service-account", "ci", groups=["more"]),
        ExplainRequest("GET http://acme.localhost/reports/es", action="fly"),
    ],
)
def test_what_makes_no_question_is_a_value_error(policies: PolicySet, asked: ExplainRequest) -> None:
    """The admin listener answers 400, the command line 2."""
    with pytest.raises(ValueError, match=r"."):
        explain_request(policies, asked, 0.0)


def test_other_actions_are_judged_by_their_own_rules(policies: PolicySet) -> None:
    """A service account deploys; nothing is spent and nothing woken."""
    answer = explain_request(
        policies,
        ExplainRequest("PUT http://acme.localhost/function/report", "service-account", "ci", action="deploy"),
        0.0,
    )
    assert answer["allowed"] is True
    assert [step["outcome"] for step in answer["answers"]] == ["yes", "yes", "yes", "not asked", "not asked"]
    assert answer["answers"][1]["details"][0] == "service-account|ci in robots"


def decide(policies: PolicySet, request: AccessRequest, principal: Any) -> Any:
    """The pipeline driven by hand."""
    judging = judge(request, policies, 0.0)
    try:
        need = next(judging)
        while True:
            match need:
                case Identify():
                    need = judging.send(principal)
                case Spend():
                    need = judging.send(Spent(()))
                case Ready():
                    need = judging.send(None)
    except StopIteration as end:
        return end.value


def test_shadowed_policy_lets_known_callers_through_and_still_asks_who_they_are(policies: PolicySet) -> None:
    """A missing credential is a refusal of question 2: shadowing policy alone does not serve the whole world."""
    request = read_request("GET http://shadow.localhost/function/f", "")
    assert isinstance(request, AccessRequest)
    known = decide(policies, request, caller(policies.tenants["acme"], "login", "bob"))
    assert isinstance(known, Allow)
    assert [deny.reason for deny in known.shadowed] == ["no-rule-allows"]
    assert isinstance(decide(policies, request, anonymous()), Challenge)


def test_shadowed_policy_and_identity_let_everybody_through_and_say_so(policies: PolicySet) -> None:
    """Both stages would have refused; the one that would have answered is recorded."""
    request = read_request("GET http://open.localhost/function/f", "")
    assert isinstance(request, AccessRequest)
    decision = decide(policies, request, anonymous())
    assert isinstance(decision, Allow)
    assert [deny.reason for deny in decision.shadowed] == ["credential-missing"]
    said = ask(policies, "GET http://open.localhost/function/f")
    assert said.is_allowed
    assert said.decision == "allowed by shadow mode; enforced it would be 401 credential-missing"
    assert [step.outcome for step in said.steps] == ["yes", "shadow", "not asked", "yes", "yes"]


def test_a_driver_that_answers_nonsense_is_refused(policies: PolicySet) -> None:
    """A defect of an edge must not widen access."""
    request = read_request("GET http://acme.localhost/function/form", "")
    assert isinstance(request, AccessRequest)
    answers: tuple[Any, ...] = (None, True, "ana", {})
    for nonsense in answers:
        assert isinstance(decide(policies, request, nonsense), Deny)


_lines = st.builds(
    lambda method, host, path: f"{method} http://{host}{path}",
    st.sampled_from(["GET", "PUT", "POST", "get", "TRACE"]),
    st.sampled_from(
        ["acme.localhost", "ACME.localhost.", "shadow.localhost", "open.localhost", "x", "\u00e9", "a b", "[::1]"]
    ),
    st.sampled_from(["", "/", "/reports/es", "/function/form", "/function/f"])
    | st.text(max_size=12).map(lambda t: "/" + t),
)


@given(_lines, st.sampled_from([None, "ana", "bob"]), st.sampled_from([[], ["analysts"]]), st.sampled_from([{}, EU]))
def test_explain_never_disagrees_with_the_data_path(
    policies: PolicySet, line: str, subject: str | None, groups: list[str], claims: dict[str, str]
) -> None:
    """Whatever is asked: a decision or a ValueError, and the decision is the pipeline's own."""
    principal = (
        anonymous()
        if subject is None
        else caller(policies.tenants["acme"], "login", subject, groups=frozenset(groups), claims=claims)
    )
    try:
        request = read_request(line, "")
    except ValueError:
        return
    rehearsal = rehearse(policies, request, principal, 0.0)
    assert rehearsal.decision == (request if isinstance(request, Deny) else decide(policies, request, principal))


def test_an_api_key_is_explained_like_a_person(policies: PolicySet) -> None:
    """Its groups stand in the policy; its roles come by its own name and by them."""
    said = ask(policies, "GET http://acme.localhost/reports/es", "api-key", "reporting").text()
    assert "api-key|reporting in analysts" in said
    assert "holds analyst by binding analysts (acme.yaml:18)" in said
    assert "holds robot by binding robots (acme.yaml:20)" in said
    assert "=> allowed" in said


def test_an_own_page_is_said_to_be_one(policies: PolicySet) -> None:
    """It reaches no function, and it judges its callers itself."""
    said = ask(policies, "GET http://acme.localhost/.portero/whoami")
    assert said.is_allowed
    assert said.decision == "answered by Portero itself: its own page /.portero/whoami"
    assert [step.outcome for step in said.steps] == ["yes", "not asked", "not asked", "not asked", "not asked"]
    assert "tenant acme (acme.yaml:2), Portero's own page: it judges its callers itself" in said.text()
    assert not ask(policies, "GET http://idle.localhost/.portero/whoami").is_allowed
