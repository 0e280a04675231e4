"""
Traces of what a function's callers and its platform do, and what becomes of each request by the pure core alone.

A trace is a list of steps in virtual time. ``Pure`` plays it on a ``Room`` with a heap for a clock; the test plays it
through the asyncio driver. Instants are odd on purpose: nothing but time itself may decide who comes first.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from policies.coldstart import Room
from policies.coldstart_events import (
    Arrived,
    AskFailed,
    AskReadiness,
    Bounds,
    Closed,
    Command,
    Event,
    Left,
    Missing,
    ReadinessSeen,
    Refuse,
    Release,
    Tick,
    Unreached,
    Wake,
    WakeDenied,
    WakeFailed,
    WakeSucceeded,
)
from policies.tables import Place
from policies.waiting import Ledger, Waiter

LAG_S: Final = 0.00131
"""Of a call to the platform."""
START_S: Final = 0.4173
"""From a wake to the first replica."""
REST_S: Final = 0.000071
"""From the last step to the end of everything."""
MIN_DELAY_S: Final = 0.001
"""Of the driver's timer."""


class Come(NamedTuple):
    """So many requests of one caller, at once."""

    crowd: int
    tenant: int
    caller: int
    patience_s: float
    service_s: float
    may_wake: bool
    is_deferred: bool


class Go(NamedTuple):
    """The client of the n-th request (modulo those that came) leaves, wherever it is."""

    number: int


class Become(NamedTuple):
    """So many replicas are ready; -1: there is no such function."""

    ready: int


class Break(NamedTuple):
    """From now on these fail, or do not."""

    asks: bool
    wakes: bool
    pays: bool


class Miss(NamedTuple):
    """A request did not reach the function."""


Step = Come | Go | Become | Break | Miss
Trace = list[tuple[float, Step]]
Fate = tuple[Any, ...]
"""``("in", at, is_cold)``, ``("refused", at, reason, retry_after_s)`` or ``("gone", at)``."""

_comes = st.builds(
    Come,
    st.integers(1, 6),
    st.integers(0, 2),
    st.integers(0, 3),
    st.integers(0, 400).map(lambda n: n * 0.0177 + 0.00037),
    st.integers(1, 100).map(lambda n: n * 0.00913 + 0.00011),
    st.integers(0, 9).map(bool),
    st.integers(0, 5).map(lambda n: n == 0),
)
_steps = st.one_of(
    _comes,
    _comes,
    _comes,
    _comes,
    st.builds(Go, st.integers(0, 100)),
    st.builds(Become, st.sampled_from((-1, 0, 0, 1, 1, 2, 3))),
    st.builds(Break, *(st.integers(0, 5).map(lambda n: n == 0) for _ in range(3))),
    st.just(Miss()),
)
_pauses = st.one_of(
    st.integers(0, 30).map(lambda n: n * 0.000717 + 0.0000311), st.integers(1, 40).map(lambda n: n * 0.1031)
)
traces: st.SearchStrategy[Trace] = st.lists(st.tuples(_pauses, _steps), min_size=5, max_size=60)


