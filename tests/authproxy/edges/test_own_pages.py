"""Portero's own pages over the wire: their bodies are bounded, and nothing of them reaches the platform."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

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
