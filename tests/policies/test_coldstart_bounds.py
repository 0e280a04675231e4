"""Who may wait at all, for how long, and who has to make room: admission, bounds, shedding, slots, the retry budget."""

from __future__ import annotations

import pytest

from policies.cold_starts import ColdStarts
from policies.coldstart import LOOK_AGAIN_S, Room
from policies.coldstart_events import (
    AskReadiness,
    Awoke,
    Command,
    Finished,
    Left,
    ReadinessSeen,
    Refuse,
    Release,
    SlotsHeld,
    Tick,
    Unreached,
    Wake,
    WakeElsewhere,
    WakeFailed,
    WakeSucceeded,
    WantSlots,
)
from policies.decision import Reason
from policies.retry_budget import FLOOR_PER_S, RATIO, WINDOW_S
from policies.waiting import Ledger
from tests.policies.test_coldstart import NOW, arrived, asleep, ready, refusals, tickets


def busy(service_s: float = 1.0) -> tuple[Room, float]:
    """A room whose only replica has been awake for 20 s, serves one for ``service_s``, and is full; and the instant."""
    room = ready()
    now = NOW + 20
    room.on(arrived(1, now, concurrency=1))
    assert room.on(ReadinessSeen(1, now)) == [Release(1)]
    room.on(Finished(now, 1, service_s))
    assert room.admit(1, now)
    return room, now


# -- a burst at a function of which nobody knows whether it is awake ---------------------------------------------------


def test_a_burst_at_an_awake_function_is_let_in_whole() -> None:
    """However many places there are for those who wait: they only wait to be told that they need not."""
    room = Room(Ledger(), NOW)
    for number in range(20):
        assert not refusals(room.on(arrived(number, NOW, max_held=3)))
    assert room.beyond == 17
    assert room.on(ReadinessSeen(1, NOW + 20))[-20:] == [Release(number) for number in range(20)]
    assert room.beyond == 0


def test_a_burst_at_a_sleeping_function_is_cut_to_its_places() -> None:
    """As soon as that is known; those who came first stay."""
    room = Room(Ledger(), NOW)
    for number in range(20):
        room.on(arrived(number, NOW, max_held=3))
    commands = room.on(ReadinessSeen(0, NOW + 0.1))
    assert {ticket: reason for ticket, (reason, _) in refusals(commands).items()} == dict.fromkeys(
        range(3, 20), Reason.QUEUE_FULL
    )
    assert len(room.line) == 3
    assert room.beyond == 0
    assert [type(command) for command in commands if not isinstance(command, Refuse)] == [Wake]


def test_a_burst_at_a_busy_function_is_cut_to_its_places() -> None:
    """Awake is not room for all of them."""
    room = Room(Ledger(), NOW)
    for number in range(20):
        room.on(arrived(number, NOW, max_held=3, concurrency=2))
    commands = room.on(ReadinessSeen(1, NOW + 0.1))
    assert tickets(commands) == [0, 1]
    assert set(refusals(commands)) == set(range(5, 20))
    assert len(room.line) == 3


def test_a_burst_is_bounded_by_tenant_and_process() -> None:
    """What is not known opens no memory to strangers."""
    room = Room(Ledger(8), NOW)
    refused = [refusals(room.on(arrived(number, NOW, max_held=3, tenant_ceiling=5))) for number in range(7)]
    assert [bool(one) for one in refused] == [False] * 5 + [True] * 2


def test_a_caller_with_few_requests_keeps_its_place_in_a_burst() -> None:
    """The newest of those who have too many are in excess, whoever came last."""
    room = Room(Ledger(), NOW)
    for number in range(10):
        room.on(arrived(number, NOW, max_held=3, flow="elephant"))
    room.on(arrived(10, NOW, max_held=3, flow="mouse"))
    left = set(range(11)) - set(refusals(room.on(ReadinessSeen(0, NOW + 0.1))))
    assert 10 in left
    assert len(left) == 3


