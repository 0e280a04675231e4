"""
The running demo's control listener: how ``portero demo token`` and ``portero demo sleep`` reach it.

A loopback port of its own, and every request wants the secret of the demo's state file. It decides nothing: it passes
on to the provider, the service accounts and the platform, and turns their refusals into a sentence.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from authproxy.demo.files import AccountUnknown, DemoFiles
from authproxy.demo.functions_platform import FunctionsPlatform
from authproxy.demo.people import PersonUnknown
from authproxy.demo.provider import Provider


class CannotDo(Exception):
    """What was asked cannot be done; the text goes to the person who asked."""


class Control:
    """``start`` binds a free port; ``secret`` is made anew for each demo."""

    def __init__(self, provider: Provider, platform: FunctionsPlatform, files: DemoFiles) -> None:
        self.secret = secrets.token_urlsafe(32)
        self.port = 0
        self._provider = provider
        self._platform = platform
        self._files = files
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application(client_max_size=64 * 1024)
        application.add_routes(
            [
                web.get("/", self._guarded(self._hello)),
                web.post("/token", self._guarded(self._token)),
                web.post("/sleep", self._guarded(self._sleep)),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _guarded(
        self, act: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        expected = f"Bearer {self.secret}".encode()

        async def handle(request: web.Request) -> web.Response:
            sent = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(sent, expected):
                return web.json_response({"error": "this is not the secret of this demo"}, status=401)
            try:
                asked = await request.json() if request.method == "POST" else {}
                return web.json_response(await act(dict(asked)))
            except (CannotDo, PersonUnknown, AccountUnknown) as refusal:
                return web.json_response({"error": str(refusal)}, status=404)
            except (ValueError, KeyError, TypeError) as mistake:
                return web.json_response({"error": f"not understood: {mistake}"}, status=400)

        return handle

    async def _hello(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"demo": "portero"}

    async def _token(self, asked: dict[str, Any]) -> dict[str, Any]:
        tenant, ttl_s = str(asked["tenant"]), asked.get("ttl_s", 3600)
        if type(ttl_s) is not int:
            raise TypeError("ttl_s is a whole number of seconds")
        if "service_account" in asked:
            return {"token": self._files.account_token(tenant, str(asked["service_account"]), ttl_s)}
        return {"token": self._provider.issue_token(tenant, str(asked["person"]), ttl_s)}

    async def _sleep(self, asked: dict[str, Any]) -> dict[str, Any]:
        function, tenant = str(asked["function"]), asked.get("tenant")
        namespaces = self._files.namespaces
        if tenant is not None and tenant not in namespaces:
            raise CannotDo(f"the demo has no tenant {tenant!r}; it has {', '.join(namespaces)}")
        asleep = await self._platform.sleep(function, None if tenant is None else namespaces[tenant])
        if not asleep:
            known = ", ".join(sorted({name for _, name in self._platform.functions}))
            raise CannotDo(f"the demo has no function {function!r}; it has {known}")
        return {"asleep": asleep}
