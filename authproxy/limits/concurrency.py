"""
``concurrent`` limits: how many requests are at a function at once, counted in this process.

Taken when a request leaves for its function and released when its answer has ended. Counts are not shared between
replicas: with ``replicas`` each takes its part, rounded up, so that a limit below the number of replicas still lets
each of them serve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from policies.limits import Parallel


class Lease:
    """What one request has taken of its limits. Whoever took it releases it, however the request ends."""

    __slots__ = ("_counts", "_keys")

    def __init__(self, counts: dict[str, int], keys: tuple[str, ...]) -> None:
        self._counts = counts
        self._keys = keys

    def release(self) -> None:
        """Idempotent; a count that returns to 0 is forgotten."""
        keys, self._keys = self._keys, ()
        counts = self._counts
        for key in keys:
            left = counts[key] - 1
            if left:
                counts[key] = left
            else:
                del counts[key]


_NOTHING: Final = Lease({}, ())
"""Shared: releasing nothing changes nothing."""


class ConcurrencyLimits:
    """Counts of all ``concurrent`` limits of this process."""

    def __init__(self, *, replicas: Callable[[], int] | None = None) -> None:
        """``replicas``: how many processes share the limits now, at least 1."""
        self._replicas = replicas
        self._counts: dict[str, int] = {}

    def take(self, limits: Sequence[Parallel]) -> Lease | int:
        """Take all of them, or none and say the index of the first that is used up."""
        if not limits:
            return _NOTHING
        counts = self._counts
        replicas = 1 if self._replicas is None else self._replicas()
        for index, limit in enumerate(limits):
            if counts.get(limit.key, 0) >= -(-limit.maximum // replicas):
                return index
        for limit in limits:
            counts[limit.key] = counts.get(limit.key, 0) + 1
        return Lease(counts, tuple(limit.key for limit in limits))

    def in_use(self, key: str) -> int:
        return self._counts.get(key, 0)

    @property
    def key_count(self) -> int:
        """Keys with a count above 0."""
        return len(self._counts)