# -- those who only ask whether it is awake --------------------------------------------------------------------------


def test_one_who_may_not_wake_is_told_at_once_what_is_known() -> None:
    """While the function is known to sleep, or is woken for others, a health check gets its answer, and when to ask."""
    room = asleep()
    assert refusals(room.on(arrived(1, NOW, may_wake=False))) == {1: (Reason.FUNCTION_ASLEEP, 5)}
    room.on(WakeSucceeded(NOW))
    assert refusals(room.on(arrived(2, NOW + 3, may_wake=False))) == {2: (Reason.FUNCTION_ASLEEP, 2)}


def test_one_who_may_not_wake_waits_for_the_answer_only() -> None:
    """It asks; the answer "asleep" ends its wait and wakes nobody, and nobody asks any further."""
    room = Room(Ledger(), NOW)
    assert room.on(arrived(0, NOW, may_wake=False)) == [AskReadiness()]
    assert room.on(ReadinessSeen(0, NOW + 0.1)) == [Refuse(0, Reason.FUNCTION_ASLEEP, 5)]
    assert room.next_tick_at() is None


def test_one_who_may_not_wake_is_let_in_when_it_is_awake() -> None:
    """The answer "ready" lets in everybody."""
    room = Room(Ledger(), NOW)
    room.on(arrived(0, NOW, may_wake=False))
    assert room.on(ReadinessSeen(1, NOW + 0.1)) == [Release(0)]


def test_a_wake_is_for_one_who_may_wake() -> None:
    """Of a health check and a request, of different tenants, the request pays."""
    room = Room(Ledger(), NOW)
    room.on(arrived(0, NOW, tenant="globex", may_wake=False))
    room.on(arrived(1, NOW))
    assert room.on(ReadinessSeen(0, NOW + 0.1)) == [
        Refuse(0, Reason.FUNCTION_ASLEEP, 5),
        Wake("acme", is_retry=False),
    ]


def test_one_who_may_not_wake_is_told_while_a_failed_wake_rests() -> None:
    """It need not wait for the next attempt, which is not made for it."""
    room = asleep()
    room.on(WakeFailed(NOW, 0.0))
    assert refusals(room.on(arrived(1, NOW + 0.1, may_wake=False))) == {1: (Reason.FUNCTION_ASLEEP, 5)}


def test_a_thousand_health_checks_wake_nothing() -> None:
    """However often, and whatever the platform says."""
    room, now, commands = Room(Ledger(), NOW), NOW, list[Command]()
    for n in range(1000):
        got = room.on(arrived(n, now, may_wake=False)) + room.on(Tick(now))
        if AskReadiness() in got:
            got += room.on(ReadinessSeen(0, now))
        commands += got
        now += 0.3
    assert not [command for command in commands if isinstance(command, Wake)]
    assert not room.line.waiters


def test_slow_starts_that_are_over_have_nobody_refused() -> None:
    """An evening on which images came slowly: after three quick starts the next are not refused for it."""
    starts = ColdStarts()
    for duration_s in [40.0] * 20 + [1.0] * 2:
        starts.add(duration_s)
    assert starts.expected_s() == 40.0
    starts.add(1.0)
    assert starts.expected_s() == 1.0


# -- another Portero's wake ------------------------------------------------------------------------------------------


def test_another_porteros_wake_serves_us_too() -> None:
    """We poll while it is under way, and neither report nor measure what is not ours."""
    room = asleep()
    assert room.on(WakeElsewhere(NOW)) == []
    assert room.on(Tick(NOW + 0.05)) == [AskReadiness()]
    assert room.on(ReadinessSeen(1, NOW + 1)) == [Release(0)]
    assert room.cold_starts.expected_s() is None


def look_again(room: Room, until: float) -> list[Command]:
    commands, now = list[Command](), NOW
    while now < until:
        due = room.next_tick_at()
        assert due is not None
        now = max(now, due)
        got = room.on(Tick(now))
        if AskReadiness() in got:
            got += room.on(ReadinessSeen(0, now))
        commands += got
    return commands