class Pure:
    """One room and one platform, without a loop."""

    def __init__(self, places: list[Place], max_held: int, ready: int) -> None:
        self.places = places
        self.room = Room(Ledger(max_held), 0.0)
        self.now = 0.0
        self.ready = ready
        self.fails = Break(asks=False, wakes=False, pays=False)
        self.fates: dict[int, Fate] = {}
        self.asked: list[float] = []
        self.woken: list[float] = []
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._came: dict[int, tuple[Come, float]] = {}
        self._running: dict[int, tuple[float, bool]] = {}
        """Ticket -> since when, and whether it was held."""
        self._timer: list[float] | None = None
        """When it is due; compared by identity, because one that was moved is another."""
        self._has_paid = False

    def run(self, trace: Trace) -> None:
        for number, (pause_s, step) in enumerate(trace):
            at = self.now + pause_s
            self._until(at)
            self._do(number, step)
        self._until(self.now + REST_S)
        asked = len(self.asked)
        self._feed(Closed(self.now))
        del self.asked[asked:]  # there is nobody left to ask

    def _until(self, at: float) -> None:
        while self._due and self._due[0][0] <= at:
            due, _, act = heapq.heappop(self._due)
            self.now = round(due, 9)
            act()
        self.now = round(at, 9)

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + delay_s, next(self._order), act))

    def _do(self, number: int, step: Step) -> None:
        match step:
            case Come(crowd):
                for nth in range(crowd):
                    self._come(10 * number + nth, step)
            case Go(number):
                if self._came:
                    self._go(list(self._came)[number % len(self._came)])
            case Become(ready):
                self.ready = ready
            case Break():
                self.fails = step
            case Miss():
                self._feed(Unreached(self.now))

    def _come(self, ticket: int, come: Come) -> None:
        place = self.places[come.tenant]
        spec, cold_start = place.spec, place.spec.cold_start
        self._came[ticket] = come, self.now
        if self.room.admit(spec.concurrency, self.now):
            self._start(ticket, is_held=False, is_cold=False)
            return
        patience_s = spec.deferred.max_wait_s if come.is_deferred else min(come.patience_s, cold_start.max_wait_s)
        waiter = Waiter(ticket, place.tenant.name, f"login|{come.caller}", self.now + patience_s)
        bounds = Bounds(cold_start.max_held, cold_start.max_held_per_caller, place.tenant.ceilings.held)
        self._feed(Arrived(waiter, self.now, bounds, spec.concurrency, come.may_wake, come.is_deferred))

    def _go(self, ticket: int) -> None:
        if ticket in self._running:
            self._finish(ticket)
        elif ticket not in self.fates:
            self.fates[ticket] = ("gone", self.now)
            self._feed(Left(ticket, self.now))

    def _start(self, ticket: int, *, is_held: bool, is_cold: bool) -> None:
        self.fates[ticket] = ("in", self.now, is_cold)
        self._running[ticket] = self.now, is_held
        self._later(self._came[ticket][0].service_s, lambda: self._finish(ticket))

    def _finish(self, ticket: int) -> None:
        if ticket not in self._running:
            return
        since, is_held = self._running.pop(ticket)
        if self.room.give_back(*((ticket, self.now - since) if is_held else ())):
            self._feed(Tick(self.now))

    def _feed(self, event: Event) -> None:
        for command in self.room.on(event):
            self._obey(command)
        due = self.room.next_tick_at()
        if due is not None and (self._timer is None or due < self._timer[0]):
            self._timer = timer = [due]
            self._later(max(MIN_DELAY_S, due - self.now), lambda: self._tick(timer))

    def _tick(self, timer: list[float]) -> None:
        if self._timer is timer:
            self._timer = None
            self._feed(Tick(self.now))

    def _obey(self, command: Command) -> None:
        match command:
            case AskReadiness():
                self.asked.append(self.now)
                self._later(LAG_S, self._answer)
            case Wake(tenant, is_retry):
                self._wake(tenant, is_retry=is_retry)
            case Release(ticket):
                self._start(ticket, is_held=True, is_cold=self.room.was_asleep_since(self._came[ticket][1]))
            case Refuse(ticket, reason, retry_after_s):
                self.fates[ticket] = ("refused", self.now, reason, retry_after_s)

    def _answer(self) -> None:
        if self.fails.asks:
            self._feed(AskFailed(self.now, 0.0))
        else:
            self._feed(Missing(self.now) if self.ready < 0 else ReadinessSeen(self.ready, self.now))

    def _wake(self, tenant: str, *, is_retry: bool) -> None:
        self._has_paid = self._has_paid and is_retry
        if not self._has_paid and self.fails.pays:
            self._later(0.0, lambda: self._feed(WakeDenied(tenant, 7, self.now)))
            return
        self._has_paid = True
        self.woken.append(self.now)
        self._later(LAG_S, self._called)

    def _called(self) -> None:
        if self.fails.wakes:
            self._feed(WakeFailed(self.now, 0.0))
            return
        self._later(START_S, self._get_ready)
        self._feed(WakeSucceeded(self.now))

    def _get_ready(self) -> None:
        self.ready = max(self.ready, 1)
