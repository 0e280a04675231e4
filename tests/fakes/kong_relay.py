"""Between a real Kong and Portero's plugin server: passes everything on, and writes down what was asked and called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgpack

_BEGINS: Final = "plugin.HandleEvent"
_GOES_ON: Final = "plugin.Step"


class KongRelay:
    """
    Sockets of the plugins' names in a folder of its own.

    Args:
        sockets: where the plugin server's are.
        folder: where Kong's are to be.
        plugins: names, in the order in which Kong runs them.
    """

    def __init__(self, sockets: Path, folder: Path, plugins: list[str]) -> None:
        self._sockets = sockets
        self._folder = folder
        self._plugins = plugins
        self._servers: list[asyncio.Server] = []
        self._running: set[asyncio.Task[None]] = set()
        self.round_trips = 0
        """Messages of Kong since a request has come to the first plugin."""
        self.calls: list[str] = []
        """Calls to Kong's PDK since then."""

    async def start(self) -> None:
        for name in self._plugins:
            path = self._folder / f"{name}.socket"
            self._servers.append(await asyncio.start_unix_server(self._taking(name), path, backlog=4096))

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _taking(self, name: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            theirs, ours = await asyncio.open_unix_connection(self._sockets / f"{name}.socket")
            is_first = name == self._plugins[0]
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass_on(reader, ours, lambda message: self._asked(message, is_first)))
                    both.create_task(self._pass_on(theirs, writer, self._answered))
            finally:
                ours.close()
                writer.close()

        def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(take(reader, writer))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

        return taken

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: Callable[[list[Any]], None]
    ) -> None:
        unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape", strict_map_key=False)
        while data := await reader.read(65536):
            unpacker.feed(data)
            for message in unpacker:
                note(message)
            writer.write(data)
        writer.close()

    def _asked(self, message: list[Any], is_first: bool) -> None:  # it is one
        method = message[2]
        if method == _BEGINS and is_first:
            self.round_trips, self.calls = 0, []
        self.round_trips += method in {_BEGINS, _GOES_ON}

    def _answered(self, message: list[Any]) -> None:
        data = (message[3] or {}).get("Data")
        if isinstance(data, dict) and "Method" in data:
            self.calls.append(data["Method"])
