"""
What a held request brings with it: how long it may wait, whom it is counted with, how much of a share it has.

Longer than other modules: one request and all that it brings.
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import replace

import pytest

from authproxy.activator.activator import NO_WAIT_S
from policies.decision import Reason
from policies.principal import Principal, anonymous
from policies.tables import AsyncSpec, Ceilings, ColdStart
from tests.authproxy.activator.front import REQUEST, let_in, refused, request_of
from tests.authproxy.activator.scripted import Platform, Waiting, cold_place, now
from tests.fakes.jumping_loop import in_jumping_time
from tests.fakes.places import place, tenant

ONE_EACH = ColdStart(max_held_per_caller=1)


@pytest.mark.parametrize(
    ("asked_s", "is_deferred", "waits_s"),
    [
        (None, False, 3.0),
        (1.5, False, 1.5),
        (60.0, False, 3.0),
        (0.0, False, NO_WAIT_S),
        (-5.0, False, NO_WAIT_S),
        (1.5, True, 9.0),
    ],
    ids=["policy", "less", "more", "nothing", "negative", "deferred"],
)
@in_jumping_time
async def test_how_long_a_request_is_held(asked_s: float | None, is_deferred: bool, waits_s: float) -> None:
    """As long as the policy says; the caller may ask for less; one that nobody waits for has its own patience."""
    made = Waiting(Platform(start_s=None))
    at = cold_place(ColdStart(max_wait_s=3.0), deferred=AsyncSpec(max_wait_s=9.0))
    request = REQUEST._replace(max_wait_s=asked_s)
    answer = refused(await made.hold(at, request=request, is_deferred=is_deferred))
    assert answer.reason is Reason.COLD_START_TIMEOUT
    assert now() == pytest.approx(waits_s, abs=0.01)
    assert answer.retry_after_s is not None
    await made.activator.close()


@in_jumping_time
async def test_one_who_would_not_wait_is_let_in_when_it_is_awake() -> None:
    """``Prefer: wait=0``: the function need not have been in use just before."""
    made = Waiting(Platform(ready=1))
    at = cold_place(ColdStart())
    for _ in range(3):
        made.activator.finished(at, let_in(await made.hold(at, request=REQUEST._replace(max_wait_s=0.0))))
        await asyncio.sleep(60.0)
    await made.activator.close()


@in_jumping_time
async def test_a_concurrency_that_becomes_a_shared_one_is_shared_at_once() -> None:
    """A reload says that all Porteros together may send five: the next request needs a slot, however idle it is."""
    made = Waiting(Platform(ready=1))
    before = cold_place(ColdStart(), concurrency=5)
    made.activator.finished(before, let_in(await made.hold(before)))
    assert made.activator.ready_now(before)
    made.activator.finished(before)
    after = cold_place(ColdStart(), concurrency=5, is_concurrency_shared=True)
    assert not made.activator.ready_now(after)
    made.activator.finished(after, let_in(await made.hold(after)))
    assert made.activator.ready_now(before) is False  # by an older policy neither
    await made.activator.close()


@in_jumping_time
async def test_one_long_service_has_nobody_else_refused() -> None:
    """Somebody holds a stream for an hour; the next to come with ten requests of 10 ms sees all of them served."""
    made = Waiting(Platform(ready=1))
    at = cold_place(ColdStart(), concurrency=1)
    for seconds, name in [(0.01, "ana")] * 3 + [(3600.0, "eve")]:
        let_in(await made.serve(at, functools.partial(asyncio.sleep, seconds), Principal("login", name)))
        await asyncio.sleep(3.0)
    for answer in await asyncio.gather(*(made.serve(at, functools.partial(asyncio.sleep, 0.01)) for _ in range(10))):
        let_in(answer)
    await made.activator.close()


@in_jumping_time
async def test_a_platform_that_never_answers_is_asked_again() -> None:
    """A call that hangs for ever takes its function with it for some seconds, not for ever."""
    made = Waiting(Platform(ready=1))
    made.platform.lag_s = 1e9
    refused(await made.hold(cold_place(ColdStart())))
    made.platform.lag_s = 0.001
    await asyncio.sleep(30.0)
    let_in(await made.hold(cold_place(ColdStart())))
    await made.activator.close()


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        (("login|ana", "192.0.2.1"), ("login|ana", "192.0.2.2"), True),
        (("login|ana", "192.0.2.1"), ("login|bob", "192.0.2.1"), False),
        (("", "192.0.2.1"), ("", "192.0.2.1"), True),
        (("", "192.0.2.1"), ("", "192.0.2.2"), False),
        (("", "2001:db8::1"), ("", "2001:db8::ffff:1"), True),
        (("", "2001:db8::1"), ("", "2001:db8:0:1::1"), False),
        (("", "192.0.2.1"), ("", "::ffff:192.0.2.1"), True),
        (("", "192.0.2.1"), ("login|192.0.2.1", "192.0.2.1"), False),
    ],
    ids=["subject", "subjects", "address", "addresses", "one /64", "two /64", "mapped", "subject like an address"],
)
@in_jumping_time
async def test_whom_a_request_is_counted_with(first: tuple[str, str], second: tuple[str, str], is_same: bool) -> None:
    """Its caller, from wherever; an anonymous one is his address as limits count it."""
    made = Waiting(Platform(start_s=None))
    held = []
    for subject, client_ip in (first, second):
        principal = Principal(*subject.split("|")) if subject else anonymous()
        held.append(made.hold(cold_place(ONE_EACH), principal, request=request_of(client_ip)))
    await asyncio.sleep(0.1)
    assert not held[0].done()
    assert held[1].done() == is_same
    if is_same:
        assert refused(held[1].result()).reason is Reason.QUEUE_FULL
    await made.activator.close()


@in_jumping_time
async def test_groups_and_tenants_have_their_weights() -> None:
    """Of two crowds the heavier is let in more often, by the largest weight of a group that fits."""
    cold_start = ColdStart(
        weights=((frozenset({"staff"}), 2), (frozenset({"staff", "desk"}), 3), (frozenset({"x"}), 9))
    )
    at = cold_place(cold_start, concurrency=1)
    made = Waiting(Platform(ready=1))
    first = let_in(await made.hold(at))
    order: list[str] = []

    async def one(principal: Principal) -> None:
        grant = let_in(await made.hold(at, principal))
        order.append(principal.sub)
        await asyncio.sleep(0.01)
        made.activator.finished(at, grant)

    desk, guest = Principal("login", "desk", groups=frozenset({"desk"})), Principal("login", "guest")
    tasks = [asyncio.create_task(one(who)) for _ in range(40) for who in (guest, desk)]
    await asyncio.sleep(0.01)
    made.activator.finished(at, first)
    await asyncio.wait(tasks)
    assert 28 <= order[:40].count("desk") <= 32
    await made.activator.close()


@in_jumping_time
async def test_a_grant_says_whether_there_was_a_cold_start() -> None:
    """Held for want of a replica, or only because those that are there are busy."""
    made = Waiting(Platform(start_s=1.0))
    at = place(concurrency=1)
    first, second = made.hold(at), made.hold(at)
    cold = let_in(await first)
    assert cold.is_cold
    assert cold.released_at == now()
    await asyncio.sleep(0.5)
    late = made.hold(at)
    await asyncio.sleep(0.5)
    made.activator.finished(at, cold)
    waited_twice = let_in(await second)
    assert waited_twice.is_cold
    made.activator.finished(at, waited_twice)
    busy = let_in(await late)
    assert not busy.is_cold
    assert busy.released_at == pytest.approx(cold.released_at + 1.0)
    assert len({cold.ticket, waited_twice.ticket, busy.ticket}) == 3
    assert made.metrics.holds_released_total.value(("acme",)) == 3
    await made.activator.close()


@in_jumping_time
async def test_who_waits_is_counted_by_tenant_and_function() -> None:
    """As the metrics show it; names that the platform does not know are never a label."""
    made = Waiting(Platform(start_s=None))
    acme, globex = (tenant(name, namespace="shared") for name in ("acme", "globex"))
    for at, count in ((place("a", of=acme), 3), (place("a", of=globex), 2), (place("b", of=acme), 1)):
        for _ in range(count):
            made.hold(at)
    await asyncio.sleep(0.1)
    expected = [("acme", "a", 3), ("acme", "b", 1), ("globex", "a", 2)]
    assert sorted(made.activator.held_by_function()) == expected
    assert made.metrics.held_requests.value(("acme",)) == 4
    assert b'portero_held_requests_by_function{function="a",tenant="globex"} 2.0' in made.metrics.render()
    made.platform.lag_s = 1.0
    guess = made.hold(place("guess", of=acme))
    await asyncio.sleep(0.1)
    assert sorted(made.activator.held_by_function()) == expected
    made.platform.ready = -1
    assert refused(await guess).reason is Reason.FUNCTION_UNKNOWN
    assert "guess" not in {function for _, function, _ in made.activator.held_by_function()}
    await made.activator.close()
    assert made.activator.held_by_function() == []
    assert b"held_requests_by_function{" not in made.metrics.render()


@in_jumping_time
async def test_retries_have_a_budget() -> None:
    """A few a second, and a fifth of what is sent; a function nobody has asked for has none (Q10)."""
    made = Waiting(Platform(ready=1))
    assert not made.activator.may_retry(place())
    made.activator.finished(place(), let_in(await made.hold(place())))
    assert sum(made.activator.may_retry(place()) for _ in range(100)) == 30
    await asyncio.sleep(20.0)
    made.activator.finished(place(), let_in(await made.hold(place())))
    for _ in range(999):
        assert made.activator.ready_now(place())
        made.activator.finished(place())
    await asyncio.sleep(2.0)
    assert sum(made.activator.may_retry(place()) for _ in range(1000)) == 230
    assert made.metrics.retries_total.value(("acme", "sent")) == 260
    assert made.metrics.retries_total.value(("acme", "refused")) == 1 + 70 + 770
    await made.activator.close()


@in_jumping_time
async def test_when_to_come_back_is_measured() -> None:
    """Assumed until there was a cold start, then the usual one."""
    made = Waiting(Platform(start_s=1.2))
    assert made.activator.retry_after_s(place()) == 5
    made.activator.finished(place(), let_in(await made.hold(place())))
    assert made.activator.retry_after_s(place()) == 1
    made.platform.ready = 0
    made.platform.start_s = None
    made.activator.failed(place())
    held = made.hold(place())
    await asyncio.sleep(0.1)
    assert made.activator.retry_after_s(place()) == 2
    held.cancel()
    await made.activator.close()


@in_jumping_time
async def test_deferred_requests_have_places_of_their_own() -> None:
    """They take none of those somebody waits in, nor the other way round; the tenant's ceiling counts both."""
    made = Waiting(Platform(start_s=None))
    at = place(max_held=3, of=tenant(ceilings=Ceilings(held=5)))
    held = [made.hold(at, is_deferred=True) for _ in range(4)]
    await asyncio.sleep(0.1)
    held += [made.hold(at) for _ in range(3)]
    await asyncio.sleep(0.1)
    assert [task.done() for task in held] == [False, False, False, True, False, False, True]
    assert made.activator.held == 5
    await made.activator.close()


