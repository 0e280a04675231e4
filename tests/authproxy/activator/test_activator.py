"""
Holding, waking and releasing, against a platform that speaks OpenFaaS's API over a socket.

Longer than other modules: one rule of each kind, all of them against the same platform.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from authproxy.activator import Activator
from authproxy.activator import activator as module
from authproxy.backends.backend import Backend, Readiness
from authproxy.metrics import Metrics
from policies.coldstart import STARTING_CONCURRENCY
from policies.decision import Deny, Reason
from policies.principal import anonymous
from policies.tables import Ceilings, Place
from tests.authproxy.activator.front import ANA, FUNCTION, KEY, REQUEST, front, let_in, refused, until
from tests.fakes.jumping_loop import in_jumping_time
from tests.fakes.places import place, tenant
from tests.fakes.steady_loop import SteadyLoop

LOOP = SteadyLoop
"""Answers are believed, calls waited for and callers held for fractions of a second: of time in which all run."""


async def test_a_thousand_requests_at_one_sleeping_function_make_one_wake() -> None:
    """One wake call; nobody is let in before the function is ready, nor more at once than it takes; all are served."""
    async with front() as made:
        made.faas.add(FUNCTION, "acme", replicas=0, start_s=0.3)
        at, in_flight, most = place(FUNCTION, max_held=1000), 0, 0

        async def call() -> None:
            nonlocal in_flight, most
            grant = let_in(await made.enter(at))
            assert made.faas.awake[KEY] == 1, "let in before the function was ready"
            in_flight += 1
            most = max(most, in_flight)
            await asyncio.sleep(0.002)
            in_flight -= 1
            made.leave(at, grant)

        await asyncio.gather(*(call() for _ in range(1000)))
        assert made.faas.wake_calls == [KEY]
        assert most == STARTING_CONCURRENCY
        metrics = made.metrics
        assert metrics.wakes_total.value(("acme",)) == 1
        assert metrics.wake_results_total.value(("acme", "ready")) == 1
        assert metrics.held_requests.value(("acme",)) == 0
        assert metrics.hold_duration_seconds.count(("acme",)) >= 990
        assert metrics.cold_start_seconds.count(("acme",)) == 1


async def test_a_warm_function_costs_no_call_a_request() -> None:
    """Ten thousand requests within a second and a half: one question before, one in the background."""
    async with front() as made:
        made.faas.add(FUNCTION, "acme")
        at = place(FUNCTION)
        let_in(await made.enter(at))
        loop, entered = asyncio.get_running_loop(), 1
        started = loop.time()
        while loop.time() - started < 1.5:
            for _ in range(100):
                assert made.activator.ready_now(at), "a warm function in use held a request"
                made.activator.finished(at)
                entered += 1
            await asyncio.sleep(0.01)
        assert len(made.faas.status_calls) == 2
        assert made.faas.wake_calls == []


async def test_a_client_that_leaves_frees_its_place_at_once() -> None:
    """The next one has it in the same moment, and the abandoned one is counted."""
    async with front() as made:
        made.faas.add(FUNCTION, "acme", replicas=0, start_s=60)
        at = place(FUNCTION, max_held=1)
        first = made.hold(at)
        await until(lambda: made.activator.held == 1)
        full = refused(await made.activator.hold(at, ANA, REQUEST))
        assert full.reason is Reason.QUEUE_FULL
        assert full.retry_after_s is not None
        first.cancel()
        await asyncio.sleep(0)
        assert made.activator.held == 0
        second = made.hold(at)
        await until(lambda: made.activator.held == 1)
        assert not second.done()
        assert made.metrics.holds_abandoned_total.value(("acme",)) == 1
        assert made.metrics.holds_refused_total.value(("acme", "queue-full")) == 1
        second.cancel()
        await asyncio.wait([first, second])


async def test_one_let_in_who_has_gone_passes_the_place_on() -> None:
    """Released and cancelled in the same moment, in either order, or gone without a word: no place is lost."""
    async with front() as made:
        made.faas.add(FUNCTION, "acme", replicas=1)
        at = place(FUNCTION, concurrency=1)
        let_in(await made.enter(at))

        cancelled_after = made.hold(at)
        await until(lambda: made.activator.held == 1)
        made.activator.finished(at)
        cancelled_after.cancel()
        await asyncio.wait([cancelled_after])
        assert made.activator.ready_now(at)

        cancelled_before, next_one = made.hold(at), made.hold(at)
        await until(lambda: made.activator.held == 2)
        cancelled_before.cancel()
        made.activator.finished(at)
        let_in(await next_one)
        assert not made.activator.ready_now(at)
        made.activator.finished(at)
        assert made.activator.ready_now(at)
        await asyncio.wait([cancelled_before])


async def test_concurrency_is_never_exceeded() -> None:
    """Two replicas of three: six at once, however many want in, for a function that says so."""
    async with front() as made:
        made.faas.add(FUNCTION, "acme", replicas=0, start_s=0.05)
        at, in_flight, most = place(FUNCTION, concurrency=3), 0, 0

        async def call() -> None:
            nonlocal in_flight, most
            grant = let_in(await made.enter(at))
            in_flight += 1
            most = max(most, in_flight)
            await asyncio.sleep(0.01)
            in_flight -= 1
            made.leave(at, grant)

        await asyncio.gather(*(call() for _ in range(30)))
        assert most == 3
        made.faas.awake[KEY] = 2
        await asyncio.sleep(1.05)
        await asyncio.gather(*(call() for _ in range(60)))
        assert most == 6


@pytest.mark.parametrize("trouble", ["refuses", "hangs"])
async def test_a_wake_that_fails_twice_refuses_those_who_wait(trouble: str) -> None:
    """One more attempt after a second, then 503 with Retry-After, and the next comers at once, without a call."""
    async with front() as made:
        made.faas.add(FUNCTION, "acme", replicas=0)
        made.faas.wake.status, made.faas.wake.hangs = (500, False) if trouble == "refuses" else (None, True)
        at = place(FUNCTION)
        answers = await asyncio.gather(*(made.enter(at) for _ in range(20)))
        assert {refused(answer).reason for answer in answers} == {Reason.WAKE_FAILED}
        assert {refused(answer).retry_after_s for answer in answers} == {2}
        assert len(made.faas.wake_calls) == 2
        again = refused(await made.enter(at))
        assert again.reason is Reason.WAKE_FAILED
        assert len(made.faas.wake_calls) == 2
        assert made.metrics.wake_results_total.value(("acme", "failed")) == 2


async def test_a_wake_that_fails_once_is_not_noticed() -> None:
    """A platform that restarts costs a second, not a refusal, and the second attempt is not paid for."""
    paid = []

    async def spend(at: Place) -> Deny | None:
        paid.append(at.tenant.name)
        return None

    async with front(spend_wake=spend) as made:
        made.faas.add(FUNCTION, "acme", replicas=0, start_s=0.05)
        made.faas.wake.status = 503
        held = made.hold(place(FUNCTION))
        await until(lambda: made.faas.wake_calls)
        made.faas.wake.status = None
        let_in(await held)
        assert paid == ["acme"]


async def test_the_api_going_down_does_not_stop_what_is_awake() -> None:
    """Functions last known awake are tried; those not known are refused 503, and never 404."""
    async with front() as made:
        made.faas.add(FUNCTION, "acme")
        made.faas.add("other", "acme", replicas=0)
        at = place(FUNCTION)
        let_in(await made.enter(at))
        made.activator.finished(at)
        await made.faas.stop()
        other = made.hold(place("other"))
        loop = asyncio.get_running_loop()
        started = loop.time()
        while loop.time() - started < 2.5:
            assert made.activator.ready_now(at)
            made.activator.finished(at)
            await asyncio.sleep(0.05)
        answer = refused(await other)
        assert answer.reason is Reason.WAKE_FAILED


async def test_a_hanging_api_does_not_slow_a_warm_function() -> None:
    """The question hangs in the background; requests go on at once."""
    async with front() as made:
        made.faas.add(FUNCTION, "acme")
        at = place(FUNCTION)
        let_in(await made.enter(at))
        made.faas.api.hangs = True
        loop = asyncio.get_running_loop()
        started = loop.time()
        while loop.time() - started < 2.0:
            assert made.activator.ready_now(at)
            made.activator.finished(at)
            await asyncio.sleep(0.05)


async def test_a_function_that_is_not_there() -> None:
    """404, one question for however many ask, and one that comes to be is found within seconds."""
    async with front() as made:
        at = place("nowhere")
        answers = await asyncio.gather(*(made.enter(at) for _ in range(50)))
        assert {refused(answer).reason for answer in answers} == {Reason.FUNCTION_UNKNOWN}
        assert await made.enter(at) is not None
        assert made.faas.status_calls == ["nowhere.acme"]
        assert made.faas.wake_calls == []
        made.faas.add("nowhere", "acme")
        await asyncio.sleep(2.05)
        let_in(await made.enter(at))


async def test_a_function_deleted_while_in_use() -> None:
    """Noticed with the next renewal."""
    async with front() as made:
        made.faas.add(FUNCTION, "acme")
        at = place(FUNCTION)
        let_in(await made.enter(at))
        made.faas.remove(KEY)
        await asyncio.sleep(1.1)
        answer = refused(await made.enter(at))
        assert answer.reason is Reason.FUNCTION_UNKNOWN


async def test_an_unreached_function_is_asked_about_and_woken() -> None:
    """``failed`` voids what is believed: the retry is held until the function is ready again."""
    async with front() as made:
        made.faas.add(FUNCTION, "acme", start_s=0.05)
        at = place(FUNCTION)
        let_in(await made.enter(at))
        made.faas.awake[KEY] = 0
        made.activator.failed(at)
        assert not made.activator.ready_now(at)
        let_in(await made.enter(at))
        assert made.faas.wake_calls == [KEY]
        assert made.faas.awake[KEY] == 1


async def test_nobody_waits_past_the_deadline() -> None:
    """Each request has its own, and is refused within milliseconds of it."""
    async with front() as made:
        made.faas.add(FUNCTION, "acme", replicas=0, start_s=60)
        loop = asyncio.get_running_loop()

        async def wait(max_wait_s: float) -> float:
            started = loop.time()
            answer = refused(await made.enter(place(FUNCTION, max_wait_s=max_wait_s)))
            assert answer.reason is Reason.COLD_START_TIMEOUT
            assert answer.retry_after_s is not None
            return loop.time() - started - max_wait_s

        late_s = await asyncio.gather(*(wait(0.1 + 0.02 * n) for n in range(20)))
        assert min(late_s) >= -0.001
        assert max(late_s) < 0.05
        assert made.faas.wake_calls == [KEY]


async def test_impatient_clients_leave_nothing_behind() -> None:
    """Many short waits for a function that never wakes: no place leaked, one wake (knative/serving#13583)."""
    async with front() as made:
        made.faas.add(FUNCTION, "acme", replicas=0, start_s=60)
        at = place(FUNCTION)
        for _ in range(20):
            held = [made.hold(at) for _ in range(50)]
            await asyncio.sleep(0.02)
            for task in held:
                task.cancel()
            await asyncio.wait(held)
            assert made.activator.held == 0
        assert made.faas.wake_calls == [KEY]
        assert made.metrics.held_requests.value(("acme",)) == 0
        driver = made.activator._driver_of(at)
        assert driver is not None
        assert driver._held == {}
        assert len(driver._calls) <= 1


async def test_a_tenant_without_wakes_left_wakes_nothing() -> None:
    """429 in the limit's own words, and no call to the platform's scaling."""
    refusal = Deny(Reason.WAKE_LIMITED, "limit 'wakes' is used up", retry_after_s=17, tenant="acme")

    async def spend(_: Place) -> Deny | None:
        return refusal

    async with front(spend_wake=spend) as made:
        made.faas.add(FUNCTION, "acme", replicas=0)
        assert await made.enter(place(FUNCTION)) == refusal
        assert made.faas.wake_calls == []
        assert made.metrics.wakes_total.value(("acme",)) == 0


async def test_tenants_of_one_namespace_share_the_function_and_not_the_bill() -> None:
    """The key is the function, not the tenant; who may not wake waits for nobody, who may wakes for itself."""

    async def spend(at: Place) -> Deny | None:
        return Deny(Reason.WAKE_LIMITED, retry_after_s=5) if at.tenant.name == "acme" else None

    async with front(spend_wake=spend) as made:
        made.faas.add(FUNCTION, "shared", replicas=0, start_s=0.05)
        poor, rich = (place(FUNCTION, of=tenant(name, namespace="shared")) for name in ("acme", "globex"))
        first, second = made.hold(poor), made.hold(rich)
        denied = refused(await first)
        assert denied.reason is Reason.WAKE_LIMITED
        let_in(await second)
        assert made.metrics.wakes_total.value(("globex",)) == 1
        assert made.faas.wake_calls == [f"{FUNCTION}.shared"]


async def test_each_bound_has_its_own_reason() -> None:
    """A tenant's ceiling over all its functions is 429; the process's own is 503."""
    async with front(max_held=3) as made:
        few = tenant("acme", ceilings=Ceilings(held=2))
        for name in ("a", "b", "c"):
            made.faas.add(name, "acme", replicas=0, start_s=60)
            made.faas.add(name, "globex", replicas=0, start_s=60)
        held = [made.hold(place(name, of=few)) for name in ("a", "b")]
        await until(lambda: made.activator.held == 2)
        over = refused(await made.enter(place("c", of=few)))
        held.append(made.hold(place("a", of=tenant("globex"))))
        await until(lambda: made.activator.held == 3)
        full = refused(await made.enter(place("b", of=tenant("globex"))))
        assert (over.reason, full.reason) == (Reason.QUEUE_FULL, Reason.OVERLOADED)
        for task in held:
            task.cancel()
        await asyncio.wait(held)


async def test_draining_lets_those_who_wait_finish_and_closing_does_not() -> None:
    """SIGTERM: no new holds, held ones go on; at the end of the drain the rest are told so."""
    async with front() as made:
        made.faas.add(FUNCTION, "acme", replicas=0, start_s=0.1)
        made.faas.add("never", "acme", replicas=0, start_s=60)
        goes_on, stays = made.hold(place(FUNCTION)), made.hold(place("never"))
        await until(lambda: made.activator.held == 2)
        made.activator.drain()
        assert refused(await made.enter(place(FUNCTION))).reason is Reason.DRAINING
        let_in(await goes_on)
        await made.activator.close()
        told = refused(await stays)
        assert told.reason is Reason.DRAINING


class Broken:
    """A backend with a defect: it raises what no contract mentions."""

    name = "faas"

    def __getattr__(self, name: str) -> Any:
        async def fail(*_: object) -> Readiness:
            raise RuntimeError(name)

        return fail


@pytest.mark.parametrize("backends", [{"faas": Broken()}, {}], ids=["defect", "no longer configured"])
@in_jumping_time
async def test_a_backend_with_a_defect_is_a_failed_wake(backends: dict[str, Backend]) -> None:
    """Those who wait get an answer, whatever breaks."""
    activator = Activator(backends, Metrics(), clock=asyncio.get_running_loop().time, jitter=lambda: 0.0)
    answer = refused(await activator.hold(place(FUNCTION), anonymous(), REQUEST))
    assert answer.reason is Reason.WAKE_FAILED
    await activator.close()


async def test_names_that_are_tried_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """They push out idle functions, each other first; nobody is refused for them, and who comes back is asked about."""
    monkeypatch.setattr(module, "MAX_FUNCTIONS", 20)
    async with front() as made:
        made.faas.add(FUNCTION, "acme")
        let_in(await made.enter(place(FUNCTION)))
        made.activator.finished(place(FUNCTION))
        for n in range(100):
            answer = refused(await made.enter(place(f"guess-{n}")))
            assert answer.reason is Reason.FUNCTION_UNKNOWN
        assert len(made.activator._drivers) == 20
        let_in(await made.enter(place(FUNCTION)))


async def test_busy_functions_are_not_pushed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """When all places are taken by functions in use, a newcomer is refused and not remembered."""
    monkeypatch.setattr(module, "MAX_FUNCTIONS", 5)
    async with front() as made:
        for n in range(6):
            made.faas.add(f"busy-{n}", "acme")
        for n in range(5):
            let_in(await made.enter(place(f"busy-{n}")))
        full = refused(await made.enter(place("busy-5")))
        assert full.reason is Reason.OVERLOADED
        made.activator.finished(place("busy-3"))
        let_in(await made.enter(place("busy-5")))
        assert len(made.activator._drivers) == 5


async def test_what_nobody_held_is_no_error() -> None:
    """Gate and edges may report the end of anything."""
    async with front() as made:
        made.activator.finished(place("nowhere"))
        made.activator.failed(place("nowhere"))
        assert not made.activator.ready_now(place("nowhere"))
        await made.activator.close()
        await made.activator.close()


@pytest.mark.parametrize("step_s", [-86_400.0, -3600.0, 3600.0])
async def test_a_corrected_system_clock_holds_nobody_longer_or_less(
    monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    """Set back, it neither stops the polling nor moves a deadline; set forward, it refuses nobody before time."""
    real = time.time
    async with front(clock=None) as made:
        made.faas.add(FUNCTION, "acme", replicas=0, start_s=0.2)
        made.faas.add("never", "acme", replicas=0, start_s=60)
        woken = made.hold(place(FUNCTION, max_wait_s=20.0))
        in_vain = made.hold(place("never", max_wait_s=1.5))
        await until(lambda: made.activator.held == 2)
        monkeypatch.setattr(time, "time", lambda: real() + step_s)
        let_in(await asyncio.wait_for(woken, 15.0))
        assert refused(await asyncio.wait_for(in_vain, 15.0)).reason is Reason.COLD_START_TIMEOUT
