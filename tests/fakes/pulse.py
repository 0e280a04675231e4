"""
How long this machine stood still, so that what is judged by time can be told from what had no time.

A thread wakes every few milliseconds and writes down when it was late. It needs a processor and nothing else: neither a
busy event loop nor a slow Redis makes it late, a neighbour that takes every processor for half a second does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar

_BEAT_S: Final = 0.005
_LATE_S: Final = 0.025
"""From then on it was not only another thread that had its turn."""
_STOOD_STILL_S: Final = 0.1
T = TypeVar("T")


class Pulse:
    """``with Pulse() as pulse``; instants are those of ``time.monotonic``."""

    def __init__(self) -> None:
        self._gaps: list[tuple[float, float]] = []
        self._due = 0.0
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)

    def lost_s(self, since: float, until: float | None = None) -> float:
        """Seconds between two instants (until now) in which this process had no time."""
        with self._lock:
            now = time.monotonic()
            gaps = [*self._gaps, (self._due, now)] if now - self._due > _LATE_S else self._gaps
        end = now if until is None else until
        return sum(max(0.0, min(end, to) - max(since, at)) for at, to in gaps)

    def took_s(self, since: float, until: float | None = None) -> float:
        """Seconds between two instants (until now), without those that were lost."""
        end = time.monotonic() if until is None else until
        return end - since - self.lost_s(since, end)

    def at_rest(self, attempt: Callable[[], T], is_good: Callable[[T], bool] = lambda _: True, tries: int = 3) -> T:
        """
        What ``attempt`` comes to; it is made again if it failed, or is not good, and the machine stood still meanwhile.

        For what judges by time itself, and cannot be told otherwise. On a machine that goes on there is one attempt.
        """
        while True:
            tries -= 1
            since = time.monotonic()
            try:
                result = attempt()
            except Exception:
                if not tries or self.lost_s(since) < _STOOD_STILL_S:
                    raise
                continue
            if is_good(result) or not tries or self.lost_s(since) < _STOOD_STILL_S:
                return result

    def __enter__(self) -> Self:
        self._due = time.monotonic() + _BEAT_S
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._is_over.wait(_BEAT_S):
            with self._lock:
                now = time.monotonic()
                if now - self._due > _LATE_S:
                    self._gaps = [*self._gaps, (self._due, now)]
                self._due = now + _BEAT_S
