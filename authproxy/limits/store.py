"""The seam of question 4: where the state of rate limits is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from policies.limits import Check, Spent


class LimitStore(Protocol):
    """
    Spends rate limits atomically. ``tests/contracts/limit_store.py`` runs over every implementation.

    All checks of one call are taken or none is; a refused call changes nothing (R2, R3). The keys of one call are
    distinct and all of ``tenant``; ``now`` is Unix seconds. One event loop calls.
    """

    def spend_now(self, tenant: str, checks: Sequence[Check], now: float) -> Spent | None:
        """Spend without I/O; None when the store has to be asked (then nothing was taken)."""

    async def spend(self, tenant: str, checks: Sequence[Check], now: float) -> Spent:
        """Spend; bounded in time (60 ms), never raises: a store that is down means the local share."""

    def spend_soon(self, tenant: str, checks: Sequence[Check], now: float, then: Callable[[Spent], None]) -> bool:
        """
        As ``spend``, without a task: ``then`` is called once with the answer, from the event loop and after this call.

        False when that cannot be promised (then nothing was taken, and ``spend`` is to be awaited). What ``then``
        raises is logged and keeps nobody else from an answer.
        """

    def peek_now(self, tenant: str, checks: Sequence[Check], now: float) -> Spent | None:
        """What ``spend_now`` would answer, taking nothing; None when the store has to be asked."""

    async def peek(self, tenant: str, checks: Sequence[Check], now: float) -> Spent:
        """What ``spend`` would answer, taking nothing."""

    async def close(self) -> None:
        """Stop background work and close connections."""
