"""
A gate that lets everything through to one address: what the data path is tested with, apart from the five
questions.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from authproxy.gate.live import LiveRegistry
from authproxy.gate.verdict import (
    Case,
    Deferred,
    DirectAnswer,
    PageAnswer,
    PageCall,
    Passed,
    Refused,
    Undecided,
    Verdict,
)
from authproxy.upstream.departure import Address, Destination
from authproxy.upstream.held_body import HoldableBody
from policies.decision import Allow, Deny, Problem, Reason, Refusal
from policies.pipeline import Ready
from policies.principal import Principal, anonymous
from policies.request import AccessRequest, Head, Target
from policies.tables import FunctionSpec, Pattern, Place, TenantTable, Timeouts

_STATUS = {
    Reason.BAD_REQUEST: 400,
    Reason.BODY_MALFORMED: 400,
    Reason.REQUEST_TIMEOUT: 408,
    Reason.BODY_TOO_LARGE: 413,
    Reason.HEAD_TOO_LARGE: 431,
    Reason.CREDENTIAL_MISSING: 401,
    Reason.INTERNAL_ERROR: 500,
    Reason.UPSTREAM_UNREACHABLE: 502,
    Reason.UPSTREAM_CLOSED: 502,
    Reason.UPSTREAM_GARBLED: 502,
    Reason.UPSTREAM_TIMEOUT: 504,
    Reason.OVERLOADED: 503,
    Reason.QUEUE_FULL: 429,
    Reason.COLD_START_TIMEOUT: 504,
    Reason.DRAINING: 503,
    Reason.CLIENT_GONE: 499,
}
_HOP = {
    b"host",
    b"connection",
    b"content-length",
    b"transfer-encoding",
    b"expect",
    b"upgrade",
    b"keep-alive",
    b"te",
    b"trailer",
}


def refused(reason: Reason, request_id: str = "r-0", retry_after_s: int | None = None) -> Refused:
    body = b'{"reason":"%b"}' % reason.value.encode()
    fields: tuple[tuple[str, str], ...] = (
        ("Content-Type", "application/problem+json"),
        ("X-Portero-Reason", reason.value),
        ("X-Request-Id", request_id),
    )
    if retry_after_s is not None:
        fields = (*fields, ("Retry-After", str(retry_after_s)))
    return Refused(Problem(_STATUS[reason], fields, body, reason), request_id)


def _retry_after_s(refusal: Refusal) -> int | None:
    return refusal.retry_after_s if isinstance(refusal, Deny) else None


class Tally:
    """A body's account: takes up to ``most`` bytes, over all that share it."""

    def __init__(self, most: int = 1 << 40, refusal: Reason = Reason.OVERLOADED) -> None:
        self.taken = 0
        self.most = most
        self.refusal = refusal
        self.accounts: list[Account] = []

    def open(self) -> Account:
        self.accounts.append(Account(self))
        return self.accounts[-1]


class Account:
    """See ``BodyAccount``."""

    tenant = "acme"

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self.taken = 0
        self.is_closed = False

    def take(self, count: int, /) -> Reason | None:
        if self.is_closed:
            raise AssertionError("taken from a closed account")
        if self._tally.taken + count > self._tally.most:
            return self._tally.refusal
        self.taken += count
        self._tally.taken += count
        return None

    def close(self) -> None:
        self.is_closed = True
        self._tally.taken -= self.taken
        self.taken = 0


