"""
The gate: asks the five questions of one request, doing the I/O that the core may not.

``decide_now`` drives ``policies.pipeline.judge`` with answers that are at hand (token seen before, limits in memory,
function awake) and so judges the usual request without a single ``await``. When an answer is not at hand it hands back
the generator where it stands, and ``decide`` goes on from there. An answer that cannot be had is a refusal: an
exception in here ends in ``internal-error``, never in a request that was let through.

Longer than other modules: everything a request can meet between its head and its end stands here, and nothing else.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, Final

from authproxy.activator import Activator, Grant
from authproxy.audit import get_logger
from authproxy.backends import Backends
from authproxy.gate.asking import WAIT, Asking
from authproxy.gate.identify import Identifier
from authproxy.gate.live import LiveRegistry
from authproxy.gate.names import new_request_id
from authproxy.gate.record import Recorder
from authproxy.gate.verdict import (
    Case,
    Deferred,
    DirectAnswer,
    PageAnswer,
    PageCall,
    Passed,
    Refused,
    StagePassed,
    Undecided,
    Verdict,
)
from authproxy.identity.tokens import bound
from authproxy.limits.concurrency import ConcurrencyLimits, Lease
from authproxy.limits.store import LimitStore
from authproxy.policy_folder import PolicyFolder
from authproxy.upstream.held_body import HoldableBody
from policies.decision import Allow, Answer, Challenge, Decision, Defer, Deny, Known, Page, Problem, Reason, Refusal
from policies.limits import Parallel, concurrency_for
from policies.navigation import login_location
from policies.no_wake import asleep_answer
from policies.overflow import with_page
from policies.pipeline import Identify, Need, Ready, Spend, Spent, judge
from policies.principal import Principal
from policies.problem import login_redirect, problem
from policies.ratelimit import ratelimit_fields
from policies.request import AccessRequest, Head, HeadMemo, TrustedPeers, read_head
from policies.tables import Place, PolicySet, TenantTable
from policies.tenancy import tenant_of
from policies.upstream_identity import answer_block, request_block
from policies.waiting_page import as_waiting_page

Judging = Generator[Need, Any, Decision | Known]
Judge = Callable[[AccessRequest, PolicySet, float], Judging]
"""What asks the questions: ``policies.pipeline.judge``, or some of them alone (``policies.stages``)."""

_ENDS_ITS_CONNECTION: Final = frozenset({Reason.BAD_REQUEST, Reason.HEAD_TOO_LARGE})

_log = get_logger("gate")


class Gate:
    """One gate a process and edge; ``build.py`` composes it."""

    def __init__(
        self,
        *,
        edge: str,
        folder: PolicyFolder,
        identifier: Identifier,
        store: LimitStore,
        concurrency: ConcurrencyLimits,
        activator: Activator,
        backends: Backends,
        recorder: Recorder,
        live: LiveRegistry,
        assertion: Callable[[Place, Principal, float], bytes] | None = None,
        clock: Callable[[], float] = time.time,
        counts_late: bool = False,
    ) -> None:
        self.edge = edge
        self.live = live
        self._folder = folder
        self._identifier = identifier
        self._known_now = identifier.known_now
        self._store = store
        self._concurrency = concurrency
        self._activator = activator
        self._asking = Asking(
            folder=folder, identifier=identifier, store=store, activator=activator, backends=backends, clock=clock
        )
        self._backends = backends
        self._recorder = recorder
        self._assert = assertion
        """Signs ``X-Portero-Assertion`` for one function; None: there are no keys to sign with."""
        self._clock = clock
        self._trusted = _trusted_peers(folder.active)
        self._counts_late = counts_late
        """
        A place at a function that has few is taken by ``decide`` and ``go_on_now`` only. Who asks the others may lose
        the request before it goes on (Kong does, when its client has gone); its place would be nobody's for seconds.
        """
        self._is_draining = False
        folder.on_swap(self._swapped)

    # -- deciding ------------------------------------------------------------------------------------------------

    def decide_now(
        self,
        head: Head,
        memo: HeadMemo | None = None,
        asks: Judge = judge,
        request_id: str | None = None,
        caller: Principal | None = None,
    ) -> Verdict | Undecided:
        """
        Judge without waiting; ``Undecided`` when something has to be waited for.

        Args:
            head: as it stood on the wire.
            memo: the connection's.
            asks: which questions are asked.
            request_id: by which the request is known already; None: it gets a new one.
            caller: who is calling, where that is known already; whether he has been logged out since is looked at.
        """
        now = self._clock()
        case = Case(head, None, self._folder.active, request_id or new_request_id(), now, caller)
        try:
            if self._is_draining:
                return self._refuse(Deny(Reason.DRAINING, retry_after_s=5), case)
            request = read_head(head, self._trusted, memo)
            if isinstance(request, Deny):
                # Where a head ends and what follows it is as doubtful as the head (RFC 9112 section 11.2).
                refused = self._refuse(request, case)
                refused.keeps_alive = request.reason not in _ENDS_ITS_CONNECTION
                return refused
            case.request = request
            if caller is not None:
                case.has_waited = True
                if (tenant := tenant_of(request.host, case.policies)) is not None:
                    bound.believe(caller, tenant.name, request)
            judging = asks(request, case.policies, now)
            return self._go_on(case, request, judging, None, now)
        except Exception:  # noqa: BLE001 (whatever broke, the request must not pass; its text stays in the log, AP-R52)
            return self._broken(case)

    def decide_soon(self, undecided: Undecided, then: Callable[[Verdict | Undecided], None]) -> bool:
        """
        Go on without a task, if all there is to wait for is the limit store: ``then`` is called once, from the loop.

        False when ``decide`` has to be awaited instead. A client that left meanwhile is the caller's to remember.
        """
        need, case = undecided.need, undecided.case
        if type(need) is not Spend:
            return False

        def answered(spent: Spent) -> None:
            then(self._go_on(case, undecided.request, undecided.judging, spent, self._clock()))

        return self._store.spend_soon(need.place.tenant.name, need.checks, self._clock(), answered)

    def _go_on(
        self, case: Case, request: AccessRequest, judging: Judging, answer: Any, now: float
    ) -> Verdict | Undecided:
        """Send ``answer`` (None: begin) and further ones for as long as they are at hand."""
        try:
            need = judging.send(answer)
            while True:
                # ``_answer_now`` written out: the usual request comes by here three times.
                kind = type(need)
                if kind is Identify:
                    tenant = need.place.tenant
                    answer = self._known_now(tenant, request, now) or self._identifier.identify_now(
                        tenant, request, now
                    )
                    if answer is None:
                        break
                    if type(answer) is Principal:
                        case.principal = answer
                elif kind is Spend:
                    answer = self._store.spend_now(need.place.tenant.name, need.checks, now)  # type: ignore[union-attr]
                    if answer is None:
                        break
                elif self._counts_late and _is_counted(need):  # type: ignore[arg-type]  # what is left is Ready
                    break
                elif self._activator.ready_now(need.place):
                    answer = None
                else:
                    break
                need = judging.send(answer)
        except StopIteration as stop:
            return self._conclude(stop.value, case)
        except Exception:  # noqa: BLE001 (as in decide_now)
            return self._broken(case)
        case.has_waited = True
        return Undecided(case, request, judging, need)

    def go_on_now(self, undecided: Undecided) -> Verdict | Undecided:
        """``decide`` as far as it need not wait: ``undecided`` itself when it has to."""
        need, now = undecided.need, self._clock()
        try:
            answer = self._asking.answer_now(need, now)
        except Exception:  # noqa: BLE001 (as in decide_now)
            return self._broken(undecided.case)
        if answer is WAIT:
            return undecided
        return self._go_on(undecided.case, undecided.request, undecided.judging, answer, now)

    async def decide(self, undecided: Undecided, body: HoldableBody | None = None) -> Verdict:
        """
        Go on where ``decide_now`` had to stop. Cancelling it is how a client that leaves gives its place back.

        ``body`` is read while the request is held, and only then.
        """
        verdict = await self._decide(undecided, body, may_hold=True)
        return self._broken(undecided.case) if isinstance(verdict, Undecided) else verdict

    async def decide_unheld(self, undecided: Undecided) -> Verdict | Undecided:
        """As ``decide``, but what would have to be held for its function, or counted, is handed back, for who can."""
        return await self._decide(undecided, None, may_hold=False)

    async def _decide(self, undecided: Undecided, body: HoldableBody | None, *, may_hold: bool) -> Verdict | Undecided:
        case, need = undecided.case, undecided.need
        now = self._clock()
        try:
            while True:
                now = self._clock()
                is_late = not may_hold and self._counts_late and isinstance(need, Ready) and _is_counted(need)
                answer = WAIT if is_late else self._asking.answer_now(need, now)
                if answer is WAIT:
                    if isinstance(need, Ready):
                        if not may_hold:
                            return Undecided(case, undecided.request, undecided.judging, need)
                        answer = await self._asking.hold(need, case, body)
                        case.held_s += self._clock() - now
                    else:
                        answer = await self._asking.answer(need, now)
                if type(answer) is Principal:
                    case.principal = answer
                need = undecided.judging.send(answer)
        except StopIteration as stop:
            return self._conclude(stop.value, case)
        except asyncio.CancelledError:
            if isinstance(need, Ready):
                case.held_s += self._clock() - now
            self._refuse(Deny(Reason.CLIENT_GONE, tenant=need.place.tenant.name), case)
            raise
        except Exception:  # noqa: BLE001 (as in decide_now)
            return self._broken(case)

    def abandon(self, undecided: Undecided) -> None:
        """The client left before ``decide`` was awaited: count and audit it."""
        self.refuse_undecided(undecided, Deny(Reason.CLIENT_GONE))

    def refuse_undecided(self, undecided: Undecided, refusal: Refusal) -> Refused:
        """It ends where it stands; nothing was taken for it that has to be given back."""
        if refusal.tenant is None:
            refusal = replace(refusal, tenant=undecided.need.place.tenant.name)
        undecided.judging.close()
        return self._refuse(refusal, undecided.case)

    # -- concluding ----------------------------------------------------------------------------------------------

    def _conclude(self, decision: Decision | Known, case: Case) -> Verdict:
        if isinstance(decision, Allow):
            try:
                passed = self._pass(decision, case)
                if isinstance(passed, Passed):
                    return passed
                refused = self._refuse(passed, case)
            except Exception:  # noqa: BLE001 (as in decide_now)
                refused = self._broken(case)
            self._activator.finished(decision.place, case.grant, was_served=False)
            return refused
        if isinstance(decision, Answer):
            self._recorder.answered(decision, case, self._clock())
            fields = (*decision.fields, ("X-Request-Id", case.request_id))
            return DirectAnswer(decision.status, fields, case.request_id)
        if isinstance(decision, Page):
            return PageCall(case, decision)
        if isinstance(decision, Defer):
            return Deferred(case, decision.allow, decision.instead_of)
        if isinstance(decision, Known):
            return StagePassed(case, decision)
        return self._refuse(decision, case)

    def _pass(self, allow: Allow, case: Case) -> Passed | Refusal:
        """Put together what the edge needs; a place at the function is taken already, ``concurrent`` limits last."""
        place, principal, request, request_id = allow.place, allow.principal, case.request, case.request_id
        if request is None:
            return Deny(Reason.INTERNAL_ERROR)
        if case.has_waited and self._identifier.is_revoked(place.tenant, principal):
            return _over(principal, place.tenant)
        if case.policies is not self._folder.active and not self.judge_again_now(request, principal, place.function):
            # Swapped while it waited: what runs was judged again then, and nobody would do so with this one.
            return Deny(Reason.POLICY_UNAVAILABLE, retry_after_s=1, tenant=place.tenant.name)
        destination = self._asking.destination(place, request)
        if isinstance(destination, Deny):
            return destination
        leaving = request_block(request, place, principal, request_id, destination.target, destination.host)
        if self._assert is not None and place.spec.has_assertion and not principal.is_anonymous:
            leaving += self._assert(place, principal, self._clock() if case.has_waited else case.started_at)
        coming = answer_block(place, request, request_id, allow.limits) + principal.set_cookie
        if case.grant is not None and place.spec.cold_start.announces:
            coming += _announcement(case.grant, case.held_s)
        lease: Lease | None = None
        if limits := concurrency_for(place, principal, request):
            taken = self._concurrency.take(limits)
            if isinstance(taken, Lease):
                lease = taken
            else:
                refusal = _concurrency_limited(limits[taken], allow)
                if "limits" not in place.tenant.shadow:
                    return refusal
                allow = allow._replace(shadowed=(*allow.shadowed, refusal))
        passed = Passed(case, request, allow, destination, leaving, coming, lease, self)
        self.live.enter(passed)
        return passed

    def is_revoked(self, tenant: TenantTable, principal: Principal) -> bool:
        """Whether a logout has ended who was named before: a few dict probes."""
        return self._identifier.is_revoked(tenant, principal)

    def judge_again_now(self, request: AccessRequest, principal: Principal, function: str) -> float | None:
        """
        Until when an exchange with ``function`` that was begun as ``principal`` may go on under the active policies,
        Unix seconds; 0.0: no longer; None: somebody has to be asked.
        """
        again = self._asking.judge_again_now(request, function)
        return None if again is None else _holds_until(again, principal)

    async def judge_again(self, request: AccessRequest, principal: Principal, function: str) -> float:
        """As ``judge_again_now``, asking whom it takes."""
        return _holds_until(await self._asking.judge_again(request, function), principal)

    # -- ending --------------------------------------------------------------------------------------------------

    def finish(
        self,
        passed: Passed,
        *,
        status: int,
        bytes_in: int = 0,
        bytes_out: int = 0,
        failure: Reason | None = None,
    ) -> None:
        """The exchange is over, however it ended: give everything back, count it, audit it. Exactly once each."""
        self.live.discard(passed)
        if passed.lease is not None:
            passed.lease.release()
        if passed.has_place:
            self._activator.finished(passed.allow.place, passed.grant)
        self._recorder.finished(passed, status, bytes_in, bytes_out, failure, self._clock())

    def left(self, passed: Passed) -> None:
        """
        The request leaves by a way on which nobody tells of its end (Kong): all is given back now, and the audit line
        has no status.
        """
        self.finish(passed, status=0)

    def is_starting(self, passed: Passed) -> bool:
        """Whether its function has just woken, so that somebody has to know when the request has ended."""
        return self._activator.is_starting(passed.allow.place)

    def upstream_failed(self, passed: Passed) -> None:
        """The function could not be reached: what is believed of its readiness is void."""
        self._activator.failed(passed.allow.place)

    def says_not_reached(self, passed: Passed, status: int, fields: list[tuple[bytes, bytes]]) -> bool:
        """Whether the platform itself answered for want of a replica; then its readiness is void already."""
        backend = self._backends.get(passed.allow.place.tenant.backend)
        if backend is None or not backend.says_not_reached(status, fields):
            return False
        self._activator.failed(passed.allow.place)
        return True

    def failure_of(self, passed: Passed, status: int, fields: list[tuple[bytes, bytes]]) -> Reason | None:
        """What an answer is that the platform itself gave instead of the function; None: it is the function's."""
        backend = self._backends.get(passed.allow.place.tenant.backend)
        return None if backend is None else backend.failure_of(status, fields)

    def may_retry(self, passed: Passed) -> bool:
        """Whether the function's retry budget has one more left; takes it."""
        return self._activator.may_retry(passed.allow.place)

    async def hold_again(self, passed: Passed, body: HoldableBody | None = None) -> Refused | None:
        """
        Question 5 once more, for a request that did not reach its function: it fell asleep since it was last asked.

        None when it may be sent again. ``finish`` is still to be called, with the reason of the refusal.
        """
        place, principal = passed.allow.place, passed.allow.principal
        announced = b"" if passed.grant is None else _announcement(passed.grant, passed.case.held_s)
        passed.has_place = False
        self._activator.finished(place, passed.grant, was_served=False)
        began = self._clock()
        released = await self._asking.hold(Ready(place, principal, passed.request), passed.case, body)
        passed.case.held_s += self._clock() - began
        if not isinstance(released, Principal):
            return self._not_held(passed, released)
        if not _is_still(principal, released):  # the fields that name the caller are made already
            self._activator.finished(place, passed.case.grant, was_served=False)
            return self.fail(passed, _over(principal, place.tenant))
        if (grant := passed.case.grant) is not None and place.spec.cold_start.announces:
            passed.answer_block = passed.answer_block.removesuffix(announced) + _announcement(grant, passed.case.held_s)
        passed.grant = grant
        passed.has_place = True
        return None

    def _not_held(self, passed: Passed, refusal: Refusal) -> Refused:
        """What question 5 says of a request that is asked it once more, as it says it to those who are asked first."""
        place, request = passed.allow.place, passed.request
        if not isinstance(refusal, Deny):
            return self.fail(passed, refusal)
        if refusal.reason is Reason.FUNCTION_ASLEEP:
            answer = asleep_answer(place, request, refusal)
            if isinstance(answer, Answer):
                fields = (*answer.fields, ("X-Request-Id", passed.request_id))
                return Refused(Problem(answer.status, fields, b"", refusal.reason), passed.request_id)
        return self.fail(passed, with_page(place, request, refusal))

    def fail(self, passed: Passed, refusal: Refusal) -> Refused:
        """The data path could not deliver; what to write instead. ``finish`` is still to be called, with the reason."""
        request = passed.request
        document = problem(refusal, passed.request_id, accepts_html=request.accepts_html)
        if isinstance(refusal, Deny) and refusal.comes_back:
            document = as_waiting_page(document, passed.request_id)
        return Refused(document, passed.request_id)

    def refuse_unread(self, reason: Reason, detail: str, peer: str) -> Refused:
        """The HTTP parser itself refused the head: nothing in it is to be believed or repeated."""
        head = Head("", b"", (), (1, 1), peer, "http")
        refused = self._refuse(
            Deny(reason, detail=detail), Case(head, None, self._folder.active, new_request_id(), self._clock())
        )
        refused.keeps_alive = False
        return refused

    def refuse_head(self, refusal: Deny, head: Head) -> Refused:
        """A request is refused before it is judged, for what an edge alone can know of it."""
        return self._refuse(refusal, Case(head, None, self._folder.active, new_request_id(), self._clock()))

    def _refuse(self, refusal: Refusal, case: Case) -> Refused:
        accepts_html = case.request is not None and case.request.accepts_html
        has_session = case.principal is not None and case.principal.is_by_cookie
        document = problem(refusal, case.request_id, accepts_html=accepts_html, has_session=has_session)
        if accepts_html and isinstance(refusal, Challenge) and case.request is not None:
            location = login_location(case.request, refusal, tenant_of(case.request.host, case.policies))
            if location is not None:
                document = login_redirect(refusal, location, case.request_id)
        if isinstance(refusal, Deny) and refusal.comes_back:
            document = as_waiting_page(document, case.request_id)
        self._recorder.refused(refusal, document.status, case, self._clock())
        return Refused(_with_cookie(document, case.principal), case.request_id)

    # -- deferred requests ---------------------------------------------------------------------------------------

    def deferred_accepted(self, deferred: Deferred, answer: PageAnswer) -> PageAnswer:
        """It was accepted with 202: count and audit that. Returns what the edge writes; ``run_deferred`` follows."""
        case, allow = deferred.case, deferred.allow
        case.is_deferred, case.spared = True, deferred.instead_of
        self._recorder.accepted(allow, answer.status, case, self._clock())
        fields = (*answer.fields, ("X-Request-Id", case.request_id), *ratelimit_fields(allow.limits))
        return answer._replace(fields=(*fields, *_cookies(allow.principal)))

    def deferred_refused(self, deferred: Deferred, refusal: Refusal) -> Refused:
        """It cannot be accepted: as any other request."""
        if refusal.tenant is None:
            refusal = replace(refusal, tenant=deferred.allow.place.tenant.name)
        return self._refuse(refusal, deferred.case)

    async def run_deferred(self, deferred: Deferred, body: HoldableBody | None = None) -> Passed | Refused:
        """
        Questions 5, and 2 and 3 again, of a request that was accepted. ``finish`` is owed for what passes.

        A caller whose credential has ended meanwhile is refused: waiting is no way to outlive it.
        """
        case, allow = deferred.case, deferred.allow
        case.has_waited = True
        began = self._clock()
        try:
            released = await self._asking.hold(
                Ready(allow.place, allow.principal, deferred.request), case, body, is_deferred=True
            )
            case.held_s += self._clock() - began
            if not isinstance(released, Principal):
                return self._refuse(released, case)
            if not _is_still(allow.principal, released):
                self._activator.finished(allow.place, case.grant, was_served=False)
                return self._refuse(_over(allow.principal, allow.place.tenant), case)
        except Exception:  # noqa: BLE001 (as in decide_now)
            return self._broken(case)
        verdict = self._conclude(allow._replace(principal=released), case)
        return verdict if isinstance(verdict, Passed | Refused) else self._broken(case)

    # -- own pages -----------------------------------------------------------------------------------------------

    def page_answered(self, call: PageCall, answer: PageAnswer) -> PageAnswer:
        """One of our own pages has answered: count and audit it. Returns what the edge writes."""
        self._recorder.page(call, answer, self._clock())
        return answer._replace(fields=(*answer.fields, ("X-Request-Id", call.case.request_id)))

    def page_refused(self, call: PageCall, refusal: Refusal) -> Refused:
        """One of our own pages is refused: as any other request."""
        if refusal.tenant is None:
            refusal = replace(refusal, tenant=call.page.tenant.name)
        return self._refuse(refusal, call.case)

    def page_failed(self, call: PageCall) -> Refused:
        """A page raised: a defect of ours, told to the log alone."""
        return self._broken(call.case)

    def _broken(self, case: Case) -> Refused:
        _log.exception("judging failed", request_id=case.request_id)
        return self._refuse(Deny(Reason.INTERNAL_ERROR), case)

    # -- life ----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """New requests get 503 ``draining``; what runs goes on."""
        self._is_draining = True

    def _swapped(self, policies: PolicySet) -> None:
        self._trusted = _trusted_peers(policies)
        self.live.recheck_all()


