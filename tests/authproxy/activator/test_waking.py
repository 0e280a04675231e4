"""
The wake itself: one for however many wait, anywhere in the cluster, paid once, and not repeated for nobody.

Longer than other modules: one wake, from every side.
"""

from __future__ import annotations

import asyncio

import pytest

from authproxy.backends.backend import Readiness
from policies.decision import Deny, Reason
from policies.principal import Principal
from policies.tables import Place
from tests.authproxy.activator.front import let_in, refused
from tests.authproxy.activator.scripted import Platform, ScriptedCluster, Waiting, now
from tests.fakes.jumping_loop import in_jumping_time
from tests.fakes.places import place, tenant


@in_jumping_time
async def test_one_wake_for_all_first_requests() -> None:
    """However many, of whatever callers and tenants, and while the call itself is still under way (Q7)."""
    made = Waiting()
    made.platform.lag_s = 0.2
    tenants = [tenant(name, namespace="shared") for name in ("acme", "globex", "initech")]
    held = [made.hold(place(of=tenants[n % 3], max_held=300), Principal("login", f"user-{n % 50}")) for n in range(300)]
    for task in held:
        let_in(await task)
        made.activator.finished(place(of=tenants[0]))
    assert len(made.platform.woken) == 1
    assert made.metrics.wakes_total.total() == 1
    await made.activator.close()


@in_jumping_time
async def test_a_wake_nobody_waits_for_is_not_repeated() -> None:
    """All have left: a wake that was in vain, or failed, is not called for again until somebody waits."""
    for fails in (False, True):
        made = Waiting(Platform(start_s=None))
        made.platform.wake_fails = fails
        held = made.hold(place())
        await asyncio.sleep(0.2)
        held.cancel()
        await asyncio.sleep(120.0)
        assert len(made.platform.woken) == 1
        next_one = made.hold(place())
        await asyncio.sleep(0.2)
        assert len(made.platform.woken) == 2
        next_one.cancel()
        await made.activator.close()


@in_jumping_time
async def test_the_lease_lasts_as_long_as_the_wake() -> None:
    """Taken before, kept each second, given back when the function is ready."""
    cluster = ScriptedCluster()
    made = Waiting(Platform(start_s=3.5), cluster=cluster)
    let_in(await made.hold(place()))
    assert [len(cluster.times(what)) for what in ("lease", "keep", "end")] == [1, 3, 1]
    assert cluster.times("lease")[0] < made.platform.woken[0]
    assert cluster.times("end")[0] == now()
    await asyncio.sleep(5.0)
    assert [len(cluster.times(what)) for what in ("lease", "keep", "end")] == [1, 3, 1]
    await made.activator.close()


@in_jumping_time
async def test_the_lease_is_given_back_when_the_wake_fails() -> None:
    """Another Portero, whose way to the platform is not broken, may do better."""
    cluster = ScriptedCluster()
    made = Waiting(cluster=cluster)
    made.platform.wake_fails = True
    assert refused(await made.hold(place())).reason is Reason.WAKE_FAILED
    assert [what for what, _ in cluster.calls] == ["lease", "end"] * 2
    await made.activator.close()


@in_jumping_time
async def test_the_lease_is_given_back_when_the_account_is_empty() -> None:
    """Another Portero may wake for another tenant, and what was not called for is not counted as called."""
    cluster = ScriptedCluster()

    async def spend(_: Place) -> Deny | None:
        return Deny(Reason.WAKE_LIMITED, retry_after_s=9)

    made = Waiting(cluster=cluster, spend_wake=spend)
    assert refused(await made.hold(place())).retry_after_s == 9
    assert [what for what, _ in cluster.calls] == ["lease", "end"]
    assert made.platform.woken == []
    assert made.metrics.wakes_total.total() == 0
    assert made.metrics.wake_results_total.value(("acme", "denied")) == 1
    await made.activator.close()


@in_jumping_time
async def test_what_another_portero_wakes_costs_nothing_here() -> None:
    """No call, no wake of the account; the function is polled, and those who wait here are let in all the same."""
    cluster = ScriptedCluster()
    cluster.lease = False
    paid: list[Place] = []

    async def spend(at: Place) -> Deny | None:
        paid.append(at)
        return None

    made = Waiting(cluster=cluster, spend_wake=spend)
    asyncio.get_running_loop().call_later(1.0, made.platform._get_ready)
    grant = let_in(await made.hold(place()))
    assert grant.is_cold
    assert now() < 1.1
    assert made.platform.woken == []
    assert paid == []
    assert made.metrics.wakes_total.total() == 0
    assert made.metrics.wake_results_total.value(("acme", "elsewhere")) == 1
    assert made.metrics.wake_results_total.value(("acme", "ready")) == 0
    await made.activator.close()


