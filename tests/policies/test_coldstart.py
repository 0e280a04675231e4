"""Question 5 as a state machine: who waits, who is let in, who is refused. Nothing here waits for anything."""

from __future__ import annotations

from typing import Any

import pytest

from policies.coldstart import FRESH_S, STARTING_CONCURRENCY, STARTING_S, WAKE_AGAIN_S, Room
from policies.coldstart_events import (
    Arrived,
    AskFailed,
    AskReadiness,
    Awoke,
    Bounds,
    Closed,
    Command,
    Finished,
    Left,
    Missing,
    ReadinessSeen,
    Refuse,
    Release,
    Tick,
    Unreached,
    Wake,
    WakeDenied,
    WakeFailed,
    WakeSucceeded,
)
from policies.decision import Reason
from policies.waiting import Ledger, Waiter

NOW = 1_700_000_000.0


def arrived(ticket: int, now: float, *, tenant: str = "acme", wait_s: float = 30.0, **changed: Any) -> Arrived:
    waiter = Waiter(ticket, tenant, "ana", now + wait_s)
    bounds = Bounds(10_000, None, 10_000)
    return Arrived(
        waiter._replace(**{name: changed.pop(name) for name in waiter._fields if name in changed}),
        now,
        bounds._replace(**{name: changed.pop(name) for name in bounds._fields if name in changed}),
        **({"concurrency": None} | changed),
    )


def asleep(ledger: Ledger | None = None) -> Room:
    """A room whose function is known to sleep; ticket 0 waits and a wake was called for."""
    room = Room(ledger or Ledger(), NOW)
    assert room.on(arrived(0, NOW)) == [AskReadiness()]
    assert room.on(ReadinessSeen(0, NOW)) == [Wake("acme", is_retry=False)]
    return room


def ready(replicas: int = 1, **terms: Any) -> Room:
    """A room whose function has just got ready after a cold start of 1 s; ticket 0 was let in and has finished."""
    room = asleep()
    room.on(WakeSucceeded(NOW))
    room.on(Tick(NOW + 0.1))
    assert Release(0) in room.on(ReadinessSeen(replicas, NOW + 1))
    room.on(Finished(NOW + 1))
    return room


def tickets(commands: list[Command]) -> list[int]:
    return [command.ticket for command in commands if isinstance(command, Release)]


def refusals(commands: list[Command]) -> dict[int, tuple[Reason, int | None]]:
    return {c.ticket: (c.reason, c.retry_after_s) for c in commands if isinstance(c, Refuse)}


def test_an_unknown_function_is_asked_about_before_anything_is_woken() -> None:
    """The first request asks; only the answer "asleep" calls for a wake."""
    room = Room(Ledger(), NOW)
    assert room.on(arrived(0, NOW)) == [AskReadiness()]
    assert room.on(arrived(1, NOW)) == []
    assert room.on(ReadinessSeen(0, NOW + 0.01)) == [Wake("acme", is_retry=False)]


def test_a_warm_function_costs_one_question_and_no_wake() -> None:
    """The answer "ready" lets everybody in, and those who come within a second are let in without a question."""
    room = Room(Ledger(), NOW)
    room.on(arrived(0, NOW))
    room.on(arrived(1, NOW))
    assert room.on(ReadinessSeen(1, NOW)) == [Release(0), Release(1)]
    assert all(room.admit(None, NOW + 0.5) for _ in range(500))


def test_one_wake_however_many_wait() -> None:
    """A thousand first requests call for one wake, and none of them is let in before a replica is ready (Q7)."""
    room = asleep()
    commands = [command for n in range(1, 1000) for command in room.on(arrived(n, NOW))]
    now = NOW
    for _ in range(50):
        now += 0.05
        commands += room.on(Tick(now))
        commands += room.on(ReadinessSeen(0, now))
    assert not [command for command in commands if isinstance(command, Wake | Release | Refuse)]


