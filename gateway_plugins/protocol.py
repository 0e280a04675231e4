"""
Kong's ``MsgPack:1``: messages in, replies out, in the order in which they were asked.

A request is ``[0, message id, method, [argument]]``, a reply ``[1, message id, error or nil, result]``. Kong has one
request outstanding on a connection and takes any connection for any message; that it never pipelines is not relied on.
What stands in a message stays bytes: a field that a client has sent need not be UTF-8. A message of the usual size is
read and answered within one callback: no task, no queue, no buffer.

Nothing here trusts the other side with memory: a message, the arrays in it, what waits to be read and what waits to be
written are bounded, and what is no message closes the connection. It refuses to know what is called.

Source: runloop/plugin_servers/rpc/mp_rpc.lua of Kong 3.9; the MessagePack specification.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from msgpack import OutOfData, Packer, Unpacker, unpackb

from authproxy.audit import get_logger
from gateway_plugins.kong_log import Throttle

MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""Facts are some KiB; a plugin that asks for a request's body gets it in one message."""
MAX_ITEMS: Final = 1024
"""Of one array or map; Kong's PDK hands out at most 1000 headers or arguments. An array's place is taken at once."""
SILENT_S: Final = 30.0
"""How long a message may be half-sent, and a reply half-read."""
_READ_AHEAD_BYTES: Final = 64 * 1024
"""Kept unread of what is sent while an answer is waited for."""
_WRITE_AHEAD_BYTES: Final = 256 * 1024
"""Beyond it nothing more is answered until it has been read; one reply, however long, is always taken."""

_packer: Final = Packer(unicode_errors="surrogateescape")
"""One for all: ``packb`` would make one, with its buffer, for each reply. One thread only."""
pack: Final[Callable[[Any], bytes]] = _packer.pack


class Waiting(Protocol):
    """What a connection waits for before it reads on."""

    def lost(self) -> None:
        """The connection is gone: nobody will read the answer."""


class Service(Protocol):
    """What stands behind a socket."""

    def call(self, method: bytes, argument: Any, message_id: int, connection: KongConnection) -> bytes | None:
        """The reply, or None: ``connection.waiting`` is set, and the reply comes by ``connection.answer``."""


def error_reply(message_id: int, text: str) -> bytes:
    """
    Kong logs ``text`` and goes on as if the plugin were not there.

    ``no plugin instance`` in it makes Kong start all instances of the plugin anew and ask once more.
    """
    return pack((1, message_id, text, None))


def result_reply(message_id: int, result: Any) -> bytes:
    """Raises: TypeError, ValueError, OverflowError when the result cannot be packed."""
    return pack((1, message_id, None, result))


class Connections:
    """
    All connections of the process, for their bounds.

    Args:
        at_most: beyond it a new one is closed at once.
        silent_s: how long a message may be half-sent, or a reply half-read.
    """

    def __init__(self, at_most: int = 4096, silent_s: float = SILENT_S) -> None:
        self._at_most = at_most
        self._silent_s = silent_s
        self._open: set[KongConnection] = set()
        self._log = get_logger("kong")
        self._refused = Throttle(1)
        self._broken = Throttle(1)

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: KongConnection) -> bool:
        """Whether there is room for it; if not, one line a second says so."""
        if len(self._open) < self._at_most:
            self._open.add(connection)
            return True
        if self._refused.admits():
            self._log.error("too-many-connections", at_most=self._at_most, left_out=self._refused.taken())
        return False

    def forget(self, connection: KongConnection) -> None:
        self._open.discard(connection)

    def tell(self, why: str) -> None:
        """A connection was closed for what it sent; one line a second."""
        if self._broken.admits():
            self._log.error("connection-closed", why=why, left_out=self._broken.taken())

    def sweep(self, now: float) -> None:
        """Close what has been stuck for too long. ``now``: of ``time.monotonic``."""
        for connection in list(self._open):
            if connection.stuck_since <= now - self._silent_s:
                connection.abort("a message was half-sent or half-read for too long")

    def close(self) -> None:
        """Close all; what is written already is still sent, if it is read at once."""
        for connection in list(self._open):
            connection.close()

    def abort(self) -> None:
        for connection in list(self._open):
            connection.abort(None)