class Keeper:
    """Holds requests as the activator does: each with its body, until ``release`` or until its body fails."""

    def __init__(self, *, holds_body: bool = True, tally: Tally | None = None) -> None:
        self.tally = tally or Tally()
        self.holds_body = holds_body
        self.held = 0
        self.holds = 0
        """Begun so far."""
        self.abandoned = 0
        self.denied: list[Deny] = []
        self._waiters: list[asyncio.Future[Deny | None]] = []

    async def hold(self, body: HoldableBody | None) -> Deny | None:
        """None when it may leave."""
        waiter: asyncio.Future[Deny | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self.held += 1
        self.holds += 1

        def failed(denied: Deny) -> None:
            if not waiter.done():
                waiter.set_result(denied)

        if body is not None and self.holds_body:
            body.start(self.tally.open(), failed)
        try:
            denied = await waiter
        except asyncio.CancelledError:
            self.abandoned += 1
            raise
        finally:
            self.held -= 1
            if body is not None:
                await body.stop()
        if denied is not None:
            self.denied.append(denied)
        return denied

    def release(self, denied: Deny | None = None) -> None:
        """Let everybody go."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(denied)

    async def until_begun(self, holds: int) -> None:
        """Until so many were ever held."""
        async with asyncio.timeout(20):
            while self.holds < holds:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.005)

    async def until_held(self, count: int = 1) -> None:
        async with asyncio.timeout(20):
            while self.held != count:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.005)


@dataclass
class Finished:
    passed: Passed
    status: int
    bytes_in: int
    bytes_out: int
    failure: Reason | None


@dataclass
class StubGate:
    """Passes each request on to ``address``; ``hold`` and ``verdict`` change that."""

    address: Address
    timeouts: Timeouts = field(default_factory=Timeouts)
    max_body_bytes: int | None = 10 * 1024 * 1024
    answer_block: bytes = b""
    hold: Callable[[], Awaitable[None]] | None = None
    """Awaited before the request passes."""
    keeper: Keeper | None = None
    """Holds requests and their bodies, instead of ``hold``; those that did not reach their function, too."""
    not_reached_status: int | None = None
    """The status by which the platform says that it has no replica."""
    retries_left: int = 1000
    soon: list[Callable[[Verdict | Undecided], None]] | None = None
    """With ``hold``: where callbacks are kept that go on without a task; a test calls them with ``allowed``."""
    verdict: Callable[[Head], Verdict | None] = lambda _head: None
    heads: list[Head] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    abandoned: list[Undecided] = field(default_factory=list)
    unread: list[Reason] = field(default_factory=list)
    live: LiveRegistry = field(default_factory=LiveRegistry)
    deferred_refusals: list[Reason] = field(default_factory=list)
    page_refusals: list[Reason] = field(default_factory=list)
    failures: int = 0
    keeps_records: bool = True

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        tenant: Any = None
        spec = FunctionSpec(Pattern("", is_prefix=True), timeouts=self.timeouts, max_body_bytes=self.max_body_bytes)
        place = Place(tenant, "echo", spec, None, (), has_trailing_slash=False, path="/")
        self.allow = Allow(place, anonymous(), None)

    def decide_now(self, head: Head, _memo: object = None) -> Verdict | Undecided:
        if self.keeps_records:
            self.heads.append(head)
        if (verdict := self.verdict(head)) is not None:
            return verdict
        if self.hold is not None or self.keeper is not None:
            nothing: Any = None
            request = self.request(head)
            need = Ready(self.allow.place, self.allow.principal, request)
            return Undecided(self._case(head), request, nothing, need)
        return self._pass(self._case(head), self.request(head))

    def decide_soon(self, _undecided: Undecided, then: Callable[[Verdict | Undecided], None]) -> bool:
        if self.soon is None:
            return False
        self.soon.append(then)
        return True

    def allowed(self, head: Head) -> Passed:
        return self._pass(self._case(head), self.request(head))

    async def decide(self, undecided: Undecided, body: HoldableBody | None = None) -> Verdict:
        if self.hold is not None:
            await self.hold()
        if self.keeper is not None and (denied := await self.keeper.hold(body)) is not None:
            return refused(denied.reason, undecided.case.request_id, denied.retry_after_s)
        return self._pass(undecided.case, undecided.request)

    def _case(self, head: Head) -> Case:
        nothing: Any = None
        return Case(head, None, nothing, f"r-{next(self._numbers)}", 0.0)

    def request(self, head: Head) -> AccessRequest:
        fields = {name.lower(): value for name, value in head.fields}
        block = b"".join(b"%b: %b\r\n" % pair for pair in head.fields if pair[0].lower() not in _HOP)
        length = fields.get(b"content-length")
        return AccessRequest(
            method=head.method,
            host=fields.get(b"host", b"").decode(),
            target=Target(head.target.decode(), (), has_trailing_slash=False, query=None),
            scheme=head.scheme,
            client_ip=head.peer,
            authorization=fields.get(b"authorization"),
            cookie=None,
            hints=(),
            origin=None,
            fetch_site=None,
            accepts_html=False,
            content_length=int(length) if length is not None else None,
            is_chunked=b"transfer-encoding" in fields,
            is_websocket=fields.get(b"upgrade", b"").lower() == b"websocket",
            expects_continue=b"expect" in fields,
            keeps_alive=True,
            preflight_method=None,
            traceparent=None,
            forward_block=block,
            has_idempotency_key=b"idempotency-key" in fields,
        )

    def _pass(self, case: Case, request: AccessRequest) -> Passed:
        target = request.target.path.encode()
        passed = Passed(
            case=case,
            request=request,
            allow=self.allow,
            destination=Destination(self.address, target, b"function"),
            request_block=b"%b %b HTTP/1.1\r\nHost: function\r\n%b"
            % (request.method.encode(), target, request.forward_block),
            answer_block=self.answer_block,
            lease=None,
            gate=self,
        )
        self.live.enter(passed)
        return passed

    def abandon(self, undecided: Undecided) -> None:
        self.abandoned.append(undecided)

    def finish(
        self,
        passed: Passed,
        *,
        status: int,
        bytes_in: int,
        bytes_out: int,
        failure: Reason | None,
    ) -> None:
        self.live.discard(passed)
        if self.keeps_records:
            self.finished.append(Finished(passed, status, bytes_in, bytes_out, failure))

    def upstream_failed(self, passed: Passed) -> None:
        self.failures += 1

    def failure_of(self, _passed: Passed, _status: int, _fields: list[tuple[bytes, bytes]]) -> None:
        """The fake's platform says nothing for itself."""
        return

    def says_not_reached(self, _passed: Passed, status: int, _fields: list[tuple[bytes, bytes]]) -> bool:
        return status == self.not_reached_status

    def may_retry(self, _passed: Passed) -> bool:
        self.retries_left -= 1
        return self.retries_left >= 0

    def is_revoked(self, _tenant: TenantTable, _principal: Principal) -> bool:
        return False

    def judge_again_now(self, _request: AccessRequest, _principal: Principal, _function: str) -> float | None:
        return math.inf

    async def judge_again(self, _request: AccessRequest, _principal: Principal, _function: str) -> float:
        return math.inf

    def page_answered(self, _call: PageCall, answer: PageAnswer) -> PageAnswer:
        return answer

    def deferred_refused(self, deferred: Deferred, refusal: Refusal) -> Refused:
        self.deferred_refusals.append(refusal.reason)
        return refused(refusal.reason, deferred.case.request_id, _retry_after_s(refusal))

    def page_refused(self, call: PageCall, refusal: Refusal) -> Refused:
        self.page_refusals.append(refusal.reason)
        return refused(refusal.reason, call.case.request_id, _retry_after_s(refusal))

    def page_failed(self, call: PageCall) -> Refused:
        return refused(Reason.INTERNAL_ERROR, call.case.request_id)

    async def hold_again(self, passed: Passed, body: HoldableBody | None = None) -> Refused | None:
        if self.keeper is None or (denied := await self.keeper.hold(body)) is None:
            return None
        return refused(denied.reason, passed.request_id, denied.retry_after_s)

    def fail(self, passed: Passed, refusal: Deny) -> Refused:
        return refused(refusal.reason, passed.request_id, refusal.retry_after_s)

    def refuse_unread(self, reason: Reason, detail: str, peer: str) -> Refused:
        self.unread.append(reason)
        refusal = refused(reason)
        return dataclasses.replace(refusal, keeps_alive=False)


__all__ = ["DirectAnswer", "Finished", "Keeper", "StubGate", "Tally", "refused"]
