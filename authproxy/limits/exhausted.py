"""
Limits of the store that are known to be used up: refused here until they refill, so that a flood costs the store
nothing.

Only refusals are remembered, never room: what is known here can be stale only by being too strict, and that for no
longer than ``TRUST_US``, after which one request asks the store again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from policies.gcra import SECOND_US, Check, Spent, admit, retry_after_s, state

MAX_KEYS: Final = 65_536
TRUST_US: Final = 5 * SECOND_US
"""An operator who deletes a limit's key in the store waits at most so long."""


class KnownExhausted:
    """TATs of used-up limits by key, in this replica's clock (Unix microseconds)."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def learn(self, key: str, tat_us: int, now_us: int) -> None:
        known = self._known
        if len(known) >= MAX_KEYS:
            known.clear()  # costs questions to the store, admits nobody
        known[key] = (tat_us, now_us)

    def refuse(self, checks: Sequence[Check], now: float) -> Spent | None:
        """The refusal, as the store would give it, or None when the store has to be asked."""
        now_us = int(now * SECOND_US)
        longest = 0
        refused = -1
        states = []
        for index, check in enumerate(checks):
            entry = self._known.get(check.key)
            if entry is None:
                continue
            tat_us, learned_us = entry
            wait = admit(tat_us, now_us, check)[1]
            if wait <= 0 or abs(now_us - learned_us) > TRUST_US:
                del self._known[check.key]
                continue
            states.append(state(tat_us, now_us, check))
            if wait > longest:
                longest, refused = wait, index
        if refused < 0:
            return None
        return Spent(tuple(states), refused, retry_after_s(longest))
