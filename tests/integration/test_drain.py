"""SIGTERM: not ready at once, nobody new, time for what runs, and at the deadline a word for everybody else."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from tests.fakes.jobs import until
from tests.fakes.openfaas import Invocation
from tests.fakes.raw_client import RawClient
from tests.fakes.world import World, parse_answer, running_world

READYZ = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """It has more than a quarter of a second for its last words: the machine may stand still meanwhile."""
    monkeypatch.setattr("authproxy.edges.public.REFUSING_S", 1.5)
    async with running_world() as world:
        yield world


def client_of(world: World) -> RawClient:
    return RawClient(world.app.public_address)


def post(function: str, body: bytes = b"", *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"POST /function/%b HTTP/1.1\r\nHost: acme.test\r\nContent-Length: %d\r\n\r\n%b" % (
        function.encode(),
        size,
        body,
    )


async def is_ready(world: World) -> int:
    reader, writer = await asyncio.open_connection(*world.app.admin_address)
    writer.write(READYZ)
    answer = parse_answer(await reader.read())
    writer.close()
    return answer.status


async def until_held(world: World, count: int) -> None:
    await until(lambda: world.app.parts.activator.held == count)


async def until_nobody_is_taken(world: World) -> None:
    async with asyncio.timeout(15):
        while True:
            try:
                _, writer = await asyncio.open_connection(*world.app.public_address)
            except ConnectionError:
                return
            writer.close()
            await asyncio.sleep(0.01)


async def test_it_is_not_ready_at_once_and_takes_nobody_new(world: World) -> None:
    """While what runs has its time; the admin listener stays, to say so."""
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow(_invocation: Invocation) -> web.StreamResponse:
        has_begun.set()
        await may_end.wait()
        return web.Response(text="done")

    world.faas.add("survey-web", "acme", handler=slow)
    edge = world.app._public
    assert edge is not None
    async with client_of(world) as running, client_of(world) as kept:
        assert await is_ready(world) == 200
        await running.send(post("survey-web"))
        await kept.send(b"GET /function/survey-web HTTP/1.1\r\nHost: acme.test\r\n")  # a head that is not complete
        await has_begun.wait()
        await until(lambda: edge.connections == 2)
        await asyncio.sleep(0.1)  # what has arrived is read
        stopping = asyncio.create_task(world.app.stop(30))
        await until_nobody_is_taken(world)
        assert await is_ready(world) == 503
        await kept.send(b"\r\n")
        late = await kept.answer()
        assert (late.status, late.field("x-portero-reason")) == (503, "draining")
        assert (late.field("connection"), late.field("retry-after") is not None) == ("close", True)
        may_end.set()
        answer = await running.answer()
        assert (answer.status, answer.body, answer.field("connection")) == (200, b"done", "close")
        await asyncio.wait_for(stopping, 15)


async def test_what_is_held_may_still_reach_its_function(world: World) -> None:
    """The function wakes before the deadline: the body that was held leaves, and its answer comes."""
    key = world.faas.add("survey-submit", "acme", replicas=0, start_s=60)
    async with client_of(world) as client:
        await client.send(post("survey-submit", b"an answer"))
        await until_held(world, 1)
        stopping = asyncio.create_task(world.app.stop(30))
        await until_nobody_is_taken(world)
        world.faas.awake[key] = 1
        assert (await client.answer()).status == 200
        assert world.faas.requests[-1].body == b"an answer"
        await asyncio.wait_for(stopping, 15)


async def test_at_the_deadline_everybody_without_an_answer_is_told(world: World) -> None:
    """Held, with and without a body, running, and uploading: 503 draining; an answer that has begun is cut."""

    async def never(_invocation: Invocation) -> web.StreamResponse:
        await asyncio.sleep(20)
        raise AssertionError

    async def half(_invocation: Invocation) -> web.StreamResponse:
        return web.Response(body=_drip(), headers={"Content-Length": "100"})

    world.faas.add("survey-submit", "acme", replicas=0, start_s=60)
    web_key = world.faas.add("survey-web", "acme", handler=never)
    world.faas.add("survey-stream", "acme", handler=half)
    _make_public(world, "survey-stream")
    assert await world.app.parts.folder.reload()
    async with contextlib.AsyncExitStack() as stack:

        async def sends(data: bytes) -> RawClient:
            client = await stack.enter_async_context(client_of(world))
            await client.send(data)
            return client

        started = await sends(post("survey-stream"))
        assert (await started.head())[0] == 200
        assert await started.reader.readexactly(4) == b"half"
        waiting = [
            await sends(post("survey-submit", b"x" * 64)),
            await sends(post("survey-submit")),
            await sends(post("survey-submit", b"x", length=64)),
            await sends(post("survey-web")),
            await sends(post("survey-web", b"x" * 10, length=1000)),
        ]
        await until_held(world, 3)
        await until(lambda: world.faas.max_in_flight(web_key) == 2)
        began = time.monotonic()
        await world.app.stop(0.2)
        assert time.monotonic() - began < 12  # functions take twenty seconds
        for client in waiting:
            answer = await client.answer()
            assert (answer.status, answer.field("x-portero-reason")) == (503, "draining")
            assert answer.field("retry-after") is not None
        assert await started.until_end() == b""
    assert len(world.faas.requests) == 2


async def _drip() -> Any:
    yield b"half"
    await asyncio.sleep(20)


def _make_public(world: World, function: str) -> None:
    file = world.policies / "acme.yaml"
    file.write_text(file.read_text().replace("functions:\n", f"functions:\n  {function}: {{access: public}}\n", 1))
