"""
The order of the five questions, and nothing else.

``judge`` is a generator: it *yields* what it needs to know from outside (a ``Need``) and is *sent* the answer, so that
the core does no I/O and exists once. The gate drives it: when an answer is at hand it sends it at once and the usual
request is judged without a single ``await``; when it is not, the same generator waits until it is. Tests drive it by
hand.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any, Final, NamedTuple

from policies.decision import Allow, Answer, Challenge, Decision, Defer, Deny, LimitState, Reason, Refusal
from policies.limits import Check, Spent, checks_for
from policies.no_wake import asleep_answer
from policies.origin import refuse_cross_origin
from policies.overflow import (
    OVERFLOWS,
    fallback_of,
    is_deferred_at_once,
    is_spared,
    takes_body,
    with_page,
)
from policies.principal import Principal, anonymous
from policies.rbac import Granted, may
from policies.request import AccessRequest
from policies.tables import Place, PolicySet
from policies.tenancy import resolve


class Identify(NamedTuple):
    """Question 2. Answer: a ``Principal``, or the refusal."""

    place: Place
    request: AccessRequest


class Spend(NamedTuple):
    """Question 4. Answer: ``Spent``."""

    place: Place
    checks: tuple[Check, ...]


class Ready(NamedTuple):
    """
    Question 5. Answer: None when the function can take the request, or the refusal.

    Of a request that was held: who the caller is now (``judge_again``); that one is who leaves for the function.
    """

    place: Place
    principal: Principal
    request: AccessRequest


Need = Identify | Spend | Ready

_new: Final[Any] = tuple.__new__
"""NamedTuples of the hot path are made without their Python ``__new__``: 0.15 us each."""


def judge(request: AccessRequest, policies: PolicySet, now: float) -> Generator[Need, Any, Decision]:
    """Ask the five questions of one request in their order; see the package docstring for why in this order."""
    place = resolve(request, policies)
    if not isinstance(place, Place):
        return place

    shadowed: tuple[Deny, ...] = ()
    principal = yield _new(Identify, (place, request))
    if isinstance(principal, Principal) and (principal.is_by_cookie or principal.only_function is not None):
        principal = confined(principal, place, request)
    if not isinstance(principal, Principal):
        refusal = refused(principal, place)
        if not is_unidentified(refusal, place):
            return refusal
        shadowed = (as_deny(refusal),)
        principal = anonymous()

    verdict = may(place, principal, request, "invoke", now)
    if not isinstance(verdict, Granted):
        if not is_shadowed(verdict, place):
            return session_over(verdict) if principal.is_session_over else verdict
        shadowed += (as_deny(verdict),)

    length = request.content_length
    if length is not None and place.spec.max_body_bytes is not None and length > place.spec.max_body_bytes:
        # Before limits and wakes: what cannot be delivered costs nobody anything.
        return too_large(place)

    states: tuple[LimitState, ...] = ()
    if checks := checks_for(place, principal, request):
        spent: Spent = yield _new(Spend, (place, checks))
        states = spent.states
        if spent.refused is not None:
            limited = rate_limited(place, checks[spent.refused], spent)
            if "limits" not in place.tenant.shadow:
                return limited
            shadowed += (limited,)

    rule = verdict.rule if isinstance(verdict, Granted) else None
    if (request.wants_async or place.is_deferred) and is_deferred_at_once(place, request):
        return Defer(Allow(place, principal, rule, states, shadowed), None)

    released: Principal | Refusal | None = yield _new(Ready, (place, principal, request))
    if released is not None:
        if not isinstance(released, Principal):
            return (yield from unheld(released, Allow(place, principal, rule, states, shadowed), request, now))
        principal = released

    allow: Allow = _new(Allow, (place, principal, rule, states, shadowed, None))
    return allow


def unheld(refusal: Refusal, allow: Allow, request: AccessRequest, now: float) -> Generator[Need, Any, Decision]:
    """What becomes of a request that question 5 refused: see ``overflow.py`` and ``no_wake.py``."""
    place, principal = allow.place, allow.principal
    if not isinstance(refusal, Deny):
        return refusal
    if refusal.reason is Reason.FUNCTION_ASLEEP:
        return asleep_answer(place, request, refusal)
    if is_spared(place, request, refusal):
        return Defer(allow, refusal)
    other = fallback_of(place) if refusal.reason in OVERFLOWS else None
    if other is None:
        return with_page(place, request, refusal)
    verdict = may(other, principal, request, "invoke", now)
    shadowed = allow.shadowed
    if not isinstance(verdict, Granted):
        if not is_shadowed(verdict, other):
            return refusal
        shadowed += (as_deny(verdict),)
    if not takes_body(other, request):
        return refusal
    released: Principal | Refusal | None = yield Ready(other, principal, request)
    if released is not None:
        if not isinstance(released, Principal):
            return refusal
        principal = released
    rule = verdict.rule if isinstance(verdict, Granted) else None
    return Allow(other, principal, rule, allow.limits, shadowed, refusal)


def judge_again(request: AccessRequest, place: Place, now: float) -> Generator[Need, Any, Principal | Refusal]:
    """Questions 2 and 3 of a request that was held: a token may have expired, a policy changed meanwhile."""
    principal = yield Identify(place, request)
    if isinstance(principal, Principal) and (principal.is_by_cookie or principal.only_function is not None):
        principal = confined(principal, place, request)
    if not isinstance(principal, Principal):
        refusal = refused(principal, place)
        if not is_unidentified(refusal, place):
            return refusal
        principal = anonymous()
    verdict = may(place, principal, request, "invoke", now)
    if isinstance(verdict, Granted) or is_shadowed(verdict, place):
        return principal
    return session_over(verdict) if principal.is_session_over else verdict


def too_large(place: Place) -> Deny:
    """The body is longer than the function takes."""
    return Deny(
        Reason.BODY_TOO_LARGE,
        f"the function takes at most {place.spec.max_body_bytes} bytes",
        tenant=place.tenant.name,
    )


def rate_limited(place: Place, check: Check, spent: Spent) -> Deny:
    """``check`` is the one that kept the request's rates from being spent."""
    return Deny(
        Reason.RATE_LIMITED,
        detail=f"limit {check.id!r} is used up",
        rule=check.ref,
        retry_after_s=spent.retry_after_s,
        limits=spent.states,
        tenant=place.tenant.name,
    )


