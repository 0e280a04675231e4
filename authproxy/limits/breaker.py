"""
When to stop asking a store that does not answer, and when to ask again. Pure: the time is an argument.

Closed: the store is asked. Three failures within a second open the breaker; then one task probes every half second, and
the first probe that succeeds closes it. This module refuses to know what is asked.
"""

from __future__ import annotations

from collections import deque
from typing import Final

FAILURES: Final = 3
WINDOW_S: Final = 1.0
PROBE_EVERY_S: Final = 0.5


class Breaker:
    """Counts failures of one store. ``now`` is seconds of any clock that never goes back."""

    def __init__(
        self, *, failures: int = FAILURES, window_s: float = WINDOW_S, probe_every_s: float = PROBE_EVERY_S
    ) -> None:
        self._failures = failures
        self._window_s = window_s
        self._probe_every_s = probe_every_s
        self._failed_at: deque[float] = deque(maxlen=failures)
        self._last_attempt = 0.0
        self.is_open = False

    def failed(self, now: float) -> bool:
        """The store failed. True when this opens the breaker."""
        self._failed_at.append(now)
        self._last_attempt = now
        has_opened = (
            not self.is_open and len(self._failed_at) == self._failures and now - self._failed_at[0] <= self._window_s
        )
        self.is_open = self.is_open or has_opened
        return has_opened

    def succeeded(self) -> bool:
        """The store answered while it was asked whether it is back. True when this closes the breaker."""
        was_open = self.is_open
        self.is_open = False
        if was_open:
            self._failed_at.clear()
        return was_open

    def wait_s(self, now: float) -> float:
        """Seconds until the store may be asked again; 0 while closed."""
        if not self.is_open:
            return 0.0
        return max(0.0, self._last_attempt + self._probe_every_s - now)
