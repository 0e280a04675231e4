"""
One request's way to its function and the answer's way back, with back-pressure in both directions.

It decides framing, retry and when to give up; what the request says was decided before (``Passed``). It refuses to know
sockets of the public side (``Exchange``) and writes no refusal: that is the edge's, told by ``ForwardFailed``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from authproxy.upstream.connection import Connection, Consumer
from authproxy.upstream.exchange import BodyMalformed, BodyStalled, ClientGone, Exchange
from authproxy.upstream.failures import GARBLED, MALFORMED, STALLED, TOO_LARGE, ForwardFailed
from authproxy.upstream.framing import (
    LAST_CHUNK,
    chunk,
    is_bodyless,
    may_be_the_platforms,
    may_repeat,
    request_framing,
    streamed_framing,
)
from authproxy.upstream.pool import Pool
from policies.decision import Reason
from policies.header_fields import AnswerFields, filter_answer

if TYPE_CHECKING:
    from authproxy.upstream.departure import Departure

AnswerWatch = Callable[[int, list[tuple[bytes, bytes]]], None]
"""Told status and fields of answers that the platform may have given instead of the function, before relaying them."""
MayRetry = Callable[[], bool]
"""Asked before a request is sent once more, and takes one from the budget of retries when it says yes."""


def send_now(passed: Departure, exchange: Exchange, pool: Pool, consumer: Consumer) -> Connection | None:
    """
    Send the request without waiting when its body is at hand and a connection is open; else None, nothing has happened.

    ``consumer`` is told once, when the answer is whole or what comes has to be waited for (``forward`` goes on then).
    This is the usual way of the usual request: no task, no future (saves 10 us).

    Raises: ForwardFailed.
    """
    request = passed.request
    has_body = request.content_length or request.is_chunked
    if has_body and not exchange.has_whole_body:
        return None
    connection = pool.take_now(passed.destination.address)
    if connection is None:
        return None
    connection.begin(passed.allow.place.spec.timeouts, is_head=request.method == "HEAD", consumer=consumer)
    try:
        body = _body_at_hand(passed, exchange) if has_body else b""
        connection.send_soon(passed.request_block + request_framing(request.method, body or b""))
    except BaseException:
        connection.forget_consumer()
        pool.give_back(connection)
        raise
    exchange.sent_body = body
    return connection


def relay_now(passed: Departure, exchange: Exchange, pool: Pool, connection: Connection) -> None:
    """Relay an answer that is whole, to what ``send_now`` sent. Raises: ForwardFailed, ClientGone."""
    try:
        filtered = _filtered(passed, connection)
        if filtered is None:
            raise ForwardFailed(Reason.UPSTREAM_GARBLED, GARBLED)
        block, content_length = filtered
        exchange.answer(connection.status, block + passed.answer_block, connection.take(), content_length)
    finally:
        pool.give_back(connection)


async def forward(
    passed: Departure,
    exchange: Exchange,
    pool: Pool,
    sent: Connection | None = None,
    watch: AnswerWatch | None = None,
    may_retry: MayRetry | None = None,
) -> None:
    """
    Send the request of ``passed`` to its destination and relay the answer to its end.

    ``sent`` is the connection on which ``send_now`` has sent the request already; ``watch`` is told of answers that
    ``may_be_the_platforms``; ``may_retry`` None: nobody counts. May be called again for the same exchange when it
    ``can_resend``.

    Raises: ForwardFailed; ClientGone. When ``exchange.has_started`` is set by then, half an answer was written.
    """
    request = passed.request
    body = exchange.sent_body
    if body is None:
        body = exchange.sent_body = _body_at_hand(passed, exchange)
    address = passed.destination.address
    connection = sent or pool.take_now(address)
    is_sent = sent is not None
    is_first = True
    while True:
        if connection is None:
            connection = await dialled(passed, pool)
        is_kept = connection.is_kept
        try:
            await _once(passed, exchange, pool, connection, body, watch, is_sent=is_sent)
        except ForwardFailed as failure:
            # Kept alive for too long: the other side closed it as the request left. Once more, on another connection.
            may_repeat_it = failure.is_unsent or (
                failure.is_untouched and may_repeat(request.method, has_key=request.has_idempotency_key)
            )
            if not (is_first and is_kept and may_repeat_it and can_resend(exchange)):
                raise
            if may_retry is not None and not may_retry():
                raise
            pool.retried()
            connection, is_sent, is_first = None, False, False
        else:
            return
        exchange.rewind()


def can_resend(exchange: Exchange) -> bool:
    """The request body is at hand once more: whole and small, whole and held, or not a byte of it was read."""
    return exchange.sent_body is not None or exchange.may_rewind


async def dialled(passed: Departure, pool: Pool) -> Connection:
    """A new connection. Raises: ForwardFailed, of which nothing was sent."""
    try:
        return await pool.take(passed.destination.address, passed.allow.place.spec.timeouts.connect_s)
    except ForwardFailed as failure:
        failure.is_unsent = True
        raise


def _body_at_hand(passed: Departure, exchange: Exchange) -> bytes | None:
    """The whole request body if it is small and has come, else None: it will be pumped. Raises: ForwardFailed."""
    request = passed.request
    length = request.content_length
    if not length and not request.is_chunked:
        return b""
    limit = passed.allow.place.spec.max_body_bytes
    if limit is not None and length is not None and length > limit:
        raise ForwardFailed(Reason.BODY_TOO_LARGE, TOO_LARGE)
    try:
        body = exchange.whole_body()
    except BodyMalformed:
        raise ForwardFailed(Reason.BODY_MALFORMED, MALFORMED) from None
    if body is not None and limit is not None and len(body) > limit:
        raise ForwardFailed(Reason.BODY_TOO_LARGE, TOO_LARGE)
    return body


async def _once(
    passed: Departure,
    exchange: Exchange,
    pool: Pool,
    connection: Connection,
    body: bytes | None,
    watch: AnswerWatch | None,
    *,
    is_sent: bool = False,
) -> None:
    request = passed.request
    timeouts = passed.allow.place.spec.timeouts
    pump: asyncio.Task[None] | None = None
    try:
        if not is_sent:
            connection.begin(timeouts, is_head=request.method == "HEAD")
            if body is not None:
                _send_head(connection, passed.request_block + request_framing(request.method, body))
            else:
                connection.is_sending = True
                _send_head(connection, passed.request_block + streamed_framing(request.content_length))
                pump = asyncio.create_task(_pump(passed, exchange, connection))
        await connection.answer_head(timeouts.first_byte_s)
        if watch is not None and may_be_the_platforms(connection.status):
            watch(connection.status, connection.fields)
        await relay(passed, exchange, connection)
    finally:
        try:
            if pump is not None and not pump.done():
                # An answer that is whole before the request is: what is still unsent belongs to nobody.
                pump.cancel()
                await asyncio.wait((pump,))
        finally:  # also when the client leaves in just that moment
            pool.give_back(connection)


def _send_head(connection: Connection, block: bytes) -> None:
    try:
        connection.send(block)
    except ForwardFailed as failure:
        failure.is_unsent = True
        raise


async def relay(passed: Departure, exchange: Exchange, connection: Connection) -> None:
    filtered = _filtered(passed, connection)
    if filtered is None:
        raise ForwardFailed(Reason.UPSTREAM_GARBLED, GARBLED)
    status = connection.status
    block = filtered.block + passed.answer_block
    if connection.is_complete or is_bodyless(passed.request.method, status):
        exchange.answer(status, block, connection.take(), filtered.content_length)
        return
    exchange.start(status, block, filtered.content_length, connection.take())
    while data := await connection.read():
        await exchange.write(data)
    exchange.finish()


def _filtered(passed: Departure, connection: Connection) -> AnswerFields | None:
    allow = passed.allow
    route = allow.place.route
    return filter_answer(
        connection.fields,
        replaces_cors=route is not None and bool(route.cors_origins),
        is_private=bool(allow.principal.set_cookie),
        is_by_cookie=allow.principal.is_by_cookie,
    )


async def _pump(passed: Departure, exchange: Exchange, connection: Connection) -> None:
    """Send the request body as it comes. Whatever ends it early fails the connection, which wakes the relay."""
    timeouts = passed.allow.place.spec.timeouts
    limit = passed.allow.place.spec.max_body_bytes
    is_chunked = passed.request.content_length is None
    try:
        await exchange.send_continue()
        while data := await exchange.read():
            if limit is not None and exchange.bytes_in > limit:
                connection.fail(ForwardFailed(Reason.BODY_TOO_LARGE, TOO_LARGE))
                return
            connection.send(chunk(data) if is_chunked else data)
            if connection.is_writing_paused:
                await connection.drain()
        if is_chunked:
            connection.send(LAST_CHUNK)
        connection.sent(timeouts.first_byte_s)
    except BodyMalformed:
        connection.fail(ForwardFailed(Reason.BODY_MALFORMED, MALFORMED))
    except BodyStalled:
        connection.fail(ForwardFailed(Reason.REQUEST_TIMEOUT, STALLED))
    except (ClientGone, ForwardFailed) as failure:
        connection.fail(failure)