def test_release_is_paced_by_ready_replicas() -> None:
    """Two ready replicas of a starting function let in twenty, the first who came, and one more for each that ends."""
    room = asleep()
    for n in range(1, 100):
        room.on(arrived(n, NOW))
    room.on(WakeSucceeded(NOW))
    room.on(Tick(NOW + 0.05))
    assert tickets(room.on(ReadinessSeen(2, NOW + 1))) == list(range(2 * STARTING_CONCURRENCY))
    assert room.on(Finished(NOW + 1.1)) == [Release(20)]


def test_a_starting_function_is_let_loose_after_ten_seconds() -> None:
    """Without a concurrency of its own everybody is let in when the function no longer starts, on time."""
    room = ready()
    start = NOW + 1
    for n in range(1, 31):
        room.on(arrived(n, start))
    assert room.in_flight == STARTING_CONCURRENCY == 10
    now = start
    while now < start + 10:
        assert len(room.line) == 20
        due = room.next_tick_at()
        assert due is not None
        now = due
        if AskReadiness() in room.on(Tick(now)):
            room.on(ReadinessSeen(1, now))
    assert now == start + STARTING_S == start + 10
    assert not room.line


def test_a_concurrency_of_the_function_holds_always() -> None:
    """With ``concurrency`` set the pace does not end with the start."""
    room = ready()
    later = NOW + 60
    room.on(arrived(1, later, concurrency=2))
    assert tickets(room.on(ReadinessSeen(1, later))) == [1]
    assert room.admit(2, later)
    assert not room.admit(2, later)
    assert room.on(arrived(2, later, concurrency=2)) == []
    assert room.on(Finished(later)) == [Release(2)]


def test_nobody_overtakes() -> None:
    """While somebody waits, a newcomer waits behind, even if a place has just become free (Q11)."""
    room = ready()
    now = NOW + 1
    for n in range(1, STARTING_CONCURRENCY + 2):
        room.on(arrived(n, now))
    assert room.give_back()
    assert not room.admit(None, now)
    assert tickets(room.on(arrived(99, now))) == [STARTING_CONCURRENCY + 1]


def test_a_waiting_request_is_refused_at_its_own_deadline() -> None:
    """Each deadline is a tick of its own, and nobody waits past it (Q6)."""
    room = asleep()
    room.on(arrived(1, NOW, wait_s=2.0))
    room.on(WakeSucceeded(NOW))
    now = NOW
    refused: dict[int, tuple[Reason, int | None]] = {}
    while not refused:
        due = room.next_tick_at()
        assert due is not None
        now = due
        commands = room.on(Tick(now))
        refused = refusals(commands)
        if AskReadiness() in commands:
            room.on(ReadinessSeen(0, now))
    assert now == NOW + 2.0
    assert refused == {1: (Reason.COLD_START_TIMEOUT, 3)}


def test_who_leaves_frees_the_place_at_once() -> None:
    """A place given up is there for the next, whoever waits before or behind."""
    room = asleep()
    assert room.on(arrived(1, NOW, max_held=2)) == []
    assert refusals(room.on(arrived(2, NOW, max_held=2))) == {2: (Reason.QUEUE_FULL, 5)}
    room.on(Left(0, NOW))
    assert room.on(arrived(3, NOW, max_held=2)) == []
    room.on(Left(77, NOW))
    assert len(room.line) == 2


def test_each_bound_has_its_reason() -> None:
    """The tenant's own places over all functions: queue-full; the process's: overloaded."""
    ledger = Ledger(max_total=3)
    room, other = asleep(ledger), Room(ledger, NOW)
    other.on(arrived(10, NOW))
    assert refusals(other.on(arrived(11, NOW, tenant_ceiling=2))) == {11: (Reason.QUEUE_FULL, 5)}
    other.on(arrived(12, NOW, tenant="globex"))
    assert refusals(room.on(arrived(1, NOW, tenant="globex"))) == {1: (Reason.OVERLOADED, 5)}
    assert ledger.total == 3


def test_a_first_failed_wake_is_tried_again_for_those_who_wait() -> None:
    """One failure is ridden out; the second attempt is a retry that nobody pays for again."""
    room = asleep()
    assert room.on(WakeFailed(NOW, 0.0)) == []
    assert room.next_tick_at() == NOW + 1
    assert room.on(Tick(NOW + 1)) == [AskReadiness()]
    assert room.on(ReadinessSeen(0, NOW + 1)) == [Wake("acme", is_retry=True)]


