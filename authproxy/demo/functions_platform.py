"""
The demo's functions platform: OpenFaaS's API over real processes that are scaled to zero and take seconds to start.

It decides nothing about callers: like OpenFaaS's community edition it takes every request for a function, wherever it
came from, which is why Portero stands in front. ``/system`` wants the platform's own credentials.

Source: the routes, fields and statuses of OpenFaaS's gateway and provider (docs.openfaas.com, REST API).
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import uuid
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from authproxy.demo.reparse import read_invocation
from authproxy.demo.replicas import Function, Replica

DEFAULT_NAMESPACE: Final = "openfaas-fn"
IDLE_CHECK_S: Final = 5.0
MAX_API_BODY_BYTES: Final = 64 * 1024

_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect", "host"}
)
_INVENTED_BY_CLIENT: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_PLATFORM_ERROR: Final = {"X-OpenFaaS-Internal": "proxy"}
"""Marks what the platform answered itself: the function was not reached."""

logger = logging.getLogger(__name__)


class FunctionsPlatform:
    """
    The platform on an address, or on a free port of loopback; ``functions`` maps namespace -> function names.

    ``environment`` gives the variables of a namespace's functions. ``start_delay_s`` comes on top of what starting a
    process takes; ``idle_s`` seconds without a request scale a function to zero, None never does.
    """

    def __init__(
        self,
        functions: Mapping[str, tuple[str, ...]],
        *,
        user: str,
        password: str,
        environment: Mapping[str, Mapping[str, str]] | None = None,
        start_delay_s: float = 1.0,
        idle_s: float | None = 300.0,
        listen: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.url = ""
        self.functions: dict[tuple[str, str], Function] = {}
        self._layout = functions
        self._environment = environment or {}
        self._credentials = b"Basic " + b64encode(f"{user}:{password}".encode())
        self._start_delay_s = start_delay_s
        self._idle_s = idle_s
        self._listen = listen
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.ServerRunner | None = None
        self._idler: asyncio.Task[None] | None = None

    async def start(self, replicas: int = 1) -> None:
        """
        Listen, and start ``replicas`` of every function; ``settled`` says when they are ready.

        Raises: OSError when the address cannot be listened on; ``stop`` ends what was started.
        """
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            skip_auto_headers=_INVENTED_BY_CLIENT,
        )
        for namespace, names in self._layout.items():
            variables = {"START_DELAY_S": str(self._start_delay_s), "FUNCTION_NAMESPACE": namespace}
            for name in names:
                function = Function(
                    name, namespace, self._session, variables | dict(self._environment.get(namespace, {}))
                )
                self.functions[namespace, name] = function
        server = web.Server(self._serve, handler_cancellation=True, auto_decompress=False, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, *self._listen).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        if replicas:  # last: an address that is taken starts no process that has to be ended
            for function in self.functions.values():
                function.scale(replicas)
        if self._idle_s is not None:
            self._idler = asyncio.create_task(self._scale_idle_to_zero(self._idle_s))

    async def settled(self) -> None:
        await asyncio.gather(*(function.settled() for function in self.functions.values()))

    async def stop(self) -> None:
        """End the listener and every process. Idempotent."""
        if self._idler is not None:
            self._idler.cancel()
        await asyncio.gather(*(function.stop() for function in self.functions.values()))
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def sleep(self, name: str, namespace: str | None = None) -> int:
        """Scale to zero, in every namespace without one; returns how many functions, once no replica is left."""
        found = [f for (where, called), f in self.functions.items() if called == name and namespace in {None, where}]
        for function in found:
            function.scale(0)
        await asyncio.gather(*(function.settled() for function in found))
        return len(found)

    async def _scale_idle_to_zero(self, idle_s: float) -> None:
        while True:
            await asyncio.sleep(min(IDLE_CHECK_S, idle_s))
            for function in self.functions.values():
                if function.desired and not function.in_flight and time.monotonic() - function.used_at > idle_s:
                    function.scale(0)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        if path.startswith("/system/"):
            return await self._system(request, path)
        if path == "/healthz":
            return web.Response(text="OK")
        is_event_stream = request.headers.get("Accept", "").startswith("text/event-stream")
        invocation = read_invocation(request.raw_path, DEFAULT_NAMESPACE, is_event_stream=is_event_stream)
        if isinstance(invocation, int):
            return web.Response(status=invocation, headers={"Location": "/"} if invocation == 301 else None)
        function = self.functions.get((invocation.namespace, invocation.function))
        if function is None:
            return web.Response(
                status=404, text=f"error finding function {invocation.function}.{invocation.namespace}\n"
            )
        replica = function.next_replica()
        if replica is None:
            text = f"No endpoints available for: {function.name}.\n"
            return web.Response(status=503, text=text, headers=_PLATFORM_ERROR)
        function.invocations += 1
        function.in_flight += 1
        try:
            return await self._proxy(request, replica, invocation.target)
        finally:
            function.in_flight -= 1
            function.used_at = time.monotonic()

    async def _proxy(self, request: web.BaseRequest, replica: Replica, target: str) -> web.StreamResponse:
        """Pass a request on, streaming both ways. 502 without a body when the replica fails, as OpenFaaS's gateway."""
        if self._session is None:
            return web.Response(status=503)
        fields = _end_to_end(request.headers)
        fields.setdefault("X-Call-Id", str(uuid.uuid4()))
        response: web.StreamResponse | None = None
        try:
            async with self._session.request(
                request.method,
                URL(f"http://127.0.0.1:{replica.port}{target}", encoded=True),
                headers=fields,
                data=request.content.iter_any() if request.body_exists else None,
                allow_redirects=False,
            ) as upstream:
                response = web.StreamResponse(status=upstream.status, headers=_end_to_end(upstream.headers))
                response.headers["X-Call-Id"] = fields["X-Call-Id"]
                await response.prepare(request)
                if request.method != "HEAD":
                    async for piece in upstream.content.iter_any():
                        await response.write(piece)
                await response.write_eof()
                return response
        except aiohttp.ClientError as error:
            logger.info("a replica failed while answering: %s", error)
            if response is None:
                return web.Response(status=502)
            if request.transport is not None:  # half an answer must not look like a whole one
                request.transport.abort()
            return response

    async def _system(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        sent = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(sent, self._credentials):
            challenge = {"WWW-Authenticate": 'Basic realm="Restricted"'}
            return web.Response(status=401, text="invalid credentials", headers=challenge)
        namespace = request.query.get("namespace", DEFAULT_NAMESPACE)
        match request.method, path.split("/")[2:]:
            case "GET", ["functions"]:
                return web.json_response([_status(f) for f in self.functions.values() if f.namespace == namespace])
            case "GET", ["namespaces"]:
                return web.json_response(sorted(self._layout))
            case "GET", ["info"]:
                return web.json_response({"provider": {"provider": "portero-demo", "orchestration": "processes"}})
            case "GET", ["function", name]:
                function = self.functions.get((namespace, name))
                return web.Response(status=404) if function is None else web.json_response(_status(function))
            case "POST", ["scale-function", name]:
                return await self._scale(request, self.functions.get((namespace, name)))
            case _, ["functions" | "namespaces" | "info"] | ["function" | "scale-function", _]:
                return web.Response(status=405)
        return web.Response(status=404)

    async def _scale(self, request: web.BaseRequest, function: Function | None) -> web.Response:
        try:
            replicas = json.loads(await _read_api_body(request))["replicas"]
        except (ValueError, KeyError, TypeError):
            replicas = None
        if type(replicas) is not int or replicas < 0:
            return web.Response(status=400, text='expected {"serviceName": "...", "replicas": 0 or more}\n')
        if function is None:
            return web.Response(status=404)
        function.scale(replicas)
        return web.Response(status=202)


def _status(function: Function) -> dict[str, Any]:
    """FunctionStatus, as OpenFaaS's provider names its members."""
    return {
        "name": function.name,
        "namespace": function.namespace,
        "image": f"harbor.example/{function.namespace}/{function.name}:1",
        "envProcess": "",
        "labels": {"com.openfaas.scale.zero": "true"},
        "annotations": {},
        "replicas": function.desired,
        "availableReplicas": len(function.ready),
        "invocationCount": function.invocations,
        "createdAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(function.created_at)),
    }


def _end_to_end(fields: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    named = {name.strip().lower() for value in fields.getall("Connection", ()) for name in value.split(",")}
    return CIMultiDict((k, v) for k, v in fields.items() if k.lower() not in _HOP_BY_HOP and k.lower() not in named)


async def _read_api_body(request: web.BaseRequest) -> bytes:
    body = b""
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > MAX_API_BODY_BYTES:
            raise ValueError("too large")
    return body
