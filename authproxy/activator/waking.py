"""
The wake of one function: called once in the cluster, on somebody's account, and known to the others while it lasts.

The order is the point. First the lease, so that a wake that another Portero calls costs nobody anything here; then the
account; then the call. It refuses to know who waits and what follows: it says how the call went, as an event for the
waiting room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from authproxy.activator.cluster import KEEP_WAKE_EVERY_S, Cluster
from authproxy.metrics import Metrics
from policies.coldstart_events import WakeDenied, WakeElsewhere, WakeSucceeded
from policies.decision import Deny
from policies.errors import StoreUnavailable
from policies.tables import Place

CALL_S: Final = 15.0
"""Backends, probes and stores bound their calls at less; one that does not must not leave its function for ever."""

SpendWake = Callable[[Place], Awaitable[Deny | None]]
"""Takes one wake on a tenant's account; the refusal (429 ``wake-limited``) when there is none left, and takes none."""

Woken = WakeSucceeded | WakeDenied | WakeElsewhere


class Waking:
    """
    One function's.

    Args:
        key: of the lease.
    """

    __slots__ = (
        "_clock",
        "_cluster",
        "_has_paid",
        "_is_over",
        "_keeper",
        "_key",
        "_metrics",
        "_spend",
        "_turn",
        "refusal",
        "was_called",
    )

    def __init__(
        self, key: str, cluster: Cluster, metrics: Metrics, spend: SpendWake | None, clock: Callable[[], float]
    ) -> None:
        self._key = key
        self._cluster = cluster
        self._metrics = metrics
        self._spend = spend
        self._clock = clock
        self._keeper: asyncio.Task[None] | None = None
        """Keeps the lease, while there is one."""
        self._turn = asyncio.Lock()
        """Of the calls about the lease: one that gives it back must not overtake one that takes it, nor the reverse."""
        self._has_paid = False
        self._is_over = True
        self.was_called = False
        """The platform was called for the wake that is under way: its end is still to be counted."""
        self.refusal: Deny | None = None
        """Of the account, in its own words, when the last wake was denied."""

    @property
    def is_active(self) -> bool:
        """A wake of ours is under way, or its lease is not given back yet."""
        return not self._is_over or self._keeper is not None

    async def call(self, place: Place, wake: Callable[[], Awaitable[None]], *, is_retry: bool) -> Woken:
        """
        Call for a replica on the account of ``place``. One call at a time. With ``is_retry`` the attempt before failed:
        it is not paid for again, if it was paid for.

        Raises: whatever ``wake`` and the account raise: the wake has failed then, and the lease is given back.
        """
        self._is_over = False
        self._has_paid = self._has_paid and is_retry
        try:
            async with asyncio.timeout(CALL_S):
                return await self._call(place, wake)
        except Exception:  # raised again: whatever failed, others may wake it now
            if not self._is_over:
                self._metrics.wake_results_total.add((place.tenant.name, "failed"))
            await self.end()
            raise

    async def end(self) -> None:
        """The wake has ended, one way or the other: others may call for the next one. Idempotent."""
        self._is_over = True
        self.was_called = False
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
            async with self._turn:
                await self._cluster.end_wake(self._key)

    async def _call(self, place: Place, wake: Callable[[], Awaitable[None]]) -> Woken:
        tenant, outcomes = place.tenant.name, self._metrics.wake_results_total
        if not await self._lease():
            outcomes.add((tenant, "elsewhere"))
            return WakeElsewhere(self._clock())
        if self._spend is not None and not self._has_paid and not self._is_over:
            self.refusal = await self._spend(place)
            if self.refusal is not None:
                outcomes.add((tenant, "denied"))
                await self.end()
                return WakeDenied(tenant, self.refusal.retry_after_s or 1, self._clock())
            self._has_paid = True
        if self._is_over:  # a replica got ready without it
            await self.end()
        else:
            self._metrics.wakes_total.add((tenant,))
            self.was_called = True
            await wake()
        return WakeSucceeded(self._clock())

    async def _lease(self) -> bool:
        """Whether it is ours to call. Where nobody can tell, it is: the platform minds two calls less than none."""
        try:
            async with self._turn:
                if not await self._cluster.lease_wake(self._key):
                    return False
        except StoreUnavailable:
            return True
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())
        return True

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(KEEP_WAKE_EVERY_S)
            await self._cluster.keep_wake(self._key)