class KongConnection(asyncio.Protocol):
    """One connection of a Kong worker."""

    __slots__ = (
        "_connections",
        "_fed",
        "_is_unread",
        "_service",
        "_size",
        "_transport",
        "_unpacker",
        "stuck_since",
        "waiting",
    )

    def __init__(self, service: Service, connections: Connections) -> None:
        self._service = service
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._unpacker: Unpacker | None = None
        """Only while there is something that was not answered when it came."""
        self._fed = 0
        """Bytes given to the unpacker in its life."""
        self._size = 0
        """Of them, what belongs to no message yet that was answered."""
        self._is_unread = False
        self.waiting: Waiting | None = None
        """Set: nothing is answered until it has been."""
        self.stuck_since = float("inf")

    # -- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        if not self._connections.admit(self):
            transport.abort()
            return
        transport.set_write_buffer_limits(_WRITE_AHEAD_BYTES)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._unpacker is None and self.waiting is None and not self._is_unread:
            try:
                message = unpackb(data, raw=True, strict_map_key=False, max_array_len=MAX_ITEMS, max_map_len=MAX_ITEMS)
            except Exception:  # noqa: BLE001 (incomplete, several, or nonsense of any kind: the unpacker tells them apart)
                self._keep(data)
            else:
                self._take(message)
        else:
            self._keep(data)

    def pause_writing(self) -> None:
        self._is_unread = True
        self._mark()

    def resume_writing(self) -> None:
        self._is_unread = False
        self.stuck_since = float("inf")
        self._drain()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (however it ended, nobody reads on)
        self._connections.forget(self)
        self._transport = None
        self._unpacker = None
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.lost()

    # -- answers -----------------------------------------------------------------------------------------------------

    def answer(self, reply: bytes) -> None:
        """What ``waiting`` stood for is answered; go on with what came meanwhile."""
        self.waiting = None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(reply)
            self._drain()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self, why: str | None) -> None:
        """Close without another byte; ``why`` goes to the log."""
        transport, self._transport = self._transport, None
        self._unpacker = None
        self.stuck_since = float("inf")
        if transport is not None:
            if why is not None:
                self._connections.tell(why)
            transport.abort()

    # -- messages ----------------------------------------------------------------------------------------------------

    def _keep(self, data: bytes) -> None:
        if self._transport is None:
            return
        if self._unpacker is None:
            self._unpacker = Unpacker(
                raw=True,
                strict_map_key=False,
                read_size=4096,
                max_buffer_size=MAX_MESSAGE_BYTES,
                max_array_len=MAX_ITEMS,
                max_map_len=MAX_ITEMS,
            )
            self._fed = self._size = 0
        self._fed += len(data)
        self._size += len(data)
        if self._size > MAX_MESSAGE_BYTES:
            self.abort("a message is too long")
            return
        self._unpacker.feed(data)
        self._drain()

    def _drain(self) -> None:
        """Answer what has come, as far as it is whole and its turn has come."""
        while self.waiting is None and not self._is_unread and (unpacker := self._unpacker) is not None:
            try:
                message = unpacker.unpack()
            except OutOfData:
                break
            except Exception:  # noqa: BLE001 (what is no MessagePack fails in as many ways as there are types in it)
                self.abort("not MessagePack, or an array too long")
                return
            self.stuck_since = float("inf")
            self._size = self._fed - unpacker.tell()
            if not self._size:
                self._unpacker = None
            self._take(message)
        self._mark()

    def _mark(self) -> None:
        """Read on or not, and since when it is the other side that keeps the connection stuck."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        is_held = self.waiting is not None or self._is_unread
        if is_held and (self._is_unread or self._size > _READ_AHEAD_BYTES):
            transport.pause_reading()
        else:
            transport.resume_reading()
        if self._is_unread or (self._unpacker is not None and self.waiting is None):
            self.stuck_since = min(self.stuck_since, time.monotonic())
        else:
            self.stuck_since = float("inf")

    def _take(self, message: Any) -> None:
        try:
            kind, message_id, method, arguments = message
        except (TypeError, ValueError):
            self.abort("not a request")
            return
        if kind != 0 or type(message_id) is not int or type(method) is not bytes or type(arguments) is not list:
            self.abort("not a request")
            return
        reply = self._service.call(method, arguments[0] if arguments else None, message_id, self)
        if reply is not None and self._transport is not None:
            self._transport.write(reply)
