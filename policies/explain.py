"""
Why: the five answers for one request, each with the rule and the ``file:line`` that gave it, and what would change it.

Decides nothing. The decision comes from ``rehearsal.py`` and so from the code of the data path; what is added here is
read from the same tables: which roles the caller holds and by which binding, which rules speak of the function but not
of this caller, which limits would be spent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from policies.decision import Allow, Answer, Challenge, Deny, Page, Reason
from policies.no_wake import no_wake_rule
from policies.overflow import fallback_of
from policies.pipeline import Identify, Ready
from policies.principal import Principal, anonymous
from policies.problem import STATUS
from policies.rbac import Granted, may
from policies.rehearsal import SOMEWHERE, Rehearsal, caller, default_host, read_request, rehearse
from policies.request import AccessRequest
from policies.tables import Facts, Place, PolicySet
from policies.tenancy import OUR_PAGES, tenant_of
from policies.why import bindings_of, few, ref, why_not

QUESTIONS: Final = (
    "which tenant, which function?",
    "who is calling?",
    "may they?",
    "not too much?",
    "there, and awake?",
)
Outcome = Literal["yes", "no", "shadow", "not asked"]


@dataclass(frozen=True, slots=True)
class Step:
    """The answer to one question."""

    question: str
    outcome: Outcome
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """The five answers and the decision they come to."""

    request: str
    is_allowed: bool
    decision: str
    """``allowed``, or the refusal's status and reason."""
    steps: tuple[Step, ...]

    def text(self) -> str:
        """For a terminal: one line a question, details indented."""
        lines = [self.request]
        for number, step in enumerate(self.steps, 1):
            head, *rest = step.lines or ("",)
            lines.append(f"{number}. {step.question:30} {step.outcome:9} {head}".rstrip())
            lines += [f"{'':43}{line}" for line in rest]
        return "\n".join([*lines, f"=> {self.decision}"])

    def as_json(self) -> dict[str, Any]:
        """For ``/explain``."""
        steps = [{"question": s.question, "outcome": s.outcome, "details": list(s.lines)} for s in self.steps]
        return {"request": self.request, "allowed": self.is_allowed, "decision": self.decision, "answers": steps}


@dataclass(frozen=True, slots=True)
class ExplainRequest:
    """The body of ``POST /explain``."""

    request: str
    """``GET http://host/path``."""
    provider: str | None = None
    """None: nobody, without a credential. ``service-account`` and ``api-key`` for those of the policy."""
    subject: str = ""
    groups: list[str] = field(default_factory=list)
    email: str | None = None
    claims: dict[str, Any] = field(default_factory=dict)
    source_ip: str = SOMEWHERE
    action: str = "invoke"


def explain_request(policies: PolicySet, asked: ExplainRequest, now: float) -> dict[str, Any]:
    """What ``POST /explain`` answers. Raises: ValueError when ``asked`` makes no request or no caller."""
    return explain_line(policies, asked, now).as_json()


def explain_line(policies: PolicySet, asked: ExplainRequest, now: float) -> Explanation:
    """
    ``explain`` for a request as text. A path without host is on the first host of the only tenant.

    Raises: ValueError when ``asked`` makes no request or no caller of the tenant whose host it names.
    """
    tenants = list(policies.tenants.values())
    host = default_host(tenants[0]) if len(tenants) == 1 else ""
    request = read_request(asked.request, host, asked.source_ip)
    tenant = tenant_of(request.host, policies) if isinstance(request, AccessRequest) else None
    if asked.provider is None:
        principal = anonymous()
    elif tenant is None:
        principal = Principal(asked.provider, asked.subject, groups=frozenset(asked.groups))
    else:
        principal = caller(
            tenant,
            asked.provider,
            asked.subject,
            groups=frozenset(asked.groups),
            email=asked.email,
            claims=asked.claims,
        )
    if isinstance(request, Deny):
        return _explained(asked.request, rehearse(policies, request, principal, now), asked.action, now)
    return explain(policies, request, principal, now, asked.action)