def test_a_second_failed_wake_refuses_everybody_for_the_backoff() -> None:
    """All who wait, and all who come before the backoff is over, get 503 with what is left of it."""
    room = asleep()
    room.on(arrived(1, NOW))
    room.on(WakeFailed(NOW, 0.0))
    room.on(Tick(NOW + 1))
    room.on(ReadinessSeen(0, NOW + 1))
    assert refusals(room.on(WakeFailed(NOW + 1, 0.0))) == {0: (Reason.WAKE_FAILED, 2), 1: (Reason.WAKE_FAILED, 2)}
    assert refusals(room.on(arrived(2, NOW + 1.5))) == {2: (Reason.WAKE_FAILED, 2)}
    assert room.on(arrived(3, NOW + 3)) == [AskReadiness()]
    assert room.on(ReadinessSeen(0, NOW + 3)) == [Wake("acme", is_retry=False)]


def test_the_backoff_doubles_up_to_thirty_seconds() -> None:
    """1, 2, 4, 8, 16, 30, 30: a platform that stays broken is not hammered."""
    room, now, waits = Room(Ledger(), NOW), NOW, []
    for n in range(8):
        commands = room.on(arrived(n, now, wait_s=1000)) + room.on(Tick(now))
        assert AskReadiness() in commands
        assert any(isinstance(command, Wake) for command in room.on(ReadinessSeen(0, now)))
        refused = refusals(room.on(WakeFailed(now, 0.0)))
        due = room.next_tick_at()
        assert due is not None
        waits.append(due - now)
        assert all(retry == due - now for _, retry in refused.values())
        now = due
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_jitter_shortens_a_backoff_by_a_quarter_at_most() -> None:
    """Several processes do not come back in step, and no Retry-After is too short."""
    room = asleep()
    room.on(WakeFailed(NOW, 0.999))
    due = room.next_tick_at()
    assert due is not None
    assert NOW + 0.75 <= due < NOW + 0.76


def test_a_platform_that_cannot_be_asked_is_a_failed_wake() -> None:
    """Nothing is known of a function: those who wait get 503 at the second failure, never a 404."""
    room = Room(Ledger(), NOW)
    room.on(arrived(0, NOW))
    assert room.on(AskFailed(NOW, 0.0)) == []
    assert room.on(Tick(NOW + 1)) == [AskReadiness()]
    assert refusals(room.on(AskFailed(NOW + 1, 0.0))) == {0: (Reason.WAKE_FAILED, 2)}
    assert refusals(room.on(arrived(1, NOW + 2))) == {1: (Reason.WAKE_FAILED, 1)}


def test_a_function_last_known_awake_is_tried_when_the_platform_cannot_be_asked() -> None:
    """The API may be down while functions serve: what was awake is believed awake, second by second."""
    room = ready()
    now = NOW + 1
    for _ in range(30):
        assert room.admit(None, now)
        room.on(Finished(now))
        due = room.next_tick_at()
        assert due == now + FRESH_S
        assert room.on(Tick(due)) == [AskReadiness()]
        room.on(AskFailed(due, 0.0))
        now = due


def test_one_that_was_not_reached_is_asked_about_before_anybody_else_is_let_in() -> None:
    """A refused connection voids what is believed; the platform's next word decides."""
    room = ready()
    now = NOW + 1.1
    assert room.on(Unreached(now)) == []
    assert not room.admit(None, now)
    assert room.on(arrived(1, now)) == [AskReadiness()]
    assert room.on(ReadinessSeen(0, now)) == [Wake("acme", is_retry=False)]


def test_an_answer_asked_for_before_the_function_failed_counts_for_nothing() -> None:
    """The platform may have answered before the replica died."""
    room = ready()
    due = NOW + 1 + FRESH_S
    room.admit(None, NOW + 1.5)
    assert room.on(Tick(due)) == [AskReadiness()]
    room.on(Unreached(due + 0.01))
    assert room.on(arrived(1, due + 0.02)) == []
    assert room.on(ReadinessSeen(1, due + 0.03)) == []
    assert AskReadiness() in room.on(Tick(due + 0.1))
    assert room.on(ReadinessSeen(1, due + 0.1)) == [Release(1)]