def test_another_porteros_wake_that_came_to_nothing_is_tried_again() -> None:
    """After two seconds, if somebody still waits; what it takes is then counted from our own call."""
    room = asleep()
    room.on(WakeElsewhere(NOW))
    commands = look_again(room, NOW + LOOK_AGAIN_S)
    assert [command for command in commands if isinstance(command, Wake)] == [Wake("acme", is_retry=False)]
    again = NOW + LOOK_AGAIN_S
    room.on(WakeSucceeded(again + 0.1))
    room.on(Tick(again + 0.2))
    (awoke,) = [command for command in room.on(ReadinessSeen(1, again + 1.1)) if isinstance(command, Awoke)]
    assert awoke.cold_start_s == pytest.approx(1.0)


def test_another_porteros_wake_is_not_tried_again_for_nobody() -> None:
    """Who waited has left."""
    room = asleep()
    room.on(WakeElsewhere(NOW))
    room.on(Left(0, NOW))
    assert not [command for command in look_again(room, NOW + 10) if isinstance(command, Wake)]


def test_a_wake_is_asked_for_every_two_seconds_while_another_is_at_it() -> None:
    """Not more often: each is a question to the store."""
    room = asleep()
    room.on(WakeElsewhere(NOW))
    wakes, now = 0, NOW
    while now < NOW + 20:
        due = room.next_tick_at()
        assert due is not None
        now = max(now, due)
        got = room.on(Tick(now))
        if AskReadiness() in got:
            got += room.on(ReadinessSeen(0, now))
        if Wake("acme", is_retry=False) in got:
            wakes += 1
            room.on(WakeElsewhere(now))
    assert wakes <= 10


# -- places ----------------------------------------------------------------------------------------------------------


def test_a_caller_has_places_of_its_own() -> None:
    """``max_held_per_caller``, whatever the function has left."""
    room = asleep()
    room.on(arrived(1, NOW, max_held_per_caller=2))
    assert refusals(room.on(arrived(2, NOW, max_held_per_caller=2))) == {2: (Reason.QUEUE_FULL, 5)}
    assert room.on(arrived(3, NOW, max_held_per_caller=2, flow="bob")) == []


def test_a_newcomer_takes_the_place_of_whoever_has_too_many() -> None:
    """At the bound one caller cannot keep the others out: its newest has to go."""
    room = asleep()
    for n in range(1, 10):
        room.on(arrived(n, NOW, max_held=10))
    assert room.on(arrived(10, NOW, max_held=10, flow="bob")) == [Refuse(9, Reason.QUEUE_FULL, 5)]
    assert refusals(room.on(arrived(11, NOW, max_held=10))) == {11: (Reason.QUEUE_FULL, 5)}
    assert len(room.line) == 10


def test_one_who_is_refused_anyway_pushes_nobody_out() -> None:
    """His tenant has no place left, or he could not be served in time: then nobody else loses his place."""
    room = asleep()
    for n in range(1, 10):
        room.on(arrived(n, NOW, max_held=10))
    refused = room.on(arrived(10, NOW, max_held=10, tenant="globex", tenant_ceiling=0))
    assert refusals(refused) == {10: (Reason.QUEUE_FULL, 5)}
    assert len(room.line) == 10


def test_a_place_may_change_hands_inside_a_tenant_that_has_no_more() -> None:
    """One goes, one comes: the tenant has no more than before."""
    room = asleep()
    for n in range(1, 10):
        room.on(arrived(n, NOW, max_held=10))
    assert refusals(room.on(arrived(10, NOW, max_held=10, tenant_ceiling=10, flow="bob"))).keys() == {9}


def test_places_shrunk_by_a_reload_are_not_passed_on() -> None:
    """Until enough have left, nobody comes in."""
    room = asleep()
    for n in range(1, 10):
        room.on(arrived(n, NOW, max_held=10))
    assert refusals(room.on(arrived(10, NOW, max_held=3, flow="bob"))).keys() == {10}


