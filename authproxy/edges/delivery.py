"""
What becomes of one request: it is judged, then answered, or delivered to its function and its answer relayed.

It decides nothing about a request; the gate does. It sees to it that the gate is told of every end exactly once, that
an error of ours widens nothing, and that nothing of an error's text reaches a client.

Longer than other modules: every way that one request can end is told here, exactly once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from authproxy.audit import get_logger
from authproxy.edges.exchange import PublicExchange
from authproxy.gate.verdict import DirectAnswer, PageAnswer, PageCall, Passed, Refused, Undecided, Verdict
from authproxy.upstream.connection import Connection
from authproxy.upstream.exchange import BodyMalformed, BodyStalled, ClientGone
from authproxy.upstream.failures import ForwardFailed
from authproxy.upstream.forward import forward, relay_now, send_now
from authproxy.upstream.framing import STATUS_LINES, may_repeat
from authproxy.upstream.pool import Pool
from authproxy.upstream.tunnel import tunnel
from policies.decision import Deny, Reason, Refusal
from policies.request import Head, HeadMemo

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
}


class _NotReached(Exception):  # control flow within this module
    """The platform has no replica, and the request may be sent again."""


class Judge(Protocol):
    """What the edge needs of ``authproxy.gate.gate.Gate``."""

    def decide_now(self, head: Head, memo: HeadMemo) -> Verdict | Undecided: ...

    def decide_soon(self, undecided: Undecided, then: Callable[[Verdict | Undecided], None]) -> bool: ...

    async def decide(self, undecided: Undecided) -> Verdict: ...

    def abandon(self, undecided: Undecided) -> None: ...

    def finish(
        self,
        passed: Passed,
        *,
        status: int,
        bytes_in: int,
        bytes_out: int,
        failure: Reason | None,
    ) -> None: ...

    def upstream_failed(self, passed: Passed) -> None: ...

    def says_not_reached(self, passed: Passed, status: int, fields: list[tuple[bytes, bytes]]) -> bool: ...

    async def hold_again(self, passed: Passed) -> Refused | None: ...

    def fail(self, passed: Passed, refusal: Deny) -> Refused: ...

    def refuse_unread(self, reason: Reason, detail: str, peer: str) -> Refused: ...

    def page_answered(self, call: PageCall, answer: PageAnswer) -> PageAnswer: ...

    def page_refused(self, call: PageCall, refusal: Refusal) -> Refused: ...

    def page_failed(self, call: PageCall) -> Refused: ...


class OwnPages(Protocol):
    """What the edge needs of ``authproxy.pages.pages.Pages``."""

    max_body_bytes: int

    async def answer(self, call: PageCall, body: bytes) -> PageAnswer | Refusal: ...


class _NoPages:
    """An edge without own pages: there are none."""

    max_body_bytes = 0

    async def answer(self, call: PageCall, _body: bytes) -> PageAnswer | Refusal:
        return Deny(Reason.ROUTE_UNKNOWN, tenant=call.page.tenant.name)


class Delivery:
    """Serves the requests of one edge: ``..._now`` without waiting, ``serve`` where something has to be waited for."""

    def __init__(self, gate: Judge, pool: Pool, pages: OwnPages | None = None) -> None:
        self._gate = gate
        self._pages: OwnPages = pages if pages is not None else _NoPages()
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
        if not exchange.is_gone:
            connection.decided()
        elif type(verdict) is Passed:  # nobody is left to send it for
            self._enter(verdict, exchange)
            self._end(exchange, Reason.CLIENT_GONE)
        elif type(verdict) is Undecided:
            self._gate.abandon(verdict)

    def relay_now(self, exchange: PublicExchange) -> bool:
        """An answer has come to what ``serve_now`` sent: relay it if it is whole, else False and ``serve`` goes on."""
        passed, connection = exchange.passed, exchange.upstream
        if passed is None or connection is None or not connection.is_complete or connection.status >= 500:
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
        connection = exchange.upstream
        if connection is not None:
            exchange.upstream = None
            connection.forget_consumer()
            connection.abort()
            self._pool.give_back(connection)
        if type(exchange.verdict) is Undecided:
            self._gate.abandon(exchange.verdict)
        elif type(exchange.verdict) is PageCall:
            self._gate.page_refused(exchange.verdict, Deny(Reason.CLIENT_GONE))
        self._end(exchange, Reason.CLIENT_GONE)

    async def serve(self, exchange: PublicExchange, connection: ClientConnection) -> None:
        """Do, or go on with, what has to be waited for. Cancelled when the client goes; raises nothing else."""
        exchange.has_task = True
        verdict = exchange.verdict
        if verdict is None:
            verdict = self._gate.decide_now(exchange.head, connection.memo)
        if type(verdict) is Undecided:
            verdict = await self._gate.decide(verdict)
        if type(verdict) is PageCall:
            await self._serve_page(verdict, exchange)
            return
        if type(verdict) is not Passed:
            self._answer(verdict, exchange)
            return
        if exchange.passed is None:
            self._enter(verdict, exchange)
        sent, exchange.upstream = exchange.upstream, None
        failure: Reason | None = None
        try:
            if verdict.request.is_websocket and exchange.may_tunnel:
                await tunnel(verdict, exchange, self._pool)
            else:
                failure = await self._forward(verdict, exchange, sent)
        except ForwardFailed as failed:
            failure = self._failed(exchange, failed)
        except (ClientGone, asyncio.CancelledError) as gone:
            failure = Reason.CLIENT_GONE
            exchange.abort()
            if isinstance(gone, asyncio.CancelledError):
                raise
        except Exception:  # noqa: BLE001  # contained, as above
            failure = self._broke(exchange)
        finally:
            self._end(exchange, failure)

    async def _serve_page(self, call: PageCall, exchange: PublicExchange) -> None:
        """One of Portero's own pages: read the body, ask ``pages``, write the answer. Nothing reaches the platform."""
        answer: PageAnswer | Refusal
        try:
            body = await self._read_body(exchange, call.request.content_length or 0)
            answer = body if isinstance(body, Deny) else await self._pages.answer(call, body)
        except (ClientGone, asyncio.CancelledError) as gone:
            self._gate.page_refused(call, Deny(Reason.CLIENT_GONE))
            exchange.abort()
            if isinstance(gone, asyncio.CancelledError):
                raise
            return
        except Exception:  # noqa: BLE001  # contained: told to the log, not to the client (AP-R52)
            self._refuse(self._gate.page_failed(call), exchange)
            return
        if isinstance(answer, PageAnswer):
            written = self._gate.page_answered(call, answer)
            exchange.refuse(written.status, written.fields, written.body)
        else:
            self._refuse(self._gate.page_refused(call, answer), exchange)

    async def _read_body(self, exchange: PublicExchange, declared_bytes: int) -> bytes | Deny:
        """The whole body, or why it is not taken. Raises: ClientGone."""
        most = self._pages.max_body_bytes
        if declared_bytes > most:  # said before it is sent, to who asked whether to send it
            return Deny(Reason.BODY_TOO_LARGE, f"this page takes at most {most} bytes")
        try:
            await exchange.send_continue()
            body = b""
            while piece := await exchange.read():
                body += piece
                if len(body) > most:
                    return Deny(Reason.BODY_TOO_LARGE, f"this page takes at most {most} bytes")
        except BodyMalformed:
            return Deny(Reason.BODY_MALFORMED)
        except BodyStalled:
            return Deny(Reason.REQUEST_TIMEOUT, "the request's body did not arrive in time")
        return body

    async def _forward(self, passed: Passed, exchange: PublicExchange, sent: Connection | None) -> Reason | None:
        """
        Forward; when the platform says that it has no replica, wait for one and forward once more.

        Only what may be repeated (RFC 9110 section 9.2.2) and has no body that would be gone: everything else is told
        what the platform said.
        """
        request = passed.request

        def watch(status: int, fields: list[tuple[bytes, bytes]]) -> None:
            if self._gate.says_not_reached(passed, status, fields) and (
                not request.has_body and may_repeat(request.method, has_key=request.has_idempotency_key)
            ):
                raise _NotReached

        try:
            await forward(passed, exchange, self._pool, sent, watch)
        except _NotReached:
            refused = await self._gate.hold_again(passed)
            if refused is not None:
                self._refuse(refused, exchange)
                return refused.problem.reason
            await forward(passed, exchange, self._pool)
        return None

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
        if type(verdict) is PageCall or type(verdict) is Undecided:
            return False
        if type(verdict) is Refused:
            self._refuse(verdict, exchange)
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
            self._refuse(self._gate.fail(passed, refusal), exchange)

    @staticmethod
    def _refuse(refused: Refused, exchange: PublicExchange) -> None:
        problem = refused.problem
        exchange.may_keep_alive = refused.keeps_alive
        exchange.refuse(problem.status, problem.fields, problem.body)
