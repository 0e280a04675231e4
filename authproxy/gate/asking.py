"""
Answers what the pipeline needs to know: who is calling, whether limits allow it, whether the function is awake.

``..._now`` answers from what is at hand, the others ask whom it takes. Here stands, too, how a request that has waited
is judged again, and where a judged one leaves to. It refuses to know what becomes of the answers: the gate sends them
to the generator, counts and audits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from authproxy.activator import Activator, Grant
from authproxy.backends import Backends
from authproxy.gate.identify import Identifier
from authproxy.gate.verdict import Case
from authproxy.limits.store import LimitStore
from authproxy.policy_folder import PolicyFolder
from authproxy.upstream.departure import Destination
from authproxy.upstream.held_body import HoldableBody
from policies.decision import Answer, Deny, Page, Reason, Refusal
from policies.no_wake import no_wake_rule
from policies.overflow import fallback_of
from policies.pipeline import Identify, Need, Ready, Spend, judge_again
from policies.principal import Principal
from policies.request import AccessRequest
from policies.tables import Place
from policies.tenancy import resolve

WAIT: Final = object()
"""The answer to a need is not at hand."""


class Asking:
    """One a gate."""

    def __init__(
        self,
        *,
        folder: PolicyFolder,
        identifier: Identifier,
        store: LimitStore,
        activator: Activator,
        backends: Backends,
        clock: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._identifier = identifier
        self._store = store
        self._activator = activator
        self._backends = backends
        self._clock = clock

    def answer_now(self, need: Need, now: float) -> Any:
        """The answer, or ``WAIT``."""
        if type(need) is Identify:
            answer = self._identifier.identify_now(need.place.tenant, need.request, now)
            return WAIT if answer is None else answer
        if type(need) is Spend:
            spent = self._store.spend_now(need.place.tenant.name, need.checks, now)
            return WAIT if spent is None else spent
        return None if self._activator.ready_now(need.place) else WAIT

    async def answer(self, need: Identify | Spend, now: float) -> Any:
        if isinstance(need, Identify):
            return await self._identifier.identify(need.place.tenant, need.request, now)
        return await self._store.spend(need.place.tenant.name, need.checks, now)

    async def hold(
        self, need: Ready, case: Case, body: HoldableBody | None = None, *, is_deferred: bool = False
    ) -> Principal | Refusal:
        """
        Wait until the function is awake, then ask 2 and 3 again: a token may have expired, a policy changed. The answer
        is who the caller is by then: a session that has ended leaves nobody, whom public functions serve all the same.
        """
        destination = self.destination(need.place, need.request)
        if isinstance(destination, Deny):
            return destination  # what cannot be asked of the platform wakes nothing
        granted = await self._activator.hold(
            need.place,
            need.principal,
            need.request,
            body=body,
            may_wake=no_wake_rule(need.place, need.request) is None,
            is_deferred=is_deferred,
        )
        if not isinstance(granted, Grant):
            return granted
        # From here on a place at the function is taken: whatever happens, it is given back or passed on.
        answer: Principal | Refusal | None = None
        try:
            answer = await self.judge_again(need.request, need.place.function)
        finally:
            if isinstance(answer, Principal):
                case.grant = granted
            else:
                self._activator.finished(need.place, granted, was_served=False)
        return answer

    async def judge_again(self, request: AccessRequest, function: str) -> Principal | Refusal:
        """Questions 1 to 3 by the policies of now, of a request that goes to ``function``: who it is, or why not."""
        place = self._place_again(request, function)
        if not isinstance(place, Place):
            return place
        judging = judge_again(request, place, self._clock())
        try:
            need = next(judging)
            while True:
                now = self._clock()
                answer = self.answer_now(need, now)
                if answer is WAIT:
                    if isinstance(need, Ready):  # it is not asked a second time
                        return Deny(Reason.INTERNAL_ERROR)
                    answer = await self.answer(need, now)
                need = judging.send(answer)
        except StopIteration as stop:
            again: Principal | Refusal = stop.value
            return again

    def _place_again(self, request: AccessRequest, function: str) -> Place | Refusal:
        """Question 1 by the policies of now, of a request that goes to ``function``: its own, or the fallback."""
        place = resolve(request, self._folder.active)
        if isinstance(place, Answer | Page):
            return Deny(Reason.INTERNAL_ERROR)
        if not isinstance(place, Place) or place.function == function:
            return place
        if place.spec.cold_start.fallback == function and (other := fallback_of(place)) is not None:
            return other
        return Deny(Reason.POLICY_UNAVAILABLE, retry_after_s=1, tenant=place.tenant.name)

    def judge_again_now(self, request: AccessRequest, function: str) -> Principal | Refusal | None:
        """As ``judge_again``, from what is at hand; None: somebody has to be asked."""
        place = self._place_again(request, function)
        if not isinstance(place, Place):
            return place
        judging = judge_again(request, place, self._clock())
        try:
            need = next(judging)
            while True:
                answer = self.answer_now(need, self._clock())
                if answer is WAIT:
                    return None
                need = judging.send(answer)
        except StopIteration as stop:
            again: Principal | Refusal = stop.value
            return again

    def destination(self, place: Place, request: AccessRequest) -> Destination | Deny:
        backend = self._backends.get(place.tenant.backend)
        if backend is None:  # a reload took it away while the request was judged
            return Deny(Reason.POLICY_UNAVAILABLE, retry_after_s=1, tenant=place.tenant.name)
        destination = backend.destination(place, request.target.query, request)
        if isinstance(destination, Deny):  # a backend refuses paths and knows no tenants
            return replace(destination, tenant=place.tenant.name)
        return destination