def test_those_deferred_have_places_of_their_own() -> None:
    """As many as those who wait, and neither takes the other's."""
    ledger = Ledger()
    room = asleep(ledger)
    assert room.on(arrived(1, NOW, max_held=1, is_deferred=True, flow="bob")) == []
    assert refusals(room.on(arrived(2, NOW, max_held=1, is_deferred=True, flow="eve"))).keys() == {2}
    assert refusals(room.on(arrived(3, NOW, max_held=1, flow="eve"))).keys() == {3}
    assert ledger.held("acme") == 2


def test_the_last_quarter_is_for_those_who_have_less_than_their_share() -> None:
    """A tenant that holds more than its part of all places, by weight, gets none of the last of them."""
    ledger = Ledger(max_total=100)
    for _ in range(76):
        ledger.take("big")
    assert ledger.refusal("big", 1000) is None, "alone it may have all"
    ledger.take("small")
    assert ledger.refusal("big", 1000) is Reason.OVERLOADED
    assert ledger.refusal("big", 76) is Reason.QUEUE_FULL
    assert ledger.refusal("small", 1000) is None
    assert ledger.refusal("new", 1000) is None
    for _ in range(23):
        ledger.take("small")
    assert ledger.refusal("new", 1000) is Reason.OVERLOADED


def test_weights_are_parts_of_the_last_quarter() -> None:
    """With four times the weight it may have four fifths."""
    ledger = Ledger(max_total=100)
    for _ in range(76):
        ledger.take("big", 4)
    ledger.take("small")
    assert ledger.refusal("big", 1000, 4) is None
    for _ in range(4):
        ledger.take("big", 4)
    assert ledger.refusal("big", 1000, 4) is Reason.OVERLOADED
    for _ in range(80):
        ledger.give("big")
    ledger.give("small")
    assert (ledger.total, ledger._weight_sum, ledger._weights) == (0, 0, {})


# -- nobody waits in vain --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measured", "wait_s", "elapsed_s", "refused"),
    [
        ([9.0, 9.0, 9.0], 5.0, 0.0, True),
        ([9.0, 9.0, 9.0], 9.5, 0.0, False),
        ([9.0, 9.0, 9.0], 5.0, 6.0, False),
        ([9.0, 9.0], 5.0, 0.0, False),
        ([1.0] * 8 + [60.0], 5.0, 0.0, True),
        ([1.0] * 10 + [60.0], 5.0, 0.0, False),
    ],
    ids=["too-slow", "in-time", "soon-there", "too-few-measured", "nine-of-ten", "one-of-eleven"],
)
def test_a_cold_start_that_takes_too_long_is_refused_at_once(
    measured: list[float], wait_s: float, elapsed_s: float, *, refused: bool
) -> None:
    """504 without a wait, by nine of ten cold starts, when a wake is under way."""
    room = asleep()
    for duration_s in measured:
        room.cold_starts.add(duration_s)
    now = NOW + elapsed_s
    got = refusals(room.on(arrived(1, now, wait_s=wait_s)))
    assert {ticket: reason for ticket, (reason, _) in got.items()} == (
        {1: Reason.COLD_START_TIMEOUT} if refused else {}
    )  # fmt: skip


def test_somebody_waits_to_find_out_whether_it_has_become_faster() -> None:
    """With no wake under way nobody is refused for the cold starts of the past."""
    room = Room(Ledger(), NOW)
    for _ in range(20):
        room.cold_starts.add(60.0)
    assert room.on(arrived(0, NOW, wait_s=1.0)) == [AskReadiness()]
    assert room.on(ReadinessSeen(0, NOW)) == [Wake("acme", is_retry=False)]


