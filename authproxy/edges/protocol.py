"""
One client connection: aiohttp's server protocol with a request loop of our own.

aiohttp brings what is hard and well kept: the hardened parser, the queue of pipelined requests, flow control. Its own
loop (``RequestHandler.start``) is replaced, for three reasons: each 400 of it echoes the offending bytes to the client
(AP-R52);
it runs every request in a further task (10 us); and a body that breaks its framing leaves the handler waiting for ever.
What is used of ``RequestHandler`` beyond its public names is listed in ``_USED`` and checked at import, because a
release of aiohttp may change it.

It decides when a client has been silent for too long and when a head is too large to go on reading. It refuses to
know what a request says.

Longer than other modules: it is one protocol object, and its states (reading, serving, lingering) are read together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

from authproxy.edges.exchange import PublicExchange
from authproxy.upstream.exchange import BodyMalformed, BodyStalled, ClientGone
from authproxy.upstream.spool import Spool
from policies.decision import Reason
from policies.request import Head, HeadMemo

if TYPE_CHECKING:
    from authproxy.edges.public import PublicEdge

HEAD_LIMIT_BYTES: Final = 64 * 1024
"""An unfinished head; policies' own limits (``read_head``) are smaller and judge a finished one."""
CHUNKING_SLACK_BYTES: Final = 16 * 1024
CHUNKING_RATIO: Final = 16
"""Bytes on the wire for one byte of body, beyond the slack: chunks of one byte need six, extensions are of no use."""
LINGER_S: Final = 3.0
"""How long a client that is still sending may go on after its answer: closing at once would reset the connection, and
the reset may reach the client before the answer does (RFC 9112 section 9.6)."""
BEHIND_BYTES: Final = 64 * 1024
"""What a client may send behind a request that waits, before it is read no further: pipelined requests (32 at most), or
what it takes for a websocket that nobody has granted yet (RFC 6455 section 4.1 bids it wait)."""
_REPEAT_BYTES: Final = 4 * 1024
"""A longer request is parsed each time."""
_NO_HEAD: Final = Head("", b"", (), (1, 1), "", "http")
_TOO_MANY_FIELDS: Final = "Too many headers received"

_USED: Final = frozenset(
    [
        "_buffer_paused",
        "_close",
        "_drain_helper",
        "_force_close",
        "_loop",
        "_max_msg_queue_size",
        "_message_tail",
        "_messages",
        "_msg_queue_resume_size",
        "_parser",
        "_pause_reading_for_buffer",
        "_paused",
        "_reading_paused",
        "_resume_reading_if_drained",
        "_task_handler",
        "_upgraded",
    ]
)


class Unreadable:
    """Stands in the queue of requests for a head that could not be read."""

    __slots__ = ("reason",)

    def __init__(self, reason: Reason) -> None:
        self.reason = reason


class _TunnelFeed:
    """What aiohttp calls a payload parser: takes each byte behind an upgrade."""

    __slots__ = ("_sink",)

    def __init__(self, sink: Callable[[bytes], None]) -> None:
        self._sink = sink

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._sink(data)
        return False, b""

    def feed_eof(self) -> None:
        return