def explain(
    policies: PolicySet, request: AccessRequest, principal: Principal, now: float, action: str = "invoke"
) -> Explanation:
    """Judge ``request`` of ``principal`` and say why. Raises: ValueError when ``action`` is none."""
    title = f"{request.method} {request.scheme}://{request.host}{request.target.path}"
    return _explained(title, rehearse(policies, request, principal, now, action), action, now)


def _explained(title: str, rehearsal: Rehearsal, action: str, now: float) -> Explanation:
    steps = (
        _place(rehearsal),
        _who(rehearsal, action, now),
        _policy(rehearsal, action, now),
        _limits(rehearsal),
        _cold_start(rehearsal, action, now),
    )
    decision = rehearsal.decision
    match decision:
        case Allow():
            said = "allowed: 202, and answered later" if rehearsal.is_deferred else "allowed"
            if decision.shadowed:
                said += f" by shadow mode; enforced it would be {_refused(decision.shadowed[0])}"
        case Answer():
            said = f"answered by Portero itself with {decision.status} (a CORS preflight)"
        case Page():
            said = f"answered by Portero itself: its own page {OUR_PAGES}{decision.name}"
        case _:
            said = f"refused: {_refused(decision)}"
    return Explanation(title, isinstance(decision, Allow | Answer | Page), said, steps)


def _refused(refusal: Challenge | Deny) -> str:
    return f"{STATUS[refusal.reason]} {refusal.reason}"


# --- question 1 -----------------------------------------------------------------------------------------------------


def _place(rehearsal: Rehearsal) -> Step:
    place = rehearsal.place
    if place is None:
        decision = rehearsal.decision
        if isinstance(decision, Challenge | Deny):
            return Step(QUESTIONS[0], "no", (f"{_refused(decision)}: {decision.detail}",))
        if isinstance(decision, Page):
            tenant = decision.tenant
            said = f"tenant {tenant.name} ({tenant.where}), Portero's own page: it judges its callers itself"
            return Step(QUESTIONS[0], "yes", (said,))
        return Step(QUESTIONS[0], "yes", ("a CORS preflight of a route with cors.origins",))
    tenant, route = place.tenant, place.route
    way = f"by route {route.id} ({route.where})" if route else f"by /function/{place.function}"
    lines = [f"tenant {tenant.name} ({tenant.where}), function {place.function}, path {place.path}, {way}"]
    if tenant.shadow:
        lines.append(f"shadow mode: refusals of {', '.join(sorted(tenant.shadow))} are let through")
    return Step(QUESTIONS[0], "yes", tuple(lines))


# --- question 2 -----------------------------------------------------------------------------------------------------


def _who(rehearsal: Rehearsal, action: str, now: float) -> Step:
    if rehearsal.place is None or Identify not in rehearsal.asked:
        return Step(QUESTIONS[1], "not asked")
    principal = rehearsal.principal
    if _is_challenged(rehearsal):
        said = f"{_refused(rehearsal.refusal)}: the request brings no credential" if rehearsal.refusal else ""
        return Step(QUESTIONS[1], _no(rehearsal), (said, *_whys(rehearsal, action, now)))
    if principal.is_anonymous:
        return Step(QUESTIONS[1], "yes", ("nobody: the request brings no credential, and need not",))
    said = principal.subject
    if principal.groups:
        said += f" in {few(sorted(principal.groups))}"
    if principal.email is not None:
        said += f", {principal.email}"
    lines = [
        f"holds {few(list(binding.roles))} by binding {binding.id} ({binding.ref.where})"
        for binding in bindings_of(rehearsal.place.tenant.rbac, principal)
    ]
    return Step(QUESTIONS[1], "yes", (said, *(lines or ("holds no role: no binding names this caller",))))


def _is_challenged(rehearsal: Rehearsal) -> bool:
    """Nobody at a function that is not public: a refusal of question 2 that question 3 finds."""
    return rehearsal.refusal is not None and rehearsal.refusal.reason is Reason.CREDENTIAL_MISSING


def _no(rehearsal: Rehearsal) -> Outcome:
    return "shadow" if isinstance(rehearsal.decision, Allow) else "no"


