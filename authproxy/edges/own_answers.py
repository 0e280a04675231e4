"""
Requests that Portero answers itself for as long as their clients wait: own pages, and those that are answered later.

It sees to it that the gate is told of every end exactly once. Nothing of such a request reaches the platform from here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from authproxy.audit import get_logger
from authproxy.edges.exchange import field_lines
from authproxy.edges.judge import DeferredJobs, Judge, NoPages, OwnPages
from authproxy.gate.verdict import Deferred, PageAnswer, PageCall, Refused
from authproxy.upstream.exchange import BodyMalformed, BodyStalled, ClientGone
from authproxy.upstream.framing import is_bodyless
from policies.decision import Deny, Reason, Refusal
from policies.held_bytes import HeldBytes
from policies.limits import address_block

if TYPE_CHECKING:
    from authproxy.edges.exchange import PublicExchange

DRAINING: Final = Deny(Reason.DRAINING, retry_after_s=1)
"""There is no time left for it."""
PIECE_BYTES: Final = 64 * 1024
"""A longer answer (a result) is written in pieces, as its client reads them."""
MAX_SENDING_BYTES: Final = 64 * 1024 * 1024
"""Of longer answers that are being written; half of it for one tenant. A client that does not read keeps its own from
memory for as long as it may be silent, and there may be thousands of them."""
MAX_CALLER_BYTES: Final = MAX_SENDING_BYTES // 8
"""Of one caller; an answer that is larger by itself counts so much."""


def write_refusal(refused: Refused, exchange: PublicExchange) -> None:
    """Answer with a refusal of the gate's."""
    problem = refused.problem
    exchange.may_keep_alive = refused.keeps_alive
    exchange.refuse(problem.status, problem.fields, problem.body)


class OwnAnswers:
    """``page`` and ``deferred`` are cancelled when the client goes, or when the process stops (``is_drained``)."""

    def __init__(self, gate: Judge, pages: OwnPages | None, jobs: DeferredJobs | None) -> None:
        self._gate = gate
        self._pages: OwnPages = pages if pages is not None else NoPages()
        self._jobs = jobs
        self._sending = HeldBytes(MAX_SENDING_BYTES)
        self._log = get_logger("edge")

    async def page(self, call: PageCall, exchange: PublicExchange) -> None:
        """One of Portero's own pages: read the body, ask ``pages``, write the answer. Nothing reaches the platform."""
        answer: PageAnswer | Refusal
        try:
            body = await self._read_body(exchange, call.request.content_length or 0)
            answer = body if isinstance(body, Deny) else await self._pages.answer(call, body)
        except (ClientGone, asyncio.CancelledError) as gone:
            if exchange.is_drained and not exchange.is_gone:
                write_refusal(self._gate.page_refused(call, DRAINING), exchange)
            else:
                self._gate.page_refused(call, Deny(Reason.CLIENT_GONE))
                exchange.abort()
            if isinstance(gone, asyncio.CancelledError):
                raise
            return
        except Exception:  # noqa: BLE001  # contained: told to the log, not to the client (AP-R52)
            write_refusal(self._gate.page_failed(call), exchange)
            return
        if isinstance(answer, PageAnswer):
            if len(answer.body) > PIECE_BYTES and not is_bodyless(call.request.method, answer.status):
                await self._send(call, answer, exchange)
                return
            written = self._gate.page_answered(call, answer)
            exchange.refuse(written.status, written.fields, written.body)
        else:
            write_refusal(self._gate.page_refused(call, answer), exchange)

    async def _send(self, call: PageCall, answer: PageAnswer, exchange: PublicExchange) -> None:
        """Write a long answer no faster than its client reads; as any answer it is cut when there is no time left."""
        body, caller = answer.body, answer.subject or address_block(call.request.client_ip)
        account = self._sending.open(
            call.page.tenant.name, MAX_SENDING_BYTES // 2, None, None, caller, MAX_CALLER_BYTES
        )
        if (reason := account.take(min(len(body), MAX_CALLER_BYTES))) is not None:
            refusal = Deny(reason, "too much is being fetched at the moment", retry_after_s=1)
            write_refusal(self._gate.page_refused(call, refusal), exchange)
            return
        try:
            written = self._gate.page_answered(call, answer)
            exchange.start(written.status, field_lines(written.fields), len(body))
            for at in range(0, len(body), PIECE_BYTES):
                await exchange.write(body[at : at + PIECE_BYTES])
            exchange.finish()
        except ClientGone:
            exchange.abort()
        finally:
            account.close()

    async def deferred(self, deferred: Deferred, exchange: PublicExchange) -> None:
        """Accept what is to be answered later, or say why not."""
        try:
            if self._jobs is None:
                answer: PageAnswer | Refused = self._gate.deferred_refused(deferred, Deny(Reason.OVERLOADED))
            else:
                answer = await self._jobs.accept(deferred, exchange)
        except (ClientGone, asyncio.CancelledError) as gone:
            if exchange.is_drained and not exchange.is_gone:
                write_refusal(self._gate.deferred_refused(deferred, DRAINING), exchange)
            else:
                self._gate.deferred_refused(deferred, Deny(Reason.CLIENT_GONE))
                exchange.abort()
            if isinstance(gone, asyncio.CancelledError):
                raise
            return
        except Exception:  # noqa: BLE001  # contained, as above
            self._log.exception("accepting a request failed", request_id=deferred.case.request_id)
            answer = self._gate.deferred_refused(deferred, Deny(Reason.INTERNAL_ERROR))
        if isinstance(answer, Refused):
            write_refusal(answer, exchange)
        else:
            exchange.refuse(answer.status, answer.fields, answer.body)

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
