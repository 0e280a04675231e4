"""Limits in Redis: the contract over a real server, and that replicas count together and answer as memory does."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from authproxy.limits.batch import MAX_CHECKS
from authproxy.limits.connection import REPLICAS_KEY
from authproxy.limits.memory import MemoryStore
from authproxy.limits.redis import RedisStore
from authproxy.metrics import Metrics
from policies.gcra import Spent
from tests.contracts.limit_store import Clock, LimitStoreContract, World, check, property_of
from tests.fakes.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.redis


async def opened(server: RedisServer, clock: Clock | None = None, **options: bool) -> RedisStore:
    store = RedisStore(
        server.url, metrics=Metrics(), now_us=(lambda: clock.us) if clock is not None else None, **options
    )
    await store.start()
    assert not store.is_degraded
    return store


class TestRedisStore(LimitStoreContract):
    @pytest.fixture
    async def world(self, shared_redis: RedisServer) -> AsyncIterator[World]:
        clock = Clock(time.time_ns() // 1000)
        stores = [await opened(shared_redis, clock) for _ in range(3)]
        yield World(stores, clock, lambda: shared_redis.count_of("evalsha"))
        for store in stores:
            await store.close()


traces = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 999, 40_000, 100_000, 333_333, 1_000_000]),
        st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True),
        st.integers(1, 2),
        st.booleans(),
    ),
    min_size=1,
    max_size=30,
)
_runs = itertools.count()


@property_of(40)
@given(trace=traces)
async def test_redis_answers_as_memory_does(
    shared_redis: RedisServer, trace: list[tuple[int, list[int], int, bool]]
) -> None:
    """R8: on the same trace both stores give the same answers, states and waits included."""
    clock = Clock(time.time_ns() // 1000)
    redis = await opened(shared_redis, clock)
    memory = MemoryStore()
    run = next(_runs)
    try:
        for gap, which, cost, is_peek in trace:
            clock.us += gap
            checks = tuple(check(10.0 * (n + 1), 2 + n, key=f"t{run}-{n}", cost=cost) for n in which)
            if is_peek:
                answers = await redis.peek("acme", checks, clock.now), await memory.peek("acme", checks, clock.now)
            else:
                answers = await redis.spend("acme", checks, clock.now), await memory.spend("acme", checks, clock.now)
            from_redis, from_memory = answers
            if from_redis.refused is None or len(from_redis.states) == len(checks):
                assert from_redis == from_memory
            else:  # known to be used up and not asked for: what is known is what memory says, too
                assert from_memory.refused is not None
                assert set(from_redis.states) <= set(from_memory.states)
    finally:
        await redis.close()


@property_of(15)
@given(rounds=st.lists(st.tuples(st.sampled_from([0, 50_000, 400_000]), st.integers(1, 60)), min_size=1, max_size=6))
async def test_a_batch_answers_as_one_after_the_other(shared_redis: RedisServer, rounds: list[tuple[int, int]]) -> None:
    """R8: what is asked in one command is answered, and written, as if each had been asked alone."""
    clock = Clock(time.time_ns() // 1000)
    redis = await opened(shared_redis, clock)
    memory = MemoryStore()
    run = next(_runs)
    shared = check(20.0, 30, key=f"b{run}-shared")
    try:
        for gap, size in rounds:
            clock.us += gap
            asked = [(shared, check(5.0, 4, key=f"b{run}-{n % 5}")) for n in range(size)]
            together = await asyncio.gather(*(redis.spend("acme", checks, clock.now) for checks in asked))
            alone = [memory.spend_now("acme", checks, clock.now) for checks in asked]
            assert [spent.refused for spent in together] == [spent.refused for spent in alone]
            redis._exhausted._known.clear()
            for checks in asked[:5]:
                assert await redis.peek("acme", checks, clock.now) == memory.peek_now("acme", checks, clock.now)
            redis._exhausted._known.clear()
    finally:
        await redis.close()


async def test_checks_of_one_tick_are_one_command(shared_redis: RedisServer) -> None:
    """Requests that ask in the same turn of the loop travel together, of whatever tenant."""
    metrics = Metrics()
    store = RedisStore(shared_redis.url, metrics=metrics)
    await store.start()
    checks = [(check(key=f"tick{n}"), check(1000.0, 1000, key="tick")) for n in range(32)]
    await asyncio.gather(*(store.spend(f"tenant{n % 4}", asked, time.time()) for n, asked in enumerate(checks)))
    assert metrics.limit_store_commands_total.total() == 1
    await store.close()


async def test_a_command_carries_64_checks_at_most(shared_redis: RedisServer) -> None:
    """A long script would hold up everybody who uses the server; the rest goes in the next command."""
    metrics = Metrics()
    store = RedisStore(shared_redis.url, metrics=metrics)
    await store.start()
    asked = [tuple(check() for _ in range(8)) for _ in range(20)]
    answers = await asyncio.gather(*(store.spend("acme", checks, time.time()) for checks in asked))
    assert all(spent.refused is None for spent in answers)
    assert metrics.limit_store_commands_total.total() == 20 * 8 / MAX_CHECKS + 0.5
    assert (await store.spend("acme", [check() for _ in range(100)], time.time())).refused is None
    await store.close()


async def test_in_a_cluster_a_command_has_one_tenants_keys(shared_redis: RedisServer) -> None:
    """Keys of one command share the hash tag ``{tenant}``, so they are of one slot."""
    metrics = Metrics()
    store = RedisStore(shared_redis.url, metrics=metrics, is_cluster=True)
    await store.start()
    answers = await asyncio.gather(
        *(store.spend(f"tenant{n % 4}", (check(),), time.time()) for n in range(32)), return_exceptions=True
    )
    assert all(isinstance(spent, Spent) and spent.refused is None for spent in answers)
    assert metrics.limit_store_commands_total.total() == 4
    await store.close()


async def test_the_clock_is_the_servers(shared_redis: RedisServer) -> None:
    """A replica whose clock is wrong by an hour counts like the others."""
    right, wrong = await opened(shared_redis), await opened(shared_redis)
    one = check(0.1, 2)
    assert (await right.spend("acme", (one,), time.time())).refused is None
    assert (await wrong.spend("acme", (one,), time.time() + 3600)).refused is None
    assert (await right.spend("acme", (one,), time.time())).refused == 0
    await right.close()
    await wrong.close()


async def test_a_value_that_is_no_time_fails_only_its_own_requests(shared_redis: RedisServer) -> None:
    """Somebody wrote nonsense under one key: its tenant goes by local share, the others of the same command do not."""
    store = await opened(shared_redis)
    good = check(0.1, 1)
    for nonsense in ("garbage", "nan", "inf", "-5", "1e300"):
        broken = check(0.1, 1)
        shared_redis.command("SET", broken.key, nonsense)
        both = await asyncio.gather(
            store.spend("acme", (broken,), time.time()), store.spend("globex", (check(0.1, 1),), time.time())
        )
        assert [spent.refused for spent in both] == [None, None]
        assert (await store.spend("acme", (broken,), time.time())).refused == 0
        assert shared_redis.command("GET", broken.key).endswith(nonsense.encode())
    assert (await store.spend("acme", (good,), time.time())).refused is None
    assert not store.is_degraded
    await store.close()


async def test_a_key_of_another_type_is_overwritten(shared_redis: RedisServer) -> None:
    """A list under a limit's key does not break the script; the limit begins anew."""
    store = await opened(shared_redis)
    one = check(0.1, 1)
    shared_redis.command("RPUSH", one.key, "x")
    assert (await store.spend("acme", (one,), time.time())).refused is None
    assert (await store.spend("acme", (one,), time.time())).refused == 0
    await store.close()


