"""What an operator sees of cold starts: ``/metrics`` of a whole Portero while requests are held, and after each end."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.world import PLAIN, World, request_bytes, running_world, send_raw

SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
FUNCTIONS = """functions:
  wakes: {access: public}
  never: {access: public, cold_start: {max_wait: 3s, max_held: 2}}
  later: {access: public, async: {max_async: 1}}
"""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    policies = tmp_path / "policies"
    shutil.copytree(PLAIN, policies)
    file = policies / "acme.yaml"
    file.write_text(file.read_text().replace("functions:\n", FUNCTIONS, 1).replace("wakes: 30/m", "wakes: 3/m"))
    async with running_world(policies) as world:
        yield world


async def scraped(world: World) -> dict[str, float]:
    """``name{label,...}`` -> value, labels' values in the order of their names."""
    answer = await send_raw(world.app.admin_address, SCRAPE)
    assert answer is not None
    return {
        sample.name.removeprefix("portero_") + "".join(f" {sample.labels[name]}" for name in sorted(sample.labels)): (
            sample.value
        )
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


async def leave(world: World, line: str, body: bytes = b"") -> None:
    """A client that gives up."""
    _, writer = await asyncio.open_connection(*world.app.public_address)
    writer.write(request_bytes(line, body=body))
    await until_held(world, 1)
    writer.close()
    await until_held(world, 0)


async def until_held(world: World, count: int) -> None:
    async with asyncio.timeout(15):
        while world.app.parts.activator.held != count:  # noqa: ASYNC110  # sockets bring it about
            await asyncio.sleep(0.005)


async def until_woken(world: World, function: str) -> None:
    async with asyncio.timeout(15):
        while f"{function}.acme" not in world.faas.wake_calls:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.005)


async def test_all_that_becomes_of_held_requests_is_counted(world: World) -> None:
    """Held by tenant and function, for how long, wakes by outcome, cold starts, released, abandoned, refused, kept."""
    key = world.faas.add("wakes", "acme", replicas=0, start_s=60)
    world.faas.add("never", "acme", replicas=0, start_s=60)
    waiting = [asyncio.create_task(world.send(request_bytes("POST /function/wakes", body=b"x" * 10))) for _ in range(3)]
    await until_held(world, 3)
    await until_woken(world, "wakes")
    seen = await scraped(world)
    assert (seen["held_requests acme"], seen["held_requests_by_function wakes acme"]) == (3, 3)
    assert seen["held_body_bytes"] == 30
    await asyncio.sleep(0.3)
    world.faas.awake[key] = 1
    assert {(await one).status for one in waiting} == {200}

    waiting = [asyncio.create_task(world.get("/function/never")) for _ in range(2)]
    await until_woken(world, "never")
    assert (await world.get("/function/never")).status == 429
    assert [(await one).status for one in waiting] == [504, 504]
    await leave(world, "POST /function/never", b"x")
    seen = await scraped(world)
    assert seen["holds_released_total acme"] == 3
    assert seen["holds_abandoned_total acme"] == 1
    assert seen["holds_refused_total queue-full acme"] == 1
    assert seen["holds_refused_total cold-start-timeout acme"] == 2
    assert (seen["held_requests acme"], seen["held_body_bytes"]) == (0, 0)
    assert not [name for name in seen if name.startswith("held_requests_by_function")]
    assert seen["hold_duration_seconds_count acme"] == 6
    assert seen["hold_duration_seconds_bucket 120.0 acme"] == 6
    assert seen["hold_duration_seconds_sum acme"] > 3 * 0.3 + 2 * 3.0
    assert (seen["wakes_total acme"], seen["wake_results_total ready acme"]) == (2, 1)
    assert (seen["cold_start_seconds_count acme"], seen["cold_start_seconds_sum acme"] >= 0.3) == (1, True)

    world.faas.add("survey-web", "acme", replicas=0)
    world.faas.wake.status = 500
    assert (await world.get("/function/survey-web")).reason == "wake-failed"
    world.faas.wake.status = None
    world.faas.add("survey-submit", "acme", replicas=0, start_s=0.05)
    assert (await world.get("/function/survey-submit")).reason == "wake-limited"
    seen = await scraped(world)
    assert seen["wake_results_total failed acme"] == 2
    assert seen["wake_results_total denied acme"] == 1
    assert seen["holds_refused_total wake-failed acme"] == 1
    assert seen["holds_refused_total wake-limited acme"] == 1


async def test_results_are_counted_with_what_they_take(world: World) -> None:
    """Pending and done, in number and in bytes, and what became of each."""
    key = world.faas.add("later", "acme", replicas=0, start_s=60)
    accepted = await world.get("/function/later", fields=[("Prefer", "respond-async")])
    assert accepted.status == 202
    assert (await world.get("/function/later", fields=[("Prefer", "respond-async")])).status == 429
    seen = await scraped(world)
    assert (seen["results pending"], seen["results done"], seen["result_bytes"]) == (1, 0, 0)
    assert seen["held_requests acme"] == 1
    world.faas.awake[key] = 1
    async with asyncio.timeout(15):
        while not (seen := await scraped(world))["results done"]:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.02)
    assert (seen["results pending"], seen["result_bytes"] > 100) == (0, True)
    assert (seen["results_total accepted acme"], seen["results_total done acme"]) == (1, 1)
    place = accepted.field("location")
    assert (await world.send(request_bytes(f"DELETE {place}"))).status == 204
    seen = await scraped(world)
    assert (seen["results done"], seen["result_bytes"]) == (0, 0)