@in_jumping_time
async def test_a_portero_that_died_while_waking_is_replaced() -> None:
    """Its lease ends by itself; whoever waits here asks for it every 2 s and then calls."""
    cluster = ScriptedCluster()
    cluster.lease = False
    made = Waiting(cluster=cluster)
    held = made.hold(place())
    await asyncio.sleep(5.0)
    assert made.platform.woken == []
    assert len(cluster.times("lease")) == 3
    cluster.lease = True
    let_in(await held)
    assert now() < 7.2
    assert len(made.platform.woken) == 1
    await made.activator.close()


@in_jumping_time
async def test_without_the_store_wakes_go_on() -> None:
    """Two calls at worst, which the platform takes for one; nobody waits for a store."""
    cluster = ScriptedCluster()
    cluster.lease = None
    made = Waiting(cluster=cluster)
    let_in(await made.hold(place()))
    assert len(made.platform.woken) == 1
    assert "keep" not in dict(cluster.calls)
    await made.activator.close()


@in_jumping_time
async def test_a_replica_that_comes_by_itself_saves_the_call() -> None:
    """Ready while the lease was being asked for: no wake is paid nor sent, and the lease does not stay behind."""
    cluster = ScriptedCluster()
    cluster.lag_s = 1.0
    made = Waiting(cluster=cluster)
    held = made.hold(place())
    await asyncio.sleep(0.5)
    made.platform.ready = 1
    let_in(await held)
    assert now() < 0.7
    await asyncio.sleep(10.0)
    assert made.platform.woken == []
    assert [what for what, _ in cluster.calls if what != "reserve"] == ["lease", "end"]
    await made.activator.close()


@in_jumping_time
async def test_closing_gives_the_lease_back() -> None:
    """Those who come after a rolling restart do not wait for a lease of the dead."""
    cluster = ScriptedCluster()
    made = Waiting(Platform(start_s=None), cluster=cluster)
    held = made.hold(place())
    await asyncio.sleep(0.5)
    await made.activator.close()
    assert refused(await held).reason is Reason.DRAINING
    assert len(cluster.times("end")) == 1
    kept = len(cluster.times("keep"))
    await asyncio.sleep(5.0)
    assert len(cluster.times("keep")) == kept


@in_jumping_time
async def test_a_store_that_fails_the_account_is_a_failed_wake() -> None:
    """The wake is not sent for free, its lease is given back, and those who wait are told after a second attempt."""
    cluster = ScriptedCluster()

    async def spend(_: Place) -> Deny | None:
        raise RuntimeError("store")

    made = Waiting(cluster=cluster, spend_wake=spend)
    assert refused(await made.hold(place())).reason is Reason.WAKE_FAILED
    assert made.platform.woken == []
    assert len(cluster.times("end")) == len(cluster.times("lease"))
    await made.activator.close()


@pytest.mark.parametrize("may_wake", [True, False])
@in_jumping_time
async def test_who_may_not_wake_does_not(may_wake: bool) -> None:
    """It is told that the function sleeps, at once, with when to come back, and nothing is called for."""
    made = Waiting()
    answer = await made.hold(place(), may_wake=may_wake)
    if may_wake:
        let_in(answer)
    else:
        told = refused(answer)
        assert told.reason is Reason.FUNCTION_ASLEEP
        assert told.retry_after_s is not None
        assert now() < 0.1
    assert len(made.platform.woken) == may_wake
    await made.activator.close()


@in_jumping_time
async def test_who_may_not_wake_is_served_by_what_is_awake() -> None:
    """It only waits to be told that it is."""
    made = Waiting(Platform(ready=1))
    let_in(await made.hold(place(), may_wake=False))
    await made.activator.close()


