"""A client that repeats itself is parsed once; whatever else it sends in between, no byte is taken for a repetition."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random

import pytest

from authproxy.edges.protocol import ClientConnection, ClientServer
from authproxy.edges.public import PublicEdge
from authproxy.upstream.departure import Address
from authproxy.upstream.pool import Pool
from policies.decision import Reason
from tests.fakes.front import Front
from tests.fakes.gate import StubGate, refused
from tests.fakes.upstream import Peer

ONE = b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n"
TWO = b"GET /two HTTP/1.1\r\nHost: a\r\nX-Long: 1\r\n\r\n"
OLD = b"GET /old HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
EMPTY = b"POST /empty HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"


class Wire(asyncio.Transport):
    """What a connection writes to; nothing of it matters here."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        return

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        return

    def abort(self) -> None:
        return

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return


def connect(gate: StubGate) -> ClientConnection:
    """A connection whose segments a test hands over itself."""
    edge = PublicEdge(gate, Pool())
    server = ClientServer(edge, asyncio.get_running_loop(), auto_decompress=False, access_log=None, keepalive_timeout=0)
    connection = server()
    connection.connection_made(Wire())
    return connection


def segments(stream: bytes, ends: set[int], chance: Random) -> list[bytes]:
    """``stream`` cut mostly where requests end, and now and then anywhere."""
    cuts = {end for end in ends if chance.random() < 0.8}
    cuts |= {chance.randrange(1, len(stream)) for _ in range(chance.randrange(4))}
    marks = [0, *sorted(cuts | {len(stream)})]
    return [stream[start:end] for start, end in pairwise(marks)]


@pytest.mark.parametrize("seed", range(40))
async def test_every_request_is_judged_once_however_it_is_cut(seed: int) -> None:
    """Repetitions, blank lines between requests, pipelines and heads in pieces, in any order."""
    chance = Random(seed)  # the seed names the case
    requests = [chance.choice([ONE, ONE, ONE, TWO, OLD, EMPTY]) for _ in range(30)]
    stream, ends = b"", set()
    for request in requests:
        stream += chance.choice([b"", b"", b"", b"\r\n", b"\r\n\r\n"]) + request
        ends.add(len(stream))
    gate = StubGate(Address("127.0.0.1", 1), verdict=lambda _head: refused(Reason.CREDENTIAL_MISSING))
    connection = connect(gate)
    await asyncio.sleep(0)
    for segment in segments(stream, ends, chance):
        connection.data_received(segment)
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    assert [head.target for head in gate.heads] == [request.split(b" ")[1] for request in requests]
    connection.connection_lost(None)


async def test_a_repetition_is_the_same_request() -> None:
    """Head, fields and version are what they were, and the parser was not asked."""
    gate = StubGate(Address("127.0.0.1", 1), verdict=lambda _head: refused(Reason.CREDENTIAL_MISSING))
    connection = connect(gate)
    await asyncio.sleep(0)
    for request in (ONE, ONE, TWO, ONE, ONE, OLD, OLD):
        connection.data_received(bytes(bytearray(request)))
    assert gate.heads[0] == gate.heads[1] == gate.heads[3] == gate.heads[4] != gate.heads[2]
    assert gate.heads[1] is gate.heads[0]
    assert gate.heads[6] is gate.heads[5]
    assert gate.heads[6].version == (1, 0)
    connection.connection_lost(None)


async def answer_all(peer: Peer) -> None:
    while True:
        head, body = await peer.request()
        await peer.answer(head.split(b" ")[1] + b"|" + body)


async def test_a_body_that_looks_like_the_last_request_is_a_body() -> None:
    """Request smuggling: bytes that were a request before are content now, whatever segment they come in."""
    async with Front(answer_all) as front, front.client() as client:
        for _ in range(2):
            await client.send(ONE)
            assert (await client.answer()).body == b"/one|"
        await client.send(b"POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(ONE))
        await asyncio.sleep(0.05)
        await client.send(ONE)
        assert (await client.answer()).body == b"/post|" + ONE
        await client.send(b"POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(ONE))
        await asyncio.sleep(0.05)
        await client.send(ONE)
        await asyncio.sleep(0.05)
        await client.send(b"\r\n0\r\n\r\n")
        assert (await client.answer()).body == b"/chunks|" + ONE
        await client.send(ONE)
        assert (await client.answer()).body == b"/one|"
        assert len(front.upstream.heads) == 5


async def test_a_field_that_looks_like_the_last_request_is_a_field() -> None:
    """A head that is not complete is completed by what follows, even where that was a request before."""
    async with Front(answer_all) as front, front.client() as client:
        for _ in range(2):
            await client.send(ONE)
            assert (await client.answer()).body == b"/one|"
        await client.send(b"GET /other HTTP/1.1\r\nX-Pad: ")
        await asyncio.sleep(0.05)
        await client.send(ONE)
        assert (await client.answer()).body == b"/other|"
        assert len(front.upstream.heads) == 3


async def test_a_head_that_began_with_the_last_segment_is_completed() -> None:
    """Its first bytes came behind a whole request, or while that was being answered."""

    async def slowly(peer: Peer) -> None:
        while True:
            head = await peer.head()
            await asyncio.sleep(0.1)
            await peer.answer(head.split(b" ")[1])

    begun = b"GET /other HTTP/1.1\r\nX-Pad: "
    async with Front(slowly) as front, front.client() as client:
        await client.send(ONE)
        await client.answer()
        await client.send(ONE + begun)
        assert (await client.answer()).body == b"/one"
        await client.send(ONE)
        assert (await client.answer()).body == b"/other"
        await client.send(ONE)
        await asyncio.sleep(0.05)
        await client.send(begun)
        assert (await client.answer()).body == b"/one"
        await client.send(ONE)
        assert (await client.answer()).body == b"/other"
        assert len(front.upstream.heads) == 5


async def test_the_end_of_a_head_is_no_request() -> None:
    """Only what began between two requests can be one again."""
    async with Front(answer_all) as front, front.client() as client:
        await client.send(ONE[:10])
        await asyncio.sleep(0.05)
        await client.send(ONE[10:])
        assert (await client.answer()).status == 200
        await client.send(ONE[10:])
        assert (await client.answer()).status == 400
        assert len(front.upstream.heads) == 1


async def test_a_request_with_a_body_is_read_each_time() -> None:
    """Its head alone would be forwarded without the body, which would be the next request."""
    async with Front(answer_all) as front, front.client() as client:
        for _ in range(2):
            await client.send(ONE)
            assert (await client.answer()).body == b"/one|"
            await client.send(b"POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(TWO))
            await asyncio.sleep(0.05)
            await client.send(TWO)
            assert (await client.answer()).body == b"/post|" + TWO
        assert len(front.upstream.heads) == 4


async def test_a_request_that_ends_the_connection_ends_it_also_when_repeated() -> None:
    """``Connection: close`` is not forgotten."""
    async with Front(answer_all) as front, front.client() as client:
        last = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        await client.send(ONE)
        await client.answer()
        await client.send(last)
        assert (await client.answer()).field("connection") == "close"
        await client.send(last)
        assert await client.until_end() == b""
        assert len(front.upstream.heads) == 2
