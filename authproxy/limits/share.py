"""
This replica's share of the limits while the store is down.

Each replica takes the limit divided by the replicas last seen, so that all together hold the limit though they cannot
count together. Each limit says whether it wants that (``local``), no limit (``open``) or no request (``closed``)
meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from authproxy.limits.memory import MemoryStore
from policies.gcra import Check, Spent, share_of

CLOSED_RETRY_AFTER_S: Final = 1
"""For ``closed`` limits: the store is asked again every half second."""
MEMO_ENTRIES: Final = 4096


class LocalShare:
    """Answers without I/O. ``replicas`` is asked at each call; at least 1."""

    def __init__(self, replicas: Callable[[], int]) -> None:
        self._replicas = replicas
        self._store = MemoryStore()
        self._shares: dict[str, Check] = {}
        self._shared_by = 1

    def spend(self, tenant: str, checks: Sequence[Check], now: float, *, is_peek: bool = False) -> Spent:
        if (replicas := self._replicas()) != self._shared_by:
            self._shares.clear()
            self._shared_by = replicas
        held = []
        at = []
        for index, check in enumerate(checks):
            if check.on_store_failure == "closed":
                return Spent((), index, CLOSED_RETRY_AFTER_S)
            if check.on_store_failure == "local":
                held.append(self._share(check))
                at.append(index)
        answer = self._store.peek_now if is_peek else self._store.spend_now
        spent = answer(tenant, held, now)
        if spent.refused is None:
            return spent
        return spent._replace(refused=at[spent.refused])

    def forget(self) -> None:
        """The store counts again: the next time it is down begins with fresh shares."""
        self._store.clear()

    def _share(self, check: Check) -> Check:
        share = self._shares.get(check.key)
        if share is None:
            if len(self._shares) >= MEMO_ENTRIES:
                self._shares.clear()
            share = self._shares[check.key] = share_of(check, self._shared_by)
        return share
