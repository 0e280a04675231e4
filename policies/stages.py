"""
Some of the five questions alone: what one plugin of a chain asks, and what it takes from those before it.

``judge_stages`` is ``pipeline.judge`` in pieces. It yields the same needs, in the same order, and answers as it does,
so that a chain of plugins comes to the decision that one plugin would have come to. What earlier ones have found is
handed in as ``Earlier``; whoever hands it in vouches for it.

The last one of a chain lets the request out, so it asks, whatever it is called, who is calling and whether he may,
unless that was asked: nothing leaves unjudged because a plugin was forgotten. Rates are spent by the stage of that name
alone. Refuses to know Kong, and where what was found is kept meanwhile.
"""

from __future__ import annotations

from collections.abc import Generator
from enum import StrEnum
from typing import Any, Final, NamedTuple

from policies.decision import Allow, Decision, Defer, Deny, Known, LimitState, Reason, Refusal, RuleRef
from policies.limits import Spent, checks_for
from policies.overflow import is_deferred_at_once
from policies.pipeline import (
    Identify,
    Need,
    Ready,
    Spend,
    as_deny,
    confined,
    is_shadowed,
    is_unidentified,
    rate_limited,
    refused,
    session_over,
    too_large,
    unheld,
)
from policies.principal import Principal, anonymous
from policies.rbac import Granted, may
from policies.request import AccessRequest
from policies.tables import Place, PolicySet
from policies.tenancy import resolve

Asking = Generator[Need, Any, Decision | Known]


class Stage(StrEnum):
    """What a plugin of a chain asks."""

    TENANT = "tenant"
    """Question 1."""
    RBAC = "rbac"
    """Questions 2 and 3."""
    RATELIMIT = "ratelimit"
    """Question 4."""
    COLDSTART = "coldstart"
    """Question 5."""


ORDER: Final = (Stage.TENANT, Stage.RBAC, Stage.RATELIMIT, Stage.COLDSTART)
"""In which they are asked."""
_ASKED_AGAIN: Final = frozenset({Stage.RBAC})
"""Rates are spent once, whatever happens meanwhile."""


class Earlier(NamedTuple):
    """What those before have found of one request."""

    done: frozenset[Stage]
    """The questions that were asked, and answered with yes."""
    principal: Principal | None
    """None: nobody has asked yet who is calling."""
    rule: RuleRef | None
    limits: tuple[LimitState, ...]
    shadowed: tuple[Deny, ...]
    request_id: str
    tenant: str
    function: str
    """Empty: the request is for one of Portero's own pages."""
    revision: str
    """Of the policies by which it was found."""

    def __repr__(self) -> str:
        """Without what the caller has been found to be."""
        return f"Earlier({sorted(self.done)}, {self.tenant}/{self.function}, {self.request_id})"


