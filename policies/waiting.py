"""
The parts a waiting room is made of: the line, the ledger of places taken, the backoff and the memory of cold starts.

They count and order; when anybody is let in, and why not, is ``coldstart.py``'s to decide. No clock: instants are
seconds of one that never goes back, given by the caller.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from heapq import heapify, heappop, heappush
from math import ceil
from statistics import median
from typing import Final, NamedTuple

from policies.decision import Reason

BACKOFF_LIMIT_S: Final = 30.0
"""Longest pause between two attempts at something that keeps failing."""
REMEMBERED_COLD_STARTS: Final = 20
ASSUMED_COLD_START_S: Final = 5.0
"""Told to callers until a cold start was measured; container platforms take 1 to 10 s."""


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


class Line:
    """
    The held requests of one function, in the order in which they are to be let in: first in, first out.

    The only place that knows the order. Push, pop and remove are O(1) but for the heap of deadlines, where a waiter who
    left stays as a tombstone; the heap is rebuilt before tombstones outnumber the living, so that callers who keep
    coming and leaving cannot make it grow.
    """

    __slots__ = ("_deadlines", "_waiters")

    def __init__(self) -> None:
        self._waiters: OrderedDict[int, Waiter] = OrderedDict()  # a dict is quadratic when popped from the front
        self._deadlines: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._waiters)

    def push(self, waiter: Waiter) -> None:
        self._waiters[waiter.ticket] = waiter
        heappush(self._deadlines, (waiter.deadline, waiter.ticket))
        if len(self._deadlines) > 2 * len(self._waiters) + 64:
            self._deadlines = [(waiter.deadline, waiter.ticket) for waiter in self._waiters.values()]
            heapify(self._deadlines)

    def pop(self) -> Waiter:
        """The next to be let in. The line must not be empty."""
        return self._waiters.popitem(last=False)[1]

    def first(self) -> Waiter:
        """The next to be let in, who stays. The line must not be empty."""
        return next(iter(self._waiters.values()))

    def remove(self, ticket: int) -> Waiter | None:
        return self._waiters.pop(ticket, None)

    def next_deadline(self) -> float | None:
        deadlines = self._deadlines
        while deadlines and deadlines[0][1] not in self._waiters:
            heappop(deadlines)
        return deadlines[0][0] if deadlines else None

    def take_expired(self, now: float) -> list[Waiter]:
        """Remove and return those whose deadline has come."""
        expired = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            expired.append(self._waiters.pop(heappop(self._deadlines)[1]))
        return expired

    def take_all(self, tenant: str | None = None) -> list[Waiter]:
        """Remove and return everybody, or everybody of one tenant."""
        taken = [waiter for waiter in self._waiters.values() if tenant is None or waiter.tenant == tenant]
        for waiter in taken:
            del self._waiters[waiter.ticket]
        return taken


class Ledger:
    """Places taken in all rooms of one process, by tenant and in all. Counts return to 0 when nobody waits (Q5)."""

    __slots__ = ("_by_tenant", "max_total", "total")

    def __init__(self, max_total: int = 10_000) -> None:
        self.max_total = max_total
        self.total = 0
        self._by_tenant: dict[str, int] = {}

    def held(self, tenant: str) -> int:
        return self._by_tenant.get(tenant, 0)

    def refusal(self, tenant: str, ceiling: int) -> Reason | None:
        """Why no further place can be taken: the tenant has used up its own, or there is none left for anybody."""
        if self.held(tenant) >= ceiling:
            return Reason.QUEUE_FULL
        return Reason.OVERLOADED if self.total >= self.max_total else None

    def take(self, tenant: str) -> None:
        self._by_tenant[tenant] = self.held(tenant) + 1
        self.total += 1

    def give(self, tenant: str) -> None:
        self.total -= 1
        if (left := self.held(tenant) - 1) > 0:
            self._by_tenant[tenant] = left
        else:
            self._by_tenant.pop(tenant, None)


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


class ColdStarts:
    """The last cold starts of one function."""

    __slots__ = ("_durations_s", "_median_s")

    def __init__(self) -> None:
        self._durations_s: deque[float] = deque(maxlen=REMEMBERED_COLD_STARTS)
        self._median_s = ASSUMED_COLD_START_S

    def add(self, duration_s: float) -> None:
        self._durations_s.append(duration_s)
        self._median_s = median(self._durations_s)

    def remaining_s(self, elapsed_s: float = 0.0) -> int:
        """
        Whole seconds until the function is likely to be ready, at least 1: half of its cold starts took no longer.

        Source: RFC 9110 section 10.2.3 (Retry-After).
        """
        return max(1, ceil(self._median_s - elapsed_s))
