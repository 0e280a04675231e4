"""Callers on plain sockets, cheap enough that thousands of them fit beside what is measured."""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple, cast

ASKED = 200
"""Of the answers, the only status that is one of the function's."""


class Answer(NamedTuple):
    status: int
    reason: str
    """Portero's, of a refusal."""


class Connection(asyncio.Protocol):
    """One request at a time; answers with a ``Content-Length`` only, which all here have."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_open = True
        self._seen = b""
        self._answer: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its class

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed without an answer"))

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, mark, body = self._seen.partition(b"\r\n\r\n")
        if not mark:
            return
        fields = head.lower()
        if len(body) < int(_value(fields, b"content-length") or b"0"):
            return
        self._seen = b""
        if _value(fields, b"connection") == b"close":
            self.close()
        if self._answer is not None and not self._answer.done():
            reason = _value(fields, b"x-portero-reason").decode("ascii")
            self._answer.set_result(Answer(int(head[9:12]), reason))

    async def send(self, data: bytes) -> Answer:
        """Raises: ConnectionError."""
        if self.transport is None or not self.is_open:
            raise ConnectionResetError("closed")
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return await self._answer

    def close(self) -> None:
        self.is_open = False
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        self.is_open = False
        if self.transport is not None:
            self.transport.abort()


async def connect(address: tuple[str, int], source: str | None = None) -> Connection:
    local = None if source is None else (source, 0)
    _, connection = await asyncio.get_running_loop().create_connection(Connection, *address, local_addr=local)
    return connection


class Caller:
    """
    Who has an address of his own, and as many connections as he has requests under way.

    Args:
        source: of his connections, by which Portero tells callers without a token apart; None: the usual one.
    """

    def __init__(self, address: tuple[str, int], source: str | None = None) -> None:
        self._address = address
        self._source = source
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()

    async def send(self, data: bytes) -> Answer:
        """Raises: ConnectionError. Cancelling it closes the connection."""
        while self._idle and not self._idle[-1].is_open:
            self._all.discard(self._idle.pop())
        connection = self._idle.pop() if self._idle else await connect(self._address, self._source)
        self._all.add(connection)
        try:
            answer = await connection.send(data)
        except BaseException:
            self._all.discard(connection)
            connection.abort()
            raise
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        for connection in self._all:
            connection.abort()
        self._all.clear()
        self._idle.clear()


async def stop(*tasks: asyncio.Task[None]) -> None:
    """Cancel, and wait until they have ended. Raises: what one of them had failed with before."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _value(fields: bytes, name: bytes) -> bytes:
    """Of a field in a head in lower case; empty without it."""
    return fields.partition(b"\r\n" + name + b": ")[2].partition(b"\r\n")[0]
