"""A cluster in Redis when Redis is slow, gone, emptied or lied to: what is not known is not given."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from authproxy.activator import cluster_redis
from authproxy.activator.cluster import find_place
from authproxy.activator.cluster_places import PATIENCE_S
from authproxy.activator.cluster_redis import RedisCluster
from policies.errors import StoreUnavailable
from tests.contracts.cluster import Replica, SlotRoom, fresh_key, until
from tests.fakes.redis_server import RedisServer, redis_server
from tests.fakes.steady_loop import SteadyLoop

pytestmark = pytest.mark.redis
LOOP = SteadyLoop
"""A Redis that answers at once must not look dead for what others on the machine cost."""
SINCE = ("SET", "portero:{activator}:since", "1")
"""It has been there for long."""
SOON_S = 1.0
"""Patience with a machine that is busy, of seconds in which it runs."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server(password="canary-of-redis") as server:
        yield server


@pytest.fixture(scope="module")
def lasting() -> Iterator[RedisServer]:
    """One that no test here breaks."""
    with redis_server() as server:
        server.command(*SINCE)
        yield server


def now() -> float:
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def portero(url: str, failures: list[None] | None = None) -> AsyncIterator[RedisCluster]:
    cluster = RedisCluster(url, on_failure=None if failures is None else lambda: failures.append(None))
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.close()


async def test_without_redis_each_has_its_part(redis: RedisServer) -> None:
    """Redis is gone from the start: nothing waits for long, nothing is shared, and it is counted."""
    redis.kill()
    failures: list[None] = []
    begun = now()
    async with portero(redis.url, failures) as one:
        assert now() - begun < 2 + SOON_S
        assert one.sharers == 1
        with pytest.raises(StoreUnavailable) as raised:
            await one.lease_wake(fresh_key())
        assert "canary" not in f"{raised.value!r} {one!r}"
        await one.keep_wake("f")
        await one.end_wake("f")
        assert await find_place(one, "tenant:acme", 10, lambda: 9)
        assert not await find_place(one, "tenant:acme", 10, lambda: 10)
        told: list[int] = []
        one.slots("f", told.append).want(0, 1, 1)
        failures.clear()
        await until(lambda: len(failures) > 5)
        assert told == []


