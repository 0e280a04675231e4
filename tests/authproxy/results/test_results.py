"""
Results in memory and in Redis: the contract over both, and what each does when it is full, ill or lied to.

Longer than other modules: a Redis has many ways to be ill.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from authproxy.identity.sessions.seal import open_under
from authproxy.results.ends import Ends
from authproxy.results.memory import MemoryResults
from authproxy.results.redis import RedisResults, _keys
from authproxy.results.result import Owner, Result, is_id, new_id, size_of, without_room
from authproxy.results.sealed import name_of, open_result, seal_result
from authproxy.results.store import PENDING_S, ResultBounds, ResultStore
from policies.decision import Reason
from policies.errors import StoreUnavailable
from tests.contracts.result_store import ROOMY, ResultStoreContract, World, a_result, fresh_tenant, opened
from tests.fakes.redis_cluster import redis_cluster
from tests.fakes.redis_server import RedisServer, free_port, redis_server

SLOW_S = 5.0
"""Where a test is about something else, a busy machine must not make Redis look dead."""
_PASS = """
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  redis.call('ZINCRBY', KEYS[1], -ARGV[1], name)
end
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def wait(self, seconds: float) -> None:
        self.now += seconds


class RedisTime(Clock):
    """Time passes for results in Redis by their ends coming nearer: no test waits for a server's clock."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self._client = Redis(port=server.port)

    async def wait(self, seconds: float) -> None:
        await super().wait(seconds)
        for key in self._client.scan_iter("portero:*:results:ends"):
            self._client.eval(_PASS, 1, key, int(seconds * 1000))

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    with redis_cluster() as node:
        yield node


@contextlib.asynccontextmanager
async def a_world(server: RedisServer, replicas: int, *, is_cluster: bool = False) -> AsyncIterator[World]:
    clock = RedisTime(server)
    options: dict[str, Any] = {"is_cluster": is_cluster, "timeout_s": SLOW_S, "monotonic": clock}
    stores = [RedisResults(server.url, **options) for _ in range(replicas)]
    try:
        yield World(stores, clock.wait)
    finally:
        for store in stores:
            await store.close()
        clock.close()


class TestMemoryResults(ResultStoreContract):
    @pytest.fixture
    def world(self) -> World:
        clock = Clock()
        return World([MemoryResults(monotonic=clock)], clock.wait)


@pytest.mark.redis
class TestRedisResults(ResultStoreContract):
    @pytest.fixture
    async def world(self, redis: RedisServer) -> AsyncIterator[World]:
        async with a_world(redis, 3) as world:
            yield world


@pytest.mark.redis
class TestRedisClusterResults(ResultStoreContract):
    @pytest.fixture
    async def world(self, cluster: RedisServer) -> AsyncIterator[World]:
        async with a_world(cluster, 2, is_cluster=True) as world:
            yield world


# what is kept


def test_an_id_has_one_spelling() -> None:
    """Another spelling of the same bits is no id: nobody has two addresses of one result."""
    for _ in range(100):
        assert is_id(new_id())
    assert is_id("A" * 22)
    assert not is_id("A" * 21 + "B")
    assert not is_id("A" * 22 + "\n")


def test_a_result_shows_nothing_of_itself() -> None:
    """Neither body nor fields stand in what a log would write (R27)."""
    assert "canary" not in repr(Result(200, ((b"x", b"canary"),), b"canary", 1.0))


def test_what_is_kept_in_place_of_an_answer_says_why() -> None:
    """A refusal of our own, small, without the fields that would be of another request."""
    kept = without_room(7.0)
    names = {name.lower() for name, _ in kept.fields}
    assert (kept.status, kept.finished_at) == (503, 7.0)
    assert {b"content-type", b"x-portero-reason"} <= names
    assert not {b"x-request-id", b"retry-after"} & names
    assert size_of(kept) < 1024


def test_an_answer_of_many_fields_counts_what_they_take() -> None:
    """A head of 64 KiB has room for ten thousand empty fields, which take ten times its bytes."""
    fields = tuple((b"x%05d" % number, bytes([65 + number % 26])) for number in range(8000))
    tracemalloc.start()
    kept = Result(200, tuple((bytes(bytearray(n)), bytes(bytearray(v))) for n, v in fields), b"", 1.0)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size_of(kept) >= 0.8 * taken


# memory


async def test_a_full_memory_refuses_what_is_new() -> None:
    """Overloaded, not the tenant's own fault; what is there stays, and an end makes room."""
    clock = Clock()
    store = MemoryResults(max_results=4, monotonic=clock)
    ids = [(tenant, await opened(store, tenant)) for tenant in ("acme", "acme", "globex", "initech")]
    assert await store.open(Owner("umbrella", None), "f", ROOMY, 60.0) is Reason.OVERLOADED
    for tenant, result_id in ids:
        assert await store.read(tenant, result_id) is not None
    clock.now += PENDING_S
    assert await store.open(Owner("umbrella", None), "f", ROOMY, 60.0) not in set(Reason)


