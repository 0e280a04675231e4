"""Redis dies during load: nobody sees an error, limits go on by local share, and Redis is used when it is back."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.fakes.redis_server import RedisServer, redis_server
from tests.fakes.world import World, parse_answer, request_bytes, running_world

pytestmark = [pytest.mark.redis, pytest.mark.alone]

TASKS = 8
"""Callers at once: few enough that a busy machine's own queueing stays below what is measured."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class Load:
    """Callers that ask again and again over kept connections and write down when, how long and with which status."""

    def __init__(self, world: World, line: str = "GET /function/survey-web") -> None:
        self.samples: list[tuple[float, float, int, str | None]] = []
        """Start (monotonic), duration in seconds, status, reason."""
        data = request_bytes(line).replace(b"Connection: close\r\n", b"")
        self._tasks = [asyncio.create_task(self._ask(world.app.public_address, data)) for _ in range(TASKS)]

    async def _ask(self, address: tuple[str, int], data: bytes) -> None:
        reader, writer = await asyncio.open_connection(*address)
        try:
            while True:
                started = time.monotonic()
                writer.write(data)
                head = await reader.readuntil(b"\r\n\r\n")
                answer = parse_answer(head)
                await reader.readexactly(int(answer.field("content-length") or 0))
                self.samples.append((started, time.monotonic() - started, answer.status, answer.reason))
                await asyncio.sleep(0.005)
        finally:
            writer.close()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended

    def durations(self, since: float, until: float) -> list[float]:
        return sorted(duration for started, duration, _, _ in self.samples if since <= started < until)


async def test_killing_redis_during_load_costs_nobody_an_answer(redis: RedisServer) -> None:
    """No 5xx; at most 60 ms once and 2 ms more afterwards; Redis is used again within 2 s of its return."""
    async with running_world(redis=redis.url) as world:
        world.faas.add("survey-web", "acme")
        load = Load(world)
        await asyncio.sleep(1.5)
        killed_at = time.monotonic()
        redis.kill()
        await asyncio.sleep(2.5)
        assert world.app.parts.store.is_degraded  # type: ignore[attr-defined] # a RedisStore here
        redis.start()
        back_at = time.monotonic()
        while world.app.parts.store.is_degraded:  # type: ignore[attr-defined]
            assert time.monotonic() - back_at < 2.0
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        await load.stop()
    assert {status for _, _, status, _ in load.samples} <= {200, 429}
    before = load.durations(killed_at - 1.0, killed_at)
    during = load.durations(killed_at, killed_at + 0.5)
    after = load.durations(killed_at + 0.5, back_at)
    assert len(before) > 100
    assert len(after) > 100
    usual = before[int(len(before) * 0.99)]
    assert during[-1] <= usual + 0.060 + 0.040  # the second term is this machine's, not Redis'
    assert after[len(after) // 2] <= before[len(before) // 2] + 0.002


async def test_a_redis_that_hangs_is_given_up_after_fifty_milliseconds(redis: RedisServer) -> None:
    """A black hole instead of a refused connection: each request is answered, and the wait happens once."""
    async with running_world(redis=redis.url) as world:
        world.faas.add("survey-web", "acme")
        load = Load(world)
        await asyncio.sleep(1.0)
        frozen_at = time.monotonic()
        redis.freeze()
        await asyncio.sleep(2.0)
        thawed_at = time.monotonic()
        redis.thaw()
        await asyncio.sleep(2.2)
        assert not world.app.parts.store.is_degraded  # type: ignore[attr-defined]
        await load.stop()
    assert {status for _, _, status, _ in load.samples} <= {200, 429}
    slow = [started for started, duration, _, _ in load.samples if duration > 0.04 and frozen_at <= started < thawed_at]
    assert len(slow) <= TASKS * 3


async def test_the_local_share_holds_while_redis_is_down(redis: RedisServer) -> None:
    """With one replica the share is the whole limit: no more than burst and rate allow pass without Redis."""
    async with running_world(redis=redis.url) as world:
        file = world.policies / "acme.yaml"
        text = file.read_text().replace("limits:\n", "limits:\n  - {id: total, per: tenant, rate: 10/s, burst: 20}\n")
        file.write_text(text)
        assert await world.app.parts.folder.reload()
        world.faas.add("survey-web", "acme")
        redis.kill()
        started = time.monotonic()
        answers = [(await world.get("/function/survey-web")).status for _ in range(60)]
        took = time.monotonic() - started
    assert set(answers) == {200, 429}
    assert 20 <= answers.count(200) <= 20 + 10 * took + 2
