"""Whoever a caller has results delivered to: takes POSTs over a real socket and answers as a test says."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Delivery:
    method: str
    path: str
    """With query, as it stood on the wire."""
    fields: dict[str, str]
    """Names in lower case."""
    body: bytes


class CallbackReceiver:
    """``async with CallbackReceiver() as receiver``; ``statuses`` are given in turn, the last one for ever."""

    def __init__(self, statuses: tuple[int, ...] = (204,), *, ssl_context: ssl.SSLContext | None = None) -> None:
        self.statuses = list(statuses)
        self.fields: dict[str, str] = {}
        """Of each answer."""
        self.before: Callable[[], Awaitable[object]] | None = None
        """Awaited before each answer."""
        self.deliveries: list[Delivery] = []
        self.at_once = 0
        self.most_at_once = 0
        self._ssl = ssl_context
        self._arrived = asyncio.Condition()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._take), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._ssl)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def wait_for(self, count: int, timeout_s: float = 20.0) -> list[Delivery]:
        """Until so many have come."""
        async with asyncio.timeout(timeout_s), self._arrived:
            await self._arrived.wait_for(lambda: len(self.deliveries) >= count)
        return self.deliveries

    def by_path(self) -> Counter[str]:
        return Counter(delivery.path for delivery in self.deliveries)

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            fields = {name.lower(): value for name, value in request.headers.items()}
            body = await request.read()
            async with self._arrived:
                self.deliveries.append(Delivery(request.method, request.raw_path, fields, body))
                self._arrived.notify_all()
            if self.before is not None:
                await self.before()
        finally:
            self.at_once -= 1
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return web.Response(status=status, headers=self.fields)
