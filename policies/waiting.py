"""
The parts a waiting room is made of: who waits and until when, the ledger of places taken, and the backoff.

They count; when anybody is let in, and why not, ``coldstart.py`` decides, and in which order ``fair_queue.py``.
No clock: instants are seconds of one that never goes back, given by the caller.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

from policies.decision import Reason
from policies.fair_share import bounded_weight

BACKOFF_LIMIT_S: Final = 30.0
"""Longest pause between two attempts at something that keeps failing."""
MIN_SERVICE_S: Final = 1e-4
MAX_SERVICE_S: Final = 60.0
FIRST_SERVICE_S: Final = 2.0
"""A function's first service is believed to be no longer than that, until there are more."""


class Waiter(NamedTuple):
    """One held request. ``ticket`` is its name; whoever issues tickets never issues one twice."""

    ticket: int
    tenant: str
    flow: str
    """Whom to be fair to inside a tenant: the subject, or the address of an anonymous caller."""
    deadline: float
    weight: int = 1
    """Of the flow, against others of its tenant."""
    tenant_weight: int = 1
    is_deferred: bool = False
    """Set by the room, from ``Arrived``."""
    is_shed: bool = False
    """Set by the room: ``deadline`` was brought forward because the flow's line does not empty."""


class Line(ABC):
    """
    The held requests of one function: who waits and until when. Subclasses say in which order they are let in.

    Push and remove are O(1) but for the heap of deadlines, where a waiter who left stays as a tombstone; the heap is
    rebuilt before tombstones outnumber the living, so that callers who keep coming and leaving cannot make it grow.

    It also remembers how long a request of this function is served, on average, since a wait is made of that.
    """

    __slots__ = ("_deadlines", "deferred", "service_s", "since", "waiters")

    def __init__(self) -> None:
        self.waiters: dict[int, Waiter] = {}
        """By ticket, in the order in which they came. To be looked at only."""
        self.deferred = 0
        """How many of them nobody waits for."""
        self.service_s: float | None = None
        """Moving average; None until one was measured."""
        self.since = 0.0
        """Since when there has always been somebody; while there is."""
        self._deadlines: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self.waiters)

    # -- what subclasses say ---------------------------------------------------------------------------------------

    @abstractmethod
    def first(self) -> Waiter:
        """The next to be let in, who stays. The line must not be empty."""

    @abstractmethod
    def pop(self) -> Waiter:
        """The next to be let in, who is served from now on, until ``finished``. The line must not be empty."""

    @abstractmethod
    def finished(self, ticket: int, served_s: float | None) -> None:
        """Somebody popped has been served, for so long; None: nobody knows. Unknown tickets are passed over."""

    @abstractmethod
    def forget_served(self, at_most: int) -> None:
        """No more than so many are being served: of the rest nobody will say when they finished."""

    @abstractmethod
    def held_by(self, tenant: str, flow: str) -> int:
        """How many of one caller wait."""

    @abstractmethod
    def standing_since(self, tenant: str, flow: str) -> float | None:
        """Since when there has always been somebody of this caller; None when there is nobody."""

    @abstractmethod
    def portion(self, waiter: Waiter) -> float:
        """In (0, 1]: what of the capacity this caller gets while all others wait as well."""

    @abstractmethod
    def ahead_of(self, waiter: Waiter) -> int:
        """How many a newcomer must see let in before him, of those with whom he shares that portion."""

    @abstractmethod
    def fattest(self, newcomer: Waiter) -> Waiter | None:
        """Who must make room for this newcomer when there is none: the newest of those who have too many, or nobody."""

    @abstractmethod
    def newest_in_excess(self) -> Waiter | None:
        """Of those who are not deferred, the newest of those who have most; None: nobody of them waits."""

    @abstractmethod
    def _added(self, waiter: Waiter, now: float) -> None:
        """Called after it was put in."""

    @abstractmethod
    def _removed(self, waiter: Waiter) -> None:
        """Called after it was taken out otherwise than by ``pop``."""

    # -- what all share --------------------------------------------------------------------------------------------

    def push(self, waiter: Waiter, now: float) -> None:
        if not self.waiters:
            self.since = now
        self.waiters[waiter.ticket] = waiter
        self.deferred += waiter.is_deferred
        heappush(self._deadlines, (waiter.deadline, waiter.ticket))
        if len(self._deadlines) > 2 * len(self.waiters) + 64:
            self._deadlines = [(waiter.deadline, waiter.ticket) for waiter in self.waiters.values()]
            heapify(self._deadlines)
        self._added(waiter, now)

    def remove(self, ticket: int) -> Waiter | None:
        waiter = self.waiters.pop(ticket, None)
        if waiter is not None:
            self.deferred -= waiter.is_deferred
            self._removed(waiter)
        return waiter

    def held(self, *, is_deferred: bool) -> int:
        """How many of one kind wait; each kind has places of its own."""
        return self.deferred if is_deferred else len(self.waiters) - self.deferred

    def next_deadline(self) -> float | None:
        deadlines = self._deadlines
        while deadlines and deadlines[0][1] not in self.waiters:
            heappop(deadlines)
        return deadlines[0][0] if deadlines else None

    def take_expired(self, now: float) -> list[Waiter]:
        """Remove and return those whose deadline has come."""
        expired = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            if waiter := self.remove(heappop(self._deadlines)[1]):
                expired.append(waiter)
        return expired

    def take_all(self, tenant: str | None = None) -> list[Waiter]:
        """Remove and return everybody, or everybody of one tenant, in the order in which they came."""
        taken = [waiter for waiter in self.waiters.values() if tenant is None or waiter.tenant == tenant]
        for waiter in taken:
            self.remove(waiter.ticket)
        return taken


