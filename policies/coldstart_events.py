"""
What can happen to a waiting room, and what it can want done: the alphabet of ``coldstart.py``.

Plain values without behaviour. Instants are seconds of any clock that never goes back.
"""

from __future__ import annotations

from typing import NamedTuple

from policies.decision import Reason
from policies.waiting import Waiter


class Bounds(NamedTuple):
    """How many may wait. Those who get their answer later (``Arrived.is_deferred``) have ``max_held`` of their own."""

    max_held: int
    """Places of this function."""
    max_held_per_caller: int | None
    """Places of one flow at this function; None: no bound of its own."""
    tenant_ceiling: int
    """Places of the tenant over all functions."""


class Arrived(NamedTuple):
    """A request that may run wants in; what its policy says of the function comes with it, so that reloads count."""

    waiter: Waiter
    now: float
    bounds: Bounds
    concurrency: int | None
    may_wake: bool = True
    """False: it only waits to be told whether the function is awake, and calls for nothing."""
    is_deferred: bool = False
    """Nobody waits for its answer: it has been accepted, and is run when there is time. Never shed."""
    is_shared: bool = False
    """``concurrency`` is that of all Porteros together: a place in flight needs a slot (``SlotsHeld``)."""


class Left(NamedTuple):
    """The client of a waiting request has gone."""

    ticket: int
    now: float


class ReadinessSeen(NamedTuple):
    """The answer to ``AskReadiness``."""

    replicas: int
    now: float


class Missing(NamedTuple):
    """The answer to ``AskReadiness``: there is no such function."""

    now: float


class AskFailed(NamedTuple):
    """``AskReadiness`` could not be answered. ``jitter`` in [0, 1)."""

    now: float
    jitter: float


class WakeSucceeded(NamedTuple):
    """The platform took the wake; the function is not ready for that."""

    now: float


class WakeFailed(NamedTuple):
    """The platform did not take the wake. ``jitter`` in [0, 1)."""

    now: float
    jitter: float


class WakeDenied(NamedTuple):
    """The tenant on whose account the wake was may not wake any more for now; nothing was sent."""

    tenant: str
    retry_after_s: int
    now: float


class WakeElsewhere(NamedTuple):
    """Another Portero is waking it; nothing was sent. A ``Wake`` follows in 2 s if that came to nothing."""

    now: float


class SlotsHeld(NamedTuple):
    """How many places in flight are this Portero's, those in use among them; the answer to ``WantSlots``, or news."""

    held: int
    now: float


class Finished(NamedTuple):
    """A request that was let in is over, or did not leave after all."""

    now: float
    ticket: int | None = None
    """None: it was let in without waiting."""
    served_s: float | None = None
    """How long the function had it; None when that is not known, or it did not leave."""


class Unreached(NamedTuple):
    """The function could not be reached (connection refused, "no replica"): what is believed of it is void."""

    now: float


class Tick(NamedTuple):
    """Time has passed; due at ``Room.next_tick_at()``."""

    now: float


class Closed(NamedTuple):
    """Portero stops: nobody waits any longer."""

    now: float


Event = (
    Arrived
    | Left
    | ReadinessSeen
    | Missing
    | AskFailed
    | WakeSucceeded
    | WakeFailed
    | WakeDenied
    | WakeElsewhere
    | SlotsHeld
    | Finished
    | Unreached
    | Tick
    | Closed
)


class AskReadiness(NamedTuple):
    """Ask the platform now; answer with ReadinessSeen, Missing or AskFailed."""


class Wake(NamedTuple):
    """Call for a replica now; answer with WakeSucceeded, WakeFailed, WakeDenied or WakeElsewhere."""

    tenant: str
    """On whose account: one who waits."""
    is_retry: bool
    """The attempt before failed and those who wait have paid for it already."""


class Release(NamedTuple):
    """Let this request in; it holds one place in flight until Finished."""

    ticket: int


class Refuse(NamedTuple):
    """This request ends here."""

    ticket: int
    reason: Reason
    retry_after_s: int | None


class Awoke(NamedTuple):
    """A wake has ended: the function is ready after so many seconds, or nothing came of it (None)."""

    tenant: str
    cold_start_s: float | None


class WantSlots(NamedTuple):
    """For a function whose concurrency is shared: what this Portero uses and wants of it. Absolute; all 0 gives up."""

    in_use: int
    wanted: int
    """In use and waiting, at most ``capacity``."""
    capacity: int
    """Of all Porteros together."""


Command = AskReadiness | Wake | Release | Refuse | Awoke | WantSlots
