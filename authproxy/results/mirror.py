"""What this Portero has others keep for it, counted here: nobody asks Redis for the sake of a metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from authproxy.results.ends import Ends
from authproxy.results.store import PENDING_S, ResultSizes


@dataclass(slots=True)
class _Seen:
    keep_s: float
    size: int | None = None
    """None: pending."""


class Mirror:
    """
    Names that were opened here, until they end. What another Portero deletes is seen when it would have ended.

    Args:
        monotonic: seconds that never go back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._ends = Ends()
        self._seen: dict[str, _Seen] = {}
        self._pending = 0
        self._bytes = 0

    def opened(self, name: str, keep_s: float) -> None:
        now = self._forget_ended()
        self._seen[name] = _Seen(keep_s)
        self._pending += 1
        self._ends.set(name, now + PENDING_S)

    def renewed(self, name: str) -> None:
        now = self._forget_ended()
        if name in self._seen:
            self._ends.set(name, now + PENDING_S)

    def finished(self, name: str, size: int) -> None:
        now = self._forget_ended()
        seen = self._seen.get(name)
        if seen is not None and seen.size is None:
            seen.size = size
            self._pending -= 1
            self._bytes += size
            self._ends.set(name, now + seen.keep_s)

    def forget(self, name: str) -> None:
        self._ends.forget(name)
        seen = self._seen.pop(name, None)
        if seen is None:
            return
        if seen.size is None:
            self._pending -= 1
        else:
            self._bytes -= seen.size

    def sizes(self) -> ResultSizes:
        self._forget_ended()
        return ResultSizes(self._pending, len(self._seen) - self._pending, self._bytes)

    def _forget_ended(self) -> float:
        """Returns now."""
        now = self._monotonic()
        for name in self._ends.over(now):
            self.forget(name)
        return now
