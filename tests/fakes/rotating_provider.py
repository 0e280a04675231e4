"""A token endpoint over HTTP that rotates refresh tokens and detects reuse, and can be slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.fakes.refresh import Family


class RotatingProvider:
    """Counts what it is asked. A token shown twice ends the family: every later refresh is invalid_grant."""

    def __init__(self) -> None:
        self.families: dict[str, Family] = {}
        self.arrived = 0
        self.refreshed = 0
        self.refused = 0
        self.given_up = 0
        """Calls whose client left before it acted."""
        self.delay_s = 0.0
        """Before it acts. A client that leaves meanwhile has asked for nothing."""
        self.url = ""

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.arrived += 1
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        shown = str(form["refresh_token"])
        token = self.families.setdefault(shown.rpartition(".")[0], Family()).redeem(shown)
        if token is None:
            self.refused += 1
            return web.json_response({"error": "invalid_grant"}, status=400)
        self.refreshed += 1
        return web.json_response({"refresh_token": token, "expires_in": 300})


@asynccontextmanager
async def rotating_provider() -> AsyncIterator[RotatingProvider]:
    provider = RotatingProvider()
    app = web.Application()
    app.router.add_post("/token", provider.token)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    provider.url = f"http://{host}:{port}/token"
    try:
        yield provider
    finally:
        await runner.cleanup()