async def test_a_server_set_back_by_a_day_does_not_refuse_for_a_day(shared_redis: RedisServer) -> None:
    """A time far beyond what the limit allows counts as just used up."""
    store = await opened(shared_redis)
    one = check(20.0, 1)
    shared_redis.command("SET", one.key, str(int((time.time() + 86_400) * 1e6)))
    assert (await store.spend("acme", (one,), time.time())).refused == 0
    await asyncio.sleep(0.06)
    assert (await store.spend("acme", (one,), time.time())).refused is None
    await store.close()


async def test_keys_expire_when_they_are_idle(shared_redis: RedisServer) -> None:
    """R7: Redis forgets a key a second after it is idle."""
    store = await opened(shared_redis)
    one = check(10.0, 5)
    await store.spend("acme", (one,), time.time())
    left_ms = int(shared_redis.command("PTTL", one.key).removeprefix(b":"))
    assert 900 < left_ms <= 1100
    await store.close()


async def test_scripts_may_be_flushed(shared_redis: RedisServer) -> None:
    """NOSCRIPT is answered by loading the script, once, and the request notices nothing."""
    store = await opened(shared_redis)
    shared_redis.command("SCRIPT", "FLUSH")
    assert (await store.spend("acme", (check(),), time.time())).refused is None
    assert not store.is_degraded
    await store.close()


