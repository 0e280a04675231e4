"""
Question 5, asked: a request of a function that is awake goes at once, others are held until it is, or refused.

It decides nothing: ``policies.coldstart`` does, one room a function, and ``driver`` feeds it. Here stands which
function a place means, what all of them share, and how many are remembered.

**Places in flight.** ``ready_now() -> True`` and ``hold() -> None`` each let one request in, and each of them must be
followed by exactly one ``finished``, whether the request left for its function or not: that is how the release of those
who wait keeps pace, and how a function with ``concurrency`` is never given more.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from authproxy.activator.driver import Driver, FunctionKey, SpendWake, Tools
from authproxy.backends.backend import Backend
from authproxy.metrics import Metrics
from policies.coldstart import Room
from policies.coldstart_events import Tick, Unreached
from policies.decision import Deny, Reason
from policies.principal import Principal
from policies.request import AccessRequest
from policies.tables import Place
from policies.waiting import Ledger

MAX_HELD: Final = 10_000
"""Requests held at once in one process, over all tenants."""
MAX_FUNCTIONS: Final = 10_000
"""Functions remembered at once: about 2 KiB each. Names that do not exist are among them, until there is no room."""
_LOOKED_AT: Final = 16
"""Rooms looked at to find an idle one when all places are taken: some 5 us."""
_SWEEP_S: Final = 60.0


class Activator:
    """
    One activator a process; it belongs to one event loop.

    Args:
        backends: by name, looked up for each call, so that a reload takes effect.
        spend_wake: takes one wake on a tenant's account before it is called for; None: wakes are free.
        clock: seconds that never go back: a corrected system clock must not make anybody wait longer, nor less.
        jitter: numbers in [0, 1) for backoffs.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        metrics: Metrics,
        *,
        spend_wake: SpendWake | None = None,
        max_held: int = MAX_HELD,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._tools = Tools(backends, metrics, spend_wake, clock, jitter)
        self._clock = clock
        self._ledger = Ledger(max_held)
        # Ordered: a plain dict that is emptied from its front is walked from its front each time.
        self._drivers: OrderedDict[tuple[str, str, str], Driver] = OrderedDict()
        self._tickets = itertools.count()
        self._swept_at = clock()
        self._is_draining = False

    @property
    def held(self) -> int:
        """Requests that wait now."""
        return self._ledger.total

    def ready_now(self, place: Place) -> bool:
        """
        Let the request in if its function is known to be awake and has room; never waits, never calls the platform.

        True takes a place in flight (``finished`` gives it back).
        """
        tenant = place.tenant
        driver = self._drivers.get((tenant.backend, tenant.namespace, place.function))
        if driver is None:
            return False
        return driver.room.admit(place.spec.concurrency, self._clock())

    async def hold(self, place: Place, principal: Principal, request: AccessRequest) -> Deny | None:
        """
        Hold the request until it may leave (None; takes a place in flight) or may not (the refusal).

        Never longer than the function's ``max_wait``, and never raises but for cancellation: cancelling it is how a
        client leaves, and frees its place at once.
        """
        tenant = place.tenant
        if self._is_draining:
            return Deny(Reason.DRAINING, retry_after_s=1, tenant=tenant.name)
        key = FunctionKey(tenant.backend, tenant.namespace, place.function)
        driver = self._drivers.get(key) or self._remember(key)
        if driver is None:
            self._tools.metrics.holds_refused_total.add((tenant.name, Reason.OVERLOADED.value))
            return Deny(Reason.OVERLOADED, retry_after_s=1, tenant=tenant.name)
        flow = request.client_ip if principal.is_anonymous else principal.subject
        return await driver.hold(next(self._tickets), place, flow)

    def finished(self, place: Place) -> None:
        """A request that was let in is over, or does not leave after all. Exactly once for each."""
        driver = self._driver_of(place)
        if driver is not None and driver.room.give_back():
            driver.feed(Tick(self._clock()))

    def failed(self, place: Place) -> None:
        """
        The function could not be reached: a refused connection, or ``Backend.says_not_reached``.

        What is believed of it is void; the next request, or this one's next attempt, asks. ``finished`` is still due.
        """
        if (driver := self._driver_of(place)) is not None:
            driver.feed(Unreached(self._clock()))

    def drain(self) -> None:
        """Refuse to hold any further request; those held go on."""
        self._is_draining = True

    async def close(self) -> None:
        """Refuse whoever waits (503 ``draining``) and end all calls."""
        self._is_draining = True
        drivers, self._drivers = self._drivers, OrderedDict()
        await asyncio.gather(*(driver.close() for driver in drivers.values()))

    def _driver_of(self, place: Place) -> Driver | None:
        tenant = place.tenant
        return self._drivers.get((tenant.backend, tenant.namespace, place.function))

    def _remember(self, key: FunctionKey) -> Driver | None:
        """
        A room for one more function; None when there are too many and those looked at are all busy.

        Whoever tries names pushes out idle rooms, which costs others one question to the platform, and never a refusal.
        """
        now = self._clock()
        if now - self._swept_at >= _SWEEP_S:
            self._swept_at = now
            idle = [idle for idle, driver in self._drivers.items() if driver.room.is_forgettable(now)]
            for idle_key in idle:
                self._drivers.pop(idle_key).forget()
        if len(self._drivers) >= MAX_FUNCTIONS and not self._push_out(now):
            return None
        driver = self._drivers[key] = Driver(key, Room(self._ledger, now), self._tools)
        return driver

    def _push_out(self, now: float) -> bool:
        """Forget the first idle room of a few; those that are busy go to the end of the row."""
        for _ in range(min(_LOOKED_AT, len(self._drivers))):
            key, driver = next(iter(self._drivers.items()))
            if driver.room.is_forgettable(now, after_s=0.0):
                del self._drivers[key]
                driver.forget()
                return True
            self._drivers.move_to_end(key)
        return False
