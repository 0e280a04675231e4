"""Every wait has an end: of the function's side by its spec, of the client's side by the edge."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest

from policies.decision import Reason
from policies.tables import Timeouts
from tests.fakes.front import Front
from tests.fakes.jobs import until
from tests.fakes.loop_clock import LoopClock
from tests.fakes.upstream import Peer

OK = b"HTTP/1.1 200 OK\r\n"


async def until_gone(peer: Peer) -> None:
    await peer.head()
    await peer.until_end()


async def test_a_function_that_does_not_answer_is_504() -> None:
    """first_byte; its connection is closed."""
    async with Front(until_gone, timeouts=Timeouts(first_byte_s=0.2)) as front, front.client() as client:
        began = time.monotonic()
        answer = await client.get()
        assert (answer.status, answer.field("x-portero-reason")) == (504, "upstream-timeout")
        assert 0.2 <= time.monotonic() - began < 10, "idle would be a minute"
        await asyncio.wait_for(front.upstream.peers[0].saw_end.wait(), 10)
        assert (await client.get()).status == 504, "the client's connection goes on"


async def test_a_function_that_falls_silent_cuts_the_client_off() -> None:
    """idle, between two pieces of the answer."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK + b"Content-Length: 9\r\n\r\nabc")
        await peer.until_end()

    async with Front(script, timeouts=Timeouts(idle_s=0.2)) as front, front.client() as client:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.get()
        assert front.gate.finished[0].failure is Reason.UPSTREAM_TIMEOUT


async def test_a_stream_that_goes_on_is_not_idle() -> None:
    """The idle timeout starts anew with each piece."""
    clock, pieces = LoopClock(), asyncio.Semaphore(0)

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            await pieces.acquire()
            await peer.send(b"1\r\nx\r\n")
        await peer.send(b"0\r\n\r\n")
        await peer.until_end()

    async with Front(script, timeouts=Timeouts(first_byte_s=30, idle_s=30)) as front, front.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.head())[0] == 200
        for _ in range(3):
            await clock.pass_s(20)
            pieces.release()
            assert await client.chunk() == b"x"
        assert await client.chunk() == b""


async def test_total_bounds_a_stream_that_goes_on() -> None:
    """total, from the start of the request."""
    clock = LoopClock()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            await asyncio.sleep(0.05)
            await peer.send(b"1\r\nx\r\n")

    async with Front(script, timeouts=Timeouts(idle_s=900, total_s=60)) as front, front.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.head())[0] == 200
        for _ in range(2):
            await clock.pass_s(25)
            assert await client.chunk() == b"x"
        assert not front.gate.finished
        await clock.pass_s(25)
        rest = await client.until_end()
        assert not rest.endswith(b"0\r\n\r\n")
        assert front.gate.finished[0].failure is Reason.UPSTREAM_TIMEOUT


async def test_total_bounds_a_function_that_does_not_answer() -> None:
    """Also where first_byte would wait longer."""
    async with Front(until_gone, timeouts=Timeouts(total_s=0.2)) as front, front.client() as client:
        assert (await client.get()).field("x-portero-reason") == "upstream-timeout"


async def test_an_upload_counts_as_no_silence_of_the_function() -> None:
    """first_byte starts when the request is sent."""
    clock, timeouts, edge = LoopClock(), Timeouts(first_byte_s=30, idle_s=30), {"body_timeout_s": 900}

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.until_end()

    async with Front(script, timeouts=timeouts, edge=edge) as front, front.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
        await until(lambda: front.upstream.heads)
        for _ in range(2):
            await clock.pass_s(60)
            await client.send(b"x")
        assert (await client.answer()).status == 200


async def test_a_function_that_does_not_read_its_upload_is_504() -> None:
    """idle, while the request is being sent."""
    never = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket transport reads
        await never.wait()

    async with Front(script, timeouts=Timeouts(idle_s=0.3)) as front, front.client() as client:
        client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n\r\n" + b"x" * 30_000_000)
        answer = await client.answer()
        assert (answer.status, answer.field("x-portero-reason")) == (504, "upstream-timeout")


async def test_connecting_has_a_timeout() -> None:
    """connect: an address that swallows packets (a listener whose queue is full)."""
    with contextlib.ExitStack() as sockets:
        listener, *full = [sockets.enter_context(socket.socket()) for _ in range(5)]
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for one in full:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        async with Front(timeouts=Timeouts(connect_s=0.3)) as front, front.client() as client:
            front.gate.address = front.upstream.address._replace(port=listener.getsockname()[1])
            answer = await client.get()
            assert (answer.status, answer.field("x-portero-reason")) == (504, "upstream-timeout")


async def test_a_body_that_stalls_is_408() -> None:
    """The function gets no end of it."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.until_end()

    async with Front(script, edge={"body_timeout_s": 0.3}) as front, front.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        answer = await client.answer()
        assert (answer.status, answer.field("x-portero-reason")) == (408, "request-timeout")
        assert answer.field("connection") == "close"


@pytest.mark.parametrize("before", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], ids=["first", "second"])
async def test_a_head_that_trickles_is_408(before: bytes) -> None:
    """The first of a connection or a later one, byte by byte."""
    async with Front(edge={"head_timeout_s": 0.4}) as front, front.client() as client:
        if before:
            await client.send(before)
            await client.answer()
        answer = asyncio.create_task(client.answer())
        for byte in b"GET / HTTP/1.1\r\nHost: a" * 20:
            if answer.done():
                break
            await client.send(bytes([byte]))
            await asyncio.sleep(0.03)
        assert (await answer).field("x-portero-reason") == "request-timeout"
        assert await client.until_end() == b""
        assert front.gate.unread == [Reason.REQUEST_TIMEOUT]


@pytest.mark.parametrize("requests", [0, 1])
async def test_an_idle_connection_is_closed_quietly(requests: int) -> None:
    """keepalive; without an answer nobody asked for."""
    clock = LoopClock()
    async with Front(edge={"keepalive_s": 60}) as front, front.client() as client:
        await until(lambda: front.edge.connections)
        for _ in range(requests):
            await clock.pass_s(40)
            await client.get()
        await clock.pass_s(40)
        assert front.edge.connections == 1
        await clock.pass_s(40)
        assert await client.until_end() == b""


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    """Its function is not kept waiting for ever."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK + b"Content-Length: 100000000\r\n\r\n")
        while True:
            await peer.send(b"x" * 65536)

    async with Front(script, edge={"write_timeout_s": 0.4}) as front, front.client() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket transport reads
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.wait_for(front.all_finished(), 20)
        assert front.gate.finished[0].failure is Reason.CLIENT_GONE


async def test_idle_upstream_connections_are_closed() -> None:
    """By age, so that a request does not leave on one that the other side is closing."""
    clock = LoopClock()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.answer()
        await peer.until_end()

    async with Front(script, pool={"idle_s": 60}) as front, front.client() as client:
        await client.get()
        await clock.pass_s(50)
        assert front.pool.total == 1
        await clock.pass_s(50)
        await asyncio.wait_for(front.upstream.peers[0].saw_end.wait(), 10)
        await until(lambda: front.pool.total == 0)
