"""
Requests that wait for their function, over real sockets: their bodies are read, and who leaves is gone at once.

The gate is a stub whose ``Keeper`` holds as the activator does. Longer than other modules: whatever a body can be while
its request is held, and whatever can end it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp.streams import StreamReader

from authproxy.edges.exchange import PublicExchange
from authproxy.edges.protocol import ClientConnection
from authproxy.upstream.held_body import HeldBody
from authproxy.upstream.spool import SpoolFile
from policies.decision import Deny, Reason
from tests.authproxy.edges.test_websockets import UPGRADE, accepted
from tests.fakes.front import Front
from tests.fakes.gate import Keeper, Tally
from tests.fakes.jobs import until
from tests.fakes.loop_clock import LoopClock
from tests.fakes.pulse import Pulse
from tests.fakes.upstream import Peer

KIB = 1024
MIB = 1024 * KIB
LIMIT = 8 * MIB


async def tell_back(peer: Peer) -> None:
    """Answers with target, body and how it was framed."""
    while True:
        head, body = await peer.request()
        framing = b"chunked" if b"transfer-encoding" in head.lower() else b"sized"
        await peer.answer(head.split(b" ")[1] + b"|" + framing + b"|" + body)


@asynccontextmanager
async def holding(keeper: Keeper | None = None, script: Any = tell_back, **edge: Any) -> AsyncIterator[Front]:
    """A front that holds everybody; in the end nothing is left of what was held."""
    async with Front(script, max_body_bytes=LIMIT, edge=edge) as front:
        front.gate.keeper = keeper or Keeper()
        yield front
        tally = front.gate.keeper.tally
        async with asyncio.timeout(20):
            while front.gate.keeper.held or front.edge.spool.files or tally.taken:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def keeper_of(front: Front) -> Keeper:
    assert front.gate.keeper is not None
    return front.gate.keeper


def post(body: bytes, *, length: int | None = None, fields: bytes = b"", target: bytes = b"/") -> bytes:
    size = len(body) if length is None else length
    return b"POST %b HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n%b" % (target, fields, size, body)


def post_chunked(*pieces: bytes, is_whole: bool = True) -> bytes:
    chunks = b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces])
    return b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n" * is_whole


async def until_taken(front: Front, count: int) -> None:
    """The account says that so many bytes are held."""
    async with asyncio.timeout(10):
        while keeper_of(front).tally.taken < count:  # noqa: ASYNC110  # an account tells nobody
            await asyncio.sleep(0.005)


# -- what is held leaves whole ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 64, 64 * KIB, 64 * KIB + 1, 5 * MIB])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["sized", "chunked"])
async def test_a_held_body_is_what_was_sent(size: int, *, is_chunked: bool) -> None:
    """Whether it waited in memory or in a file; what fits into memory leaves sized; the connection goes on."""
    body = os.urandom(size)
    async with holding() as front, front.client() as client:
        for _ in range(2):
            pieces = [body[at : at + 70_000] for at in range(0, size, 70_000)]
            await client.send(post_chunked(*pieces) if is_chunked else post(body))
            await until_taken(front, size)
            await asyncio.sleep(0)  # what was at hand as a whole goes to its file with the next turn
            assert front.edge.spool.files == (1 if size > 64 * KIB else 0)
            assert not front.upstream.heads[1:]
            keeper_of(front).release()
            framing = b"chunked" if is_chunked and size > 64 * KIB else b"sized"
            assert (await client.answer()).body == b"/|%b|%b" % (framing, body)
            front.upstream.heads.clear()
        assert [one.bytes_in for one in front.gate.finished] == [size, size]


@pytest.mark.parametrize("size", [100, 300 * KIB])
async def test_a_body_that_is_still_coming_goes_on_when_released(size: int) -> None:
    """First what was held, then what its connection brings."""
    body = os.urandom(size)
    async with holding() as front, front.client() as client:
        await client.send(post(body[: size // 2], length=size))
        await until_taken(front, size // 2)
        keeper_of(front).release()
        await asyncio.sleep(0.05)
        await client.send(body[size // 2 :])
        assert (await client.answer()).body == b"/|sized|" + body


async def test_ten_thousand_tiny_pieces_are_one_body() -> None:
    """A client that drips: it is as large as its bytes, and whole."""
    async with holding() as front, front.client() as client:
        await client.send(post(b"", length=2000))
        for at in range(2000):
            client.writer.write(b"%d" % (at % 10))
            if at % 50 == 0:
                await asyncio.sleep(0)
        await until_taken(front, 2000)
        keeper_of(front).release()
        assert (await client.answer()).body == b"/|sized|" + b"0123456789" * 200


# -- who leaves -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["close", "reset"])
@pytest.mark.parametrize(
    ("sent", "declared"),
    [(0, 0), (64, 64), (0, 64), (10, 64), (200 * KIB, 200 * KIB), (1 * MIB, 5 * MIB), (5 * MIB, 5 * MIB)],
    ids=["no body", "whole", "nothing of it", "a part", "more than memory", "part of a large one", "large"],
)
async def test_who_leaves_while_held_is_gone_at_once(sent: int, declared: int, way: str) -> None:
    """Whatever the size of a body that nobody wants yet: the place is free, and the function never sees it."""
    async with holding() as front, front.client() as client:
        await client.send(post(b"x" * sent, length=declared) if declared else b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await keeper_of(front).until_held(1)
        await until_taken(front, sent)
        with Pulse() as pulse:
            left_at = time.monotonic()
            client.close() if way == "close" else client.reset()
            await keeper_of(front).until_held(0)
            assert pulse.took_s(left_at) < 0.2
        assert keeper_of(front).abandoned == 1
        assert not front.upstream.connections


@pytest.mark.parametrize(
    ("sent", "declared", "behind"),
    [
        (0, 0, b""),
        (64, 64, b""),
        (10, 64, b""),
        (300 * KIB, 400 * KIB, b""),
        (10, 10, post(b"x" * 200_000, length=MIB)),
    ],
    ids=["no body", "whole", "a part", "in a file", "pipelined"],
)
async def test_who_leaves_leaves_nothing_to_the_collector(sent: int, declared: int, behind: bytes) -> None:
    """It comes seldom, for it finds nothing on the hot path: until then all that was held would fill the memory."""
    async with holding() as front:
        gc.collect()
        kinds = (ClientConnection, PublicExchange, HeldBody, StreamReader, SpoolFile)
        others = {id(one) for one in gc.get_objects() if type(one) in kinds}
        gc.disable()
        try:
            for _ in range(3):
                async with front.client() as client:
                    head = post(b"x" * sent, length=declared) if declared else b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
                    await client.send(head + behind)
                    await keeper_of(front).until_held(1)
                    await until_taken(front, sent)
                await keeper_of(front).until_held(0)
            front.gate.heads.clear()
            keeper_of(front).release()  # forgets the waiters
            await until(lambda: not [one for one in gc.get_objects() if type(one) in kinds and id(one) not in others])
        finally:
            gc.enable()


async def test_who_leaves_in_the_turn_of_the_release_is_finished_once() -> None:
    """Both happen between two looks; ``Front`` sees to it that the gate hears of each end once."""
    for pause in range(6):
        async with holding() as front, front.client() as client:
            await client.send(post(b"x" * 100_000))
            await until_taken(front, 100_000)
            keeper_of(front).release()
            for _ in range(pause):
                await asyncio.sleep(0)
            client.reset()
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(b"GET /more HTTP/1.1\r\nHost: a\r\n\r\n" * 5000, id="many requests"),
        pytest.param(b"GET /more HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"x" * 30_000) * 32, id="large heads"),
        pytest.param(post(b"y" * MIB, length=MIB + 1), id="a large body"),
    ],
)
async def test_who_pipelines_behind_a_held_request_is_bounded_and_may_leave(behind: bytes) -> None:
    """Nothing more is read of him, and that he leaves is seen all the same, within the sweep's quarter second."""
    async with holding() as front, front.client() as client:
        await client.send(post(b"x" * 10))
        await until_taken(front, 10)
        client.writer.write(behind)
        (connection,) = front.edge._connections
        await until(lambda: connection.is_unheard)
        assert len(connection._messages) <= 32
        messages: list[Any] = [message for message, _ in connection._messages]
        waiting = sum(len(value) for message in messages for _, value in message.raw_headers)
        assert waiting <= 400 * KIB
        with Pulse() as pulse:
            left_at = time.monotonic()
            client.reset()
            await keeper_of(front).until_held(0)
            assert pulse.took_s(left_at) < 0.7


