"""Places in line that all Porteros share: asked for only when ours are used up, and never taken by nobody."""

from __future__ import annotations

import asyncio

import pytest

from policies.decision import Reason
from policies.principal import Principal
from policies.tables import Ceilings, ColdStart, Place
from tests.authproxy.activator.front import FUNCTION, let_in, refused
from tests.authproxy.activator.scripted import Platform, ScriptedCluster, Waiting, cold_place
from tests.fakes.jumping_loop import in_jumping_time
from tests.fakes.places import place, tenant

FUNCTION_KEY = f"function:faas/acme/{FUNCTION}"


def waiting(cluster: ScriptedCluster) -> Waiting:
    """In front of a function that never wakes."""
    return Waiting(Platform(start_s=None), cluster=cluster)


@pytest.mark.parametrize(
    ("key", "at"),
    [
        (FUNCTION_KEY, place(max_held=100)),
        ("tenant:acme", place(of=tenant(ceilings=Ceilings(held=100)))),
    ],
    ids=["function", "tenant"],
)
@in_jumping_time
async def test_no_more_are_held_than_were_reserved(key: str, at: Place) -> None:
    """Ours at once, further ones as long as the cluster has any, the rest are 429 with when to come back."""
    cluster = ScriptedCluster()
    cluster.shares[key], cluster.left[key] = 5, 10
    made = waiting(cluster)
    held = [made.hold(at) for _ in range(40)]
    await asyncio.sleep(0.5)
    assert made.activator.held == 15
    told = [refused(task.result()) for task in held if task.done()]
    assert {answer.reason for answer in told} == {Reason.QUEUE_FULL}
    assert all(answer.retry_after_s for answer in told)
    for task in held:
        task.cancel()
    await asyncio.wait(held)
    again = [made.hold(at) for _ in range(15)]
    await asyncio.sleep(0.5)
    assert made.activator.held == 15
    assert not any(task.done() for task in again)
    await made.activator.close()


@in_jumping_time
async def test_who_has_a_place_asks_nobody() -> None:
    """Not one call for those within our share."""
    cluster = ScriptedCluster()
    cluster.shares[FUNCTION_KEY] = 50
    made = waiting(cluster)
    for _ in range(50):
        made.hold(place())
    await asyncio.sleep(0.1)
    assert made.activator.held == 50
    assert cluster.times("reserve") == []
    await made.activator.close()


@in_jumping_time
async def test_who_leaves_while_a_place_is_asked_for_takes_none() -> None:
    """Neither a place nor a mark of it stays."""
    cluster = ScriptedCluster()
    cluster.shares[FUNCTION_KEY], cluster.left[FUNCTION_KEY], cluster.lag_s = 0, 5, 1.0
    made = waiting(cluster)
    held = [made.hold(place()) for _ in range(20)]
    await asyncio.sleep(0.5)
    for task in held:
        task.cancel()
    await asyncio.wait(held)
    assert made.activator.held == 0
    assert made.activator.held_by_function() == []
    await made.activator.close()


@in_jumping_time
async def test_the_reserved_places_count_who_waits_for_a_later_answer_apart() -> None:
    """Deferred requests have as many places again."""
    cluster = ScriptedCluster()
    cluster.shares[FUNCTION_KEY] = 2
    cluster.shares[FUNCTION_KEY.replace("function", "deferred")] = 3
    made = waiting(cluster)
    held = [made.hold(place(), is_deferred=n % 2 == 0) for n in range(20)]
    await asyncio.sleep(0.5)
    assert made.activator.held == 5
    assert sum(task.done() for task in held) == 15
    await made.activator.close()


@in_jumping_time
async def test_a_function_forgotten_meanwhile_is_remembered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pushed out while a place was asked for: the request waits in the new room and is answered."""
    monkeypatch.setattr("authproxy.activator.activator.MAX_FUNCTIONS", 1)
    cluster = ScriptedCluster()
    cluster.shares[FUNCTION_KEY], cluster.left[FUNCTION_KEY], cluster.lag_s = 0, 5, 1.0
    made = Waiting(Platform(ready=1), cluster=cluster)
    held = made.hold(place())
    await asyncio.sleep(0.1)
    cluster.lag_s = 0.0
    other = place("other")
    made.activator.finished(other, let_in(await made.hold(other)))
    let_in(await held)
    await made.activator.close()


@in_jumping_time
async def test_draining_meanwhile_refuses() -> None:
    """Begun while a place was asked for: nobody new is held."""
    cluster = ScriptedCluster()
    cluster.shares[FUNCTION_KEY], cluster.left[FUNCTION_KEY], cluster.lag_s = 0, 5, 1.0
    made = waiting(cluster)
    held = made.hold(place())
    await asyncio.sleep(0.5)
    await made.activator.close()
    assert refused(await held).reason is Reason.DRAINING
    assert made.activator.held == 0


@in_jumping_time
async def test_the_others_are_told_what_is_held_here() -> None:
    """By key; of functions that nobody waits for, and of keys that are none, nothing."""
    made = waiting(ScriptedCluster())
    for n in range(7):
        made.hold(place(max_held=10), is_deferred=n < 3)
    await asyncio.sleep(0.1)
    held = made.activator._places.held
    assert held(FUNCTION_KEY) == 4
    assert held(FUNCTION_KEY.replace("function", "deferred")) == 3
    assert held("tenant:acme") == 7
    assert [held(key) for key in ("tenant:nobody", "function:faas/acme/other", "function:", "deferred:x", "")] == [
        0
    ] * 5
    await made.activator.close()


@in_jumping_time
async def test_a_full_cluster_still_makes_room_for_who_has_little() -> None:
    """The crowd's newest goes, not the caller who comes with his first request."""
    cluster = ScriptedCluster()
    cluster.shares[FUNCTION_KEY] = 10
    made = waiting(cluster)
    crowd = [made.hold(cold_place(ColdStart(max_held=100)), Principal("login", "crowd")) for _ in range(10)]
    await asyncio.sleep(0.1)
    other = made.hold(cold_place(ColdStart(max_held=100)), Principal("login", "other"))
    await asyncio.sleep(0.1)
    assert not other.done()
    assert sum(task.done() for task in crowd) == 1
    assert crowd[-1].done()
    assert made.activator.held == 10
    await made.activator.close()
