"""
Sessions whose claims are too old are refreshed, once for all who wait: of this process here, of all replicas by
``refresh_once``.

Whoever needs a session's newer version joins the refresh that is under way or begins it. A waiter that leaves, or has
waited long enough, takes nothing with it: the refresh goes on and its result is kept, because the provider may have
rotated the token. A failure is the answer for a second, so that requests do not queue up to ask a provider that is
down. It refuses to know cookies, tickets and revocations; who asks judges what it gets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

from authproxy.identity.sessions.refresh_once import WAIT_S, Asked, Ended, RefreshClient, RefreshOnce
from authproxy.identity.sessions.renewals import KNOWN_S, MAX_KNOWN, KnownRenewals, Over, carried_on
from authproxy.identity.sessions.session import Session, SessionOver
from authproxy.identity.shared.state import StateStore
from policies.errors import CannotKnow, ProviderUnavailable, StoreUnavailable
from policies.tables import ProviderSpec, TenantTable

COOL_S: Final = 1.0
"""How long a failure is the answer, without asking again."""
MAX_FLIGHTS: Final = 10_000
"""Sessions refreshed at once; more are refused."""
CLOSE_S: Final = 5.0
"""How long an end waits for refreshes under way."""


class RefreshCounter(Protocol):
    def add(self, labels: tuple[str, ...], /) -> None: ...


class RefreshMetrics(Protocol):
    """What ``authproxy.metrics.Metrics`` has for refreshes."""

    @property
    def session_refreshes_total(self) -> RefreshCounter:
        """By tenant and outcome: refreshed, shared, over, provider_unavailable, store_unavailable."""


class _Flight:
    """One refresh, and whoever waits for it."""

    __slots__ = ("task", "version")

    def __init__(self, version: int, task: asyncio.Task[Ended]) -> None:
        self.version = version
        """Of the session that is refreshed: it serves all who have this one or an older one."""
        self.task = task


class Refresher:
    """
    One per process and event loop.

    Args:
        store: where replicas agree; also of one process alone.
        client: asks the provider.
        metrics: None: nothing is counted.
        clock: Unix seconds.
        monotonic: seconds that never go back.
        max_known: renewed versions remembered by this process.
    """

    def __init__(
        self,
        store: StateStore,
        client: RefreshClient,
        *,
        metrics: RefreshMetrics | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        max_known: int = MAX_KNOWN,
    ) -> None:
        self._once = RefreshOnce(store, client, clock=clock, monotonic=monotonic)
        self._counter = metrics.session_refreshes_total if metrics is not None else None
        self._clock = clock
        self._monotonic = monotonic
        self._known = KnownRenewals(max_known=max_known)
        self._flights: dict[tuple[str, str], _Flight] = {}
        self._is_closed = False

    def known_now(self, session: Session, now: float) -> Session | None:
        """A newer version that this replica knows; ``now`` is Unix seconds."""
        renewal = self._known.find(session, now)
        return carried_on(renewal, session) if isinstance(renewal, Session) else None

    async def refresh(self, tenant: TenantTable, provider: ProviderSpec, session: Session, now: float) -> Session:
        """
        The session's next version, or a newer one. Ends within ``WAIT_S`` (20 s).

        Args:
            tenant: whose session it is.
            provider: that it came from.
            session: as the one who asks has it.
            now: Unix seconds.

        Raises: SessionOver when it cannot be refreshed any more; ProviderUnavailable, KeysUnavailable and
            StoreUnavailable when that is not known.
        """
        deadline = self._monotonic() + WAIT_S
        while True:
            renewal = self._known.find(session, now)
            if renewal is not None:
                return _answer(renewal, session)
            flight = self._join(tenant, provider, session)
            await asyncio.wait({flight.task}, timeout=max(0.0, deadline - self._monotonic()))
            if not flight.task.done():
                raise ProviderUnavailable("the refresh takes too long")
            if flight.task.cancelled():
                raise StoreUnavailable("the refresh was given up: this replica is ending")
            if flight.version >= session.version:
                return _answer(flight.task.result().result, session)

    async def close(self) -> None:
        """Let refreshes under way end, for a while; begin no more. Idempotent."""
        self._is_closed = True
        running = [flight.task for flight in self._flights.values() if not flight.task.done()]
        if running:
            await asyncio.wait(running, timeout=CLOSE_S)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=1.0)
        await self._once.close()

    def _join(self, tenant: TenantTable, provider: ProviderSpec, session: Session) -> _Flight:
        """The refresh under way, or a new one. Raises: ProviderUnavailable when there are too many."""
        slot = (tenant.name, session.id)
        flight = self._flights.get(slot)
        if flight is not None and (flight.version >= session.version or not flight.task.done()):
            return flight
        if self._is_closed or len(self._flights) >= MAX_FLIGHTS:
            raise ProviderUnavailable("too many sessions are being refreshed")
        asked = Asked(tenant, provider, session)
        task = asyncio.create_task(self._once.run(asked), name="identity: refresh a session")
        flight = self._flights[slot] = _Flight(session.version, task)
        task.add_done_callback(lambda _: self._landed(slot, flight, asked))
        return flight

    def _landed(self, slot: tuple[str, str], flight: _Flight, asked: Asked) -> None:
        if flight.task.cancelled():
            self._forget(slot, flight)
            return
        ended = flight.task.result()
        if self._counter is not None:
            self._counter.add((slot[0], ended.outcome))
        if isinstance(ended.result, CannotKnow):
            asyncio.get_running_loop().call_later(COOL_S, self._forget, slot, flight)
        else:
            self._known.keep(asked.session, ended.result, min(asked.ends_at, self._clock() + KNOWN_S))
            self._forget(slot, flight)

    def _forget(self, slot: tuple[str, str], flight: _Flight) -> None:
        if self._flights.get(slot) is flight:
            del self._flights[slot]


def _answer(result: Session | Over | CannotKnow, session: Session) -> Session:
    """What a waiter gets. Raises: SessionOver, CannotKnow: an exception of its own, not one that others raise too."""
    if isinstance(result, Session):
        return carried_on(result, session)
    if isinstance(result, Over):
        raise SessionOver("the provider does not refresh the session any more")
    raise type(result)(str(result))
