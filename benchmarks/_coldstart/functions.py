"""
A functions platform in a process of its own that writes down what happens inside its functions, and when.

Instants are those of ``time.monotonic``, which all processes of a machine share. Orders: ``add``, ``replicas`` (how
many are ready from now on) and ``report``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import uvloop
from aiohttp import web

from benchmarks._coldstart.child import Child, obey
from tests.fakes.openfaas import HEALTH_PATH, FakeOpenFaas, Invocation


class Platform(Child):
    """Functions of the namespace ``acme``."""

    url: str

    async def add(
        self, name: str, *, replicas: int = 0, work_s: float = 0.0, spread: float = 0.0, places: int | None = None
    ) -> None:
        """
        With 0 replicas it wakes when ``wake`` is told, and never by itself. A request takes ``work_s``, more or less by
        at most a part ``spread`` in [0, 1) of it. It works on ``places`` of them at once, or on any number; the others
        stand inside it.
        """
        await self.ask("add", name=name, replicas=replicas, work_s=work_s, spread=spread, places=places)

    async def wake(self, name: str, replicas: int = 1) -> float:
        """Ready from now on, which is returned."""
        ready_at: float = await self.ask("replicas", name=name, replicas=replicas)
        return ready_at

    async def report(self, name: str) -> list[tuple[float, float]]:
        """When each request came in, and when it was done with; in the order in which they came."""
        return [(began, ended) for began, ended in await self.ask("report", name=name)]


@contextlib.asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    async with Platform("benchmarks._coldstart.functions") as child:
        child.url = await child.ask("url")
        yield child


@dataclass(slots=True)
class _Function:
    work_s: float
    spread: float
    places: asyncio.Semaphore | None
    visits: list[list[float]] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    async def serve(self, invocation: Invocation) -> web.StreamResponse:
        if invocation.path == HEALTH_PATH:
            return web.Response(text="OK")
        visit = [time.monotonic(), float("inf")]
        self.visits.append(visit)
        try:
            async with self.places or contextlib.nullcontext():
                if self.work_s:
                    await asyncio.sleep(self.work_s * self.chance.uniform(1 - self.spread, 1 + self.spread))
        finally:
            visit[1] = time.monotonic()
        return web.Response(text="done")


async def _serve() -> None:
    functions: dict[str, _Function] = {}
    async with FakeOpenFaas() as faas:

        async def url(_facts: Mapping[str, Any]) -> str:
            return faas.url

        async def add(facts: Mapping[str, Any]) -> None:
            places = facts["places"]
            one = _Function(facts["work_s"], facts["spread"], None if places is None else asyncio.Semaphore(places))
            functions[facts["name"]] = one
            faas.add(facts["name"], "acme", replicas=facts["replicas"], start_s=3600, handler=one.serve)

        async def replicas(facts: Mapping[str, Any]) -> float:
            faas.awake[f"{facts['name']}.acme"] = facts["replicas"]
            return time.monotonic()

        async def report(facts: Mapping[str, Any]) -> list[list[float]]:
            faas.requests.clear()
            return functions[facts["name"]].visits

        await obey({"url": url, "add": add, "replicas": replicas, "report": report})


if __name__ == "__main__":
    uvloop.run(_serve())
