"""The stand-in for Kong proxies as Kong does: what goes to the upstream, what comes back, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.kong import KongFront
from tests.fakes.raw_client import RawClient
from tests.fakes.upstream import Peer, Script, ScriptedUpstream, answer_ok


def config(access: str, *, header_filter: str = "", host: str = "127.0.0.1", **route: Any) -> dict[str, Any]:
    snippets = {"access": [access], **({"header_filter": [header_filter]} if header_filter else {})}
    service = {
        "name": "s",
        "url": f"http://{host}:1",
        "retries": 0,
        "plugins": [{"name": "post-function", "config": snippets}],
        "routes": [{"name": "r", "paths": ["/"], "strip_path": False, **route}],
    }
    return {"_format_version": "3.0", "services": [service]}


@contextlib.asynccontextmanager
async def kong(
    script: Script = answer_ok, access: str = "", *, aim: bool = True, **options: Any
) -> AsyncIterator[tuple[KongFront, ScriptedUpstream]]:
    """Kong whose one snippet sends requests to a scripted upstream."""
    async with ScriptedUpstream(script) as upstream:
        host, port = upstream.address.host, upstream.address.port
        code = (f'kong.service.set_target("{host}", {port})\n' if aim else "") + access
        async with KongFront(config(code, **options), Path("/nonexistent"), dumps={}) as front:
            yield front, upstream


async def asked(front: KongFront, wire: bytes) -> tuple[int, bytes]:
    async with RawClient(front.address) as client:
        await client.send(wire)
        answer = await client.answer(to_head=wire.startswith(b"HEAD"))
        return answer.status, answer.body


GET = b"GET /a%20b?q#f HTTP/1.1\r\nHost: a.test\r\n\r\n"


async def test_the_upstream_gets_what_kong_writes() -> None:
    """Kong's own fields first, hop-by-hop ones gone, the query as it came, no second spelling taken for the first."""
    wire = (
        b"POST /a//b?x=%20 HTTP/1.1\r\nHost: A.test:8000\r\nX-A: 1\r\nX-Real-IP: 6.6.6.6\r\nConnection: X-A, close\r\n"
        b"X_Forwarded_For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nVia: 1.0 me\r\nTE: trailers\r\n"
        b"Content-Length: 2\r\n\r\nhi"
    )
    async with kong() as (front, upstream):
        assert await asked(front, wire) == (200, b"ok")
    lines = upstream.heads[0].decode().split("\r\n")
    port = front.address[1]
    assert lines[0] == "POST /a/b?x=%20 HTTP/1.1"
    assert [line for line in lines[1:] if line and not line.startswith("X-Kong-Request-Id")] == [
        "TE: trailers",
        "Via: 1.0 me, 1.1 kong/3.9.1",
        "Host: 127.0.0.1",
        "Connection: keep-alive",
        "X-Forwarded-For: 7.7.7.7, 127.0.0.1",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: a.test",
        f"X-Forwarded-Port: {port}",
        "X-Forwarded-Path: /a//b",
        "X-Real-IP: 127.0.0.1",
        "Content-Length: 2",
        "X_Forwarded_For: 6.6.6.6",
    ]


async def test_an_unaimed_request_ends_at_the_dead_address() -> None:
    """502, at once."""
    async with kong(aim=False) as (front, upstream):
        status, _ = await asked(front, GET)
        assert (status, front.requests[-1].verdict) == (502, "error")
        assert front.requests[-1].target == ("127.0.0.1", 1)
    assert upstream.connections == 0


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 500), ("localhost", 200)])
async def test_a_name_is_resolved_only_where_the_service_has_one(host: str, status: int) -> None:
    """Under a service with an address, a target's name is no host (``no host allowed``)."""
    async with ScriptedUpstream() as upstream:
        code = f'kong.service.set_target("localhost", {upstream.address.port})'
        async with KongFront(config(code, host=host), Path("/nonexistent"), dumps={}) as front:
            assert (await asked(front, GET))[0] == status


async def test_connections_to_upstreams_are_used_again() -> None:
    """Also for requests of another client."""
    async with kong() as (front, upstream):
        assert [await asked(front, GET) for _ in range(3)] == [(200, b"ok")] * 3
        assert (upstream.connections, front.upstreams.connections) == (1, 1)


async def test_requests_of_one_connection_are_answered_in_turn() -> None:
    """Pipelined ones, too; HTTP/1.0 ends it."""
    async with kong() as (front, upstream), RawClient(front.address) as client:
        await client.send(GET + GET + b"GET / HTTP/1.0\r\n\r\n")
        assert [(await client.answer()).status for _ in range(3)] == [200, 200, 200]
        assert await client.until_end() == b""
    assert len(upstream.heads) == 3


async def test_bodies_are_streamed_both_ways_in_chunks() -> None:
    """What is known of a body's length is known as little behind Kong."""

    async def echo(peer: Peer) -> None:
        _, body = await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\n", body, b"\r\n0\r\n\r\n")

    wire = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n"
    async with kong(echo) as (front, upstream):
        assert await asked(front, wire) == (200, b"hi")
    assert b"Transfer-Encoding: chunked\r\n" in upstream.heads[0]


