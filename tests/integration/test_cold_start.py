"""A sleeping function through the whole proxy: one wake however many wait, nobody answered early, nobody for ever."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from tests.fakes.jobs import until
from tests.fakes.openfaas import Invocation
from tests.fakes.world import World, request_bytes, running_world, send_raw


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running_world() as world:
        yield world


async def test_a_thousand_requests_wake_a_function_once(world: World) -> None:
    """1,000 at once: one wake call, none answered before the function is ready, each answered by its deadline."""
    await change_policy(world, "max_wait: 10s", "max_wait: 30s")
    key = world.faas.add("survey-report", "acme", replicas=0, start_s=1.0)
    token = world.token()
    started = time.monotonic()

    async def one() -> tuple[int, str | None, float]:
        answer = await send_raw(world.app.public_address, request_bytes("GET /reports/es", token=token), timeout_s=40)
        assert answer is not None
        return answer.status, answer.reason, time.monotonic() - started

    results = await asyncio.gather(*(one() for _ in range(1000)))
    assert Counter(status for status, _, _ in results) == {200: 1000}
    assert world.faas.wake_calls == [key]
    assert min(after for _, _, after in results) >= 1.0
    assert max(after for _, _, after in results) <= 31.0
    assert len(world.faas.requests) == 1000


async def change_policy(world: World, old: str, new: str) -> None:
    file = world.policies / "acme.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert await world.app.parts.folder.reload()


async def test_nobody_waits_past_the_deadline(world: World) -> None:
    """A function that never becomes ready: each request is refused 504 at its deadline, none reaches the function."""
    await change_policy(world, "max_wait: 10s", "max_wait: 1s")
    world.faas.add("survey-report", "acme", replicas=0, start_s=60)
    token = world.token()
    started = time.monotonic()
    answers = await asyncio.gather(*(world.get("/reports/es", token=token) for _ in range(50)))
    assert {answer.reason for answer in answers} == {"cold-start-timeout"}
    assert all(answer.field("retry-after") for answer in answers)
    assert 1.0 <= time.monotonic() - started < 8.0  # ten with the policy of before, sixty until it were awake
    assert not world.faas.requests


async def test_a_stranger_never_wakes_a_function(world: World) -> None:
    """Requests without a token, with a bad one and without a role cost no wake and no call of the platform's API."""
    world.faas.add("survey-report", "acme", replicas=0)
    for token in (None, "nonsense", world.token("bob", ()), world.token(tenants=("globex",))):
        answer = await world.get("/reports/es", token=token)
        assert answer.status in {401, 403}
    assert not world.faas.wake_calls
    assert not world.faas.status_calls


async def test_a_flood_of_strangers_wakes_nothing(world: World) -> None:
    """500 requests without a right to the function, at once: not one call to the platform, nobody held."""
    world.faas.add("survey-report", "acme", replicas=0)
    tokens = (None, "nonsense", world.token("bob", ()), world.token(tenants=("globex",)))
    asked = (world.get("/reports/es", token=tokens[n % 4]) for n in range(500))
    answers = await asyncio.gather(*asked)
    assert {answer.status for answer in answers} <= {401, 403, 429}
    assert not world.faas.wake_calls
    assert not world.faas.status_calls
    assert not world.faas.requests
    assert world.app.parts.activator.held == 0


async def test_impatient_clients_leave_nothing_behind(world: World) -> None:
    """
    200 requests a second with bodies, a client timeout of 0.3 s, a function that never wakes (the case of
    knative/serving#13583): one wake, and when they have gone no place, no byte and no task of theirs is left.
    """
    world.faas.add("survey-submit", "acme", replicas=0, start_s=60)
    data = request_bytes("POST /function/survey-submit", body=b"x" * 1000)
    parts = world.app.parts
    most = 0

    async def one() -> None:
        _, writer = await asyncio.open_connection(*world.app.public_address)
        writer.write(data)
        await asyncio.sleep(0.3)
        writer.close()

    tasks = []
    for _ in range(400):
        tasks.append(asyncio.create_task(one()))
        most = max(most, parts.activator.held)
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    await until(lambda: not (parts.activator.held or parts.metrics.held_body_bytes.value() or len(parts.live)))
    assert 0 < most <= 100
    assert parts.metrics.held_requests.value(("acme",)) == 0
    assert parts.activator.held_by_function() == []
    assert len(world.faas.wake_calls) == 1
    assert not world.faas.requests


