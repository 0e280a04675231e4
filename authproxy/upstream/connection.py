"""
One connection to an upstream: an ``asyncio.Protocol`` that carries one request at a time.

The protocol side (``data_received`` and the parser's callbacks) only collects; the consumer side (``answer_head``,
``read``, ``take``) is awaited by whoever forwards the request. A connection never decides to be used again: that is its
consumer's to say, after it has taken status, head and body. Deciding it in here, when the last byte arrives, mixes the
answers of different users under load, because the consumer has not run yet.

It refuses to know requests, policies and the public side; what an upstream may not do is ``answer.py``'s.

Longer than other modules: one connection's states, from dialling to the pool, are read together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade

from authproxy.upstream.answer import HEAD_LIMIT_BYTES, AnswerReader
from authproxy.upstream.failures import ANSWER_TIMEOUT, CLOSED, GARBLED, ForwardFailed
from policies.decision import Reason

if TYPE_CHECKING:
    from authproxy.upstream.departure import Address
    from authproxy.upstream.outbox import Outbox
    from policies.tables import Timeouts

WRITE_HIGH_BYTES: Final = 64 * 1024
"""Request bytes waiting for the upstream beyond which the client is not read."""


LINGER_S: Final = 0.5
"""A tunnel's last bytes may take this long to leave; either side closing closes the other within one second."""


class Keeper(Protocol):
    """Who keeps connections: the pool."""

    outbox: Outbox

    def lost(self, connection: Connection) -> None:
        """The connection is gone; it must be forgotten. Called once."""


class Consumer(Protocol):
    """Who waits for an answer without a task."""

    def arrived(self) -> None:
        """The answer is whole, or failed, or comes in pieces. Called once, outside of the parser."""