def _trusted_peers(policies: PolicySet) -> TrustedPeers:
    return TrustedPeers(policies.trusted_peers, believes_certificates=policies.believes_client_certificates)


def _is_counted(need: Ready) -> bool:
    """Whether the request takes one of a bounded number of places."""
    place = need.place
    return place.spec.concurrency is not None or bool(concurrency_for(place, need.principal, need.request))


def _is_still(was: Principal, now: Principal) -> bool:
    """
    Whether the function may go on believing what it was told of the caller. Nobody may be anybody later on; a person
    whose session has ended is nobody, and a public function must not go on serving him as who he was.
    """
    return was.is_anonymous or was.subject == now.subject


def _over(principal: Principal, tenant: TenantTable) -> Challenge:
    """What a caller is told who was logged out while his request was under way."""
    if principal.is_by_cookie:
        return Challenge(Reason.SESSION_EXPIRED, detail="the session is over; log in again", tenant=tenant.name)
    return Challenge(
        Reason.CREDENTIAL_INVALID, "invalid_token", "the login behind the token has ended", tenant=tenant.name
    )


def _holds_until(answer: Principal | Refusal, principal: Principal) -> float:
    if not isinstance(answer, Principal) or not _is_still(principal, answer):
        return 0.0
    return math.inf if answer.expires_at is None else answer.expires_at


