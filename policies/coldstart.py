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

**Who is next** the line knows (``fair_queue``): tenants take turns by weight, and callers inside a tenant. At the bound
of the function a newcomer takes the place of the newest of those who have too many: nobody can keep others out.

While nobody knows whether the function is awake there is no such bound, but those of tenant and process: the answer
may let everybody in at once, and a burst at a function that was idle for a moment is no reason to refuse anybody. Who
had no place is refused when the answer is another.

**Nobody waits in vain.** One who cannot be let in before his deadline is refused at once: by the cold starts measured,
if a wake is under way (somebody must wait to find out whether they have become faster), and by what is ahead of him. A
caller whose line does not empty although the function is ready (CoDel's sign of overload; a line while it wakes is no
such sign) gets a quarter of his patience for what he sends from then on: a short line serves as many as a long one.

**Several Porteros** share a function's capacity: each takes its part (``sharers``), or, where the policy says that the
concurrency is that of all together, as many slots as it holds; each slot is given back after one request.

**When a wake fails** those who wait stay for one more attempt, about a second later: a gateway that restarts is not
worth a thousand refusals. When that fails too they are all refused ``wake-failed``, and so is everybody who comes
before the backoff (1, 2, 4 ... 30 s) has passed, with what is left of it as ``Retry-After``. A platform that cannot be
*asked* is treated the same, unless its last answer was "ready": then the function is tried.

Longer than other modules: it is one state machine.
"""

from __future__ import annotations

from math import ceil, inf
from typing import Final, assert_never

from policies.cold_starts import ColdStarts
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
    WantSlots,
)
from policies.decision import Reason
from policies.fair_queue import FairQueue
from policies.retry_budget import RetryBudget
from policies.waiting import Backoff, Ledger, Line, Waiter

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
LOOK_AGAIN_S: Final = 2.0
"""How long another Portero's wake is relied on before one's own is tried."""
SHED_AFTER_S: Final = 0.1
"""A line that has not been empty for so long, or for four services, does not empty (Fail at Scale, ACM Queue 2015)."""
SHED_WAIT_S: Final = 0.05
"""What is left, at least, to one who comes to such a line."""
LONGEST_ADVICE_S: Final = 30
FORGET_S: Final = 3600.0
"""A function unused for so long is forgotten, its measured cold starts with it."""
POLLS_PER_S: Final = 500
"""Questions about functions that are not ready, over all of them: an eighth of a core, and what a platform bears."""
MAX_REPLICAS: Final = 100_000
"""More than that is a platform's mistake, and would be a number too big to pace by."""
_NO_SLOTS: Final = WantSlots(0, 0, 0)
_PATIENCE: Final = 2
"""Failures in a row after which those who wait are refused."""


