"""
A server that speaks plain HTTP and knows no functions platform: what ``kind: http`` has to do with.

Functions are the first two segments of a path, ``/<namespace>/<function>/...``; one that sleeps is answered for with
503, as a load balancer does for a site without servers. ``POST /wake`` starts what its JSON names. Nothing here knows
Portero.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web


@dataclass(slots=True)
class FakeHttpService:
    """Use as ``async with FakeHttpService() as service``; keys of ``awake`` are ``namespace/function``."""

    awake: set[str] = field(default_factory=set)
    status: int = 200
    """Of functions that are awake."""
    wake_status: int = 202
    is_mute: bool = False
    """Requests to functions are taken, and not answered."""
    is_wake_mute: bool = False
    authorization: str | None = None
    """What ``/wake`` wants in ``Authorization``."""
    url: str = ""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, target and fields (names in lower case) of all that came for functions."""
    wakes: list[tuple[str, bytes]] = field(default_factory=list)
    """Target and body of every wake that was taken."""
    _runner: web.ServerRunner | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self, port: int = 0) -> None:
        self._runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Close the listener and all connections; ``start(port)`` brings it back."""
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()
        self._stopping.clear()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/wake" or request.path.startswith("/wake/"):
            return await self._wake(request)
        fields = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.method, request.raw_path, fields))
        if self.is_mute:
            await self._stopping.wait()
        namespace, _, rest = request.path.removeprefix("/").partition("/")
        key = f"{namespace}/{rest.partition('/')[0]}"
        return web.Response(status=self.status if key in self.awake else 503, text="no health check here\n")

    async def _wake(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.is_wake_mute:
            await self._stopping.wait()
        if self.authorization is not None and request.headers.get("Authorization") != self.authorization:
            return web.Response(status=401)
        body = await request.read()
        self.wakes.append((request.raw_path, body))
        if self.wake_status < 300:
            named = await request.json()
            self.awake.add(f"{named['namespace']}/{named['function']}")
        return web.Response(status=self.wake_status)
