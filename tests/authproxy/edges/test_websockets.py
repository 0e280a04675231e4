"""Websockets: the upgrade is checked on both sides, then bytes go both ways until either side ends it."""

from __future__ import annotations

import asyncio
import time

import pytest

from authproxy.upstream.tunnel import accept_proof
from policies.decision import Reason
from policies.tables import Timeouts
from tests.fakes.front import Front
from tests.fakes.loop_clock import LoopClock
from tests.fakes.pulse import Pulse
from tests.fakes.upstream import Peer

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def accepted(key: bytes = KEY, fields: bytes = b"Upgrade: websocket\r\n") -> bytes:
    proof = accept_proof(key)
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n%bSec-WebSocket-Accept: %b\r\n"
        b"Sec-WebSocket-Protocol: chat\r\nX-Portero-Subject: root\r\n\r\n" % (fields, proof)
    )


async def echo(peer: Peer) -> None:
    await peer.head()
    await peer.send(accepted())
    while data := await peer.reader.read(65536):
        await peer.send(data)
    peer.saw_end.set()


def test_the_proof_is_that_of_the_rfc() -> None:
    """RFC 6455 section 1.3 has the example."""
    assert accept_proof(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


async def test_bytes_go_both_ways() -> None:
    """Also those sent right behind the upgrade, before it was accepted."""
    async with Front(echo, answer_block=b"X-Request-Id: r1\r\n") as front, front.client() as client:
        await client.send(UPGRADE + b"early")
        status, fields = await client.head()
        assert status == 101
        assert dict(fields)["sec-websocket-protocol"] == "chat"
        assert dict(fields)["upgrade"] == "websocket"
        assert "x-portero-subject" not in dict(fields)
        assert dict(fields)["x-request-id"] == "r1"
        assert await client.reader.readexactly(5) == b"early"
        for size in (1, 1000, 300_000):
            await client.send(b"x" * size)
            assert await client.reader.readexactly(size) == b"x" * size
        upstream_head = front.upstream.heads[0].lower()
        assert b"\r\nconnection: upgrade\r\nupgrade: websocket\r\n" in upstream_head


@pytest.mark.parametrize(
    "answer",
    [accepted(b"another key"), accepted(fields=b""), accepted(fields=b"Upgrade: h2c\r\n")],
    ids=["wrong-proof", "no-upgrade", "other-protocol"],
)
async def test_an_upgrade_that_is_not_proved_is_502(answer: bytes) -> None:
    """The function's side did not understand what it was asked (RFC 6455 section 4.1)."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer)
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        await client.send(UPGRADE)
        refusal = await client.answer()
        assert (refusal.status, refusal.field("x-portero-reason")) == (502, "upstream-garbled")


async def test_an_upgrade_that_is_declined_is_answered_as_the_function_says() -> None:
    """And both connections are closed: bytes behind an upgrade belong to no request."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.answer(b"not today", status=b"426 Upgrade Required")
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        await client.send(UPGRADE + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.body) == (426, b"not today")
        assert await client.until_end() == b""
        assert len(front.upstream.heads) == 1


async def test_the_client_closing_closes_the_function_within_a_second() -> None:
    """Its last bytes arrive first."""
    last = b""

    async def script(peer: Peer) -> None:
        nonlocal last
        await peer.head()
        await peer.send(accepted())
        last = await peer.until_end()

    async with Front(script) as front, front.client() as client:
        await client.send(UPGRADE)
        await client.head()
        await client.send(b"\x88\x80\0\0\0\0")
        with Pulse() as pulse:
            left_at = time.monotonic()
            client.close()
            await asyncio.wait_for(front.upstream.peers[0].saw_end.wait(), 20)
            assert pulse.took_s(left_at) < 1
        assert last == b"\x88\x80\0\0\0\0"


async def test_the_function_closing_closes_the_client_within_a_second() -> None:
    """Its last bytes arrive first."""
    leaves = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(accepted())
        await leaves.wait()
        await peer.send(b"\x88\x00")

    async with Front(script) as front, front.client() as client:
        await client.send(UPGRADE)
        await client.head()
        with Pulse() as pulse:
            left_at = time.monotonic()
            leaves.set()
            assert await client.until_end() == b"\x88\x00"
            assert pulse.took_s(left_at) < 1
        assert [one.failure for one in front.gate.finished] == [None]


async def test_a_cut_tells_both_sides_why() -> None:
    """1008 to both, then the end: revocation reaches open websockets (AP-R54)."""
    last = b""

    async def script(peer: Peer) -> None:
        nonlocal last
        await peer.head()
        await peer.send(accepted())
        last = await peer.until_end()

    async with Front(script) as front, front.client() as client:
        await client.send(UPGRADE)
        await client.head()
        with Pulse() as pulse:
            began = time.monotonic()
            front.gate.live.cut_all(1008)
            assert await client.until_end() == b"\x88\x02\x03\xf0"
            await asyncio.wait_for(front.upstream.peers[0].saw_end.wait(), 20)
            assert pulse.took_s(began) < 1
        assert last == b"\x88\x82\0\0\0\0\x03\xf0"


async def test_a_silent_websocket_is_ended() -> None:
    """idle: 1001; traffic in either direction keeps it."""
    clock = LoopClock()
    async with Front(echo, timeouts=Timeouts(idle_s=30)) as front, front.client() as client:
        await client.send(UPGRADE)
        await client.head()
        for _ in range(3):
            await clock.pass_s(20)
            await client.send(b"x")
            assert await client.reader.readexactly(1) == b"x"
        await clock.pass_s(40)
        assert await client.until_end() == b"\x88\x02\x03\xe9"
        assert front.gate.finished[0].failure is Reason.UPSTREAM_TIMEOUT


async def test_a_side_that_does_not_read_slows_the_other() -> None:
    """Nothing is collected in between."""
    never = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(accepted())
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket transport reads
        await never.wait()

    async with Front(script) as front, front.client() as client:
        await client.send(UPGRADE)
        await client.head()
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await client.send(b"x" * 1_000_000)
                sent += 1_000_000

        task = asyncio.create_task(flood())
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 24_000_000
        task.cancel()