class Ledger:
    """
    Places taken in all rooms of one process, by tenant and in all. Counts return to 0 when nobody waits (Q5).

    While there is plenty each tenant may take what its ceiling allows. Of the last quarter a tenant gets no more that
    has its fair share already, by weight among those who hold any: so that a few cannot lock all others out.
    """

    __slots__ = ("_by_tenant", "_weight_sum", "_weights", "max_total", "total")

    def __init__(self, max_total: int = 10_000) -> None:
        self.max_total = max_total
        self.total = 0
        self._by_tenant: dict[str, int] = {}
        self._weights: dict[str, int] = {}
        self._weight_sum = 0

    def held(self, tenant: str) -> int:
        return self._by_tenant.get(tenant, 0)

    def refusal(self, tenant: str, ceiling: int, weight: int = 1) -> Reason | None:
        """Why no further place can be taken: the tenant has used up its own, or there is none left for it."""
        held = self.held(tenant)
        if held >= ceiling:
            return Reason.QUEUE_FULL
        if self.total >= self.max_total:
            return Reason.OVERLOADED
        if 4 * self.total > 3 * self.max_total:
            weight = bounded_weight(weight)
            weight_sum = self._weight_sum - self._weights.get(tenant, 0) + weight
            if held * weight_sum >= self.max_total * weight:
                return Reason.OVERLOADED
        return None

    def take(self, tenant: str, weight: int = 1) -> None:
        self._by_tenant[tenant] = self.held(tenant) + 1
        self.total += 1
        weight = bounded_weight(weight)
        self._weight_sum += weight - self._weights.get(tenant, 0)
        self._weights[tenant] = weight

    def give(self, tenant: str) -> None:
        self.total -= 1
        if (left := self.held(tenant) - 1) > 0:
            self._by_tenant[tenant] = left
        else:
            self._by_tenant.pop(tenant, None)
            self._weight_sum -= self._weights.pop(tenant, 0)


class Backoff:
    """How long to leave something alone that failed: 1, 2, 4 ... 30 s, shortened by up to a quarter by the jitter."""

    __slots__ = ("failures", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.until = float("-inf")

    def fail(self, now: float, jitter: float) -> None:
        """``jitter`` in [0, 1), so that several processes do not come back in step."""
        self.failures += 1
        base_s = min(BACKOFF_LIMIT_S, 2.0 ** min(self.failures - 1, 10))
        self.until = now + base_s * (1.0 - jitter / 4)

    def clear(self) -> None:
        self.failures = 0
        self.until = float("-inf")


def bounded_service(served_s: float) -> float:
    """What a service is charged: bounded, because a stream of an hour says nothing of the next request."""
    return min(MAX_SERVICE_S, served_s) if served_s >= MIN_SERVICE_S else MIN_SERVICE_S  # so that NaN is the least


def average(before: float | None, measured: float) -> float:
    """Moving average that forgets: an eighth of what is new, as TCP's of round trips (RFC 6298 section 2)."""
    return measured if before is None else before + (measured - before) / 8


def usual(before: float | None, measured: float) -> float:
    """
    ``average`` of what many callers are judged by: one of them must not make it long for all.

    What takes more than twice the time of others counts as twice, and as two seconds when there are no others: so who
    holds a stream open for an hour does not have everybody refused who could be served in a moment.
    """
    return average(before, min(measured, FIRST_SERVICE_S if before is None else 2 * before))