@in_jumping_time
async def test_ten_thousand_who_leave_at_once() -> None:
    """No stack of ten thousand frames: also when each of them has just been let in."""
    made = Waiting(Platform(ready=1))
    at = place(max_held=10_000, concurrency=1, of=tenant(ceilings=Ceilings(held=10_000)))
    first = let_in(await made.hold(at))
    held = [made.hold(at) for _ in range(10_000)]
    await asyncio.sleep(0.1)
    assert made.activator.held == 10_000
    for task in held:
        task.cancel()
    made.activator.finished(at, first)
    await asyncio.wait(held)
    assert made.activator.held == 0
    assert made.metrics.holds_abandoned_total.value(("acme",)) == 10_000
    assert made.activator.ready_now(at)
    await made.activator.close()


@in_jumping_time
async def test_closing_tells_all_who_wait() -> None:
    """503 ``draining`` with when to come back, and nothing is left: no call, no timer, no place."""
    made = Waiting(Platform(start_s=None))
    held = [made.hold(place(f"f-{n % 7}", max_held=100)) for n in range(200)]
    await asyncio.sleep(0.1)
    made.activator.drain()
    assert not any(task.done() for task in held)
    assert refused(await made.hold(place())).reason is Reason.DRAINING
    await made.activator.close()
    told = [refused(await task) for task in held]
    assert {answer.reason for answer in told} == {Reason.DRAINING}
    assert all(answer.retry_after_s for answer in told)
    assert made.activator.held == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await made.activator.close()


@in_jumping_time
async def test_slots_of_a_shared_function_are_asked_for_and_given_back() -> None:
    """Alone, all of them are ours: the concurrency holds as ever."""
    made = Waiting(Platform(start_s=0.5))
    at = place(is_concurrency_shared=True, concurrency=2, max_held=100)
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1

    answers = await asyncio.gather(*(made.serve(at, work) for _ in range(20)))
    for answer in answers:
        let_in(answer)
    assert most == 2
    assert now() < 1.2
    assert not made.activator.ready_now(at)
    at = replace(at, spec=replace(at.spec, is_concurrency_shared=False))
    let_in(await made.hold(at))
    assert made.activator.ready_now(at)
    await made.activator.close()