async def test_requests_behind_a_held_one_are_answered_in_their_order() -> None:
    """More of them than are read at once."""
    async with holding() as front, front.client() as client:
        count = 300
        padding = b"X: %b\r\n" % (b"x" * 900)
        pipelined = b"".join([post(b"%d" % n, target=b"/%d" % n, fields=padding) for n in range(count)])
        client.writer.write(pipelined)
        await keeper_of(front).until_held(1)
        await asyncio.sleep(0.05)
        keeper = keeper_of(front)
        front.gate.keeper = None
        keeper.release()
        for n in range(count):
            assert (await client.answer()).body == b"/%d|sized|%d" % (n, n)
        front.gate.keeper = keeper


async def test_a_body_that_is_not_to_be_read_is_not_and_its_client_may_leave() -> None:
    """``body: stream``: it stays with its client, but for what the connection buffers."""
    async with holding(Keeper(holds_body=False), read_buffer_bytes=64 * KIB) as front, front.client() as client:
        client.writer.write(post(b"x" * (4 * MIB)))
        await keeper_of(front).until_held(1)
        await asyncio.sleep(0.3)
        assert (keeper_of(front).tally.accounts, front.edge.spool.files) == ([], 0)
        client.reset()
        await keeper_of(front).until_held(0)


async def test_a_body_that_was_not_read_while_held_streams_on_release() -> None:
    """From its first byte."""
    body = os.urandom(MIB)
    async with holding(Keeper(holds_body=False)) as front, front.client() as client:
        client.writer.write(post(body))
        await keeper_of(front).until_held(1)
        keeper_of(front).release()
        assert (await client.answer()).body == b"/|sized|" + body


