"""
Attack family A9: a storm of requests on three processes, one expired session, a provider that detects reuse.

Everything is real but the provider's slowness: processes, Redis, HTTP. Exactly one refresh succeeds, nobody is refused.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fakes.redis_server import RedisServer, redis_server
from tests.fakes.rotating_provider import RotatingProvider, rotating_provider

pytestmark = [pytest.mark.redis, pytest.mark.alone]

ROOT = Path(__file__).parents[2]
SHARES = (67, 67, 66)
"""Requests of each process: 200 in all."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
async def provider() -> AsyncIterator[RotatingProvider]:
    async with rotating_provider() as one:
        yield one


class Replica:
    """A process with a ``Refresher``."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def ask(self, session_id: str, requests: int) -> Counter[str]:
        """What became of so many requests at once; empty when it was killed meanwhile."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{session_id} {requests}\n".encode())
        line = await self._process.stdout.readline()
        return Counter(json.loads(line)) if line else Counter()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()


@asynccontextmanager
async def replicas(redis_url: str, token_url: str, count: int = 3) -> AsyncIterator[list[Replica]]:
    """Started and ready."""
    command = (sys.executable, "-m", "tests.fakes.refresh_replica", redis_url, token_url)
    some = [
        Replica(await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE)) for _ in range(count)
    ]
    try:
        for one in some:
            assert one._process.stdout is not None
            assert await one._process.stdout.readline() == b"ready\n"
        yield some
    finally:
        for one in some:
            await one.end()


async def storm(some: list[Replica], session_id: str = "s1") -> Counter[str]:
    """Two hundred requests at once, over all of them."""
    shares = zip(some, SHARES, strict=False)
    return sum(await asyncio.gather(*(one.ask(session_id, share) for one, share in shares)), Counter())


async def until(condition: Callable[[], bool], at_most_s: float = 20.0) -> None:
    deadline = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)


async def test_a_storm_is_one_refresh(redis: RedisServer, provider: RotatingProvider) -> None:
    """200 requests, 3 processes: one call, everybody has version 2; then again with another session, while warm."""
    provider.delay_s = 0.3
    async with replicas(redis.url, provider.url) as some:
        for turn in (1, 2, 3):
            assert await storm(some, f"s{turn}") == {f"2 s{turn}.2": 200}
            assert (provider.arrived, provider.refreshed, provider.refused) == (turn, turn, 0)


async def test_a_storm_over_a_provider_that_is_quick_is_one_refresh(
    redis: RedisServer, provider: RotatingProvider
) -> None:
    """Whoever comes when the first has just ended finds its result: thirty sessions, each refreshed once."""
    async with replicas(redis.url, provider.url) as some:
        for n in range(30):
            ends = await asyncio.gather(*(one.ask(f"q{n}", 7) for one in some))
            assert sum(ends, Counter()) == {f"2 q{n}.2": 21}
    assert (provider.arrived, provider.refreshed) == (30, 30)


@pytest.mark.slow
async def test_a_storm_over_a_provider_of_eight_seconds_is_one_refresh(
    redis: RedisServer, provider: RotatingProvider
) -> None:
    """Slower than the lease lasts: it is renewed, nobody takes over, nobody gives up."""
    provider.delay_s = 8.0
    async with replicas(redis.url, provider.url) as some:
        began = time.monotonic()
        assert await storm(some) == {"2 s1.2": 200}
        assert 8.0 <= time.monotonic() - began < 15.0
    assert (provider.arrived, provider.refreshed, provider.refused) == (1, 1, 0)


@pytest.mark.slow
async def test_a_storm_survives_the_death_of_the_holder(redis: RedisServer, provider: RotatingProvider) -> None:
    """SIGKILL before the provider has acted: another takes over, one refresh succeeds, no survivor is logged out."""
    provider.delay_s = 30.0
    async with replicas(redis.url, provider.url) as some:
        holder, *others = some
        first = asyncio.create_task(holder.ask("s1", SHARES[0]))
        await until(lambda: provider.arrived == 1)
        provider.delay_s = 0.5
        rest = asyncio.create_task(storm(others))
        await asyncio.sleep(0.5)
        holder.signal(signal.SIGKILL)
        assert await first == {}
        assert await rest == {"2 s1.2": SHARES[0] + SHARES[1]}
    assert (provider.arrived, provider.given_up, provider.refreshed, provider.refused) == (2, 1, 1, 0)


@pytest.mark.slow
async def test_a_storm_survives_a_holder_that_is_stopped(redis: RedisServer, provider: RotatingProvider) -> None:
    """SIGSTOP while the provider works, for less than the lease: on its return it shares the one result."""
    provider.delay_s = 0.4
    async with replicas(redis.url, provider.url) as some:
        holder, *others = some
        first = asyncio.create_task(holder.ask("s1", SHARES[0]))
        await until(lambda: provider.arrived == 1)
        rest = asyncio.create_task(storm(others))
        holder.signal(signal.SIGSTOP)
        await asyncio.sleep(0.8)  # a second more of a machine that stands still is less than a lease, too
        holder.signal(signal.SIGCONT)
        assert await first == {"2 s1.2": SHARES[0]}
        assert await rest == {"2 s1.2": SHARES[0] + SHARES[1]}
    assert (provider.arrived, provider.refreshed, provider.refused) == (1, 1, 0)


@pytest.mark.slow
async def test_a_storm_survives_a_pause_of_redis(redis: RedisServer, provider: RotatingProvider) -> None:
    """SIGSTOP of Redis while the provider works, for longer than the lease: the result waits, and is the only one."""
    provider.delay_s = 1.0
    async with replicas(redis.url, provider.url) as some:
        task = asyncio.create_task(storm(some))
        await until(lambda: provider.arrived == 1)
        await asyncio.sleep(0.5)
        redis.freeze()
        await asyncio.sleep(4.5)
        redis.thaw()
        assert await task == {"2 s1.2": 200}
    assert (provider.arrived, provider.refreshed, provider.refused) == (1, 1, 0)


@pytest.mark.slow
async def test_a_short_restart_of_redis_logs_nobody_out(redis: RedisServer, provider: RotatingProvider) -> None:
    """Killed before the storm and back, empty, within a lease's time: replicas wait, and refresh once together."""
    async with replicas(redis.url, provider.url) as some:
        assert await storm(some, "warm") == {"2 warm.2": 200}
        redis.kill()
        task = asyncio.create_task(storm(some))
        await asyncio.sleep(0.5)
        redis.start()
        assert await task == {"2 s1.2": 200}
    assert (provider.arrived, provider.refreshed, provider.refused) == (2, 2, 0)


@pytest.mark.slow
async def test_without_redis_a_process_goes_on(redis: RedisServer, provider: RotatingProvider) -> None:
    """Redis is down for good: the one replica that the session's requests reach refreshes it, once (R50)."""
    redis.kill()
    async with replicas(redis.url, provider.url, count=1) as some:
        began = time.monotonic()
        assert await storm(some, "s1") == {"2 s1.2": SHARES[0]}
        assert time.monotonic() - began < 12.0
    assert (provider.arrived, provider.refreshed, provider.refused) == (1, 1, 0)
