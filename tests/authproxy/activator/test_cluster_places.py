"""Places reserved over a slow network, with the real script: the ceiling holds, and what is left is found."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from redis import Redis

from authproxy.activator import cluster_places
from authproxy.activator.cluster_places import TTL_S, Need, Places
from authproxy.activator.cluster_redis import RESERVE
from policies.errors import StoreUnavailable
from tests.contracts.cluster import until
from tests.fakes.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.redis
KEY = "portero:{activator}:places:x"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Late is not down, however busy the machine."""
    monkeypatch.setattr(cluster_places, "PATIENCE_S", 30.0)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class Script:
    """The script, with a clock of the test's."""

    def __init__(self, port: int) -> None:
        self.now = 1_700_000_000.0
        self._client = Redis(port=port)
        self._numbers = itertools.count(1)
        self._client.flushall()

    def reserve(self, holder: str, *need: int, number: int | None = None) -> int:
        """``need``: ceiling, used, needed, wanted."""
        return self.reserve_all(holder, [Need("x", *need)], next(self._numbers) if number is None else number)[0]

    def reserve_all(self, holder: str, needs: Sequence[Need], number: int) -> list[int]:
        words = [int(1e6 * self.now), holder, number, int(1e6 * TTL_S)]
        words += [one for need in needs for one in need[1:]]
        keys = [KEY for _ in needs]
        reply: Any = self._client.eval(RESERVE.text.decode(), len(keys), *keys, *map(str, words))
        return list(reply)

    def put(self, holder: str, row: str) -> None:
        self._client.hset(KEY, holder, row)

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def script(redis: RedisServer) -> Iterator[Script]:
    script = Script(redis.port)
    yield script
    script.close()


def test_nobody_has_what_others_have(script: Script) -> None:
    """The last place is one holder's; what is in use is its holder's, whatever others have."""
    assert script.reserve("a", 10, 0, 7, 7) == 7
    assert script.reserve("b", 10, 0, 7, 7) == 3
    assert script.reserve("c", 10, 0, 1, 1) == 0
    assert script.reserve("c", 10, 2, 3, 3) == 2
    assert script.reserve("a", 10, 1, 1, 1) == 1
    assert script.reserve("b", 10, 3, 7, 7) == 7


def test_nobody_hoards_when_places_get_few(script: Script) -> None:
    """Ahead of need there is a quarter of what is left at most; what one has already stays."""
    assert script.reserve("a", 100, 0, 1, 9) == 9
    assert script.reserve("b", 100, 0, 83, 95) == 85
    assert script.reserve("a", 100, 8, 9, 17) == 10
    assert script.reserve("a", 100, 9, 10, 18) == 11


def test_what_a_silent_holder_had_is_free(script: Script) -> None:
    """After ``TTL_S``, and not before; a clock that is set back does not make it longer."""
    script.reserve("a", 5, 5, 5, 5)
    script.now += TTL_S - 0.01
    assert script.reserve("b", 5, 0, 1, 1) == 0
    script.now -= 3600
    assert script.reserve("b", 5, 0, 1, 1) == 0
    script.now += TTL_S
    assert script.reserve("b", 5, 0, 1, 1) == 1


def test_an_older_word_changes_nothing(script: Script) -> None:
    """It may say less than what is in use now."""
    script.reserve("a", 5, 5, 5, 5, number=7)
    assert script.reserve("a", 5, 0, 0, 0, number=6) == -1
    assert script.reserve("b", 5, 0, 1, 1) == 0


@pytest.mark.parametrize("junk", ["", "x", "1 2", "1 -5 99999999999999999", "1 1 1e999"])
def test_what_nobody_wrote_is_forgotten(script: Script, junk: str) -> None:
    """A field that cannot be read takes no place from anybody."""
    script.put("z", junk)
    assert script.reserve("a", 5, 0, 5, 5) == 5


@pytest.mark.parametrize("seed", range(4))
async def test_the_ceiling_holds_whatever_is_late(script: Script, seed: int) -> None:
    """Three Porteros that come, leave, ask and renew at random over a network that is slow: never one too many."""
    chance = random.Random(seed)
    ceiling, held = 20, [0, 0, 0]
    numbers = itertools.count(1)

    def places_of(at: int) -> Places:
        async def reserve(needs: Sequence[Need]) -> Sequence[int]:
            number = next(numbers)
            await asyncio.sleep(chance.random() * 0.004)
            reply = script.reserve_all(f"h{at}", needs, number)
            await asyncio.sleep(chance.random() * 0.004)
            return reply

        places = Places(reserve, lambda: 3)
        places.count = lambda _: held[at]
        return places

    some = [places_of(at) for at in range(3)]
    refused = [0]

    async def come_and_go(at: int) -> None:
        for _ in range(12):
            await asyncio.sleep(chance.random() * 0.01)
            while not some[at].has_place("x", ceiling, held[at]):
                if not await some[at].reserve("x", ceiling, held[at]):
                    refused[0] += 1
                    break
            else:
                held[at] += 1
                assert sum(held) <= ceiling
                await asyncio.sleep(chance.random() * 0.02)
                held[at] -= 1

    async def renew(at: int) -> None:
        while True:
            await some[at].renew()
            await asyncio.sleep(chance.random() * 0.01)

    renewals = [asyncio.create_task(renew(at)) for at in range(3)]
    try:
        await asyncio.gather(*(come_and_go(at % 3) for at in range(45)))
        assert refused[0], "it was never full, and says nothing"
        await until(lambda: all(len(places) == 0 for places in some))
    finally:
        for task in renewals:
            task.cancel()
        await asyncio.gather(*renewals, return_exceptions=True)


async def test_an_outage_ends_with_the_first_renewal() -> None:
    """While it lasts each has its part, without asking; what was reserved before is had as long as it is trusted."""
    now = [0.0]
    calls, is_down = [0], [False]

    async def reserve(needs: Sequence[Need]) -> Sequence[int]:
        calls[0] += 1
        if is_down[0]:
            raise StoreUnavailable("redis: down")
        return [need.wanted for need in needs]

    places = Places(reserve, lambda: 4, monotonic=lambda: now[0])
    assert await places.reserve("x", 40, 20)
    is_down[0] = True
    assert places.has_place("x", 40, 20)
    assert not await places.reserve("x", 40, 30)
    assert await places.reserve("y", 40, 9)
    assert not await places.reserve("y", 40, 10)
    assert calls[0] == 2
    is_down[0] = False
    await places.renew()
    assert await places.reserve("y", 40, 10)
    now[0] += 10
    assert not places.has_place("y", 40, 0)
