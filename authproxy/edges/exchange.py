"""
The public side's ``Exchange``: one request read from, and its answer written to, one client connection.

It decides the framing of answers towards clients (RFC 9112 sections 6, 7 and 9) and whether the connection outlives
them. Answers are blocks of bytes written once: building aiohttp's response objects for them costs 20-30 us a request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from authproxy.upstream.exchange import BodyMalformed, BodyStalled, ClientGone
from authproxy.upstream.framing import CONTINUE, LAST_CHUNK, STATUS_LINES, chunk
from authproxy.upstream.held_body import HeldBody

if TYPE_CHECKING:
    from authproxy.edges.protocol import ClientConnection
    from authproxy.gate.verdict import Passed, Undecided, Verdict
    from authproxy.upstream.connection import Connection
    from policies.request import Head

_BODYLESS = frozenset({204, 304})
_CLOSE = b"connection: close\r\n"
_KEEP_ALIVE = b"connection: keep-alive\r\n"


class PublicExchange:
    """See ``authproxy.upstream.exchange.Exchange``. Made by ``ClientConnection``, one a request."""

    # No __slots__ on purpose: defaults stay in the class and only what a request touches is set (0.5 us a request).
    has_started = False
    status = 0
    bytes_in = 0
    bytes_out = 0
    keeps_alive = False
    """The answer is whole and the connection may carry another request."""
    may_keep_alive = True
    """False: what follows this request on its connection is not to be read as another one."""
    is_over = False
    is_gone = False
    """The connection was lost."""
    verdict: Verdict | Undecided | None = None
    passed: Passed | None = None
    """Set while the request is on its way: ``finish`` is owed to the gate."""
    upstream: Connection | None = None
    """Set while the request is on its way without a task."""
    has_task = False
    """The connection's task serves it."""
    is_held = False
    """It waits for its function, or for whoever is asked about it: nobody may be reading, but its client is watched."""
    is_drained = False
    """The process stops: it is refused, not for anything of its own."""
    sent_body: bytes | None = None
    may_rewind = True
    _held: HeldBody | None = None
    _is_chunked = False
    _has_continued = False

    def __init__(self, connection: ClientConnection, head: Head, message: Any, payload: Any) -> None:
        self._connection = connection
        self.head = head
        self._message = message
        self.payload = payload

    # -- the request's body ----------------------------------------------------------------------------------------

    @property
    def has_whole_body(self) -> bool:
        held = self._held
        if held is not None and held.size:
            return held.is_in_memory
        return bool(self.payload.is_eof()) or self.payload.exception() is not None

    def whole_body(self) -> bytes | None:
        held = self._held
        if held is not None and held.size:
            return held.whole()
        body = self.take_whole()
        if body:
            self.may_rewind = False
        return body

    async def read(self) -> bytes:
        held = self._held
        if held is not None:
            if not held.has_given_all:
                return await held.read()
            if held.is_whole:
                return b""
        data = await self.read_on(is_patient=False)
        if data:
            self.may_rewind = False
        return data

    def rewind(self) -> None:
        if self._held is not None:
            self._held.rewind()

    # -- the same while the request is held ------------------------------------------------------------------------

    def holdable_body(self, max_bytes: int | None, content_length: int | None) -> HeldBody | None:
        """The body, to be read while its request is held; None: it has none. ``close_body`` is owed."""
        if self._held is None and not self.payload.at_eof():
            self._held = HeldBody(self, self._connection.spool, max_bytes, content_length)
        return self._held

    def hand_over_body(self) -> None:
        """The held body, which is whole, outlives the exchange: whoever has it closes it."""
        held, self._held = self._held, None
        if held is not None:
            held.leave_source()

    def close_body(self) -> None:
        """The exchange is over. Idempotent."""
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def take_whole(self) -> bytes | None:
        """See ``BodySource``."""
        payload = self.payload
        if payload.exception() is not None:
            raise BodyMalformed
        if not payload.is_eof():
            return None
        body: bytes = payload.read_nowait()
        self.bytes_in += len(body)
        return body

    async def read_on(self, *, is_patient: bool) -> bytes:
        """See ``BodySource``."""
        connection = self._connection
        if not is_patient:
            connection.expect_body()
        try:
            data: bytes = await self.payload.readany()
        except (BodyMalformed, BodyStalled) as broken:
            broken.__traceback__ = None  # the payload keeps it, and would keep these frames, which know the payload
            raise type(broken) from None
        except Exception as error:  # whatever else aiohttp raises here means that the connection is gone
            raise ClientGone from error
        finally:
            connection.read_stalls_at = None
        self.bytes_in += len(data)
        return data

    @property
    def awaits_continue(self) -> bool:
        return not (
            self.has_started or self._has_continued or self._message.version < (1, 1) or self.payload.total_bytes
        ) and (self._message.headers.get("expect", "").lower() == "100-continue")

    async def send_continue(self) -> None:
        if self.awaits_continue:
            self._has_continued = True
            self._write(CONTINUE)

    # -- the answer --------------------------------------------------------------------------------------------------

    def answer(self, status: int, block: bytes, body: bytes, content_length: int | None) -> None:
        if status in _BODYLESS or self._message.method == "HEAD":
            body = b""
            framing = b"" if content_length is None or status == 204 else b"content-length: %d\r\n" % content_length
        else:
            framing = b"content-length: %d\r\n" % len(body)
        persistence = self._persistence()
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            raise ClientGone
        self.has_started = self.is_over = True
        self.status = status
        self.bytes_out = len(body)
        self._connection.outbox.write(
            transport, b"".join((STATUS_LINES[status], block, framing, persistence, b"\r\n", body))
        )

    def start(self, status: int, block: bytes, content_length: int | None, first: bytes = b"") -> None:
        persistence = self._persistence()
        framing = b""
        self.bytes_out += len(first)
        if content_length is not None:
            framing = b"content-length: %d\r\n" % content_length
        elif self._message.version >= (1, 1):
            self._is_chunked = True
            framing = b"transfer-encoding: chunked\r\n"
            first = chunk(first) if first else first
        else:
            self.keeps_alive = False
            persistence = _CLOSE
        self._begin(status)
        self._write(b"%b%b%b%b\r\n%b" % (STATUS_LINES[status], block, framing, persistence, first))

    async def write(self, data: bytes) -> None:
        self._write(chunk(data) if self._is_chunked else data)
        self.bytes_out += len(data)
        if self._connection.writing_paused:
            await self._connection.drain()

    def finish(self) -> None:
        if self._is_chunked:
            self._write(LAST_CHUNK)
        self.is_over = True

    def abort(self) -> None:
        self.keeps_alive = False
        self._connection.abort()

    def cut(self, _code: int) -> None:
        """See ``LiveExchange.on_cut``: an answer that may not go on is not completed."""
        self.abort()

    def refuse(self, status: int, fields: Iterable[tuple[str, str]], body: bytes) -> None:
        """Answer by ourselves. Does nothing for a client that has gone."""
        try:
            self.answer(status, field_lines(fields), body, len(body))
        except ClientGone:
            self.keeps_alive = False

    def _begin(self, status: int) -> None:
        self.has_started = True
        self.status = status

    def _persistence(self) -> bytes:
        """Decide whether the connection outlives this answer, and say so."""
        message = self._message
        # An unread body is not skipped: the next request would wait behind it, or be read out of it.
        self.keeps_alive = not (
            message.should_close
            or message.upgrade
            or self._connection.is_draining
            or not self.may_keep_alive
            or not self.payload.is_eof()
        )
        if not self.keeps_alive:
            return _CLOSE
        return b"" if message.version >= (1, 1) else _KEEP_ALIVE

    def _write(self, data: bytes) -> None:
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            raise ClientGone
        self._connection.outbox.flush()
        transport.write(data)

    # -- tunnels -----------------------------------------------------------------------------------------------------

    @property
    def may_tunnel(self) -> bool:
        """The server has set the bytes behind this request aside, as an upgrade needs it."""
        return self._connection.is_upgrading

    def start_tunnel(self, block: bytes, sink: Callable[[bytes], None]) -> None:
        self._begin(101)
        self._write(b"%b%b\r\n" % (STATUS_LINES[101], block))
        self._connection.start_tunnel(sink)

    def write_now(self, data: bytes) -> None:
        try:
            self._write(data)
        except ClientGone:
            return

    def pause_reading(self) -> None:
        self._connection.pause_reading()

    def resume_reading(self) -> None:
        if self._connection.transport is not None:
            self._connection.resume_reading()


def field_lines(fields: Iterable[tuple[str, str]]) -> bytes:
    """``fields`` as an answer's block has them."""
    return "".join([f"{name}: {value}\r\n" for name, value in fields]).encode("latin-1", "replace")
