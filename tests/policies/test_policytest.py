"""The operators' tests: what passes, and what a failing case is told."""

from __future__ import annotations

import pytest

from policies.compiler import compile_with_warnings
from policies.documents import parse
from policies.policytest import TestReport, run_tests
from policies.tables import PolicySet

PLATFORM = b"""\
version: 1
backends:
  faas: {kind: openfaas, url: "http://gateway:8080"}
tenants:
  acme: {hosts: ["*.acme.example", acme.localhost], backend: faas, namespace: acme}
  globex: {hosts: ["*.globex.example"], backend: faas, namespace: globex}
"""
ACME = """\
version: 1
tenant: acme
mode: {mode}
identity:
  - {{name: login, issuer: "https://id.example", audiences: [acme], algorithms: [ES256], claims: {{groups: groups}}}}
service_accounts:
  - {{name: ci, public_key: ci.pem, audiences: [acme], groups: [robots]}}
api_keys:
  - {{name: reporting, groups: [readers], expires: 2027-06-30}}
functions: {{form: {{access: public}}}}
routes:
  - {{id: reports, path: "/reports/{{country}}", function: report, to: "/by/{{country}}"}}
roles:
  analyst: {{allow: [{{functions: [report], actions: [invoke], methods: [GET]}}]}}
  robot: {{allow: [{{functions: ["*"], actions: [deploy]}}]}}
bindings:
  - {{id: analysts, roles: [analyst], groups: [analysts]}}
  - {{id: robots, roles: [robot], service_accounts: [ci], subjects: ["api-key|reporting"]}}
deny:
  - {{id: night, functions: ["*"], actions: [invoke], when: {{time: {{from: "22:00", to: "06:00"}}}}}}
  - {{id: office, functions: [office], actions: ["*"], unless: {{source_ip: [198.51.100.0/24]}}}}
"""
GLOBEX = b"version: 1\ntenant: globex\n"

NOON = 1772625600.0
"""2026-03-04T12:00:00Z."""


def run(*cases: str, mode: str = "enforce", tenant: str = "acme") -> TestReport:
    tests = f"tenant: {tenant}\ncases:\n" + "".join(f"  - {{name: a case, {case}}}\n" for case in cases)
    files = {
        "platform.yaml": PLATFORM,
        "acme.yaml": ACME.format(mode=mode).encode(),
        "globex.yaml": GLOBEX,
        "acme_test.yaml": tests.encode(),
    }
    documents = parse(files)
    policies, _ = compile_with_warnings(documents)
    return run_tests(policies, documents, now=NOON)


ANA = "as: {provider: login, subject: ana, groups: [analysts]}"
HOLDING = (
    f"{ANA}, request: GET /reports/es, expect: allow, rule: analyst/1, function: report",
    f"{ANA}, request: PUT /reports/es, expect: deny, reason: no-rule-allows",
    "as: {provider: login, subject: bob}, request: GET /reports/es, expect: deny, reason: no-rule-allows",
    "request: GET /reports/es, expect: deny, reason: credential-missing",
    "request: GET /reports/es, expect: challenge",
    "request: GET /function/form, expect: allow",
    f'{ANA}, request: GET /reports/es, at: "2026-03-04T23:00:00Z", expect: deny, reason: denied-by-rule, rule: night',
    f'{ANA}, request: GET /reports/es, at: "2026-03-04T23:00:00+09:00", expect: allow',
    "as: {service_account: ci}, request: PUT /function/report, action: deploy, expect: allow, rule: robot/1",
    "as: {service_account: ci}, request: PUT /function/office, action: deploy, source_ip: 198.51.100.7, expect: allow",
    "as: {service_account: ci}, request: PUT /function/office, action: deploy, expect: deny, rule: office",
    "as: {api_key: reporting}, request: PUT /function/report, action: deploy, expect: allow, rule: robot/1",
    "as: {api_key: reporting}, request: GET /reports/es, expect: deny, reason: no-rule-allows",
    "request: GET /.portero/whoami, expect: allow",
    f"{ANA}, request: POST /.portero/logout, expect: allow",
    "request: GET http://acme.localhost/nothing, expect: deny, reason: route-unknown",
    "request: GET http://any.acme.example/function/form, expect: allow",
    "request: GET http://nowhere.example/, expect: deny, reason: tenant-unknown",
    "request: GET /a/../b, expect: deny, reason: bad-request",
    "request: GET http://user@acme.localhost/, expect: deny, reason: bad-request",
)


