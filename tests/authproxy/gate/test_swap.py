"""A policy swap reaches also who was waiting for an answer when it came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from policies.gcra import NOTHING_TO_SPEND, Spent
from tests.fakes.raw_client import RawClient
from tests.fakes.world import running_world


class SlowStore:
    """A limit store whose answers a test gives."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[Callable[[Spent], None]] = asyncio.Queue()

    def spend_now(self, _tenant: str, _checks: object, _now: float) -> None:
        return None

    def spend_soon(self, _tenant: str, _checks: object, _now: float, then: Callable[[Spent], None]) -> bool:
        self.asked.put_nowait(then)
        return True


@pytest.mark.parametrize(("groups", "passes"), [("[others]", False), ("[analysts, others]", True)])
async def test_a_request_that_waited_through_a_swap_is_judged_again(groups: str, passes: bool) -> None:
    """Running exchanges were judged again at the swap; this one begins to run after it, and might run for hours."""
    async with running_world() as world, RawClient(world.app.public_address) as client:
        world.faas.add("survey-report", "acme")
        world.stop_readiness()
        gate: Any = world.app.parts.gate
        request = (
            "GET /function/survey-report/x HTTP/1.1\r\nHost: acme.test\r\n"
            f"Authorization: Bearer {world.token()}\r\n\r\n"
        ).encode()
        await client.send(request)
        assert (await client.answer()).status == 200
        store, gate._store = gate._store, SlowStore()
        await client.send(request)
        go_on = await asyncio.wait_for(gate._store.asked.get(), 20)
        rules = world.policies / "acme.yaml"
        rules.write_text(rules.read_text().replace("groups: [analysts]}", f"groups: {groups}}}"))
        assert await world.app.parts.folder.reload(), world.app.parts.folder.status.mistakes
        go_on(NOTHING_TO_SPEND)
        answer = await client.answer()
        gate._store = store
        if passes:
            assert answer.status == 200
        else:
            assert answer.field("x-portero-reason") == "policy-unavailable"
            await client.send(request)
            assert (await client.answer()).field("x-portero-reason") == "no-rule-allows"
        assert len(gate.live) == 0
