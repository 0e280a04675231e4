"""
Websockets: the upgrade is made anew on both sides and checked, then bytes are carried both ways with back-pressure.

Frames are not looked at. Source: RFC 6455 sections 1.3, 4.2.2 and 5.5.1; RFC 9110 section 7.8.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Final

from authproxy.upstream.connection import Connection
from authproxy.upstream.exchange import Exchange
from authproxy.upstream.failures import GARBLED, ForwardFailed
from authproxy.upstream.forward import AnswerWatch, dialled, relay
from authproxy.upstream.framing import may_be_the_platforms
from authproxy.upstream.pool import Pool
from policies.decision import Reason
from policies.header_fields import filter_answer

if TYPE_CHECKING:
    from authproxy.upstream.departure import Departure

UPGRADE: Final = b"connection: Upgrade\r\nupgrade: websocket\r\n"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY: Final = re.compile(rb"\r\nsec-websocket-key:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE)
_GOING_AWAY: Final = 1001
"""Close code for an idle timeout (RFC 6455 section 7.4.1)."""


async def tunnel(passed: Departure, exchange: Exchange, pool: Pool, watch: AnswerWatch | None = None) -> None:
    """
    Ask the function for a websocket and carry it until either side ends it; any other answer is relayed as it is.

    Raises: as ``forward``.
    """
    timeouts = passed.allow.place.spec.timeouts
    connection = await dialled(passed, pool)
    try:
        connection.begin(timeouts, is_head=False, upgrades=True)
        connection.send(passed.request_block + UPGRADE + b"\r\n")
        await connection.answer_head(timeouts.first_byte_s)
        if connection.status != 101:
            connection.keeps_alive = False
            if watch is not None and may_be_the_platforms(connection.status):
                watch(connection.status, connection.fields)
            await relay(passed, exchange, connection)
            return
        block = _accepted(passed, connection)
        carrier = _Carrier(exchange, connection)
        passed.on_cut = carrier.cut
        exchange.start_tunnel(block + passed.answer_block + UPGRADE, carrier.to_upstream)
        await carrier.carry()
    finally:
        if connection.status == 101 and connection.failure is None:
            connection.end()
        pool.give_back(connection)


def _accepted(passed: Departure, connection: Connection) -> bytes:
    """The fields of a 101 that proves it understood the key. Raises: ForwardFailed."""
    filtered = filter_answer(connection.fields)
    key = _KEY.search(passed.request_block)
    proofs = [value for name, value in connection.fields if name.lower() == b"sec-websocket-accept"]
    upgrades = [value.lower() for name, value in connection.fields if name.lower() == b"upgrade"]
    if filtered is None or key is None or upgrades != [b"websocket"] or proofs != [accept_proof(key[1])]:
        raise ForwardFailed(Reason.UPSTREAM_GARBLED, GARBLED)
    return filtered.block


def accept_proof(key: bytes) -> bytes:
    """``Sec-WebSocket-Accept`` for a ``Sec-WebSocket-Key``."""
    return base64.b64encode(hashlib.sha1(key + _GUID).digest())  # noqa: S324  # the protocol's constant, not a secret


def close_frame(code: int, *, is_masked: bool) -> bytes:
    """A close frame with ``code``; what a client sends is masked, with an all-zero key where secrecy is no question."""
    if is_masked:
        return b"\x88\x82\x00\x00\x00\x00" + code.to_bytes(2, "big")
    return b"\x88\x02" + code.to_bytes(2, "big")


class _Carrier:
    """
    The two directions of one tunnel.

    When it is cut, a close frame is sent to both sides. It may fall into the middle of a frame that is being carried;
    the receiver then sees a connection that broke, as it would have anyway.
    """

    __slots__ = ("_connection", "_exchange", "_is_paused")

    def __init__(self, exchange: Exchange, connection: Connection) -> None:
        self._exchange = exchange
        self._connection = connection
        self._is_paused = False
        connection.on_resume_writing = self._resume

    async def carry(self) -> None:
        """Until the upstream ends it or a deadline passes; the client's end cancels this."""
        connection, exchange = self._connection, self._exchange
        try:
            while data := await connection.read():
                await exchange.write(data)
        except ForwardFailed as failure:
            if failure.reason is Reason.UPSTREAM_TIMEOUT:
                await exchange.write(close_frame(_GOING_AWAY, is_masked=False))
            raise
        exchange.finish()

    def to_upstream(self, data: bytes) -> None:
        connection = self._connection
        if not connection.is_open:
            return  # its end is being carried to the client just now
        connection.send(data)
        connection.touch()
        if connection.is_writing_paused and not self._is_paused:
            self._is_paused = True
            self._exchange.pause_reading()

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._exchange.resume_reading()

    def cut(self, code: int) -> None:
        """See ``LiveExchange.on_cut``."""
        self._exchange.write_now(close_frame(code, is_masked=False))
        if self._connection.is_open:
            self._connection.send(close_frame(code, is_masked=True))
        self._connection.end()
