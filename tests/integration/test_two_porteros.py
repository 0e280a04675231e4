"""
Two whole Porteros, each a process of its own, one Redis and one function: what they agree on holds for both.

The replica is here, so that how long it idles while somebody waits is measured where it counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web

from tests.fakes.openfaas import HEALTH_PATH, FakeOpenFaas, Invocation
from tests.fakes.patient_redis import PATIENCE_S
from tests.fakes.provider import FakeProvider, Key
from tests.fakes.pulse import Pulse
from tests.fakes.redis_server import RedisServer, redis_server
from tests.fakes.replica_process import replica_processes
from tests.fakes.world import PLAIN, RawAnswer, request_bytes, send_raw, write_world

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.alone]

WEB: Final = "survey-web: {access: public"
SHARED: Final = f"{WEB}, concurrency: 1, concurrency_scope: cluster, cold_start: {{max_wait: 20s, max_held: 600}}"
BACK_S: Final = 5.0
"""A crashed Portero's share is back by then."""
SLACK_S: Final = 2.0
"""Of this machine: until a test has seen that."""
IDLE_S: Final = 0.020
"""How long a replica idles at most while somebody waits, at the 99th percentile."""


@dataclass(slots=True)
class Replica:
    """The function: takes some time for each request, and writes down when."""

    work_s: float = 0.005
    in_flight: int = 0
    most: int = 0
    begun: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)

    async def serve(self, invocation: Invocation) -> web.StreamResponse:
        if invocation.path == HEALTH_PATH:
            return web.Response(text="OK")
        self.begun.append(time.monotonic())
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(self.work_s)
        self.in_flight -= 1
        self.ended.append(time.monotonic())
        return web.Response(text="ok")

    def idle_s(self, pulse: Pulse, since: int = 0) -> list[float]:
        """Between one request and the next, in order of length; of one that takes one at a time."""
        pairs = zip(self.ended[since:], self.begun[since + 1 :], strict=False)
        return sorted(pulse.took_s(ended, begun) for ended, begun in pairs)


@dataclass(slots=True)
class Pair:
    """Both Porteros, ready and knowing of each other."""

    faas: FakeOpenFaas
    replica: Replica
    some: list[tuple[Process, tuple[str, int]]]
    pulse: Pulse

    def is_back_in_time(self, since: float) -> bool:
        """``since`` is the instant of a crash; time in which the machine stood still does not count."""
        return self.pulse.took_s(since) <= BACK_S + SLACK_S

    async def get(self, at: int) -> RawAnswer | None:
        """None when the connection was closed without an answer."""
        with contextlib.suppress(ConnectionError):
            return await send_raw(self.some[at][1], request_bytes("GET /function/survey-web"), timeout_s=30)
        return None

    async def storm(self, *numbers: int) -> Counter[int]:
        """So many requests at each of them, all at once; how they were answered."""
        asked = [self.get(at) for at, number in enumerate(numbers) for _ in range(number)]
        return Counter(answer.status if answer is not None else 0 for answer in await asyncio.gather(*asked))

    def deploy(self, *, replicas: int, start_s: float = 0.3) -> str:
        return self.faas.add("survey-web", "acme", replicas=replicas, start_s=start_s, handler=self.replica.serve)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        server.command("SET", "portero:{activator}:since", "1")  # it has been there for long: it gives slots at once
        yield server


@contextlib.asynccontextmanager
async def pair(redis: RedisServer, policy: str) -> AsyncIterator[Pair]:
    """``policy``: what acme's file says of ``survey-web``, without the brace that closes it."""
    with tempfile.TemporaryDirectory(prefix="portero-pair-") as name:
        folder = Path(name)
        async with FakeProvider(audience="survey") as provider, FakeOpenFaas() as faas:
            write_world(PLAIN, folder / "policies", issuer=provider.issuer, backend=faas.url)
            file = folder / "policies" / "acme.yaml"
            text = file.read_text()
            assert WEB in text
            file.write_text(text.replace(WEB, policy))
            (folder / "secrets" / "acme").mkdir(parents=True)
            (folder / "secrets" / "acme" / "ci.pem").write_bytes(Key(None, "EC", 77).public_pem())
            settings = {
                "policies": folder / "policies",
                "secrets": folder / "secrets",
                "audit": folder / "audit.log",
                "allow_loopback_http": True,
                "redis": redis.url,
            }
            async with replica_processes(2, settings, patience_s=PATIENCE_S) as some:
                await asyncio.sleep(2.3)  # both have counted both
                with Pulse() as pulse:
                    yield Pair(faas, Replica(), some, pulse)


