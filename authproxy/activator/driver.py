"""
Drives the waiting room of one function: feeds it what happens and does what it says.

Everything is decided by ``policies.coldstart``; here are the futures, the timer and the two calls to the platform. A
task lives only as long as such a call; between calls there is at most one timer, and an idle function has neither.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, assert_never

from authproxy.backends.backend import Backend
from authproxy.metrics import Metrics
from policies.coldstart import Room
from policies.coldstart_events import (
    Arrived,
    AskFailed,
    AskReadiness,
    Awoke,
    Closed,
    Command,
    Event,
    Finished,
    Left,
    Missing,
    ReadinessSeen,
    Refuse,
    Release,
    Tick,
    Wake,
    WakeDenied,
    WakeFailed,
    WakeSucceeded,
)
from policies.decision import Deny, Reason
from policies.errors import BackendUnavailable, CannotKnow
from policies.tables import Place
from policies.waiting import Waiter

_MIN_DELAY_S: Final = 0.001
"""Two clocks never agree: a timer may fire a little before its tick is due."""
_REPORT_EVERY_S: Final = 30.0
_DETAILS: Final[Mapping[Reason, str]] = {
    Reason.FUNCTION_UNKNOWN: "there is no such function",
    Reason.QUEUE_FULL: "too many requests wait for this function to be ready",
    Reason.OVERLOADED: "too many requests wait for functions to be ready",
    Reason.COLD_START_TIMEOUT: "the function was not ready in time",
    Reason.WAKE_FAILED: "the function sleeps and could not be woken",
    Reason.WAKE_LIMITED: "no further cold start is allowed for now",
    Reason.DRAINING: "this server is shutting down",
}

SpendWake = Callable[[Place], Awaitable[Deny | None]]
"""Takes one wake on a tenant's account; the refusal (429 ``wake-limited``) when there is none left, and takes none."""

log = logging.getLogger(__name__)


class FunctionKey(NamedTuple):
    """Which function, whatever tenants call it."""

    backend: str
    namespace: str
    function: str


@dataclass(slots=True)
class Tools:
    """What all drivers share."""

    backends: Mapping[str, Backend]
    metrics: Metrics
    spend_wake: SpendWake | None
    clock: Callable[[], float]
    jitter: Callable[[], float]


@dataclass(slots=True)
class _Held:
    answer: asyncio.Future[Deny | None]
    tenant: str


