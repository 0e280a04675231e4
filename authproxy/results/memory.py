"""
Results that one Portero keeps for itself: a ``ResultStore`` in memory. They end with the process, and whoever accepts
a request for later says so.

Times are counted by the monotonic clock: setting the clock neither ends a result nor keeps it. A full store refuses
what is new instead of forgetting what is there, and no tenant may take more than half of what the others leave, so
that who fills one tenant's share refuses nothing of another's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from authproxy.results.ends import Ends
from authproxy.results.result import Owner, Result, is_id, new_id, size_of, without_room
from authproxy.results.store import PENDING_S, ResultBounds, ResultSizes
from policies.decision import Reason

MAX_RESULTS: Final = 20_000
"""Pending and done, of all tenants."""
MAX_BYTES: Final = 256 * 1024 * 1024
"""Of all results that are done."""
LONGEST_S: Final = 400 * 86_400.0
"""No result is kept for longer, whatever is asked for."""


class _Entry:
    """One result; ``size`` is 0 while it is pending."""

    __slots__ = ("flow", "keep_s", "owner", "result", "size", "tenant_bytes")

    def __init__(self, owner: Owner, flow: str, tenant_bytes: int, keep_s: float) -> None:
        self.owner = owner
        self.flow = flow
        self.tenant_bytes = tenant_bytes
        self.keep_s = keep_s
        self.result: Result | None = None
        self.size = 0


class _Held:
    """What one tenant, or one of its flows, has in the store; forgotten when that is nothing."""

    __slots__ = ("bytes", "count", "flows", "pending")

    def __init__(self) -> None:
        self.count = 0
        self.pending = 0
        self.bytes = 0
        self.flows: dict[str, _Held] = {}

    def flow(self, name: str) -> _Held:
        """What the flow has, of which the tenant's own numbers count a part; not remembered by being asked for."""
        return self.flows.get(name) or _Held()


class MemoryResults:
    """
    See ``ResultStore``. Of one process and event loop; never raises StoreUnavailable.

    Args:
        max_results: bound of all tenants' results together.
        max_bytes: bound of all tenants' done results together.
        monotonic: seconds that never go back.
    """

    is_shared = False

    def __init__(
        self,
        *,
        max_results: int = MAX_RESULTS,
        max_bytes: int = MAX_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_results = max_results
        self._max_bytes = max_bytes
        self._monotonic = monotonic
        self._entries: dict[str, _Entry] = {}
        """By the digest of tenant and id: how long a look-up takes says nothing of an id."""
        self._ends = Ends()
        self._held: dict[str, _Held] = {}
        self._pending = 0
        self._bytes = 0

    async def open(self, owner: Owner, flow: str, bounds: ResultBounds, keep_s: float) -> str | Reason:
        now = self._forget_ended()
        held = self._held.get(owner.tenant) or _Held()
        mine = held.flow(flow)
        if mine.pending >= bounds.max_async or not _has_place(mine.count, held.count, bounds.tenant_results):
            return Reason.QUEUE_FULL
        if not _has_place(held.count, len(self._entries), self._max_results):
            return Reason.OVERLOADED
        result_id = new_id()
        name = _name(owner.tenant, result_id)
        self._entries[name] = _Entry(owner, flow, bounds.tenant_bytes, _bounded(keep_s))
        self._ends.set(name, now + PENDING_S)
        self._held[owner.tenant] = held
        held.flows[flow] = mine
        self._pending += 1
        for one in (held, mine):
            one.count += 1
            one.pending += 1
        return result_id

    async def renew(self, tenant: str, result_id: str) -> bool:
        now = self._forget_ended()
        name = _name(tenant, result_id)
        entry = self._entries.get(name)
        if entry is None or entry.result is not None:
            return False
        self._ends.set(name, now + PENDING_S)
        return True

    async def finish(self, tenant: str, result_id: str, result: Result) -> bool:
        now = self._forget_ended()
        name = _name(tenant, result_id)
        entry = self._entries.get(name)
        if entry is None:
            return False
        if entry.result is not None:
            return entry.result in (result, without_room(result.finished_at))
        held = self._held[tenant]
        mine = held.flows[entry.flow]
        size = size_of(result)
        if not _has_room(size, mine.bytes, held.bytes, entry.tenant_bytes) or not _has_room(
            size, held.bytes, self._bytes, self._max_bytes
        ):
            result = without_room(result.finished_at)  # kept in any case: it is small, and their number is bounded
            size = size_of(result)
        entry.result, entry.size = result, size
        self._bytes += size
        self._pending -= 1
        for one in (held, mine):
            one.bytes += size
            one.pending -= 1
        self._ends.set(name, now + entry.keep_s)
        return True

    async def read(self, tenant: str, result_id: str) -> tuple[Owner, Result | None] | None:
        self._forget_ended()
        entry = self._entries.get(_name(tenant, result_id))
        return None if entry is None else (entry.owner, entry.result)

    async def delete(self, tenant: str, result_id: str) -> bool:
        self._forget_ended()
        name = _name(tenant, result_id)
        if name not in self._entries:
            return False
        self._ends.forget(name)
        self._forget(name)
        return True

    def sizes(self) -> ResultSizes:
        self._forget_ended()
        return ResultSizes(self._pending, len(self._entries) - self._pending, self._bytes)

    async def close(self) -> None:
        """Nothing to close."""

    def _forget_ended(self) -> float:
        """Returns now."""
        now = self._monotonic()
        for name in self._ends.over(now):
            self._forget(name)
        return now

    def _forget(self, name: str) -> None:
        entry = self._entries.pop(name)
        tenant = entry.owner.tenant
        held = self._held[tenant]
        mine = held.flows[entry.flow]
        pending = 1 if entry.result is None else 0
        self._bytes -= entry.size
        self._pending -= pending
        for one in (held, mine):
            one.count -= 1
            one.bytes -= entry.size
            one.pending -= pending
        if not mine.count:
            del held.flows[entry.flow]
        if not held.count:
            del self._held[tenant]


def _has_place(mine: int, everybodys: int, most: int) -> bool:
    """Whether one more is within half of what the others leave of ``most``; of one place, that one."""
    return 2 * mine < most - (everybodys - mine)


def _has_room(size: int, mine: int, everybodys: int, most: int) -> bool:
    """Whether ``size`` bytes more are."""
    return 2 * (mine + size) <= most - (everybodys - mine)


def _bounded(keep_s: float) -> float:
    """A time that is over, or no number, is none; it is often the rest of something that a stranger chose."""
    return min(keep_s, LONGEST_S) if keep_s > 0 else 0.0


def _name(tenant: str, result_id: str) -> str:
    if not is_id(result_id):
        return ""
    return sha256(f"{len(tenant)}:{tenant}{result_id}".encode("utf-8", "surrogatepass")).hexdigest()


__all__ = ["LONGEST_S", "MAX_BYTES", "MAX_RESULTS", "MemoryResults"]
