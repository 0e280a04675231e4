"""
Places of requests that wait, counted by all Porteros together: reserved ahead, so that most need no question.

For each bound a Portero reserves what it holds and a little more, in one step with whatever else is to be asked at that
moment, and says each second what it needs still; what a crashed one had is free again ``TTL_S`` after its last word. So
the ceiling of the cluster is never passed, and may refuse up to a sixteenth early, when others have reserved what they
do not use yet. Without Redis a Portero has its part: the ceiling divided by the Porteros seen last.

It refuses to know what is bounded, and why somebody waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from authproxy.activator.cluster import CountHeld
from policies.errors import StoreUnavailable

TTL_S: Final = 4.0
TRUST_S: Final = 3.5
"""How long a reply is believed, from when it was asked for: less than ``TTL_S``."""
PATIENCE_S: Final = 0.1
"""How long somebody who comes waits for an answer."""
ALONE_S: Final = 1.0
"""After no answer came: how long nobody asks, so that an outage costs the first and not everyone that wait."""
AHEAD: Final = 16
"""A Portero reserves ahead at most this part of its part of a ceiling."""
BATCH: Final = 100
"""Bounds in one step."""
MAX_BOUNDS: Final = 50_000
"""Known at once; what comes then is refused. A bound that nobody needs is forgotten within two seconds."""


class Need(NamedTuple):
    """What one Portero needs of one bound."""

    key: str
    ceiling: int
    used: int
    needed: int
    """Used, and waited for at this moment."""
    wanted: int
    """Ahead of need."""


Reserve = Callable[[Sequence[Need]], Awaitable[Sequence[int]]]
"""Asks Redis; the places had, one a need, -1 where that is not known. Raises: StoreUnavailable."""


class _Bound:
    __slots__ = ("asked", "ceiling", "flight", "share", "told", "until")

    def __init__(self) -> None:
        self.ceiling = 0
        self.share = 0
        self.until = float("-inf")
        """``share`` counts until then."""
        self.told = 0
        """What the activator said last that it holds."""
        self.asked = 0
        """Places that somebody waits for now."""
        self.flight: asyncio.Future[None] | None = None


class Places:
    """
    All bounds of one Portero.

    Args:
        reserve: may be cancelled.
        sharers: Porteros that live, at least 1.
    """

    def __init__(
        self, reserve: Reserve, sharers: Callable[[], int], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._reserve = reserve
        self._sharers = sharers
        self._monotonic = monotonic
        self._bounds: dict[str, _Bound] = {}
        self._waiting: dict[str, _Bound] = {}
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        """One question at a time: replies are then in the order of what was said."""
        self._alone_until = float("-inf")
        self.count: CountHeld | None = None

    def __len__(self) -> int:
        return len(self._bounds)

    def has_place(self, key: str, ceiling: int, held: int) -> bool:
        """As ``Cluster.has_place``."""
        bound = self._bounds.get(key)
        if bound is None:
            return False
        bound.told = held
        return held < bound.share and held < ceiling and self._monotonic() < bound.until

    async def reserve(self, key: str, ceiling: int, held: int) -> bool:
        """As ``Cluster.reserve``."""
        if held >= ceiling:
            return False
        bound = self._bounds.get(key)
        if bound is None:
            if len(self._bounds) >= MAX_BOUNDS:
                return False
            bound = self._bounds[key] = _Bound()
        bound.ceiling = ceiling
        bound.told = held
        if self._monotonic() < self._alone_until:
            return self._alone(bound, held)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._ask(key, bound)
        except (TimeoutError, StoreUnavailable):
            self._alone_until = self._monotonic() + ALONE_S
            return self._alone(bound, held)
        return bound.share > bound.told

    async def renew(self) -> None:
        """
        Say what is needed still, and forget what is not. Due each second.

        Raises: StoreUnavailable; then shares end when they are not trusted any more.
        """
        idle = []
        for key, bound in self._bounds.items():
            if self.count is not None:
                bound.told = self.count(key)
            if not (bound.told or bound.share or bound.asked):
                idle.append(key)
        for key in idle:
            del self._bounds[key]
        due = [(key, bound) for key, bound in self._bounds.items() if not bound.asked]
        for start in range(0, len(due), BATCH):
            await self._tell(due[start : start + BATCH])
        self._alone_until = float("-inf")

    async def close(self) -> None:
        """Give all back. Raises: StoreUnavailable."""
        if self._task is not None:
            self._task.cancel()
        bounds, self._bounds = list(self._bounds.items()), {}
        for start in range(0, len(bounds), BATCH):
            await self._reserve([Need(key, 0, 0, 0, 0) for key, _ in bounds[start : start + BATCH]])

    def _alone(self, bound: _Bound, held: int) -> bool:
        """Without Redis: this Portero's part, and at least one place."""
        known = bound.share if self._monotonic() < bound.until else 0
        bound.share = max(1, bound.ceiling // self._sharers(), known)
        bound.until = max(bound.until, self._alone_until)
        return held < bound.share

    async def _ask(self, key: str, bound: _Bound) -> None:
        """Wait for a reply that knows of this caller."""
        bound.asked += 1
        try:
            if bound.flight is None:
                bound.flight = asyncio.get_running_loop().create_future()
                self._waiting[key] = bound
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._fly(), name="activator: reserve places")
            await asyncio.shield(bound.flight)
        finally:
            bound.asked -= 1

    async def _fly(self) -> None:
        """Ask for all that wait, in one step at a time."""
        while self._waiting:
            batch = list(self._waiting.items())[:BATCH]
            flights = [bound.flight for _, bound in batch]
            for key, bound in batch:
                del self._waiting[key]
                bound.flight = None
            error: BaseException | None = None
            try:
                await self._tell(batch)
            except (StoreUnavailable, asyncio.CancelledError) as caught:
                error = caught
            for flight in flights:
                if flight is not None and not flight.done():
                    if error is None:
                        flight.set_result(None)
                    else:
                        flight.set_exception(StoreUnavailable("redis: no places"))
                        flight.exception()  # whoever waited may have gone
            if isinstance(error, asyncio.CancelledError):
                raise error

    async def _tell(self, bounds: Sequence[tuple[str, _Bound]]) -> None:
        async with self._turn:
            asked_at = self._monotonic()
            sharers = self._sharers()
            needs = []
            for key, bound in bounds:
                some = bound.told + bound.asked
                wanted = some + bound.ceiling // (AHEAD * sharers) if some else 0
                bound.share = min(bound.share, wanted)  # others may have the rest before the reply is here
                needs.append(Need(key, bound.ceiling, bound.told, some, wanted))
            had = await self._reserve(needs)
            for (_, bound), share in zip(bounds, had, strict=True):
                if share >= 0:
                    bound.share = share
                    bound.until = asked_at + TRUST_S
