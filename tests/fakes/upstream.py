"""An upstream that does exactly what a test tells it, byte by byte: functions that lie, dawdle and break off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self

from authproxy.upstream.departure import Address


class Peer:
    """One connection as the upstream sees it. Each request read is kept in ``ScriptedUpstream.heads``."""

    def __init__(self, owner: ScriptedUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._owner = owner
        self.reader = reader
        self.writer = writer
        self.number = len(owner.peers) + 1
        """1 for the first connection."""
        self.saw_end = asyncio.Event()

    async def head(self) -> bytes:
        """The next request's head, its blank line included. Raises: IncompleteReadError at the end."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        self._owner.heads.append(head)
        return head

    async def body(self, head: bytes) -> bytes:
        """The body that ``head`` announces, without framing."""
        lowered = head.lower()
        if b"transfer-encoding: chunked" in lowered:
            return b"".join([piece async for piece in self.chunks()])
        _, found, rest = lowered.partition(b"content-length: ")
        return await self.reader.readexactly(int(rest.partition(b"\r\n")[0])) if found else b""

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = await self.reader.readexactly(size + 2)
            if not size:
                return
            yield data[:-2]

    async def request(self) -> tuple[bytes, bytes]:
        head = await self.head()
        return head, await self.body(head)

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            if self.writer.is_closing():  # uvloop knows no ConnectionError for it
                raise ConnectionResetError
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self, body: bytes = b"ok", status: bytes = b"200 OK", fields: bytes = b"") -> None:
        await self.send(b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, fields, len(body), body))

    async def until_end(self) -> bytes:
        """Everything up to the other side's close."""
        try:
            rest = await self.reader.read()
        except ConnectionError:
            rest = b""
        self.saw_end.set()
        return rest

    def reset(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


async def answer_ok(peer: Peer) -> None:
    """Keeps alive and answers everything with 200 ``ok``."""
    while True:
        await peer.request()
        await peer.answer()


class ScriptedUpstream:
    """``async with ScriptedUpstream(script) as upstream``: runs ``script`` for each connection."""

    def __init__(self, script: Script = answer_ok) -> None:
        self.script = script
        self.heads: list[bytes] = []
        self.peers: list[Peer] = []
        self.errors: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.address = Address("127.0.0.1", 0)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = Address("127.0.0.1", self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if error is None and self.errors:
            raise self.errors[0]

    @property
    def connections(self) -> int:
        """Connections accepted so far."""
        return len(self.peers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(self, reader, writer)
        self.peers.append(peer)
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        try:
            await self.script(peer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            peer.saw_end.set()
        except BaseException as failure:  # noqa: BLE001  # shown by __aexit__: a script's assertion is the test's
            self.errors.append(failure)
        finally:
            writer.transport.abort() if peer.saw_end.is_set() else writer.close()
            if task is not None:
                self._tasks.discard(task)