@pytest.mark.parametrize("case", HOLDING)
def test_a_case_that_holds(case: str) -> None:
    """Each part of the form, once."""
    assert run(case) == TestReport(1, [])


@pytest.mark.parametrize(
    ("case", "key", "says"),
    [
        (
            f"{ANA}, request: GET /reports/es, expect: deny",
            "expect",
            "expected deny, got allow by the rule analyst/1 (acme.yaml:14)",
        ),
        (
            "request: GET /function/form, expect: challenge",
            "expect",
            "expected challenge, got allow (the function is public)",
        ),
        (
            "as: {provider: login, subject: bob}, request: GET /reports/es, expect: challenge",
            "expect",
            "expected challenge, got deny no-rule-allows",
        ),
        ("request: GET /reports/es, expect: allow", "expect", "expected allow, got challenge credential-missing"),
        (
            "request: GET /reports/es, expect: deny, reason: no-rule-allows",
            "reason",
            "expected no-rule-allows, got challenge",
        ),
        (
            "as: {service_account: ci}, request: PUT /function/office, action: deploy, expect: deny, rule: night",
            "rule",
            "expected the rule 'night' to decide, got deny denied-by-rule by the rule office (acme.yaml:21)",
        ),
        (
            f"{ANA}, request: GET /reports/es, expect: allow, function: form",
            "function",
            "expected the function 'form', got report",
        ),
        ("request: GET /nothing, expect: deny, function: form", "function", "got deny route-unknown"),
        ("request: GET /function/form, expect: allow, at: noon", "at", "expected such as 2026"),
        ('request: GET /function/form, expect: allow, at: "2026-03-04T12:00:00"', "at", "expected such as 2026"),
        ("request: GET /function/form, expect: allow, source_ip: home", "request", "'home' is no address"),
        (
            "as: {service_account: ci, groups: [more]}, request: GET /function/form, expect: allow",
            "as",
            "groups of a service account stand in the policy",
        ),
        (
            "as: {api_key: reporting, groups: [more]}, request: GET /function/form, expect: allow",
            "as",
            "groups of an API key stand in the policy",
        ),
        ("request: GET http://x.globex.example/function/f, expect: challenge", "request", "for the tenant globex"),
        ("request: GET http://x.globex.example/.portero/login, expect: allow", "request", "for the tenant globex"),
        ("request: GET /.portero/login, expect: deny", "expect", "got allow (Portero's own page login)"),
        ("request: GET /.portero/login, expect: allow, rule: night", "rule", "got allow (Portero's own page login)"),
        ("request: GET /.portero/nothing, expect: allow", "expect", "got deny route-unknown"),
    ],
)
def test_a_case_that_fails_says_where_and_what_came_instead(case: str, key: str, says: str) -> None:
    """The mistake stands at the value that was not met, and names what was got."""
    report = run("request: GET /function/form, expect: allow", case)
    assert report.passed == 1
    (mistake,) = report.mistakes
    assert (mistake.file, mistake.line) == ("acme_test.yaml", 4)
    line = f"  - {{name: a case, {case}}}"
    assert line[mistake.column - 1 :].startswith(line[line.index(f" {key}: ") + len(key) + 3 :][:4])
    assert says in mistake.message


def test_failures_come_all_at_once() -> None:
    """One run tells everything."""
    report = run(*(f"request: GET /function/form, expect: {answer}" for answer in ("deny", "allow", "challenge")))
    assert report.passed == 1
    assert [mistake.line for mistake in report.mistakes] == [3, 5]


@pytest.mark.parametrize("mode", ["disabled", "{shadow: [policy]}", "{shadow: [policy, limits, identity]}"])
def test_cases_are_judged_as_if_the_tenant_were_enforced(mode: str) -> None:
    """Switching a tenant off in a hurry must not fail its tests and so keep the old policy in place."""
    assert run(*HOLDING, mode=mode) == TestReport(len(HOLDING), [])


def test_running_tests_leaves_the_policies_as_they_were() -> None:
    """No memo of the tests reaches the set that will be served."""
    files = {
        "platform.yaml": PLATFORM,
        "acme.yaml": ACME.format(mode="disabled").encode(),
        "globex.yaml": GLOBEX,
        "acme_test.yaml": b"tenant: acme\ncases:\n  - {name: x, request: GET /function/form, expect: allow}\n",
    }
    documents = parse(files)
    policies, _ = compile_with_warnings(documents)
    run_tests(policies, documents, now=NOON)
    assert isinstance(policies, PolicySet)
    assert policies.places == {}
    assert policies.tenants["acme"].is_disabled
    assert policies.tenants["acme"].limit_checks == {}
