"""Redis dies during load: nobody sees an error, limits go on by local share, and Redis is used when it is back."""

import asyncio
import time
from collections.abc import Iterator
from typing import Final

import pytest

from tests.fakes.pulse import Pulse
from tests.fakes.redis_server import RedisServer, redis_server
from tests.fakes.world import World, parse_answer, request_bytes, running_world

pytestmark = [pytest.mark.redis, pytest.mark.alone]

TASKS: Final = 8
"""Callers at once: few enough that a busy machine's own queueing stays below what is measured."""
ENOUGH: Final = 100
"""Answers to tell how long they take."""
BACK_S: Final = 2.0
"""Redis is used again within that of its return."""


@pytest.fixture
def pulse() -> Iterator[Pulse]:
    with Pulse() as pulse:
        yield pulse


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class Load:
    """Callers that ask again and again over kept connections and write down when, how long and with which status."""

    def __init__(self, world: World, pulse: Pulse, line: str = "GET /function/survey-web") -> None:
        self._pulse = pulse
        self.samples: list[tuple[float, float, int, str | None]] = []
        """Start (monotonic), duration in seconds (those that the machine stood still left out), status, reason."""
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
                self.samples.append((started, self._pulse.took_s(started), answer.status, answer.reason))
                await asyncio.sleep(0.005)
        finally:
            writer.close()

    async def enough(self, since: float) -> None:
        """Until there are enough answers to what was asked since then."""
        async with asyncio.timeout(20):
            while len(self.durations(since, time.monotonic())) <= ENOUGH:  # noqa: ASYNC110  # the callers tell nobody
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended

    def durations(self, since: float, until: float) -> list[float]:
        return sorted(duration for started, duration, _, _ in self.samples if since <= started < until)


async def test_killing_redis_during_load_costs_nobody_an_answer(redis: RedisServer, pulse: Pulse) -> None:
    """No 5xx; at most 60 ms once and 2 ms more afterwards; Redis is used again within 2 s of its return."""
    async with running_world(redis=redis.url) as world:
        world.faas.add("survey-web", "acme")
        load = Load(world, pulse)
        await asyncio.sleep(0.5)
        warm_at = time.monotonic()
        await asyncio.sleep(1.0)
        await load.enough(warm_at)
        killed_at = time.monotonic()
        redis.kill()
        await asyncio.sleep(2.5)
        settled_at = killed_at + 0.5 + pulse.lost_s(killed_at, killed_at + 2.0)
        await load.enough(settled_at)
        assert world.app.parts.store.is_degraded  # type: ignore[attr-defined] # a RedisStore here
        down_until = time.monotonic()
        redis.start()
        back_at = time.monotonic()
        while world.app.parts.store.is_degraded:  # type: ignore[attr-defined]
            assert pulse.took_s(back_at) < BACK_S
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        await load.stop()
    assert {status for _, _, status, _ in load.samples} <= {200, 429}
    before = load.durations(warm_at, killed_at)
    during = load.durations(killed_at, settled_at)
    after = load.durations(settled_at, down_until)
    usual = before[int(len(before) * 0.99)]
    # What is beyond 60 ms and 2 ms is this machine's, not Redis': more where it is slow.
    assert during[-1] <= 0.060 + 3 * usual + 0.040
    assert after[len(after) // 2] <= 2 * before[len(before) // 2] + 0.002


async def test_a_redis_that_hangs_is_given_up_after_fifty_milliseconds(redis: RedisServer, pulse: Pulse) -> None:
    """A black hole instead of a refused connection: each request is answered, and the wait happens once."""
    async with running_world(redis=redis.url) as world:
        world.faas.add("survey-web", "acme")
        load = Load(world, pulse)
        await asyncio.sleep(1.0)
        frozen_at = time.monotonic()
        redis.freeze()
        await asyncio.sleep(2.0)
        thawed_at = time.monotonic()
        redis.thaw()
        while world.app.parts.store.is_degraded:  # type: ignore[attr-defined]
            assert pulse.took_s(thawed_at) < BACK_S + 0.5
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
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
