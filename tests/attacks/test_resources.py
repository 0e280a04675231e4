"""
Attack family A12, resources: clients that are slow, many, endless or huge cost themselves and not the others.

Every test ends with an honest request that is served. Client and server share a process: memory is that of both.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import itertools
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from authproxy.edges.public import PublicEdge
from tests.attacks.test_smuggling import POST
from tests.fakes.raw_client import RawClient
from tests.fakes.siege import Siege, besieged, split_answers

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB: Final = 1024 * 1024
GET: Final = b"GET /function/survey-web HTTP/1.1\r\nHost: acme.test\r\n"
REFUSED: Final = b"GET /function/survey-report HTTP/1.1\r\nHost: acme.test\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def siege() -> AsyncIterator[Siege]:
    """A Portero with the usual patience, but for tests that shorten it for those they attack with."""
    async with besieged(max_connections=1500) as running:
        yield running


def edge_of(siege: Siege) -> PublicEdge:
    edge = siege.world.app._public
    assert edge is not None
    return edge


@contextlib.contextmanager
def patience(siege: Siege, name: str, seconds: float) -> Iterator[None]:
    """One of the edge's: honest clients send whole requests at once, so that it does not concern them."""
    edge = edge_of(siege)
    usual = getattr(edge, name)
    setattr(edge, name, seconds)
    try:
        yield
    finally:
        setattr(edge, name, usual)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110  # sockets bring it about
            await asyncio.sleep(0.005)


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def crowd(siege: Siege, size: int, wire: bytes) -> list[RawClient]:
    """``size`` clients that have sent ``wire`` and do not go."""
    clients = []
    for _ in range(size):
        client = siege.client()
        await client.__aenter__()
        client.writer.write(wire)
        clients.append(client)
    return clients


async def leave(clients: list[RawClient]) -> None:
    for client in clients:
        client.writer.transport.abort()
    await asyncio.sleep(0.05)


async def test_slow_heads_are_cut_off(siege: Siege) -> None:
    """Slowloris, 300 at once, one byte after another without end: 408, on time, while honest clients are served."""
    siege.forget()
    with patience(siege, "head_timeout_s", 0.5):
        clients = await crowd(siege, 300, GET[:1])

        async def trickle() -> None:
            for byte in itertools.chain(GET[1:], b"X: ", itertools.repeat(b"a"[0])):
                for client in clients:
                    if not client.writer.transport.is_closing():
                        client.writer.write(bytes((byte,)))
                await asyncio.sleep(0.05)

        trickling, began = asyncio.create_task(trickle()), time.monotonic()
        try:
            await siege.still_serves()
            siege.forget()
            wires = await asyncio.gather(*(client.until_end() for client in clients))
        finally:
            trickling.cancel()
    assert time.monotonic() - began < 10, "the usual patience is 15 s"
    assert {answer.reason for wire in wires for answer in split_answers(wire)} == {"request-timeout"}
    assert sum(map(bool, wires)) > 290, "a reset may eat an answer, but not many"
    siege.check_untouched()
    await leave(clients)


@pytest.mark.parametrize("framing", [b"Content-Length: 10\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\na\r\n"])
async def test_slow_bodies_are_408(framing: bytes, siege: Siege) -> None:
    """And the function never gets an end of what had none."""
    siege.forget()
    with patience(siege, "body_timeout_s", 0.5):  # usually 30 s
        clients = await crowd(siege, 50, POST + framing + b"abc")
        wires = await asyncio.gather(*(client.until_end() for client in clients))
    for wire in wires:
        (answer,) = split_answers(wire)
        assert (answer.status, answer.reason) == (408, "request-timeout")
    assert not siege.faas.requests
    assert b"\r\n0\r\n" not in siege.to_functions
    await leave(clients)
    await siege.still_serves()


async def test_a_slow_body_of_a_refused_request_is_not_waited_for(siege: Siege) -> None:
    """The answer comes at once; the connection does not live on for it."""
    siege.forget()
    began = time.monotonic()
    answer = await siege.refused(REFUSED + b"Content-Length: 1000000\r\n\r\nabc", "credential-missing")
    assert answer.field("connection") == "close"
    assert time.monotonic() - began < 8, "it was cut off, and not left until somebody gave up"


async def test_idle_connections_are_closed_and_cost_little(siege: Siege) -> None:
    """1,000 that say nothing: at most 24 KiB each for both ends, gone after the keep-alive time."""
    before = resident_bytes()
    with patience(siege, "keepalive_s", 1.0):
        clients = await crowd(siege, 1000, b"")
        await until(lambda: edge_of(siege).connections + sum(one.reader.at_eof() for one in clients) >= 1000)
    await siege.still_serves()
    assert resident_bytes() - before < 1000 * 24 * 1024 + 8 * MIB
    wires = await asyncio.gather(*(client.until_end() for client in clients))
    assert Counter(wires) == {b"": 1000}
    await leave(clients)
    await until(lambda: edge_of(siege).connections <= 1)
    await siege.still_serves()


