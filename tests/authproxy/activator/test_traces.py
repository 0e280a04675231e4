"""The driver adds nothing to what the core decides: the same trace through both, the same fate of every request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings

from authproxy.activator import Grant
from policies.decision import Deny, Reason
from policies.principal import Principal
from policies.tables import Ceilings, ColdStart, Place
from tests.authproxy.activator.front import HOT, REQUEST, always_there
from tests.authproxy.activator.scripted import Platform, Waiting, cold_place, now
from tests.authproxy.activator.traces import (
    LAG_S,
    REST_S,
    START_S,
    Become,
    Break,
    Come,
    Fate,
    Go,
    Miss,
    Pure,
    Trace,
    traces,
)
from tests.fakes.jumping_loop import JumpingLoop
from tests.fakes.places import tenant

MAX_HELD = 20


def _places() -> list[Place]:
    """One function that three tenants call."""
    cold_start = ColdStart(max_wait_s=5.0, max_held=8, max_held_per_caller=5)
    return [
        cold_place(cold_start, of=tenant(name, namespace="shared", ceilings=Ceilings(held=7)), concurrency=2)
        for name in ("acme", "globex", "initech")
    ]


class Driven:
    """Plays a trace through activator, driver and tasks."""

    def __init__(self, ready: int) -> None:
        self.places = _places()
        self.platform = Platform(ready, start_s=START_S)
        self.platform.lag_s = LAG_S
        self.fates: dict[int, Fate] = {}
        self._pays_fail = False
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._waiting: Waiting

    async def run(self, trace: Trace) -> None:
        self._waiting = Waiting(self.platform, spend_wake=self._spend, max_held=MAX_HELD, prober=always_there)
        for number, (pause_s, step) in enumerate(trace):
            await asyncio.sleep(pause_s)
            self._do(number, step)
        await asyncio.sleep(REST_S)
        await self._waiting.activator.close()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        assert self._waiting.activator.held == 0

    def _do(self, number: int, step: Any) -> None:
        match step:
            case Come(crowd):
                for ticket in range(10 * number, 10 * number + crowd):
                    self._tasks[ticket] = asyncio.create_task(self._request(ticket, step))
            case Go(number):
                if self._tasks:
                    list(self._tasks.values())[number % len(self._tasks)].cancel()
            case Become(ready):
                self.platform.ready = ready
            case Break(asks, wakes, pays):
                self.platform.ask_fails, self.platform.wake_fails, self._pays_fail = asks, wakes, pays
            case Miss():
                self._waiting.activator.failed(self.places[0])

    async def _request(self, number: int, come: Come) -> None:
        activator, place = self._waiting.activator, self.places[come.tenant]
        answer: Grant | Deny = HOT
        if not activator.ready_now(place):
            try:
                answer = await activator.hold(
                    place,
                    Principal("login", str(come.caller)),
                    REQUEST._replace(max_wait_s=come.patience_s),
                    may_wake=come.may_wake,
                    is_deferred=come.is_deferred,
                )
            except asyncio.CancelledError:
                self.fates[number] = ("gone", now())
                raise
        if isinstance(answer, Deny):
            self.fates[number] = ("refused", now(), answer.reason, answer.retry_after_s)
            return
        self.fates[number] = ("in", now(), answer.is_cold)
        try:
            await asyncio.sleep(come.service_s)
        finally:
            activator.finished(place, None if answer is HOT else answer)

    async def _spend(self, _: Place) -> Deny | None:
        return Deny(Reason.WAKE_LIMITED, retry_after_s=7) if self._pays_fail else None


@settings(max_examples=150, deadline=None)
@given(traces)
def test_the_driver_adds_nothing_to_what_the_core_decides(trace: Trace) -> None:
    """Who is let in, who is refused, why, when, and with what advice; how often the platform is asked and woken."""
    pure = Pure(_places(), MAX_HELD, 0)
    pure.run(trace)
    driven = Driven(0)
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(driven.run(trace))
    assert driven.fates.keys() == pure.fates.keys()
    for number, fate in pure.fates.items():
        assert driven.fates[number][0] == fate[0], number
        assert driven.fates[number][1] == pytest.approx(fate[1], abs=1e-6)
        assert driven.fates[number][2:] == fate[2:]
    assert driven.platform.asked == pytest.approx(pure.asked)
    assert driven.platform.woken == pytest.approx(pure.woken)
