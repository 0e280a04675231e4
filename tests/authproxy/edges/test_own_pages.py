"""Portero's own pages over the wire: their bodies are bounded, and nothing of them reaches the platform."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from authproxy.edges.own_answers import MAX_CALLER_BYTES, PIECE_BYTES
from authproxy.edges.public import PublicEdge
from authproxy.results.result import Owner, Result
from authproxy.results.store import ResultBounds
from tests.fakes.jobs import until
from tests.fakes.raw_client import RawClient
from tests.fakes.world import World, running_world, send_raw


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running_world() as running:
        yield running


def _post(fields: str, body: bytes = b"") -> bytes:
    head = f"POST /.portero/token HTTP/1.1\r\nHost: acme.test\r\n{fields}Connection: close\r\n\r\n"
    return head.encode() + body


async def test_a_body_that_says_it_is_too_large_is_not_asked_for(world: World) -> None:
    """``Expect: 100-continue`` gets its refusal instead of an invitation."""
    answer = await world.send(_post("Content-Length: 70000\r\nExpect: 100-continue\r\n"))
    assert (answer.status, answer.reason) == (413, "body-too-large")
    assert b"100 Continue" not in answer.wire


async def test_a_body_that_goes_on_is_refused_where_it_is_too_large(world: World) -> None:
    """Whatever a chunked body says of its length."""
    chunk = b"2000\r\n" + b"a" * 0x2000 + b"\r\n"
    wire = _post("Transfer-Encoding: chunked\r\nContent-Type: application/x-www-form-urlencoded\r\n", chunk * 12)
    answer = await send_raw(world.app.public_address, wire)
    assert answer is not None
    assert (answer.status, answer.reason) == (413, "body-too-large")


async def test_no_own_page_reaches_the_platform(world: World) -> None:
    """Answered, refused or unknown: the functions platform is never asked."""
    for line in ("GET /.portero/whoami", "GET /.portero/jwks.json", "POST /.portero/logout", "GET /.portero/else"):
        answer = await world.send(f"{line} HTTP/1.1\r\nHost: acme.test\r\nConnection: close\r\n\r\n".encode())
        assert answer.status in {200, 303, 401, 403, 404}, line
    assert world.faas.requests == []


LARGE = bytes(range(256)) * (MAX_CALLER_BYTES // 256)


async def _kept(world: World, body: bytes) -> bytes:
    """A request for a result that is there for whoever knows its address."""
    results = world.app.parts.results
    opened = await results.open(Owner("acme", None), "f", ResultBounds(9, 9, 1 << 30), 60.0)
    assert isinstance(opened, str)
    assert await results.finish("acme", opened, Result(200, ((b"X-Mine", b"caf\xe9"),), body, 1.0))
    return f"GET /.portero/result/{opened} HTTP/1.1\r\nHost: acme.test\r\n\r\n".encode()


def _edge(world: World) -> PublicEdge:
    edge = world.app._public
    assert edge is not None
    return edge


def _sending(world: World) -> int:
    return _edge(world).delivery._own._sending.total


@contextlib.asynccontextmanager
async def _deaf(world: World, wire: bytes) -> AsyncIterator[socket.socket]:
    """A client that sends and does not read."""
    loop = asyncio.get_running_loop()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        await loop.sock_connect(deaf, world.app.public_address)
        await loop.sock_sendall(deaf, wire)
        yield deaf


@pytest.mark.parametrize("size", [PIECE_BYTES, PIECE_BYTES + 1, MAX_CALLER_BYTES])
async def test_a_long_answer_comes_whole(world: World, size: int) -> None:
    """One after another on a connection, of any length; HEAD has none."""
    wire = await _kept(world, LARGE[:size])
    async with RawClient(world.app.public_address) as client:
        await client.send(wire * 2 + wire.replace(b"GET", b"HEAD") + wire)
        for is_head in (False, False, True, False):
            answer = await client.answer(to_head=is_head)
            assert (answer.status, answer.field("x-mine")) == (200, "caf\xe9")
            assert answer.body == (b"" if is_head else LARGE[:size])
    assert not _sending(world)


async def test_who_does_not_read_keeps_little_in_memory(world: World) -> None:
    """Of a long answer a few pieces wait for its reader; one caller has so much under way, and all of it comes back."""
    wire = await _kept(world, LARGE)
    async with _deaf(world, wire * 3):
        await until(lambda: _sending(world))
        await asyncio.sleep(0.1)
        (connection,) = _edge(world)._connections
        transport = connection.transport
        assert transport is not None
        assert transport.get_write_buffer_size() <= 4 * PIECE_BYTES
        async with RawClient(world.app.public_address) as another:
            await another.send(wire)
            answer = await another.answer()
            assert (answer.status, answer.field("x-portero-reason")) == (429, "queue-full")
    await until(lambda: not _sending(world))
    async with RawClient(world.app.public_address) as another:
        await another.send(wire)
        assert (await another.answer()).body == LARGE


async def test_a_long_answer_is_cut_when_there_is_no_time_left(world: World) -> None:
    """Half of it is never completed, and nobody is waited for."""
    wire = await _kept(world, LARGE)
    async with _deaf(world, wire) as deaf:
        await until(lambda: _sending(world))
        edge = _edge(world)
        async with asyncio.timeout(20):
            await world.app.stop(0.05)
        got = 0
        with contextlib.suppress(ConnectionError):
            while piece := await asyncio.get_running_loop().sock_recv(deaf, 1 << 20):
                got += len(piece)
        assert got < len(LARGE)
        await until(lambda: not edge.delivery._own._sending.total)
