"""Deferred requests without an edge: a gate that lets them run when a test says so, and whoever sends their bodies."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from authproxy.callbacks.message import Callback
from authproxy.gate.live import LiveRegistry
from authproxy.gate.verdict import Case, Deferred, PageAnswer, Passed, Refused
from authproxy.upstream.departure import Address, Destination
from authproxy.upstream.held_body import HeldBody
from authproxy.upstream.spool import Spool
from policies.decision import Allow, Deny, Reason, Refusal
from policies.principal import Principal, anonymous
from policies.problem import problem
from policies.request import AccessRequest
from policies.tables import AsyncSpec, Ceilings, FunctionSpec, Place, TenantTable, Timeouts
from tests.fakes.tenancy import a_function, a_policy_set, a_request, a_tenant


class JobGate:
    """Passes each deferred request on to ``address``, after ``hold``; what it was told stands in the lists."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.hold: Callable[[], Awaitable[Refusal | None]] | None = None
        """Awaited before a request passes; a refusal ends it."""
        self.hold_again_with: Deny | None = None
        self.answer_block = b""
        self.accepted: list[Deferred] = []
        self.refused: list[Refusal] = []
        self.passed: list[Passed] = []
        self.finished: list[tuple[int, Reason | None]] = []
        self.not_reached = 0
        """So many 503 answers are the platform's own."""
        self.held_again = 0
        self.retries_left = 100
        self.failures = 0
        self.live = LiveRegistry()

    async def run_deferred(self, deferred: Deferred) -> Passed | Refused:
        if self.hold is not None:
            refusal = await self.hold()
            if refusal is not None:
                return self.deferred_refused(deferred, refusal)
        target = deferred.request.target.path.encode()
        passed = Passed(
            case=deferred.case,
            request=deferred.request,
            allow=deferred.allow,
            destination=Destination(self.address, target, b"function"),
            request_block=b"%b %b HTTP/1.1\r\nHost: function\r\n%b"
            % (deferred.request.method.encode(), target, deferred.request.forward_block),
            answer_block=self.answer_block,
            lease=None,
            gate=self,
        )
        self.passed.append(passed)
        self.live.enter(passed)
        return passed

    def deferred_accepted(self, deferred: Deferred, answer: PageAnswer) -> PageAnswer:
        self.accepted.append(deferred)
        return answer

    def deferred_refused(self, deferred: Deferred, refusal: Refusal) -> Refused:
        self.refused.append(refusal)
        return Refused(problem(refusal, deferred.case.request_id), deferred.case.request_id)

    def fail(self, passed: Passed, refusal: Deny) -> Refused:
        return Refused(problem(refusal, passed.request_id), passed.request_id)

    def finish(self, passed: Passed, *, status: int, bytes_in: int, bytes_out: int, failure: Reason | None) -> None:
        self.live.discard(passed)
        self.finished.append((status, failure))

    def upstream_failed(self, _passed: Passed) -> None:
        self.failures += 1

    def failure_of(self, _passed: Passed, _status: int, _fields: list[tuple[bytes, bytes]]) -> None:
        """The fake's platform says nothing for itself."""
        return

    def says_not_reached(self, _passed: Passed, status: int, _fields: list[tuple[bytes, bytes]]) -> bool:
        if status != 503 or not self.not_reached:
            return False
        self.not_reached -= 1
        return True

    def may_retry(self, _passed: Passed) -> bool:
        self.retries_left -= 1
        return self.retries_left >= 0

    async def hold_again(self, passed: Passed) -> Refused | None:
        self.held_again += 1
        return None if self.hold_again_with is None else self.fail(passed, self.hold_again_with)

    def is_revoked(self, _tenant: TenantTable, _principal: Principal) -> bool:
        return False

    def judge_again_now(self, _request: AccessRequest, _principal: Principal, _function: str) -> float | None:
        return math.inf

    async def judge_again(self, _request: AccessRequest, _principal: Principal, _function: str) -> float:
        return math.inf


class Uploading:
    """The client side of a deferred request: an exchange whose body comes in ``pieces``, as a ``BodySource``."""

    def __init__(self, *pieces: bytes | Exception, spool: Spool | None = None) -> None:
        self.pieces = list(pieces)
        self.before: Callable[[], Awaitable[object]] | None = None
        """Awaited before each piece."""
        self.continues = 0
        self.body: HeldBody | None = None
        self.is_handed_over = False
        self._spool = spool or Spool()

    def holdable_body(self, max_bytes: int | None, content_length: int | None) -> HeldBody | None:
        if self.pieces and self.body is None:
            self.body = HeldBody(self, self._spool, max_bytes, content_length)
        return self.body

    def hand_over_body(self) -> None:
        self.is_handed_over = True

    async def send_continue(self) -> None:
        self.continues += 1

    def take_whole(self) -> bytes | None:
        return None

    async def read_on(self, *, is_patient: bool) -> bytes:
        if self.before is not None:
            await self.before()
        piece = self.pieces.pop(0) if self.pieces else b""
        if isinstance(piece, Exception):
            raise piece
        return piece

    @property
    def awaits_continue(self) -> bool:
        return False


class Account:
    """Room for ``most`` bytes; ``closed`` counts those given back."""

    closed = 0
    tenant = "acme"

    def __init__(self, most: int = 1 << 30) -> None:
        self._left = most

    def take(self, count: int, /) -> Reason | None:
        if count > self._left:
            return Reason.QUEUE_FULL
        self._left -= count
        return None

    def close(self) -> None:
        self.closed += 1


class Deliveries(list[Callback]):
    """Callbacks that were sent."""

    def send(self, callback: Callback) -> bool:
        self.append(callback)
        return True


class Told(Counter[str]):
    """How often each outcome was told, of any tenant."""

    def count(self, _tenant: str, outcome: str) -> None:
        self[outcome] += 1


_PERSON = Principal("login", "ana")


def a_deferred(
    *fields: tuple[bytes, bytes],
    method: str = "POST",
    is_anonymous: bool = False,
    is_async_function: bool = False,
    instead_of: Deny | None = None,
    peer: str = "198.51.100.7",
    tenant: str = "acme",
    max_body_bytes: int | None = 1 << 20,
    timeouts: Timeouts | None = None,
    results: int = 1000,
    result_bytes: int = 64 << 20,
    **spec: Any,
) -> Deferred:
    """What a gate says of a request that is to be answered later; ``spec``: of ``AsyncSpec``."""
    function: FunctionSpec = a_function(
        "f*",
        deferred=AsyncSpec(**spec),
        max_body_bytes=max_body_bytes,
        timeouts=timeouts or Timeouts(connect_s=2, first_byte_s=5, idle_s=5),
    )
    table = a_tenant(tenant, functions=[function], ceilings=Ceilings(results=results, result_bytes=result_bytes))
    request = a_request("/function/f", *fields, method=method, peer=peer)
    place = Place(table, "f", function, None, (), has_trailing_slash=False, path="/", is_deferred=is_async_function)
    nothing: Any = None
    case = Case(nothing, request, a_policy_set(table), "r-1", 0.0)
    return Deferred(case, Allow(place, anonymous() if is_anonymous else _PERSON, None), instead_of)


async def until(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    """Wait for what nobody tells."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # as said
            await asyncio.sleep(0.002)


__all__ = ["Account", "Deliveries", "JobGate", "Told", "Uploading", "a_deferred", "until"]