def test_a_function_in_use_is_renewed_once_a_second_and_an_idle_one_never() -> None:
    """Use keeps the answer fresh in the background; an hour of silence costs no question, and the next one asks."""
    room = ready()
    assert room.admit(None, NOW + 1.9)
    assert room.on(Tick(NOW + 2)) == [AskReadiness()]
    assert room.admit(None, NOW + 2.01)
    room.on(ReadinessSeen(1, NOW + 2.02))
    due = room.next_tick_at()
    assert due == NOW + 2.02 + FRESH_S
    assert room.on(Tick(due)) == []
    assert room.next_tick_at() is None
    assert not room.admit(None, NOW + 4)
    assert room.on(arrived(1, NOW + 4)) == [AskReadiness()]


def test_a_hanging_question_does_not_stop_a_warm_function() -> None:
    """While the renewal is under way, what was believed goes on being believed."""
    room = ready()
    room.admit(None, NOW + 1.5)
    assert room.on(Tick(NOW + 2)) == [AskReadiness()]
    assert room.admit(None, NOW + 4.9)


def test_no_such_function() -> None:
    """Everybody is told so, and for two seconds nobody is asked again."""
    room = Room(Ledger(), NOW)
    room.on(arrived(0, NOW))
    assert refusals(room.on(Missing(NOW))) == {0: (Reason.FUNCTION_UNKNOWN, None)}
    assert room.on(arrived(1, NOW + 1.9)) == [Refuse(1, Reason.FUNCTION_UNKNOWN, None)]
    assert room.on(arrived(2, NOW + 2.1)) == [AskReadiness()]


def test_a_function_deleted_while_its_requests_wait() -> None:
    """They are told at once; the wake has come to nothing."""
    room = asleep()
    room.on(WakeSucceeded(NOW))
    room.on(Tick(NOW + 0.05))
    assert room.on(Missing(NOW + 0.06)) == [Awoke("acme", None), Refuse(0, Reason.FUNCTION_UNKNOWN, None)]
    assert not room.line


def test_a_tenant_that_may_not_wake_does_not_keep_others_from_it() -> None:
    """Wakes are on the account of one who waits; when that is used up, the next tenant's is asked."""
    room = asleep()
    room.on(arrived(1, NOW, tenant="globex"))
    commands = room.on(WakeDenied("acme", 7, NOW))
    assert refusals(commands) == {0: (Reason.WAKE_LIMITED, 7)}
    assert Wake("globex", is_retry=False) in commands


def test_a_wake_that_nobody_waits_for_is_let_finish_and_not_repeated() -> None:
    """Clients that give up too early, over and over, do not call for a wake each (knative/serving#13583)."""
    room = asleep()
    room.on(WakeSucceeded(NOW))
    commands, now = [], NOW
    for n in range(1, 20):
        room.on(Left(n - 1, now))
        now += 1.0
        for command in room.on(Tick(now)):
            assert command == AskReadiness()
            commands += room.on(ReadinessSeen(0, now))
        commands += room.on(arrived(n, now))
    assert not [command for command in commands if isinstance(command, Wake)]
    room.on(Tick(now + 1))
    assert Release(19) in room.on(ReadinessSeen(1, now + 1))


def test_a_wake_in_vain_is_called_again() -> None:
    """Half a minute without a ready replica, and somebody still waits: the platform may have forgotten."""
    room = asleep()
    room.on(arrived(1, NOW, wait_s=100))
    room.on(WakeSucceeded(NOW))
    now, commands = NOW, []
    while now < NOW + WAKE_AGAIN_S:
        due = room.next_tick_at()
        assert due is not None
        now = max(due, now)
        got = room.on(Tick(now))
        commands += got
        if AskReadiness() in got:
            commands += room.on(ReadinessSeen(0, now))
    assert [command for command in commands if isinstance(command, Wake | Awoke)] == [
        Awoke("acme", None),
        Wake("acme", is_retry=False),
    ]


