"""
One connection to Redis: RESP 2 over an ``asyncio.Protocol``, parsed by hiredis.

Our own because limits stand on the path of every request: a batch of checks costs 10 us less of CPU than through a
client library with pools, retries and a task per command. Replies come in the order of the commands; each command
brings the function that is called with its reply. This module refuses to know what is asked, and never repeats a
command.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

OnReply = Callable[[object], None]
"""Called once: with the reply, a ``hiredis.ReplyError`` being one too, or with a ConnectionError instead of one."""

_MORE: Final = object()


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis server is and who we are there."""

    host: str
    port: int
    unix_path: str | None
    is_tls: bool
    user: str | None
    password: str | None = field(repr=False)
    database: int


def parse_redis_url(url: str) -> RedisAddress:
    """
    Read ``redis[s]://[user[:password]@]host[:port][/database]`` or ``unix://[user[:password]@]/path[?db=N]``.

    Raises: ValueError, without the password.
    """
    parts = urlsplit(url)
    is_unix = parts.scheme == "unix"
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("a Redis URL starts with redis://, rediss:// or unix://")
    if is_unix != bool(not parts.hostname) or (is_unix and not parts.path):
        raise ValueError("a Redis URL names a host, or the path of a socket after unix://")
    query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    database = query.pop("db", ["0"])[-1] if is_unix else parts.path.strip("/") or "0"
    if query:
        raise ValueError(f"a Redis URL has no parameter {', '.join(sorted(query))}")
    if not (database.isascii() and database.isdigit()):
        raise ValueError("the database of a Redis URL is a number, such as redis://host:6379/0")
    return RedisAddress(
        host=parts.hostname or "",
        port=parts.port or 6379,
        unix_path=unquote(parts.path) if is_unix else None,
        is_tls=parts.scheme == "rediss",
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password is not None else None,
        database=int(database),
    )


def pack(*words: str | int | bytes) -> bytes:
    """One command in RESP."""
    command: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub says a tuple of one word
    return command


class WireError(Exception):
    """The server refused a command of the handshake; the text is the server's."""


class Wire(asyncio.Protocol):
    """An open connection. ``on_lost`` is called once with it when it ends, unless ``close`` ended it."""

    def __init__(self, on_lost: Callable[[Wire], None]) -> None:
        self._on_lost: Callable[[Wire], None] | None = on_lost
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._waiting: deque[OnReply] = deque()
        self._transport: asyncio.Transport | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def send(self, command: bytes, on_reply: OnReply) -> None:
        """Write one packed command; its reply, and only its, goes to ``on_reply``."""
        if self._transport is None:
            return
        self._waiting.append(on_reply)
        self._transport.write(command)

    async def call(self, *words: str | int | bytes) -> object:
        """
        One command whose reply is waited for, without a bound.

        Raises: WireError for an error reply, ConnectionError when the connection is lost.
        """
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def done(reply: object) -> None:
            if not future.done():
                future.set_result(reply)

        if self._transport is None:
            raise ConnectionResetError("connection to Redis lost")
        self.send(pack(*words), done)
        reply = await future
        if isinstance(reply, hiredis.ReplyError):
            raise WireError(str(reply))
        if isinstance(reply, ConnectionError):
            raise reply
        return reply

    def close(self) -> None:
        """End the connection at once. Idempotent."""
        self._on_lost = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        waiting = self._waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _MORE:
                waiting.popleft()(reply)
        except (hiredis.ProtocolError, IndexError):  # not Redis, or a reply that nobody asked for
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        waiting, self._waiting = self._waiting, deque()
        on_lost, self._on_lost = self._on_lost, None
        for on_reply in waiting:
            on_reply(ConnectionResetError("connection to Redis lost"))
        if on_lost is not None:
            on_lost(self)


async def open_wire(address: RedisAddress, on_lost: Callable[[Wire], None]) -> Wire:
    """
    Connect, authenticate and select the database; without a bound of its own.

    Raises: OSError (ssl.SSLError is one), WireError.
    """
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context() if address.is_tls else None
    wire = Wire(on_lost)
    if address.unix_path is not None:
        await loop.create_unix_connection(lambda: wire, address.unix_path)
    else:
        await loop.create_connection(lambda: wire, address.host, address.port, ssl=context)
    try:
        if address.password is not None:
            user = (address.user,) if address.user else ()
            await wire.call("AUTH", *user, address.password)
        if address.database:
            await wire.call("SELECT", address.database)
    except BaseException:  # a cancelled or failed handshake leaves no connection behind
        wire.close()
        raise
    return wire
