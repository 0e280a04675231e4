"""
What an upstream or a client may not do, each with the reason it gets and no half answer completed by us.

Longer than other modules: two tables of what there is to send.
"""

from __future__ import annotations

import asyncio

import pytest

from policies.decision import Reason
from policies.tables import Timeouts
from tests.fakes.front import Front
from tests.fakes.jobs import until
from tests.fakes.upstream import Peer

OK = b"HTTP/1.1 200 OK\r\n"

GARBLED = {
    "not-http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "version-2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status-099": b"HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n",
    "status-999": b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n",
    "unasked-101": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "bare-101": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "length-twice": OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "length-list": OK + b"Content-Length: 3, 3\r\n\r\nabc",
    "length-sign": OK + b"Content-Length: +3\r\n\r\nabc",
    "length-overflow": OK + b"Content-Length: 99999999999999999999\r\n\r\n",
    "length-and-coding": OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "coding-and-length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "coding-gzip": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "coding-identity": OK + b"Transfer-Encoding: identity\r\n\r\nabc",
    "coding-twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded-field": OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "space-before-colon": OK + b"X : a\r\nContent-Length: 0\r\n\r\n",
    "nul-in-value": OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "bare-cr": OK + b"X: a\rb\r\nContent-Length: 0\r\n\r\n",
    "bare-lf": OK + b"X: a\nContent-Length: 0\r\n\r\n",
    "head-too-large": OK + b"X: " + b"a" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "head-of-many-fields": OK + b"X-Field: 0123456789\r\n" * 4000 + b"Content-Length: 0\r\n\r\n",
    "head-without-end": OK + b"X: " + b"a" * 70_000,
    "endless-1xx": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3000,
}


@pytest.mark.parametrize("wire", GARBLED.values(), ids=GARBLED.keys())
async def test_an_answer_that_is_not_valid_http_is_502_garbled(wire: bytes) -> None:
    """Nothing of it reaches the client, and its connection is not used again."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(wire)
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        answer = await client.get()
        assert (answer.status, answer.field("x-portero-reason")) == (502, "upstream-garbled")
        assert front.gate.finished[0].failure is Reason.UPSTREAM_GARBLED
        await asyncio.wait_for(front.upstream.peers[0].saw_end.wait(), 10)
        assert (await client.get()).status == 502, "the client's connection goes on"


async def test_garbage_after_the_head_cuts_the_client_off() -> None:
    """A half-sent answer is never completed: no final chunk, no clean end."""
    has_come = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await has_come.wait()
        await peer.send(b"zz\r\n")
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.head()
        assert await client.chunk() == b"abc"
        has_come.set()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.chunk()
        assert front.gate.finished[0].failure is Reason.UPSTREAM_GARBLED


@pytest.mark.parametrize("wire", [b"Content-Length: 9\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"])
async def test_an_answer_cut_short_cuts_the_client_off(wire: bytes) -> None:
    """Whatever its framing, the client must see that it is not whole."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK + wire)

    async with Front(script) as front, front.client() as client:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.get()
        assert front.gate.finished[0].failure is Reason.UPSTREAM_CLOSED


async def test_trailers_without_end_are_cut() -> None:
    """The parser keeps an unfinished trailer in memory; we bound it from outside."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: ")
        for _ in range(64):
            await peer.send(b"a" * 4096)
            await asyncio.sleep(0)
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.get()
        assert front.gate.finished[0].failure is Reason.UPSTREAM_GARBLED


async def test_a_refused_connection_is_502_unreachable() -> None:
    """And the gate is told of both attempts, so that the readiness it believes in is void."""
    async with Front() as front, front.client() as client:
        front.gate.address = front.upstream.address._replace(port=1)
        answer = await client.get()
        assert (answer.status, answer.field("x-portero-reason")) == (502, "upstream-unreachable")
        assert front.gate.failures == 2


async def test_a_kept_connection_that_died_is_tried_once_more_for_get() -> None:
    """Only the connection was stale; the request is idempotent (RFC 9110 section 9.2.2)."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.answer()
        await peer.head()  # and closes without an answer

    async with Front(script) as front, front.client() as client:
        assert [(await client.get()).status for _ in range(4)] == [200] * 4
        assert front.upstream.connections == 4
        assert len(front.upstream.heads) == 7


