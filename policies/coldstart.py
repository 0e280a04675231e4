"""
Question 5: is it there, and awake? One ``Room`` a function decides who waits for it, who is let in and who is refused.

A state machine: events in, commands out, time and jitter as arguments. It refuses to know sockets, tasks and platforms;
``authproxy.activator`` feeds it and does what it says.

Theory
======

What a room believes is the platform's last answer: so many replicas are *ready*, or none (*asleep*), or there is no
such function (*missing*). The answer of a function in use is renewed once a second, in the background; an answer that
is older, or void because the function could not be reached, lets nobody in until it is renewed.

A wake is only ever called for right after the answer "asleep", while somebody waits and no wake is under way. From then
on the platform is polled until a replica is ready, so that one wake serves however many wait; when the last of them
leaves, the wake is let finish, and is not called for again meanwhile.

Nobody is let in all at once. For 10 s after a function was seen asleep each ready replica gets at most ten requests (an
application that has just opened its port has not yet warmed up); after that as many as the function's ``concurrency``
says, always, or without bound when it says none.

**When a wake fails** those who wait stay for one more attempt, about a second later: a gateway that restarts is not
worth a thousand refusals. When that fails too they are all refused ``wake-failed``, and so is everybody who comes
before the backoff (1, 2, 4 ... 30 s) has passed, with what is left of it as ``Retry-After``. A platform that cannot be
*asked* is treated the same, unless its last answer was "ready": then the function is tried.

Longer than other modules: it is one state machine.
"""

from __future__ import annotations

from math import ceil, inf
from typing import Final, assert_never

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
    WakeDenied,
    WakeElsewhere,
    WakeFailed,
    WakeSucceeded,
)
from policies.decision import Reason
from policies.waiting import Backoff, ColdStarts, Ledger, Line

STARTING_S: Final = 10.0
"""How long after its first ready replica a function counts as starting."""
STARTING_CONCURRENCY: Final = 10
"""Requests a replica of a starting function gets at once when its policy does not say."""
FRESH_S: Final = 1.0
"""How long an answer of the platform is believed, and how often a function in use is asked about."""
SLACK_S: Final = 0.25
"""An answer about a function in use is believed this much longer: a busy event loop may be late to renew it."""
MISSING_S: Final = 2.0
"""How long "no such function" is believed; short, because a deployment follows soon where one is expected."""
WAKE_AGAIN_S: Final = 30.0
"""A wake after which nothing got ready for so long was in vain (the longest cold starts of container platforms)."""
FORGET_S: Final = 3600.0
"""A function unused for so long is forgotten, its measured cold starts with it."""
MAX_REPLICAS: Final = 100_000
"""More than that is a platform's mistake, and would be a number too big to pace by."""
_PATIENCE: Final = 2
"""Failures in a row after which those who wait are refused."""


