"""Cold starts without sockets or waiting, on a loop whose time jumps: a platform and a cluster that do as told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from authproxy.activator import Activator, Grant
from authproxy.activator.cluster import LocalCluster
from authproxy.backends.backend import Readiness
from authproxy.metrics import Metrics
from policies.decision import Deny
from policies.errors import BackendUnavailable, StoreUnavailable
from policies.principal import Principal
from policies.tables import ColdStart, Place, TenantTable
from tests.authproxy.activator.front import ANA, FUNCTION, REQUEST
from tests.fakes.places import place


def cold_place(cold_start: ColdStart, *, of: TenantTable | None = None, **changed: Any) -> Place:
    """A place whose policy says this of cold starts; ``changed`` are members of its ``FunctionSpec``."""
    at = place(FUNCTION, of=of)
    return replace(at, spec=replace(at.spec, cold_start=cold_start, **changed))


def now() -> float:
    return asyncio.get_running_loop().time()


class Platform:
    """A backend of one function. What was asked stands in lists, with the time of each."""

    name = "faas"

    def __init__(self, ready: int = 0, *, start_s: float | None = 1.0) -> None:
        self.ready = ready
        self.start_s = start_s
        """From a wake to the first replica; None: it never comes."""
        self.answers: bool | None = True
        """The function itself, when it is probed; None: nobody can tell."""
        self.ask_fails = self.wake_fails = False
        self.lag_s = 0.001
        self.asked: list[float] = []
        self.woken: list[float] = []
        self.probed: list[tuple[float, str | None]] = []

    async def readiness(self, _namespace: str, _function: str) -> Readiness:
        self.asked.append(now())
        await asyncio.sleep(self.lag_s)
        if self.ask_fails:
            raise BackendUnavailable("down")
        return Readiness(self.ready, does_exist=self.ready >= 0)

    async def wake(self, _namespace: str, _function: str) -> None:
        self.woken.append(now())
        await asyncio.sleep(self.lag_s)
        if self.wake_fails:
            raise BackendUnavailable("down")
        if self.start_s is not None:
            asyncio.get_running_loop().call_later(self.start_s, self._get_ready)

    async def probe(self, _namespace: str, _function: str, path: str | None) -> bool:
        self.probed.append((now(), path))
        await asyncio.sleep(self.lag_s)
        if self.answers is None:
            raise BackendUnavailable("down")
        return self.answers

    def _get_ready(self) -> None:
        self.ready = max(self.ready, 1)


class ScriptedCluster(LocalCluster):
    """The others, as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.lease: bool | None = True
        """None: the store is down."""
        self.lag_s = 0.001
        self.shares: dict[str, int] = {}
        """Places of ours under a key, where that is not all of them."""
        self.left: dict[str, int] = {}
        """Places that nobody has reserved yet."""
        self.calls: list[tuple[str, float]] = []
        self._asking: dict[str, int] = {}

    async def lease_wake(self, key: str) -> bool:
        await self._called("lease", key)
        if self.lease is None:
            raise StoreUnavailable("down")
        return self.lease

    async def keep_wake(self, key: str) -> None:
        await self._called("keep", key)

    async def end_wake(self, key: str) -> None:
        await self._called("end", key)

    def has_place(self, key: str, ceiling: int, held: int) -> bool:
        return held < min(ceiling, self.shares.get(key, ceiling))

    async def reserve(self, key: str, ceiling: int, held: int) -> bool:
        self._asking[key] = self._asking.get(key, 0) + 1
        try:
            await self._called("reserve", key)
            while not self.has_place(key, ceiling, held + self._asking[key] - 1) and self.left.get(key):
                self.left[key] -= 1
                self.shares[key] += 1
        finally:
            self._asking[key] -= 1
        return self.has_place(key, ceiling, held)

    def times(self, what: str) -> list[float]:
        return [at for called, at in self.calls if called == what]

    async def _called(self, what: str, key: str) -> None:
        self.calls.append((what, now()))
        if not key.startswith(("function:faas/", "deferred:faas/", "tenant:")):
            raise ValueError(key)
        await asyncio.sleep(self.lag_s)


class Waiting:
    """An activator whose clock is the loop's, in front of a ``Platform``, and its callers."""

    def __init__(self, platform: Platform | None = None, **arguments: Any) -> None:
        self.platform = platform or Platform()
        self.metrics = Metrics()
        self.backends: Any = {"faas": self.platform}
        self.activator = Activator(
            self.backends, self.metrics, clock=asyncio.get_running_loop().time, jitter=lambda: 0.0, **arguments
        )

    def hold(self, at: Place, principal: Principal = ANA, **how: Any) -> asyncio.Task[Grant | Deny]:
        return asyncio.create_task(self.activator.hold(at, principal, how.pop("request", REQUEST), **how))

    async def serve(self, at: Place, work: Callable[[], Awaitable[object]], principal: Principal = ANA) -> Grant | Deny:
        """As the gate does: hold, let the function work, finish."""
        grant = await self.activator.hold(at, principal, REQUEST)
        if isinstance(grant, Grant):
            try:
                await work()
            finally:
                self.activator.finished(at, grant)
        return grant