class Room:
    """The waiting room of one function. Shared between rooms: the ``Ledger``."""

    __slots__ = (
        "_ask_at",
        "_ask_backoff",
        "_asked_at",
        "_bystanders",
        "_commands",
        "_concurrency",
        "_counted_at",
        "_fresh_until",
        "_is_ask_void",
        "_is_asking",
        "_is_asleep",
        "_is_elsewhere",
        "_is_refreshing",
        "_is_shared",
        "_is_wake_called",
        "_ledger",
        "_let_in",
        "_look_again_at",
        "_missing_until",
        "_places",
        "_ready_since",
        "_retries",
        "_starting_until",
        "_usual_replicas",
        "_waiters",
        "_wake_backoff",
        "_wake_started_at",
        "_wake_tenant",
        "_wanted",
        "_was_used",
        "_woke_at",
        "cold_starts",
        "in_flight",
        "last_used_at",
        "line",
        "polled",
        "ready",
        "sharers",
        "slots_held",
    )

    def __init__(self, ledger: Ledger, now: float, queue: Line | None = None) -> None:
        """``queue`` says in which order those who wait are let in; None: fairly."""
        self._ledger = ledger
        self.line: Line = FairQueue() if queue is None else queue
        self._waiters = self.line.waiters
        self.cold_starts = ColdStarts()
        self.in_flight = 0
        """Requests let in and not finished."""
        self.ready = 0
        """Replicas, by the platform's last answer."""
        self.sharers = 1
        """Porteros that live, this one among them; set by the driver. Each lets in its part of the capacity."""
        self.polled = 1
        """Functions that are polled now, this one among them; set by the driver. The more, the more seldom each."""
        self.slots_held = 0
        """Places in flight that are ours, where the concurrency is that of all Porteros together."""
        self.last_used_at = now
        self._is_shared = False
        self._wanted = _NO_SLOTS
        """What was asked for last."""
        self._places: int | None = None
        """Of the function, for those who came while nobody knew whether it is awake; None: all have one."""
        self._bystanders: set[int] = set()
        """Tickets of those who wait and may not wake."""
        self._retries = RetryBudget()
        self._let_in = 0
        """Requests let in since ``_counted_at``."""
        self._counted_at = now
        self._ready_since = now
        self._usual_replicas = 1
        """Ready when it last was."""
        self._woke_at = -inf
        """When it last was ready after it had been asleep."""
        self._is_elsewhere = False
        """The wake under way is another Portero's, until ``_look_again_at``, or our own try at it was not answered."""
        self._look_again_at = inf
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

        False when anybody waits already: nobody overtakes (Q11). False for a concurrency that is shared by slots; the
        caller does not ask for a place of which the room has not heard yet that it is.
        """
        if (
            self._waiters
            or not self.ready
            or self._is_shared
            or not (now < self._fresh_until or self._may_believe(now))
        ):
            return False
        self._concurrency = concurrency
        if concurrency is None and now < self._starting_until:
            concurrency = STARTING_CONCURRENCY
        if concurrency is not None:
            limit = self.ready * concurrency
            if self.in_flight >= (limit if self.sharers <= 1 else max(1, limit // self.sharers)):
                return False
        self.in_flight += 1
        self._let_in += 1
        self._was_used = True
        self.last_used_at = now
        return True

    def give_back(self, ticket: int | None = None, served_s: float | None = None) -> bool:
        """
        ``Finished`` without its consequences; True when somebody waits for them and a ``Tick`` is due.

        ``ticket`` and ``served_s`` as in ``Finished``.
        """
        if self.in_flight:
            self.in_flight -= 1
        if ticket is not None:
            self.line.finished(ticket, served_s)
        if self._is_shared:
            self.slots_held = max(0, self.slots_held - 1)
            return True
        return bool(self._waiters)

    def may_retry(self, now: float) -> bool:
        """
        Whether one request more may be sent a second time; True takes it from the budget.

        Never while the function has more to do than it can: a line that does not empty is no place for a second try.
        """
        self._count(now)
        if self._waiters and self._does_stand(self.line.since, now):
            return False
        return self._retries.may_retry(now)

    def was_asleep_since(self, instant: float) -> bool:
        """Whether somebody who has waited from then on waited for a cold start."""
        return self._is_asleep or instant <= self._woke_at

    @property
    def is_waking(self) -> bool:
        """A wake is under way, whoever called for it."""
        return self._wake_started_at is not None

    def is_starting(self, now: float) -> bool:
        """It has been awake for a short time only: without a concurrency of its own it gets a few requests at once."""
        return now < self._starting_until

    @property
    def is_polled(self) -> bool:
        """It is asked about again and again, until it is ready."""
        return self.is_waking or (not self.ready and bool(self._waiters))

    @property
    def beyond(self) -> int:
        """Those who wait in excess of the function's places, for as long as nobody knows whether it is awake."""
        return 0 if self._places is None else max(0, self.line.held(is_deferred=False) - self._places)

    # -- events ----------------------------------------------------------------------------------------------------

    def on(self, event: Event) -> list[Command]:
        """Take in one event; what is to be done now, in this order."""
        self._commands = []
        now = event.now
        self._count(now)
        match event:
            case Arrived():
                self._arrived(event)
            case Left(ticket, _):
                if waiter := self.line.remove(ticket):
                    self._gone(waiter)
            case ReadinessSeen(replicas, _):
                self._answered(replicas, now)
            case Missing():
                self._missing(now)
            case AskFailed(_, jitter):
                self._ask_failed(now, jitter)
            case WakeSucceeded():
                self._wake_succeeded(now)
            case WakeFailed(_, jitter):
                self._wake_failed(now, jitter)
            case WakeDenied(tenant, retry_after_s, _):
                self._wake_denied(tenant, retry_after_s)
            case WakeElsewhere():
                self._wake_elsewhere(now)
            case SlotsHeld(held, _):
                self.slots_held = max(0, held) if self._is_shared else 0
            case Finished(_, ticket, served_s):
                self.give_back(ticket, served_s)
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
        is_busy = self._waiters or self.in_flight or self._is_asking or self._is_wake_called
        return not is_busy and self._wake_started_at is None and now - self.last_used_at >= after_s

    def _arrived(self, event: Arrived) -> None:
        waiter, now = event.waiter, event.now
        self.last_used_at = now
        self._share(is_shared=event.is_shared and event.concurrency is not None)
        if now < self._missing_until:
            self._commands.append(Refuse(waiter.ticket, Reason.FUNCTION_UNKNOWN, None))
        elif not event.may_wake and self._is_known_asleep(now):
            self._commands.append(Refuse(waiter.ticket, Reason.FUNCTION_ASLEEP, self.expected_wait_s(now)))
        elif self.admit(event.concurrency, now):
            self._commands.append(Release(waiter.ticket))
        elif (wait_s := self._backoff_s(now)) > 0:
            self._commands.append(Refuse(waiter.ticket, Reason.WAKE_FAILED, ceil(wait_s)))
        else:
            self._concurrency = event.concurrency
            self._line_up(event)

    def _line_up(self, event: Arrived) -> None:
        """Give the newcomer a place, perhaps somebody else's, or refuse it."""
        now, bounds, line = event.now, event.bounds, self.line
        waiter = event.waiter._replace(is_deferred=True) if event.is_deferred else event.waiter
        most = bounds.max_held_per_caller
        fattest = None
        refusal = Reason.QUEUE_FULL if most is not None and line.held_by(waiter.tenant, waiter.flow) >= most else None
        if not waiter.is_deferred and self._is_unknown(now):
            self._places = bounds.max_held
        elif refusal is None and (excess := line.held(is_deferred=waiter.is_deferred) - bounds.max_held) >= 0:
            fattest = line.fattest(waiter) if excess == 0 else None
            refusal = Reason.QUEUE_FULL if fattest is None else None
        if refusal is None:
            waiter, refusal = self._judge_wait(waiter, now)
        if refusal is None:
            refusal = self._ledger_refusal(waiter, bounds.tenant_ceiling, fattest)
        if refusal is not None:
            self._commands.append(Refuse(waiter.ticket, refusal, self.expected_wait_s(now)))
            return
        if fattest is not None:
            line.remove(fattest.ticket)
            self._refuse(fattest, Reason.QUEUE_FULL, self.expected_wait_s(now))
        self._ledger.take(waiter.tenant, waiter.tenant_weight)
        line.push(waiter, now)
        if not event.may_wake:
            self._bystanders.add(waiter.ticket)
        self._was_used = True
        self._hurry(now)

    def _ledger_refusal(self, waiter: Waiter, ceiling: int, leaving: Waiter | None) -> Reason | None:
        """``leaving`` makes room if the answer is None."""
        if leaving is None:
            return self._ledger.refusal(waiter.tenant, ceiling, waiter.tenant_weight)
        self._ledger.give(leaving.tenant)
        refusal = self._ledger.refusal(waiter.tenant, ceiling, waiter.tenant_weight)
        self._ledger.take(leaving.tenant, leaving.tenant_weight)
        return refusal

    def _judge_wait(self, waiter: Waiter, now: float) -> tuple[Waiter, Reason | None]:
        """Refuse one who would wait in vain; bring the deadline forward of one whose line does not empty."""
        left_s = max(0.0, waiter.deadline - now)
        cold_s = 0.0
        if not self.ready and self._wake_started_at is not None and not self._is_elsewhere:
            cold_s = max(0.0, (self.cold_starts.expected_s() or 0.0) - (now - self._wake_started_at))
        if cold_s > left_s:
            return waiter, Reason.COLD_START_TIMEOUT
        position_s = self._position_s(waiter, now)
        if cold_s + position_s > left_s:
            return waiter, Reason.QUEUE_FULL
        since = self.line.standing_since(waiter.tenant, waiter.flow)
        if waiter.is_deferred or not self.ready or since is None or not self._does_stand(since, now):
            return waiter, None
        shed_s = min(left_s, max(SHED_WAIT_S, left_s / 4))
        if position_s > shed_s:
            return waiter, Reason.OVERLOADED
        return waiter._replace(deadline=now + shed_s, is_shed=True), None

    def _position_s(self, waiter: Waiter, now: float) -> float:
        """How long those ahead of a newcomer take, as far as it was measured; 0 when he is the first of his flow."""
        line, service_s = self.line, self.line.service_s
        limit = self._limit(now, self.ready or self._usual_replicas)
        if service_s is None or limit is None:
            return 0.0
        ahead = min(line.ahead_of(waiter) / line.portion(waiter), len(line))
        position_s = ahead * service_s / limit
        return position_s if self._concurrency is not None else min(position_s, STARTING_S)

    def _does_stand(self, since: float, now: float) -> bool:
        """Whether a line that was never empty since then does not empty at all, rather than for the cold start only."""
        patience_s = max(SHED_AFTER_S, 4 * (self.line.service_s or 0.0))
        return self.ready > 0 and now - max(since, self._ready_since) > patience_s

    def _is_known_asleep(self, now: float) -> bool:
        if not self._is_asleep:
            return False
        return now < self._fresh_until or self._wake_started_at is not None or now < self._wake_backoff.until

    def _share(self, *, is_shared: bool) -> None:
        """Take up, or give up, sharing the concurrency with other Porteros by slots."""
        if self._is_shared == is_shared:
            return
        self._is_shared = is_shared
        self.slots_held = 0
        if not is_shared and self._wanted != _NO_SLOTS:
            self._wanted = _NO_SLOTS
            self._commands.append(_NO_SLOTS)

    def _answered(self, replicas: int, now: float) -> None:
        self._is_asking = self._is_refreshing = False
        self._ask_backoff.clear()
        if self._is_ask_void:
            self._is_ask_void = False
            self._ask_at = now + self._poll_s(0.0)
            return
        self._missing_until = -inf
        self._fresh_until = now + FRESH_S
        self._was_used = bool(self._waiters)
        was_ready = self.ready > 0
        self.ready = min(max(replicas, 0), MAX_REPLICAS)
        if not self.ready:
            self._is_asleep = True
            self._ask_at = None
            self._starting_until = -inf
            for ticket in tuple(self._bystanders):
                if waiter := self.line.remove(ticket):
                    self._refuse(waiter, Reason.FUNCTION_ASLEEP, self.expected_wait_s(now))
            return
        self._usual_replicas = self.ready
        if not was_ready:
            self._ready_since = now
        if self._is_asleep:
            self._starting_until = now + STARTING_S
            self._woke_at = now
        self._is_asleep = False
        if self._wake_started_at is not None:
            if not self._is_elsewhere:
                self._commands.append(Awoke(self._wake_tenant, now - self._wake_started_at))
                self.cold_starts.add(now - self._wake_started_at)
            self._wake_started_at = None
            self._is_elsewhere = False
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
            self._was_used = bool(self._waiters)
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

    def _wake_succeeded(self, now: float) -> None:
        self._is_wake_called = False
        self._wake_backoff.clear()
        if self._is_elsewhere and self._wake_started_at is not None:  # another's came to nothing: this one is ours
            self._is_elsewhere = False
            self._wake_started_at = now

    def _wake_denied(self, tenant: str, retry_after_s: int) -> None:
        self._is_wake_called = False
        if self._wake_started_at is not None:
            self._end_wake()
            self._refuse_all(Reason.WAKE_LIMITED, retry_after_s, tenant)

    def _wake_elsewhere(self, now: float) -> None:
        self._is_wake_called = False
        if self._wake_started_at is not None:
            self._is_elsewhere = True
            self._look_again_at = now + LOOK_AGAIN_S

    # -- consequences ----------------------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """What follows from any event: refuse who waited too long, let in who may, find out what is not known."""
        if now >= self._starting_until:
            self._starting_until = -inf
        for waiter in self.line.take_expired(now):
            reason = Reason.OVERLOADED if waiter.is_shed else Reason.COLD_START_TIMEOUT
            self._refuse(waiter, reason, self.expected_wait_s(now))
        while self._waiters and self._has_capacity(now):
            waiter = self.line.pop()
            self._gone(waiter)
            self.in_flight += 1
            self._let_in += 1
            self.line.forget_served(self.in_flight)
            self._commands.append(Release(waiter.ticket))
        if self._places is not None and not self._is_unknown(now):
            self._cut_to(self._places, now)
            self._places = None
        if self._is_asleep:
            self._wake_or_poll(now)
        if self._is_shared:
            self._want_slots()
        if self._waiters and self._ask_at is None and not self._is_asking:
            self._ask_at = max(now, self._asked_at + self._poll_s(0.0), self._wake_backoff.until)
        self._ask_if_due(now)

    def _cut_to(self, places: int, now: float) -> None:
        """It is known now that not all can be let in: those who have too many yield, their newest first."""
        while self.line.held(is_deferred=False) > places and (waiter := self.line.newest_in_excess()) is not None:
            self.line.remove(waiter.ticket)
            self._refuse(waiter, Reason.QUEUE_FULL, self.expected_wait_s(now))

    def _wake_or_poll(self, now: float) -> None:
        if self._wake_started_at is not None and now - self._wake_started_at >= WAKE_AGAIN_S:
            self._end_wake(in_vain=True)
        is_due = self._wake_started_at is None or (self._is_elsewhere and now >= self._look_again_at)
        is_wanted = len(self._waiters) > len(self._bystanders) and not self._is_wake_called
        if is_due and is_wanted and self._wake_backoff.until <= now < self._fresh_until:
            self._wake_tenant = self.line.first().tenant
            self._is_wake_called = True
            self._look_again_at = inf
            if self._wake_started_at is None:
                self._wake_started_at = now
                self._ask_at = now + self._poll_s(0.0)  # a replica may be ready before the call itself is answered
            self._commands.append(Wake(self._wake_tenant, 0 < self._wake_backoff.failures < _PATIENCE))
        if self._wake_started_at is not None and self._ask_at is None and not self._is_asking:
            poll_s = max(0.0 if self._waiters else FRESH_S, self._poll_s(now - self._wake_started_at))
            self._ask_at = max(now, self._asked_at + poll_s)  # from asking to asking, however long an answer takes

    def _want_slots(self) -> None:
        """Say what is used and wanted of a shared concurrency, if that is news."""
        capacity = self.ready * (self._concurrency or 0)
        wanted = WantSlots(self.in_flight, min(self.in_flight + len(self._waiters), capacity), capacity)
        if wanted != self._wanted:
            self._wanted = wanted
            self._commands.append(wanted)

    def _ask_if_due(self, now: float) -> None:
        if self._ask_at is None or self._is_asking or now < self._ask_at:
            return
        self._ask_at = None
        if self._waiters or (self.ready and self._was_used) or self._wake_started_at is not None:
            self._is_asking = True
            self._is_refreshing = self.ready > 0 and self._may_believe(now)
            self._asked_at = now
            self._was_used = False
            self._commands.append(AskReadiness())

    def _hurry(self, now: float) -> None:
        """Somebody new waits: ask soon, however slowly the platform was polled while nobody did."""
        if self._ask_at is not None and self._wake_started_at is not None:
            self._ask_at = min(self._ask_at, now + self._poll_s(now - self._wake_started_at))

    def _may_believe(self, now: float) -> bool:
        if now < self._fresh_until or self._is_refreshing:
            return True
        return self._was_used and now < self._fresh_until + SLACK_S

    def _is_unknown(self, now: float) -> bool:
        """Those who wait wait for an answer of the platform: it may let all of them in at once."""
        return not self._is_asleep and not (self.ready and self._may_believe(now))

    def _has_capacity(self, now: float) -> bool:
        if not self.ready or not self._may_believe(now):
            return False
        if self._is_shared:
            return self.in_flight < min(self.slots_held, self.ready * (self._concurrency or 0))
        limit = self._limit(now, self.ready)
        return limit is None or self.in_flight < limit

    def _limit(self, now: float, replicas: int) -> int | None:
        """How many of ours so many replicas may have at once; None: no bound."""
        concurrency = self._concurrency
        if concurrency is None:
            if self.ready and now >= self._starting_until:
                return None
            concurrency = STARTING_CONCURRENCY
        return max(1, replicas * concurrency // max(1, self.sharers))

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
            limit = self._limit(now, self.ready)
            drain_s = 0.0 if limit is None else len(self._waiters) * (self.line.service_s or 0.0) / limit
            return max(1, min(LONGEST_ADVICE_S, ceil(drain_s)))
        return self.cold_starts.remaining_s(0.0 if self._wake_started_at is None else now - self._wake_started_at)

    def _end_wake(self, *, in_vain: bool = False) -> None:
        if in_vain and self._wake_started_at is not None and not self._is_elsewhere:
            self._commands.append(Awoke(self._wake_tenant, None))
        self._wake_started_at = None
        self._is_elsewhere = False
        self._ask_at = None

    def _refuse_all(self, reason: Reason, retry_after_s: int | None, tenant: str | None = None) -> None:
        for waiter in self.line.take_all(tenant):
            self._refuse(waiter, reason, retry_after_s)

    def _refuse(self, waiter: Waiter, reason: Reason, retry_after_s: int | None) -> None:
        """Of one who has been taken out of the line."""
        self._gone(waiter)
        self._commands.append(Refuse(waiter.ticket, reason, retry_after_s))

    def _gone(self, waiter: Waiter) -> None:
        """He does not wait any longer, whatever the reason."""
        self._ledger.give(waiter.tenant)
        self._bystanders.discard(waiter.ticket)

    def _count(self, now: float) -> None:
        """Tell the budget what was let in, as of when nothing of it had been: it must not count anything too long."""
        if self._let_in:
            self._retries.sent(self._counted_at, self._let_in)
            self._let_in = 0
        self._counted_at = now

    def _poll_s(self, elapsed_s: float) -> float:
        """How long to wait before asking again about a function that has been waking for so long."""
        usual_s = 0.05 if elapsed_s < 10.0 else 0.25 if elapsed_s < 30.0 else 1.0
        return usual_s if self.ready else max(usual_s, self.polled / POLLS_PER_S)
