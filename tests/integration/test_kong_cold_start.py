"""A sleeping function behind Kong: its requests wait at the internal listener, with one wake for all of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from authproxy.gate.verdict import Undecided
from tests.fakes.internal import Door, running_door, until

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
    door.world.faas.add("survey-report", "acme", replicas=0, start_s=0.6)
    token = door.world.token()

    async def leaving() -> None:
        async with door.client() as client:
            await client.send(door.sent_on(await door.judged("GET /reports/es", token=token)))
            await until(lambda: door.world.app.parts.activator.held)
            await asyncio.sleep(0.1)

    staying = [one(door, token) for _ in range(40)]
    results = await asyncio.gather(*staying, *(leaving() for _ in range(40)))
    assert [result[0] for result in results if result is not None] == [200] * 40
    assert len(door.world.faas.requests) == 40
    assert len(door.world.faas.wake_calls) == 1
    await until(door.is_idle)
