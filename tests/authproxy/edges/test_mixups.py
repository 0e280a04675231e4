"""No answer ever reaches another request: what went wrong once in a prototype, invisible with one client."""

from __future__ import annotations

import asyncio

from policies.tables import Timeouts
from tests.fakes.front import Front
from tests.fakes.upstream import Peer

BUSY = Timeouts(connect_s=30, first_byte_s=30, idle_s=30)
"""Many share few connections: none is to be refused for waiting long."""


async def echo_target(peer: Peer) -> None:
    """Answers each request with its own target, in pieces that come when they like."""
    number = 0
    while True:
        head, body = await peer.request()
        target = head.split(b" ")[1]
        number += 1
        answer = target * 20 + body
        wire = b"HTTP/1.1 200 OK\r\nX-Target: %b\r\nContent-Length: %d\r\n\r\n%b" % (target, len(answer), answer)
        cut = (number * 37) % len(wire)
        await peer.send(wire[:cut])
        if number % 3:
            await asyncio.sleep(0)
        await peer.send(wire[cut:])


async def test_each_user_gets_the_answer_to_their_own_request_on_pooled_connections() -> None:
    """A connection is given back only after its consumer took status, head and body."""
    async with Front(echo_target, timeouts=BUSY, pool={"max_per_address": 7}) as front:

        async def user(number: int) -> None:
            async with front.client() as client:
                for turn in range(25):
                    target = f"/u{number}-{turn}"
                    if turn % 4:
                        answer = await client.get(target)
                        expected = target.encode() * 20
                    else:
                        await client.send(
                            f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n{number:04}".encode()
                        )
                        answer = await client.answer()
                        expected = target.encode() * 20 + b"%04d" % number
                    assert answer.status == 200
                    assert answer.field("x-target") == target
                    assert answer.body == expected

        await asyncio.gather(*(user(number) for number in range(40)))
        assert front.upstream.connections <= 7
        assert len(front.gate.finished) == 1000


async def test_clients_that_leave_in_the_middle_spoil_nothing_for_others() -> None:
    """A future cancelled with its client must not be woken, nor its connection be used again."""
    async with Front(echo_target, timeouts=BUSY, pool={"max_per_address": 7}) as front:

        async def leaver(number: int) -> None:
            for turn in range(8):
                async with front.client() as client:
                    await client.send(f"GET /leave{number}-{turn} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                    await asyncio.sleep(0.001 * (number % 4))

        async def stayer(number: int) -> None:
            async with front.client() as client:
                for turn in range(30):
                    target = f"/s{number}-{turn}"
                    answer = await client.get(target)
                    assert (answer.status, answer.body) == (200, target.encode() * 20)

        await asyncio.gather(*(leaver(n) for n in range(12)), *(stayer(n) for n in range(12)))


async def test_a_second_answer_in_the_same_segment_reaches_nobody() -> None:
    """Two answers to one request: the first stands, the connection is closed, the next request gets a fresh one."""

    async def two_answers(peer: Peer) -> None:
        await peer.head()
        wire = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
        await peer.send(wire % (3, b"one") + wire % (8, b"poisoned"))
        await peer.until_end()

    async with Front(two_answers) as front, front.client() as client:
        for _ in range(3):
            assert (await client.get()).body == b"one"
        assert front.upstream.connections == 3


async def test_data_on_an_idle_connection_closes_it() -> None:
    """What comes without a request is never taken for the answer to the next one."""

    async def late(peer: Peer) -> None:
        await peer.head()
        await peer.answer(b"good")
        await asyncio.sleep(0.05)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned")
        await peer.until_end()

    async with Front(late) as front, front.client() as client:
        assert (await client.get()).body == b"good"
        await asyncio.wait_for(front.upstream.peers[0].saw_end.wait(), 10)
        assert (await client.get()).body == b"good"
        assert front.upstream.connections == 2


async def test_half_of_a_second_head_in_the_same_segment_closes_the_connection() -> None:
    """The parser would otherwise stand in the middle of a head when the next answer comes."""

    async def half_more(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 2")
        await peer.until_end()

    async with Front(half_more) as front, front.client() as client:
        assert (await client.get()).body == b"ok"
        assert (await client.get()).body == b"ok"
        assert front.upstream.connections == 2


async def test_the_answer_to_head_has_no_body_whatever_its_length_says() -> None:
    """The parser cannot be told of HEAD: the next answer must not be read as the body of this one."""

    async def script(peer: Peer) -> None:
        while True:
            head = await peer.head()
            if head.startswith(b"HEAD"):
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
            else:
                await peer.answer(b"body of get")

    async with Front(script) as front, front.client() as client:
        for _ in range(3):
            await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = await client.answer(to_head=True)
            assert answer.field("content-length") == "99"
            assert (await client.get()).body == b"body of get"
        assert front.upstream.connections == 1


async def test_a_body_after_head_closes_the_connection() -> None:
    """An upstream that sends a body to HEAD has left its bytes for somebody else."""

    async def script(peer: Peer) -> None:
        head = await peer.head()
        if head.startswith(b"HEAD"):
            await peer.answer(b"HTTP/1.1 200 OK\r\n")
        else:
            await peer.answer(b"right")
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.answer(to_head=True)).status == 200
        assert (await client.get()).body == b"right"
        assert front.upstream.connections == 2
