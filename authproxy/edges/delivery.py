"""
What becomes of one request: it is judged, then answered, or delivered to its function and its answer relayed.

It decides nothing about a request; the gate does. It sees to it that the gate is told of every end exactly once, that
an error of ours widens nothing, and that nothing of an error's text reaches a client.

Longer than other modules: every way that one request can end is told here, exactly once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from authproxy.audit import get_logger
from authproxy.edges.exchange import PublicExchange
from authproxy.edges.judge import DeferredJobs, Judge, OwnPages
from authproxy.edges.own_answers import DRAINING, OwnAnswers, write_refusal
from authproxy.gate.verdict import Deferred, DirectAnswer, PageCall, Passed, Refused, Undecided, Verdict
from authproxy.upstream.connection import Connection
from authproxy.upstream.exchange import ClientGone
from authproxy.upstream.failures import ForwardFailed
from authproxy.upstream.forward import AnswerWatch, MayRetry, can_resend, forward, relay_now, send_now
from authproxy.upstream.framing import STATUS_LINES, may_be_the_platforms, may_repeat
from authproxy.upstream.pool import Pool
from authproxy.upstream.tunnel import tunnel
from policies.decision import Deny, Reason

if TYPE_CHECKING:
    from authproxy.edges.protocol import ClientConnection

_CLIENT_GONE_STATUS: Final = 499
"""In the audit only, for a request nobody was left to answer; the number is nginx's."""
_VOIDS_READINESS: Final = frozenset({Reason.UPSTREAM_UNREACHABLE, Reason.UPSTREAM_CLOSED})
_RETRY_AFTER_S: Final = {Reason.OVERLOADED: 1, Reason.DRAINING: 1}
_UNREAD: Final = {
    Reason.BAD_REQUEST: "the request is not valid HTTP/1.1",
    Reason.HEAD_TOO_LARGE: "the request line or the header fields are too large",
    Reason.REQUEST_TIMEOUT: "the request's head did not arrive in time",
    Reason.OVERLOADED: "too many connections",
    Reason.DRAINING: "the process is stopping",
}


class _NotReached(Exception):  # control flow within this module
    """The platform has no replica, and the request may be sent again."""