async def test_no_tenant_takes_more_than_half_of_what_the_others_leave() -> None:
    """Who fills one tenant's share refuses nothing of another's."""
    store = MemoryResults(max_results=16)
    for tenant, share in (("acme", 8), ("globex", 4), ("initech", 2), ("hooli", 1), ("umbrella", 1)):
        for number in range(share):
            await opened(store, tenant, flow=f"f{number}")
        assert await store.open(Owner(tenant, None), "another", ROOMY, 60.0) is Reason.OVERLOADED


async def test_a_memory_full_of_bytes_keeps_no_more_of_them() -> None:
    """Also where each tenant would have room by itself; the owner is told."""
    large = a_result(b"x" * 10_000)
    store = MemoryResults(max_bytes=3 * size_of(large))
    kept = []
    for tenant in ("acme", "globex", "initech", "acme"):
        result_id = await opened(store, tenant)
        assert await store.finish(tenant, result_id, large)
        found = await store.read(tenant, result_id)
        assert found is not None
        kept.append(found[1] == large)
    assert kept == [True, True, False, False]
    assert store.sizes().bytes <= 3 * size_of(large)


async def test_a_flood_of_pending_results_leaves_nothing_behind() -> None:
    """Renewed, deleted and left to end by the thousands: bookkeeping grows with what is there, not with what was."""
    clock = Clock()
    store = MemoryResults(monotonic=clock)
    for number in range(3000):
        answer = await store.open(Owner("acme", None), f"192.0.2.{number % 7}", ROOMY._replace(max_async=3), 1.0)
        clock.now += 0.5
        if not isinstance(answer, Reason):
            await store.renew("acme", answer)
            if number % 2:
                await store.finish("acme", answer, a_result())
    clock.now += PENDING_S
    assert store.sizes() == (0, 0, 0)
    assert not store._entries
    assert not store._held
    assert len(store._ends) == 0
    assert len(store._ends._heap) < 200


def test_ends_tell_each_name_once() -> None:
    """Moved ends count as they were moved, forgotten ones not at all."""
    ends = Ends()
    for number in range(200):
        ends.set("moved", float(number))
    ends.set("gone", 5.0)
    ends.set("first", 1.0)
    ends.forget("gone")
    ends.forget("never was")
    assert list(ends.over(198.0)) == ["first"]
    assert list(ends.over(199.0)) == ["moved"]
    assert list(ends.over(1e9)) == []
    assert len(ends) == 0


# sealed


def test_what_stands_in_a_store_opens_by_its_id_alone() -> None:
    """Another id, another tenant, a changed bit, a cut or a foreign value: nothing."""
    result_id = new_id()
    data = seal_result(result_id, Owner("acme", "login|ana"), a_result(b"canary"))
    assert b"canary" not in data
    assert open_result(result_id, "acme", data) == (Owner("acme", "login|ana"), a_result(b"canary"))
    assert open_result(new_id(), "acme", data) is None
    assert open_result(result_id, "globex", data) is None
    for at in (0, 1, 20, len(data) - 1):
        assert open_result(result_id, "acme", data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) is None
        assert open_result(result_id, "acme", data[:at]) is None


def test_a_name_is_no_key() -> None:
    """Who reads names and values in the store opens nothing by them."""
    result_id = new_id()
    name = name_of(result_id)
    data = seal_result(result_id, Owner("acme", None), None)
    assert result_id not in name
    for guess in (name, name_of(name), "A" * 22):
        assert open_result(guess, "acme", data) is None
    assert open_under(name.encode(), "result", "acme", data) is None


@pytest.mark.parametrize("status", [0, 100, 101, 199, 600, 999, -1])
def test_a_status_that_is_none_is_not_read(status: int) -> None:
    """Nothing is answered that no function may answer."""
    result_id = new_id()
    data = seal_result(result_id, Owner("acme", None), a_result(status=status))
    assert open_result(result_id, "acme", data) is None


# Redis


@pytest.mark.redis
async def test_nothing_that_is_secret_stands_in_redis(redis: RedisServer) -> None:
    """Neither ids nor subjects nor addresses nor answers, in keys or values."""
    client = Redis(port=redis.port)
    async with a_world(redis, 1) as world:
        tenant = fresh_tenant()
        pending = await opened(world.at(0), tenant, "login|canary-sub", flow="198.51.100.200")
        done = await opened(world.at(0), tenant, "login|canary-sub", flow="198.51.100.200")
        await world.at(0).finish(tenant, done, a_result(b"canary-body", (b"X-Canary", b"canary-value")))
        seen = b""
        for key in client.scan_iter(f"*{{{tenant}}}*"):
            seen += key + client.dump(key)
        assert len(seen) > 500
        for secret in (pending, done, "canary", "Canary", "198.51.100"):
            assert secret.encode() not in seen
    client.close()


