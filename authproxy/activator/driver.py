"""
Drives the waiting room of one function: feeds it what happens and does what it says.

Everything is decided by ``policies.coldstart``; here are the futures, the timer and the calls to platform and cluster.
A task lives only as long as such a call, or as a wake; between them there is at most one timer, and an idle function
has neither.

Longer than other modules: whoever feeds a room obeys it, and both stand here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, assert_never

from authproxy.activator.cluster import Cluster, SlotPool
from authproxy.activator.probe import ASLEEP, FunctionKey, Prober, ReadinessCheck
from authproxy.activator.waking import CALL_S, SpendWake, Waking
from authproxy.backends.backend import Backend
from authproxy.metrics import Metrics
from authproxy.upstream.held_body import BodyAccount, HoldableBody
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
    SlotsHeld,
    Tick,
    Unreached,
    Wake,
    WakeFailed,
    WakeSucceeded,
    WantSlots,
)
from policies.decision import Deny, Reason
from policies.errors import BackendUnavailable, CannotKnow
from policies.tables import Place

_MIN_DELAY_S: Final = 0.001
"""Two clocks never agree: a timer may fire a little before its tick is due."""
_REPORT_EVERY_S: Final = 30.0
_DETAILS: Final[Mapping[Reason, str]] = {
    Reason.FUNCTION_UNKNOWN: "there is no such function",
    Reason.FUNCTION_ASLEEP: "the function sleeps, and this request does not wake it",
    Reason.QUEUE_FULL: "too many requests wait for this function to be ready",
    Reason.OVERLOADED: "too many requests wait for functions to be ready",
    Reason.COLD_START_TIMEOUT: "the function was not ready in time",
    Reason.WAKE_FAILED: "the function sleeps and could not be woken",
    Reason.WAKE_LIMITED: "no further cold start is allowed for now",
    Reason.DRAINING: "this server is shutting down",
}

log = logging.getLogger(__name__)


class Grant(NamedTuple):
    """A held request may leave: it has one place in flight, until ``Activator.finished``."""

    ticket: int
    is_cold: bool
    """Its function was asleep while it was held."""
    released_at: float
    """By the activator's clock."""


@dataclass(slots=True)
class Tools:
    """What all drivers share."""

    backends: Mapping[str, Backend]
    metrics: Metrics
    cluster: Cluster
    prober: Prober
    spend_wake: SpendWake | None
    clock: Callable[[], float]
    jitter: Callable[[], float]
    polled: int = 0
    """Functions that are polled now."""


@dataclass(slots=True)
class _Held:
    answer: asyncio.Future[Grant | Deny]
    tenant: str
    since: float
    is_deferred: bool
    failure: Deny | None = None
    """Of its body, when that came too late to end the wait."""