# -- who may not go on waiting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "status", "reason"),
    [
        pytest.param(post(b"", length=LIMIT + 1), 413, "body-too-large", id="says that it is too large"),
        pytest.param(
            post_chunked(*[b"x" * MIB] * 8, b"x", is_whole=False), 413, "body-too-large", id="proves to be too large"
        ),
        pytest.param(post_chunked(b"abc", is_whole=False) + b"zz\r\n", 400, "body-malformed", id="breaks its framing"),
        pytest.param(
            post_chunked(is_whole=False) + b"1;%b\r\nx\r\n" % (b"e" * 1000) * 40, 400, "body-malformed", id="chunk bomb"
        ),
        pytest.param(post(b"x", length=2), 408, "request-timeout", id="stops sending"),
    ],
)
async def test_a_body_may_end_a_held_request(request_bytes: bytes, status: int, reason: str) -> None:
    """At once, with its own reason, while the others wait on; nothing is kept of it."""
    async with (
        holding(body_timeout_s=0.3 if status == 408 else 30) as front,
        front.client() as client,
        front.client() as other,
    ):
        await other.send(post(b"whole"))
        await keeper_of(front).until_held(1)
        head, blank, body = request_bytes.partition(b"\r\n\r\n")
        await client.send(head + blank)
        await asyncio.sleep(0.02)
        client.writer.write(body)
        answer = await client.answer()
        assert (answer.status, answer.field("x-portero-reason")) == (status, reason)
        assert answer.field("connection") == "close"
        assert keeper_of(front).held == 1
        keeper_of(front).release()
        assert (await other.answer()).body == b"/|sized|whole"


