"""The seam of question 4: where the state of rate limits is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from policies.limits import Check
from policies.pipeline import Spent


class LimitStore(Protocol):
    """
    Spends rate limits atomically. ``tests/contracts/limit_store.py`` runs over every implementation.

    All checks of one call are taken or none is; a refused call changes nothing (R2, R3).
    """

    def spend_now(self, tenant: str, checks: Sequence[Check], now: float) -> Spent | None:
        """Spend without I/O; None when the store has to be asked (then nothing was taken)."""

    async def spend(self, tenant: str, checks: Sequence[Check], now: float) -> Spent:
        """Spend; bounded in time (60 ms), never raises: a store that is down means the local share."""

    async def peek(self, tenant: str, checks: Sequence[Check], now: float) -> Spent:
        """What ``spend`` would answer, taking nothing."""

    async def close(self) -> None:
        """Stop background work and close connections."""
