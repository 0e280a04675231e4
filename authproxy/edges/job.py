"""
One deferred request, from its 202 to what it came to.

It decides nothing about the request: the gate asks its questions when the function can take it, and the data path is
that of any other request. Here it is told how each of the ways ends that it can take: answered, refused, failed, cut by
the gate, ended by the process, or wanted by nobody any more. Refuses to know where results are kept.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from authproxy.audit import get_logger
from authproxy.callbacks.target import Target
from authproxy.edges.job_exchange import JobExchange, ResultTooLarge, kept_fields
from authproxy.gate.live import GOING_AWAY
from authproxy.gate.verdict import Deferred, Passed, Refused
from authproxy.results.result import Result
from authproxy.upstream.failures import ANSWER_TIMEOUT, ForwardFailed
from authproxy.upstream.forward import forward
from authproxy.upstream.framing import may_repeat
from authproxy.upstream.held_body import BodyAccount, HeldBody
from authproxy.upstream.pool import Pool
from policies.decision import Deny, Problem, Reason, Refusal
from policies.problem import field_block

MAX_RUN_S: Final = 3600.0
"""Longest that a function may take whose policy does not say: nobody would hang up on one that never ends."""
DRAINING: Final = Deny(Reason.DRAINING, "the server went down before the function had answered")
_CUT: Final = Deny(Reason.NO_RULE_ALLOWS, "what allowed the request ended before the function had answered")
_UNWANTED: Final = Deny(Reason.CLIENT_GONE)
_VOIDS_READINESS: Final = frozenset({Reason.UPSTREAM_UNREACHABLE, Reason.UPSTREAM_CLOSED})
_CALL_ID: Final = re.compile(rb"(?im)^x[-_]call[-_]id:[^\n]*\n")

_log = get_logger("jobs")


class JobGate(Protocol):
    """What a job needs of ``authproxy.gate.gate.Gate``."""

    async def run_deferred(self, deferred: Deferred) -> Passed | Refused: ...

    def deferred_refused(self, deferred: Deferred, refusal: Refusal) -> Refused: ...

    def finish(self, passed: Passed, *, status: int, bytes_in: int, bytes_out: int, failure: Reason | None) -> None: ...

    def upstream_failed(self, passed: Passed) -> None: ...

    def says_not_reached(self, passed: Passed, status: int, fields: list[tuple[bytes, bytes]]) -> bool: ...

    def failure_of(self, passed: Passed, status: int, fields: list[tuple[bytes, bytes]]) -> Reason | None: ...

    def may_retry(self, passed: Passed) -> bool: ...

    async def hold_again(self, passed: Passed) -> Refused | None: ...

    def fail(self, passed: Passed, refusal: Deny) -> Refused: ...


class _NotReached(Exception):  # control flow within this module
    """The platform has no replica, and the request may be sent again."""


class Outcome(NamedTuple):
    """What a job came to."""

    result: Result | None
    """None: nobody wants it."""
    took_s: float
    """At the function; 0 when it was not reached."""
    is_answered: bool
    """The result is the function's own answer."""


class Job:
    """One deferred request. ``end`` stops it, whatever it is doing; the first word counts."""

    __slots__ = ("answer", "body", "deferred", "ended_by", "is_over", "result_id", "target", "task")

    def __init__(self, deferred: Deferred, result_id: str, target: Target | None, answer: BodyAccount) -> None:
        self.deferred = deferred
        self.result_id = result_id
        self.target = target
        """Where the result is delivered to, too."""
        self.answer = answer
        """What the answer takes while it comes."""
        self.body: HeldBody | None = None
        self.ended_by: Deny | None = None
        self.is_over = False
        """It has come to something, and may not be ended any more."""
        self.task: asyncio.Task[None] | None = None

    @property
    def tenant(self) -> str:
        return self.deferred.allow.place.tenant.name

    @property
    def is_unwanted(self) -> bool:
        return self.ended_by is _UNWANTED

    def end(self, why: Deny) -> None:
        """Stop; ``why`` becomes the result."""
        if self.is_over or self.ended_by is not None:
            return
        self.ended_by = why
        if self.task is not None:
            self.task.cancel()

    def forget(self) -> None:
        """Stop: nobody wants the result any more."""
        self.end(_UNWANTED)

    def cut(self, code: int) -> None:
        """See ``LiveExchange.on_cut``."""
        self.end(DRAINING if code == GOING_AWAY else _CUT)

    def close(self) -> None:
        """Give back what it holds. Idempotent."""
        self.answer.close()
        if self.body is not None:
            self.body.close()


async def run_job(
    job: Job, gate: JobGate, pool: Pool, clock: Callable[[], float], *, max_run_s: float = MAX_RUN_S
) -> Outcome:
    """
    Have the request judged, sent and answered. Raises nothing but a cancellation that ``Job.end`` did not ask for.

    ``clock``: Unix seconds. The current task is the one that ``Job.end`` cancels.
    """
    job.task = asyncio.current_task()
    if job.ended_by is not None:  # before the first step
        job.is_over = True
        return _refused(gate.deferred_refused(job.deferred, job.ended_by), job.ended_by, clock())
    try:
        verdict = await gate.run_deferred(job.deferred)
    except asyncio.CancelledError:
        why = _taken_back(job)
        return _refused(gate.deferred_refused(job.deferred, why), why, clock())
    except Exception:  # noqa: BLE001  # contained: told to the log, not to the client (AP-R52)
        _log.exception("judging a deferred request failed", request_id=job.deferred.case.request_id)
        verdict = gate.deferred_refused(job.deferred, Deny(Reason.INTERNAL_ERROR))
    if isinstance(verdict, Refused):
        job.is_over = True
        return _refused(verdict, None, clock())
    return await _at_function(job, verdict, gate, pool, clock, max_run_s)


