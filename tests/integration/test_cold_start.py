"""A sleeping function through the whole proxy: one wake however many wait, nobody answered early, nobody for ever."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from tests.fakes.openfaas import Invocation
from tests.fakes.world import World, request_bytes, running_world, send_raw


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running_world() as world:
        yield world


async def test_a_thousand_requests_wake_a_function_once(world: World) -> None:
    """1,000 at once: one wake call, none answered before the function is ready, each answered by its deadline."""
    key = world.faas.add("survey-report", "acme", replicas=0, start_s=1.0)
    token = world.token()
    started = time.monotonic()

    async def one() -> tuple[int, str | None, float]:
        answer = await send_raw(world.app.public_address, request_bytes("GET /reports/es", token=token), timeout_s=15)
        assert answer is not None
        return answer.status, answer.reason, time.monotonic() - started

    results = await asyncio.gather(*(one() for _ in range(1000)))
    assert Counter(status for status, _, _ in results) == {200: 1000}
    assert world.faas.wake_calls == [key]
    assert min(after for _, _, after in results) >= 1.0
    assert max(after for _, _, after in results) <= 11.0
    assert len(world.faas.requests) == 1000


async def test_nobody_waits_past_the_deadline(world: World) -> None:
    """A function that never becomes ready: each request is refused 504 at its deadline, none reaches the function."""
    file = world.policies / "acme.yaml"
    file.write_text(file.read_text().replace("max_wait: 10s", "max_wait: 1s"))
    assert await world.app.parts.folder.reload()
    world.faas.add("survey-report", "acme", replicas=0, start_s=60)
    token = world.token()
    started = time.monotonic()
    answers = await asyncio.gather(*(world.get("/reports/es", token=token) for _ in range(50)))
    assert {answer.reason for answer in answers} == {"cold-start-timeout"}
    assert all(answer.field("retry-after") for answer in answers)
    assert 1.0 <= time.monotonic() - started < 2.5
    assert not world.faas.requests


async def test_a_stranger_never_wakes_a_function(world: World) -> None:
    """Requests without a token, with a bad one and without a role cost no wake and no call of the platform's API."""
    world.faas.add("survey-report", "acme", replicas=0)
    for token in (None, "nonsense", world.token("bob", ()), world.token(tenants=("globex",))):
        answer = await world.get("/reports/es", token=token)
        assert answer.status in {401, 403}
    assert not world.faas.wake_calls
    assert not world.faas.status_calls


async def test_a_client_that_leaves_is_forgotten(world: World) -> None:
    """Its place is free at once, also when its body is unread, and the function never sees the request."""
    world.faas.add("survey-submit", "acme", replicas=0, start_s=1.0)
    body = request_bytes("POST /function/survey-submit", body=b"x" * 1000)
    writers = []
    for _ in range(20):
        _, writer = await asyncio.open_connection(*world.app.public_address)
        writer.write(body)
        writers.append(writer)
    deadline = time.monotonic() + 5
    while world.app.parts.activator.held < 20:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    for writer in writers:
        writer.close()
    left_at = time.monotonic()
    while world.app.parts.activator.held:
        assert time.monotonic() - left_at < 1.0
        await asyncio.sleep(0.005)
    await asyncio.sleep(1.2)
    assert not world.faas.requests


async def test_a_policy_that_changes_while_held_is_asked_again(world: World) -> None:
    """A role that is taken away while its holder waits lets nobody in."""
    world.faas.add("survey-report", "acme", replicas=0, start_s=6)
    waiting = asyncio.create_task(world.get("/reports/es", token=world.token()))
    await asyncio.sleep(0.3)
    file = world.policies / "acme.yaml"
    file.write_text(file.read_text().replace("groups: [analysts]", "groups: [others]"))
    assert await world.app.parts.folder.reload()
    answer = await waiting
    assert (answer.status, answer.reason) == (403, "no-rule-allows")
    assert not world.faas.requests


async def test_a_function_that_fell_asleep_since_is_held_for(world: World) -> None:
    """The platform's own "no replica" is not passed on: the request waits for the wake like any other."""
    key = world.faas.add("survey-report", "acme", start_s=0.3)
    token = world.token()
    assert (await world.get("/reports/es", token=token)).status == 200
    world.faas.awake[key] = 0
    assert (await world.get("/reports/es", token=token)).status == 200
    assert world.faas.wake_calls == [key]


async def test_what_runs_is_paced_by_ready_replicas(world: World) -> None:
    """While a function starts, no more than ready replicas x 10 requests are inside it."""

    async def slow(_invocation: Invocation) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return web.Response(text="ok")

    key = world.faas.add("survey-report", "acme", replicas=0, start_s=0.5, handler=slow)
    token = world.token()
    answers = await asyncio.gather(*(world.get("/reports/es", token=token) for _ in range(200)))
    assert {answer.status for answer in answers} == {200}
    assert world.faas.max_in_flight(key) <= 10


async def test_a_stop_tells_those_who_are_held(world: World) -> None:
    """At the drain deadline a held request is answered 503 draining with Retry-After, not cut."""
    world.faas.add("survey-report", "acme", replicas=0, start_s=60)
    waiting = asyncio.create_task(world.get("/reports/es", token=world.token()))
    await asyncio.sleep(0.3)
    await world.app.stop(0.2)
    answer = await waiting
    assert (answer.status, answer.reason) == (503, "draining")
    assert answer.field("retry-after") is not None


async def test_what_runs_finishes_before_a_stop(world: World) -> None:
    """A request that is at its function when the process is told to stop gets its answer."""

    async def slow(_invocation: Invocation) -> web.StreamResponse:
        await asyncio.sleep(0.5)
        return web.Response(text="done")

    world.faas.add("survey-web", "acme", handler=slow)
    running = asyncio.create_task(world.get("/function/survey-web"))
    await asyncio.sleep(0.25)
    await world.app.stop(5)
    assert (await running).body == b"done"
