"""A wire that is listened to: passes bytes on to another port and keeps every byte that came from the one side."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class Tap:
    """``async with Tap(url) as tap``: what connects to ``tap.url`` talks to ``url``."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._behind = (parts.hostname or "", parts.port or 80)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.streams: list[bytearray] = []
        """What came from the front, one entry a connection."""
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def bytes_received(self) -> int:
        return sum(map(len, self.streams))

    @property
    def wire(self) -> bytes:
        """Everything, connection after connection."""
        return b"".join(map(bytes, self.streams))

    def forget(self) -> None:
        """Forget what came so far; open connections go on."""
        for stream in self.streams:
            stream.clear()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        heard = bytearray()
        self.streams.append(heard)
        behind: asyncio.StreamWriter | None = None
        back: asyncio.Task[None] | None = None
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                behind_reader, behind = await asyncio.open_connection(*self._behind)
                back = asyncio.create_task(_copy(behind_reader, writer))
                while data := await reader.read(65536):
                    heard += data
                    behind.write(data)
                    await behind.drain()
        finally:
            for end in (writer, behind):
                if end is not None:
                    end.transport.abort()
            if back is not None:
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
            if task is not None:
                self._tasks.discard(task)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
