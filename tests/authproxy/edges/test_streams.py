"""
Bytes flow as they come, in both directions, and no faster than the slower side takes them.

Longer than other modules: most tests have an upstream of their own.
"""

from __future__ import annotations

import asyncio
import time
from statistics import median

import pytest

from policies.decision import Reason
from tests.fakes.front import Front
from tests.fakes.pulse import Pulse
from tests.fakes.upstream import Peer

OK = b"HTTP/1.1 200 OK\r\n"
MIB = 1024 * 1024


async def test_an_event_arrives_within_50_ms() -> None:
    """Server-sent events: each one leaves when it comes, the head before the first and none for want of the next."""
    written: list[float] = []
    events = asyncio.Semaphore(0)

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for n in range(20):
            await events.acquire()
            event = b"data: %d\n\n" % n
            written.append(time.monotonic())
            await peer.send(b"%x\r\n%b\r\n" % (len(event), event))
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.head()
        late: list[float] = []
        for n in range(20):
            events.release()
            assert await client.chunk() == b"data: %d\n\n" % n
            late.append(time.monotonic() - written[n])
        assert median(late) <= 0.05


async def test_a_slow_reader_slows_the_writer() -> None:
    """What a client does not read stays with the function, not in our memory."""
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.head()
        await peer.send(OK + b"Content-Length: %d\r\n\r\n" % (64 * MIB))
        for _ in range(64 * 16):
            await peer.send(b"x" * (MIB // 16))
            sent += MIB // 16
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket transport reads
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 24 * MIB, "kernel buffers on four sockets and little more"
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]  # same
        answer = await client.answer()
        assert len(answer.body) == 64 * MIB


async def test_a_slow_function_slows_the_client() -> None:
    """What a function does not read stays with the client."""
    go_on = asyncio.Event()
    size = 48 * MIB

    async def script(peer: Peer) -> None:
        await peer.head()
        await go_on.wait()
        body = await peer.reader.readexactly(size)
        await peer.answer(b"%d" % len(body))
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        sent = 0

        async def upload() -> None:
            nonlocal sent
            await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // MIB):
                await client.send(b"x" * MIB)
                sent += MIB

        task = asyncio.create_task(upload())
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 24 * MIB
        go_on.set()
        assert (await client.answer()).body == b"%d" % size
        await task
        assert front.gate.finished[0].bytes_in == size


async def test_both_directions_stream_at_once() -> None:
    """A function may answer while it still reads: echo, transcoding, a long poll with an upload."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        async for piece in peer.chunks():
            await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await peer.send(b"0\r\n\r\n")
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(b"3\r\nabc\r\n")
        await client.head()
        assert await client.chunk() == b"abc"
        await client.send(b"2\r\nde\r\n")
        assert await client.chunk() == b"de"
        await client.send(b"0\r\n\r\n")
        assert await client.chunk() == b""


async def test_an_answer_before_the_end_of_the_upload_ends_it() -> None:
    """The pump stops, the client reads the answer although it is still sending, neither connection is used again."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.answer(b"no thanks", status=b"403 Forbidden")
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 100_000)
        answer = await client.answer()
        assert (answer.status, answer.body, answer.field("connection")) == (403, b"no thanks", "close")
        for _ in range(10):
            client.writer.write(b"x" * 100_000)
            await asyncio.sleep(0.005)
        client.writer.write_eof()
        assert await client.until_end() == b""
        await asyncio.wait_for(front.upstream.peers[0].saw_end.wait(), 10)


@pytest.mark.parametrize("when", ["waiting", "streaming", "uploading"])
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_client_that_leaves_ends_the_functions_request_within_a_second(when: str, how: str) -> None:
    """Nobody is left to answer: the function's connection is closed, the audit says client-gone."""
    started = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        if when == "streaming":
            await peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        started.set()
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        if when == "uploading":
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc")
        else:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await started.wait()
        if when == "streaming":
            await client.head()
            await client.chunk()
        with Pulse() as pulse:
            left_at = time.monotonic()
            client.reset() if how == "rst" else client.close()
            await asyncio.wait_for(front.upstream.peers[0].saw_end.wait(), 20)
            assert pulse.took_s(left_at) < 1
        await front.all_finished()
        assert [one.failure for one in front.gate.finished] == [Reason.CLIENT_GONE]


@pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
async def test_a_held_client_that_leaves_is_noticed_also_with_an_unread_body(is_large: bool) -> None:
    """Up to twice ``read_buffer_bytes`` of an unread body; beyond that the hold's own deadline ends it."""
    held, gone = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        held.set()
        try:
            await asyncio.sleep(600)
        finally:
            gone.set()

    async with Front() as front, front.client() as client:
        front.gate.hold = hold
        size = 200_000 if is_large else 100
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await held.wait()
        await asyncio.sleep(0.1)  # all of the body has come
        with Pulse() as pulse:
            left_at = time.monotonic()
            client.close()
            await asyncio.wait_for(gone.wait(), 20)
            assert pulse.took_s(left_at) < 1
        assert front.upstream.heads == []


async def test_a_function_that_leaves_ends_the_clients_stream_within_a_second() -> None:
    """By its last chunk where the end was said, by a cut connection where it was not."""
    leaves = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK + b"Content-Length: 100\r\n\r\nabc")
        await leaves.wait()
        peer.reset()

    async with Front(script) as front, front.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.head()
        assert await client.reader.readexactly(3) == b"abc"
        with Pulse() as pulse:
            left_at = time.monotonic()
            leaves.set()
            assert await client.until_end() == b""
            assert pulse.took_s(left_at) < 1


class TestContinue:
    """Expect: 100-continue is answered by us, when the function is about to be called and the body is wanted."""

    HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"

    async def test_a_client_that_waits_is_told_to_go_on(self) -> None:
        """Once, and the function is not asked to expect anything."""
        async with Front() as front, front.client() as client:
            await client.send(self.HEAD)
            assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"hello")
            assert (await client.answer()).status == 200
            assert b"expect" not in front.upstream.heads[0].lower()
            assert front.gate.finished[0].bytes_in == 5

    async def test_a_client_that_does_not_wait_is_not_told(self) -> None:
        """The body is there already (RFC 9110 section 10.1.1: a server may omit it then)."""
        async with Front() as front, front.client() as client:
            await client.send(self.HEAD + b"hello")
            assert (await client.head())[0] == 200

    async def test_a_refused_client_keeps_its_body(self) -> None:
        """The final status comes instead of 100; the connection is closed because the body may still come."""
        from tests.fakes.gate import refused

        async with Front() as front, front.client() as client:
            front.gate.verdict = lambda _head: refused(Reason.CREDENTIAL_MISSING)
            await client.send(self.HEAD)
            status, fields = await client.head()
            assert (status, dict(fields)["connection"]) == (401, "close")

    async def test_a_held_client_waits_unsent(self) -> None:
        """100 is written on release, not before."""
        release = asyncio.Event()
        async with Front() as front, front.client() as client:

            async def hold() -> None:
                await release.wait()

            front.gate.hold = hold
            await client.send(self.HEAD)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.reader.read(1), 0.1)
            release.set()
            assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"hello")
            assert (await client.answer()).status == 200

    async def test_an_upstream_that_is_down_answers_instead(self) -> None:
        """No body is asked for that nobody would read."""
        async with Front() as front, front.client() as client:
            front.gate.address = front.upstream.address._replace(port=1)
            await client.send(self.HEAD)
            assert (await client.head())[0] == 502


class TestLimits:
    """Bodies over the limit."""

    async def test_a_length_over_the_limit_never_reaches_the_function(self) -> None:
        """413 by Content-Length alone."""
        async with Front(max_body_bytes=10) as front, front.client() as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n")
            answer = await client.answer()
            assert (answer.status, answer.field("x-portero-reason")) == (413, "body-too-large")
            assert front.upstream.connections == 0

    @pytest.mark.parametrize("is_slow", [False, True], ids=["at-hand", "streamed"])
    async def test_chunks_over_the_limit_are_cut(self, is_slow: bool) -> None:
        """The function sees no end of the body, so it does not act on half of it."""

        async def script(peer: Peer) -> None:
            await peer.head()
            await peer.until_end()

        async with Front(script, max_body_bytes=10) as front, front.client() as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n8\r\naaaaaaaa\r\n")
            if is_slow:
                await asyncio.sleep(0.05)
            await client.send(b"8\r\naaaaaaaa\r\n0\r\n\r\n")
            answer = await client.answer()
            assert (answer.status, answer.field("x-portero-reason")) == (413, "body-too-large")

    @pytest.mark.parametrize("is_slow", [False, True], ids=["at-hand", "streamed"])
    async def test_a_body_that_breaks_its_framing_is_400(self, is_slow: bool) -> None:
        """The function gets no end of it; aiohttp itself would leave the handler waiting for ever."""

        async def script(peer: Peer) -> None:
            await peer.head()
            rest = await peer.until_end()
            assert b"0\r\n\r\n" not in rest

        async with Front(script) as front, front.client() as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            if is_slow:
                await asyncio.sleep(0.05)
            await client.send(b"zz\r\nabc")
            answer = await client.answer()
            assert answer.status == 400
            assert await client.until_end() == b""
