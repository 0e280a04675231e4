"""``*_test.yaml``: whether each case says who asks and what is expected. Running them is ``policytest.py``'s."""

from __future__ import annotations

from typing import Final

from policies.decision import Reason
from policies.documents import Documents, Source
from policies.findings import Findings
from policies.model import Case, TestDocument
from policies.rule_compiler import unknown

_REASONS: Final = {reason.value: reason for reason in Reason}


def check_tests(documents: Documents, findings: Findings) -> None:
    """Every mistake of the test files that their shape does not show."""
    tenants = {source.document.tenant: source.document for source in documents.tenants}
    for source in documents.tests:
        tenant = tenants.get(source.document.tenant)
        if tenant is None and not documents.mistakes:
            findings.mistake(source, unknown("tenant", source.document.tenant, tenants), "tenant")
        providers = dict.fromkeys(provider.name for provider in tenant.identity) if tenant is not None else {}
        accounts = dict.fromkeys(account.name for account in tenant.service_accounts) if tenant is not None else {}
        api_keys = dict.fromkeys(key.name for key in tenant.api_keys) if tenant is not None else {}
        for index, case in enumerate(source.document.cases):
            _check_case(source, index, case, findings)
            if tenant is not None and case.as_ is not None:
                if case.as_.provider is not None and case.as_.provider not in providers:
                    text = unknown("provider", case.as_.provider, providers)
                    findings.mistake(source, text, "cases", index, "as", "provider")
                if case.as_.service_account is not None and case.as_.service_account not in accounts:
                    text = unknown("service account", case.as_.service_account, accounts)
                    findings.mistake(source, text, "cases", index, "as", "service_account")
                if case.as_.api_key is not None and case.as_.api_key not in api_keys:
                    text = unknown("API key", case.as_.api_key, api_keys)
                    findings.mistake(source, text, "cases", index, "as", "api_key")


def _check_case(source: Source[TestDocument], index: int, case: Case, findings: Findings) -> None:
    path = ("cases", index)
    caller = case.as_
    if caller is not None:
        is_person = caller.provider is not None and caller.subject is not None
        has_half = caller.provider is not None or caller.subject is not None
        forms = is_person + (caller.service_account is not None) + (caller.api_key is not None)
        if forms != 1 or (has_half and not is_person):
            text = "expected provider and subject, or service_account, or api_key; without a caller leave as out"
            findings.mistake(source, text, *path, "as")
    if case.reason is not None:
        if case.expect == "allow":
            findings.mistake_of_key(
                source, "an allow has no reason; expected one beside a refusal only", *path, "reason"
            )
        elif case.reason not in _REASONS:
            findings.mistake(source, unknown("reason", case.reason, _REASONS), *path, "reason")
