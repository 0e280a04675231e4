"""Limits in Redis: the contract over a real server, and that replicas count together and answer as memory does."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from authproxy.limits import batch, connection
from authproxy.limits import redis as module
from authproxy.limits.batch import MAX_CHECKS, SPEND_SCRIPT
from authproxy.limits.connection import REPLICAS_KEY
from authproxy.limits.memory import MemoryStore
from authproxy.limits.redis import RedisStore
from authproxy.metrics import Metrics
from policies.gcra import Spent
from tests.contracts.limit_store import Clock, LimitStoreContract, World, check, property_of
from tests.fakes.redis_server import RedisServer, redis_server
from tests.fakes.steady_loop import SteadyLoop

pytestmark = pytest.mark.redis
LOOP = SteadyLoop
SLOW_S = 5.0
"""What happens when Redis does not answer is told elsewhere; a busy machine must not bring it about here."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANSWER_S", "HANDSHAKE_S"):
        monkeypatch.setattr(connection, name, SLOW_S)
    monkeypatch.setattr(module, "ANSWER_S", SLOW_S)


@pytest.fixture
def lasting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clock is the test's Redis forgets by its own all the same: it keeps idle limits a minute longer."""
    text = SPEND_SCRIPT.replace(b"ahead_ms + 1000", b"ahead_ms + 60000")
    assert text != SPEND_SCRIPT
    monkeypatch.setattr(batch, "SPEND_SHA", hashlib.sha1(text, usedforsecurity=False).hexdigest())
    monkeypatch.setattr(module, "SPEND_SCRIPT", text)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # a heartbeat tells nobody
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def opened(
    server: RedisServer, clock: Clock | None = None, *, metrics: Metrics | None = None, is_cluster: bool = False
) -> AsyncIterator[RedisStore]:
    now_us = (lambda: clock.us) if clock is not None else None
    store = RedisStore(server.url, metrics=metrics or Metrics(), is_cluster=is_cluster, now_us=now_us)
    await store.start()
    try:
        assert not store.is_degraded
        yield store
    finally:
        await store.close()


class TestRedisStore(LimitStoreContract):
    @pytest.fixture
    async def world(self, shared_redis: RedisServer, lasting: None) -> AsyncIterator[World]:
        clock = Clock(time.time_ns() // 1000)
        async with contextlib.AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(opened(shared_redis, clock)) for _ in range(3)]
            yield World(stores, clock, lambda: shared_redis.count_of("evalsha"))


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


