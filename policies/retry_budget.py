"""
How many requests may be sent a second time: a part of those sent lately, so that retries never make a storm.

Whether a request may be sent again at all (its method, what was written of it) is not asked here.
"""

from __future__ import annotations

from typing import Final

RATIO: Final = 0.2
"""Retries for each request of the window; what Envoy, Finagle and tower start from."""
FLOOR_PER_S: Final = 3
"""Retries a second that are free, so that a function with few requests may be retried at all."""
WINDOW_S: Final = 10.0
_SLOTS_PER_S: Final = 2
_SLOTS: Final = int(WINDOW_S * _SLOTS_PER_S) + 1
"""One more than the window: the oldest may lie in it in part."""


class RetryBudget:
    """
    Of one function. O(1) memory: two rings of half seconds.

    Requests count only while their whole half second lies in the window, retries as long as any of theirs does: at each
    retry, those of the last 10 s, it among them, are at most 20 % of the requests of the last 10 s plus 30 (Q10).
    """

    __slots__ = ("_requests", "_retries", "_slot")

    def __init__(self) -> None:
        self._requests = [0] * _SLOTS
        self._retries = [0] * _SLOTS
        self._slot = 0
        """Number of the current half second since the clock's zero."""

    def sent(self, now: float, count: int = 1) -> None:
        """So many requests left for the function, retries not among them."""
        self._turn(now)
        self._requests[self._slot % _SLOTS] += count

    def may_retry(self, now: float) -> bool:
        """True takes one."""
        self._turn(now)
        oldest = (self._slot + 1) % _SLOTS
        requests = sum(self._requests) - self._requests[oldest]
        if sum(self._retries) + 1 > RATIO * requests + FLOOR_PER_S * WINDOW_S:
            return False
        self._retries[self._slot % _SLOTS] += 1
        return True

    def _turn(self, now: float) -> None:
        """Empty the slots that time has passed; a clock that goes back stands still."""
        slot = int(now * _SLOTS_PER_S)
        for passed in range(max(self._slot + 1, slot - _SLOTS + 1), slot + 1):
            self._requests[passed % _SLOTS] = self._retries[passed % _SLOTS] = 0
        self._slot = max(self._slot, slot)