def confined(principal: Principal, place: Place, request: AccessRequest) -> Principal | Refusal:
    """What a credential is good for beyond whom it names: a session for our own pages, a token for one function."""
    if principal.only_function is not None and principal.only_function != place.function:
        return Challenge(
            Reason.CREDENTIAL_INVALID, "invalid_token", "the token is for another function", place.tenant.name
        )
    if principal.is_by_cookie:
        listed = place.route.cors_origins if place.route is not None else frozenset()
        return refuse_cross_origin(request, place.tenant.name, listed) or principal
    return principal


def session_over(refusal: Refusal) -> Refusal:
    """A browser that brought an ended session is told so, instead of that it brought nothing."""
    if refusal.reason is Reason.CREDENTIAL_MISSING:
        return replace(refusal, reason=Reason.SESSION_EXPIRED, detail="the session is over; log in again")
    return refusal


def is_unidentified(refused: Refusal, place: Place) -> bool:
    """
    Whether ``shadow: [identity]`` lets the bearer of a bad credential through, as nobody and without identity fields.

    Only a credential's own badness: a provider that does not answer, a token of another tenant or an address that is
    guessing stay refusals.
    """
    return "identity" in place.tenant.shadow and isinstance(refused, Challenge)


def is_shadowed(verdict: Refusal, place: Place) -> bool:
    """
    Whether shadow mode lets this refusal of question 3 through.

    ``policy`` is enough for a Deny. A Challenge (no credential at a function that is not public) is a refusal of
    question 2 as well, so ``identity`` must be shadowed too: otherwise a tenant that only tries out its rules would
    serve the whole world, without the safeguards that shadowing ``identity`` brings.
    """
    shadow = place.tenant.shadow
    return "policy" in shadow and (isinstance(verdict, Deny) or "identity" in shadow)


def as_deny(verdict: Refusal) -> Deny:
    return verdict if isinstance(verdict, Deny) else Deny(verdict.reason, verdict.detail, tenant=verdict.tenant)


def refused(answer: object, place: Place) -> Refusal:
    """
    The refusal of question 2, with the tenant it is for: who judges tokens says what is wrong with them and no more.

    A driver that answers anything but a principal or a refusal has a defect: that must not widen access.
    """
    if not isinstance(answer, Challenge | Deny):
        return Deny(Reason.INTERNAL_ERROR, tenant=place.tenant.name)
    return answer if answer.tenant is not None else replace(answer, tenant=place.tenant.name)


__all__ = ["Answer", "Identify", "Need", "Ready", "Spend", "Spent", "judge", "judge_again"]