async def test_one_at_a_time_and_hardly_a_pause(redis: RedisServer) -> None:
    """400 requests at a sleeping function of one: one wake, never two in flight, all served, 20 ms idle at p99."""
    async with pair(redis, SHARED) as both:
        key = both.deploy(replicas=0)
        assert await both.storm(200, 200) == {200: 400}
        assert both.faas.wake_calls == [key]
        assert both.replica.most == 1
        idle_s = both.replica.idle_s(both.pulse)
        for _ in range(2):  # of several rounds the quietest counts
            if idle_s[int(0.99 * len(idle_s))] > IDLE_S:
                since = len(both.replica.ended)
                assert await both.storm(200, 200) == {200: 400}
                assert both.replica.most == 1
                idle_s = both.replica.idle_s(both.pulse, since)
        assert idle_s[int(0.99 * len(idle_s))] <= IDLE_S, f"{idle_s[-10:]}"


async def test_who_comes_elsewhere_is_served_soon(redis: RedisServer) -> None:
    """A long line at one Portero does not keep the few at the other: slots go in turn."""
    async with pair(redis, SHARED) as both:
        both.deploy(replicas=1)
        crowd = asyncio.create_task(both.storm(200))
        await asyncio.sleep(0.3)
        before = len(both.replica.ended)
        assert await both.storm(0, 5) == {200: 5}
        assert len(both.replica.ended) - before < 40
        assert await crowd == {200: 200}
        assert both.replica.most == 1


async def test_what_a_crashed_portero_had_is_back(redis: RedisServer) -> None:
    """SIGKILL of the one that has the only slot: who waits at the other is served within 5 s."""
    async with pair(redis, SHARED) as both:
        both.deploy(replicas=1)
        both.replica.work_s = 2.0  # over before its slot is given again, and not before the crash
        first = asyncio.create_task(both.storm(3))
        await until(lambda: both.replica.in_flight == 1)
        second = asyncio.create_task(both.storm(0, 3))
        await asyncio.sleep(0.2)
        both.some[0][0].kill()
        killed_at = time.monotonic()
        both.replica.work_s = 0.05
        assert await first == {0: 3}
        before = len(both.replica.begun)
        await until(lambda: len(both.replica.begun) > before)
        assert both.is_back_in_time(killed_at)
        assert await second == {200: 3}
        assert both.replica.most == 1


async def test_as_many_wait_in_all_as_may(redis: RedisServer) -> None:
    """``max_held`` is of both together, and a crashed Portero's places are there again."""
    async with pair(redis, f"{WEB}, cold_start: {{max_wait: 20s, max_held: 20}}") as both:
        both.deploy(replicas=0, start_s=60)
        waiting = [asyncio.create_task(both.get(at % 2)) for at in range(60)]
        await until(lambda: sum(task.done() for task in waiting) >= 40)
        await asyncio.sleep(0.3)
        refused = [await task for task in waiting if task.done()]
        assert [answer and answer.reason for answer in refused] == ["queue-full"] * 40
        held = [sum(not task.done() for task in waiting[at::2]) for at in range(2)]
        crashed = held.index(max(held))
        both.some[crashed][0].kill()
        killed_at = time.monotonic()
        while await ends(late := asyncio.create_task(both.get(1 - crashed))):
            assert both.is_back_in_time(killed_at), f"held: {held}"
        for task in (*waiting, late):
            task.cancel()
        await asyncio.gather(*waiting, late, return_exceptions=True)


async def test_without_scope_each_has_its_share(redis: RedisServer) -> None:
    """A function of four at a time, counted locally: two at each Portero; of the one that is left, all four."""
    async with pair(redis, f"{WEB}, concurrency: 4") as both:
        both.deploy(replicas=1)
        both.replica.work_s = 0.05
        assert await both.storm(20, 20) == {200: 40}
        assert both.replica.most <= 4
        both.some[0][0].kill()
        killed_at = time.monotonic()
        both.replica.most = 0
        while both.replica.most < 4:
            assert both.is_back_in_time(killed_at)
            assert await both.storm(0, 10) == {200: 10}


async def until(is_true: Callable[[], bool], *, timeout_s: float = 25.0) -> None:
    """Wait for what a process brings about."""
    async with asyncio.timeout(timeout_s):
        while not is_true():  # noqa: ASYNC110  # another process brings it about
            await asyncio.sleep(0.002)


async def ends(task: asyncio.Task[RawAnswer | None]) -> bool:
    """Whether it is answered at once: refused, as nothing is served here."""
    await asyncio.wait([task], timeout=1.3)
    return task.done()