def test_one_whose_turn_comes_too_late_is_refused_at_once() -> None:
    """429 by what is ahead of it: its own requests, each for as long as they have taken."""
    room, now = busy(service_s=1.0)
    for n in range(3):
        assert room.on(arrived(100 + n, now, wait_s=3.5, concurrency=1)) == []
    refused = refusals(room.on(arrived(110, now, wait_s=2.5, concurrency=1)))
    assert refused == {110: (Reason.QUEUE_FULL, 3)}
    assert room.on(arrived(111, now, wait_s=3.5, concurrency=1)) == []


def test_a_mouse_is_not_refused_for_the_elephant_before_it() -> None:
    """What is ahead of a caller is his own, by his part of the capacity."""
    room, now = busy(service_s=1.0)
    for n in range(20):
        room.on(arrived(100 + n, now, wait_s=100, concurrency=1, flow="elephant"))
    assert room.on(arrived(200, now, wait_s=1.0, concurrency=1, flow="mouse")) == []


def test_nobody_is_refused_for_what_was_never_measured() -> None:
    """Before the first service has ended, only bounds count."""
    room = asleep()
    for n in range(1, 500):
        assert room.on(arrived(n, NOW, wait_s=0.5, concurrency=1)) == []


def test_retry_after_is_what_the_line_takes_to_empty() -> None:
    """When the function is ready; at most half a minute, for it may be asked again then."""
    room, now = busy(service_s=2.0)
    for n in range(4):
        room.on(arrived(100 + n, now, wait_s=600, concurrency=1))
    assert room.expected_wait_s(now) >= 8
    for n in range(100):
        room.on(arrived(200 + n, now, wait_s=600, concurrency=1))
    assert room.expected_wait_s(now) == 30


def test_one_long_service_is_not_what_is_expected_of_others() -> None:
    """It counts as twice what is usual; a service that is long each time is learnt all the same."""
    room, now = busy(service_s=0.01)
    for ticket, service_s in ((100, 3600.0), (101, 0.01), (102, 3600.0)):
        room.on(arrived(ticket, now, concurrency=1))
        room.on(Finished(now, ticket - 1))
        room.on(Finished(now, ticket, service_s))
        assert room.admit(1, now)
    assert room.line.service_s == pytest.approx(0.012, abs=0.001)
    for ticket in range(103, 180):
        room.on(arrived(ticket, now, concurrency=1))
        room.on(Finished(now, ticket - 1))
        room.on(Finished(now, ticket, 30.0))
        assert room.admit(1, now)
    assert room.line.service_s == pytest.approx(30.0, rel=0.2)


# -- a line that does not empty --------------------------------------------------------------------------------------


def run_until(room: Room, start: float, until: float) -> dict[int, tuple[float, Reason]]:
    """Keep all ticks, a ready replica and no end of the request in flight; when and why each was refused."""
    refused, now = dict[int, tuple[float, Reason]](), start
    while True:
        due = room.next_tick_at()
        if due is None or due > until:
            return refused
        now = max(now, due)
        got = room.on(Tick(now))
        refused |= {ticket: (round(now - start, 4), reason) for ticket, (reason, _) in refusals(got).items()}
        if AskReadiness() in got:
            room.on(ReadinessSeen(1, now))


def test_who_comes_to_a_line_that_does_not_empty_has_a_quarter_of_the_time() -> None:
    """503 after that; who came before keeps all of his, and so does who came in the first tenth of a second."""
    room, now = busy(service_s=0.01)
    room.on(arrived(100, now, wait_s=8, concurrency=1))
    room.on(arrived(101, now + 0.09, wait_s=8, concurrency=1))
    room.on(arrived(102, now + 0.11, wait_s=8, concurrency=1))
    refused = run_until(room, now, now + 10)
    assert refused[102] == (2.11, Reason.OVERLOADED)
    assert refused[100] == (8.0, Reason.COLD_START_TIMEOUT)
    assert refused[101] == (8.09, Reason.COLD_START_TIMEOUT)