def judge_stages(
    request: AccessRequest,
    policies: PolicySet,
    now: float,
    stages: frozenset[Stage],
    earlier: Earlier | None,
    *,
    is_final: bool,
) -> Asking:
    """
    Ask ``stages`` of one request.

    Args:
        request: is placed anew: a policy may have been swapped since ``earlier`` was found. Then, and when the caller's
            credential has expired since, questions 2 and 3 are asked anew, too, if they were asked.
        policies: the active set.
        now: Unix seconds.
        stages: what to ask. What they depend on is asked, too: who is counted, of a rate.
        earlier: what was found before; None: nothing was.
        is_final: the request leaves after this one. Otherwise the decision is ``Known`` where it is not a refusal, an
            ``Answer`` or a ``Page``.
    """
    place = resolve(request, policies)
    if not isinstance(place, Place):
        return place
    done: frozenset[Stage] = frozenset()
    known: Known = Known(place, None)
    if earlier is not None:
        if (earlier.tenant, earlier.function) != (place.tenant.name, place.function):
            return Deny(Reason.POLICY_UNAVAILABLE, retry_after_s=1, tenant=place.tenant.name)
        if Stage.RBAC in earlier.done and earlier.principal is None:
            return Deny(Reason.INTERNAL_ERROR, tenant=place.tenant.name)
        done = earlier.done
        if earlier.principal is None or _still_holds(earlier, earlier.principal, policies, now):
            known = Known(place, earlier.principal, earlier.rule, earlier.limits, earlier.shadowed)
        else:
            known = Known(place, None, None, earlier.limits, _of_limits(earlier.shadowed))
            stages |= done & _ASKED_AGAIN
            done -= _ASKED_AGAIN

    if known.principal is None and (is_final or Stage.RBAC in stages or Stage.RATELIMIT in stages):
        identified = yield from _identified(request, known)
        if not isinstance(identified, Known):
            return identified
        known = identified
    principal = known.principal
    if principal is not None:
        if Stage.RBAC not in done and (is_final or Stage.RBAC in stages):
            allowed = _allowed(request, known, principal, now)
            if not isinstance(allowed, Known):
                return allowed
            known = allowed
        length, most = request.content_length, place.spec.max_body_bytes
        if length is not None and most is not None and length > most:
            return too_large(place)
        if Stage.RATELIMIT in stages and Stage.RATELIMIT not in done:
            spent = yield from _spent(request, known, principal)
            if not isinstance(spent, Known):
                return spent
            known = spent
    if not is_final:
        return known
    if principal is None:  # not so: it has been asked above
        return Deny(Reason.INTERNAL_ERROR, tenant=place.tenant.name)
    return (yield from _left(request, known, principal, now))


def _still_holds(earlier: Earlier, principal: Principal, policies: PolicySet, now: float) -> bool:
    """Between two plugins others may take their time; whether a logout came meanwhile is the gate's to know."""
    is_in_time = principal.expires_at is None or now < principal.expires_at
    return is_in_time and earlier.revision == policies.revision


def _of_limits(shadowed: tuple[Deny, ...]) -> tuple[Deny, ...]:
    return tuple([refusal for refusal in shadowed if refusal.reason is Reason.RATE_LIMITED])


def _identified(request: AccessRequest, known: Known) -> Generator[Need, Any, Known | Refusal]:
    """Question 2."""
    place = known.place
    principal = yield Identify(place, request)
    if isinstance(principal, Principal) and (principal.is_by_cookie or principal.only_function is not None):
        principal = confined(principal, place, request)
    if isinstance(principal, Principal):
        return known._replace(principal=principal)
    refusal = refused(principal, place)
    if not is_unidentified(refusal, place):
        return refusal
    return known._replace(principal=anonymous(), shadowed=(*known.shadowed, as_deny(refusal)))


def _allowed(request: AccessRequest, known: Known, principal: Principal, now: float) -> Known | Refusal:
    """Question 3."""
    verdict = may(known.place, principal, request, "invoke", now)
    if isinstance(verdict, Granted):
        return known._replace(rule=verdict.rule)
    if is_shadowed(verdict, known.place):
        return known._replace(shadowed=(*known.shadowed, as_deny(verdict)))
    return session_over(verdict) if principal.is_session_over else verdict


def _spent(request: AccessRequest, known: Known, principal: Principal) -> Generator[Need, Any, Known | Refusal]:
    """Question 4."""
    place = known.place
    checks = checks_for(place, principal, request)
    if not checks:
        return known
    spent: Spent = yield Spend(place, checks)
    known = known._replace(limits=spent.states)
    if spent.refused is None:
        return known
    refusal = rate_limited(place, checks[spent.refused], spent)
    if "limits" not in place.tenant.shadow:
        return refusal
    return known._replace(shadowed=(*known.shadowed, refusal))


def _left(
    request: AccessRequest, known: Known, principal: Principal, now: float
) -> Generator[Need, Any, Decision | Known]:
    """Question 5: the request leaves for its function, now or when that is awake."""
    place = known.place
    allow = Allow(place, principal, known.rule, known.limits, known.shadowed)
    if is_deferred_at_once(place, request):
        return Defer(allow, None)
    released: Principal | Refusal | None = yield Ready(place, principal, request)
    if released is None:
        return allow
    if isinstance(released, Principal):
        return allow._replace(principal=released)
    return (yield from unheld(released, allow, request, now))