async def test_replicas_count_each_other(shared_redis: RedisServer) -> None:
    """The heartbeat set says how many share the limits; one that closes is gone at once."""
    shared_redis.command("DEL", REPLICAS_KEY)
    first = await opened(shared_redis)
    second = await opened(shared_redis)
    assert (first.replicas, second.replicas) == (1, 2)
    await asyncio.sleep(1.1)
    assert first.replicas == 2
    await second.close()
    assert shared_redis.command("ZCARD", REPLICAS_KEY) == b":1"
    await first.close()


async def test_a_client_that_leaves_disturbs_nobody(shared_redis: RedisServer) -> None:
    """A cancelled request takes neither the command nor the others' answers with it."""
    store = await opened(shared_redis)
    tasks = [asyncio.ensure_future(store.spend("acme", (check(),), time.time())) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert all(isinstance(spent, Spent) for spent in answers[1:])
    await store.close()


async def test_without_start_the_first_request_connects(shared_redis: RedisServer) -> None:
    """A store that nobody started does not begin with a local share."""
    metrics = Metrics()
    store = RedisStore(shared_redis.url, metrics=metrics)
    assert store.spend_now("acme", (check(),), time.time()) is None
    assert (await store.spend("acme", (check(),), time.time())).refused is None
    assert metrics.limit_store_commands_total.total() == 1
    await store.close()
    await store.close()


def test_it_runs_on_uvloop(shared_redis: RedisServer) -> None:
    """The loop that production uses has transports of its own."""

    async def scenario() -> None:
        store = await opened(shared_redis)
        one = check(1.0, 10)
        answers = await asyncio.gather(*(store.spend("acme", (one,), time.time()) for _ in range(20)))
        assert sum(spent.refused is None for spent in answers) == 10
        await store.close()

    uvloop.run(scenario())


async def test_a_password_and_a_unix_socket() -> None:
    """The URL says who we are and where; a wrong password is a store that is down, not an exception."""
    with redis_server(password="s3cret@/", unix_socket=True) as server:
        for url in (
            f"redis://:s3cret%40%2F@127.0.0.1:{server.port}/3",
            f"unix://:s3cret%40%2F@{server.socket_path}?db=3",
        ):
            store = RedisStore(url, metrics=Metrics())
            await store.start()
            assert not store.is_degraded
            await store.close()
        wrong = RedisStore(f"redis://:wrong@127.0.0.1:{server.port}/3", metrics=Metrics())
        assert (await wrong.spend("acme", (check(),), time.time())).refused is None
        assert wrong.is_degraded
        await wrong.close()
