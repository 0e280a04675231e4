"""
In which order those who wait are let in: by turns between tenants, inside a tenant between callers, by weight.

Inside one caller's flow first come, first served. Two levels of ``fair_share.Level``: the tenants of a function, and
the flows of each tenant. Who may come in at all is not decided here, but whose place it is when there are too few.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from policies.fair_share import Level, Share, bounded_weight
from policies.priorities import Sizes
from policies.waiting import Line, Waiter, average, bounded_service, usual

_FIRST_GUESS_S: Final = 0.01
"""How long the first request of a function is thought to be served: little, as too much would be charged too early."""


_NOBODY: Final[OrderedDict[int, int]] = OrderedDict()
"""Most flows have nobody deferred; never written to."""


class _Flow(Share):
    """One caller of one tenant. Tickets by kind (somebody waits, deferred), each with its number of arrival."""

    __slots__ = ("count", "lines", "service_s", "since")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.count = 0
        """Of both kinds."""
        self.lines: list[OrderedDict[int, int]] = [OrderedDict(), _NOBODY]
        self.since = 0.0
        """Since when somebody of it has always waited."""
        self.service_s: float | None = None

    def first(self) -> int:
        """The ticket of the one who came first."""
        waiting, deferred = self.lines
        if not deferred:
            return next(iter(waiting))
        if not waiting:
            return next(iter(deferred))
        (one, came), (other, other_came) = next(iter(waiting.items())), next(iter(deferred.items()))
        return one if came < other_came else other


class _Tenant(Share):
    """One tenant: its flows, how many wait of each kind, and which flows have most of each."""

    __slots__ = ("count", "flows", "held", "sizes")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.flows: Level[_Flow] = Level()
        self.held = [0, 0]
        self.count = 0
        """Of both kinds."""
        self.sizes: tuple[Sizes[_Flow], Sizes[_Flow]] = (Sizes(), Sizes())


_Service = tuple[_Tenant, int, _Flow, int, float]
"""Somebody let in who has not finished: of whom, each with its level's period, and the guess."""


