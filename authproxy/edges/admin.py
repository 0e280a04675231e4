"""
The admin listener: is it alive, is it ready, what does it count, which policies are active, and why would a request
be refused.

It is a listener of its own (AP-R13): no path or header of the public listener leads here. ``/livez``, ``/readyz`` and
``/metrics`` say nothing of callers and want no token; ``/policy/status`` and ``/explain`` tell what policies say, so
they want the admin token, or a caller on this host. A browser on this host is not such a caller: a page of a stranger
could send it here, so the Host field must name this listener by address and ``/explain`` takes JSON only (no form can
send that unasked).
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from authproxy.metrics import CONTENT_TYPE, Metrics
from authproxy.policy_folder import PolicyFolder
from policies.errors import Mistake
from policies.explain import ExplainRequest, explain_request

MAX_BODY_BYTES: Final = 64 * 1024
_CACHE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminEdge:
    """Serves the admin paths; ``is_ready`` is asked at each ``/readyz``."""

    def __init__(
        self,
        folder: PolicyFolder,
        metrics: Metrics,
        *,
        is_ready: Callable[[], bool],
        token: str | None,
        clock: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._metrics = metrics
        self._is_ready = is_ready
        self._token = token
        self._clock = clock
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int, *, is_shared: bool = False) -> tuple[str, int]:
        """
        Listen; returns the address bound.

        ``is_shared``: the next process of this user may listen on it while this one drains.
        """
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get("/policy/status", self._guarded(self._policy_status))
        app.router.add_post("/explain", self._guarded(self._explain))
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=15, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, reuse_address=True, reuse_port=is_shared or None)
        await site.start()
        bound = self._runner.addresses[0]
        return bound[0], bound[1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def _guarded(self, handler: Handler) -> Handler:
        async def guard(request: web.Request) -> web.StreamResponse:
            if self._has_token(request) or (self._token is None and _is_local(request)):
                return await handler(request)
            wanted = "the admin token" if self._token is not None else "a caller on this host"
            return _json({"title": f"this page wants {wanted}"}, 401, {"WWW-Authenticate": 'Bearer realm="admin"'})

        return guard

    def _has_token(self, request: web.Request) -> bool:
        if self._token is None:
            return False
        given = request.headers.getall("Authorization", [])
        expected = f"Bearer {self._token}".encode()
        return len(given) == 1 and hmac.compare_digest(given[0].encode("utf-8", "surrogateescape"), expected)

    async def _livez(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n", headers=_CACHE)

    async def _readyz(self, _request: web.Request) -> web.StreamResponse:
        if self._is_ready():
            return web.Response(text="ok\n", headers=_CACHE)
        return web.Response(status=503, text="not ready: starting or draining\n", headers=_CACHE)

    async def _metrics_page(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._metrics.render(), headers={**_CACHE, "Content-Type": CONTENT_TYPE})

    async def _policy_status(self, _request: web.Request) -> web.StreamResponse:
        status, active = self._folder.status, self._folder.active
        return _json(
            {
                "revision": active.revision,
                "loaded_at": status.loaded_at,
                "rules": active.rule_count,
                "tenants": {
                    name: {"hosts": list(tenant.hosts), "disabled": tenant.is_disabled, "shadow": sorted(tenant.shadow)}
                    for name, tenant in sorted(active.tenants.items())
                },
                "last_reload": {
                    "attempted_at": status.attempted_at,
                    "successful": status.is_successful,
                    "mistakes": [_mistake(mistake) for mistake in status.mistakes],
                },
                "warnings": [_mistake(mistake) for mistake in status.warnings],
            }
        )

    async def _explain(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json":
            return _json({"title": "send JSON with Content-Type: application/json"}, 415)
        try:
            asked = msgspec.json.decode(await request.read(), type=ExplainRequest)
        except msgspec.MsgspecError as error:
            return _json({"title": "not an explain request", "detail": str(error)}, 400)
        try:
            explanation = explain_request(self._folder.active, asked, self._clock())
        except ValueError as error:
            return _json({"title": "not an explain request", "detail": str(error)}, 400)
        return _json(explanation)


def _is_local(request: web.Request) -> bool:
    """The peer is this host and the Host field names an address: a name may have been rebound to this host."""
    peer = request.remote
    host = request.headers.get("Host", "").rpartition(":")[0] or request.headers.get("Host", "")
    host = host.removeprefix("[").removesuffix("]")
    try:
        is_loopback = peer is not None and ipaddress.ip_address(peer).is_loopback
        return is_loopback and (host == "localhost" or ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


def _mistake(mistake: Mistake) -> dict[str, Any]:
    return {
        "file": mistake.file,
        "line": mistake.line,
        "column": mistake.column,
        "message": mistake.message,
        "text": str(mistake),
    }


def _json(value: object, status: int = 200, fields: dict[str, str] | None = None) -> web.Response:
    body = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    return web.Response(
        status=status, body=body, headers={**_CACHE, "Content-Type": "application/json", **(fields or {})}
    )