def test_a_replica_that_is_ready_before_the_call_is_answered_counts() -> None:
    """A platform may answer a wake only when the replica serves, or never; the failure then means nothing."""
    room = asleep()
    assert room.on(Tick(NOW + 0.05)) == [AskReadiness()]
    assert Release(0) in room.on(ReadinessSeen(1, NOW + 0.06))
    assert room.on(WakeFailed(NOW + 0.5, 0.0)) == []
    assert room.admit(None, NOW + 1)


def test_a_wake_still_called_is_not_called_again() -> None:
    """A replica got ready and went to sleep before the call was answered: the next wake waits for that answer."""
    room = asleep()
    room.on(Tick(NOW + 0.05))
    room.on(ReadinessSeen(1, NOW + 0.06))
    room.on(Unreached(NOW + 0.1))
    assert room.on(arrived(1, NOW + 0.2)) == [AskReadiness()]
    assert room.on(ReadinessSeen(0, NOW + 0.2)) == []
    assert room.on(WakeFailed(NOW + 0.21, 0.0)) == [Wake("acme", is_retry=False)]


def test_questions_are_never_asked_in_a_tight_loop() -> None:
    """A wake failed while a question was under way: its answer is no cause to ask before the backoff ends."""
    room = asleep()
    assert room.on(Tick(NOW + 0.05)) == [AskReadiness()]
    room.on(WakeFailed(NOW + 0.06, 0.0))
    assert room.on(ReadinessSeen(0, NOW + 0.07)) == []
    assert room.next_tick_at() == NOW + 1.06


def test_the_end_of_the_start_is_no_event_for_a_function_with_a_concurrency() -> None:
    """A tick in the past would be due at once, for ever."""
    room = ready()
    room.on(Tick(NOW + 2))
    room.on(arrived(1, NOW + 2, concurrency=1))
    room.on(ReadinessSeen(1, NOW + 2))
    room.on(arrived(2, NOW + 2, concurrency=1))
    now = NOW + 2
    while now < NOW + 15:
        if AskReadiness() in room.on(Tick(now)):
            room.on(ReadinessSeen(1, now))
        due = room.next_tick_at()
        assert due is not None
        assert due > now
        now = due


def test_retry_after_is_what_cold_starts_took() -> None:
    """The median of the last cold starts, less what has passed of this one; five seconds until one was measured."""
    room = ready()
    room.on(Tick(NOW + 5))
    room.on(arrived(1, NOW + 5))
    room.on(ReadinessSeen(0, NOW + 5))
    room.cold_starts.add(9.0)
    room.cold_starts.add(4.0)
    assert room.expected_wait_s(NOW + 5) == 4
    assert room.expected_wait_s(NOW + 7.5) == 2
    assert room.expected_wait_s(NOW + 60) == 1


def test_closing_refuses_whoever_waits() -> None:
    """At the end of the process nobody is left without an answer."""
    room = asleep()
    room.on(arrived(1, NOW))
    assert refusals(room.on(Closed(NOW))) == {0: (Reason.DRAINING, 1), 1: (Reason.DRAINING, 1)}


def test_an_idle_function_is_forgotten_and_a_busy_one_is_not() -> None:
    """Memory is bounded by what is in use."""
    room = ready()
    assert not room.is_forgettable(NOW + 10)
    assert room.is_forgettable(NOW + 4000)
    room.admit(None, NOW + 1.1)
    assert not room.is_forgettable(NOW + 4000)


def test_callers_that_come_and_leave_do_not_make_the_room_grow() -> None:
    """Tombstones of those who left are bounded by the living."""
    room = asleep()
    for n in range(1, 20_000):
        room.on(arrived(n, NOW, wait_s=1000))
        room.on(Left(n, NOW))
    assert len(room.line._deadlines) < 100


@pytest.mark.parametrize("replicas", [-1, 10**12])
def test_a_platform_that_counts_wrongly_is_survived(replicas: int) -> None:
    """A hostile or broken number of replicas neither raises nor lets everybody in at once."""
    room = asleep()
    room.on(Tick(NOW + 0.05))
    room.on(ReadinessSeen(replicas, NOW + 0.05))
    assert room.ready >= 0