class FairQueue(Line):
    """
    A line in which everybody gets a fair part of the capacity, and of the places.

    Push, pop, remove and finished are O(log flows) amortised and never walk over flows or waiters. Remembered are those
    who wait, those being served, and those who were served so recently that they have had more than their part.
    """

    __slots__ = ("_arrivals", "_services", "_sizes", "_tenants")

    def __init__(self) -> None:
        super().__init__()
        self._tenants: Level[_Tenant] = Level()
        self._sizes: tuple[Sizes[_Tenant], Sizes[_Tenant]] = (Sizes(), Sizes())
        self._services: OrderedDict[int, _Service] = OrderedDict()
        self._arrivals = 0

    def first(self) -> Waiter:
        return self.waiters[self._next()[1].first()]

    def pop(self) -> Waiter:
        tenant, flow = self._next()
        waiter = self.waiters.pop(flow.first())
        self.deferred -= waiter.is_deferred
        guess_s = flow.service_s or self.service_s or _FIRST_GUESS_S
        self._services[waiter.ticket] = (tenant, self._tenants.period, flow, tenant.flows.period, guess_s)
        tenant.flows.dispatch(flow, guess_s, does_stay=flow.count > 1)
        self._tenants.dispatch(tenant, guess_s, does_stay=tenant.count > 1)
        self._take_out(waiter, tenant, flow)
        return waiter

    def finished(self, ticket: int, served_s: float | None) -> None:
        service = self._services.pop(ticket, None)
        if service is None:
            return
        tenant, tenant_period, flow, flow_period, guess_s = service
        if served_s is None:
            served_s = guess_s
        else:
            served_s = bounded_service(served_s)
            flow.service_s = average(flow.service_s, served_s)
            self.service_s = usual(self.service_s, served_s)
        tenant.flows.settle(flow, flow_period, guess_s, served_s)
        self._tenants.settle(tenant, tenant_period, guess_s, served_s)

    def forget_served(self, at_most: int) -> None:
        while len(self._services) > at_most:
            self.finished(next(iter(self._services)), None)

    def held_by(self, tenant: str, flow: str) -> int:
        found = self._flow(tenant, flow)
        return 0 if found is None else found.count

    def standing_since(self, tenant: str, flow: str) -> float | None:
        found = self._flow(tenant, flow)
        return found.since if found is not None and found.count else None

    def portion(self, waiter: Waiter) -> float:
        portion = self._tenants.portion(waiter.tenant, waiter.tenant_weight)
        if (tenant := self._tenants.shares.get(waiter.tenant)) is not None:
            portion *= tenant.flows.portion(waiter.flow, waiter.weight)
        return portion

    def ahead_of(self, waiter: Waiter) -> int:
        return self.held_by(waiter.tenant, waiter.flow)

    def fattest(self, newcomer: Waiter) -> Waiter | None:
        """
        The newest of the fattest flow of the fattest tenant, by weight, if the newcomer's had less even with him.

        Otherwise the newest of the fattest flow of his own tenant, on the same condition. Only of his kind: those who
        are deferred have places of their own.
        """
        kind = newcomer.is_deferred
        own = self._tenants.shares.get(newcomer.tenant)
        weight = newcomer.tenant_weight if own is None or not own.count else own.weight
        if _size(1 if own is None else own.held[kind] + 1, weight) < self._sizes[kind].greatest:
            return self._newest(self._sizes[kind].first(), kind=kind)
        if own is None:
            return None
        flow = own.flows.shares.get(newcomer.flow)
        size = (
            _size(len(flow.lines[kind]) + 1, flow.weight)
            if flow is not None and flow.count
            else _size(1, newcomer.weight)
        )
        return self._newest(own, kind=kind) if size < own.sizes[kind].greatest else None

    def newest_in_excess(self) -> Waiter | None:
        return self._newest(self._sizes[False].first(), kind=False)

    def _next(self) -> tuple[_Tenant, _Flow]:
        tenant = self._tenants.first()
        flow = None if tenant is None else tenant.flows.first()
        if tenant is None or flow is None:
            raise IndexError("nobody waits")
        return tenant, flow

    def _newest(self, tenant: _Tenant | None, *, kind: bool) -> Waiter | None:
        flow = tenant.sizes[kind].first() if tenant is not None else None
        return None if flow is None else self.waiters[next(reversed(flow.lines[kind]))]

    def _flow(self, tenant: str, flow: str) -> _Flow | None:
        found = self._tenants.shares.get(tenant)
        return None if found is None else found.flows.shares.get(flow)

    def _added(self, waiter: Waiter, now: float) -> None:
        tenant = self._tenants.shares.get(waiter.tenant) or _Tenant(waiter.tenant)
        flow = tenant.flows.shares.get(waiter.flow)
        if flow is None:
            flow = _Flow(waiter.flow)
        if not tenant.count:
            self._tenants.join(tenant, waiter.tenant_weight)
        if not flow.count:
            flow.since = now
            tenant.flows.join(flow, waiter.weight)
        self._arrivals += 1
        kind = waiter.is_deferred
        if kind and flow.lines[kind] is _NOBODY:
            flow.lines[kind] = OrderedDict()
        flow.lines[kind][waiter.ticket] = self._arrivals
        tenant.held[kind] += 1
        tenant.count += 1
        flow.count += 1
        self._resize(tenant, flow, kind=kind)

    def _removed(self, waiter: Waiter) -> None:
        tenant = self._tenants.shares[waiter.tenant]
        self._take_out(waiter, tenant, tenant.flows.shares[waiter.flow])

    def _take_out(self, waiter: Waiter, tenant: _Tenant, flow: _Flow) -> None:
        del flow.lines[waiter.is_deferred][waiter.ticket]
        tenant.held[waiter.is_deferred] -= 1
        tenant.count -= 1
        flow.count -= 1
        self._resize(tenant, flow, kind=waiter.is_deferred)
        if not flow.count:
            tenant.flows.leave(flow)
            if not tenant.count:
                self._tenants.leave(tenant)

    def _resize(self, tenant: _Tenant, flow: _Flow, *, kind: bool) -> None:
        tenant.sizes[kind].set(flow, _size(len(flow.lines[kind]), flow.weight))
        self._sizes[kind].set(tenant, _size(tenant.held[kind], tenant.weight))


def _size(places: int, weight: int) -> int:
    """Places taken for each unit of weight, rounded up."""
    return places if weight == 1 else -(-places // bounded_weight(weight))
