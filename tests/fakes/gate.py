"""
A gate that lets everything through to one address: what the data path is tested with, apart from the five
questions.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from authproxy.gate.live import LiveRegistry
from authproxy.gate.verdict import Case, DirectAnswer, PageAnswer, PageCall, Passed, Refused, Undecided, Verdict
from authproxy.upstream.departure import Address, Destination
from policies.decision import Allow, Deny, Problem, Reason, Refusal
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


def refused(reason: Reason, request_id: str = "r-0") -> Refused:
    body = b'{"reason":"%b"}' % reason.value.encode()
    fields = (
        ("Content-Type", "application/problem+json"),
        ("X-Portero-Reason", reason.value),
        ("X-Request-Id", request_id),
    )
    return Refused(Problem(_STATUS[reason], fields, body, reason), request_id)


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
    soon: list[Callable[[Verdict | Undecided], None]] | None = None
    """With ``hold``: where callbacks are kept that go on without a task; a test calls them with ``allowed``."""
    verdict: Callable[[Head], Verdict | None] = lambda _head: None
    heads: list[Head] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    abandoned: list[Undecided] = field(default_factory=list)
    unread: list[Reason] = field(default_factory=list)
    live: LiveRegistry = field(default_factory=LiveRegistry)
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
        if self.hold is not None:
            nothing: Any = None
            return Undecided(self._case(head), self.request(head), nothing, nothing)
        return self._pass(self._case(head), self.request(head))

    def decide_soon(self, _undecided: Undecided, then: Callable[[Verdict | Undecided], None]) -> bool:
        if self.soon is None:
            return False
        self.soon.append(then)
        return True

    def allowed(self, head: Head) -> Passed:
        return self._pass(self._case(head), self.request(head))

    async def decide(self, undecided: Undecided) -> Verdict:
        if self.hold is not None:
            await self.hold()
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

    def says_not_reached(self, _passed: Passed, _status: int, _fields: list[tuple[bytes, bytes]]) -> bool:
        return False

    def is_revoked(self, _tenant: TenantTable, _principal: Principal) -> bool:
        return False

    def judge_again_now(self, _request: AccessRequest, _principal: Principal) -> float | None:
        return math.inf

    async def judge_again(self, _request: AccessRequest, _principal: Principal) -> float:
        return math.inf

    def page_answered(self, _call: PageCall, answer: PageAnswer) -> PageAnswer:
        return answer

    def page_refused(self, call: PageCall, refusal: Refusal) -> Refused:
        return refused(refusal.reason, call.case.request_id)

    def page_failed(self, call: PageCall) -> Refused:
        return refused(Reason.INTERNAL_ERROR, call.case.request_id)

    async def hold_again(self, _passed: Passed) -> Refused | None:
        return None

    def fail(self, passed: Passed, refusal: Deny) -> Refused:
        return refused(refusal.reason, passed.request_id)

    def refuse_unread(self, reason: Reason, detail: str, peer: str) -> Refused:
        self.unread.append(reason)
        refusal = refused(reason)
        return dataclasses.replace(refusal, keeps_alive=False)


__all__ = ["DirectAnswer", "Finished", "StubGate", "refused"]