def _whys(rehearsal: Rehearsal, action: str, now: float) -> tuple[str, ...]:
    place, refusal, request = rehearsal.place, rehearsal.refusal, rehearsal.request
    if place is None or refusal is None or request is None:
        return ()
    return tuple(why_not(place, refusal, Facts(request, rehearsal.principal, place.function, place.path, now), action))


# --- question 3 -----------------------------------------------------------------------------------------------------


def _policy(rehearsal: Rehearsal, action: str, now: float) -> Step:
    decision, refusal = rehearsal.decision, rehearsal.refusal
    if rehearsal.place is None or _is_challenged(rehearsal):
        return Step(QUESTIONS[2], "not asked")
    if refusal is None:
        rule = decision.rule if isinstance(decision, Allow) else None
        said = "the function is public" if rule is None else f"rule {ref(rule)} allows {action}"
        return Step(QUESTIONS[2], "yes", (said,))
    return Step(QUESTIONS[2], _no(rehearsal), (_refused(refusal), *_whys(rehearsal, action, now)))


# --- questions 4 and 5 ----------------------------------------------------------------------------------------------


def _limits(rehearsal: Rehearsal) -> Step:
    if rehearsal.place is None or not (rehearsal.is_deferred or Ready in rehearsal.asked):
        return Step(QUESTIONS[3], "not asked")
    lines = [
        f"would spend {check.id} ({check.ref.where}): {check.quota} per {check.window_s} s, burst {check.burst}"
        for check in rehearsal.checks
    ]
    lines += [
        f"would count in {spec.id} ({spec.where}): at most {spec.concurrent} at once per {spec.per}"
        for spec in rehearsal.place.tenant.limits
        if spec.concurrent is not None
        and (spec.functions is None or any(p.matches(rehearsal.place.function) for p in spec.functions))
    ]
    return Step(QUESTIONS[3], "yes", tuple(lines) or ("no limit applies",))


_OVERFLOWS: Final = {
    "reject": "are refused",
    "page": "are refused, browsers with a page that comes back by itself",
    "async": "get 202 and are answered later",
    "fallback": "go to the fallback function",
}


def _cold_start(rehearsal: Rehearsal, action: str, now: float) -> Step:
    place = rehearsal.place
    is_deferred = rehearsal.is_deferred
    if place is None or not (is_deferred or Ready in rehearsal.asked) or action != "invoke":
        return Step(QUESTIONS[4], "not asked")
    spec, ceilings = place.spec, place.tenant.ceilings
    cold = spec.cold_start
    held = f"held {cold.max_wait_s:g} s at most, {cold.max_held} at once, more {_OVERFLOWS[cold.overflow]}"
    held += _fallback(place, rehearsal, now)
    if is_deferred:
        held = f"answered with 202 at once, and run within {spec.deferred.max_wait_s:g} s"
    rule = None if rehearsal.request is None else no_wake_rule(place, rehearsal.request)
    if rule is not None:
        said = _refused(Deny(Reason.FUNCTION_ASLEEP)) if rule.status is None else str(rule.status)
        return Step(QUESTIONS[4], "yes", (f"asleep it would not be woken: a no_wake rule answers {said}",))
    replica = f"{spec.concurrency} at once per replica" if spec.concurrency else "as many per replica as come"
    if spec.is_concurrency_shared:
        replica += ", counted by all Porteros together"
    return Step(
        QUESTIONS[4],
        "yes",
        (
            f"asleep it would be woken: {held}",
            f"{replica}; the tenant holds at most {ceilings.held} requests and {ceilings.held_bytes} bytes",
        ),
    )


def _fallback(place: Place, rehearsal: Rehearsal, now: float) -> str:
    """The function that takes what overflows, and whether it would take this."""
    if (other := fallback_of(place)) is None or rehearsal.request is None:
        return ""
    verdict = may(other, rehearsal.principal, rehearsal.request, "invoke", now)
    return f" ({other.function})" if isinstance(verdict, Granted) else f" ({other.function}: not this caller's)"


__all__ = ["ExplainRequest", "Explanation", "Step", "explain", "explain_line", "explain_request"]
