"""
The plugin server: one process, one unix socket a plugin, Kong's ``MsgPack:1`` on the gate's own event loop.

Kong's stock server for Python lets requests through when it is down, when a handler raises, when it is silent for long
and when a client sends a byte that is not UTF-8. Here each of these is a refusal, or does not happen: handlers run
where Kong's message is read, without a task, a thread or a lock; what cannot be answered is answered 500 or 503. Where
nobody is left to answer, the dead address of every rendered service is the second lock.

It refuses to know what plugins do and how Kong is configured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from authproxy.audit import get_logger
from authproxy.metrics import Metrics
from gateway_plugins.events import Counts, Events
from gateway_plugins.front import Front
from gateway_plugins.instances import MAX_INSTANCES, Instances, new_ids
from gateway_plugins.plugins import PLUGINS, PluginModule
from gateway_plugins.protocol import SILENT_S, Connections, KongConnection
from gateway_plugins.service import PluginService
from gateway_plugins.sockets import BACKLOG, SocketFile

_REFUSING_S: Final = 0.25
"""For the last refusals to be fetched when the drain deadline has passed; no more than the deadline itself."""


class PluginServer:
    """
    Serves plugins to Kong.

    Args:
        front: what handlers need of the process.
        folder: of the sockets, ``<folder>/<name>.socket``; it must exist.
        names: of the plugins; None: all.
        socket_mode: permissions of the sockets.
        max_connections: of all sockets; beyond them a new one is closed at once.
        max_events: requests in plugins at once; beyond them 503 ``overloaded``.
        keepalive_s: how long Kong waits for an answer before it is given something to do; below its read timeout.
        step_timeout_s: how long Kong may work on what it was asked for.
        silent_s: how long a message may be half-sent, or a reply half-read.
        max_instances: of a plugin (Kong workers times plugin entities); beyond them the longest idle one is forgotten.
        plugins: by name; None: those of ``gateway_plugins.plugins``.
    """

    def __init__(
        self,
        front: Front,
        *,
        folder: Path,
        names: Sequence[str] | None = None,
        socket_mode: int = 0o600,
        max_connections: int = 4096,
        max_events: int = 10_000,
        keepalive_s: float = 15.0,
        step_timeout_s: float = 120.0,
        silent_s: float = SILENT_S,
        max_instances: int = MAX_INSTANCES,
        metrics: Metrics | None = None,
        plugins: Mapping[str, PluginModule] | None = None,
    ) -> None:
        known = PLUGINS if plugins is None else plugins
        self._modules = {name: known[name] for name in (known if names is None else names)}
        self._front = front
        self._folder = folder
        self._socket_mode = socket_mode
        self._metrics = metrics
        self._connections = Connections(max_connections, silent_s)
        self._events = Events(at_most=max_events, keepalive_s=keepalive_s, step_timeout_s=step_timeout_s)
        self._max_instances = max_instances
        self._sweep_every_s = min(step_timeout_s, silent_s) / 8
        self._files: list[SocketFile] = []
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._log = get_logger("kong")
        if metrics is not None:
            metrics.kong_connections.read(lambda: len(self._connections))

    async def start(self) -> None:
        """Listen on every socket. Raises: OSError when one cannot be had; then none is."""
        loop = asyncio.get_running_loop()
        ids = new_ids()
        try:
            for name, module in self._modules.items():
                instances = Instances(module, ids=ids, at_most=self._max_instances)
                service = PluginService(module, self._front, self._events, instances, self._counts(name))
                file = SocketFile(self._folder / f"{name}.socket", mode=self._socket_mode)
                self._files.append(file)
                self._servers.append(
                    await loop.create_unix_server(self._factory(service), sock=file.socket, backlog=BACKLOG)
                )
        except BaseException:  # cancelled while starting, too: no name may be left
            await self.stop(0)
            raise
        self._sweeper = loop.call_later(self._sweep_every_s, self._sweep)
        self._log.info("plugin-server-ready", folder=str(self._folder), plugins=list(self._modules))

    async def stop(self, drain_s: float) -> None:
        """
        Refuse new events (503 ``draining``), let those that run go on for ``drain_s`` seconds, then refuse these too,
        and close. Until then the sockets answer: a refusal says more to a client than Kong's 502. Idempotent.
        """
        self._events.is_draining = True
        refusing_s = min(_REFUSING_S, drain_s)
        until = time.monotonic() + drain_s
        while not self._events.is_quiet(now := time.monotonic()) and now < until:  # noqa: ASYNC110 (polled, so that no event has to tell)
            await asyncio.sleep(0.02)
        await self._events.close(refusing_s)
        for file in self._files:
            file.remove()
        for server in self._servers:
            server.close()
        self._connections.close()
        until = time.monotonic() + refusing_s
        while len(self._connections) and time.monotonic() < until:  # noqa: ASYNC110 (polled, so that no event has to tell)
            await asyncio.sleep(0.01)
        self._connections.abort()
        for file in self._files:
            file.socket.close()
        self._files.clear()
        self._servers.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    @property
    def running(self) -> int:
        """Events that have begun and not ended."""
        return len(self._events)

    def _factory(self, service: PluginService) -> Callable[[], KongConnection]:
        return lambda: KongConnection(service, self._connections)

    def _counts(self, name: str) -> Counts:
        metrics = self._metrics
        if metrics is None:
            return Counts()
        return Counts(
            lambda outcome: metrics.kong_events_total.cell((name, outcome)), metrics.kong_pdk_calls_total.cell((name,))
        )

    def _sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(self._sweep_every_s, self._sweep)
        now = time.monotonic()
        self._events.sweep(now)
        self._connections.sweep(now)
