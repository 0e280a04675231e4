"""
What one replica remembers for itself: a ``StateStore`` in memory, for a single replica without Redis, and for tests.

It ends with the process: who restarts Portero asks everybody to log in once more. Times to live are counted by the
monotonic clock, so a clock that is set does not bring back a used state nor end a lease. A full store refuses what is
new instead of forgetting what is there: a forgotten state could be used a second time. No tenant may take more than
half of what the others leave, so that who fills one tenant's share refuses nothing of another's.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar

from authproxy.identity.shared.state_bounds import MAX_VERSION, ttl_ms
from policies.errors import StoreUnavailable

MAX_ENTRIES: Final = 100_000
MAX_BYTES: Final = 128 * 1024 * 1024
"""Of values; keys are as long as ``state.key`` makes them."""

V = TypeVar("V")


class _Value(NamedTuple):
    data: bytes
    version: int
    """0: it has none."""


class _Lease(NamedTuple):
    holder: str
    number: int


class _Slot(NamedTuple, Generic[V]):
    value: V
    expires_at: float
    size: int


class _Expiring(Generic[V]):
    """A dict whose entries end, with bounds. ``now`` is monotonic."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._slots: dict[str, _Slot[V]] = {}
        self._ends: list[tuple[float, str]] = []
        """Heap; an entry written anew or deleted leaves an old one behind, so it says only when to look."""
        self.size = 0
        self._held: dict[str, tuple[int, int]] = {}
        """Tenant's part of the key -> entries and bytes."""

    def __len__(self) -> int:
        return len(self._slots)

    def get(self, key: str, now: float) -> V | None:
        slot = self._slots.get(key)
        return slot.value if slot is not None and now < slot.expires_at else None

    def set(self, key: str, value: V, size: int, expires_at: float, now: float) -> None:
        """Raises: StoreUnavailable when there is no room, also after what has ended is gone; then nothing changed."""
        if not self._has_room(key, size):
            self._forget_ended(now)
            if not self._has_room(key, size):
                raise StoreUnavailable("the store in memory is full")
        self.pop(key, now)
        self._slots[key] = _Slot(value, expires_at, size)
        self._count(key, 1, size)
        heapq.heappush(self._ends, (expires_at, key))
        if len(self._ends) > 2 * len(self._slots) + 64:
            self._ends = [(slot.expires_at, name) for name, slot in self._slots.items()]
            heapq.heapify(self._ends)

    def pop(self, key: str, now: float) -> V | None:
        slot = self._slots.pop(key, None)
        if slot is None:
            return None
        self._count(key, -1, -slot.size)
        return slot.value if now < slot.expires_at else None

    def _has_room(self, key: str, size: int) -> bool:
        old = self._slots.get(key)
        grown = size - (old.size if old is not None else 0)
        added = 0 if old is not None else 1
        if self.size + grown > self._max_bytes or len(self._slots) + added > self._max_entries:
            return False
        tenant = _tenant_part(key)
        if not tenant:
            return True
        entries, held = self._held.get(tenant, (0, 0))
        return (
            2 * (entries + added) <= self._max_entries - (len(self._slots) - entries)
            and 2 * (held + grown) <= self._max_bytes - (self.size - held)
        ) or grown <= 0 == added

    def _count(self, key: str, entries: int, size: int) -> None:
        self.size += size
        tenant = _tenant_part(key)
        before = self._held.get(tenant, (0, 0))
        after = (before[0] + entries, before[1] + size)
        if after[0]:
            self._held[tenant] = after
        else:
            self._held.pop(tenant, None)

    def _forget_ended(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, key = heapq.heappop(self._ends)
            slot = self._slots.get(key)
            if slot is not None and slot.expires_at <= now:
                self.pop(key, now)


def _tenant_part(key: str) -> str:
    """Of a key that ``state.key`` made, with its tenant; empty for any other."""
    return key[: key.find("}") + 1]


class MemoryState:
    """
    A ``StateStore`` in memory, of one process and event loop.

    Args:
        max_entries: bound of the values, and of the leases.
        max_bytes: bound of the values' sizes together.
        monotonic: seconds that never go back.
    """

    is_shared = False

    def __init__(
        self,
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._values: _Expiring[_Value] = _Expiring(max_entries, max_bytes)
        self._leases: _Expiring[_Lease] = _Expiring(max_entries, max_entries)
        self._last_number = 0

    async def get(self, key: str) -> bytes | None:
        value = self._values.get(key, self._monotonic())
        return value.data if value is not None else None

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        self._write(key, _Value(value, 0), ttl_s)

    async def put_newer(self, key: str, version: int, value: bytes, ttl_s: float) -> bool:
        """Raises: ValueError for a version that is not 1 to 10^15 - 1."""
        if not 0 < version <= MAX_VERSION:
            raise ValueError("a version is a whole number from 1 to 10^15 - 1")
        there = self._values.get(key, self._monotonic())
        if there is not None and there.version >= version:
            return False
        self._write(key, _Value(value, version), ttl_s)
        return True

    async def add(self, key: str, value: bytes, ttl_s: float) -> bool:
        if self._values.get(key, self._monotonic()) is not None:
            return False
        self._write(key, _Value(value, 0), ttl_s)
        return True

    async def take(self, key: str) -> bytes | None:
        value = self._values.pop(key, self._monotonic())
        return value.data if value is not None else None

    async def delete(self, key: str) -> None:
        self._values.pop(key, self._monotonic())

    async def acquire(self, key: str, holder: str, ttl_s: float) -> int | None:
        now = self._monotonic()
        lease = self._leases.get(key, now)
        if lease is not None and lease.holder != holder:
            return None
        self._last_number += 1
        self._leases.set(key, _Lease(holder, self._last_number), 1, now + ttl_ms(ttl_s) / 1000, now)
        return self._last_number

    async def renew(self, key: str, holder: str, ttl_s: float) -> bool:
        now = self._monotonic()
        lease = self._leases.get(key, now)
        if lease is None or lease.holder != holder:
            return False
        self._leases.set(key, lease, 1, now + ttl_ms(ttl_s) / 1000, now)
        return True

    async def release(self, key: str, holder: str) -> None:
        now = self._monotonic()
        lease = self._leases.get(key, now)
        if lease is not None and lease.holder == holder:
            self._leases.pop(key, now)

    async def close(self) -> None:
        """Nothing to close; what is kept stays."""

    def _write(self, key: str, value: _Value, ttl_s: float) -> None:
        now = self._monotonic()
        self._values.set(key, value, len(value.data), now + ttl_ms(ttl_s) / 1000, now)