async def _at_function(
    job: Job, passed: Passed, gate: JobGate, pool: Pool, clock: Callable[[], float], max_run_s: float
) -> Outcome:
    place = passed.allow.place
    exchange = JobExchange(job.body, place.spec.deferred.max_result_bytes, job.answer.take)
    if job.deferred.allow.place.is_deferred:
        passed.request_block = with_call_id(passed.request_block, job.result_id)
    passed.on_cut = job.cut
    began = clock()
    refusal: Deny | None = None
    refused: Refused | None = None
    try:
        async with asyncio.timeout(max(max_run_s, place.spec.timeouts.total_s or 0.0)):
            refused = await _forward(passed, exchange, gate, pool)
    except ForwardFailed as failed:
        if failed.reason in _VOIDS_READINESS:
            gate.upstream_failed(passed)
        refusal = Deny(failed.reason, failed.detail)
    except ResultTooLarge as large:
        refusal = Deny(large.reason, large.detail)
    except TimeoutError:
        refusal = Deny(Reason.UPSTREAM_TIMEOUT, ANSWER_TIMEOUT)
    except asyncio.CancelledError:
        refusal = _taken_back(job, passed, exchange, gate)
    except Exception:  # noqa: BLE001  # contained: told to the log, not to the client (AP-R52)
        _log.exception("running a deferred request failed", request_id=passed.request_id)
        refusal = Deny(Reason.INTERNAL_ERROR)
    job.is_over = True
    if refusal is None and refused is None and not exchange.is_whole:
        refusal = Deny(Reason.INTERNAL_ERROR)  # half an answer is never completed by us
    if refusal is not None:
        refused = gate.fail(passed, refusal)
    _finish(passed, exchange, gate, None if refused is None else refused.problem)
    now = clock()
    if refused is not None:
        exchange.abort()
        return _refused(refused, refusal, now)._replace(took_s=now - began)
    return Outcome(Result(exchange.status, exchange.fields, exchange.body, now), now - began, is_answered=True)


async def _forward(passed: Passed, exchange: JobExchange, gate: JobGate, pool: Pool) -> Refused | None:
    """
    Forward; when it did not reach its function for want of a replica, wait for one and forward once more.

    As ``Delivery`` does, but that the whole request is always at hand. Raises: ForwardFailed; ResultTooLarge.
    """
    request = passed.request

    def may_retry() -> bool:
        return gate.may_retry(passed)

    def watch(status: int, fields: list[tuple[bytes, bytes]]) -> None:
        may_repeat_it = may_repeat(request.method, has_key=request.has_idempotency_key)
        if gate.says_not_reached(passed, status, fields) and may_repeat_it and may_retry():
            raise _NotReached
        tell_failure(status, fields)

    def tell_failure(status: int, fields: list[tuple[bytes, bytes]]) -> None:
        if (reason := gate.failure_of(passed, status, fields)) is not None:
            raise ForwardFailed(reason)

    try:
        await forward(passed, exchange, pool, None, watch, may_retry)
    except _NotReached:
        pass
    except ForwardFailed as failed:
        if not (failed.is_unsent and failed.reason is Reason.UPSTREAM_UNREACHABLE) or not may_retry():
            raise
        gate.upstream_failed(passed)
    else:
        return None
    exchange.rewind()
    refused = await gate.hold_again(passed)
    if refused is None:
        await forward(passed, exchange, pool, None, tell_failure, may_retry)
    return refused


def _taken_back(
    job: Job, passed: Passed | None = None, exchange: JobExchange | None = None, gate: JobGate | None = None
) -> Deny:
    """
    Why the job was cancelled. What it has begun is finished towards the gate, if somebody else did it.

    Raises: CancelledError when ``Job.end`` did not ask for it.
    """
    why, job.is_over = job.ended_by, True
    if why is None:
        if passed is not None and exchange is not None and gate is not None:
            _finish(passed, exchange, gate, gate.fail(passed, DRAINING).problem)
        raise asyncio.CancelledError
    if job.task is not None:
        job.task.uncancel()
    return why


def _finish(passed: Passed, exchange: JobExchange, gate: JobGate, problem: Problem | None) -> None:
    """Tell the gate that the request is over, exactly once."""
    passed.on_cut = None
    try:
        gate.finish(
            passed,
            status=exchange.status if problem is None else problem.status,
            bytes_in=exchange.bytes_in,
            bytes_out=exchange.bytes_out if problem is None else 0,
            failure=None if problem is None else problem.reason,
        )
    except Exception:  # noqa: BLE001  # contained: the result is there all the same
        _log.exception("finishing a deferred request failed", request_id=passed.request_id)


def _refused(refused: Refused, why: Deny | None, now: float) -> Outcome:
    problem = refused.problem
    if why is _UNWANTED:
        return Outcome(None, 0.0, is_answered=False)
    fields = kept_fields(field_block(problem.fields))
    return Outcome(Result(problem.status, fields, problem.body, now), 0.0, is_answered=False)


def with_call_id(block: bytes, result_id: str) -> bytes:
    """The request's head with ``X-Call-Id``, as OpenFaaS' functions know it; a caller's own would be another one."""
    return _CALL_ID.sub(b"", block) + b"X-Call-Id: %b\r\n" % result_id.encode("ascii")
