"""The pool: which connections are kept, how many, and that none is lost or counted twice."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from authproxy.metrics import Metrics
from authproxy.upstream.connection import Connection
from authproxy.upstream.failures import ForwardFailed
from authproxy.upstream.pool import Pool
from policies.decision import Reason
from policies.tables import Timeouts
from tests.fakes.jobs import until
from tests.fakes.upstream import Peer, ScriptedUpstream

PATIENCE_S = 30.0
TIMEOUTS = Timeouts(connect_s=PATIENCE_S, first_byte_s=PATIENCE_S, idle_s=PATIENCE_S)


async def ask(connection: Connection, body: bytes = b"ok") -> None:
    """One whole exchange on a connection, its answer taken."""
    connection.begin(TIMEOUTS, is_head=False)
    connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await connection.answer_head(PATIENCE_S)
    whole = b""
    while piece := await connection.read():
        whole += piece
    assert whole == body


async def test_a_connection_is_used_again_after_its_answer_was_taken() -> None:
    """And only then."""
    async with ScriptedUpstream() as upstream:
        pool = Pool()
        assert pool.take_now(upstream.address) is None
        first = await pool.take(upstream.address, PATIENCE_S)
        await ask(first)
        assert pool.take_now(upstream.address) is None, "its consumer has not given it back"
        pool.give_back(first)
        assert pool.take_now(upstream.address) is first
        assert (pool.total, pool.in_use) == (1, 1)
        await pool.close()


@pytest.mark.parametrize("when", ["unsent", "no-head", "half-body"])
async def test_a_connection_given_back_early_is_closed(when: str) -> None:
    """Whatever is still to come on it belongs to a request that is over."""

    async def script(peer: Peer) -> None:
        await peer.head()
        if when == "half-body":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        await peer.until_end()

    async with ScriptedUpstream(script) as upstream:
        pool = Pool()
        connection = await pool.take(upstream.address, PATIENCE_S)
        connection.begin(TIMEOUTS, is_head=False)
        if when != "unsent":
            connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        if when == "half-body":
            await connection.answer_head(PATIENCE_S)
        pool.give_back(connection)
        assert pool.take_now(upstream.address) is None
        await until(lambda: pool.total == 0)
        await pool.close()


async def test_an_answer_whose_body_was_not_taken_is_not_reusable() -> None:
    """Status and head alone are not enough."""
    async with ScriptedUpstream() as upstream:
        pool = Pool()
        connection = await pool.take(upstream.address, PATIENCE_S)
        connection.begin(TIMEOUTS, is_head=False)
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await connection.answer_head(PATIENCE_S)
        while not connection.is_complete:  # noqa: ASYNC110  # the protocol tells its consumer only, who must not read here
            await asyncio.sleep(0.01)
        assert not connection.is_reusable
        assert connection.take() == b"ok"
        assert connection.is_reusable
        pool.give_back(connection)
        await pool.close()


async def test_idle_connections_are_bounded() -> None:
    """What comes back beyond ``max_idle`` is closed."""
    async with ScriptedUpstream() as upstream:
        pool = Pool(max_idle=2)
        connections = [await pool.take(upstream.address, PATIENCE_S) for _ in range(4)]
        for connection in connections:
            await ask(connection)
        for connection in connections:
            pool.give_back(connection)
        await until(lambda: pool.total < 4)
        await asyncio.sleep(0.05)
        assert pool.total == 2
        await pool.close()


async def test_the_newest_is_used_and_the_oldest_grows_old() -> None:
    """Last in, first out."""
    async with ScriptedUpstream() as upstream:
        pool = Pool()
        one, two = [await pool.take(upstream.address, PATIENCE_S) for _ in range(2)]
        for connection in (one, two):
            await ask(connection)
            pool.give_back(connection)
        assert pool.take_now(upstream.address) is two
        await pool.close()


async def test_a_full_pool_hands_over_directly() -> None:
    """First come, first served; a waiter that was cancelled is passed over and loses nothing."""
    async with ScriptedUpstream() as upstream:
        pool = Pool(max_per_address=1)
        only = await pool.take(upstream.address, PATIENCE_S)
        waiting = [asyncio.create_task(pool.take(upstream.address, PATIENCE_S)) for _ in range(3)]
        await asyncio.sleep(0.02)
        await ask(only)
        pool.give_back(only)
        waiting[0].cancel()
        assert await waiting[1] is only
        await ask(only)
        pool.give_back(only)
        assert await waiting[2] is only
        assert pool.total == 1
        await pool.close()


async def test_waiting_for_a_connection_has_an_end() -> None:
    """overloaded, within the time a dial would have had."""
    async with ScriptedUpstream() as upstream:
        pool = Pool(max_per_address=1)
        await pool.take(upstream.address, PATIENCE_S)
        with pytest.raises(ForwardFailed) as failed:
            await pool.take(upstream.address, 0.1)
        assert failed.value.reason is Reason.OVERLOADED
        await pool.close()


async def test_a_closed_connection_makes_room_for_a_waiter() -> None:
    """It dials for itself."""
    async with ScriptedUpstream() as upstream:
        pool = Pool(max_per_address=1)
        only = await pool.take(upstream.address, PATIENCE_S)
        waiting = asyncio.create_task(pool.take(upstream.address, PATIENCE_S))
        await asyncio.sleep(0.02)
        only.abort()
        pool.give_back(only)
        assert await waiting is not only
        assert upstream.connections == 2
        await pool.close()


async def test_an_idle_connection_of_another_address_gives_way() -> None:
    """The bound of all connections starves no address."""
    async with ScriptedUpstream() as one, ScriptedUpstream() as two:
        pool = Pool(max_total=1)
        connection = await pool.take(one.address, PATIENCE_S)
        await ask(connection)
        pool.give_back(connection)
        await ask(await pool.take(two.address, PATIENCE_S))
        await pool.close()


@pytest.mark.parametrize("at_s", [0.0, 0.0005, 0.002, 0.01])
async def test_a_dial_that_is_given_up_counts_once(at_s: float) -> None:
    """Cancelled at any moment, before, during or after the connection was made."""
    async with ScriptedUpstream() as upstream:
        pool = Pool()
        for _ in range(5):
            dialling = asyncio.create_task(pool.take(upstream.address, PATIENCE_S))
            await asyncio.sleep(at_s)
            dialling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                pool.give_back(await dialling)
        await until(lambda: pool.total == 0)
        await pool.close()


async def test_what_it_does_is_counted() -> None:
    """Dials by outcome, connections by state."""
    async with ScriptedUpstream() as upstream:
        metrics = Metrics("")
        pool = Pool(metrics=metrics)
        connection = await pool.take(upstream.address, PATIENCE_S)
        with pytest.raises(ForwardFailed):
            await pool.take(upstream.address._replace(port=1), PATIENCE_S)
        assert metrics.upstream_dials_total.value(("ok",)) == 1
        assert metrics.upstream_dials_total.value(("failed",)) == 1
        assert metrics.upstream_connections.value(("used",)) == 1
        await ask(connection)
        pool.give_back(connection)
        assert metrics.upstream_connections.value(("idle",)) == 1
        await pool.close()


async def test_a_closed_pool_opens_nothing() -> None:
    """Draining."""
    async with ScriptedUpstream() as upstream:
        pool = Pool()
        await pool.close()
        with pytest.raises(ForwardFailed):
            await pool.take(upstream.address, PATIENCE_S)


async def test_a_waiter_that_was_passed_over_may_still_leave() -> None:
    """Cancelled, then passed over by a connection that ends in the same turn: it ends as cancelled, nothing else."""
    async with ScriptedUpstream() as upstream:
        pool = Pool(max_per_address=1)
        only = await pool.take(upstream.address, PATIENCE_S)
        waiting = [asyncio.create_task(pool.take(upstream.address, PATIENCE_S)) for _ in range(3)]
        await asyncio.sleep(0.01)
        for task in waiting:
            task.cancel()
        pool.lost(only)
        assert [type(end) for end in await asyncio.gather(*waiting, return_exceptions=True)] == (
            [asyncio.CancelledError] * 3
        )
        only.abort()
        await pool.close()