class Room:
    """The waiting room of one function. Shared between rooms: the ``Ledger``."""

    __slots__ = (
        "_ask_at",
        "_ask_backoff",
        "_asked_at",
        "_commands",
        "_concurrency",
        "_fresh_until",
        "_is_ask_void",
        "_is_asking",
        "_is_asleep",
        "_is_refreshing",
        "_is_wake_called",
        "_ledger",
        "_missing_until",
        "_starting_until",
        "_wake_backoff",
        "_wake_started_at",
        "_wake_tenant",
        "_was_used",
        "cold_starts",
        "in_flight",
        "last_used_at",
        "line",
        "ready",
    )

    def __init__(self, ledger: Ledger, now: float) -> None:
        self._ledger = ledger
        self.line = Line()
        self.cold_starts = ColdStarts()
        self.in_flight = 0
        """Requests let in and not finished."""
        self.ready = 0
        """Replicas, by the platform's last answer."""
        self.last_used_at = now
        self._commands: list[Command] = []
        self._concurrency: int | None = None
        self._fresh_until = -inf
        self._is_asleep = False
        self._is_asking = False
        self._is_ask_void = False
        """The answer under way was asked for before something happened that it cannot know."""
        self._is_refreshing = False
        """The answer under way renews one that still holds."""
        self._was_used = False
        """Somebody was let in, or waits, since the last answer: worth renewing."""
        self._ask_at: float | None = None
        self._asked_at = -inf
        self._ask_backoff = Backoff()
        self._wake_backoff = Backoff()
        self._wake_started_at: float | None = None
        """A wake is under way; None when there is none, or when it has ended."""
        self._wake_tenant = ""
        self._is_wake_called = False
        """The call itself has not been answered yet."""
        self._starting_until = -inf
        self._missing_until = -inf

    # -- the hot path ----------------------------------------------------------------------------------------------

    def admit(self, concurrency: int | None, now: float) -> bool:
        """
        Let a request in without an event, if that takes no waiting: True takes a place in flight, until Finished.

        False when anybody waits already: nobody overtakes (Q11).
        """
        if self.line or not self.ready or not self._may_believe(now):
            return False
        self._concurrency = concurrency
        if concurrency is None and now < self._starting_until:
            concurrency = STARTING_CONCURRENCY
        if concurrency is not None and self.in_flight >= self.ready * concurrency:
            return False
        self.in_flight += 1
        self._was_used = True
        self.last_used_at = now
        return True

    def give_back(self, ticket: int | None = None, served_s: float | None = None) -> bool:
        """``Finished`` without its consequences; True when somebody waits for them and a ``Tick`` is due."""
        if self.in_flight:
            self.in_flight -= 1
        return bool(self.line)

    # -- events ----------------------------------------------------------------------------------------------------

    def on(self, event: Event) -> list[Command]:
        """Take in one event; what is to be done now, in this order."""
        self._commands = []
        now = event.now
        match event:
            case Arrived():
                self._arrived(event)
            case Left(ticket, _):
                if waiter := self.line.remove(ticket):
                    self._ledger.give(waiter.tenant)
            case ReadinessSeen(replicas, _):
                self._answered(replicas, now)
            case Missing():
                self._missing(now)
            case AskFailed(_, jitter):
                self._ask_failed(now, jitter)
            case WakeSucceeded():
                self._is_wake_called = False
                self._wake_backoff.clear()
            case WakeFailed(_, jitter):
                self._wake_failed(now, jitter)
            case WakeDenied(tenant, retry_after_s, _):
                self._is_wake_called = False
                if self._wake_started_at is not None:
                    self._end_wake()
                    self._refuse_all(Reason.WAKE_LIMITED, retry_after_s, tenant)
            case WakeElsewhere():
                self._is_wake_called = False
            case SlotsHeld():
                pass
            case Finished():
                self.give_back()
            case Unreached():
                self._unreached()
            case Tick():
                pass
            case Closed():
                self._refuse_all(Reason.DRAINING, 1)
            case _:
                assert_never(event)
        self._settle(now)
        return self._commands

    def next_tick_at(self) -> float | None:
        """When a ``Tick`` is due if nothing happens before; None when time alone changes nothing."""
        due = [] if self._ask_at is None or self._is_asking else [self._ask_at]
        if (deadline := self.line.next_deadline()) is not None:
            due.append(deadline)
            if self._starting_until > -inf:
                due.append(self._starting_until)
        return min(due, default=None)

    def is_forgettable(self, now: float, *, after_s: float = FORGET_S) -> bool:
        """True when nothing is under way and nobody came for ``after_s`` seconds."""
        is_busy = self.line or self.in_flight or self._is_asking or self._is_wake_called
        return not is_busy and self._wake_started_at is None and now - self.last_used_at >= after_s

    def _arrived(self, event: Arrived) -> None:
        waiter, now = event.waiter, event.now
        self.last_used_at = now
        if now < self._missing_until:
            self._commands.append(Refuse(waiter.ticket, Reason.FUNCTION_UNKNOWN, None))
        elif self.admit(event.concurrency, now):
            self._commands.append(Release(waiter.ticket))
        elif (wait_s := self._backoff_s(now)) > 0:
            self._commands.append(Refuse(waiter.ticket, Reason.WAKE_FAILED, ceil(wait_s)))
        elif refusal := self._bound_reached(event):
            self._commands.append(Refuse(waiter.ticket, refusal, self.expected_wait_s(now)))
        else:
            self._concurrency = event.concurrency
            self._ledger.take(waiter.tenant)
            self.line.push(waiter)
            self._was_used = True
            self._hurry(now)

    def _bound_reached(self, event: Arrived) -> Reason | None:
        if len(self.line) >= event.bounds.max_held:
            return Reason.QUEUE_FULL
        return self._ledger.refusal(event.waiter.tenant, event.bounds.tenant_ceiling)

    def _answered(self, replicas: int, now: float) -> None:
        self._is_asking = self._is_refreshing = False
        self._ask_backoff.clear()
        if self._is_ask_void:
            self._is_ask_void = False
            self._ask_at = now + _poll_s(0.0)
            return
        self._missing_until = -inf
        self._fresh_until = now + FRESH_S
        self._was_used = bool(self.line)
        self.ready = min(max(replicas, 0), MAX_REPLICAS)
        if not self.ready:
            self._is_asleep = True
            self._ask_at = None
            self._starting_until = -inf
            return
        if self._is_asleep:
            self._starting_until = now + STARTING_S
        self._is_asleep = False
        if self._wake_started_at is not None:
            self._commands.append(Awoke(self._wake_tenant, now - self._wake_started_at))
            self.cold_starts.add(now - self._wake_started_at)
            self._wake_started_at = None
        self._wake_backoff.clear()
        self._ask_at = now + FRESH_S

    def _unreached(self) -> None:
        if not self.ready:
            return
        self._fresh_until = -inf
        self._is_refreshing = False
        self._is_ask_void = self._is_asking
        self._ask_at = None

    def _missing(self, now: float) -> None:
        self._is_asking = self._is_refreshing = self._is_ask_void = False
        self.ready = 0
        self._is_asleep = True  # when it is there one day, it is new, and starts
        self._fresh_until = self._starting_until = -inf
        self._missing_until = now + MISSING_S
        self._ask_at = None
        self._ask_backoff.clear()
        self._end_wake(in_vain=True)
        self._refuse_all(Reason.FUNCTION_UNKNOWN, None)

    def _ask_failed(self, now: float, jitter: float) -> None:
        self._is_asking = self._is_refreshing = self._is_ask_void = False
        if self.ready:  # last known awake: tried, and asked about again as if it had been confirmed
            self._fresh_until = now + FRESH_S
            self._was_used = bool(self.line)
            self._ask_at = now + FRESH_S
            return
        self._ask_backoff.fail(now, jitter)
        self._ask_at = self._ask_backoff.until
        if self._ask_backoff.failures >= _PATIENCE:
            self._refuse_all(Reason.WAKE_FAILED, ceil(self._ask_backoff.until - now))

    def _wake_failed(self, now: float, jitter: float) -> None:
        self._is_wake_called = False
        if self._wake_started_at is None:  # it has ended meanwhile: a replica got ready all the same
            return
        self._end_wake()
        self._wake_backoff.fail(now, jitter)
        self._ask_at = self._wake_backoff.until
        if self._wake_backoff.failures >= _PATIENCE:
            self._refuse_all(Reason.WAKE_FAILED, ceil(self._wake_backoff.until - now))

    # -- consequences ----------------------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """What follows from any event: refuse who waited too long, let in who may, find out what is not known."""
        if now >= self._starting_until:
            self._starting_until = -inf
        for waiter in self.line.take_expired(now):
            self._ledger.give(waiter.tenant)
            self._commands.append(Refuse(waiter.ticket, Reason.COLD_START_TIMEOUT, self.expected_wait_s(now)))
        while self.line and self._has_capacity(now):
            waiter = self.line.pop()
            self._ledger.give(waiter.tenant)
            self.in_flight += 1
            self._commands.append(Release(waiter.ticket))
        if self._is_asleep:
            self._wake_or_poll(now)
        if self.line and self._ask_at is None and not self._is_asking:
            self._ask_at = max(now, self._asked_at + _poll_s(0.0), self._wake_backoff.until)
        self._ask_if_due(now)

    def _wake_or_poll(self, now: float) -> None:
        if self._wake_started_at is not None and now - self._wake_started_at >= WAKE_AGAIN_S:
            self._end_wake(in_vain=True)
        if self._wake_started_at is not None:
            if self._ask_at is None and not self._is_asking:
                self._ask_at = now + (_poll_s(now - self._wake_started_at) if self.line else FRESH_S)
        elif self.line and not self._is_wake_called and self._wake_backoff.until <= now < self._fresh_until:
            self._wake_tenant = self.line.first().tenant
            self._wake_started_at = now
            self._is_wake_called = True
            self._ask_at = now + _poll_s(0.0)  # a replica may be ready before the call itself is answered
            self._commands.append(Wake(self._wake_tenant, 0 < self._wake_backoff.failures < _PATIENCE))

    def _ask_if_due(self, now: float) -> None:
        if self._ask_at is None or self._is_asking or now < self._ask_at:
            return
        self._ask_at = None
        if self.line or (self.ready and self._was_used) or self._wake_started_at is not None:
            self._is_asking = True
            self._is_refreshing = self.ready > 0 and self._may_believe(now)
            self._asked_at = now
            self._was_used = False
            self._commands.append(AskReadiness())

    def _hurry(self, now: float) -> None:
        """Somebody new waits: ask soon, however slowly the platform was polled while nobody did."""
        if self._ask_at is not None and self._wake_started_at is not None:
            self._ask_at = min(self._ask_at, now + _poll_s(now - self._wake_started_at))

    def _may_believe(self, now: float) -> bool:
        if now < self._fresh_until or self._is_refreshing:
            return True
        return self._was_used and now < self._fresh_until + SLACK_S

    def _has_capacity(self, now: float) -> bool:
        if not self.ready or not self._may_believe(now):
            return False
        concurrency = self._concurrency
        if concurrency is None:
            if now >= self._starting_until:
                return True
            concurrency = STARTING_CONCURRENCY
        return self.in_flight < self.ready * concurrency

    def _backoff_s(self, now: float) -> float:
        """What is left of a backoff during which everybody is refused; not positive when there is none."""
        ask, wake = self._ask_backoff, self._wake_backoff
        if self.ready or (ask.failures < _PATIENCE and wake.failures < _PATIENCE):
            return 0.0
        until = max(backoff.until if backoff.failures >= _PATIENCE else -inf for backoff in (ask, wake))
        return until - now

    def expected_wait_s(self, now: float) -> int:
        """Whole seconds, at least 1, after which coming back is likely to help."""
        if self.ready:
            return 1
        return self.cold_starts.remaining_s(0.0 if self._wake_started_at is None else now - self._wake_started_at)

    def _end_wake(self, *, in_vain: bool = False) -> None:
        if in_vain and self._wake_started_at is not None:
            self._commands.append(Awoke(self._wake_tenant, None))
        self._wake_started_at = None
        self._ask_at = None

    def _refuse_all(self, reason: Reason, retry_after_s: int | None, tenant: str | None = None) -> None:
        for waiter in self.line.take_all(tenant):
            self._ledger.give(waiter.tenant)
            self._commands.append(Refuse(waiter.ticket, reason, retry_after_s))


def _poll_s(elapsed_s: float) -> float:
    """How long to wait before asking again about a function that has been waking for so long."""
    if elapsed_s < 10.0:
        return 0.05
    return 0.25 if elapsed_s < 30.0 else 1.0
