"""What a request costs in Kong: calls of the plugin to Kong, and messages over the plugin server's socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.fakes.kong_world import Front, KongWorld, running_kong_world
from tests.fakes.raw_client import RawClient
from tests.fakes.upstream import Peer, ScriptedUpstream
from tests.fakes.world import VECTOR_WORLDS, request_bytes

ALLOWED: Final = ["kong.ctx.shared.get", "kong.ctx.shared.set"]
REFUSED: Final = ["kong.ctx.shared.get", "kong.response.exit"]
REPORT: Final = "/function/survey-report"
FORGED: Final = [
    *(("X-Portero-Subject", "root"), ("X_Portero_Subject", "root"), ("x.portero.subject", "root")),
    *(("X-Portero-Groups", "root"), ("X_portero-Pass", "x"), ("X-Forwarded-User", "root"), ("X-Consumer-Id", "root")),
]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module", autouse=True)
def _awake_once_is_awake() -> Iterator[None]:
    """What the platform says holds for longer than all tests take: Kong asks a function itself that is known to be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("policies.coldstart.FRESH_S", 600.0)
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(front: Front) -> AsyncIterator[KongWorld]:
    async with running_kong_world(front=front) as world:
        for name in ("survey-report", "survey-web", "survey-submit"):
            world.faas.add(name, "acme")
            await world.get(f"/function/{name}", token=world.token())  # from now on it is known to be awake
        yield world


@pytest.mark.parametrize(
    ("line", "fields", "body"),
    [
        (f"GET {REPORT}", [], b""),
        (f"GET {REPORT}", FORGED, b""),
        ("GET /reports/es?year=2026", [], b""),
        ("POST /function/survey-submit", [], b"{}"),
        ("POST /api/answers", [("Origin", "https://app.acme.test")], b"{}"),
        (f"HEAD {REPORT}/a%20b", [("Cookie", "a=b; c=d"), ("X-Request-Id", "mine")], b""),
    ],
    ids=["GET", "forged fields", "rewrite", "POST", "rewritten POST", "cookies"],
)
async def test_an_allowed_request_costs_two_calls(
    world: KongWorld, line: str, fields: list[tuple[str, str]], body: bytes
) -> None:
    """Three messages in all, whatever is rewritten, added and removed."""
    before = len(world.faas.requests)
    answer = await world.send(request_bytes(line, token=world.token(), fields=fields, body=body))
    trace = world.trace
    assert (answer.status, trace.verdict) == (200, "proxied")
    assert (trace.pdk_calls, trace.round_trips) == (ALLOWED, 3)
    assert trace.target != world.app.public_address  # Kong has asked the function itself
    assert len(world.faas.requests) == before + 1


async def test_kong_asks_for_no_trailers_in_a_clients_name(world: KongWorld) -> None:
    """Kong 3.6 to 3.9 decides on TE by what it has read before any plugin; the proxy passes none on."""
    await world.send(request_bytes(f"GET {REPORT}", token=world.token(), fields=[("TE", "trailers")]))
    assert "te" not in {name.lower() for name, _ in world.faas.requests[-1].fields}


async def test_forged_fields_do_not_arrive(world: KongWorld) -> None:
    """In no spelling; Portero's own are there once."""
    await world.send(request_bytes(f"GET {REPORT}", token=world.token(), fields=FORGED))
    got = [(name.lower(), value) for name, value in world.faas.requests[-1].fields]
    folded = [(name.replace("_", "-").replace(".", "-"), value) for name, value in got]
    assert [value for name, value in folded if name == "x-portero-subject"] == ["login|ana"]
    assert [value for name, value in folded if name == "x-portero-tenant"] == ["acme"]
    assert not [pair for pair in folded if pair[1] in {"root", "x"}]


@pytest.mark.parametrize(
    ("line", "token", "status"),
    [
        (f"GET {REPORT}", None, 401),
        (f"POST {REPORT}", "ana", 403),
        ("GET /nowhere", "ana", 404),
        ("DELETE /reports/es", "ana", 405),
        ("GET /secure", "ana", 426),
        (f"GET {REPORT}", "x", 401),
    ],
)
async def test_a_refused_request_costs_two_calls(world: KongWorld, line: str, token: str | None, status: int) -> None:
    """The facts and the answer; then nothing more is said on the socket."""
    bearer = world.token() if token == "ana" else token
    answer = await world.send(request_bytes(line, token=bearer, body=b"{}" if line.startswith("POST") else b""))
    assert answer.status == status
    assert (world.trace.pdk_calls, world.trace.round_trips) == (REFUSED, 2)


async def test_a_cold_function_costs_two_calls(world: KongWorld) -> None:
    """It is held at the internal listener, not in Kong."""
    world.faas.add("geo-cold", "acme", replicas=0, start_s=0.1)
    token = world.token(region="eu")
    answer = await world.send(request_bytes("GET /function/geo-cold", token=token))
    assert (answer.status, world.trace.pdk_calls) == (200, ALLOWED)
    assert world.trace.target == world.app.public_address


async def test_a_chain_costs_what_its_plugins_cost(front: Front) -> None:
    """Facts, what the one before has found, what this one has: eleven calls of four plugins."""
    async with running_kong_world(chain=True, front=front) as world:
        world.faas.add("survey-report", "acme")
        for _ in range(2):
            answer = await world.send(request_bytes(f"GET {REPORT}", token=world.token()))
        assert answer.status == 200
        assert (len(world.trace.pdk_calls), world.trace.round_trips) == (11, 15)
        answer = await world.send(request_bytes(f"GET {REPORT}"))
        assert (answer.status, len(world.trace.pdk_calls)) == (401, 5)


async def test_a_websocket_costs_two_calls(front: Front, tmp_path: Path) -> None:
    """Of a public function, which Kong asks itself: the upgrade goes through, then bytes both ways."""

    async def echo(peer: Peer) -> None:
        if b"websocket" not in await peer.head():
            await peer.answer()
            return
        await peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        while piece := await peer.reader.read(100):
            await peer.send(piece.upper())

    async with ScriptedUpstream(echo) as upstream:
        for file in (VECTOR_WORLDS / "one-namespace").glob("*.yaml"):
            (tmp_path / file.name).write_text(file.read_text().replace("8081", str(upstream.address.port)))
        async with running_kong_world(tmp_path, front=front) as world:
            world.faas.add("localhost", "shared")
            await world.get("/function/localhost", host="red.test")  # from now on it is known to be awake
            upgrade = [
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Key", "a" * 22 + "=="),
            ]
            wire = request_bytes("GET /function/localhost/ws", host="red.test", fields=upgrade)
            async with RawClient(world.kong.address) as client:
                await client.send(wire.replace(b"Connection: close", b"Connection: Upgrade"))
                assert (await client.head())[0] == 101
                await client.send(b"hello")
                assert await client.reader.readexactly(5) == b"HELLO"
            assert (world.trace.pdk_calls, world.trace.round_trips) == (ALLOWED, 3)
            assert world.trace.target is not None
            assert world.trace.target[1] == upstream.address.port
    assert b"upgrade: websocket" in upstream.heads[-1].lower()
