"""
What the Porteros of one cluster have to agree on while functions wake, and what it comes to for one that is alone.

Three things: who calls the platform to wake a function (a lease), how many requests may wait anywhere (reserved
places), and, for functions of which all Porteros share the concurrency, who may send how many at once (slots). Nothing
here waits for longer than it says, and none of it is on the path of a request to a function that is awake and whose
concurrency is not shared. It refuses to know tenants, functions and requests: keys are words of the activator's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

LEASE_S: Final = 4.0
"""How long a wake lease lasts unless it is kept: a Portero that crashed while it woke delays the next wake by this."""
KEEP_WAKE_EVERY_S: Final = 1.0
"""How often whoever has a wake lease keeps it."""
TRIES: Final = 8
"""Of ``find_place``: each fails only when others took at once what was reserved."""

CountHeld = Callable[[str], int]
OnHeld = Callable[[int], None]


class SlotPool(Protocol):
    """One function's slots, seen from one Portero."""

    def want(self, in_use: int, wanted: int, capacity: int) -> None:
        """
        Say how things stand; never waits, and words of one turn of the event loop travel together.

        A slot whose request is over is given back by this: ``in_use`` falls, and ``on_held`` tells what is held then.

        Args:
            in_use: requests in flight; at most what ``on_held`` told last, but for those of before an outage.
            wanted: requests in flight and those that wait, at most ``capacity``.
            capacity: of the function, all Porteros together; 0 while it is not known to be awake.
        """

    def close(self) -> None:
        """Want nothing any more. Idempotent; nothing is told after it."""


class Cluster(Protocol):
    """One per process and event loop."""

    @property
    def sharers(self) -> int:
        """Porteros that live, this one included: at least 1."""

    async def lease_wake(self, key: str) -> bool:
        """
        Whether the wake of this function is ours to call: for ``LEASE_S``, and as long as it is kept.

        True again and again for who has it. Raises: StoreUnavailable.
        """

    async def keep_wake(self, key: str) -> None:
        """Due each ``KEEP_WAKE_EVERY_S`` while the wake is under way. Never raises; a lease lost is not taken back."""

    async def end_wake(self, key: str) -> None:
        """The wake has ended, or failed. Never raises: a lease that cannot be given back ends by itself."""

    def count_held(self, count: CountHeld) -> None:
        """How many requests this Portero holds now under a key: asked each second, to give back what is not needed."""

    def has_place(self, key: str, ceiling: int, held: int) -> bool:
        """
        Whether one more may be held besides ``held`` of this Portero without asking anybody.

        Args:
            key: what is bounded.
            ceiling: of all Porteros together.
            held: of this Portero, under this key, now.
        """

    async def reserve(self, key: str, ceiling: int, held: int) -> bool:
        """
        Ask for places for ``held`` + 1; False: the cluster has none left. At most 100 ms; never raises.

        Others of this Portero may have taken the place before the caller goes on: ``has_place`` then says no, and it is
        to be asked again (``find_place`` does). Without the store this Portero has its part of the ceiling.
        """

    def slots(self, key: str, on_held: OnHeld) -> SlotPool:
        """
        Begin to share a function's capacity.

        Args:
            key: of the function.
            on_held: told, from the event loop and never within ``want``, how many slots this Portero holds, those in
                use included. It may fall below what was told before, never below what is in use.
        """

    async def start(self) -> None:
        """Join the others; at most a second. Idempotent."""

    async def close(self) -> None:
        """Leave, and give back what is held. Idempotent; never raises."""


async def find_place(cluster: Cluster, key: str, ceiling: int, held: Callable[[], int]) -> bool:
    """
    Whether one more may be held now: when it is True, no other took the place before the caller's next await.

    Cancelling it takes nothing. With ``has_place`` true it never gives up control.
    """
    for _ in range(TRIES):
        if cluster.has_place(key, ceiling, held()):
            return True
        if not await cluster.reserve(key, ceiling, held()):
            return False
    return cluster.has_place(key, ceiling, held())


class LocalCluster:
    """A ``Cluster`` of one: every wake is ours, all places and all slots are."""

    sharers: Final = 1

    def __init__(self) -> None:
        self._pools: set[LocalSlots] = set()

    async def lease_wake(self, key: str) -> bool:  # noqa: ARG002  # the protocol's signature
        return True

    async def keep_wake(self, key: str) -> None:
        """Nobody else could have it."""

    async def end_wake(self, key: str) -> None:
        """Nobody else waits for it."""

    def count_held(self, count: CountHeld) -> None:
        """Nobody needs to know."""

    def has_place(self, key: str, ceiling: int, held: int) -> bool:  # noqa: ARG002  # as above
        return held < ceiling

    async def reserve(self, key: str, ceiling: int, held: int) -> bool:  # noqa: ARG002  # as above
        return held < ceiling

    def slots(self, key: str, on_held: OnHeld) -> LocalSlots:  # noqa: ARG002  # as above
        pool = LocalSlots(on_held, self._pools.discard)
        self._pools.add(pool)
        return pool

    async def start(self) -> None:
        """There is nobody to join."""

    async def close(self) -> None:
        for pool in tuple(self._pools):
            pool.close()


class LocalSlots:
    """A ``SlotPool`` that nobody shares: what is wanted is held, up to the capacity."""

    __slots__ = ("_forget", "_held", "_in_use", "_on_held", "_turn", "_wanted")

    def __init__(self, on_held: OnHeld, forget: Callable[[LocalSlots], None]) -> None:
        self._on_held: OnHeld | None = on_held
        self._forget = forget
        self._in_use = 0
        self._held = 0
        """What was told last, less what was given back since."""
        self._wanted = 0
        self._turn: asyncio.Handle | None = None

    def want(self, in_use: int, wanted: int, capacity: int) -> None:
        if self._on_held is None:
            return
        self._held = max(in_use, self._held - max(0, self._in_use - in_use))
        self._in_use = in_use
        self._wanted = max(in_use, min(wanted, capacity))
        if self._turn is None and self._has_news:
            self._turn = asyncio.get_running_loop().call_soon(self._tell)

    def close(self) -> None:
        self._on_held = None
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._forget(self)

    def _tell(self) -> None:
        self._turn = None
        if self._on_held is not None and self._has_news:
            self._held = self._wanted
            self._on_held(self._held)

    @property
    def _has_news(self) -> bool:
        """Told once too often does no harm; told once too seldom, somebody would wait for nothing."""
        return self._held != self._wanted or self._in_use < self._wanted