@pytest.mark.parametrize(
    ("reason", "status"), [(Reason.OVERLOADED, 503), (Reason.QUEUE_FULL, 429)], ids=["of all", "of one"]
)
async def test_more_than_may_be_held_is_refused_and_what_leaves_makes_room(reason: Reason, status: int) -> None:
    """The budget of bytes is one over all who share it."""
    tally = Tally(2 * MIB, reason)
    async with holding(Keeper(tally=tally)) as front, front.client() as one, front.client() as two:
        await one.send(post(b"x" * (3 * MIB // 2)))
        await until_taken(front, 3 * MIB // 2)
        two.writer.write(post(b"x" * MIB))
        answer = await two.answer()
        assert (answer.status, answer.field("retry-after")) == (status, "1")
        assert tally.taken <= 2 * MIB
        async with front.client() as three:
            one.reset()
            await keeper_of(front).until_held(0)
            await three.send(post(b"x" * (3 * MIB // 2)))
            await until_taken(front, 3 * MIB // 2)


async def test_a_refusal_of_the_hold_leaves_nothing_behind() -> None:
    """The function did not wake in time: the body was held for nothing, and the connection may go on."""
    async with holding() as front, front.client() as client:
        await client.send(post(b"x" * 300_000))
        await until_taken(front, 300_000)
        keeper_of(front).release(Deny(Reason.COLD_START_TIMEOUT, retry_after_s=3))
        answer = await client.answer()
        assert (answer.status, answer.field("retry-after"), answer.field("connection")) == (504, "3", None)
        await client.send(post(b"again"))
        await until_taken(front, 5)
        keeper_of(front).release()
        assert (await client.answer()).body == b"/|sized|again"


# -- who asks first ---------------------------------------------------------------------------------------------------

ASKS = b"Expect: 100-continue\r\n"


async def test_an_upload_that_asks_first_waits_unsent() -> None:
    """No ``100 Continue`` before the function is ready: its megabytes stay where they are."""
    body, clock = os.urandom(MIB), LoopClock()
    async with holding(body_timeout_s=30) as front, front.client() as client:
        await client.send(post(b"", length=MIB, fields=ASKS))
        await keeper_of(front).until_held(1)
        await clock.pass_s(60)  # longer than a body may be silent: this one owes nothing yet
        assert keeper_of(front).held == 1
        assert not client.reader._buffer  # type: ignore[attr-defined]  # what has come so far
        keeper_of(front).release()
        assert (await client.head())[0] == 100
        client.writer.write(body)
        assert (await client.answer()).body == b"/|sized|" + body


async def test_an_upload_that_asked_and_goes_ahead_is_held_like_any() -> None:
    """A client may lose patience (RFC 9110 section 10.1.1)."""
    async with holding() as front, front.client() as client:
        await client.send(post(b"", length=100_000, fields=ASKS))
        await keeper_of(front).until_held(1)
        await asyncio.sleep(0.05)
        await client.send(b"x" * 100_000)
        await until_taken(front, 100_000)
        keeper_of(front).release()
        assert (await client.answer()).body == b"/|sized|" + b"x" * 100_000


@pytest.mark.parametrize("length", [10, LIMIT + 1], ids=["leaves", "is told no"])
async def test_an_upload_that_asks_may_end_before_it_is_sent(length: int) -> None:
    """The client leaves, or the size that it says is too large: then it sends nothing at all."""
    async with holding() as front, front.client() as client:
        await client.send(post(b"", length=length, fields=ASKS))
        if length > LIMIT:
            assert (await client.answer()).status == 413
        else:
            await keeper_of(front).until_held(1)
            client.close()
        await keeper_of(front).until_held(0)


# -- websockets -------------------------------------------------------------------------------------------------------


async def echo(peer: Peer) -> None:
    await peer.head()
    await peer.send(accepted())
    while data := await peer.reader.read(65536):
        await peer.send(data)
    peer.saw_end.set()


async def test_a_websocket_is_held_before_its_upgrade() -> None:
    """Nothing is switched before the function is there; early bytes are kept for it, within bounds."""
    async with holding(script=echo) as front, front.client() as client:
        await client.send(UPGRADE + b"early")
        await keeper_of(front).until_held(1)
        await client.send(b" birds")
        await asyncio.sleep(0.05)
        assert not client.reader._buffer  # type: ignore[attr-defined]  # what has come so far
        keeper_of(front).release()
        assert (await client.head())[0] == 101
        assert await client.reader.readexactly(11) == b"early birds"
        client.close()


@pytest.mark.parametrize("ending", ["close", "reset", "flood"])
async def test_a_held_websocket_whose_client_leaves_is_gone(ending: str) -> None:
    """Or that sends what nobody has asked for yet: a client has to wait for the handshake's end."""
    async with holding(script=echo) as front, front.client() as client:
        await client.send(UPGRADE)
        await keeper_of(front).until_held(1)
        if ending == "flood":
            client.writer.write(b"x" * MIB)
        else:
            client.close() if ending == "close" else client.reset()
        await keeper_of(front).until_held(0)
        assert not front.upstream.connections
