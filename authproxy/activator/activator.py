"""
Question 5, asked: a request of a function that is awake goes at once, others are held until it is, or refused.

It decides nothing: ``policies.coldstart`` does, one room a function, and ``driver`` feeds it. Here stands which
function a place means, on whose account and for how long a request is held, what all functions share, and how many of
them are remembered.

**Places in flight.** ``ready_now() -> True`` and ``hold() -> Grant`` each let one request in, and each of them must be
followed by exactly one ``finished``, whether the request left for its function or not: that is how the release of those
who wait keeps pace, and how a function with ``concurrency`` is never given more.

Longer than other modules: all that is asked about a function that may sleep is asked in one place.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from authproxy.activator.cluster import Cluster, LocalCluster
from authproxy.activator.driver import Driver, Grant, Tools
from authproxy.activator.places import Places
from authproxy.activator.probe import FunctionKey, Prober, probe
from authproxy.activator.waking import SpendWake
from authproxy.backends.backend import Backend
from authproxy.metrics import Metrics
from authproxy.upstream.held_body import BodyAccount, HoldableBody
from policies.cold_starts import ColdStarts
from policies.coldstart import Room
from policies.coldstart_events import Arrived, Tick
from policies.decision import Deny, Reason
from policies.held_bytes import HeldBytes
from policies.limits import address_block
from policies.principal import Principal
from policies.request import AccessRequest
from policies.tables import ColdStart, Place
from policies.waiting import Ledger, Waiter

MAX_HELD: Final = 10_000
"""Requests held at once in one process, over all tenants."""
MAX_HELD_BYTES: Final = 512 * 1024 * 1024
"""Of bodies held at once in one process, in memory and in files."""
MAX_FUNCTIONS: Final = 10_000
"""Functions remembered at once: about 6 KiB each. Names that do not exist are among them, until there is no room."""
_LOOKED_AT: Final = 16
"""Rooms looked at to find an idle one when all places are taken: some 5 us."""
_SWEEP_S: Final = 60.0
NO_WAIT_S: Final = 0.5
"""How long a caller is held that would not wait at all: for an answer of the platform, or it would never be let in."""


class Activator:
    """
    One activator a process; it belongs to one event loop.

    Args:
        backends: by name, looked up for each call, so that a reload takes effect.
        spend_wake: takes one wake on a tenant's account before it is called for; None: wakes are free.
        cluster: what is agreed on with other Porteros, started and closed by whoever made it; None: there are none.
        held_bytes: of all held bodies of the process; None: a count of its own.
        clock: seconds that never go back: a corrected system clock must not make anybody wait longer, nor less.
        jitter: numbers in [0, 1) for backoffs.
        prober: how a function is asked whether it is there; None: by its backend.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        metrics: Metrics,
        *,
        spend_wake: SpendWake | None = None,
        cluster: Cluster | None = None,
        held_bytes: HeldBytes | None = None,
        max_held: int = MAX_HELD,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        prober: Prober | None = None,
    ) -> None:
        cluster = cluster or LocalCluster()
        self._tools = Tools(backends, metrics, cluster, prober or probe, spend_wake, clock, jitter)
        self._clock = clock
        self._ledger = Ledger(max_held)
        self._held_bytes = held_bytes = held_bytes or HeldBytes(MAX_HELD_BYTES)
        metrics.held_body_bytes.read(lambda: held_bytes.total)
        metrics.held_by_function.read_all(
            lambda: (((tenant, function), count) for tenant, function, count in self.held_by_function())
        )
        # Ordered: a plain dict that is emptied from its front is walked from its front each time.
        self._drivers: OrderedDict[tuple[str, str, str], Driver] = OrderedDict()
        self._places = Places(cluster, self._drivers, self._ledger)
        self._tickets = itertools.count()
        self._swept_at = clock()
        self._is_draining = False

    @property
    def held(self) -> int:
        """Requests that wait now."""
        return self._ledger.total

    # -- a request ---------------------------------------------------------------------------------------------------

    def ready_now(self, place: Place) -> bool:
        """
        Let the request in if its function is known to be awake and has room; never waits, never calls the platform.

        True takes a place in flight (``finished`` gives it back).
        """
        tenant = place.tenant
        driver = self._drivers.get((tenant.backend, tenant.namespace, place.function))
        if driver is None:
            return False
        spec = place.spec  # of which the room may not have heard yet: a reload can make a concurrency a shared one
        return not spec.is_concurrency_shared and driver.room.admit(spec.concurrency, self._clock())

    async def hold(
        self,
        place: Place,
        principal: Principal,
        request: AccessRequest,
        *,
        body: HoldableBody | None = None,
        may_wake: bool = True,
        is_deferred: bool = False,
    ) -> Grant | Deny:
        """
        Hold the request until it may leave (takes a place in flight) or may not (the refusal).

        Never longer than the function's ``max_wait`` or the caller's own, and never raises but for cancellation:
        cancelling it is how a client leaves, and frees its place at once.

        ``body`` is read while the request is held, if the policy lets it; however the hold ends, it is not being read
        any more then, and what it failed with is the refusal. With ``may_wake`` false the request only waits to be told
        whether the function is awake, and is refused when it is not. With ``is_deferred`` nobody waits for its answer:
        it has the patience and the places of such requests.
        """
        spec, tenant, now = place.spec, place.tenant, self._clock()
        max_wait_s = _max_wait_s(place, request, is_deferred=is_deferred)
        bounds = await self._places.bounds(place, is_deferred=is_deferred)
        driver = self._driver(place)
        if isinstance(driver, Deny):
            return driver
        flow = flow_of(principal, request)
        weight = _weight(spec.cold_start, principal.groups)
        waiter = Waiter(
            next(self._tickets), tenant.name, flow, now + max_wait_s, weight, max(1, tenant.ceilings.weight)
        )
        arrived = Arrived(
            waiter, self._clock(), bounds, spec.concurrency, may_wake, is_deferred, spec.is_concurrency_shared
        )
        if not spec.cold_start.holds_body:
            body = None
        return await driver.hold(place, arrived, body, lambda: self.open_account(place, flow))

    def finished(self, place: Place, grant: Grant | None = None, *, was_served: bool = True) -> None:
        """
        A request that was let in is over, or does not leave after all. Exactly once for each.

        ``grant`` is what let it in; None: ``ready_now`` did. With ``was_served`` false the function had nothing of it,
        which must not be taken for how quick it is.
        """
        tenant = place.tenant
        driver = self._drivers.get((tenant.backend, tenant.namespace, place.function))
        if driver is None:
            return
        if grant is None:
            if driver.room.give_back():
                driver.feed(Tick(self._clock()))
            return
        now = self._clock()
        if driver.room.give_back(grant.ticket, max(0.0, now - grant.released_at) if was_served else None):
            driver.feed(Tick(now))

    def is_starting(self, place: Place) -> bool:
        """Whether the function has just woken: how many it has at once is bounded, and each end counts."""
        driver = self._driver_of(place)
        return driver is not None and driver.room.is_starting(self._clock())

    def failed(self, place: Place) -> None:
        """
        The function could not be reached: a refused connection, or ``Backend.says_not_reached``.

        What is believed of it is void; the next request, or this one's next attempt, asks. ``finished`` is still due.
        """
        if (driver := self._driver_of(place)) is not None:
            driver.unreached()

    def may_retry(self, place: Place) -> bool:
        """Whether one more attempt may be sent to this function; takes it from the budget of its retries."""
        driver = self._driver_of(place)
        may_retry = driver is not None and driver.room.may_retry(self._clock())
        self._tools.metrics.retries_total.add((place.tenant.name, "sent" if may_retry else "refused"))
        return may_retry

    def retry_after_s(self, place: Place) -> int:
        """Whole seconds, at least 1, after which the function is likely to serve: from its measured cold starts."""
        driver = self._driver_of(place)
        return ColdStarts().remaining_s() if driver is None else driver.room.expected_wait_s(self._clock())

    # -- all of them -------------------------------------------------------------------------------------------------

    def held_by_function(self) -> list[tuple[str, str, int]]:
        """
        (tenant, function, requests that wait now), for those that have any; for the metrics.

        Functions that the platform has not confirmed are left out: whoever tries names must not choose labels.
        """
        return [
            (tenant, key[2], count)
            for key, driver in self._drivers.items()
            if driver.does_exist
            for tenant, count in driver.held_by_tenant().items()
        ]

    def drain(self) -> None:
        """Refuse to hold any further request; those held go on."""
        self._is_draining = True

    async def close(self) -> None:
        """Refuse whoever waits (503 ``draining``) and end all calls."""
        self._is_draining = True
        drivers = tuple(self._drivers.values())
        self._drivers.clear()
        await asyncio.gather(*(driver.close() for driver in drivers))

    def open_account(self, place: Place, flow: str) -> BodyAccount:
        cold_start, tenant = place.spec.cold_start, place.tenant
        return self._held_bytes.open(
            tenant.name,
            tenant.ceilings.held_bytes,
            (tenant.backend, tenant.namespace, place.function),
            cold_start.max_held_bytes,
            flow,
            cold_start.max_held_bytes_per_caller,
        )

    # -- functions ---------------------------------------------------------------------------------------------------

    def _driver_of(self, place: Place) -> Driver | None:
        tenant = place.tenant
        return self._drivers.get((tenant.backend, tenant.namespace, place.function))

    def _driver(self, place: Place) -> Driver | Deny:
        """The function's, made anew if need be; the refusal when nobody can be held."""
        tenant = place.tenant
        if self._is_draining:
            reason = Reason.DRAINING
        else:
            key = FunctionKey(tenant.backend, tenant.namespace, place.function)
            if (driver := self._drivers.get(key) or self._remember(key)) is not None:
                return driver
            reason = Reason.OVERLOADED
        self._tools.metrics.holds_refused_total.add((tenant.name, reason.value))
        return Deny(reason, retry_after_s=1, tenant=tenant.name)

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


def flow_of(principal: Principal, request: AccessRequest) -> str:
    """Whom to be fair to inside a tenant. No provider has an empty name, so no subject looks like an address."""
    return "|" + address_block(request.client_ip) if principal.is_anonymous else principal.subject


def _max_wait_s(place: Place, request: AccessRequest, *, is_deferred: bool) -> float:
    """How long the request is held at most; the caller may ask for less, not for more."""
    if is_deferred:
        return place.spec.deferred.max_wait_s
    longest_s, asked_s = place.spec.cold_start.max_wait_s, request.max_wait_s
    return longest_s if asked_s is None else min(longest_s, asked_s if asked_s > 0 else NO_WAIT_S)


def _weight(cold_start: ColdStart, groups: frozenset[str]) -> int:
    return max((weight for named, weight in cold_start.weights if not named.isdisjoint(groups)), default=1)
