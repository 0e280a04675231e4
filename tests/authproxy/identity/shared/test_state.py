"""
State in memory and in Redis: the contract over both, and what each does when it is full, slow, lied to or gone.

Longer than other modules: a Redis has many ways to be ill.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis import Redis

from authproxy.identity.shared.redis_link import RedisLink, read_redis_url
from authproxy.identity.shared.state import key
from authproxy.identity.shared.state_memory import MemoryState
from authproxy.identity.shared.state_redis import RedisState
from policies.errors import StoreUnavailable
from tests.contracts.state_store import StateStoreContract, World, fresh_key
from tests.fakes.redis_cluster import redis_cluster
from tests.fakes.redis_server import RedisServer, free_port, redis_server
from tests.fakes.steady_loop import SteadyLoop

LOOP = SteadyLoop
"""A Redis that answers at once is not too late for what others on the machine cost."""
SLOW_S = 5.0
"""Where a test is about something else, a busy machine must not make Redis look dead."""
_PASS = """
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  redis.call('HINCRBY', KEYS[1], 'until', -ARGV[1])
end
local left = redis.call('PTTL', KEYS[1])
if left >= 0 then
  redis.call('PEXPIRE', KEYS[1], left - ARGV[1])
end
"""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def wait(self, seconds: float) -> None:
        self.now += seconds


class RedisTime:
    """Time passes for what is kept by its ends coming nearer: no test waits for a server's clock, or hurries for it."""

    def __init__(self, server: RedisServer) -> None:
        self._client = Redis(port=server.port)

    async def wait(self, seconds: float) -> None:
        for name in self._client.scan_iter("portero:*"):
            self._client.eval(_PASS, 1, name, int(seconds * 1000))

    def close(self) -> None:
        self._client.close()


@contextlib.asynccontextmanager
async def a_world(server: RedisServer, replicas: int, *, is_cluster: bool = False) -> AsyncIterator[World]:
    server.command("FLUSHALL")
    time_of_server = RedisTime(server)
    stores = [RedisState(server.url, is_cluster=is_cluster, timeout_s=SLOW_S) for _ in range(replicas)]
    try:
        yield World(stores, time_of_server.wait)
    finally:
        for store in stores:
            await store.close()
        time_of_server.close()


class TestMemoryState(StateStoreContract):
    @pytest.fixture
    def world(self) -> World:
        clock = Clock()
        return World([MemoryState(monotonic=clock)], clock.wait)


@pytest.mark.redis
class TestRedisState(StateStoreContract):
    @pytest.fixture
    async def world(self, redis: RedisServer) -> AsyncIterator[World]:
        async with a_world(redis, 3) as world:
            yield world


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    with redis_cluster() as node:
        yield node


@pytest.mark.redis
class TestRedisClusterState(StateStoreContract):
    @pytest.fixture
    async def world(self, cluster: RedisServer) -> AsyncIterator[World]:
        async with a_world(cluster, 2, is_cluster=True) as world:
            yield world


# memory


async def test_a_full_memory_refuses_what_is_new_and_keeps_what_is_there() -> None:
    """A used state is not forgotten to make room: that would let it be used again (R50)."""
    clock = Clock()
    store = MemoryState(max_entries=3, monotonic=clock)
    for name in ("a", "b", "c"):
        assert await store.add(name, b"used", 10.0)
    for attempt in (store.add("d", b"", 1.0), store.put("d", b"", 1.0), store.put_newer("d", 1, b"", 1.0)):
        with pytest.raises(StoreUnavailable):
            await attempt
    assert not await store.add("a", b"", 10.0)
    await store.put("a", b"rewritten", 10.0)
    await store.delete("b")
    assert await store.add("d", b"", 20.0)
    clock.now += 10.0
    assert await store.add("e", b"", 10.0)
    assert await store.get("d") == b""


