"""Limits in memory: the contract, and that many keys neither fill it nor reset anybody's limit."""

from __future__ import annotations

import pytest

from authproxy.limits import memory
from authproxy.limits.memory import MemoryStore
from policies.gcra import Check
from tests.contracts.limit_store import START_S, LimitStoreContract, World, check


class TestMemoryStore(LimitStoreContract):
    @pytest.fixture
    def world(self) -> World:
        return World([MemoryStore()])


def test_idle_keys_are_forgotten() -> None:
    """R7: once their burst time is over keys go, though nobody asks for them again."""
    store = MemoryStore()
    for n in range(1000):
        store.spend_now("acme", (check(10.0, 5, key=f"k{n}"),), START_S)
    assert store.key_count == 1000
    for turn in range(10):
        store.spend_now("globex", (check(),), START_S + 1 + turn / 50)
    assert store.key_count < 15


def test_keys_in_use_survive_the_sweep() -> None:
    """Forgetting a key that still counts would admit its caller again."""
    store = MemoryStore()
    one = check(0.1, 1)
    store.spend_now("acme", (one,), START_S)
    for turn in range(100):
        store.spend_now("acme", (check(),), START_S + turn / 50)
    assert store.spend_now("acme", (one,), START_S + 3).refused == 0


def test_many_keys_stay_within_the_bound() -> None:
    """R7: whatever callers call themselves, memory is bounded."""
    store = MemoryStore(max_keys=100)
    for n in range(1000):
        store.spend_now("acme", (_caller(n),), START_S)
    assert store.key_count <= 101


def test_many_keys_reset_nobody() -> None:
    """An attacker with more keys than there is room for does not free himself or others of a used-up limit."""
    store = MemoryStore(max_keys=100)
    assert store.spend_now("acme", (_caller(0),), START_S).refused is None
    for n in range(1, 1000):
        store.spend_now("acme", (_caller(n),), START_S)
    assert store.spend_now("acme", (_caller(0),), START_S).refused == 0
    assert store.peek_now("acme", (_caller(0),), START_S).refused == 0


def test_newcomers_without_room_share_one_count() -> None:
    """Beyond the bound new keys are limited together: more strictly than alone, never less."""
    store = MemoryStore(max_keys=100)
    answers = [store.spend_now("acme", (_caller(n),), START_S) for n in range(1000)]
    assert sum(spent.refused is None for spent in answers) == 101


def test_another_tenant_keeps_its_room() -> None:
    """One tenant's flood of keys costs no other tenant anything."""
    store = MemoryStore(max_keys=100)
    for n in range(1000):
        store.spend_now("acme", (_caller(n),), START_S)
    assert all(store.spend_now("globex", (_caller(n),), START_S).refused is None for n in range(50))


def test_room_comes_back_when_keys_are_idle() -> None:
    """A flood that is over leaves no trace."""
    store = MemoryStore(max_keys=100)
    for n in range(1000):
        store.spend_now("acme", (_caller(n),), START_S)
    answers = [store.spend_now("acme", (_caller(n),), START_S + 11) for n in range(2000, 2050)]
    assert all(spent.refused is None for spent in answers)


def test_a_clock_corrected_by_a_day_does_not_refuse_for_a_day() -> None:
    """A step back of more than a minute is followed: counts move with it, so nothing is gained and nothing lost."""
    store = MemoryStore()
    one = check(1.0, 3)
    for _ in range(3):
        store.spend_now("acme", (one,), START_S)
    corrected = START_S - 86_400
    assert store.spend_now("acme", (one,), corrected).refused == 0
    assert store.spend_now("acme", (one,), corrected + 1).refused is None
    assert store.spend_now("acme", (one,), corrected + 1).refused == 0


def test_a_tenant_that_is_gone_is_forgotten() -> None:
    """Tenants come and go with policies; an empty one costs nothing."""
    store = MemoryStore()
    store.spend_now("old", (check(10.0, 1),), START_S)
    for turn in range(10):
        store.spend_now("acme", (check(),), START_S + 1 + turn * memory.SWEEP_US / 1e6)
    assert "old" not in store._tenants


def _caller(n: int) -> Check:
    """The limit ``per-caller`` of one caller: a request in ten seconds."""
    one = check(0.1, 1, key="per-caller")
    return one._replace(key=one.key.replace(":all", f":c{n}"))
