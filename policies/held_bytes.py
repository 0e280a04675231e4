"""
How many bytes of bodies may be kept while their requests are held: per caller, function and tenant, and in all.

Counts only; who keeps the bytes, and where, is the edges' business. An account takes all it asks for or nothing, and
gives all of it back at once when it is closed.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from policies.decision import Reason

_ALL: Final = ("all",)
_Key = tuple[Hashable, ...]


class HeldBytes:
    """The books of one process. Counts return to 0 when every account is closed (Q5); O(accounts) memory."""

    __slots__ = ("_held", "max_total")

    def __init__(self, max_total: int) -> None:
        self.max_total = max_total
        self._held: dict[_Key, int] = {}

    @property
    def total(self) -> int:
        return self._held.get(_ALL, 0)

    def held(self, tenant: str) -> int:
        """Over all functions of the tenant."""
        return self._held.get(("tenant", tenant), 0)

    def open(
        self,
        tenant: str,
        tenant_ceiling: int,
        function: Hashable,
        function_max: int | None,
        flow: str,
        flow_max: int | None,
    ) -> Account:
        """
        An account of one request, empty.

        Args:
            tenant: on whose account.
            tenant_ceiling: bytes of the tenant over all functions.
            function: whatever names the function in this process.
            function_max: bytes of all callers at this function; None: only the tenant's ceiling.
            flow: the caller, as ``Waiter.flow``.
            flow_max: bytes of this caller at this function; None: only the function's bound.
        """
        bounds: list[tuple[_Key, int]] = [(("tenant", tenant), tenant_ceiling)]
        if function_max is not None:
            bounds.append((("function", function), function_max))
        if flow_max is not None:
            bounds.append((("flow", function, tenant, flow), flow_max))
        return Account(tenant, self._held, self.max_total, tuple(bounds))


class Account:
    """What one request keeps. Closed exactly once however often ``close`` is called."""

    __slots__ = ("_bounds", "_held", "_is_closed", "_max_total", "taken", "tenant")

    def __init__(
        self, tenant: str, held: dict[_Key, int], max_total: int, bounds: tuple[tuple[_Key, int], ...]
    ) -> None:
        self.tenant = tenant
        self._held = held
        self._max_total = max_total
        self._bounds = bounds
        self._is_closed = False
        self.taken = 0
        """Bytes."""

    def take(self, count: int) -> Reason | None:
        """
        Take ``count`` bytes more, all or nothing.

        Returns:
            None when taken; QUEUE_FULL when the caller, the function or the tenant has no more; OVERLOADED when nobody
            has, or the account is closed: a late read must not take what nobody gives back.
        """
        if count <= 0:
            return None
        held = self._held
        if self._is_closed:
            return Reason.OVERLOADED
        for key, bound in self._bounds:
            if held.get(key, 0) + count > bound:
                return Reason.QUEUE_FULL
        if held.get(_ALL, 0) + count > self._max_total:
            return Reason.OVERLOADED
        self._add(count)
        return None

    def close(self) -> None:
        """Give everything back."""
        self._is_closed = True
        if self.taken:
            self._add(-self.taken)

    def _add(self, count: int) -> None:
        self.taken += count
        for key in (_ALL, *(key for key, _ in self._bounds)):
            if left := self._held.get(key, 0) + count:
                self._held[key] = left
            else:
                self._held.pop(key, None)
