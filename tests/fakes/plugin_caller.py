"""A plugin server with plugins made for a test, and a caller on its socket that says any bytes it likes."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import msgpack

from gateway_plugins.front import Front
from gateway_plugins.handler import Handler
from gateway_plugins.plugins import PluginModule
from gateway_plugins.server import PluginServer

Answer = Callable[[Mapping[str, Any]], Handler]
"""What a test's plugin does with an event: its configuration in, a generator out."""
NAME = "portero-test"
FRONT = Front(cast("Any", None), cast("Any", None), None)
PATIENCE_S = 20.0
"""For what has to come: a machine may stand still for a moment."""


def module(answer: Answer, name: str = NAME, init: Callable[[Mapping[str, Any]], None] | None = None) -> PluginModule:
    """A plugin as the server takes it, with ``answer`` as its handler."""

    class Plugin:
        def __init__(self, config: Mapping[str, Any]) -> None:
            if init is not None:
                init(config)
            self.config = config

        def answer(self, _front: Front) -> Handler:
            return answer(self.config)

        def access(self, kong: Any) -> None: ...

    schema = ({"word": {"type": "string"}},)
    return cast("PluginModule", SimpleNamespace(name=name, version="1.0", priority=7, Schema=schema, Plugin=Plugin))


class Caller:
    """One connection to a plugin server, as a Kong worker has many of."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=2**26)
        self.last_id = 0

    @classmethod
    async def to(cls, path: Path) -> Self:
        return cls(*await asyncio.open_unix_connection(path))

    def say(self, method: str, *arguments: Any) -> int:
        """Send a request and do not wait; returns its message id."""
        self.last_id += 1
        self.writer.write(self.message(self.last_id, method, *arguments))
        return self.last_id

    @staticmethod
    def message(message_id: int, method: str, *arguments: Any) -> bytes:
        return cast("bytes", msgpack.packb([0, message_id, f"plugin.{method}", list(arguments)]))

    async def hear(self) -> list[Any]:
        """The next reply, whole, its strings as bytes. Raises: ConnectionError when the server closes."""
        while True:
            for reply in self._unpacker:
                return cast("list[Any]", reply)
            data = await self._reader.read(2**18)
            if not data:
                raise ConnectionResetError("closed by the plugin server")
            self._unpacker.feed(data)

    async def ask(self, method: str, *arguments: Any) -> Any:
        """Ask and return the result. Raises: RuntimeError with the error's text."""
        message_id = self.say(method, *arguments)
        kind, heard_id, error, result = await self.hear()
        assert (kind, heard_id) == (1, message_id)
        if error is not None:
            raise RuntimeError(error.decode())
        return result

    async def instance(self, config: Mapping[str, Any] | None = None, name: str = NAME) -> int:
        result = await self.ask("StartInstance", {"Name": name, "Config": json.dumps(config or {})})
        return cast("int", result[b"Id"])

    async def begin(self, instance: int, phase: str = "access") -> Step:
        return Step(await self.ask("HandleEvent", {"InstanceId": instance, "EventName": phase}))

    async def step(self, event: int, value: Any = None, method: str = "Step") -> Step:
        """As Kong does: a nil result has no ``Data``."""
        argument = {"EventId": event} if value is None else {"EventId": event, "Data": value}
        return Step(await self.ask(method, argument))

    async def is_closed(self) -> bool:
        """Whether the server closes the connection, unasked."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await self._reader.read(2**16):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


class Step:
    """A reply to ``HandleEvent`` or a step, taken apart."""

    def __init__(self, result: Any) -> None:
        data = result[b"Data"]
        self.event = cast("int", result[b"EventId"])
        self.is_over = data == b"ret"
        self.method = "" if self.is_over else data[b"Method"].decode()
        self.args: list[Any] = [] if self.is_over else data[b"Args"]

    @property
    def status(self) -> int:
        """Of ``kong.response.exit``."""
        assert self.method == "kong.response.exit"
        return cast("int", self.args[0])

    @property
    def reason(self) -> str:
        """Of a refusal: the same in the field and in the body."""
        word = self.args[2][b"X-Portero-Reason"].decode()
        assert self.args[2][b"Content-Type"] == b"application/problem+json"
        assert json.loads(self.args[1])["reason"] == word
        return cast("str", word)


class Served:
    """A plugin server that runs, and callers to it that are closed with it."""

    def __init__(self, server: PluginServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.callers: list[Caller] = []

    def path(self, name: str = NAME) -> Path:
        return self.folder / f"{name}.socket"

    async def caller(self, name: str = NAME) -> Caller:
        caller = await Caller.to(self.path(name))
        self.callers.append(caller)
        return caller

    async def quiet(self, running: int = 0) -> None:
        """Wait until so many events run."""
        await until(lambda: self.server.running == running)

    async def connected(self, count: int) -> None:
        """Wait until there are so many connections."""
        await until(lambda: len(self.server._connections) == count)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what nobody tells. Raises: TimeoutError."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 (polled, so that nobody has to tell)
            await asyncio.sleep(0.005)


@asynccontextmanager
async def served(*modules: PluginModule, **settings: Any) -> AsyncIterator[Served]:
    """The modules, served in a folder whose path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="kong"))
    server = PluginServer(FRONT, folder=folder, plugins={one.name: one for one in modules}, **settings)
    world = Served(server, folder)
    try:
        await server.start()
        yield world
    finally:
        for caller in world.callers:
            await caller.close()
        await server.stop(0)
        shutil.rmtree(folder)