class Driver:
    """One function's. Lives in the event loop that ``hold`` runs in; nothing here is locked."""

    __slots__ = (
        "_calls",
        "_due",
        "_held",
        "_is_closed",
        "_key",
        "_places",
        "_reported_at",
        "_timer",
        "_tools",
        "_wake_refusal",
        "room",
    )

    def __init__(self, key: FunctionKey, room: Room, tools: Tools) -> None:
        self.room = room
        self._key = key
        self._tools = tools
        self._held: dict[int, _Held] = {}
        self._places: dict[str, Place] = {}
        """Tenant -> a place of its, on whose account a wake may be."""
        self._calls: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._is_closed = False
        self._wake_refusal: Deny | None = None
        self._reported_at = float("-inf")

    async def hold(self, ticket: int, place: Place, flow: str) -> Deny | None:
        """See ``Activator.hold``."""
        now, tenant, spec = self._tools.clock(), place.tenant.name, place.spec
        answer: asyncio.Future[Deny | None] = asyncio.get_running_loop().create_future()
        self._held[ticket] = _Held(answer, tenant)
        self._places[tenant] = place
        waiter = Waiter(ticket, tenant, flow, now + spec.cold_start.max_wait_s)
        self.feed(Arrived(waiter, now, spec.cold_start.max_held, place.tenant.ceilings.held, spec.concurrency))
        if answer.done():
            return answer.result()
        metrics = self._tools.metrics
        metrics.held_requests.add((tenant,), 1)
        try:
            return await answer
        except asyncio.CancelledError:
            metrics.holds_abandoned_total.add((tenant,))
            if self._held.pop(ticket, None) is not None:
                self.feed(Left(ticket, self._tools.clock()))
            elif not answer.cancelled() and answer.result() is None:  # let in, and gone before it could go in
                self.feed(Finished(self._tools.clock()))
            raise
        finally:
            metrics.held_requests.add((tenant,), -1)
            metrics.hold_duration_seconds.observe(max(0.0, self._tools.clock() - now), (tenant,))

    def feed(self, event: Event) -> None:
        """Tell the room what happened and do what it says; never raises for what the world does."""
        if self._is_closed:
            return
        returned = sum(map(self._obey, self.room.on(event)))
        self._set_timer()
        for _ in range(returned):
            self.feed(Finished(self._tools.clock()))

    def forget(self) -> None:
        """Nobody needs this function's room any more; it must be idle."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()

    async def close(self) -> None:
        """Refuse whoever waits, end calls and timer."""
        self.feed(Closed(self._tools.clock()))
        self.forget()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    # -- commands ----------------------------------------------------------------------------------------------------

    def _obey(self, command: Command) -> bool:
        """Do it; True when a place in flight was given to somebody who has gone."""
        match command:
            case Release(ticket):
                return not self._release(self._held.pop(ticket))
            case Refuse(ticket, reason, retry_after_s):
                self._refuse(self._held.pop(ticket), reason, retry_after_s)
            case AskReadiness():
                self._call(self._ask())
            case Wake(tenant, is_retry):
                self._call(self._wake(tenant, is_retry=is_retry))
            case Awoke(tenant, cold_start_s):
                outcome = "timeout" if cold_start_s is None else "ready"
                self._tools.metrics.wake_results_total.add((tenant, outcome))
                if cold_start_s is not None:
                    self._tools.metrics.cold_start_seconds.observe(cold_start_s, (tenant,))
            case _:
                assert_never(command)
        return False

    def _release(self, held: _Held) -> bool:
        if held.answer.done():  # cancelled, but its task has not run yet
            return False
        held.answer.set_result(None)
        return True

    def _refuse(self, held: _Held, reason: Reason, retry_after_s: int | None) -> None:
        if held.answer.done():
            return
        self._tools.metrics.holds_refused_total.add((held.tenant, reason.value))
        refusal = Deny(reason, detail=_DETAILS.get(reason, ""), retry_after_s=retry_after_s, tenant=held.tenant)
        if reason is Reason.WAKE_LIMITED and self._wake_refusal is not None:  # in the words of the limit itself
            refusal = self._wake_refusal
        held.answer.set_result(refusal)

    def _call(self, call: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _ask(self) -> None:
        try:
            readiness = await self._backend().readiness(self._key.namespace, self._key.function)
        except Exception as error:  # noqa: BLE001 - those who wait need an answer even when a backend has a defect
            self._report("ask", error)
            self.feed(AskFailed(self._tools.clock(), self._tools.jitter()))
            return
        now = self._tools.clock()
        self.feed(ReadinessSeen(readiness.ready_replicas, now) if readiness.does_exist else Missing(now))

    async def _wake(self, tenant: str, *, is_retry: bool) -> None:
        metrics = self._tools.metrics
        try:
            if self._tools.spend_wake is not None and not is_retry:
                refusal = await self._tools.spend_wake(self._places[tenant])
                if refusal is not None:
                    self._wake_refusal = refusal
                    self.feed(WakeDenied(tenant, refusal.retry_after_s or 1, self._tools.clock()))
                    return
            metrics.wakes_total.add((tenant,))
            await self._backend().wake(self._key.namespace, self._key.function)
        except Exception as error:  # noqa: BLE001 - the same, be the defect in a backend or in a store
            self._report("wake", error)
            metrics.wake_results_total.add((tenant, "failed"))
            self.feed(WakeFailed(self._tools.clock(), self._tools.jitter()))
            return
        self.feed(WakeSucceeded(self._tools.clock()))

    def _report(self, what: str, error: Exception) -> None:
        """One line now and then, however often it fails; with a traceback when it is a defect and no outage."""
        now = self._tools.clock()
        if 0 <= now - self._reported_at < _REPORT_EVERY_S:
            return
        self._reported_at = now
        defect = None if isinstance(error, CannotKnow) else error
        log.warning("cannot %s %s.%s: %s", what, self._key.function, self._key.namespace, error, exc_info=defect)

    def _backend(self) -> Backend:
        try:
            return self._tools.backends[self._key.backend]
        except KeyError:
            raise BackendUnavailable(f"{self._key.backend}: no longer configured") from None

    # -- time --------------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        """One timer, for the next tick. One that fires too early only looks again: cheaper than moving it each time."""
        due = self.room.next_tick_at()
        if due is None or self._is_closed or (self._timer is not None and self._due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        delay_s = max(_MIN_DELAY_S, due - self._tools.clock())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.feed(Tick(self._tools.clock()))