async def test_an_upgrade_becomes_a_tunnel() -> None:
    """101 goes through, then bytes both ways."""

    async def switch(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi")
        await peer.send(await peer.reader.readexactly(4))

    wire = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n"
    async with kong(switch) as (front, upstream), RawClient(front.address) as client:
        await client.send(wire)
        status, fields = await client.head()
        assert (status, ("upgrade", "websocket") in fields) == (101, True)
        await client.send(b"ping")
        assert await client.reader.readexactly(6) == b"hiping"
    assert b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" in upstream.heads[0]


async def test_a_client_that_leaves_takes_its_upstream_connection_along() -> None:
    """nginx looks for the client's end while it waits for the upstream; 499."""  # noqa: D403 (its name)

    async def wait(peer: Peer) -> None:
        await peer.head()
        await peer.until_end()

    async with kong(wait) as (front, upstream), RawClient(front.address) as client:
        await client.send(GET)
        async with asyncio.timeout(20):
            while not upstream.heads:  # noqa: ASYNC110  # the upstream tells nobody
                await asyncio.sleep(0.005)
            client.close()
            await upstream.peers[0].saw_end.wait()


async def _garbled(peer: Peer) -> None:
    await peer.head()
    await peer.send(b"SSH-2.0-x\r\n\r\n")


async def _closing(peer: Peer) -> None:
    await peer.head()


async def _big(peer: Peer) -> None:
    await peer.head()
    await peer.answer(fields=b"X: " + b"x" * 40_000 + b"\r\n")


async def _twofold(peer: Peer) -> None:
    await peer.head()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("script", [_closing, _big, _twofold])
async def test_an_upstream_that_makes_no_sense_is_a_502(script: Script) -> None:
    """No answer, a head beyond 32 KiB, two framings."""
    async with kong(script) as (front, _):
        assert (await asked(front, GET))[0] == 502


async def test_what_is_no_http_is_http_0_9() -> None:
    """Status 9 to the header filters, of which one may keep it from going on as it came."""
    async with kong(_garbled, header_filter='assert(ngx.status == 9) error("no")') as (front, _):
        async with RawClient(front.address) as client:
            await client.send(GET)
            assert await client.reader.read() == b""
        assert "no" in front.requests[-1].log[-1][1]


async def test_silence_of_the_upstream_is_a_504() -> None:
    """After the verdict's ``read_timeout``."""

    async def wait(peer: Peer) -> None:
        await peer.head()
        await peer.until_end()

    async with kong(wait, "ngx.ctx.balancer_data.read_timeout = 50") as (front, _):
        assert (await asked(front, GET))[0] == 504


async def test_header_filters_see_the_answer_and_change_it() -> None:
    """Those of upstreams, and Kong's own."""

    async def answer(peer: Peer) -> None:
        await peer.request()
        await peer.answer(fields=b"X-A: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX_B: 2\r\n")

    code = (
        'ngx.header["X-A"] = nil; ngx.header["X-Seen"] = kong.response.get_source();'
        ' ngx.header["X-N"] = tostring(#ngx.header["Set-Cookie"])'
    )
    async with kong(answer, header_filter=code) as (front, _), RawClient(front.address) as client:
        await client.send(GET)
        got = await client.answer()
        assert [pair for pair in got.fields if pair[0].startswith("x")] == [
            ("x_b", "2"),
            ("x-seen", "service"),
            ("x-n", "2"),
        ]


async def test_an_error_in_a_header_filter_answers_nobody() -> None:
    """The connection is closed without a byte."""
    async with kong(header_filter='error("x")') as (front, _), RawClient(front.address) as client:
        await client.send(GET)
        assert await client.until_end() == b""
    assert front.requests[-1].log[-1][0] == "err"


@pytest.mark.parametrize(
    ("code", "status", "verdict"),
    [
        ('kong.response.exit(403, "no")', 403, "exit"),
        ('kong.response.exit(418, {message = "tea"})', 418, "exit"),
        ("kong.response.error(503)", 503, "exit"),
        ("ngx.exit(403)", 403, "exit"),
        ('error("x")', 500, "error"),
        ("kong.response.exit(1000)", 500, "error"),
    ],
)
async def test_kong_answers_by_itself(code: str, status: int, verdict: str) -> None:
    """By what a snippet says, or for one that fails; a body that nobody has read is no hindrance."""
    wire = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
    async with kong(access=code) as (front, upstream), RawClient(front.address) as client:
        await client.send(wire + wire)
        assert [(await client.answer()).status for _ in range(2)] == [status, status]
        assert front.requests[-1].verdict == verdict
    assert upstream.connections == 0


async def test_no_route_is_kongs_own_404() -> None:
    """Before any plugin."""
    async with kong(paths=["/x"]) as (front, _):
        status, body = await asked(front, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert status == 404
        assert b"no Route matched with those values" in body


@pytest.mark.parametrize(
    "wrong",
    [
        {"_format_version": "1.1"},
        {"_format_version": "3.0", "consumers": []},
        {
            "_format_version": "3.0",
            "services": [{"url": "http://a", "routes": [{"paths": ["/"]}], "plugins": [{"name": "x"}]}],
        },
        config("("),
    ],
    ids=["version", "entity", "plugin", "Lua"],
)
def test_a_config_it_would_not_do_justice_to_is_refused(wrong: dict[str, Any]) -> None:
    """As Kong refuses it, or because nothing here does what it says."""
    with pytest.raises(Exception, match=r"format|support|enabled|snippet"):
        KongFront(wrong, Path("/nonexistent"), dumps={})