class ClientConnection(RequestHandler):
    """One client. Its task runs ``start``: read a head, have it answered, again."""

    __slots__ = (
        "_behind_bytes",
        "_body_bytes",
        "_delivery",
        "_edge",
        "_exchange",
        "_garbage",
        "_head_bytes",
        "_is_between",
        "_last",
        "_last_data",
        "_parked",
        "certificate",
        "is_draining",
        "memo",
        "outbox",
        "peer",
        "read_stalls_at",
        "scheme",
        "server_name",
        "write_stalls_at",
    )

    def __init__(self, edge: PublicEdge, manager: web.Server, loop: asyncio.AbstractEventLoop, **limits: Any) -> None:
        super().__init__(manager, loop=loop, **limits)
        self._edge = edge
        self._delivery = edge.delivery
        self.outbox = edge.outbox
        self._exchange: PublicExchange | None = None
        self._head_bytes = 0
        self._body_bytes = 0
        """Bytes that came while a body was unfinished, framing included."""
        self._behind_bytes = 0
        """Bytes that came with requests that wait behind another one."""
        self._is_between = True
        """The parser stands between two requests: the next byte is a request's first."""
        self._last_data = b""
        """The last request without a body, whole as it came; the same bytes between two requests are the same request
        again, so that a client that repeats itself (polling, health checks) is parsed once (3 us). Like ``memo`` it
        keeps what the client has sent no longer than the connection."""
        self._last: tuple[Head, Any] = (_NO_HEAD, None)
        self._garbage = False
        self._parked: asyncio.Future[None] | None = None
        """What the task waits for while it has nothing to do. aiohttp's own ``_waiter`` stays None: it would wake the
        task for each request."""
        self.is_draining = False
        self.memo = HeadMemo()
        self.peer = ""
        self.scheme = "http"
        self.server_name: str | None = None
        self.certificate: bytes | None = None
        """SHA-256 of the certificate that the client has shown in the handshake."""
        self.read_stalls_at: float | None = None
        """Event loop time after which the client has been silent for too long; None: it owes nothing."""
        self.write_stalls_at: float | None = None
        """The same for a client that does not read."""

    # -- the connection --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peername = transport.get_extra_info("peername")
        if peername:
            self.peer = peername[0].partition("%")[0]
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.scheme = "https"
            self.server_name = getattr(tls, "portero_server_name", None)
            shown = tls.getpeercert(binary_form=True)
            self.certificate = sha256(shown).digest() if shown else None
        super().connection_made(transport)
        self._edge.entered(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._edge.left(self)
        exchange = self._exchange
        if exchange is not None:
            exchange.is_gone = True
            self._delivery.gone(exchange)
        # No cycle may be left: until the collector came, all that was held for those who left would fill the memory.
        self._exchange = None
        self._messages.clear()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close at once. Idempotent."""
        self._force_close = True
        self.outbox.flush()  # the answer to an earlier request of this connection is whole and may still wait
        if self.transport is not None:
            self.transport.abort()

    def drain_and_close(self) -> None:
        """Take no further request; what runs may finish."""
        self.is_draining = True
        self.outbox.flush()
        if self._exchange is None and not self._messages and not self._head_bytes:
            self.force_close()

    def refuse_draining(self) -> bool:
        """There is no time left: what has not been answered yet is refused. Whether there was such a request."""
        exchange = self._exchange
        if exchange is None or exchange.is_over or exchange.has_started:
            return False
        self._delivery.refuse_draining(exchange)
        if not exchange.has_task:
            self._wake()
        elif self._task_handler is not None:
            self._task_handler.cancel()
        return True

    @property
    def spool(self) -> Spool:
        """Where held bodies go that are large."""
        return self._edge.spool

    @property
    def descriptor(self) -> int:
        """Of its socket; -1: it has none any more."""
        wire = None if self.transport is None else self.transport.get_extra_info("socket")
        return -1 if wire is None else int(wire.fileno())

    @property
    def is_unheard(self) -> bool:
        """Its request waits and nothing is read meanwhile: that the client leaves would not be noticed."""
        exchange = self._exchange
        return exchange is not None and exchange.is_held and (self._reading_paused or self._buffer_paused)

    async def drain(self) -> None:
        """Wait until the client has read enough for more to be written. Raises: ClientGone."""
        self.write_stalls_at = self._loop.time() + self._edge.write_timeout_s
        try:
            await self._drain_helper()
        except ConnectionError as error:
            raise ClientGone from error
        finally:
            self.write_stalls_at = None

    def expect_body(self) -> None:
        """The client owes a piece of its body from now on."""
        self.read_stalls_at = self._loop.time() + self._edge.body_timeout_s

    def stalled(self, now: float) -> None:
        """Called by the edge's sweep: has the client been silent for too long?"""
        if self.write_stalls_at is not None and self.write_stalls_at < now:
            self.abort()
        elif self.read_stalls_at is not None and self.read_stalls_at < now:
            self.read_stalls_at = None
            if self._exchange is not None and not self._exchange.is_over:
                self._exchange.payload.set_exception(BodyStalled())
            elif self._head_bytes and self._exchange is None and not self._garbage:
                self._queue(Unreadable(Reason.REQUEST_TIMEOUT))
            else:
                self.abort()

    # -- reading -----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._exchange is None and not self._messages and self._parked is not None and not self._close:
            self._head_received(data)
            return
        messages: Any = self._messages
        before = len(messages)
        self._is_between = False
        body = self._unfinished_body()
        super().data_received(data)
        if len(messages) != before:
            self._head_bytes = self._body_bytes = 0
            last = messages[-1][0]
            if type(last) is not RawRequestMessage:
                self._stop_reading(last.exc)
            if self._exchange is None and messages:
                self._serve_waiting()
            elif messages:
                self._grow_behind(len(data))
        elif body is None:
            self._grow_head(len(data))
        else:
            self._grow_body(body, len(data))

    def _unfinished_body(self) -> Any:
        """The body that the next bytes belong to: of the request that came last, which may still wait its turn."""
        messages: Any = self._messages
        exchange = self._exchange
        body = messages[-1][1] if messages else None if exchange is None else exchange.payload
        return None if body is None or body.is_eof() else body

    def _grow_behind(self, size: int) -> None:
        """More requests behind one that is not over: their number is bounded by aiohttp, their size in here."""
        self._behind_bytes += size
        if self._behind_bytes > BEHIND_BYTES and not self._buffer_paused:
            self._pause_reading_for_buffer()

    def _grow_body(self, body: Any, size: int) -> None:
        """More of a body: what is not body in it (chunk sizes and extensions) has a bound."""
        self._body_bytes += size
        if not body.is_eof() and self._body_bytes > CHUNKING_SLACK_BYTES + CHUNKING_RATIO * body.total_bytes:
            self._garbage = self._close = True
            body.set_exception(BodyMalformed())

    def _head_received(self, data: bytes) -> None:
        """Bytes for an idle connection, which is what most are: the same as aiohttp does, for this case alone."""
        was_between, self._is_between = self._is_between, False
        if was_between and data == self._last_data and not (self._paused or self._buffer_paused or self._force_close):
            self._is_between = True
            head, message = self._last
            self._serve(PublicExchange(self, head, message, EMPTY_PAYLOAD))
            return
        parser: Any = self._parser
        try:
            messages, self._upgraded, self._message_tail = parser.feed_data(data)
        except HttpProcessingError as error:
            self._refuse_head(error)
            return
        if not messages:
            self._grow_head(len(data))
            return
        self._head_bytes = self._body_bytes = 0
        if len(messages) == 1 and not (self._paused or self._buffer_paused or self._force_close):
            # The usual case, without a turn through the queue.
            parser.message_consumed()
            message, payload = messages[0]
            head = self._head_of(message)
            if payload is EMPTY_PAYLOAD and not message.should_close and not message.upgrade:
                # A head and nothing else that ends where the data does: the parser is where it was.
                self._is_between = data.endswith(b"\r\n\r\n")
                if was_between and self._is_between and len(data) <= _REPEAT_BYTES:
                    self._last_data, self._last = data, (head, message)
            self._serve(PublicExchange(self, head, message, payload))
            return
        self._messages.extend(messages)
        if len(messages) >= self._max_msg_queue_size:
            self._pause_reading_for_buffer()
        self._serve_waiting()

    def _grow_head(self, size: int) -> None:
        """More of a head that is not complete."""
        if not size or self._garbage:
            return
        if self._upgraded:
            if len(self._message_tail) > BEHIND_BYTES:
                self.abort()
            return
        if not self._head_bytes and self._exchange is None:
            self.read_stalls_at = self._loop.time() + self._edge.head_timeout_s
        self._head_bytes += size
        if self._head_bytes > HEAD_LIMIT_BYTES:
            self._queue(Unreadable(Reason.HEAD_TOO_LARGE))

    def _stop_reading(self, error: BaseException) -> None:
        """The parser gave up. Either a head was refused, or the body of the request before it broke its framing."""
        messages = self._messages
        messages.pop()
        unfinished = self._unfinished_body()
        if unfinished is not None:
            self._garbage = True
            unfinished.set_exception(BodyMalformed())
            return
        self._refuse_head(error)

    def _refuse_head(self, error: BaseException) -> None:
        is_large = isinstance(error, LineTooLong) or getattr(error, "message", "") == _TOO_MANY_FIELDS
        self._queue(Unreadable(Reason.HEAD_TOO_LARGE if is_large else Reason.BAD_REQUEST))

    def _queue(self, unreadable: Unreadable) -> None:
        self._garbage = True
        self._close = True  # data_received drops what still comes
        self._messages.append((unreadable, None))  # type: ignore[arg-type]  # read by our own loop only
        if self._exchange is None:
            self._wake()

    @property
    def is_upgrading(self) -> bool:
        return bool(self._upgraded)

    def start_tunnel(self, sink: Callable[[bytes], None]) -> None:
        """Hand every further byte to ``sink``, those that came already first."""
        self.set_parser(_TunnelFeed(sink))  # type: ignore[arg-type]  # duck-typed by aiohttp: feed_data and feed_eof

    # -- requests that need no task ------------------------------------------------------------------------------------

    def _serve_waiting(self) -> None:
        """Have waiting requests answered in their order for as long as nothing has to be waited for."""
        messages: Any = self._messages
        while messages and not self._force_close:
            if self._paused or type(messages[0][0]) is Unreadable or self._parked is None:
                self._wake()
                return
            if not self._serve(self._next_exchange()):
                return

    def _serve(self, exchange: PublicExchange) -> bool:
        """Whether the connection is ready for another request at once."""
        self._exchange = exchange
        self.read_stalls_at = None
        if not self._delivery.serve_now(exchange, self):
            self._wake()  # the task goes on with it
            return False
        # Not over: it is on its way, arrived() goes on.
        return exchange.is_over and self._is_ready_for_more(exchange)

    def decided(self) -> None:
        """The verdict of what waited for the limit store has come."""
        exchange = self._exchange
        if exchange is None:
            return
        if not self._delivery.deliver_now(exchange, self):
            self._wake()
        elif exchange.is_over and self._is_ready_for_more(exchange) and self._messages:
            self._serve_waiting()

    def arrived(self) -> None:
        """See ``Consumer``: an answer to what left without a task has come, at least in part."""
        exchange = self._exchange
        if exchange is None:
            return
        if not self._delivery.relay_now(exchange):
            self._wake()
        elif self._is_ready_for_more(exchange) and self._messages:
            self._serve_waiting()

    def _is_ready_for_more(self, exchange: PublicExchange) -> bool:
        if not exchange.keeps_alive:
            self._wake()  # lingering is the task's
            return False
        self._exchange = None
        self.read_stalls_at = self._loop.time() + self._patience_s
        return True

    @property
    def _patience_s(self) -> float:
        """How long the next request may take to come, of which a part may have come already."""
        return self._edge.head_timeout_s if self._head_bytes else self._edge.keepalive_s

    def _next_exchange(self) -> PublicExchange:
        message, payload = self._messages.popleft()
        if not self._messages:
            self._behind_bytes = 0
        # Its turn has come before anything else is read: reading on may bring the next ones in.
        exchange = self._exchange = PublicExchange(self, self._head_of(message), message, payload)
        self.read_stalls_at = None
        # A place in the queue of pipelined requests is free: go on parsing.
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return exchange

    def _head_of(self, message: Any) -> Head:
        """The request's head as it stood on the wire."""
        target = message.path.encode("utf-8", "surrogateescape")
        fields, version = message.raw_headers, message.version
        peer, scheme, name = self.peer, self.scheme, self.server_name
        # tuple.__new__: half the time of the NamedTuple's own.
        return tuple.__new__(Head, (message.method, target, fields, version, peer, scheme, name, self.certificate))

    def _wake(self) -> None:
        parked = self._parked
        if parked is not None:
            self._parked = None
            if not parked.done():
                parked.set_result(None)

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Do what has to be waited for, in the order of requests. Cancelled when the client goes."""
        edge = self._edge
        messages: Any = self._messages
        edge.running += 1
        try:
            while not self._force_close:
                if self._paused:
                    await self.drain()
                exchange = self._exchange
                if exchange is None:
                    if not messages:
                        if self.is_draining and not self._head_bytes:
                            break
                        await self._park()
                        continue
                    if type(messages[0][0]) is Unreadable:
                        edge.delivery.refuse_unread(self, messages[0][0].reason)
                        await self._linger(None)
                        break
                    exchange = self._exchange = self._next_exchange()
                if not exchange.is_over:
                    await edge.delivery.serve(exchange, self)
                if not exchange.keeps_alive or not exchange.is_over:
                    await self._linger(exchange)
                    break
                self._exchange = None
        except (ClientGone, ConnectionError):
            pass
        except Exception:  # contained: a defect in here ends one connection, is logged, and says nothing to the client
            edge.log.exception("a connection ended by an error")
            self.abort()
        finally:
            edge.ended()
            self.outbox.flush()
            if self.transport is not None:
                self.transport.close()

    async def _park(self) -> None:
        """Wait until there is something that has to be waited for."""
        self.read_stalls_at = self._loop.time() + self._patience_s
        self._parked = self._loop.create_future()
        try:
            await self._parked
        finally:
            self._parked = None

    async def _linger(self, exchange: PublicExchange | None) -> None:
        """Half-close, and let a client that is still sending come to its end before the connection is closed."""
        self.outbox.flush()
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        payload = None if exchange is None else exchange.payload
        if payload is not None and payload.is_eof():
            return
        self.read_stalls_at = self._loop.time() + LINGER_S
        if transport.can_write_eof():
            with suppress(OSError):  # it was reset just now, of which we are about to be told
                transport.write_eof()
        if payload is None or payload.exception() is not None:
            self._close = True
            await self._loop.create_future()  # until the client closes, which cancels, or the sweep aborts
            return
        try:
            while not payload.is_eof():
                await payload.readany()
        except (BodyMalformed, BodyStalled, RuntimeError):
            return


class ClientServer(web.Server):
    """aiohttp's low-level server, making our connections."""

    def __init__(self, edge: PublicEdge, loop: asyncio.AbstractEventLoop, **limits: Any) -> None:
        super().__init__(self._never, handler_cancellation=True, loop=loop)
        self._edge = edge
        self._limits = limits

    @staticmethod
    async def _never(_request: web.BaseRequest) -> web.StreamResponse:
        raise NotImplementedError  # our own loop has Delivery serve

    def __call__(self) -> ClientConnection:
        return ClientConnection(self._edge, self, self._loop, **self._limits)


_missing = {name for name in _USED if not hasattr(RequestHandler, name)}
if _missing:
    raise ImportError(f"this release of aiohttp is not known to Portero: RequestHandler lacks {sorted(_missing)}")
