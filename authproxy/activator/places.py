"""
How many may wait for one function and for one tenant: the policy's bounds, less what other Porteros have taken of them.

It asks the cluster, which mostly knows without asking anybody, and narrows the bounds of the waiting room to what waits
here already when there is no place left: the room then refuses in its own order, so that a caller with few requests
still takes the place of one with many. It refuses to know who is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from authproxy.activator.cluster import Cluster, find_place
from authproxy.activator.driver import Driver
from policies.coldstart_events import Bounds
from policies.tables import Place
from policies.waiting import Ledger

_TRIES: Final = 4
"""Of finding a place at function and tenant at the same moment."""


class _Want(NamedTuple):
    key: str
    ceiling: int
    held: Callable[[], int]


class Places:
    """
    One per activator.

    Args:
        drivers: by (backend, namespace, function); those that are not there hold nothing.
    """

    def __init__(self, cluster: Cluster, drivers: Mapping[tuple[str, str, str], Driver], ledger: Ledger) -> None:
        self._cluster = cluster
        self._drivers = drivers
        self._ledger = ledger
        cluster.count_held(self.held)

    async def bounds(self, place: Place, *, is_deferred: bool) -> Bounds:
        """
        What the room is to be told. Nobody else takes the place before the caller's next ``await``.

        Does not wait when nobody has to be asked, else some tenths of a second at most. Cancelling it takes nothing.
        """
        tenant, cold_start = place.tenant, place.spec.cold_start
        kind = "deferred" if is_deferred else "function"
        function = self._want(f"{kind}:{tenant.backend}/{tenant.namespace}/{place.function}", cold_start.max_held)
        everybody = self._want(f"tenant:{tenant.name}", tenant.ceilings.held)
        full = await self._full((function, everybody))
        return Bounds(
            min(function.ceiling, function.held()) if full is function else function.ceiling,
            cold_start.max_held_per_caller,
            min(everybody.ceiling, everybody.held()) if full is everybody else everybody.ceiling,
        )

    def held(self, key: str) -> int:
        """Requests that wait here under a key of the cluster's; 0 for what nobody holds."""
        kind, _, name = key.partition(":")
        if kind == "tenant":
            return self._ledger.held(name)
        backend, _, rest = name.partition("/")
        namespace, _, function = rest.partition("/")
        driver = self._drivers.get((backend, namespace, function))
        if driver is None:
            return 0
        # Who waits only to be told whether the function is awake has no place yet.
        return driver.held_deferred if kind == "deferred" else driver.held_now - driver.room.beyond

    def _want(self, key: str, ceiling: int) -> _Want:
        return _Want(key, ceiling, lambda: self.held(key))

    async def _full(self, wants: tuple[_Want, ...]) -> _Want | None:
        """The first that has no place left; None: all of them have one, until the next ``await``."""
        for _ in range(_TRIES):
            for want in wants:
                if not await find_place(self._cluster, *want):
                    return want
            if all(self._cluster.has_place(want.key, want.ceiling, want.held()) for want in wants):
                return None
        return wants[0]  # others were quicker each time