async def test_a_part_is_that_of_the_porteros_seen_last(lasting: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of which neither reaches Redis: each has half of the places, and none has none."""
    async with portero(lasting.url) as one, portero(lasting.url) as other:
        await until(lambda: one.sharers == 2)

        async def silence(*_: object) -> object:
            raise StoreUnavailable("redis: gone")

        for each in (one, other):
            monkeypatch.setattr(each._link, "run", silence)
        assert await find_place(one, "tenant:globex", 10, lambda: 4)
        assert not await find_place(one, "tenant:globex", 10, lambda: 5)
        assert await find_place(other, "tenant:initech", 1, lambda: 0)


async def test_a_redis_that_does_not_answer_costs_one_wait(lasting: RedisServer) -> None:
    """A frozen Redis: the first who comes waits 100 ms, those after him do not; who has a place has it."""
    async with portero(lasting.url) as one:
        assert await find_place(one, "tenant:acme", 100, lambda: 0)
        lasting.freeze()
        try:
            assert one.has_place("tenant:acme", 100, 0)
            begun = now()
            assert await find_place(one, "tenant:globex", 1, lambda: 0)
            assert now() - begun < PATIENCE_S + SOON_S
            begun = now()
            for at in range(100):
                assert await find_place(one, f"tenant:{at}", 1, lambda: 0)
            assert now() - begun < 10 * PATIENCE_S
        finally:
            lasting.thaw()


async def test_who_leaves_while_asking_takes_nothing(lasting: RedisServer) -> None:
    """Cancelled in the middle, a hundred times: all places are there, and the next caller is answered."""
    async with portero(lasting.url) as one, portero(lasting.url) as other:
        key = fresh_key()
        tasks = [asyncio.create_task(find_place(one, key, 5, lambda: 0)) for _ in range(100)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await find_place(one, key, 5, lambda: 0)
        await asyncio.sleep(2.2)
        assert await find_place(other, key, 5, lambda: 4)


async def test_lost_messages_cost_a_quarter_of_a_second(lasting: RedisServer) -> None:
    """The subscription is cut again and again: everyone is served all the same, never two at once."""
    async with portero(lasting.url) as one, portero(lasting.url) as other:
        key, replica = fresh_key(), Replica(1)
        rooms = [SlotRoom(each, key, replica) for each in (one, other)]
        for room in rooms:
            room.arrive(100)
        for served in range(10, 210, 10):
            lasting.command("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda served=served: len(replica.served) >= served)  # type: ignore[misc]  # its own
        assert replica.faults == []
        assert max(replica.idle_s) < 0.25 + SOON_S


async def test_a_restart_of_redis_lets_nobody_in_twice(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It forgets who uses what: nothing is given until all have said so; then it goes on."""
    async with portero(redis.url) as one, portero(redis.url) as other:
        key, replica = fresh_key(), Replica(1, service_s=1.5)
        rooms = [SlotRoom(each, key, replica) for each in (one, other)]
        rooms[0].arrive()
        await until(lambda: replica.in_flight == 1)
        monkeypatch.setattr(
            cluster_redis, "GRACE_S", 3.5
        )  # Redis' time goes on while the Porteros' machine stands still
        replica.service_s = 0.01
        rooms[1].arrive(5)
        redis.kill()
        redis.start()
        await until(lambda: len(replica.served) == 6 and not replica.in_flight)
        assert replica.faults == []


@pytest.mark.parametrize("what", ["", "1 1", "1 1 1", "-1 5 0 f", "x y z f", "1 99 0 other", "\x00" * 100, "9 9 9 é"])
async def test_a_message_that_is_none_is_ignored(lasting: RedisServer, what: str) -> None:
    """Whoever may publish sends rubbish: nothing is taken, and the listening goes on."""
    async with portero(lasting.url) as one:
        told: list[int] = []
        one.slots("f", told.append)
        await until(lambda: lasting.command("PUBLISH", f"portero:{{activator}}:to:{one._holder}", what) == b":1")
        replica = Replica(1)
        room = SlotRoom(one, fresh_key(), replica)
        room.arrive(3)
        await until(lambda: len(replica.served) == 3)
        assert told == []


async def test_a_key_of_another_kind_is_a_refusal(lasting: RedisServer) -> None:
    """Somebody else's data under our names: no slot, no place beyond one's part, and no exception."""
    failures: list[None] = []
    async with portero(lasting.url, failures) as one:
        lasting.command("SET", "portero:{activator}:slots:odd", "x")
        lasting.command("SET", "portero:{activator}:places:odd", "x")
        told: list[int] = []
        one.slots("odd", told.append).want(0, 1, 1)
        await until(lambda: bool(failures))
        assert not await find_place(one, "odd", 3, lambda: 3)
        assert await find_place(one, "odd", 3, lambda: 2)
        assert told == []


async def test_an_idle_function_costs_nothing(lasting: RedisServer) -> None:
    """Neither a task nor a command a second, once nothing is in use or wanted."""
    async with portero(lasting.url) as one:
        before = len(asyncio.all_tasks())
        rooms = [SlotRoom(one, fresh_key(), Replica(1)) for _ in range(20)]
        for room in rooms:
            room.arrive()
            room.leave()
        for room in rooms:
            room.arrive(2)
        await until(lambda: all(len(room.replica.served) == 2 for room in rooms))
        await until(lambda: len(asyncio.all_tasks()) == before)


async def test_closing_gives_everything_back(lasting: RedisServer) -> None:
    """Nobody waits for what a Portero had that was shut down in order."""
    async with portero(lasting.url) as other:
        key, replica = fresh_key(), Replica(1)
        async with portero(lasting.url) as one:
            await until(lambda: one.sharers == 2)
            assert await find_place(one, key, 1, lambda: 0)
            pool = one.slots(key, lambda _: None)
            pool.want(0, 1, 1)
            room = SlotRoom(other, key, replica)
            await asyncio.sleep(0.05)
            room.arrive()
        begun = now()
        await until(lambda: len(replica.served) == 1)
        assert await find_place(other, key, 1, lambda: 0)
        assert now() - begun < SOON_S
        await until(lambda: other.sharers == 1)


async def test_more_bounds_than_may_be_known_are_refused(lasting: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tries names does not fill memory; and a bound that nobody needs is forgotten."""
    monkeypatch.setattr("authproxy.activator.cluster_places.MAX_BOUNDS", 50)
    async with portero(lasting.url) as one:
        had = [await find_place(one, f"function:{at}", 10, lambda: 0) for at in range(80)]
        assert had.count(True) == 50
        await until(lambda: len(one._places) == 0)
        assert await find_place(one, "function:99", 10, lambda: 0)