@pytest.mark.redis
async def test_a_tenant_that_asks_no_more_leaves_nothing_behind(redis: RedisServer) -> None:
    """Every key of it ends by itself, soon after its last result; without results there are no keys."""
    client = Redis(port=redis.port)
    async with a_world(redis, 1) as world:
        tenant = fresh_tenant()
        keys = _keys(tenant)
        assert await world.at(0).read(tenant, new_id()) is None
        assert not await world.at(0).delete(tenant, new_id())
        assert client.exists(*keys) == 0
        result_id = await opened(world.at(0), tenant, keep_s=100.0)
        assert all(15_000 < client.pttl(key) <= 75_000 for key in keys)
        await world.at(0).finish(tenant, result_id, a_result())
        assert all(100_000 < client.pttl(key) <= 160_000 for key in keys)
        await world.wait(100.05)
        assert await world.at(0).read(tenant, result_id) is None
        assert client.exists(*keys) == 0
    client.close()


@pytest.mark.redis
async def test_a_clock_that_is_set_back_keeps_nothing_for_longer(redis: RedisServer) -> None:
    """Ends written a day ahead come nearer by that day: no place stays taken, and who renews goes on."""
    client = Redis(port=redis.port)
    async with a_world(redis, 1) as world:
        tenant = fresh_tenant()
        ends, _, _, counts = _keys(tenant)
        dead = await opened(world.at(0), tenant)
        alive = await opened(world.at(0), tenant)
        done = await opened(world.at(0), tenant, keep_s=100.0)
        await world.at(0).finish(tenant, done, a_result())
        client.eval(_PASS, 1, ends, -86_400_000)  # as they stand when the clock that wrote them was a day ahead
        client.hincrby(counts, "now", 86_400_000)
        assert await world.at(0).renew(tenant, alive)
        await world.wait(PENDING_S * 0.7)
        assert await world.at(0).renew(tenant, alive)
        await world.wait(PENDING_S * 0.7)
        assert await world.at(0).read(tenant, dead) is None
        assert await world.at(0).read(tenant, alive) == (Owner(tenant, "login|ana"), None)
        assert await world.at(0).read(tenant, done) is not None
        await world.wait(80.0)
        assert await world.at(0).read(tenant, done) is None
    client.close()


@pytest.mark.redis
@pytest.mark.parametrize("lost", [0, 1, 2, 3], ids=["ends", "facts", "values", "counts"])
async def test_a_redis_that_forgets_a_part_refuses_and_goes_on(redis: RedisServer, lost: int) -> None:
    """What was evicted is unknown: no call fails, no count goes below nothing, and what is new is kept."""
    client = Redis(port=redis.port)
    bounds = ResultBounds(2, 100, 100_000)
    async with a_world(redis, 1) as world:
        tenant = fresh_tenant()
        pending = await opened(world.at(0), tenant, bounds=bounds)
        done = await opened(world.at(0), tenant, bounds=bounds)
        await world.at(0).finish(tenant, done, a_result())
        client.delete(_keys(tenant)[lost])
        for result_id in (pending, done):
            await world.at(0).read(tenant, result_id)
            await world.at(0).renew(tenant, result_id)
            await world.at(0).finish(tenant, result_id, a_result())
            await world.at(0).delete(tenant, result_id)
        await world.wait(PENDING_S + 60.0)
        for _ in range(3):
            fresh = await opened(world.at(0), tenant, bounds=bounds)
            assert await world.at(0).finish(tenant, fresh, a_result())
            assert await world.at(0).read(tenant, fresh) == (Owner(tenant, "login|ana"), a_result())
        assert all(int(n) >= 0 for n in client.hvals(_keys(tenant)[3]))
    client.close()


@pytest.mark.redis
@pytest.mark.parametrize("part", [0, 1, 2, 3], ids=["ends", "facts", "values", "counts"])
async def test_what_others_wrote_under_our_keys_is_not_believed(redis: RedisServer, part: int) -> None:
    """A value of another kind is a store that cannot be asked; a result that nobody here sealed is unknown."""
    client = Redis(port=redis.port)
    async with a_world(redis, 1) as world:
        tenant = fresh_tenant()
        keys = _keys(tenant)
        result_id = await opened(world.at(0), tenant)
        client.hset(keys[2], name_of(result_id), b"forged")
        assert await world.at(0).read(tenant, result_id) is None
        assert not await world.at(0).finish(tenant, result_id, a_result())
        client.hset(keys[1], name_of(result_id), b"d:-5:zz\r\n")
        assert not await world.at(0).renew(tenant, result_id)
        client.delete(keys[part])
        client.set(keys[part], b"junk")
        with pytest.raises(StoreUnavailable):
            await world.at(0).open(Owner(tenant, None), "f", ROOMY, 60.0)
    client.close()


