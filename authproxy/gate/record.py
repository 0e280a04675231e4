"""What is written down of each decision: counters and audit line, in one place so that they never disagree."""

from __future__ import annotations

from typing import Final

from authproxy.audit import Audit, Line
from authproxy.gate.verdict import Case, PageAnswer, PageCall, Passed
from authproxy.metrics import HistogramCell, Metrics
from policies.decision import Allow, Answer, Challenge, Deny, Reason, Refusal, RuleRef
from policies.tenancy import OUR_PAGES, RESULT

_NO_TENANT: Final = "-"
"""Label of requests that named no tenant: a host is the caller's word and never becomes a label."""

_RESULTS: Final = f"{OUR_PAGES}{RESULT}/"
_STAGES: Final = {
    Reason.RATE_LIMITED: "limits",
    Reason.CONCURRENCY_LIMITED: "limits",
    Reason.CREDENTIAL_INVALID: "identity",
    Reason.CREDENTIAL_MISSING: "identity",
    Reason.SESSION_EXPIRED: "identity",
}
"""Which shadowed stage a refusal that was let through belongs to; all others are policy's."""


class Recorder:
    """Counts and audits one edge's decisions. ``audit`` None: metrics only."""

    def __init__(self, edge: str, metrics: Metrics, audit: Audit | None) -> None:
        self._edge = edge
        self._metrics = metrics
        self._audit = audit
        # Cells bound once per tenant: the usual request costs two dict probes and two additions.
        self._allowed: dict[str, tuple[list[float], HistogramCell]] = {}

    def finished(
        self,
        passed: Passed,
        status: int,
        bytes_in: int,
        bytes_out: int,
        failure: Reason | None,
        now: float,
    ) -> None:
        """
        An allowed request has ended; ``failure`` when the data path could not deliver it whole. ``status`` 0: nobody
        tells of its end, and how long it took is not known.
        """
        allow, request, case = passed.allow, passed.request, passed.case
        tenant = allow.place.tenant.name
        duration_s = now - case.started_at
        cells = self._allowed.get(tenant)
        if cells is None:
            cells = self._allowed[tenant] = (
                self._metrics.decisions_total.cell((self._edge, tenant, "allow", "")),
                self._metrics.request_duration_seconds.cell((self._edge, tenant)),
            )
        if status:
            cells[1].observe(duration_s)
        if failure is None:
            cells[0][0] += 1
            outcome, reason = "allow", None
        else:
            outcome, reason = "deny", failure.value
            self._metrics.decisions_total.add((self._edge, tenant, outcome, reason))
        for refusal in allow.shadowed:
            self.shadowed(tenant, _STAGES.get(refusal.reason, "policy"))
        if self._audit is not None:
            rule, spared = allow.rule, allow.instead_of or case.spared
            self._audit.write(
                Line(
                    case.started_at,
                    case.request_id,
                    tenant,
                    self._edge,
                    request.method,
                    request.host,
                    request.target.path,
                    request.client_ip,
                    outcome,
                    reason,
                    status,
                    allow.principal.subject,
                    None if rule is None else rule.id,
                    None if rule is None else rule.where,
                    round(duration_s * 1000, 3),
                    bytes_in,
                    bytes_out,
                    round(case.held_s * 1000, 3) if case.held_s else None,
                    tuple([refusal.reason.value for refusal in allow.shadowed]) if allow.shadowed else (),
                    case.policies.revision,
                    case.is_deferred,
                    None if spared is None else spared.reason.value,
                    None if allow.instead_of is None else allow.place.function,
                )
            )

    def refused(self, refusal: Refusal, status: int, case: Case, now: float) -> None:
        """A request was refused."""
        tenant = refusal.tenant
        outcome = "challenge" if isinstance(refusal, Challenge) else "deny"
        self._metrics.decisions_total.add((self._edge, tenant or _NO_TENANT, outcome, refusal.reason.value))
        rule = None if isinstance(refusal, Challenge) else refusal.rule
        self._audit_unforwarded(case, tenant, outcome, refusal.reason.value, status, rule, now)

    def answered(self, answer: Answer, case: Case, now: float) -> None:
        """Portero answered by itself and nothing was refused."""
        self._metrics.decisions_total.add((self._edge, answer.tenant or _NO_TENANT, "answer", ""))
        self._audit_unforwarded(
            case, answer.tenant, "answer", None, answer.status, None, now, instead_of=answer.instead_of
        )

    def accepted(self, allow: Allow, status: int, case: Case, now: float) -> None:
        """A request was accepted to be answered later; what becomes of it is told by ``finished`` or ``refused``."""
        tenant = allow.place.tenant.name
        self._metrics.decisions_total.add((self._edge, tenant, "answer", ""))
        self._audit_unforwarded(case, tenant, "answer", None, status, allow.rule, now)

    def page(self, call: PageCall, answer: PageAnswer, now: float) -> None:
        """One of Portero's own pages answered; ``answer.reason`` when that was a refusal."""
        tenant = call.page.tenant.name
        outcome = "answer" if answer.reason is None else "deny"
        reason = "" if answer.reason is None else answer.reason.value
        self._metrics.decisions_total.add((self._edge, tenant, outcome, reason))
        self._audit_unforwarded(
            call.case, tenant, outcome, reason or None, answer.status, None, now, subject=answer.subject
        )

    def _audit_unforwarded(
        self,
        case: Case,
        tenant: str | None,
        outcome: str,
        reason: str | None,
        status: int,
        rule: RuleRef | None,
        now: float,
        *,
        subject: str | None = None,
        instead_of: Deny | None = None,
    ) -> None:
        if self._audit is None:
            return
        request, spared = case.request, instead_of or case.spared
        self._audit.decision(
            ts=case.started_at,
            request_id=case.request_id,
            tenant=tenant,
            edge=self._edge,
            method=request.method if request is not None else case.head.method,
            host=request.host if request is not None else "",
            path=_shown(request.target.path) if request is not None else "",
            client_ip=request.client_ip if request is not None else case.head.peer,
            outcome=outcome,
            reason=reason,
            status=status,
            subject=subject or (case.principal.subject if case.principal is not None else None),
            rule=rule.id if rule is not None else None,
            where=rule.where if rule is not None else None,
            duration_ms=round((now - case.started_at) * 1000, 3),
            held_ms=round(case.held_s * 1000, 3) if case.held_s else None,
            revision=case.policies.revision,
            deferred=case.is_deferred,
            instead_of=None if spared is None else spared.reason.value,
        )

    def shadowed(self, tenant: str, stage: str) -> None:
        """A refusal that shadow mode let through."""
        self._metrics.shadow_refusals_total.add((tenant, stage))


def _shown(path: str) -> str:
    """``path`` without a result's id: whoever holds that may fetch what an anonymous caller was answered."""
    return f"{_RESULTS}-" if path.startswith(_RESULTS) else path