class Delivery:
    """Serves the requests of one edge: ``..._now`` without waiting, ``serve`` where something has to be waited for."""

    def __init__(
        self, gate: Judge, pool: Pool, pages: OwnPages | None = None, jobs: DeferredJobs | None = None
    ) -> None:
        self._gate = gate
        self._own = OwnAnswers(gate, pages, jobs)
        self._pool = pool
        self._outbox = pool.outbox
        self._log = get_logger("edge")

    def refuse_unread(self, connection: ClientConnection, reason: Reason) -> None:
        """Answer a head that the parser refused, repeating nothing of it."""
        problem = self._gate.refuse_unread(reason, _UNREAD[reason], connection.peer).problem
        lines = "".join([f"{name}: {value}\r\n" for name, value in problem.fields]).encode("latin-1", "replace")
        self._outbox.flush()
        if connection.transport is not None and not connection.transport.is_closing():
            connection.transport.write(
                b"%bcontent-length: %d\r\nconnection: close\r\n\r\n%b"
                % (STATUS_LINES[problem.status] + lines, len(problem.body), problem.body)
            )

    def serve_now(self, exchange: PublicExchange, connection: ClientConnection) -> bool:
        """
        Have one request judged, and answered or sent on its way, without waiting. False: ``serve`` has to go on with
        it.

        When it is on its way (``exchange.upstream``), ``relay_now`` or ``gone`` follows. When the limit store is asked,
        ``connection.decided`` is called with its answer, and ``deliver_now`` follows.
        """
        try:
            verdict = exchange.verdict = self._gate.decide_now(exchange.head, connection.memo)
            if type(verdict) is Undecided:
                if not self._gate.decide_soon(verdict, lambda verdict: self._decided(exchange, connection, verdict)):
                    return False
                exchange.verdict = None  # ``_decided`` brings another
                return True
        except Exception:  # noqa: BLE001  # contained: the text stays in the operational log (AP-R52)
            self._broke(exchange)
            return True
        return self.deliver_now(exchange, connection)

    def deliver_now(self, exchange: PublicExchange, connection: ClientConnection) -> bool:
        """What ``serve_now`` does once there is a verdict. False: ``serve`` has to go on with it."""
        verdict = exchange.verdict
        try:
            if type(verdict) is not Passed:
                return verdict is not None and self._answer(verdict, exchange)
            self._enter(verdict, exchange)
            if verdict.request.is_websocket:
                return False
            exchange.upstream = send_now(verdict, exchange, self._pool, connection)
        except ForwardFailed as failure:
            self._end(exchange, self._failed(exchange, failure))
        except Exception:  # noqa: BLE001  # contained, as above
            self._end(exchange, self._broke(exchange))
        else:
            return exchange.upstream is not None
        return True

    def _decided(self, exchange: PublicExchange, connection: ClientConnection, verdict: Verdict | Undecided) -> None:
        exchange.verdict = verdict
        if not (exchange.is_gone or exchange.is_over):
            connection.decided()
        elif type(verdict) is Passed:  # nobody is left to send it for
            self._enter(verdict, exchange)
            self._end(exchange, Reason.DRAINING if exchange.is_drained else Reason.CLIENT_GONE)
        elif type(verdict) is Undecided:
            self._gate.abandon(verdict)

    def relay_now(self, exchange: PublicExchange) -> bool:
        """An answer has come to what ``serve_now`` sent: relay it if it is whole, else False and ``serve`` goes on."""
        passed, connection = exchange.passed, exchange.upstream
        if (
            passed is None
            or connection is None
            or not connection.is_complete
            or may_be_the_platforms(connection.status)
        ):
            return False
        exchange.upstream = None
        failure: Reason | None = None
        try:
            relay_now(passed, exchange, self._pool, connection)
        except ForwardFailed as failed:
            failure = self._failed(exchange, failed)
        except ClientGone:
            failure = Reason.CLIENT_GONE
            exchange.abort()
        except Exception:  # noqa: BLE001  # contained, as above
            failure = self._broke(exchange)
        self._end(exchange, failure)
        return True

    def gone(self, exchange: PublicExchange) -> None:
        """
        The client left. A task that serves the request is cancelled and sees to its end; here is what has none: on its
        way without one, or still waiting for it.
        """
        if exchange.has_task:
            return
        self._drop_upstream(exchange)
        if not exchange.is_over:
            self._refuse_waiting(exchange, Deny(Reason.CLIENT_GONE))
        self._end(exchange, Reason.CLIENT_GONE)

    def refuse_draining(self, exchange: PublicExchange) -> None:
        """
        The process stops, and its answer has not started: refuse it. Whoever serves it in a task is to be cancelled
        next, and sees to that itself.
        """
        exchange.is_drained = True
        if exchange.has_task:
            return
        self._drop_upstream(exchange)
        passed = exchange.passed
        if passed is not None:
            self._fail(passed, exchange, DRAINING)
            self._end(exchange, Reason.DRAINING)
        else:
            refused = self._refuse_waiting(exchange, DRAINING)
            self._refuse_drained(exchange, refused)

    def _drop_upstream(self, exchange: PublicExchange) -> None:
        """What was sent without a task is of no use any more."""
        connection, exchange.upstream = exchange.upstream, None
        if connection is not None:
            connection.forget_consumer()
            connection.abort()
            self._pool.give_back(connection)

    def _refuse_waiting(self, exchange: PublicExchange, refusal: Deny) -> Refused | None:
        """Tell the gate of the end of what has not passed yet. None: it has no words for the client."""
        verdict = exchange.verdict
        if type(verdict) is Undecided:
            self._gate.abandon(verdict)
        elif type(verdict) is PageCall:
            return self._gate.page_refused(verdict, refusal)
        elif type(verdict) is Deferred:
            return self._gate.deferred_refused(verdict, refusal)
        return None

    def _refuse_drained(self, exchange: PublicExchange, refused: Refused | None) -> None:
        if refused is not None:
            write_refusal(refused, exchange)
            return
        problem = self._gate.refuse_unread(Reason.DRAINING, _UNREAD[Reason.DRAINING], exchange.head.peer).problem
        exchange.refuse(problem.status, (*problem.fields, ("Retry-After", "1")), problem.body)

    async def serve(self, exchange: PublicExchange, connection: ClientConnection) -> None:
        """Do, or go on with, what has to be waited for. Cancelled when the client goes; raises nothing else."""
        exchange.has_task = True
        try:
            await self._serve(exchange, connection)
        except asyncio.CancelledError:
            if not exchange.is_drained or exchange.is_gone or not _go_on():
                raise
            if not exchange.has_started:
                self._refuse_drained(exchange, None)
        finally:
            exchange.close_body()

    async def _serve(self, exchange: PublicExchange, connection: ClientConnection) -> None:
        verdict = exchange.verdict
        if verdict is None:
            verdict = self._gate.decide_now(exchange.head, connection.memo)
        if type(verdict) is Undecided:
            verdict = await self._decide(verdict, exchange)
        if type(verdict) is PageCall:
            await self._own.page(verdict, exchange)
            return
        if type(verdict) is Deferred:
            await self._own.deferred(verdict, exchange)
            return
        if type(verdict) is not Passed:
            self._answer(verdict, exchange)
            return
        if exchange.passed is None:
            self._enter(verdict, exchange)
        sent, exchange.upstream = exchange.upstream, None
        failure: Reason | None = None
        try:
            failure = await self._forward(verdict, exchange, sent)
        except ForwardFailed as failed:
            failure = self._failed(exchange, failed)
        except (ClientGone, asyncio.CancelledError) as gone:
            failure = self._cancelled(verdict, exchange)
            if isinstance(gone, asyncio.CancelledError):
                raise
        except Exception:  # noqa: BLE001  # contained, as above
            failure = self._broke(exchange)
        finally:
            self._end(exchange, failure)

    async def _decide(self, undecided: Undecided, exchange: PublicExchange) -> Verdict:
        """Have it decided, however long that takes; its body is read meanwhile where the gate wants that."""
        spec = undecided.need.place.spec
        body = exchange.holdable_body(spec.max_body_bytes, undecided.request.content_length)
        exchange.is_held = True
        try:
            return await self._gate.decide(undecided, body)
        finally:
            exchange.is_held = False

    def _cancelled(self, passed: Passed, exchange: PublicExchange) -> Reason:
        """Nobody waits for the answer, or there is no time left for it."""
        if not exchange.is_drained or exchange.is_gone:
            exchange.abort()
            return Reason.CLIENT_GONE
        self._fail(passed, exchange, DRAINING)
        return Reason.DRAINING

    async def _forward(self, passed: Passed, exchange: PublicExchange, sent: Connection | None) -> Reason | None:
        """
        Forward; when it did not reach its function for want of a replica, wait for one and forward once more.

        That is known when the platform says so, of what may be repeated (RFC 9110 section 9.2.2), or when nothing of
        the head was written, of anything. In either case the body must be at hand, and the budget of retries allow it:
        everybody else is told what happened.
        """

        def may_retry() -> bool:
            return self._gate.may_retry(passed)

        def watch(status: int, fields: list[tuple[bytes, bytes]]) -> None:
            request = passed.request
            if self._gate.says_not_reached(passed, status, fields) and (
                may_repeat(request.method, has_key=request.has_idempotency_key) and can_resend(exchange) and may_retry()
            ):
                raise _NotReached
            tell_failure(status, fields)

        def tell_failure(status: int, fields: list[tuple[bytes, bytes]]) -> None:
            if (reason := self._gate.failure_of(passed, status, fields)) is not None:
                raise ForwardFailed(reason)

        try:
            await self._send(passed, exchange, sent, watch, may_retry)
        except _NotReached:
            pass
        except ForwardFailed as failed:
            is_untouched = failed.is_unsent and failed.reason is Reason.UPSTREAM_UNREACHABLE
            if not is_untouched or not can_resend(exchange) or not may_retry():
                raise
            self._gate.upstream_failed(passed)
        else:
            return None
        exchange.rewind()
        body = exchange.holdable_body(passed.allow.place.spec.max_body_bytes, passed.request.content_length)
        exchange.is_held = True
        try:
            refused = await self._gate.hold_again(passed, body)
        finally:
            exchange.is_held = False
        if refused is not None:
            write_refusal(refused, exchange)
            return refused.problem.reason
        await self._send(passed, exchange, None, tell_failure, may_retry)
        return None

    async def _send(
        self,
        passed: Passed,
        exchange: PublicExchange,
        sent: Connection | None,
        watch: AnswerWatch | None,
        may_retry: MayRetry,
    ) -> None:
        if passed.request.is_websocket and exchange.may_tunnel:
            await tunnel(passed, exchange, self._pool, watch)
        else:
            await forward(passed, exchange, self._pool, sent, watch, may_retry)

    @staticmethod
    def _enter(passed: Passed, exchange: PublicExchange) -> None:
        exchange.passed = passed
        passed.on_cut = exchange.cut

    def _end(self, exchange: PublicExchange, failure: Reason | None) -> None:
        """Tell the gate that the request is over, exactly once."""
        passed, exchange.passed = exchange.passed, None
        if passed is not None:
            # No cycle may be left: until the collector came, each request's objects would fill memory and caches.
            exchange.verdict = passed.on_cut = None
            try:
                self._gate.finish(
                    passed,
                    status=exchange.status or _CLIENT_GONE_STATUS,
                    bytes_in=exchange.bytes_in,
                    bytes_out=exchange.bytes_out,
                    failure=failure,
                )
            except Exception:  # noqa: BLE001  # contained: the connection has to go on, or it would hang
                self._log.exception("finishing a request failed", request_id=passed.request_id)

    def _answer(self, verdict: Verdict | Undecided, exchange: PublicExchange) -> bool:
        """Answer what can be answered at once; False: it has to be waited for."""
        if type(verdict) is PageCall or type(verdict) is Undecided or type(verdict) is Deferred:
            return False
        if type(verdict) is Refused:
            write_refusal(verdict, exchange)
        elif type(verdict) is DirectAnswer:
            exchange.refuse(verdict.status, verdict.fields, b"")
        return True

    def _failed(self, exchange: PublicExchange, failed: ForwardFailed) -> Reason:
        reason = failed.reason
        passed = exchange.passed
        if passed is not None:
            if reason in _VOIDS_READINESS:
                self._gate.upstream_failed(passed)
            self._fail(passed, exchange, Deny(reason, failed.detail, retry_after_s=_RETRY_AFTER_S.get(reason)))
        return reason

    def _broke(self, exchange: PublicExchange) -> Reason:
        """A defect of ours: told to the log, not to the client."""
        passed = exchange.passed
        request_id = passed.request_id if passed is not None else None
        self._log.exception("serving failed", request_id=request_id)  # called from except clauses only
        if passed is None:
            exchange.abort()
        else:
            self._fail(passed, exchange, Deny(Reason.INTERNAL_ERROR))
        return Reason.INTERNAL_ERROR

    def _fail(self, passed: Passed, exchange: PublicExchange, refusal: Deny) -> None:
        if exchange.has_started:
            exchange.abort()  # half an answer is never completed by us
        else:
            write_refusal(self._gate.fail(passed, refusal), exchange)


def _go_on() -> bool:
    """
    Let the task live that ``refuse_draining`` has cancelled: it sees its connection to its end. A function of its own,
    because a frame that knows its task and ends by an exception is a cycle that keeps all of the request.
    """
    task = asyncio.current_task()
    if task is None:
        return False
    task.uncancel()
    return True