@pytest.mark.parametrize("end", ["missing", "in vain"])
@in_jumping_time
async def test_the_lease_of_a_wake_that_was_given_up_is_given_back(end: str) -> None:
    """
    Another's wake came to nothing and ours was called for. Before that is answered the function is gone, or all
    patience with the wake: others must not be told for ever that we are waking it.
    """
    cluster = ScriptedCluster()
    cluster.lease = False
    made = Waiting(SlowToWake(start_s=None), cluster=cluster)
    held = made.hold(place(max_wait_s=29.0))
    await asyncio.sleep(1.0 if end == "missing" else 27.0)
    cluster.lease = True
    await asyncio.sleep(1.9)
    assert len(made.platform.woken) == 1
    if end == "missing":
        made.platform.ready = -1
    refused(await held)
    await asyncio.sleep(20.0)
    assert len(cluster.times("end")) == 1
    assert max(cluster.times("keep"), default=0.0) < cluster.times("end")[0] < now() - 10.0
    await made.activator.close()


@in_jumping_time
async def test_a_wake_that_is_never_answered_fails() -> None:
    """It is counted, its lease given back, and the function can be woken again."""
    cluster = ScriptedCluster()
    made = Waiting(cluster=cluster)
    lag_s, made.platform.lag_s = made.platform.lag_s, 1e9
    made.platform.readiness = _asleep  # type: ignore[method-assign]  # only the wake hangs
    refused(await made.hold(place(max_wait_s=10.0)))
    await asyncio.sleep(30.0)
    assert len(cluster.times("end")) == 1
    assert made.metrics.wake_results_total.value(("acme", "failed")) == 1
    del made.platform.readiness
    made.platform.lag_s = lag_s
    let_in(await made.hold(place()))
    await made.activator.close()


@in_jumping_time
async def test_many_functions_that_wake_are_polled_more_seldom() -> None:
    """A thousand at once: the platform is asked 500 times a second, not 20,000, and one alone as ever afterwards."""
    made = Waiting(Platform(start_s=None))
    held = [made.hold(place(f"f-{n}", max_wait_s=20.0)) for n in range(1000)]
    await asyncio.sleep(5.0)
    assert len(made.platform.woken) == 1000
    made.platform.asked.clear()
    await asyncio.sleep(5.0)
    assert 2000 <= len(made.platform.asked) <= 3000
    for task in held[1:]:
        task.cancel()
    await asyncio.sleep(35.0)
    refused(await held[0])
    assert made.activator._tools.polled == 0
    made.platform.start_s = 1.0
    began = now()
    let_in(await made.hold(place("another")))
    assert now() - began < 1.1
    await made.activator.close()


@in_jumping_time
async def test_a_function_that_is_awake_is_asked_about_at_once_while_others_wake() -> None:
    """Its caller does not stand in their line."""
    made = Waiting(Platform(start_s=None))
    awake = Platform(ready=1)
    at = place("awake", of=tenant("globex", backend="other"))
    made.activator._tools.backends["other"] = awake  # type: ignore[index]  # the fake of a mapping is a dict
    held = [made.hold(place(f"f-{n}", max_wait_s=20.0)) for n in range(1000)]
    await asyncio.sleep(5.0)
    for _ in range(5):
        began = now()
        made.activator.finished(at, let_in(await made.hold(at)))
        assert now() - began < 0.1
        await asyncio.sleep(1.3)
    for task in held:
        task.cancel()
    await made.activator.close()
    assert made.activator._tools.polled == 0


class SlowToWake(Platform):
    """Takes its time to answer a wake."""

    async def wake(self, namespace: str, function: str) -> None:
        await super().wake(namespace, function)
        await asyncio.sleep(5.0)


async def _asleep(_namespace: str, _function: str) -> Readiness:
    return Readiness(0)


@pytest.mark.parametrize("exists", [True, False])
@in_jumping_time
async def test_a_reload_to_another_platform_wakes_there(*, exists: bool) -> None:
    """Those who wait for a function of a platform that has moved are not left to wait for the old one's."""
    made = Waiting(Platform(start_s=None))
    held = made.hold(place())
    await asyncio.sleep(0.5)
    assert len(made.platform.woken) == 1
    made.backends["faas"] = moved = Platform(ready=0 if exists else -1, start_s=1.0)
    if exists:
        let_in(await held)
        assert now() < 2.0
    else:
        assert refused(await held).reason is Reason.FUNCTION_UNKNOWN
    assert (len(made.platform.woken), len(moved.woken)) == (1, int(exists))
    await made.activator.close()
