"""What is written down of each decision: counters and audit line, in one place so that they never disagree."""

from __future__ import annotations

from typing import Final

from authproxy.audit import Audit
from authproxy.gate.verdict import Passed
from authproxy.metrics import HistogramCell, Metrics
from policies.decision import Answer, Challenge, Reason, Refusal
from policies.request import AccessRequest, Head

_NO_TENANT: Final = "-"
"""Label of requests that named no tenant: a host is the caller's word and never becomes a label."""


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
        """An allowed request has ended; ``failure`` when the data path could not deliver it whole."""
        allow, request = passed.allow, passed.request
        tenant = allow.place.tenant.name
        duration_s = now - passed.started_at
        cells = self._allowed.get(tenant)
        if cells is None:
            cells = self._allowed[tenant] = (
                self._metrics.decisions_total.cell((self._edge, tenant, "allow", "")),
                self._metrics.request_duration_seconds.cell((self._edge, tenant)),
            )
        cells[1].observe(duration_s)
        if failure is None:
            cells[0][0] += 1
            outcome, reason = "allow", None
        else:
            outcome, reason = "deny", failure.value
            self._metrics.decisions_total.add((self._edge, tenant, outcome, reason))
        for refusal in allow.shadowed:
            self.shadowed(tenant, "limits" if refusal.reason is Reason.RATE_LIMITED else "policy")
        if self._audit is not None:
            rule = allow.rule
            self._audit.decision(
                ts=passed.started_at,
                request_id=passed.request_id,
                tenant=tenant,
                edge=self._edge,
                method=request.method,
                host=request.host,
                path=request.target.path,
                client_ip=request.client_ip,
                outcome=outcome,
                reason=reason,
                status=status,
                subject=allow.principal.subject,
                rule=rule.id if rule is not None else None,
                where=rule.where if rule is not None else None,
                duration_ms=round(duration_s * 1000, 3),
                bytes_in=bytes_in,
                bytes_out=bytes_out,
                held_ms=round(passed.held_s * 1000, 3) if passed.held_s else None,
                shadowed=tuple(refusal.reason.value for refusal in allow.shadowed),
                revision=passed.revision,
            )

    def refused(
        self,
        refusal: Refusal,
        status: int,
        head: Head,
        request: AccessRequest | None,
        request_id: str,
        started_at: float,
        now: float,
        revision: str,
    ) -> None:
        """A request was refused; ``request`` None when its head could not be believed."""
        tenant = refusal.tenant
        outcome = "challenge" if isinstance(refusal, Challenge) else "deny"
        self._metrics.decisions_total.add((self._edge, tenant or _NO_TENANT, outcome, refusal.reason.value))
        if self._audit is None:
            return
        rule = None if isinstance(refusal, Challenge) else refusal.rule
        self._audit.decision(
            ts=started_at,
            request_id=request_id,
            tenant=tenant,
            edge=self._edge,
            method=request.method if request is not None else head.method,
            host=request.host if request is not None else "",
            path=request.target.path if request is not None else "",
            client_ip=request.client_ip if request is not None else head.peer,
            outcome=outcome,
            reason=refusal.reason.value,
            status=status,
            rule=rule.id if rule is not None else None,
            where=rule.where if rule is not None else None,
            duration_ms=round((now - started_at) * 1000, 3),
            revision=revision,
        )

    def answered(
        self, answer: Answer, request: AccessRequest, request_id: str, started_at: float, now: float, revision: str
    ) -> None:
        """Portero answered by itself and nothing was refused."""
        self._metrics.decisions_total.add((self._edge, answer.tenant or _NO_TENANT, "answer", ""))
        if self._audit is not None:
            self._audit.decision(
                ts=started_at,
                request_id=request_id,
                tenant=answer.tenant,
                edge=self._edge,
                method=request.method,
                host=request.host,
                path=request.target.path,
                client_ip=request.client_ip,
                outcome="answer",
                status=answer.status,
                duration_ms=round((now - started_at) * 1000, 3),
                revision=revision,
            )

    def shadowed(self, tenant: str, stage: str) -> None:
        """A refusal that shadow mode let through."""
        self._metrics.shadow_refusals_total.add((tenant, stage))