def test_a_line_while_it_wakes_is_no_sign_of_overload() -> None:
    """Those who came while it was cold keep all of their time, and so do those who come right after."""
    room = asleep()
    for n in range(1, 30):
        room.on(arrived(n, NOW, wait_s=20, concurrency=1))
    room.on(WakeSucceeded(NOW))
    room.on(Tick(NOW + 0.1))
    room.on(ReadinessSeen(1, NOW + 5))
    room.on(arrived(30, NOW + 5.05, wait_s=20, concurrency=1))
    room.on(arrived(31, NOW + 5.2, wait_s=20, concurrency=1))
    refused = run_until(room, NOW, NOW + 30)
    assert refused[29] == (20.0, Reason.COLD_START_TIMEOUT)
    assert refused[30] == (25.05, Reason.COLD_START_TIMEOUT)
    assert refused[31] == (10.2, Reason.OVERLOADED)


def test_a_caller_is_not_shed_for_the_line_of_another() -> None:
    """Each flow has a clock of its own."""
    room, now = busy(service_s=0.01)
    for n in range(20):
        room.on(arrived(100 + n, now, wait_s=8, concurrency=1, flow="elephant"))
    room.on(arrived(200, now + 5, wait_s=8, concurrency=1, flow="mouse"))
    assert run_until(room, now, now + 20)[200] == (13.0, Reason.COLD_START_TIMEOUT)


def test_those_deferred_are_never_shed() -> None:
    """Nobody waits for them: they have all their time."""
    room, now = busy(service_s=0.01)
    room.on(arrived(100, now, wait_s=8, concurrency=1))
    room.on(arrived(101, now + 1, wait_s=8, concurrency=1, is_deferred=True))
    assert run_until(room, now, now + 20)[101] == (9.0, Reason.COLD_START_TIMEOUT)


def test_four_services_are_not_a_standing_line() -> None:
    """A function that serves for a second has a line for seconds without being overloaded."""
    room, now = busy(service_s=1.0)
    room.on(arrived(100, now, wait_s=8, concurrency=1))
    room.on(arrived(101, now + 3.9, wait_s=8, concurrency=1))
    room.on(arrived(102, now + 4.1, wait_s=12, concurrency=1))
    refused = run_until(room, now, now + 30)
    assert refused[101] == (11.9, Reason.COLD_START_TIMEOUT)
    assert refused[102] == (7.1, Reason.OVERLOADED)


# -- capacity that several Porteros share ----------------------------------------------------------------------------


def test_each_portero_lets_in_its_part() -> None:
    """Two of three Porteros' capacity is the others'; one at least is ours."""
    room = ready(replicas=2)
    room.sharers = 3
    later = NOW + 60
    room.on(arrived(1, later, concurrency=5))
    room.on(ReadinessSeen(2, later))
    room.on(arrived(2, later, concurrency=5))
    assert room.admit(5, later)
    assert not room.admit(5, later)
    room.sharers = 100
    room.on(Finished(later))
    room.on(Finished(later))
    room.on(Finished(later))
    assert room.admit(5, later)
    assert not room.admit(5, later)


def shared() -> Room:
    """Two wait for a function with one place for all Porteros together, which has just got ready."""
    room = asleep()
    room.on(arrived(1, NOW, concurrency=1, is_shared=True))
    room.on(Tick(NOW + 0.05))
    assert room.on(ReadinessSeen(1, NOW + 1)) == [Awoke("acme", 1.0), WantSlots(0, 1, 1)]
    return room


def test_nobody_is_let_in_without_a_slot() -> None:
    """What is wanted is what waits, at most the capacity; each slot lets in one, and is given back after it."""
    room = shared()
    now = NOW + 1.1
    assert room.on(SlotsHeld(1, now)) == [Release(0), WantSlots(1, 1, 1)]
    assert room.on(arrived(2, now, concurrency=1, is_shared=True)) == []
    assert room.on(Finished(now, 0, 0.1)) == [WantSlots(0, 1, 1)]
    assert room.slots_held == 0
    assert room.on(SlotsHeld(1, now)) == [Release(1), WantSlots(1, 1, 1)]
    assert not room.admit(1, now)
    assert room.give_back(1, 0.1), "somebody must be told, even if nobody waits"
    room.on(Left(2, now))
    assert room.on(Tick(now)) == []
    assert room._wanted == (0, 0, 1)


