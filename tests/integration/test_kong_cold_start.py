"""A sleeping function behind Kong: its requests wait at the internal listener, with one wake for all of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from authproxy.gate.passes import Passes
from authproxy.gate.verdict import Undecided
from policies.coldstart import STARTING_S
from policies.request import Head
from tests.fakes.internal import Door, running_door, until
from tests.fakes.kong_world import Front, KongWorld, running_kong_world
from tests.fakes.world import request_bytes

REQUESTS = 200


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with running_door() as door:
        yield door


async def one(door: Door, token: str) -> tuple[int, str | None, bytes]:
    """Judged, sent on and answered, with the bytes that came here."""
    verdict = await door.judged("GET /reports/es", token=token)
    assert type(verdict) is Undecided
    sent = door.sent_on(verdict)
    async with door.client() as client:
        await client.send(sent)
        answer = await client.answer()
    return answer.status, answer.field("x-portero-reason"), sent


async def test_two_hundred_requests_wake_a_function_once(door: Door) -> None:
    """Each is judged at one door and held at the other: one wake, all answered, nobody in another's name."""
    key = door.world.faas.add("survey-report", "acme", replicas=0, start_s=0.5)
    tokens = [door.world.token(f"caller-{number}") for number in range(10)]
    answers = await asyncio.gather(*(one(door, tokens[number % 10]) for number in range(REQUESTS)))
    assert Counter(answer[:2] for answer in answers) == {(200, None): REQUESTS}
    assert door.world.faas.wake_calls == [key]
    assert Counter(door.subjects()) == {f"login|caller-{number}": REQUESTS // 10 for number in range(10)}
    await until(door.is_idle)
    # None of the passes is good a second time.
    async with door.client() as client:
        for *_, sent in answers[:20]:
            await client.send(sent)
            assert (await client.answer()).field("x-portero-reason") == "pass-invalid"
    assert len(door.world.faas.requests) == REQUESTS


async def test_half_of_the_callers_leave(door: Door) -> None:
    """Whose client has gone gives up its place; the others are answered, the function sees only those."""
    key = door.world.faas.add("survey-report", "acme", replicas=0, start_s=60)
    token, activator = door.world.token(), door.world.app.parts.activator

    async def leaving() -> None:
        async with door.client() as client:
            await client.send(door.sent_on(await door.judged("GET /reports/es", token=token)))
            await until(lambda: activator.held == 80)
            await asyncio.sleep(0.1)  # nobody leaves before all have seen that

    async def waking() -> None:
        await until(lambda: activator.held == 80)
        await until(lambda: activator.held == 40 and door.world.faas.wake_calls)
        door.world.faas.awake[key] = 1

    staying = [one(door, token) for _ in range(40)]
    results = await asyncio.gather(*staying, *(leaving() for _ in range(40)), waking())
    assert [result[0] for result in results if result is not None] == [200] * 40
    assert len(door.world.faas.requests) == 40
    assert len(door.world.faas.wake_calls) == 1
    await until(door.is_idle)


# -- with Kong itself in front, as far as it can be stood in for -----------------------------------------------------


@pytest.fixture
async def kong(front: Front) -> AsyncIterator[KongWorld]:
    async with running_kong_world(front=front) as world:
        yield world


def is_idle(world: KongWorld) -> bool:
    parts = world.app.parts
    return not (len(parts.live) or parts.activator.held or len(passes_of(world)))


def passes_of(world: KongWorld) -> Passes:
    app: Any = world.app
    passes: Passes = app.front.passes
    return passes


async def test_a_cold_function_behind_kong(kong: KongWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 requests through Kong: one wake, all answered, each in its caller's name."""
    key = kong.faas.add("survey-report", "acme", replicas=0, start_s=0.6)
    tokens = [kong.token(f"caller-{number}") for number in range(10)]
    asked = (kong.get("/reports/es", token=tokens[number % 10]) for number in range(REQUESTS))
    answers = await asyncio.gather(*asked)
    assert Counter((answer.status, answer.reason) for answer in answers) == {(200, None): REQUESTS}
    assert kong.faas.wake_calls == [key]
    told = Counter(dict(one.fields).get("X-Portero-Subject") for one in kong.faas.requests)
    assert told == {f"login|caller-{number}": REQUESTS // 10 for number in range(10)}
    assert not [one for one in kong.faas.requests if any("pass" in name.lower() for name, _ in one.fields)]
    await until(lambda: is_idle(kong))
    # While it starts it is still given a few at once; later on Kong talks to the function itself.
    assert (await kong.get("/reports/es", token=tokens[0])).status == 200
    assert kong.trace.target == kong.app.public_address
    activator: Any = kong.app.parts.activator
    usual = activator._clock
    monkeypatch.setattr("policies.coldstart.FRESH_S", 600.0)  # what is found awake from now on stays known to be
    activator._clock = activator._tools.clock = lambda: usual() + STARTING_S
    for _ in range(2):  # the first one asks whether it is awake
        assert (await kong.get("/reports/es", token=tokens[0])).status == 200
    assert kong.trace.target != kong.app.public_address


async def test_a_body_waits_with_its_request(kong: KongWorld) -> None:
    """Held here, it is whole when the function gets it; one too large wakes nothing."""
    kong.faas.add("survey-submit", "acme", replicas=0, start_s=0.3)
    large = await kong.send(request_bytes("POST /function/survey-submit", body=b"x" * 1025))
    assert (large.status, large.reason) == (413, "body-too-large")
    assert not kong.faas.wake_calls
    answer = await kong.send(request_bytes("POST /function/survey-submit", body=b"x" * 1024))
    assert answer.status == 200
    assert [one.body for one in kong.faas.requests] == [b"x" * 1024]


@pytest.mark.parametrize("name", ["X-Portero-Pass", "x-portero-pass", "X_Portero_Pass", "X-Portero_Pass"])
async def test_a_clients_own_pass_is_never_seen(kong: KongWorld, name: str) -> None:
    """Not even a real one that waits: what Kong sends on is the one that it was given."""
    kong.faas.add("survey-web", "acme", replicas=0, start_s=0.2)
    gate = kong.app.parts.gate
    verdict: Any = gate.decide_now(
        Head("GET", b"/function/survey-web", ((b"Host", b"acme.test"),), (1, 1), "198.51.100.7", "http")
    )
    stolen = passes_of(kong).issue(verdict)
    assert stolen is not None
    for value in (stolen, "A" * 72):
        answer = await kong.get("/function/survey-web", fields=[(name, value)])
        assert answer.status == 200
    assert len(passes_of(kong)) == 1
    assert not [one for one in kong.faas.requests if any("pass" in key.lower() for key, _ in one.fields)]
    passes_of(kong).take_back(stolen)


async def test_a_client_of_kong_that_leaves_is_forgotten(kong: KongWorld) -> None:
    """Kong hangs up here when its client has gone: nobody is held for nobody."""
    kong.faas.add("survey-report", "acme", replicas=0, start_s=60)
    _, writer = await asyncio.open_connection(*kong.kong.address)
    writer.write(request_bytes("GET /reports/es", token=kong.token()))
    await until(lambda: kong.app.parts.activator.held)
    writer.close()
    await until(lambda: is_idle(kong))
    assert not kong.faas.requests
