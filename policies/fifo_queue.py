"""First in, first out, whoever it is: what fairness is measured against (``benchmarks``). Knows no callers."""

from __future__ import annotations

from collections import OrderedDict

from policies.waiting import Line, Waiter, bounded_service, usual


class FifoQueue(Line):
    """A line in which nobody is told apart. Not for use: the first to come with a thousand keeps out everybody else."""

    __slots__ = ("_in_order",)

    def __init__(self) -> None:
        super().__init__()
        self._in_order: OrderedDict[int, Waiter] = OrderedDict()  # a dict is walked from its front each time
        self.waiters = self._in_order

    def first(self) -> Waiter:
        return next(iter(self.waiters.values()))

    def pop(self) -> Waiter:
        waiter = self._in_order.popitem(last=False)[1]
        self.deferred -= waiter.is_deferred
        return waiter

    def finished(self, ticket: int, served_s: float | None) -> None:
        del ticket
        if served_s is not None:
            self.service_s = usual(self.service_s, bounded_service(served_s))

    def forget_served(self, at_most: int) -> None:
        """Nothing is remembered of them."""

    def held_by(self, tenant: str, flow: str) -> int:
        return sum(waiter.tenant == tenant and waiter.flow == flow for waiter in self.waiters.values())

    def standing_since(self, tenant: str, flow: str) -> float | None:
        del tenant, flow
        return self.since if self.waiters else None

    def portion(self, waiter: Waiter) -> float:
        del waiter
        return 1.0

    def ahead_of(self, waiter: Waiter) -> int:
        del waiter
        return len(self.waiters)

    def fattest(self, newcomer: Waiter) -> Waiter | None:
        del newcomer
        return None

    def newest_in_excess(self) -> Waiter | None:
        return next((waiter for waiter in reversed(self.waiters.values()) if not waiter.is_deferred), None)

    def _added(self, waiter: Waiter, now: float) -> None:
        """Nothing but the order in which they came is kept."""

    def _removed(self, waiter: Waiter) -> None:
        """Nothing but the order in which they came is kept."""
