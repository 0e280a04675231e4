"""
Question 5 in any world: events in any order that a driver can produce, and what must hold after each of them.

Two functions, one of them perhaps with a concurrency that is shared by slots; two tenants, callers who wait, who only
ask, and whose answer is fetched later.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies.coldstart import LOOK_AGAIN_S, Room
from policies.coldstart_events import (
    Arrived,
    AskFailed,
    AskReadiness,
    Awoke,
    Bounds,
    Closed,
    Finished,
    Left,
    Missing,
    ReadinessSeen,
    Refuse,
    Release,
    SlotsHeld,
    Tick,
    Unreached,
    Wake,
    WakeDenied,
    WakeElsewhere,
    WakeFailed,
    WakeSucceeded,
    WantSlots,
)
from policies.decision import Reason
from policies.waiting import Ledger, Waiter

NOW = 1_700_000_000.0


@dataclass
class Side:
    """One room, and what the world knows of it."""

    room: Room
    waiting: dict[int, Arrived] = field(default_factory=dict)
    running: list[int] = field(default_factory=list)
    hot: int = 0
    """Let in without waiting."""
    concurrency: int | None = None
    is_shared: bool = False
    is_asking: bool = False
    called: str | None = None
    """On whose account a wake is called that has not been answered."""
    woken_at: float | None = None
    elsewhere_until: float | None = None
    wanted: tuple[int, int, int] = (0, 0, 0)

    @property
    def limit(self) -> float:
        """What may be in flight by the policy, whatever else bounds it."""
        if self.concurrency is None:
            return float("inf")
        capacity = self.room.ready * self.concurrency
        return capacity if self.is_shared else max(1, capacity // self.room.sharers)


class AnyWorld(RuleBasedStateMachine):
    """Q1, Q5, Q6, Q7, Q8 and Q11."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.ledger = Ledger(max_total=6)
        self.sides = [Side(Room(self.ledger, NOW)), Side(Room(self.ledger, NOW))]
        self.at = 0
        self.numbers = itertools.count()

    @property
    def side(self) -> Side:
        return self.sides[self.at]

    def feed(self, event: Any) -> None:
        side = self.side
        for command in side.room.on(event):
            match command:
                case AskReadiness():
                    assert not side.is_asking, "one question at a time"
                    side.is_asking = True
                case Wake(tenant, _):
                    self.woken(side, tenant)
                case Awoke():
                    assert side.elsewhere_until is None, "another's wake is not ours to report"
                    side.woken_at = None
                case Release(ticket):
                    self.released(side, ticket)
                case Refuse(ticket, reason, retry_after_s):
                    assert retry_after_s is None or retry_after_s >= 1
                    self.refused(side, ticket, reason)
                case WantSlots():
                    assert command != side.wanted, "said once"
                    side.wanted = command
        if side.called is None and isinstance(event, WakeFailed | WakeDenied):
            side.woken_at = side.elsewhere_until = None
        if side.elsewhere_until is not None and (side.room.ready or isinstance(event, Missing)):
            side.woken_at = side.elsewhere_until = None

    def woken(self, side: Side, tenant: str) -> None:
        assert side.called is None
        if side.elsewhere_until is None:
            assert side.woken_at is None, "Q7: one wake until it ended"
        else:
            assert self.now >= side.elsewhere_until or self.now >= (side.woken_at or 0) + 30, "another is at it"
        assert tenant in {a.waiter.tenant for a in side.waiting.values() if a.may_wake}, "who waits and may wake"
        side.called, side.woken_at = tenant, self.now
        if side.elsewhere_until is not None and self.now < side.elsewhere_until:
            side.elsewhere_until = None

    def released(self, side: Side, ticket: int) -> None:
        one = side.waiting.pop(ticket)
        flow = (one.waiter.tenant, one.waiter.flow)
        others = [t for t, a in side.waiting.items() if (a.waiter.tenant, a.waiter.flow) == flow]
        assert ticket < min(others, default=ticket + 1), "Q11: first in, first out inside a flow"
        assert side.room.ready > 0
        assert one.waiter.deadline >= self.now, "Q6"
        side.running.append(ticket)
        assert side.room.in_flight <= side.limit, "Q8"
        if side.is_shared:
            assert side.room.in_flight <= side.room.slots_held

    def refused(self, side: Side, ticket: int, reason: Reason) -> None:
        one = side.waiting.pop(ticket)
        if reason is Reason.FUNCTION_ASLEEP:
            assert not one.may_wake
            assert not side.room.ready
        if reason is Reason.OVERLOADED and one.is_deferred:
            assert one.now == self.now, "refused when it came, or never: those deferred are not shed"

    @initialize(
        at=st.integers(0, 1),
        concurrency=st.sampled_from([None, 1, 2]),
        is_shared=st.booleans(),
        crowd=st.lists(st.tuples(st.sampled_from(["acme", "globex"]), st.sampled_from(["ana", "bob"])), max_size=8),
        replicas=st.sampled_from([None, 0, 1, 2, 3]),
    )
    def begin(
        self, *, at: int, concurrency: int | None, is_shared: bool, crowd: list[tuple[str, str]], replicas: int | None
    ) -> None:
        """Somebody waits already, and what the platform says of that (None: nothing yet) has come: others follow."""
        self.at = at
        self.reload(concurrency=concurrency, is_shared=is_shared, sharers=1)
        for tenant, flow in crowd:
            self.arrive(
                tenant=tenant, flow=flow, wait_s=30.0, bounds=Bounds(100, None, 100), weights=(1, 1), may_wake=True,
                is_deferred=False,
            )  # fmt: skip
        if self.side.is_asking and replicas is not None:
            self.answer(replicas)

    @rule(at=st.integers(0, 1))
    @precondition(lambda self: self.side.is_asking or not self.side.waiting)
    def look_at(self, at: int) -> None:
        self.at = at

    @rule(
        tenant=st.sampled_from(["acme", "globex"]),
        flow=st.sampled_from(["ana", "ana", "bob"]),
        wait_s=st.sampled_from([0.0, 0.5, 3.0, 30.0]),
        bounds=st.builds(
            Bounds, st.sampled_from([0, 3, 100]), st.sampled_from([None, 1, 2]), st.sampled_from([0, 5, 100])
        ),
        weights=st.sampled_from([(1, 1), (3, 1), (1, 5)]),
        may_wake=st.sampled_from([True, True, False]),
        is_deferred=st.sampled_from([False, False, True]),
    )
    def arrive(
        self, *, tenant: str, flow: str, wait_s: float, bounds: Bounds, weights: tuple[int, int], may_wake: bool,
        is_deferred: bool,
    ) -> None:  # fmt: skip
        ticket, side = next(self.numbers), self.side
        waiter = Waiter(ticket, tenant, flow, self.now + wait_s, *weights)
        event = Arrived(
            waiter, self.now, bounds, side.concurrency, may_wake=may_wake, is_deferred=is_deferred,
            is_shared=side.is_shared,
        )  # fmt: skip
        line = side.room.line
        before = line.held(is_deferred=is_deferred), self.ledger.held(tenant), line.held_by(tenant, flow)
        side.waiting[ticket] = event
        self.feed(event)
        beyond = 0 if is_deferred else side.room.beyond
        assert line.held(is_deferred=is_deferred) - beyond <= max(before[0], bounds.max_held)
        assert self.ledger.held(tenant) <= max(before[1], bounds.tenant_ceiling)
        assert line.held_by(tenant, flow) <= max(before[2], bounds.max_held_per_caller or 100)

    @rule(data=st.data())
    @precondition(lambda self: self.side.waiting)
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.side.waiting)))
        del self.side.waiting[ticket]
        self.feed(Left(ticket, self.now))

    @rule(by=st.sampled_from([0.001, 0.05, 0.3, 1.0, 4.0, 31.0]))
    def pass_time(self, by: float) -> None:
        """As the driver does: every tick is kept, in both rooms."""
        until, here = self.now + by, self.at
        while True:
            due = [(tick, at) for at, side in enumerate(self.sides) if (tick := side.room.next_tick_at()) is not None]
            if not due or min(due)[0] > until:
                break
            tick, self.at = min(due)
            assert tick >= self.now - 1e-6 or self.side.waiting
            self.now = max(self.now, tick)
            self.feed(Tick(self.now))
            again = self.side.room.next_tick_at()
            assert again is None or again > self.now, "a tick that is due again at once would spin"
        self.now, self.at = until, here

    @rule(replicas=st.sampled_from([0, 1, 2, 3]))
    @precondition(lambda self: self.side.is_asking)
    def answer(self, replicas: int) -> None:
        self.side.is_asking = False
        self.feed(ReadinessSeen(replicas, self.now))

    @rule(jitter=st.floats(0, 0.99))
    @precondition(lambda self: self.side.is_asking)
    def fail_to_answer(self, jitter: float) -> None:
        self.side.is_asking = False
        self.feed(AskFailed(self.now, jitter))

    @rule()
    @precondition(lambda self: self.side.is_asking)
    def delete_function(self) -> None:
        self.side.is_asking = False
        self.feed(Missing(self.now))

    @rule(outcome=st.sampled_from(["taken", "failed", "denied", "elsewhere", "elsewhere"]), jitter=st.floats(0, 0.99))
    @precondition(lambda self: self.side.called is not None)
    def answer_wake(self, outcome: str, jitter: float) -> None:
        side = self.side
        tenant, side.called = side.called or "", None
        match outcome:
            case "taken":
                side.elsewhere_until = None
                self.feed(WakeSucceeded(self.now))
            case "elsewhere":
                if side.woken_at is not None and not side.room.ready:
                    side.elsewhere_until = self.now + LOOK_AGAIN_S
                self.feed(WakeElsewhere(self.now))
            case _:
                side.woken_at = side.elsewhere_until = None
                self.feed(WakeFailed(self.now, jitter) if outcome == "failed" else WakeDenied(tenant, 3, self.now))

    @rule(data=st.data(), served_s=st.sampled_from([None, 0.01, 1.0, 100.0]))
    @precondition(lambda self: self.side.running or self.side.hot)
    def finish(self, data: st.DataObject, served_s: float | None) -> None:
        side = self.side
        ticket = data.draw(st.sampled_from([*side.running, *[None] * bool(side.hot)]))
        if ticket is None:
            side.hot -= 1
        else:
            side.running.remove(ticket)
        self.feed(Finished(self.now, ticket, served_s))

    @rule()
    @precondition(lambda self: self.side.room.ready)
    def lose_replica(self) -> None:
        self.feed(Unreached(self.now))

    @rule()
    @precondition(lambda self: len(self.side.waiting) > 2)
    def close(self) -> None:
        self.feed(Closed(self.now))
        assert not self.side.waiting

    @rule(data=st.data())
    @precondition(lambda self: self.side.is_shared and (self.side.waiting or self.side.running))
    def grant(self, data: st.DataObject) -> None:
        """What the other Porteros leave us: never less than we use."""
        in_flight = self.side.room.in_flight
        self.feed(SlotsHeld(data.draw(st.integers(in_flight, in_flight + 2)), self.now))

    @rule(concurrency=st.sampled_from([None, 1, 2]), is_shared=st.booleans(), sharers=st.sampled_from([1, 2, 3]))
    @precondition(lambda self: not self.side.waiting and not self.side.room.in_flight)
    def reload(self, *, concurrency: int | None, is_shared: bool, sharers: int) -> None:
        """Another policy, from the next request on."""
        side = self.side
        side.concurrency, side.is_shared = concurrency, is_shared and concurrency is not None
        side.room.sharers = sharers

    @rule()
    @precondition(lambda self: not self.side.is_shared)
    def admit(self) -> None:
        side = self.side
        if side.room.admit(side.concurrency, self.now):
            side.hot += 1
            assert not side.waiting, "Q11: nobody overtakes"
            assert side.room.ready
            assert side.room.in_flight <= side.limit, "Q8"

    @invariant()
    def places_are_counted(self) -> None:
        """Q5: bounds are never exceeded, and the ledger is the sum of the lines."""
        held = Counter(a.waiter.tenant for side in self.sides for a in side.waiting.values())
        for side in self.sides:
            assert set(side.room.line.waiters) == set(side.waiting)
            assert side.room.in_flight == len(side.running) + side.hot
            assert not side.room.beyond or side.room._is_unknown(self.now)
            assert side.room._bystanders == {t for t, a in side.waiting.items() if not a.may_wake}
        assert self.ledger.total == sum(held.values()) <= self.ledger.max_total
        assert all(self.ledger.held(tenant) == held[tenant] for tenant in ("acme", "globex"))

    @invariant()
    def nobody_waits_past_the_deadline(self) -> None:
        """Q6, given that ticks are kept."""
        assert all(a.waiter.deadline > self.now for side in self.sides for a in side.waiting.values())

    @invariant()
    def nobody_is_left_waiting_for_nothing(self) -> None:
        """While somebody waits, a question, a call or a tick is on its way; Q1: and no free place is idle."""
        for side in self.sides:
            if side.waiting:
                assert side.is_asking or side.called is not None or side.room.next_tick_at() is not None
                assert not side.room._has_capacity(self.now)

    @invariant()
    def slots_are_asked_for_as_they_are_needed(self) -> None:
        """The last word to the other Porteros is the state of things."""
        for side in self.sides:
            room = side.room
            if room._is_shared:
                capacity = room.ready * (room._concurrency or 0)
                wanted = min(room.in_flight + len(side.waiting), capacity)
                assert side.wanted == (room.in_flight, wanted, capacity)

    def teardown(self) -> None:
        """Q5: after any history, counters return to nothing."""
        for self.at in range(2):
            for ticket in tuple(self.side.waiting):
                del self.side.waiting[ticket]
                self.feed(Left(ticket, self.now))
            for served in (*self.side.running, *[None] * self.side.hot):
                self.side.room.on(Finished(self.now, served, 0.1))
            queue: Any = self.side.room.line
            assert not queue._services
            assert not queue._tenants.shares
            assert not self.side.room.in_flight
        assert self.ledger.total == 0
        assert not self.ledger._by_tenant
        assert not self.ledger._weights
        assert self.ledger._weight_sum == 0


TestAnyWorld = AnyWorld.TestCase
TestAnyWorld.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
