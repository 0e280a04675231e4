"""What is bounded on a client's connection, and what must not be taken for being too much."""

from __future__ import annotations

import asyncio

import pytest

from policies.decision import Reason
from tests.fakes.front import Front
from tests.fakes.gate import refused
from tests.fakes.jobs import until
from tests.fakes.loop_clock import LoopClock
from tests.fakes.upstream import Peer


async def answer_length(peer: Peer) -> None:
    while True:
        head, body = await peer.request()
        if b"/slow" in head:
            await asyncio.sleep(0.3)
        await peer.answer(b"%d" % len(body))


@pytest.mark.parametrize("size", [10, 70_000, 200_000])
async def test_the_last_piece_of_a_body_is_not_the_begin_of_a_head(size: int) -> None:
    """However large it is: the next request is answered, and an idle connection owes none."""
    clock = LoopClock()
    async with Front(answer_length, edge={"head_timeout_s": 20}) as front, front.client() as client:
        for _ in range(2):
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
            await asyncio.sleep(0.05)
            await client.send(b"x" * size)
            assert (await client.answer()).body == b"%d" % size
        await clock.pass_s(40)
        assert (await client.get()).status == 200
        assert front.gate.unread == []


async def test_a_body_behind_a_running_request_is_not_a_head() -> None:
    """Its request waits its turn; what comes of its body meanwhile is body."""
    size = 150_000
    async with Front(answer_length) as front, front.client() as client:
        await client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(15):
            await asyncio.sleep(0.005)
            await client.send(b"x" * (size // 15))
        assert (await client.answer()).body == b"0"
        assert (await client.answer()).body == b"%d" % size
        assert (await client.get()).status == 200


async def test_chunk_extensions_behind_a_running_request_are_bounded() -> None:
    """The bound on what is no body holds from the body's first byte, served or not."""
    async with Front(answer_length) as front, front.client() as client:
        await client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(10):
            await asyncio.sleep(0.005)
            await client.send(b"1;" + b"e" * 5000 + b"\r\nx\r\n")
        assert (await client.answer()).status == 200
        answer = await client.answer()
        assert (answer.status, answer.field("x-portero-reason")) == (400, "body-malformed")


@pytest.mark.parametrize("is_slow", [False, True])
async def test_a_body_in_chunks_of_one_byte_is_no_abuse(is_slow: bool) -> None:
    """Also where the function reads late, so that reading it was held."""

    async def count(peer: Peer) -> None:
        await peer.head()
        await asyncio.sleep(0.3 if is_slow else 0)
        total = 0
        async for piece in peer.chunks():
            total += len(piece)
        await peer.answer(b"%d" % total)

    async with Front(count) as front, front.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.05)
        await client.send(b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
        assert (await client.answer()).body == b"100000"


@pytest.mark.parametrize(
    ("begun", "status"),
    [(b"GET / HTTP/1.1\r\nHost", 408), (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431)],
    ids=["slow", "large"],
)
async def test_a_client_that_stays_after_its_head_was_refused_is_closed(begun: bytes, status: int) -> None:
    """It was told and does not close: three seconds later its connection is gone."""
    clock = LoopClock()
    async with Front(edge={"head_timeout_s": 20}) as front, front.client() as client:
        await client.send(begun[:20])
        await asyncio.sleep(0.05)
        await client.send(begun[20:])
        if status == 408:
            await clock.pass_s(30)
        assert (await client.answer()).status == status
        await clock.pass_s(3)
        await until(lambda: not front.edge.connections, timeout_s=3)


async def test_a_head_that_began_behind_a_request_has_the_time_of_a_head() -> None:
    """Not that of an idle connection."""
    may_end = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.head()
        await may_end.wait()
        await peer.answer()

    async with Front(slow, edge={"head_timeout_s": 0.2}) as front, front.client() as client:
        await client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: front.upstream.heads)
        await client.send(b"GET /next HTTP")
        await asyncio.sleep(0.05)
        may_end.set()
        assert (await client.answer()).status == 200
        answer = await client.answer()
        assert (answer.status, answer.field("x-portero-reason")) == (408, "request-timeout")


async def test_a_client_that_asks_and_does_not_read_keeps_little() -> None:
    """A pipeline of refusals: uvloop hands over megabytes of it in one turn of the loop."""
    async with Front() as front, front.client() as client:
        front.gate.verdict = lambda _head: refused(Reason.CREDENTIAL_MISSING)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a reading transport as well
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 200_000)
        most = 0
        for _ in range(50):
            await asyncio.sleep(0.01)
            kept = sum(len(data) for _, data in front.pool.outbox._waiting)  # shows nowhere else
            for connection in front.edge._connections:  # the same
                if connection.transport is not None:
                    kept += connection.transport.get_write_buffer_size()
            most = max(most, kept)
        assert most < 1024 * 1024