async def test_nobody_is_let_in_before_the_function_itself_answers(world: World) -> None:
    """The platform counts a replica as ready half a second before it listens: nobody gets to see its 502."""
    listens_at = time.monotonic() + 1.0

    async def starting(invocation: Invocation) -> web.StreamResponse:
        is_up = time.monotonic() >= listens_at
        return web.Response(status=200 if is_up else 502, text=invocation.path.decode())

    await change_policy(world, "max_wait: 10s", "probe: /ready, max_wait: 10s")
    world.faas.add("survey-report", "acme", replicas=0, start_s=0.3, handler=starting)
    token = world.token()
    answers = await asyncio.gather(*(world.get("/reports/es", token=token) for _ in range(50)))
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"/by-country/es")}
    assert time.monotonic() >= listens_at
    assert {invocation.path for invocation in world.faas.requests} == {b"/ready", b"/by-country/es"}
    assert len(world.faas.wake_calls) == 1


async def test_a_fallback_says_how_long_its_caller_waited(world: World) -> None:
    """The wait at the function that did not wake in time is told, not only that at the one that served."""
    await change_policy(
        world, "{max_wait: 10s, max_held: 2000}", "{max_wait: 300ms, overflow: fallback, fallback: geo}"
    )
    await change_policy(world, 'functions: [survey-report, "geo-*"]', "functions: [survey-report, geo]")
    world.faas.add("survey-report", "acme", replicas=0, start_s=60)
    world.faas.add("geo", "acme")
    answer = await world.get("/reports/es", token=world.token())
    assert answer.status == 200
    [timing] = answer.all("server-timing")
    assert 290 <= int(timing.removeprefix("hold;dur=")) < 10_000


async def test_a_client_that_leaves_is_forgotten(world: World) -> None:
    """Its place is free at once, also when its body is unread, and the function never sees the request."""
    key = world.faas.add("survey-submit", "acme", replicas=0, start_s=60)
    body = request_bytes("POST /function/survey-submit", body=b"x" * 1000)
    writers = []
    for _ in range(20):
        _, writer = await asyncio.open_connection(*world.app.public_address)
        writer.write(body)
        writers.append(writer)
    await until(lambda: world.app.parts.activator.held == 20)
    for writer in writers:
        writer.close()
    await until(lambda: not world.app.parts.activator.held)  # who is not noticed is held for thirty seconds
    world.faas.awake[key] = 1
    await asyncio.sleep(0.3)
    assert not world.faas.requests


async def test_a_policy_that_changes_while_held_is_asked_again(world: World) -> None:
    """A role that is taken away while its holder waits lets nobody in."""
    key = world.faas.add("survey-report", "acme", replicas=0, start_s=60)
    waiting = asyncio.create_task(world.get("/reports/es", token=world.token()))
    await until(lambda: world.app.parts.activator.held)
    await change_policy(world, "groups: [analysts]", "groups: [others]")
    world.faas.awake[key] = 1
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


async def test_a_stop_tells_those_who_are_held(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the drain deadline a held request is answered 503 draining with Retry-After, not cut."""
    monkeypatch.setattr("authproxy.edges.public.REFUSING_S", 5.0)  # of a process that may be stopped meanwhile
    world.faas.add("survey-report", "acme", replicas=0, start_s=60)
    waiting = asyncio.create_task(world.get("/reports/es", token=world.token()))
    await until(lambda: world.app.parts.activator.held)
    await world.app.stop(0.2)
    answer = await waiting
    assert (answer.status, answer.reason) == (503, "draining")
    assert answer.field("retry-after") is not None


async def test_what_runs_finishes_before_a_stop(world: World) -> None:
    """A request that is at its function when the process is told to stop gets its answer."""
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow(_invocation: Invocation) -> web.StreamResponse:
        has_begun.set()
        await may_end.wait()
        return web.Response(text="done")

    world.faas.add("survey-web", "acme", handler=slow)
    running = asyncio.create_task(world.get("/function/survey-web"))
    await has_begun.wait()
    stopping = asyncio.create_task(world.app.stop(30))
    await asyncio.sleep(0.2)
    assert not stopping.done()
    may_end.set()
    assert (await running).body == b"done"
    await stopping
