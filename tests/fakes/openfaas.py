"""
A functions platform that speaks OpenFaaS's API over a socket, reads paths as the real one does and fails on request.

Nothing here knows Portero. ``awake`` says how many replicas are ready and may be changed at any time; ``api`` and
``proxy`` inject failures; ``requests`` and ``wake_calls`` record what arrived.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs

from aiohttp import web

from tests.fakes.gopath import GoAway, Seen, SystemCall, read_target

HEALTH_PATH: Final = b"/_/health"
"""Answered by the watchdog in front of a function."""
_PLATFORM: Final = {"X-OpenFaaS-Internal": "proxy"}


@dataclass(frozen=True, slots=True)
class Invocation:
    """One request as the function got it."""

    function: str
    namespace: str
    method: str
    target: bytes
    """Path and query on the wire to the function."""
    path: bytes
    """Decoded."""
    query: bytes | None
    fields: tuple[tuple[str, str], ...]
    body: bytes


Handler = Callable[[Invocation], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Failure:
    """What goes wrong from now on; set a member to have it, reset it to get over it."""

    status: int | None = None
    hangs: bool = False
    body: bytes | None = None
    """Answer 200 with this body: garbage, or too much of it."""


@dataclass(slots=True)
class _Function:
    start_s: float
    work_s: float
    handler: Handler | None
    in_flight: int = 0
    max_in_flight: int = 0
    starting: asyncio.Task[None] | None = None
    wanted: int = 0
    """Replicas that are starting."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class FakeOpenFaas:
    """Use as ``async with FakeOpenFaas() as faas``; keys of ``awake`` are ``function.namespace``."""

    credentials: tuple[str, str] | None = None
    """User and password that ``/system`` wants."""
    url: str = ""
    awake: dict[str, int] = field(default_factory=dict)
    requests: list[Invocation] = field(default_factory=list)
    wake_calls: list[str] = field(default_factory=list)
    status_calls: list[str] = field(default_factory=list)
    probes: list[str] = field(default_factory=list)
    """Functions whose watchdog was asked whether they are there."""
    has_watchdogs: bool = True
    """False: functions get questions for their health as any other request."""
    api: Failure = field(default_factory=Failure)
    """Failures of ``/system/function``."""
    wake: Failure = field(default_factory=Failure)
    """Failures of ``/system/scale-function``."""
    only_namespace: str | None = None
    """As the community edition: calls about any other are answered 400."""
    proxy: Failure = field(default_factory=Failure)
    """
    Failures of ``/function``; with a status they carry ``X-OpenFaaS-Internal: proxy`` as the provider's do, but for
    502, which is the gateway's own and has neither body nor type.
    """
    _functions: dict[str, _Function] = field(default_factory=dict)
    _runner: web.ServerRunner | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def add(
        self,
        function: str,
        ns: str = "openfaas-fn",
        *,
        replicas: int = 1,
        start_s: float = 0.05,
        work_s: float = 0.0,
        handler: Handler | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Deploy and return the key; with 0 replicas it takes ``start_s`` to wake. Without handler it echoes."""
        key = f"{function}.{ns}"
        self._functions[key] = _Function(start_s, work_s, handler, labels=labels or {})
        self.awake[key] = replicas
        return key

    def remove(self, key: str) -> None:
        self.awake.pop(key, None)
        self._functions.pop(key, None)

    def max_in_flight(self, key: str) -> int:
        """The most requests that were inside the function at one time."""
        return self._functions[key].max_in_flight

    async def start(self, port: int = 0) -> None:
        self._runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port, backlog=2048)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Close the listener and all connections; ``start(port)`` brings it back."""
        self._stopping.set()
        for function in self._functions.values():
            if function.starting is not None:
                function.starting.cancel()
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
        accept = request.headers.get("Accept", "").encode()
        try:
            read = read_target(request.raw_path.encode("utf-8", "surrogateescape"), accept=accept)
        except GoAway as away:
            return web.Response(status=away.status)
        if isinstance(read, SystemCall):
            return await self._system(read, request)
        return await self._invoke(read, request)

    # -- /system ---------------------------------------------------------------------------------------------------

    async def _system(self, call: SystemCall, request: web.BaseRequest) -> web.StreamResponse:
        is_wake = call.verb == "scale-function"
        if request.method != ("POST" if is_wake else "GET"):
            return web.Response(status=405)
        if self.credentials is not None and request.headers.get("Authorization") != _basic(*self.credentials):
            return web.Response(status=401, text="invalid credentials")
        namespace = parse_qs(call.query.decode()).get("namespace", ["openfaas-fn"])[0]
        key = f"{call.name}.{namespace}"
        (self.wake_calls if is_wake else self.status_calls).append(key)
        if failed := await self._fails(self.wake if is_wake else self.api):
            return failed
        if self.only_namespace not in (None, namespace):
            return web.Response(status=400, text=f"namespace must be: {self.only_namespace}")
        if key not in self._functions:
            return web.Response(status=404, text=f"function {call.name} not found")
        if is_wake:
            return self._scale(key, json.loads(await request.read()))
        return web.json_response(self._status(key))

    def _status(self, key: str) -> dict[str, Any]:
        deployed, ready = self._functions[key], self.awake.get(key, 0)
        name, _, namespace = key.rpartition(".")
        counts = {"replicas": ready or deployed.wanted, "availableReplicas": ready}
        status: dict[str, Any] = {"name": name, "namespace": namespace, "image": "echo", "labels": deployed.labels}
        return status | {name: count for name, count in counts.items() if count}  # the real one leaves zero out

    def _scale(self, key: str, document: Mapping[str, Any]) -> web.StreamResponse:
        function, _, namespace = key.rpartition(".")
        if document.get("serviceName") != function or document.get("namespace", namespace) != namespace:
            return web.Response(status=400)
        deployed, replicas = self._functions[key], int(document["replicas"])
        if replicas and not self.awake.get(key) and deployed.starting is None:
            deployed.starting = asyncio.create_task(self._start_replicas(key, replicas))
        elif not replicas:
            self.awake[key] = 0
        return web.Response(status=202)

    async def _start_replicas(self, key: str, replicas: int) -> None:
        deployed = self._functions[key]
        deployed.wanted = replicas
        try:
            await asyncio.sleep(deployed.start_s)
            if key in self._functions:
                self.awake[key] = replicas
        finally:
            deployed.starting, deployed.wanted = None, 0

    async def _fails(self, failure: Failure) -> web.Response | None:
        if failure.hangs:
            await self._stopping.wait()
            return web.Response(status=500)
        if failure.status is not None:
            return web.Response(status=failure.status, text="injected")
        if failure.body is not None:
            return web.Response(status=200, body=failure.body)
        return None

    # -- /function ---------------------------------------------------------------------------------------------------

    async def _invoke(self, seen: Seen, request: web.BaseRequest) -> web.StreamResponse:
        function, _, namespace = seen.name.rpartition(".")
        key = seen.name if function else f"{seen.name}.openfaas-fn"
        if failed := await self._fails(self.proxy):
            if failed.status == 502:  # the gateway's own, for whatever went wrong with the provider
                return _bare(502)
            failed.headers.update(_PLATFORM)
            return failed
        if not self.awake.get(key):
            return web.Response(status=503, text=f"No endpoints available for: {seen.name}.", headers=_PLATFORM)
        deployed = self._functions[key]
        if seen.path == HEALTH_PATH and self.has_watchdogs:
            self.probes.append(key)
            return web.Response(text="OK")
        deployed.in_flight += 1
        deployed.max_in_flight = max(deployed.max_in_flight, deployed.in_flight)
        try:
            invocation = Invocation(
                function or seen.name,
                namespace,
                request.method,
                seen.target,
                seen.path,
                seen.query,
                tuple(request.headers.items()),
                await request.read(),
            )
            self.requests.append(invocation)
            if deployed.work_s:
                await asyncio.sleep(deployed.work_s)
            if deployed.handler is not None:
                return await deployed.handler(invocation)
            return echo(invocation)
        finally:
            deployed.in_flight -= 1


def _bare(status: int) -> web.Response:
    """Without ``Content-Type``, which aiohttp would make up."""
    answer = web.Response(status=status)
    answer.headers.popall("Content-Type", None)
    return answer


def echo(invocation: Invocation) -> web.Response:
    """What the function received, as JSON."""
    return web.json_response(
        {
            "function": invocation.function,
            "namespace": invocation.namespace,
            "method": invocation.method,
            "target": invocation.target.decode("ascii", "backslashreplace"),
            "path": invocation.path.decode("utf-8", "backslashreplace"),
            "query": None if invocation.query is None else invocation.query.decode("ascii", "backslashreplace"),
            "fields": invocation.fields,
            "body": invocation.body.decode("utf-8", "backslashreplace"),
        }
    )


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