def test_more_slots_than_replicas_let_in_no_more() -> None:
    """The slots may be of a time when there were more."""
    room = shared()
    assert tickets(room.on(SlotsHeld(5, NOW + 1.1))) == [0]


@pytest.mark.parametrize("held", [-1, 0])
def test_no_slot_is_no_slot(held: int) -> None:
    """Without a word of the others nobody is let in: they wait until their deadline."""
    room = shared()
    assert room.on(SlotsHeld(held, NOW + 1.1)) == []
    assert len(room.line) == 2


def test_a_slot_does_not_let_in_to_one_that_was_not_reached() -> None:
    """Both are needed: a slot, and a function that is believed awake."""
    room = shared()
    room.on(Unreached(NOW + 1.05))
    assert tickets(room.on(SlotsHeld(1, NOW + 1.06))) == []
    assert tickets(room.on(Tick(NOW + 1.2)) + room.on(ReadinessSeen(1, NOW + 1.2))) == [0]


def test_a_policy_that_shares_no_longer_gives_all_up() -> None:
    """From the next request on capacity is counted here."""
    room = shared()
    commands = room.on(arrived(2, NOW + 1.1, concurrency=1))
    assert commands == [WantSlots(0, 0, 0), Release(0)]
    assert room.on(SlotsHeld(5, NOW + 1.1)) == []
    assert room.slots_held == 0


# -- second tries ----------------------------------------------------------------------------------------------------


def test_a_few_may_be_sent_again_and_then_a_part() -> None:
    """Thirty in ten seconds, and one for five requests (Q10)."""
    room = ready()
    now = NOW + 2
    free = int(FLOOR_PER_S * WINDOW_S)
    room.on(ReadinessSeen(1, now))
    for _ in range(100):
        room.admit(None, now)
        room.on(Finished(now))
    allowed = sum(room.may_retry(now + 1) for _ in range(200))
    assert free <= allowed <= free + RATIO * 101
    assert allowed == free + int(RATIO * 101)
    assert not room.may_retry(now + 5)
    assert room.may_retry(now + 20)


def test_nobody_is_sent_again_to_a_function_that_has_too_much_to_do() -> None:
    """A second try would take the place of a first one."""
    room, now = busy(service_s=0.01)
    assert room.may_retry(now)
    room.on(arrived(100, now, concurrency=1))
    assert room.may_retry(now + 0.05)
    assert not room.may_retry(now + 0.2)


# -- what is told ----------------------------------------------------------------------------------------------------


def test_who_waited_for_a_cold_start_is_known() -> None:
    """Who came before it was ready did; who came after did not, though he may have waited."""
    room = ready()
    assert room.was_asleep_since(NOW + 0.9)
    assert not room.was_asleep_since(NOW + 1.1)
    assert asleep().was_asleep_since(NOW)
    warm = Room(Ledger(), NOW)
    warm.on(arrived(0, NOW))
    warm.on(ReadinessSeen(1, NOW))
    assert not warm.was_asleep_since(NOW)


def test_cold_starts_are_told_by_the_last_twenty() -> None:
    """The median for Retry-After; nine of ten for admission, once three were measured."""
    starts = ColdStarts()
    assert (starts.p50_s, starts.expected_s(), starts.remaining_s()) == (5.0, None, 5)
    for duration_s in range(1, 41):
        starts.add(float(duration_s))
    assert starts.p50_s == 30.5
    assert starts.expected_s() == 38.0
    assert starts.remaining_s(20.0) == 11