async def test_who_fills_one_tenants_share_refuses_nothing_of_anothers() -> None:
    """Strangers choose how many logins they begin: no tenant takes more than half of what the others leave."""
    store = MemoryState(max_entries=16, max_bytes=1600)
    for tenant, share in (("acme", 8), ("globex", 4), ("initech", 2)):
        for number in range(share):
            assert await store.add(key(tenant, "state", str(number)), b"", 10.0), (tenant, number)
        with pytest.raises(StoreUnavailable):
            await store.add(key(tenant, "state", "one more"), b"", 10.0)
    await store.put(key("acme", "state", "0"), b"", 10.0)
    for number in range(1, 5):
        await store.delete(key("acme", "state", str(number)))
    assert await store.add(key("acme", "state", "instead"), b"", 10.0)
    with pytest.raises(StoreUnavailable):
        await store.put(key("umbrella", "ticket", "large"), bytes(801), 10.0)
    await store.put(key("umbrella", "ticket", "large"), bytes(800), 10.0)


async def test_a_memory_full_of_bytes_refuses_too() -> None:
    """The bound is on what values hold, not only on their number; a refused value leaves the old one."""
    store = MemoryState(max_bytes=10)
    await store.put("a", b"12345678", 10.0)
    with pytest.raises(StoreUnavailable):
        await store.put("b", b"123", 10.0)
    with pytest.raises(StoreUnavailable):
        await store.put("a", b"12345678901", 10.0)
    assert await store.get("a") == b"12345678"
    await store.put("a", b"", 10.0)
    await store.put("b", b"1234567890", 10.0)


async def test_a_memory_full_of_leases_refuses_more() -> None:
    """Also leases are bounded, and free again when they are given up."""
    store = MemoryState(max_entries=2)
    assert await store.acquire("a", "h", 10.0)
    assert await store.acquire("b", "h", 10.0)
    with pytest.raises(StoreUnavailable):
        await store.acquire("c", "h", 10.0)
    assert await store.renew("a", "h", 10.0)
    await store.release("b", "h")
    assert await store.acquire("c", "h", 10.0)


async def test_memory_does_not_grow_with_what_is_rewritten() -> None:
    """A key written and deleted again and again costs what one key costs."""
    store = MemoryState()
    for _ in range(2000):
        await store.put("a", b"x", 10.0)
        await store.delete("a")
        await store.acquire("lease", "h", 10.0)
    assert len(store._values._ends) < 200
    assert len(store._leases._ends) < 200
    assert store._values.size == 0


# keys


def test_a_key_hides_what_a_caller_chose_and_keeps_a_tenant_in_one_slot() -> None:
    """Neither a session id nor a subject can be read from a list of keys, nor can it name another tenant's key."""
    name = key("acme", "jti", "eve@evil}:{globex", b"\xff\x00")
    assert name.startswith("portero:{acme}:jti:")
    assert "eve" not in name
    assert "globex" not in name


def test_parts_of_a_key_are_told_apart() -> None:
    """``ab`` + ``c`` is not ``a`` + ``bc``: an issuer's end cannot be a subject's beginning."""
    assert len({key("acme", "x", *parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""))}) == 4


# addresses


@pytest.mark.parametrize(
    "url",
    [
        "http://:hunter2@redis:6379",
        "redis://:hunter2@",
        "redis://:hunter/2@redis:6379",
        "redis://:hunter2@redis:port",
        "redis://:hunter2@redis:99999999",
        "redis://:hunter2@[::1:6379",
        "redis://:hunter2@redis:6379/zero",
        "redis://:hunter2@redis:6379/0?socket_timeout=60",
        "redis://:hunter2@redis:6379/0?decode_responses=1",
        "redis://redis:6379/0#hunter2",
        "unix://:hunter2@host/run/redis.sock",
        "redis:hunter2",
    ],
)
def test_an_address_that_cannot_be_read_is_refused_without_its_password(url: str) -> None:
    """Neither the message nor what led to it quotes the URL (R27)."""
    with pytest.raises(ValueError) as error:
        read_redis_url(url)
    said = "".join(traceback.format_exception(error.value))
    assert "hunter" not in str(error.value)
    assert "hunter" not in said.replace(f"{url!r}", "")


def test_an_address_is_read_whole() -> None:
    """User and password are percent-decoded; TLS and the database are told by scheme and path."""
    place = read_redis_url("rediss://portero:p%40ss%2F@redis.example/3")
    assert place == ("redis.example", 6379, None, True, "portero", "p@ss/", 3)
    assert read_redis_url("unix:///run/redis.sock?db=2")[2::4] == ("/run/redis.sock", 2)


