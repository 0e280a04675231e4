"""What is written down of a decision: who was refused, and that somebody left before there was one."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.jobs import until
from tests.fakes.world import PLAIN, World, request_bytes, running_world

_REPORT = "survey-report: {cold_start: {max_wait: 10s, max_held: 2000}}"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running_world() as world:
        yield world


def lines(world: World) -> list[dict[str, Any]]:
    audit = world.app.parts.audit
    assert audit is not None
    audit.flush()
    return [json.loads(line) for line in (world.folder / "audit.log").read_text().splitlines()]


def of_path(world: World, path: str) -> list[dict[str, Any]]:
    return [line for line in lines(world) if line["path"] == path]


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
    await until(lambda: world.app.parts.activator.held)
    await asyncio.sleep(0.1)
    writer.close()
    await until(lambda: lines(world))
    (line,) = lines(world)
    assert (line["reason"], line["status"], line["subject"]) == ("client-gone", 499, "login|ana")
    assert line["held_ms"] >= 100
    assert world.app.parts.metrics.decisions_total.value(("proxy", "acme", "deny", "client-gone")) == 1


@contextlib.asynccontextmanager
async def one_is_held(folder: Path, cold_start: str) -> AsyncIterator[World]:
    """A world whose reports hold one request and no more; that one is held until they ``wake``, or the block ends."""
    shutil.copytree(PLAIN, folder)
    text = (folder / "acme.yaml").read_text()
    assert _REPORT in text
    text = text.replace(_REPORT, f"survey-report: {{cold_start: {{max_wait: 60s, max_held: 1, {cold_start}}}}}")
    (folder / "acme.yaml").write_text(text)
    async with running_world(folder) as world:
        world.faas.add("survey-report", "acme", replicas=0, start_s=600)
        first = asyncio.create_task(world.send(request_bytes("GET /reports/es", token=world.token()), timeout_s=50))
        try:
            await until(lambda: world.app.parts.activator.held)
            yield world
        finally:
            wake(world)
            answer = await first
        assert answer.status == 200


def wake(world: World) -> None:
    world.faas.awake["survey-report.acme"] = 1


async def test_what_is_answered_later_has_two_lines(tmp_path: Path) -> None:
    """Accepted, by which rule and instead of which refusal; then what became of it, under the same id."""
    async with one_is_held(tmp_path / "policies", "overflow: async") as world:
        assert (await world.get("/reports/de", token=world.token())).status == 202
        await asyncio.sleep(0.1)
        wake(world)
        await until(lambda: len(of_path(world, "/reports/de")) == 2)
        accepted, answered = of_path(world, "/reports/de")
    assert accepted["request_id"] == answered["request_id"]
    assert (accepted["outcome"], accepted["status"], accepted["rule"]) == ("answer", 202, "analyst/1")
    assert (answered["outcome"], answered["status"], answered["rule"]) == ("allow", 200, "analyst/1")
    assert answered["held_ms"] > accepted["held_ms"]
    for line in (accepted, answered):
        assert (line["deferred"], line["instead_of"]) == (True, "queue-full")
        assert "function" not in line


async def test_the_fallback_that_took_a_request_is_named(tmp_path: Path) -> None:
    """The path names the function that was asked for; the line says which one answered, and why."""
    async with one_is_held(tmp_path / "policies", "overflow: fallback, fallback: survey-submit") as world:
        world.faas.add("survey-submit", "acme")
        assert (await world.get("/reports/de", token=world.token())).status == 200
        (line,) = of_path(world, "/reports/de")
    assert (line["function"], line["instead_of"]) == ("survey-submit", "queue-full")
    assert "deferred" not in line


async def test_what_a_no_wake_rule_answers_is_told_from_other_answers(tmp_path: Path) -> None:
    """Its status is the rule's own; the reason it stands for is in the line."""
    rule = "no_wake: [{methods: [HEAD], status: 204}]"
    async with one_is_held(tmp_path / "policies", rule) as world:
        answer = await world.send(request_bytes("HEAD /reports/de", token=world.token()))
        assert answer.status == 204
        (line,) = of_path(world, "/reports/de")
    assert (line["outcome"], line["status"], line["instead_of"]) == ("answer", 204, "function-asleep")