class Connection(AnswerReader, asyncio.Protocol):
    """Made by the pool. ``begin`` ... ``is_reusable`` is one request."""

    __slots__ = (
        "_body_waiter",
        "_consumer",
        "_drain_waiter",
        "_is_reading_paused",
        "_is_writing_paused",
        "_keeper",
        "_loop",
        "address",
        "deadline",
        "failure",
        "idle_s",
        "idle_until",
        "is_counted",
        "is_kept",
        "is_sending",
        "is_taken",
        "lane",
        "on_resume_writing",
        "total_until",
        "transport",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, keeper: Keeper, address: Address) -> None:
        super().__init__()
        self._loop = loop
        self._keeper = keeper
        self.address = address
        self.transport: asyncio.Transport | None = None
        self._body_waiter: asyncio.Future[None] | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self._is_writing_paused = False
        self._is_reading_paused = False
        self.on_resume_writing: Callable[[], None] | None = None
        self._consumer: Consumer | None = None
        self.is_taken = False
        self.is_counted = False
        """The pool's: its place is taken."""
        self.is_kept = False
        """The pool's: it has carried a request before, so that the other side may be closing it."""
        self.idle_until = inf
        self.idle_s = inf
        self.lane: Any = None
        """The pool's."""
        self.is_sending = False
        """A body is still being pumped: silence of the upstream is no fault of it."""
        self.failure: Exception | None = None
        self.deadline = self.total_until = inf
        """Event loop time after which the pool's sweep calls ``time_out``."""

    # -- one request -----------------------------------------------------------------------------------------------

    def begin(
        self, timeouts: Timeouts, *, is_head: bool, consumer: Consumer | None = None, upgrades: bool = False
    ) -> None:
        """
        Forget the former answer; to be called before anything is written.

        With a ``consumer``, it is told of the answer instead of having a task wait for it.
        """
        self.forget_answer()
        self.is_sending = False
        self.failure = None
        self._is_head_request = is_head
        self._upgrades = upgrades
        self._consumer = consumer
        self.idle_s = timeouts.idle_s
        total_s = timeouts.total_s
        self.deadline = self.total_until = inf if total_s is None else self._loop.time() + total_s
        if consumer is not None:
            self.deadline = min(self._loop.time() + timeouts.first_byte_s, self.total_until)

    @property
    def is_open(self) -> bool:
        transport = self.transport
        return transport is not None and not transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """The answer came whole, was taken, and nothing came after it."""
        if not self.keeps_alive or not self.is_complete or self.is_sending or self._pieces:
            return False
        transport = self.transport  # as ``is_open``, without a further call on every request's way
        return transport is not None and not transport.is_closing()

    def send(self, data: bytes) -> None:
        """Write without waiting. Raises: ForwardFailed when the connection is closed."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise self.failure or ForwardFailed(Reason.UPSTREAM_CLOSED, CLOSED, is_untouched=True)
        transport.write(data)

    def send_soon(self, data: bytes) -> None:
        """Write a whole request by the end of the loop's turn. Raises: as ``send``."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise self.failure or ForwardFailed(Reason.UPSTREAM_CLOSED, CLOSED, is_untouched=True)
        self._keeper.outbox.write(transport, data)

    def forget_consumer(self) -> None:
        """Nobody waits any more."""
        self._consumer = None

    async def drain(self) -> None:
        """Wait until the upstream has read enough for more to be sent. Raises: ForwardFailed."""
        while self._is_writing_paused:
            waiter = self._drain_waiter = self._loop.create_future()
            self.deadline = min(self._loop.time() + self.idle_s, self.total_until)
            try:
                await waiter
            finally:
                self._drain_waiter = None
                self.deadline = self.total_until
        if self.failure is not None:
            raise self.failure

    async def answer_head(self, first_byte_s: float) -> None:
        """Wait for status and fields. Raises: ForwardFailed, or what ``fail`` was given."""
        while not self.has_head:
            if self.failure is not None:
                raise self.failure
            await self._wait(first_byte_s)

    async def read(self) -> bytes:
        """Next piece of the body, everything that has come; ``b""`` at its end. Raises as ``answer_head``."""
        while not self._pieces:
            if self.is_complete:
                return b""
            if self.failure is not None:
                raise self.failure
            await self._wait(self.idle_s)
        return self.take()

    def take(self) -> bytes:
        """What has come of the body, perhaps nothing; never waits."""
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = []
        self._pieces_bytes = 0
        if self._is_reading_paused:
            self._is_reading_paused = False
            if self.transport is not None:
                self.transport.resume_reading()
        return data

    async def _wait(self, patience_s: float) -> None:
        waiter = self._body_waiter = self._loop.create_future()
        if not self.is_sending:
            self.deadline = min(self._loop.time() + patience_s, self.total_until)
        try:
            await waiter
        finally:
            self._body_waiter = None
            self.deadline = self.total_until

    def fail(self, failure: Exception) -> None:
        """
        The request cannot go on, for ``failure``; whoever waits gets it raised. After the whole answer: no
        effect.
        """
        if self.failure is None and not self.is_complete:
            self.failure = failure
        self.abort()
        self._wake()
        self._wake_writer()

    def time_out(self) -> None:
        """The deadline has passed (called by the sweep)."""
        self.deadline = inf
        self.fail(ForwardFailed(Reason.UPSTREAM_TIMEOUT, ANSWER_TIMEOUT))

    def abort(self) -> None:
        """Close at once; nothing that is still unsent will be sent. Idempotent."""
        self.keeps_alive = False
        if self.transport is not None:
            self.transport.abort()

    def end(self) -> None:
        """End a tunnel: what was written goes out first, within ``LINGER_S``. Idempotent."""
        self.is_complete = True
        self.keeps_alive = False
        if self.is_open and self.transport is not None:
            self.transport.close()
            self._loop.call_later(LINGER_S, self.abort)
        self._wake()

    def sent(self, first_byte_s: float) -> None:
        """The pump is done: from now on the upstream's silence is its own."""
        self.is_sending = False
        if self._body_waiter is not None:
            patience_s = self.idle_s if self.has_head else first_byte_s
            self.deadline = min(self._loop.time() + patience_s, self.total_until)

    def touch(self) -> None:
        """Something moved in the other direction of a tunnel."""
        self.deadline = min(self._loop.time() + self.idle_s, self.total_until)

    def _wake(self) -> None:
        consumer = self._consumer
        if consumer is not None and (self.has_head or self.failure is not None):
            self._consumer = None
            self.deadline = self.total_until
            consumer.arrived()
            return
        # A future that is done was cancelled with its client, a loop turn before its owner's ``finally`` gets to run.
        waiter = self._body_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _wake_writer(self) -> None:
        self._is_writing_paused = False
        waiter = self._drain_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.on_resume_writing is not None:
            self.on_resume_writing()

    # -- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)

    def data_received(self, data: bytes) -> None:
        if not self.is_taken or self.is_complete:
            # Nobody asked: an answer to no request, which would be given to the next one.
            self.abort()
            return
        if self.has_head and self.status == 101:
            self.on_body(data)
            self._wake()
            return
        self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self.on_body(data[upgrade.args[0] :])
        except HttpParserError:
            if not self.is_complete:
                self.fail(ForwardFailed(Reason.UPSTREAM_GARBLED, GARBLED))
                return
            self.abort()
        if self._framing_bytes > HEAD_LIMIT_BYTES and self.is_framing_too_long:
            self.fail(ForwardFailed(Reason.UPSTREAM_GARBLED, GARBLED))
            return
        self._wake()

    def hold_reading(self) -> None:
        if not self._is_reading_paused and self.transport is not None:
            self._is_reading_paused = True
            self.transport.pause_reading()

    def eof_received(self) -> None:
        if self.is_taken and self.has_head and not self.is_complete and (self._to_eof or self.status == 101):
            self.is_complete = True
            self.keeps_alive = False
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self.transport = None
        self._parser = None
        if self.is_taken and not self.is_complete and self.failure is None:
            is_untouched = not self.has_head and self._framing_bytes == 0
            self.failure = ForwardFailed(Reason.UPSTREAM_CLOSED, CLOSED, is_untouched=is_untouched)
        self._wake()
        self._wake_writer()
        self.on_resume_writing = None
        self._keeper.lost(self)

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._wake_writer()

    @property
    def is_writing_paused(self) -> bool:
        return self._is_writing_paused