@pytest.mark.parametrize(("field", "status"), [(b"", 502), (b"Idempotency-Key: k1\r\n", 200)], ids=["post", "with-key"])
async def test_a_post_is_not_sent_twice_unless_it_says_it_may(field: bytes, status: int) -> None:
    """The function may have run: only the caller can know whether twice is once."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.request()

    async with Front(script) as front, front.client() as client:
        request = b"POST / HTTP/1.1\r\nHost: a\r\n%bContent-Length: 2\r\n\r\nhi" % field
        await client.send(request)
        assert (await client.answer()).status == 200
        await client.send(request)
        answer = await client.answer()
        assert answer.status == status
        if status == 502:
            assert answer.field("x-portero-reason") == "upstream-closed"


async def test_a_kept_connection_that_dies_in_the_hands_of_the_next_is_tried_once_more() -> None:
    """Who waited for a connection is given one that was used, with the same risk."""
    may_answer = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await may_answer.wait()
        await peer.answer(b"ok")

    timeouts, pool = Timeouts(connect_s=30), {"max_per_address": 1}
    async with Front(script, timeouts=timeouts, pool=pool) as front, front.client() as first, front.client() as second:
        await first.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: front.upstream.heads)
        await second.send(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: front.pool._waiting)  # shows nowhere else
        may_answer.set()
        assert (await first.answer()).status == 200
        assert (await second.answer()).status == 200
        assert front.upstream.connections == 2


async def test_a_fresh_connection_that_closes_is_not_tried_again() -> None:
    """Twice at most, and never after the first byte of an answer."""

    async def script(peer: Peer) -> None:
        await peer.head()

    async with Front(script) as front, front.client() as client:
        answer = await client.get()
        assert (answer.status, answer.field("x-portero-reason")) == (502, "upstream-closed")
        assert len(front.upstream.heads) == 1


async def test_half_a_head_is_not_tried_again() -> None:
    """The function has run."""

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.head()
            await peer.answer()
        await peer.head()
        await peer.send(b"HTTP/1.1 20")

    async with Front(script) as front, front.client() as client:
        assert (await client.get()).status == 200
        assert (await client.get()).field("x-portero-reason") == "upstream-closed"
        assert front.upstream.connections == 1


SMUGGLING = {
    "length-and-coding": b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding-and-length": b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "length-twice": b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "lengths-differ": b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "length-list": b"Content-Length: 3, 3\r\n\r\nabc",
    "length-sign": b"Content-Length: +3\r\n\r\nabc",
    "coding-x": b"Transfer-Encoding: xchunked\r\n\r\nabc",
    "coding-identity": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "coding-twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding-tab": b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "folded": b"X: a\r\n b\r\n\r\n",
    "space-before-colon": b"Content-Length : 3\r\n\r\nabc",
    "bare-lf": b"X: a\nContent-Length: 3\r\n\r\nabc",
    "bare-cr": b"X: a\rContent-Length: 3\r\n\r\nabc",
    "nul": b"X: a\0b\r\n\r\n",
    "bad-name": b"X(a): b\r\n\r\n",
    "host-twice": b"Host: b\r\n\r\n",
    "secret-echo": b"X\x01: SECRET-CANARY\r\n\r\n",
}


@pytest.mark.parametrize("fields", SMUGGLING.values(), ids=SMUGGLING.keys())
async def test_a_head_that_can_be_read_in_two_ways_is_400_and_repeated_to_nobody(fields: bytes) -> None:
    """Problem document, reason, request id, connection closed, nothing echoed, nothing sent on (AP-R52)."""
    async with Front() as front, front.client() as client:
        await client.send(b"POST /x HTTP/1.1\r\nHost: a\r\n" + fields + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await client.answer()
        assert answer.status == 400
        assert answer.field("content-type") == "application/problem+json"
        assert answer.field("x-portero-reason") == "bad-request"
        assert answer.field("x-request-id")
        assert answer.field("connection") == "close"
        assert b"SECRET" not in answer.body
        assert await client.until_end() == b""
        assert front.upstream.heads == []
        assert front.gate.unread == [Reason.BAD_REQUEST]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 300 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: %b\r\n" % (b"a" * 1000) * 80,
    ],
    ids=["target", "field", "many-fields", "without-end"],
)
async def test_a_head_that_is_too_large_is_refused(head: bytes) -> None:
    """Also one that never ends: it is not collected without bound."""
    async with Front() as front, front.client() as client:
        client.writer.write(head)
        answer = await client.answer()
        assert (answer.status, answer.field("x-portero-reason")) == (431, "head-too-large")
        assert await client.until_end() == b""


@pytest.mark.parametrize(
    "raw", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0"]
)
async def test_bytes_that_are_not_http_get_400(raw: bytes) -> None:
    """TLS on the plain port, HTTP/2 with prior knowledge, zeros."""
    async with Front() as front, front.client() as client:
        await client.send(raw)
        assert (await client.answer()).status == 400
        assert await client.until_end() == b""


async def test_garbage_behind_a_running_request_waits_for_its_answer() -> None:
    """The good one is answered first, then the refusal comes; in one segment, both are refused and none is sent on."""
    release = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await release.wait()
        await peer.answer()

    async with Front(script) as front, front.client() as client:
        await client.send(b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: front.upstream.heads)
        await client.send(b"\x00garbage\r\n\r\n")
        await asyncio.sleep(0.02)
        release.set()
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 400
        assert await client.until_end() == b""
        async with front.client() as other:
            await other.send(b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n\x00garbage\r\n\r\n")
            assert (await other.answer()).status == 400
        assert len(front.upstream.heads) == 1


async def test_an_upgrade_that_is_no_websocket_is_a_plain_request() -> None:
    """Answered, and the connection closed: the parser has set the bytes behind it aside."""
    async with Front() as front, front.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.field("connection")) == (200, "close")
