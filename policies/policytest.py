"""
The operators' own tests: ``*_test.yaml`` beside a policy, run at ``policy check``, ``policy test`` and each reload.

A case is judged by what the files *say*: a tenant that is switched off or in shadow mode is judged as if it were
enforced, so that switching a tenant off in a hurry does not fail its tests and thereby keep the old policy in place.
Limits are never used up here and functions always awake: those are not the policy's. Refuses to know how a request is
judged: ``rehearsal.py`` asks the code that judges real ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from policies.decision import Allow, Answer, Challenge, Page
from policies.documents import Documents, Source
from policies.errors import Mistake
from policies.model import Caller, Case, TestDocument
from policies.principal import API_KEY_PROVIDER, SERVICE_ACCOUNT_PROVIDER, Principal, anonymous
from policies.rehearsal import Rehearsal, caller, default_host, read_request, rehearse
from policies.tables import PolicySet, TenantTable


@dataclass(frozen=True, slots=True)
class TestReport:
    """How the cases fared."""

    __test__ = False  # whatever its name makes pytest think

    passed: int
    mistakes: list[Mistake]
    """One for each failing case: where it stands, what was expected and what came instead."""


def run_tests(policies: PolicySet, documents: Documents, *, now: float) -> TestReport:
    """
    Run every case of ``documents`` against ``policies``. Never raises: a case that makes no sense fails.

    ``policies`` were compiled from the same documents and are not changed; ``now`` (Unix seconds) is for cases that do
    not say ``at``.
    """
    enforced = _enforced(policies)
    mistakes: list[Mistake] = []
    passed = 0
    for source in documents.tests:
        for index, case in enumerate(source.document.cases):
            found = list(_run(enforced, source, case, index, now))
            mistakes += found
            passed += not found
    return TestReport(passed, mistakes)


def _enforced(policies: PolicySet) -> PolicySet:
    """The same policies with every tenant switched on and nothing in shadow; memos of their own."""
    tenants = {
        name: replace(tenant, is_disabled=False, shadow=frozenset()) for name, tenant in policies.tenants.items()
    }
    return replace(
        policies,
        tenants=tenants,
        hosts={host: tenants[tenant.name] for host, tenant in policies.hosts.items()},
        wildcard_hosts={suffix: tenants[tenant.name] for suffix, tenant in policies.wildcard_hosts.items()},
    )


def _run(policies: PolicySet, source: Source[TestDocument], case: Case, index: int, now: float) -> Iterator[Mistake]:
    """What is wrong with one case: at most one mistake, at the key that names it best."""
    path = ("cases", index)
    tenant = policies.tenants.get(source.document.tenant)
    if tenant is None:
        yield source.mistake(f"the tenant {source.document.tenant!r} is unknown", "tenant")
        return
    try:
        instant = now if case.at is None else _instant(case.at)
    except ValueError:
        yield source.mistake(f"{case.at!r} is no instant; expected such as 2026-03-04T12:00:00Z", *path, "at")
        return
    try:
        principal = _principal(tenant, case.as_)
    except ValueError as error:
        yield source.mistake(f"{case.name}: {error}", *path, "as")
        return
    try:
        request = read_request(case.request, default_host(tenant), case.source_ip)
    except ValueError as error:
        yield source.mistake(f"{case.name}: {error}", *path, "request")
        return
    rehearsal = rehearse(policies, request, principal, instant, case.action)
    for key, wrong in _differences(case, tenant, rehearsal):
        yield source.mistake(f"{case.name}: {wrong}", *path, key)
        return


def _differences(case: Case, tenant: TenantTable, rehearsal: Rehearsal) -> Iterator[tuple[str, str]]:
    """(key, what was expected and what came instead)."""
    decision, got = rehearsal.decision, _said(rehearsal)
    if isinstance(decision, Allow | Answer | Page):
        outcomes = {"allow"}
    else:
        outcomes = {"deny", "challenge"} if isinstance(decision, Challenge) else {"deny"}
    if case.expect not in outcomes:
        wanted = f"{case.expect} {case.reason or ''}".rstrip()
        yield "expect", f"expected {wanted}, got {got}"
    refusal = rehearsal.refusal
    if case.reason is not None and (refusal is None or refusal.reason != case.reason):
        yield "reason", f"expected {case.reason}, got {got}"
    rule = None if isinstance(decision, Challenge | Answer | Page) else decision.rule
    if case.rule is not None and (rule is None or rule.id != case.rule):
        yield "rule", f"expected the rule {case.rule!r} to decide, got {got}"
    place = rehearsal.place
    if case.function is not None and (place is None or place.function != case.function):
        yield "function", f"expected the function {case.function!r}, got {place.function if place else got}"
    found = decision.tenant if isinstance(decision, Page) else place.tenant if place is not None else tenant
    if found.name != tenant.name:
        yield "request", f"the request is for the tenant {found.name}, and these are cases of {tenant.name}"


def _said(rehearsal: Rehearsal) -> str:
    decision = rehearsal.decision
    match decision:
        case Allow():
            by = (
                f"by the rule {decision.rule.id} ({decision.rule.where})"
                if decision.rule
                else "(the function is public)"
            )
            return f"allow {by}"
        case Answer():
            return f"allow (a preflight, answered with {decision.status})"
        case Page():
            return f"allow (Portero's own page {decision.name})"
        case Challenge():
            return f"challenge {decision.reason}"
        case _:
            by = f" by the rule {decision.rule.id} ({decision.rule.where})" if decision.rule else ""
            return f"deny {decision.reason}{by}"


def _principal(tenant: TenantTable, who: Caller | None) -> Principal:
    if who is None:
        return anonymous()
    program = who.service_account or who.api_key
    if program is not None:
        if who.provider is not None or who.subject is not None or (who.service_account and who.api_key):
            raise ValueError("'as' names a provider's subject, a service account or an API key: one of them")
        provider, subject = API_KEY_PROVIDER if who.api_key else SERVICE_ACCOUNT_PROVIDER, program
    elif who.provider is None or who.subject is None:
        raise ValueError("'as' needs provider and subject, service_account or api_key; leave it out for nobody")
    else:
        provider, subject = who.provider, who.subject
    return caller(tenant, provider, subject, groups=frozenset(who.groups), email=who.email, claims=who.claims)


def _instant(text: str) -> float:
    """Unix seconds of an RFC 3339 instant; one without zone is UTC nowhere and refused."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("the zone is missing")
    return moment.timestamp()