async def test_unfinished_heads_are_bounded(siege: Siege) -> None:
    """200 heads of 60 KB without an end: 12 MB at most, given back when they are gone."""
    before = resident_bytes()
    wire = GET + b"".join(b"X-%d: %b\r\n" % (number, b"a" * 1000) for number in range(59))
    with patience(siege, "head_timeout_s", 1.0):
        clients = await crowd(siege, 200, wire)
        await asyncio.sleep(0.2)
        assert resident_bytes() - before < 64 * MIB
        await asyncio.gather(*(client.until_end() for client in clients))
    await leave(clients)
    await siege.still_serves()


@pytest.mark.parametrize(
    "piece",
    [b"\r\n" * 512, b"X: %b\r\n" % (b"a" * 1017), b"a" * 1024, b"\r" * 1024, b"\n" * 1024, b" " * 1024, b"\0" * 1024],
    ids=["empty-lines", "fields", "one-line", "carriage-returns", "line-feeds", "blanks", "NUL"],
)
@pytest.mark.parametrize("start", [b"", GET], ids=["first", "behind-a-line"])
async def test_an_endless_head_ends(piece: bytes, start: bytes, siege: Siege) -> None:
    """Whatever it is made of: refused within some 64 KiB, or closed; never read for ever."""
    siege.forget()
    async with siege.client() as client:
        client.writer.write(start)
        sent = 0
        ended = asyncio.create_task(client.until_end())
        while not ended.done() and sent < 40 * MIB:
            client.writer.write(piece * 16)
            sent += len(piece) * 16
            await asyncio.sleep(0.001)
        wire = await ended
    assert sent < 8 * MIB
    for answer in split_answers(wire):
        assert answer.status in {400, 408, 431} or (answer.status == 401 and piece.startswith(b"\r\n")) or start
    siege.check_refusal(split_answers(wire)[-1])
    await siege.still_serves()


async def test_a_huge_pipeline_is_answered_in_order_in_bounded_memory(siege: Siege) -> None:
    """10 clients x 2,000 requests written at once and read late: each answered, none kept in memory by thousands."""
    before = resident_bytes()
    wire = (REFUSED + b"\r\n") * 1999 + REFUSED + b"Connection: close\r\n\r\n"
    clients = await crowd(siege, 10, wire)
    await asyncio.sleep(0.3)
    assert resident_bytes() - before < 64 * MIB
    for client in clients:
        answers = split_answers(await asyncio.wait_for(client.reader.read(), 40))
        assert len(answers) == 2000
        assert {answer.status for answer in answers} == {401}
    await leave(clients)
    await siege.still_serves()


async def test_uploads_to_nowhere_are_not_collected(siege: Siege) -> None:
    """20 clients x 50 MB for a refused request: not read into memory, and the refusal still reaches its client."""
    before, peak = resident_bytes(), 0
    clients = await crowd(siege, 20, REFUSED + b"Content-Length: 50000000\r\n\r\n")
    block = b"x" * 65536

    async def upload(client: RawClient) -> None:
        try:
            for _ in range(50_000_000 // len(block)):
                client.writer.write(block)
                await client.writer.drain()
        except ConnectionError:
            return

    uploads = [asyncio.create_task(upload(client)) for client in clients]
    heads = await asyncio.gather(*(client.head() for client in clients))
    peak = resident_bytes()
    for task in uploads:
        task.cancel()
    assert {status for status, _ in heads} == {401}
    assert peak - before < 64 * MIB
    await leave(clients)
    await siege.still_serves()


async def test_a_zip_bomb_is_bytes(siege: Siege) -> None:
    """R25's kin: bodies are passed on as they came and counted as they came; nobody here unpacks them."""
    bomb = gzip.compress(b"\0" * (100 * MIB), 9)
    siege.forget()
    fields = b"Content-Encoding: gzip\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(bomb)
    before = resident_bytes()
    await siege.throw(POST + fields + bomb)
    assert len(siege.to_functions) < len(bomb) + 2000
    assert bomb in siege.to_functions
    assert resident_bytes() - before < 16 * MIB + 100 * MIB, "the fake function may unpack it, we do not"
    await siege.still_serves()


async def test_connections_beyond_the_cap_are_told_so() -> None:
    """503 overloaded with Retry-After at once; a place that becomes free is given to the next one."""
    async with besieged(max_connections=20) as siege:
        clients = await crowd(siege, 20, b"")
        await until(lambda: edge_of(siege).connections == 20)
        answer = (await siege.throw(b"")).only
        assert (answer.status, answer.reason) == (503, "overloaded")
        assert answer.field("retry-after")
        await leave(clients[:5])
        await until(lambda: edge_of(siege).connections == 15)
        await siege.still_serves()
        await leave(clients)


async def test_random_bytes_are_refused_and_forgotten(siege: Siege) -> None:
    """300 connections of noise, some of it cut out of real requests: never an answer of the function's, never a 5xx."""
    import random

    chance = random.Random(7)
    siege.forget()
    real = POST + b"Content-Length: 3\r\n\r\nabc"
    for number in range(300):
        noise = bytearray(real) if number % 2 else bytearray(chance.randbytes(chance.randint(1, 400)))
        for _ in range(chance.randint(1, 6)):
            noise[chance.randrange(len(noise))] = chance.randrange(256)
        answered = await siege.throw(bytes(noise), half_close=True)
        for answer in answered.answers:
            assert answer.status < 500, (bytes(noise), answer.wire)
    await siege.still_serves()