def _with_cookie(document: Problem, principal: Principal | None) -> Problem:
    """The refusal with the cookie that was made anew meanwhile: the old one may be of no use any more."""
    if principal is None or not principal.set_cookie:
        return document
    return replace(document, fields=(*document.fields, *_cookies(principal)))


def _cookies(principal: Principal) -> list[tuple[str, str]]:
    lines = principal.set_cookie.decode("ascii").split("\r\n")
    return [(name, value) for name, _, value in (line.partition(": ") for line in lines) if name == "Set-Cookie"]


def _announcement(grant: Grant, held_s: float) -> bytes:
    """
    What the answer to a held request says of it (W3C Server Timing, section 2).

    ``held_s``: in all, also at a function whose fallback has taken it.
    """
    return b"X-Portero-Cold-Start: %b\r\nServer-Timing: hold;dur=%d\r\n" % (
        b"true" if grant.is_cold else b"false",
        max(0.0, held_s) * 1000,
    )


def _concurrency_limited(limit: Parallel, allow: Allow) -> Deny:
    return Deny(
        Reason.CONCURRENCY_LIMITED,
        detail=f"limit {limit.id!r} allows {limit.maximum} at once",
        rule=limit.ref,
        retry_after_s=1,
        limits=allow.limits,
        tenant=allow.place.tenant.name,
    )