@pytest.mark.usefixtures("lasting")
@property_of(40)
@given(trace=traces)
async def test_redis_answers_as_memory_does(
    shared_redis: RedisServer, trace: list[tuple[int, list[int], int, bool]]
) -> None:
    """R8: on the same trace both stores give the same answers, states and waits included."""
    clock = Clock(time.time_ns() // 1000)
    memory = MemoryStore()
    run = next(_runs)
    async with opened(shared_redis, clock) as redis:
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


@pytest.mark.usefixtures("lasting")
@property_of(15)
@given(rounds=st.lists(st.tuples(st.sampled_from([0, 50_000, 400_000]), st.integers(1, 60)), min_size=1, max_size=6))
async def test_a_batch_answers_as_one_after_the_other(shared_redis: RedisServer, rounds: list[tuple[int, int]]) -> None:
    """R8: what is asked in one command is answered, and written, as if each had been asked alone."""
    clock = Clock(time.time_ns() // 1000)
    memory = MemoryStore()
    run = next(_runs)
    shared = check(20.0, 30, key=f"b{run}-shared")
    async with opened(shared_redis, clock) as redis:
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


async def test_checks_of_one_tick_are_one_command(shared_redis: RedisServer) -> None:
    """Requests that ask in the same turn of the loop travel together, of whatever tenant."""
    metrics = Metrics()
    async with opened(shared_redis, metrics=metrics) as store:
        checks = [(check(key=f"tick{n}"), check(1000.0, 1000, key="tick")) for n in range(32)]
        await asyncio.gather(*(store.spend(f"tenant{n % 4}", asked, time.time()) for n, asked in enumerate(checks)))
        assert metrics.limit_store_commands_total.total() == 1


async def test_a_command_carries_64_checks_at_most(shared_redis: RedisServer) -> None:
    """A long script would hold up everybody who uses the server; the rest goes in the next command."""
    metrics = Metrics()
    async with opened(shared_redis, metrics=metrics) as store:
        asked = [tuple(check() for _ in range(8)) for _ in range(20)]
        answers = await asyncio.gather(*(store.spend("acme", checks, time.time()) for checks in asked))
        assert all(spent.refused is None for spent in answers)
        assert metrics.limit_store_commands_total.total() == 20 * 8 / MAX_CHECKS + 0.5
        assert (await store.spend("acme", [check() for _ in range(100)], time.time())).refused is None


async def test_in_a_cluster_a_command_has_one_tenants_keys(shared_redis: RedisServer) -> None:
    """Keys of one command share the hash tag ``{tenant}``, so they are of one slot."""
    metrics = Metrics()
    async with opened(shared_redis, metrics=metrics, is_cluster=True) as store:
        answers = await asyncio.gather(
            *(store.spend(f"tenant{n % 4}", (check(),), time.time()) for n in range(32)), return_exceptions=True
        )
        assert all(isinstance(spent, Spent) and spent.refused is None for spent in answers)
        assert metrics.limit_store_commands_total.total() == 4


async def test_the_clock_is_the_servers(shared_redis: RedisServer) -> None:
    """A replica whose clock is wrong by an hour counts like the others."""
    async with opened(shared_redis) as right, opened(shared_redis) as wrong:
        one = check(0.1, 2)
        assert (await right.spend("acme", (one,), time.time())).refused is None
        assert (await wrong.spend("acme", (one,), time.time() + 3600)).refused is None
        assert (await right.spend("acme", (one,), time.time())).refused == 0


async def test_a_value_that_is_no_time_fails_only_its_own_requests(shared_redis: RedisServer) -> None:
    """Somebody wrote nonsense under one key: its tenant goes by local share, the others of the same command do not."""
    async with opened(shared_redis) as store:
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


async def test_a_key_of_another_type_is_overwritten(shared_redis: RedisServer) -> None:
    """A list under a limit's key does not break the script; the limit begins anew."""
    async with opened(shared_redis) as store:
        one = check(0.1, 1)
        shared_redis.command("RPUSH", one.key, "x")
        assert (await store.spend("acme", (one,), time.time())).refused is None
        assert (await store.spend("acme", (one,), time.time())).refused == 0


async def test_a_server_set_back_by_a_day_does_not_refuse_for_a_day(shared_redis: RedisServer) -> None:
    """A time far beyond what the limit allows counts as just used up."""
    async with opened(shared_redis) as store:
        one = check(20.0, 1)
        shared_redis.command("SET", one.key, str(int((time.time() + 86_400) * 1e6)))
        assert (await store.spend("acme", (one,), time.time())).refused == 0
        await asyncio.sleep(0.06)
        assert (await store.spend("acme", (one,), time.time())).refused is None


async def test_keys_expire_when_they_are_idle(shared_redis: RedisServer) -> None:
    """R7: Redis forgets a key a second after it is idle."""
    async with opened(shared_redis) as store:
        one = check(0.1, 5)
        await store.spend("acme", (one,), time.time())
        left = """
            local time = redis.call('TIME')
            return time[1] * 1000 + math.floor(time[2] / 1000) + redis.call('PTTL', KEYS[1])
                - math.floor(redis.call('GET', KEYS[1]) / 1000)
        """  # milliseconds from its being idle to its end
        assert 995 <= int(shared_redis.command("EVAL", left, "1", one.key).removeprefix(b":")) <= 1005


async def test_scripts_may_be_flushed(shared_redis: RedisServer) -> None:
    """NOSCRIPT is answered by loading the script, once, and the request notices nothing."""
    async with opened(shared_redis) as store:
        shared_redis.command("SCRIPT", "FLUSH")
        assert (await store.spend("acme", (check(),), time.time())).refused is None
        assert not store.is_degraded


async def test_replicas_count_each_other(shared_redis: RedisServer) -> None:
    """The heartbeat set says how many share the limits; one that closes is gone at once."""
    shared_redis.command("DEL", REPLICAS_KEY)
    async with opened(shared_redis) as first:
        assert first.replicas == 1
        async with opened(shared_redis) as second:
            assert second.replicas == 2
            await until(lambda: first.replicas == 2)
        assert shared_redis.command("ZCARD", REPLICAS_KEY) == b":1"


async def test_a_client_that_leaves_disturbs_nobody(shared_redis: RedisServer) -> None:
    """A cancelled request takes neither the command nor the others' answers with it."""
    async with opened(shared_redis) as store:
        tasks = [asyncio.ensure_future(store.spend("acme", (check(),), time.time())) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert all(isinstance(spent, Spent) for spent in answers[1:])


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
        async with opened(shared_redis) as store:
            one = check(1.0, 10)
            answers = await asyncio.gather(*(store.spend("acme", (one,), time.time()) for _ in range(20)))
            assert sum(spent.refused is None for spent in answers) == 10

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