@pytest.mark.parametrize("url", ["redis://redis:6379/1", "unix:///run/redis.sock"])
def test_a_cluster_has_one_database_and_no_socket(url: str) -> None:
    """What a cluster cannot be is said at start, not at the first request."""
    with pytest.raises(ValueError):
        RedisState(url, is_cluster=True)


async def test_a_tls_address_means_tls_with_a_verified_name() -> None:
    """``rediss://`` never falls back, and checks certificate and host name."""
    link = RedisLink("rediss://redis.example:6380")
    connection = link._pool().make_connection()  # type: ignore[no-untyped-call]
    assert connection.check_hostname
    assert connection.cert_reqs.name == "CERT_REQUIRED"
    await link.close()


# a Redis that is ill


@contextlib.asynccontextmanager
async def a_state(url: str, **options: Any) -> AsyncIterator[RedisState]:
    store = RedisState(url, **options)
    try:
        yield store
    finally:
        await store.close()


async def refused(store: RedisState, within_s: float) -> None:
    """Every call says StoreUnavailable, and soon."""
    name = fresh_key()
    for call in (
        lambda: store.get(name),
        lambda: store.put(name, b"x", 1.0),
        lambda: store.put_newer(name, 1, b"x", 1.0),
        lambda: store.add(name, b"x", 1.0),
        lambda: store.take(name),
        lambda: store.delete(name),
        lambda: store.acquire(name, "h", 1.0),
        lambda: store.renew(name, "h", 1.0),
        lambda: store.release(name, "h"),
    ):
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(StoreUnavailable):
            await call()
        assert loop.time() - began < within_s


async def answered(store: RedisState, name: str) -> bytes | None:
    """What it says once it says something: a machine that stands still is a Redis that is silent for longer."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(StoreUnavailable):
                return await store.get(name)


@pytest.mark.redis
@pytest.mark.parametrize("is_cluster", [False, True], ids=["server", "cluster"])
async def test_a_redis_that_is_not_there_is_unavailable(is_cluster: bool) -> None:
    """Every call is refused at once (R50)."""
    async with a_state(f"redis://127.0.0.1:{free_port()}", is_cluster=is_cluster) as store:
        await refused(store, 0.6)


@pytest.mark.redis
async def test_a_redis_that_is_silent_is_unavailable_in_time() -> None:
    """Frozen, it accepts connections and says nothing: each call ends within half a second, and it works on return."""
    with redis_server() as server:
        async with a_state(server.url) as store:
            name = fresh_key()
            await store.put(name, b"kept", 60.0)
            server.freeze()
            await refused(store, 0.8)
            many = await asyncio.gather(*(store.get(name) for _ in range(200)), return_exceptions=True)
            assert all(isinstance(answer, StoreUnavailable) for answer in many)
            server.thaw()
            assert await answered(store, name) == b"kept"


@pytest.mark.redis
async def test_a_redis_that_comes_back_is_used_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Killed and started again: scripts that the new server does not know are sent again. Each turn is logged once."""
    with redis_server() as server:
        async with a_state(server.url, timeout_s=1.0) as store:
            assert await store.put_newer(fresh_key(), 1, b"x", 60.0)
            server.kill()
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await store.put_newer(fresh_key(), 1, b"x", 60.0)
            server.start()
            assert await store.put_newer(fresh_key(), 1, b"x", 60.0)
            server.command("SCRIPT", "FLUSH")
            assert await store.put_newer(fresh_key(), 1, b"x", 60.0)
    said = capsys.readouterr().err
    assert said.count("state-store-lost") == said.count("state-store-back") == 1


@pytest.mark.redis
async def test_a_wrong_password_is_unavailable_and_told_to_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """What the password was stands neither in the exception, its chain, the log nor a repr (R27)."""
    with redis_server(password="right") as server:
        async with a_state(server.url.replace("right", "canary-pass"), timeout_s=SLOW_S) as store:
            with pytest.raises(StoreUnavailable) as error:
                await store.get(fresh_key())
            assert "canary" not in "".join(traceback.format_exception(error.value))
            assert error.value.__cause__ is None
            assert error.value.__suppress_context__
            assert "canary" not in repr(store) + repr(store._link)
    assert "canary" not in capsys.readouterr().err


