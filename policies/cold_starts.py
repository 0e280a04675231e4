"""What the last cold starts of a function took, and what that says of the next one. Knows no clock."""

from __future__ import annotations

from collections import deque
from math import ceil
from statistics import median
from typing import Final

REMEMBERED_COLD_STARTS: Final = 20
ASSUMED_COLD_START_S: Final = 5.0
"""Told to callers until a cold start was measured; container platforms take 1 to 10 s."""
_ENOUGH: Final = 3
"""Fewer measurements are an anecdote: nobody is refused for them."""


class ColdStarts:
    """The last cold starts of one function."""

    __slots__ = ("_durations_s", "_p90_s", "p50_s")

    def __init__(self) -> None:
        self._durations_s: deque[float] = deque(maxlen=REMEMBERED_COLD_STARTS)
        self.p50_s = ASSUMED_COLD_START_S
        self._p90_s = 0.0

    def add(self, duration_s: float) -> None:
        self._durations_s.append(duration_s)
        self.p50_s = median(self._durations_s)
        ordered = sorted(self._durations_s)
        # Three quick ones in a row: whatever made it slow is over, and nobody must be refused for it any longer.
        lately_s = max(list(self._durations_s)[-_ENOUGH:])
        self._p90_s = min(ordered[ceil(0.9 * len(ordered)) - 1], lately_s)

    def expected_s(self) -> float | None:
        """
        Nine of ten took no longer (nearest rank), or none of the last three did; None while too few were measured to
        refuse anybody for it.
        """
        return self._p90_s if len(self._durations_s) >= _ENOUGH else None

    def remaining_s(self, elapsed_s: float = 0.0) -> int:
        """
        Whole seconds until the function is likely to be ready, at least 1: half of its cold starts took no longer.

        Source: RFC 9110 section 10.2.3 (Retry-After).
        """
        return max(1, ceil(self.p50_s - elapsed_s))
