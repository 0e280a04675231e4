"""
Two orders that can be asked for their first at any time: by priority (``Heap``), by size, greatest first (``Sizes``).

Made for keys whose place changes often and who may be gone before their turn: neither ever walks over its keys.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Heap(Generic[K]):
    """
    Keys by priority, the least first; those of equal priority in the order in which they were set.

    O(log n) amortised. Who was taken out or set anew leaves a tombstone; the heap is rebuilt before tombstones
    outnumber the living, so that those who keep coming and leaving cannot make it grow.
    """

    __slots__ = ("_entries", "_living", "_serial")

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, K]] = []
        self._living: dict[K, tuple[float, int, K]] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._living)

    def __contains__(self, key: object) -> bool:
        return key in self._living

    def set(self, key: K, priority: float) -> None:
        """Put in, or move."""
        self._serial += 1
        entry = (priority, self._serial, key)
        self._living[key] = entry
        if self._entries and self._entries[0][2] is key:
            heapreplace(self._entries, entry)
            return
        heappush(self._entries, entry)
        if len(self._entries) > 2 * len(self._living) + 64:
            self._entries = list(self._living.values())
            heapify(self._entries)

    def discard(self, key: K) -> None:
        """Take out, if it is in."""
        if self._living.pop(key, None) is not None and not self._living:
            self._entries.clear()

    def first(self) -> K | None:
        """The key of least priority, who stays; None when there is none."""
        entries, living = self._entries, self._living
        while entries:
            entry = entries[0]
            if living.get(entry[2]) is entry:
                return entry[2]
            heappop(entries)
        return None


class Sizes(Generic[K]):
    """Keys by a whole number; the greatest at hand. O(1) amortised where a number changes by little at a time."""

    __slots__ = ("_by_size", "_sizes", "greatest")

    def __init__(self) -> None:
        self._sizes: dict[K, int] = {}
        self._by_size: dict[int, dict[K, None]] = {}
        self.greatest = 0
        """0: nobody is in."""

    def set(self, key: K, size: int) -> None:
        """``size`` >= 0; 0 takes the key out."""
        before = self._sizes.get(key, 0)
        if size == before:
            return
        if before:
            same = self._by_size[before]
            del same[key]
            if not same:
                del self._by_size[before]
        if size:
            self._sizes[key] = size
            self._by_size.setdefault(size, {})[key] = None
            self.greatest = max(self.greatest, size)
        else:
            del self._sizes[key]
        while self.greatest and self.greatest not in self._by_size:
            self.greatest -= 1

    def first(self) -> K | None:
        """One of the greatest; None when nobody is in."""
        return next(iter(self._by_size[self.greatest])) if self.greatest else None