@pytest.mark.redis
async def test_a_call_that_is_given_up_does_not_answer_the_next_one(redis: RedisServer) -> None:
    """A caller that leaves takes the connection with it: nobody gets the reply meant for somebody else."""
    async with a_state(redis.url, timeout_s=SLOW_S) as store:
        names = [fresh_key() for _ in range(40)]
        for name in names:
            await store.put(name, name.encode(), 60.0)
        for turn in range(200):
            task = asyncio.create_task(store.get(names[turn % 40]))
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            wanted = names[(turn * 7 + 1) % 40]
            assert await store.get(wanted) == wanted.encode()


@pytest.mark.redis
@pytest.mark.parametrize("words", [("SADD",), ("HSET", "f"), ("RPUSH",)], ids=lambda words: str(words[0]))
async def test_a_value_of_another_kind_is_not_believed(redis: RedisServer, words: tuple[str, ...]) -> None:
    """What others wrote under our key is neither a value nor a free place."""
    async with a_state(redis.url, timeout_s=SLOW_S) as store:
        name = fresh_key()
        redis.command(words[0], name, *words[1:], "x")
        with pytest.raises(StoreUnavailable):
            await store.get(name)
        assert not await store.add(name, b"x", 60.0)


@pytest.mark.redis
@pytest.mark.parametrize("junk", ["", "x", "0" * 14, "zzzzzzzzzzzzzzzvalue"])
async def test_a_value_without_a_version_is_not_there(redis: RedisServer, junk: str) -> None:
    """A string that nobody here has written is no value, and the first version replaces it."""
    async with a_state(redis.url, timeout_s=SLOW_S) as store:
        name = fresh_key()
        redis.command("SET", name, junk)
        assert await store.get(name) is None
        assert await store.put_newer(name, 1, b"x", 60.0)


@pytest.mark.redis
async def test_a_lease_written_before_the_clock_was_set_back_holds_nobody_up(redis: RedisServer) -> None:
    """A lease that seems to last longer than any lease does is over (A11), and numbers grow all the same."""
    async with a_state(redis.url, timeout_s=SLOW_S) as store:
        name = fresh_key("refresh")
        ahead = time.time() + 86_400
        redis.command("HSET", name, "holder", "a", "until", f"{ahead * 1e3:.0f}", "fence", f"{ahead * 1e6:.0f}")
        number = await store.acquire(name, "b", 1.0)
        assert number == round(ahead * 1e6) + 1


REPLIES = [
    b"+OK\r\n",
    b"$5\r\nhello\r\n",
    b":7\r\n",
    b"*0\r\n",
    b"-ERR no\r\n",
    b"-LOADING\r\n",
    b"$-1\r\n",
    b"garbage",
    b"$99999999999\r\n",
    b"",
]


@pytest.mark.parametrize("reply", REPLIES, ids=repr)
async def test_a_server_that_talks_nonsense_is_no_error_of_ours(reply: bytes) -> None:
    """Whatever comes back, a call gives what its type says or StoreUnavailable."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_say, args=(listener, reply), daemon=True).start()
        async with a_state(f"redis://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.1) as store:
            for call, kinds in (
                (lambda: store.get("k"), bytes | None),
                (lambda: store.take("k"), bytes | None),
                (lambda: store.add("k", b"", 1.0), bool),
                (lambda: store.put_newer("k", 1, b"", 1.0), bool),
                (lambda: store.acquire("k", "h", 1.0), int | None),
                (lambda: store.renew("k", "h", 1.0), bool),
            ):
                try:
                    answer = await call()
                except StoreUnavailable:
                    continue
                assert isinstance(answer, kinds)


def _say(listener: socket.socket, reply: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
            with connection:
                while connection.recv(65_536):
                    connection.sendall(reply)
                    if not reply:
                        break
        except OSError:
            return
