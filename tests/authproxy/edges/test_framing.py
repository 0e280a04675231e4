"""Bodies have one end that both sides agree on: framing is re-made, never copied (RFC 9112 sections 6 and 7)."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.front import Front
from tests.fakes.upstream import Peer, Script


def answers(wire: bytes) -> Script:
    """Answers every request with these bytes, and closes when they say so or have no end of their own."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(wire)
            if b"close" in wire or (b"Length" not in wire and b"chunked" not in wire):
                return

    return script


async def test_fields_of_an_early_answer_are_not_those_of_the_final_one() -> None:
    """A 1xx says nothing of the framing of what follows it."""
    wire = (
        b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\nX-Early: 1\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    async with Front(answers(wire)) as front, front.client() as client:
        answer = await client.get()
        assert (answer.status, answer.body, answer.field("x-early")) == (200, b"abc", None)


async def test_a_length_stays_a_length() -> None:
    """A body whose length was said is framed by its length."""
    async with Front(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")) as front, front.client() as client:
        answer = await client.get()
        assert (answer.field("content-length"), answer.body) == ("5", b"hello")
        assert answer.field("transfer-encoding") is None


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked \r\n\r\n5;name=value;quoted="x"\r\nabcde\r\n0;last\r\n\r\n',
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            b"5\r\nabcde\r\n0\r\nX-Sum: 1\r\nX-Portero-Subject: root\r\n\r\n"
        ),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcde",
        b"HTTP/1.0 200 OK\r\n\r\nabcde",
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"
        ),
    ],
    ids=["chunked", "chunk-extensions", "trailers", "until-close", "http-1.0", "after-1xx"],
)
async def test_every_framing_of_an_upstream_arrives_as_one_answer(wire: bytes) -> None:
    """Chunk extensions and trailers are dropped; 1xx is swallowed; nothing of the hop is passed on."""
    async with Front(answers(wire)) as front, front.client() as client:
        for _ in range(2):
            answer = await client.get()
            assert (answer.status, answer.body) == (200, b"abcde")
            assert not {"connection", "trailer", "x-sum", "x-portero-subject", "link"} & {n for n, _ in answer.fields}


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"], ids=["204", "304"])
async def test_answers_without_a_body_have_none(status: bytes) -> None:
    """The connection goes on with the next answer, on both sides."""
    wire = b'HTTP/1.1 %b\r\nETag: "a"\r\n\r\n' % status

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(wire)

    async with Front(script) as front, front.client() as client:
        for _ in range(3):
            answer = await client.get()
            assert (answer.status, answer.field("content-length")) == (int(status[:3]), None)
        assert front.upstream.connections == 1


async def test_content_length_of_304_is_kept() -> None:
    """It says how long the answer to GET would be (RFC 9110 section 8.6), and frames nothing."""
    wire = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n"
    async with Front(answers(wire)) as front, front.client() as client:
        assert (await client.get()).field("content-length") == "99"
        assert (await client.get()).status == 304


async def test_a_stream_of_unknown_length_is_chunked_anew() -> None:
    """Each piece leaves as it comes."""
    has_come = asyncio.Semaphore(0)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"one", b"two"):
            await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await has_come.acquire()
        await peer.send(b"0\r\nX-Trailer: 1\r\n\r\n")
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        _, fields = await client.head()
        assert ("transfer-encoding", "chunked") in fields
        for piece in (b"one", b"two", b""):
            assert await client.chunk() == piece
            has_come.release()


