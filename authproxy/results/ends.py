"""When things end, in the order in which they do. Refuses to know clocks: times are the caller's, and never go back."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

_SLACK: int = 64


class Ends:
    """
    Name -> when it ends. Moving an end costs O(log n); what was moved or forgotten leaves an entry behind in the heap,
    and these are swept before there are more of them than of the others.
    """

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._ends)

    def set(self, name: str, at: float) -> None:
        self._ends[name] = at
        heapq.heappush(self._heap, (at, name))
        if len(self._heap) > 2 * len(self._ends) + _SLACK:
            self._heap = [(end, known) for known, end in self._ends.items()]
            heapq.heapify(self._heap)

    def forget(self, name: str) -> None:
        self._ends.pop(name, None)

    def over(self, now: float) -> Iterator[str]:
        """The names that have ended, each once: they are forgotten by being told."""
        while self._heap and self._heap[0][0] <= now:
            at, name = heapq.heappop(self._heap)
            if self._ends.get(name) == at:
                del self._ends[name]
                yield name