class Driver:
    """One function's. Lives in the event loop that ``hold`` runs in; nothing here is locked."""

    __slots__ = (
        "_calls",
        "_check",
        "_due",
        "_events",
        "_held",
        "_is_closed",
        "_is_feeding",
        "_is_polled",
        "_key",
        "_places",
        "_pool",
        "_probe_path",
        "_put_off",
        "_reported_at",
        "_timer",
        "_tools",
        "_waking",
        "_woken",
        "cluster_key",
        "does_exist",
        "held_deferred",
        "room",
    )

    def __init__(self, key: FunctionKey, room: Room, tools: Tools) -> None:
        self.room = room
        self.cluster_key = "function:" + "/".join(key)
        self.held_deferred = 0
        """Of those who wait, whom nobody waits for."""
        self.does_exist = False
        """The platform has heard of it: its name is no guess."""
        self._key = key
        self._tools = tools
        self._held: dict[int, _Held] = {}
        self._places: dict[str, Place] = {}
        """Tenant -> a place of its, on whose account a wake may be."""
        self._probe_path: str | None = None
        self._check = ReadinessCheck(key, tools.prober)
        self._waking = Waking(self.cluster_key, tools.cluster, tools.metrics, tools.spend_wake, tools.clock)
        self._woken: tuple[Wake, Backend] | None = None
        """The wake that is under way, and the platform that was called for it."""
        self._put_off: Wake | None = None
        """A wake that was not called for, because the platform said that a replica was up."""
        self._pool: SlotPool | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._events: list[Event] = []
        self._is_feeding = False
        self._is_polled = False
        """It is among those that ``Tools.polled`` counts."""
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._is_closed = False
        self._reported_at = float("-inf")

    # -- requests ----------------------------------------------------------------------------------------------------

    async def hold(
        self, place: Place, arrived: Arrived, body: HoldableBody | None, account: Callable[[], BodyAccount]
    ) -> Grant | Deny:
        """See ``Activator.hold``; ``account`` opens what ``body`` is read at the expense of."""
        ticket, tenant, now = arrived.waiter.ticket, arrived.waiter.tenant, arrived.now
        if self._is_closed:
            return Deny(Reason.DRAINING, retry_after_s=1, tenant=tenant)
        held = _Held(asyncio.get_running_loop().create_future(), tenant, now, arrived.is_deferred)
        self._held[ticket] = held
        self.held_deferred += held.is_deferred
        self._places[tenant] = place
        self._probe_path = place.spec.cold_start.probe
        self.feed(arrived)
        if held.answer.done():
            return held.answer.result()
        metrics = self._tools.metrics
        metrics.held_requests.add((tenant,), 1)
        try:
            answer = await self._wait(ticket, held, body, account)
        except BaseException as error:  # raised again: whatever ends a hold, its place is given back
            if isinstance(error, asyncio.CancelledError):
                metrics.holds_abandoned_total.add((tenant,))
            self._withdraw(ticket, held)
            raise
        finally:
            metrics.held_requests.add((tenant,), -1)
            metrics.hold_duration_seconds.observe(max(0.0, self._tools.clock() - now), (tenant,))
        if isinstance(answer, Grant):
            metrics.holds_released_total.add((tenant,))
        return answer

    def unreached(self) -> None:
        """See ``Activator.failed``."""
        self._check.doubt()
        self.feed(Unreached(self._tools.clock()))

    @property
    def held_now(self) -> int:
        """Requests that wait and that somebody waits for."""
        return len(self._held) - self.held_deferred

    def held_by_tenant(self) -> dict[str, int]:
        """Requests that wait now, of each tenant that has any."""
        counts: dict[str, int] = {}
        for held in self._held.values():
            counts[held.tenant] = counts.get(held.tenant, 0) + 1
        return counts

    async def _wait(
        self, ticket: int, held: _Held, body: HoldableBody | None, account: Callable[[], BodyAccount]
    ) -> Grant | Deny:
        """Wait for the answer, the body being read meanwhile; when this ends, however it does, it is not any more."""
        if body is None:
            return await held.answer
        try:
            body.start(account(), lambda refusal: self._body_failed(ticket, held, refusal))
            answer = await held.answer
        finally:
            await body.stop()
        if held.failure is not None and isinstance(answer, Grant):
            self.feed(Finished(self._tools.clock(), ticket))
            return held.failure
        return answer

    def _body_failed(self, ticket: int, held: _Held, refusal: Deny) -> None:
        self._tools.metrics.holds_refused_total.add((held.tenant, refusal.reason.value))
        if ticket not in self._held:  # answered, and not yet back from waiting
            held.failure = refusal
            return
        self._take(ticket)
        self.feed(Left(ticket, self._tools.clock()))
        if not held.answer.done():
            held.answer.set_result(refusal)

    def _withdraw(self, ticket: int, held: _Held) -> None:
        """Who waited has gone: out of the line, or what was given comes back."""
        now = self._tools.clock()
        if ticket in self._held:
            self._take(ticket)
            self.feed(Left(ticket, now))
        elif not held.answer.cancelled() and isinstance(held.answer.result(), Grant):
            self.feed(Finished(now, ticket))

    def _take(self, ticket: int) -> _Held:
        """Whoever has this ticket waits no longer."""
        held = self._held.pop(ticket)
        self.held_deferred -= held.is_deferred
        return held

    # -- the room ----------------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """
        Tell the room what happened and do what it says; never raises for what the world does.

        What comes of that is fed after it, in its order and not within: ten thousand who leave in one moment are ten
        thousand turns of a loop, not of the stack.
        """
        if self._is_closed:
            return
        self._events.append(event)
        if self._is_feeding:
            return
        self._is_feeding = True
        self.room.sharers = self._tools.cluster.sharers
        self.room.polled = self._tools.polled
        try:
            for happened in self._events:  # which grows meanwhile
                for command in self.room.on(happened):
                    self._obey(command)
        finally:
            self._events.clear()
            self._is_feeding = False
        self._count_polled(is_polled=self.room.is_polled)
        self._set_timer()

    def forget(self) -> None:
        """Nobody needs this function's room any more; it must be idle."""
        self._is_closed = True
        self._count_polled(is_polled=False)
        if self._timer is not None:
            self._timer.cancel()
        if self._pool is not None:
            self._pool.close()

    def _count_polled(self, *, is_polled: bool) -> None:
        self._tools.polled += is_polled - self._is_polled
        self._is_polled = is_polled

    async def close(self) -> None:
        """Refuse whoever waits, end calls and timer."""
        self.feed(Closed(self._tools.clock()))
        self.forget()
        calls = tuple(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._waking.end()

    def _obey(self, command: Command) -> None:
        match command:
            case Release(ticket):
                self._release(ticket, self._take(ticket))
            case Refuse(ticket, reason, retry_after_s):
                self._refuse(self._take(ticket), reason, retry_after_s)
            case AskReadiness():
                self._call(self._ask())
            case Wake():
                self._call(self._wake(command))
            case Awoke(tenant, cold_start_s):
                self._awoke(tenant, cold_start_s)
            case WantSlots(in_use, wanted, capacity):
                if self._pool is None:
                    self._pool = self._tools.cluster.slots(self.cluster_key, self._slots_held)
                self._pool.want(in_use, wanted, capacity)
            case _:
                assert_never(command)

    def _release(self, ticket: int, held: _Held) -> None:
        now = self._tools.clock()
        if held.answer.done():  # cancelled, but its task has not run yet
            self.feed(Finished(now, ticket))
        else:
            is_cold = self.room.was_asleep_since(held.since)
            held.answer.set_result(Grant(ticket, is_cold, now))

    def _refuse(self, held: _Held, reason: Reason, retry_after_s: int | None) -> None:
        if held.answer.done():
            return
        self._tools.metrics.holds_refused_total.add((held.tenant, reason.value))
        refusal = Deny(reason, detail=_DETAILS.get(reason, ""), retry_after_s=retry_after_s, tenant=held.tenant)
        if reason is Reason.WAKE_LIMITED and self._waking.refusal is not None:  # in the words of the limit itself
            refusal = self._waking.refusal
        held.answer.set_result(refusal)

    def _awoke(self, tenant: str, cold_start_s: float | None) -> None:
        if self._waking.was_called:
            outcome = "timeout" if cold_start_s is None else "ready"
            self._tools.metrics.wake_results_total.add((tenant, outcome))
        if cold_start_s is not None:
            self._tools.metrics.cold_start_seconds.observe(cold_start_s, (tenant,))
        self._end_wake()

    def _end_wake(self) -> None:
        """There is none under way any more, whoever called for it."""
        self._put_off = self._woken = None
        if self._waking.is_active:
            self._call(self._waking.end())

    def _slots_held(self, count: int) -> None:
        self.feed(SlotsHeld(count, self._tools.clock()))

    # -- calls -------------------------------------------------------------------------------------------------------

    def _call(self, call: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _ask(self) -> None:
        try:
            backend = self._backend()
            async with asyncio.timeout(CALL_S):
                readiness = await self._check.ask(backend, self._probe_path)
        except Exception as error:  # noqa: BLE001 - those who wait need an answer even when a backend has a defect
            self._report("ask", error)
            self.feed(AskFailed(self._tools.clock(), self._tools.jitter()))
            return
        now = self._tools.clock()
        self.does_exist = readiness.does_exist
        if self._put_off is not None and not self._check.is_up:  # it was up, and would not answer; now it is gone
            self._call(self._wake(self._put_off))
        elif self._woken is not None and self._woken[1] is not backend and readiness == ASLEEP:
            # A reload has put another platform in its place, which has not been called for anything yet.
            (wake, _), self._woken = self._woken, None
            self._call(self._wake(wake))
        self.feed(ReadinessSeen(readiness.ready_replicas, now) if readiness.does_exist else Missing(now))
        if not self.room.is_waking:
            self._end_wake()

    async def _wake(self, wake: Wake) -> None:
        """
        Call for a replica, unless the platform says that one is up, which is only waited for to answer: to ask for one
        replica of a function that has five would end four of them.
        """
        self._put_off = wake if self._check.is_up else None
        if self._put_off is not None:
            self.feed(WakeSucceeded(self._tools.clock()))
            return
        try:
            woken = await self._waking.call(
                self._places[wake.tenant], lambda: self._wake_replica(wake), is_retry=wake.is_retry
            )
        except Exception as error:  # noqa: BLE001 - the same, be the defect in a backend or in a store
            self._report("wake", error)
            self.feed(WakeFailed(self._tools.clock(), self._tools.jitter()))
            return
        self.feed(woken)
        if not self.room.is_waking:  # it got ready, or is given up, before the call was answered
            await self._waking.end()

    async def _wake_replica(self, wake: Wake) -> None:
        backend = self._backend()
        self._woken = wake, backend
        await backend.wake(self._key.namespace, self._key.function)

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
