"""
Rate limits in this process: a dict of theoretical arrival times per tenant.

Bounded, and an attacker with many keys resets nobody's limit: only idle keys are ever forgotten (their TAT lies in the
past, which says the same as nothing). A tenant that has no room left counts its *new* keys together, one count a limit:
newcomers are then limited more strictly than they deserve, never less, those who are known keep their own counts, and
no other tenant notices.

Time only moves forward here: a clock set back admits nothing more (R6). Set back by more than a minute it is followed,
by moving all counts with it; otherwise a clock corrected by a day would refuse for a day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from policies.gcra import NOTHING_TO_SPEND, SECOND_US, Check, Spent, spend_all

MAX_KEYS: Final = 131_072
"""Per tenant; some 250 bytes each."""
SWEEP_US: Final = 10_000
"""Between two looks for idle keys."""
SWEEP_KEYS: Final = 256
"""Looked at each time (about 30 us): 25,600 a second."""
CROWDED_SWEEP_KEYS: Final = 16
"""Looked at by each request of a tenant that has no room left."""
CLOCK_STEP_US: Final = 60 * SECOND_US
"""A clock that goes back further than this was corrected; by less, it jitters."""


class _Counts:
    """One tenant's TATs, and the keys that the sweep has still to look at."""

    __slots__ = ("tats", "unswept")

    def __init__(self) -> None:
        self.tats: dict[str, int] = {}
        self.unswept: list[str] = []

    def sweep(self, now_us: int, at_most: int) -> int:
        """Forget idle keys among the next ``at_most``. Returns how many were looked at; 0 when a round has ended."""
        tats = self.tats
        unswept = self.unswept
        looked_at = min(at_most, len(unswept))
        for _ in range(looked_at):
            key = unswept.pop()
            if tats.get(key, now_us + 1) <= now_us:
                del tats[key]
        if not looked_at:
            unswept.extend(tats)
        return looked_at


class MemoryStore:
    """A ``LimitStore`` that never needs I/O: ``spend_now`` always answers."""

    __slots__ = ("_last_us", "_max_keys", "_round", "_sweep_at_us", "_tenants")

    def __init__(self, *, max_keys: int = MAX_KEYS) -> None:
        """``max_keys`` bounds each tenant's keys, but for the last request's and one more per limit."""
        self._max_keys = max_keys
        self._tenants: dict[str, _Counts] = {}
        self._round: list[str] = []
        self._last_us = 0
        self._sweep_at_us = 0

    def spend_now(self, tenant: str, checks: Sequence[Check], now: float) -> Spent:
        if not checks:
            return NOTHING_TO_SPEND
        now_us = int(now * 1_000_000)
        if not self._last_us <= now_us < self._sweep_at_us:
            now_us = self._housekeep(now_us)
        self._last_us = now_us
        try:
            counts = self._tenants[tenant]
        except KeyError:
            counts = self._tenants[tenant] = _Counts()
        tats = counts.tats
        if len(tats) >= self._max_keys:
            counts.sweep(now_us, CROWDED_SWEEP_KEYS)
            checks = self._crowded(counts, checks)
        after, spent = spend_all(tats, now_us, checks)
        if after is not None:
            tats.update(after)
        return spent

    def spend_soon(self, tenant: str, checks: Sequence[Check], now: float, then: Callable[[Spent], None]) -> bool:
        asyncio.get_running_loop().call_soon(then, self.spend_now(tenant, checks, now))
        return True

    def peek_now(self, tenant: str, checks: Sequence[Check], now: float) -> Spent:
        now_us = max(int(now * SECOND_US), self._last_us)
        counts = self._tenants.get(tenant)
        if counts is None:
            return spend_all({}, now_us, checks)[1]
        return spend_all(counts.tats, now_us, self._crowded(counts, checks))[1]

    async def spend(self, tenant: str, checks: Sequence[Check], now: float) -> Spent:
        return self.spend_now(tenant, checks, now)

    async def peek(self, tenant: str, checks: Sequence[Check], now: float) -> Spent:
        return self.peek_now(tenant, checks, now)

    async def close(self) -> None:
        """Nothing runs in the background."""

    def clear(self) -> None:
        """Forget every count."""
        self._tenants.clear()
        self._round.clear()

    @property
    def key_count(self) -> int:
        return sum(len(counts.tats) for counts in self._tenants.values())

    def _crowded(self, counts: _Counts, checks: Sequence[Check]) -> Sequence[Check]:
        """Where each check is counted: under its own key if that is known or there is room, else under its limit's."""
        if len(counts.tats) < self._max_keys:
            return checks
        # No partition is "+": percent-encoding would have made it %2B.
        return [
            check if check.key in counts.tats else check._replace(key=check.key.rpartition(":")[0] + ":+")
            for check in checks
        ]

    def _housekeep(self, now_us: int) -> int:
        """Now and then, or when the clock went back. Returns the time to judge by."""
        if now_us < self._last_us:
            now_us = self._clock_went_back(now_us)
        if now_us >= self._sweep_at_us:
            self._sweep(now_us)
        return now_us

    def _sweep(self, now_us: int) -> None:
        """Look at some keys, tenant after tenant; one round over all of them ends before the next begins."""
        self._sweep_at_us = now_us + SWEEP_US
        budget = SWEEP_KEYS
        round_ = self._round
        if not round_:
            round_.extend(self._tenants)
        while budget > 0 and round_:
            tenant = round_[-1]
            counts = self._tenants.get(tenant)
            looked_at = counts.sweep(now_us, budget) if counts is not None else 0
            budget -= looked_at + 1
            if not looked_at:
                round_.pop()
                if counts is not None and not counts.tats:
                    del self._tenants[tenant]

    def _clock_went_back(self, now_us: int) -> int:
        step = self._last_us - now_us
        if step <= CLOCK_STEP_US:
            return self._last_us
        for counts in self._tenants.values():
            counts.tats = {key: tat - step for key, tat in counts.tats.items()}
        self._sweep_at_us = now_us
        return now_us