# a Redis that is ill


def every_call(store: ResultStore, result_id: str) -> list[Callable[[], Any]]:
    return [
        lambda: store.open(Owner("acme", None), "f", ROOMY, 60.0),
        lambda: store.renew("acme", result_id),
        lambda: store.finish("acme", result_id, a_result()),
        lambda: store.read("acme", result_id),
        lambda: store.delete("acme", result_id),
    ]


@pytest.mark.redis
@pytest.mark.parametrize("is_cluster", [False, True], ids=["server", "cluster"])
async def test_a_redis_that_is_not_there_is_unavailable(is_cluster: bool) -> None:
    """Every call says so, and nothing else does."""
    store = RedisResults(f"redis://127.0.0.1:{free_port()}", is_cluster=is_cluster)
    for call in every_call(store, new_id()):
        with pytest.raises(StoreUnavailable):
            await call()
    assert store.sizes() == (0, 0, 0)
    assert await store.read("acme", "no id") is None
    await store.close()


@pytest.mark.redis
async def test_a_redis_that_falls_silent_is_unavailable_in_time() -> None:
    """Frozen at any step, each call ends soon; what was written before is there when it comes back."""
    with redis_server() as server:
        loop = asyncio.get_running_loop()
        store = RedisResults(server.url, timeout_s=0.1)
        patient = RedisResults(server.url, timeout_s=SLOW_S)
        try:
            pending, done = [await opened(patient, "acme") for _ in range(2)]
            await patient.finish("acme", done, a_result())
            server.freeze()
            for call in every_call(store, pending):
                began = loop.time()
                with pytest.raises(StoreUnavailable):
                    await call()
                assert loop.time() - began < 0.8
            server.thaw()
            assert await patient.read("acme", done) == (Owner("acme", "login|ana"), a_result())
        finally:
            await store.close()
            await patient.close()


@pytest.mark.redis
async def test_a_redis_that_has_lost_everything_is_used_again() -> None:
    """Results that were there are unknown, scripts are sent anew, and what is new is kept."""
    with redis_server() as server:
        store = RedisResults(server.url, timeout_s=SLOW_S)
        result_id = await opened(store, "acme")
        server.kill()
        for call in every_call(store, result_id):
            with pytest.raises(StoreUnavailable):
                await call()
        server.start()
        assert not await store.renew("acme", result_id)
        assert not await store.finish("acme", result_id, a_result())
        assert await store.read("acme", result_id) is None
        assert store.sizes() == (0, 0, 0)
        again = await opened(store, "acme")
        server.command("SCRIPT", "FLUSH")
        assert await store.finish("acme", again, a_result())
        await store.close()


@pytest.mark.redis
async def test_a_redis_without_memory_is_unavailable_and_keeps_what_it_has() -> None:
    """No new result, no lost one; reading and deleting go on."""
    with redis_server() as server:
        store = RedisResults(server.url, timeout_s=SLOW_S)
        done = await opened(store, "acme")
        pending = await opened(store, "acme")
        await store.finish("acme", done, a_result())
        server.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreUnavailable):
            await store.open(Owner("acme", None), "f", ROOMY, 60.0)
        assert await store.read("acme", done) == (Owner("acme", "login|ana"), a_result())
        assert await store.delete("acme", done)
        assert await store.read("acme", done) is None
        server.command("CONFIG", "SET", "maxmemory", "0")
        assert await store.finish("acme", pending, a_result())
        await store.close()


@pytest.mark.redis
async def test_a_call_that_is_given_up_takes_no_other_with_it(redis: RedisServer) -> None:
    """A caller that leaves in the middle of any call: the next one gets its own answer."""
    async with a_world(redis, 1) as world:
        tenant = fresh_tenant()
        ids = []
        for number in range(10):
            ids.append(await opened(world.at(0), tenant))
            await world.at(0).finish(tenant, ids[-1], a_result(b"%d" % number))
        for turn in range(60):
            task = asyncio.create_task(world.at(0).read(tenant, ids[turn % 10]))
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            found = await world.at(0).read(tenant, ids[(turn * 7) % 10])
            assert found is not None
            assert found[1] == a_result(b"%d" % ((turn * 7) % 10))


@pytest.mark.redis
async def test_a_password_is_told_to_nobody() -> None:
    """Neither in the exception, its chain nor a repr (R27)."""
    with redis_server(password="right") as server:
        store = RedisResults(server.url.replace("right", "canary-pass"), timeout_s=SLOW_S)
        with pytest.raises(StoreUnavailable) as error:
            await store.read("acme", new_id())
        assert "canary" not in "".join(traceback.format_exception(error.value)) + repr(store)
        await store.close()
