"""After a sleep the platform's word is not enough: the function itself has to answer before anybody is let in."""

from __future__ import annotations

import asyncio

import pytest

from policies.decision import Reason
from policies.tables import ColdStart
from tests.authproxy.activator.front import let_in, refused
from tests.authproxy.activator.scripted import Platform, Waiting, cold_place, now
from tests.fakes.jumping_loop import in_jumping_time
from tests.fakes.places import place


@in_jumping_time
async def test_nobody_is_let_in_before_the_function_answers() -> None:
    """The platform counts a replica as ready; it is probed with each poll until it answers."""
    made = Waiting(Platform(start_s=0.5))
    made.platform.answers = False
    held = made.hold(place())
    await asyncio.sleep(2.0)
    assert not held.done()
    assert len(made.platform.probed) > 20
    made.platform.answers = True
    grant = let_in(await held)
    assert grant.is_cold
    assert 2.0 <= now() <= 2.06
    assert made.metrics.wake_results_total.value(("acme", "ready")) == 1
    assert len(made.platform.woken) == 1
    await made.activator.close()


@in_jumping_time
async def test_an_awake_function_is_not_probed_again() -> None:
    """Neither by those who come later, nor by the renewals of a function in use."""
    made = Waiting()
    made.activator.finished(place(), let_in(await made.hold(place())))
    assert len(made.platform.probed) == 1
    for _ in range(40):
        await asyncio.sleep(0.1)
        assert made.activator.ready_now(place())
        made.activator.finished(place())
    assert len(made.platform.asked) > 4
    assert len(made.platform.probed) == 1
    await made.activator.close()


@in_jumping_time
async def test_a_function_first_seen_awake_is_not_probed() -> None:
    """It has served others while nobody looked."""
    made = Waiting(Platform(ready=1))
    grant = let_in(await made.hold(place()))
    assert not grant.is_cold
    assert made.platform.probed == []
    await made.activator.close()


@pytest.mark.parametrize("path", [None, "/healthz", ""])
@in_jumping_time
async def test_policy_says_what_is_asked(path: str | None) -> None:
    """Its own path, the platform's, or nothing."""
    made = Waiting()
    let_in(await made.hold(cold_place(ColdStart(probe=path))))
    assert [asked for _, asked in made.platform.probed] == ([] if path == "" else [path])
    await made.activator.close()


@in_jumping_time
async def test_a_function_that_could_not_be_reached_is_probed() -> None:
    """The platform still calls it ready: the next request is not sent into the same refusal."""
    made = Waiting(Platform(ready=1))
    at = place()
    made.activator.finished(at, let_in(await made.hold(at)))
    made.platform.answers = False
    made.activator.failed(at)
    assert not made.activator.ready_now(at)
    held = made.hold(at)
    await asyncio.sleep(1.0)
    assert not held.done()
    made.platform.answers = True
    let_in(await held)
    await made.activator.close()


@in_jumping_time
async def test_what_the_platform_calls_ready_is_not_woken() -> None:
    """It costs the tenant no wake, and asking for one replica would end the others; once it has gone, it is woken."""
    made = Waiting(Platform(ready=5))
    at = place()
    made.activator.finished(at, let_in(await made.hold(at)))
    made.platform.answers = False
    made.activator.failed(at)
    held = made.hold(at)
    await asyncio.sleep(1.0)
    assert made.platform.woken == []
    assert made.metrics.wakes_total.total() == 0
    made.platform.ready = 0
    made.platform.answers = True
    let_in(await held)
    assert len(made.platform.woken) == 1
    assert now() < 3.0
    await made.activator.close()


@in_jumping_time
async def test_what_never_answers_is_told_at_the_deadline() -> None:
    """Probes do not extend anybody's wait, and one wake is not repeated for them."""
    made = Waiting()
    made.platform.answers = False
    assert refused(await made.hold(place(max_wait_s=5.0))).reason is Reason.COLD_START_TIMEOUT
    assert now() == pytest.approx(5.0, abs=0.01)
    assert len(made.platform.woken) == 1
    await made.activator.close()


@in_jumping_time
async def test_a_probe_that_cannot_be_sent_is_a_platform_that_cannot_be_asked() -> None:
    """What cannot be known is no readiness."""
    made = Waiting()
    made.platform.answers = None
    assert refused(await made.hold(place())).reason is Reason.WAKE_FAILED
    await made.activator.close()


@in_jumping_time
async def test_a_doubt_that_comes_up_during_a_probe_stays() -> None:
    """Unreached while the probe is under way: its answer is of before, and the next one is probed again."""
    made = Waiting(Platform(ready=1))
    at = place()
    made.activator.finished(at, let_in(await made.hold(at)))
    made.activator.failed(at)
    made.platform.lag_s = 0.1
    held = made.hold(at)
    await asyncio.sleep(0.15)
    assert len(made.platform.probed) == 1
    made.activator.failed(at)
    let_in(await held)
    assert len(made.platform.probed) == 2
    await made.activator.close()