async def test_http_1_0_clients_get_streams_that_end_by_closing() -> None:
    """They know no chunked coding (RFC 9112 section 7.1)."""
    has_begun = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await has_begun.wait()
        await peer.send(b"3\r\nabc\r\n0\r\n\r\n")
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        await client.send(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
        status, pairs = await client.head()
        fields = dict(pairs)
        assert (status, fields["connection"], fields.get("transfer-encoding")) == (200, "close", None)
        has_begun.set()
        assert await client.until_end() == b"abc"


async def test_http_1_0_keeps_alive_when_asked() -> None:
    """And says so (RFC 9112 section 9.3)."""
    async with Front() as front, front.client() as client:
        for _ in range(2):
            await client.send(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
            assert (await client.answer()).field("connection") == "keep-alive"
        await client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        assert (await client.answer()).field("connection") == "close"
        assert await client.until_end() == b""


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    """However many come in one segment, also those that stream and those that are refused."""

    async def script(peer: Peer) -> None:
        while True:
            head, body = await peer.request()
            target = head.split(b" ")[1]
            await asyncio.sleep(0.01 if target.endswith(b"0") else 0)
            await peer.answer(target + body)

    async with Front(script) as front, front.client() as client:
        requests = [
            b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n
            if n % 3
            else b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxy" % n
            for n in range(90)
        ]
        await client.send(b"".join(requests))
        for n in range(90):
            assert (await client.answer()).body == b"/%d%b" % (n, b"" if n % 3 else b"xy")


@pytest.mark.parametrize(
    ("framing", "sent"),
    [
        (b"Content-Length: 6\r\n", b"abcdef"),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n3;x=y\r\ndef\r\n0\r\nX-Trailer: 1\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize("is_slow", [False, True], ids=["at-once", "in-pieces"])
async def test_request_bodies_arrive_whole_and_framed_once(framing: bytes, sent: bytes, is_slow: bool) -> None:
    """At hand they leave with the head and a length; otherwise they are streamed."""
    bodies: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            _, body = await peer.request()
            bodies.append(body)
            await peer.answer(b"got %d" % len(body))

    async with Front(script) as front, front.client() as client:
        for _ in range(2):
            head = b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n" % framing
            if is_slow:
                await client.send(head)
                for n in range(0, len(sent), 4):
                    await asyncio.sleep(0.01)
                    await client.send(sent[n : n + 4])
            else:
                await client.send(head + sent)
            assert (await client.answer()).body == b"got 6"
        assert bodies == [b"abcdef"] * 2
        for upstream_head in front.upstream.heads:
            lowered = upstream_head.lower()
            assert (b"content-length" in lowered) != (b"transfer-encoding" in lowered)
        assert front.upstream.connections == 1
        assert [one.bytes_in for one in front.gate.finished] == [6, 6]


async def test_a_request_without_a_body_says_so_where_one_is_expected() -> None:
    """RFC 9110 section 8.6: POST without a body has Content-Length: 0; GET has none."""
    async with Front() as front, front.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.answer()
        await client.get()
        assert b"content-length: 0\r\n" in front.upstream.heads[0]
        assert b"content-length" not in front.upstream.heads[1]


async def test_the_phrase_of_an_upstream_is_never_passed_on() -> None:
    """A phrase is the place for response splitting (CVE-2026-34519)."""
    wire = b"HTTP/1.1 200 Evil phrase\r\nContent-Length: 0\r\n\r\n"
    async with Front(answers(wire)) as front, front.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.reader.readline()) == b"HTTP/1.1 200 OK\r\n"


async def test_fields_of_ours_are_added_and_nothing_is_invented() -> None:
    """No Server, Date or Content-Type of our own."""
    wire = b"HTTP/1.1 200 OK\r\nX-One: 1\r\nContent-Length: 0\r\n\r\n"
    async with Front(answers(wire), answer_block=b"X-Request-Id: r1\r\n") as front, front.client() as client:
        assert (await client.get()).fields == [("x-one", "1"), ("x-request-id", "r1"), ("content-length", "0")]


async def test_several_cookies_stay_several_fields() -> None:
    """Set-Cookie cannot be joined (RFC 9110 section 5.3)."""
    wire = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n"
    async with Front(answers(wire)) as front, front.client() as client:
        assert [v for n, v in (await client.get()).fields if n == "set-cookie"] == ["a=1", "b=2"]
