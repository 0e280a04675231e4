"""What is written down of a decision: who was refused, and that somebody left before there was one."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes.world import World, request_bytes, running_world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running_world() as world:
        yield world


def lines(world: World) -> list[dict[str, Any]]:
    audit = world.app.parts.audit
    assert audit is not None
    audit.flush()
    return [json.loads(line) for line in (world.folder / "audit.log").read_text().splitlines()]


async def test_a_refusal_names_whom_it_refused(world: World) -> None:
    """A caller who is known and may not, stands in the audit by name; one who is not known does not."""
    assert (await world.get("/reports/es", token=world.token("bob", ()))).status == 403
    assert (await world.get("/reports/es", token="nonsense")).status == 401
    known, unknown = lines(world)
    assert (known["reason"], known["subject"]) == ("no-rule-allows", "login|bob")
    assert "subject" not in unknown


async def test_the_id_of_a_result_stands_in_no_audit(world: World) -> None:
    """Where nobody in particular asked, it opens the result: kept, unknown, or asked for at another tenant's host."""
    world.faas.add("survey-submit", "acme")
    accepted = await world.send(
        request_bytes("POST /function/survey-submit", fields=[("Prefer", "respond-async")], body=b"x")
    )
    place = accepted.field("location")
    assert place is not None
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        await world.send(request_bytes(f"{method} {place}"))
    await world.get(place, host="globex.test")
    await world.get(place, host="evil.test")
    await world.get(f"{place}/")
    shown = [line["path"] for line in lines(world)]
    assert shown.count("/.portero/result/-") >= 6
    assert place[-22:] not in (world.folder / "audit.log").read_text()


async def test_a_client_that_leaves_while_held_is_in_the_audit(world: World) -> None:
    """Its line says who it was, that it left and how long it was held; it is counted once."""
    world.faas.add("survey-report", "acme", replicas=0, start_s=60)
    _, writer = await asyncio.open_connection(*world.app.public_address)
    writer.write(request_bytes("GET /reports/es", token=world.token()))
    deadline = time.monotonic() + 5
    while not world.app.parts.activator.held:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    writer.close()
    while not (found := lines(world)):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    (line,) = found
    assert (line["reason"], line["status"], line["subject"]) == ("client-gone", 499, "login|ana")
    assert line["held_ms"] >= 100
    assert world.app.parts.metrics.decisions_total.value(("proxy", "acme", "deny", "client-gone")) == 1
