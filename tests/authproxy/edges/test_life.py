"""Start, drain and stop; bounds of connections; errors of our own."""

from __future__ import annotations

import asyncio
import gc
from typing import NoReturn

import pytest

from authproxy.edges.exchange import PublicExchange
from policies.decision import Reason
from policies.request import Head
from policies.tables import Timeouts
from tests.fakes.front import Front
from tests.fakes.jobs import until
from tests.fakes.upstream import Peer

PATIENT = Timeouts(connect_s=30, first_byte_s=30, idle_s=30)


class Slow:
    """A function that answers when ``may_answer`` is set."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            await self.may_answer.wait()
            await peer.answer(b"late")


async def test_running_requests_finish_while_draining() -> None:
    """Uploads go on as well; the connection is closed after its answer."""
    slow = Slow()
    async with Front(slow) as front, front.client() as client, front.client() as uploader, front.client() as idle:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await uploader.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
        await until(lambda: len(front.upstream.heads) == 2 and front.edge.connections == 3)
        stopping = asyncio.create_task(front.edge.stop(30))
        assert await idle.until_end() == b""
        await uploader.send(b"def")
        slow.may_answer.set()
        for one in (client, uploader):
            answer = await one.answer()
            assert (answer.status, answer.body, answer.field("connection")) == (200, b"late", "close")
        await asyncio.wait_for(stopping, 15)
        with pytest.raises(OSError):
            await asyncio.open_connection(*front.address)


async def test_what_outlives_the_drain_is_cut() -> None:
    """Half an answer is not completed by us; it is finished towards the gate."""

    async def half(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await peer.until_end()

    async with Front(half) as front, front.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.reader.readuntil(b"half")
        await asyncio.wait_for(front.edge.stop(0.1), 20)
        assert await client.until_end() == b""
        assert [one.failure for one in front.gate.finished] == [Reason.CLIENT_GONE]
        assert front.edge.running == 0


async def test_connections_over_the_bound_are_refused_with_a_reason() -> None:
    """503 overloaded; those within go on."""
    async with Front(edge={"max_connections": 2}) as front, front.client() as one, front.client() as two:
        assert (await one.get()).status == (await two.get()).status == 200
        async with front.client() as three:
            assert (await three.answer()).field("x-portero-reason") == "overloaded"
            assert await three.until_end() == b""
        assert (await one.get()).status == 200


async def test_requests_wait_for_a_connection_within_bounds() -> None:
    """Dials are capped: a thousand requests never become a thousand sockets."""
    busy = 0
    most = 0

    async def script(peer: Peer) -> None:
        nonlocal busy, most
        while True:
            await peer.request()
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0.005)
            busy -= 1
            await peer.answer()

    async with Front(script, timeouts=PATIENT, pool={"max_per_address": 5, "max_waiting": 1000}) as front:

        async def one() -> int:
            async with front.client() as client:
                return (await client.get()).status

        assert set(await asyncio.gather(*(one() for _ in range(60)))) == {200}
        assert most <= 5
        assert front.upstream.connections <= 5


async def test_more_waiting_requests_than_the_bound_are_503() -> None:
    """overloaded, at once: while the others go on waiting."""
    slow = Slow()
    async with Front(slow, timeouts=PATIENT, pool={"max_per_address": 1, "max_waiting": 1}) as front:

        async def one() -> int:
            async with front.client() as client:
                return (await client.get()).status

        asking = [asyncio.create_task(one()) for _ in range(4)]
        await until(lambda: sum(task.done() for task in asking) == 2)
        assert [task.result() for task in asking if task.done()] == [503, 503]
        slow.may_answer.set()
        assert sorted(await asyncio.gather(*asking)) == [200, 200, 503, 503]


async def test_a_waiting_client_that_leaves_gives_its_place_back() -> None:
    """The connection it would have got goes to the next."""
    slow = Slow()
    async with Front(slow, timeouts=PATIENT, pool={"max_per_address": 1}) as front:
        async with front.client() as first, front.client() as third:
            await first.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda: front.upstream.heads)
            async with front.client() as second:
                await second.send(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(lambda: front.pool._waiting == 1)  # shows nowhere else
                await third.send(b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(lambda: front.pool._waiting == 2)
            await until(lambda: front.pool._waiting == 1)
            slow.may_answer.set()
            assert (await first.answer()).status == 200
            assert (await third.answer()).status == 200
        assert [head.split(b" ")[1] for head in front.upstream.heads] == [b"/1", b"/3"]


async def test_an_error_of_ours_is_500_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Contained to one request; the text is for the log alone (AP-R52)."""

    class Broken(Exception):
        pass

    async with Front() as front, front.client() as client:
        block, front.gate.answer_block = front.gate.answer_block, None  # type: ignore[assignment]  # breaks the relay
        answer = await client.get()
        assert (answer.status, answer.field("x-portero-reason")) == (500, "internal-error")
        assert b"TypeError" not in answer.body
        front.gate.answer_block = block
        assert (await client.get()).status == 200
        assert [one.failure for one in front.gate.finished] == [Reason.INTERNAL_ERROR, None]


async def test_a_gate_that_raises_lets_nothing_through(capsys: pytest.CaptureFixture[str]) -> None:
    """The connection is cut; nothing reaches a function."""

    def broken(_head: Head) -> NoReturn:
        raise RuntimeError("secret text")

    async with Front() as front, front.client() as client:
        front.gate.verdict = broken
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"secret" not in await client.until_end()
        assert front.upstream.heads == []


async def test_a_running_exchange_can_be_cut() -> None:
    """By the registry: a policy swap, an expired token, the end of the process."""
    started = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        started.set()
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await started.wait()
        await client.head()
        assert await client.chunk() == b"abc"
        assert front.gate.live.cut_all(1008) == 1
        assert b"0\r\n\r\n" not in await client.until_end()
        await asyncio.wait_for(front.upstream.peers[0].saw_end.wait(), 10)


async def test_nothing_is_left_of_a_request_for_the_collector() -> None:
    """Neither of one that was answered at once nor of one that a task streamed: memory is free when the answer is."""

    async def pieces(peer: Peer) -> None:
        while True:
            head = await peer.head()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"" if b"/slow" in head else b"ab"))
            if b"/slow" in head:
                await asyncio.sleep(0.02)
                await peer.send(b"ab")

    async with Front(pieces) as front, front.client() as client:
        front.gate.keeps_records = False
        gc.collect()
        gc.disable()
        try:
            for path in ("/", "/slow", "/", "/slow", "/"):
                assert (await client.get(path)).body == b"ab"
            await until(lambda: not [one for one in gc.get_objects() if type(one) is PublicExchange])
        finally:
            gc.enable()
