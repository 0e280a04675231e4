"""A function that fell asleep since it was last asked about: what its policy says holds for who finds that out, too."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.world import PLAIN, RawAnswer, World, request_bytes, running_world

_NAVIGATES = (("Accept", "text/html"), ("Sec-Fetch-Mode", "navigate"))
_COLD_START = "{max_wait: 10s, overflow: page, no_wake: [{methods: [HEAD], status: 204}, {robots: true}]}"
_IMPATIENT = _COLD_START.replace("10s", "300ms")


@pytest.fixture
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """The plain world, whose form is known to be awake and sleeps; a test's parameter is its ``cold_start``."""
    cold_start = getattr(request, "param", _COLD_START)
    policies = tmp_path / "policies"
    shutil.copytree(PLAIN, policies)
    file, was = policies / "acme.yaml", "survey-web: {access: public}"
    assert was in file.read_text()
    file.write_text(file.read_text().replace(was, f"survey-web: {{access: public, cold_start: {cold_start}}}"))
    async with running_world(policies) as world:
        key = world.faas.add("survey-web", "acme", start_s=0.1)
        assert (await ask(world)).status == 200
        world.faas.awake[key] = 0
        world.faas.requests.clear()
        yield world


async def ask(world: World, method: str = "GET", *fields: tuple[str, str]) -> RawAnswer:
    return await world.send(request_bytes(f"{method} /function/survey-web", fields=list(fields)))


async def test_it_is_told_that_it_was_held(world: World) -> None:
    """The answer to who met the sleeping function says so, once."""
    answer = await ask(world)
    assert answer.status == 200
    assert answer.all("x-portero-cold-start") == ["true"]
    [timing] = answer.all("server-timing")
    assert timing.startswith("hold;dur=")


@pytest.mark.parametrize(
    ("method", "fields", "status", "reason"),
    [
        pytest.param("HEAD", (), 204, None, id="a rule's own status"),
        pytest.param("GET", (("User-Agent", "Googlebot/2.1"),), 503, "function-asleep", id="a refusal"),
    ],
)
async def test_it_is_not_woken_for_who_may_not(
    world: World, method: str, fields: tuple[tuple[str, str], ...], status: int, reason: str | None
) -> None:
    """``no_wake`` rules answer as they do for a function that is known to sleep, and wake nothing."""
    for _ in range(2):
        answer = await ask(world, method, *fields)
        assert (answer.status, answer.reason) == (status, reason)
        assert answer.field("x-request-id")
    assert not world.faas.wake_calls


@pytest.mark.parametrize("world", [_IMPATIENT], indirect=True)
async def test_a_browser_gets_the_page_that_comes_back(world: World) -> None:
    """``overflow: page`` is what a browser gets whose patience ends; a program gets the problem document."""
    world.faas.add("survey-web", "acme", replicas=0, start_s=60)
    page = await ask(world, "GET", *_NAVIGATES)
    assert (page.status, page.reason) == (504, "cold-start-timeout")
    assert b'http-equiv="refresh"' in page.body
    plain = await ask(world)
    assert (plain.status, plain.reason) == (504, "cold-start-timeout")
    assert plain.field("content-type") == "application/problem+json"
