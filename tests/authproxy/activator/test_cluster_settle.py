"""
The script that settles slots, and when a Portero believes it: whatever the network does, never too many at once.

Time is the machine's own; the redis-server is real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authproxy.activator.cluster_slots import GRACE_S, LOOK_S, TTL_S, Grant, Word
from tests.fakes.redis_server import RedisServer, redis_server
from tests.fakes.slot_holders import Holder, SlotServer

pytestmark = pytest.mark.redis
BARELY_S = 0.01


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def server(redis: RedisServer) -> Iterator[SlotServer]:
    server = SlotServer(redis.port)
    yield server
    server.close()


class SharedSlots:
    """
    Some Porteros, one function, and whatever may happen next.

    What is assumed of a Portero that lives is what ``RedisSlots`` does: while anything is in use, held or wanted, a
    word of it is carried out before Redis forgets it, and before a Redis that has lost its data gives anything.
    """

    def __init__(self, port: int, capacity: int, number: int) -> None:
        self.capacity = capacity
        self.server = SlotServer(port)
        self.holders = [Holder(self.server, capacity) for _ in range(number)]
        self.ghosts: list[Holder] = []
        """Crashed; words of theirs may be on their way."""
        self.due = {holder.name: self.server.now + TTL_S - BARELY_S for holder in self.holders}

    def steps(self) -> list[Callable[[], object]]:
        """All that may happen now."""
        steps: list[Callable[[], object]] = [partial(self.time_passes, seconds) for seconds in (0.1, 0.5, 1.5)]
        for holder in self.holders:
            steps += self.steps_of(holder)
        steps += [partial(self.a_late_word_arrives, ghost) for ghost in self.ghosts if ghost.late]
        return steps

    def steps_of(self, holder: Holder) -> list[Callable[[], object]]:
        steps: list[Callable[[], object]] = []
        if holder.waiting < 2:
            steps.append(holder.arrive)
        if holder.waiting:
            steps.append(holder.leave)
        if holder.in_use:
            steps.append(holder.finish)
        if holder.asked is None:
            steps += [holder.ask, partial(self.settle, holder)]
        elif holder.reply is None:
            steps += [partial(self.carry_out, holder), holder.give_up]
        else:
            steps += [holder.hear_reply, holder.give_up]
        if holder.late:
            steps.append(partial(self.a_late_word_arrives, holder))
        for at in {0, len(holder.messages) - 1} if holder.messages else ():
            steps += [partial(self.a_message_arrives, holder, at, is_kept=False)]
            steps += [partial(self.a_message_arrives, holder, at, is_kept=True)]
        return steps

    def a_late_word_arrives(self, holder: Holder) -> None:
        self.tell(holder.carry_out(holder.late.pop(0)))

    def a_message_arrives(self, holder: Holder, at: int, *, is_kept: bool) -> None:
        """``is_kept``: it comes once more."""
        holder.hear(holder.messages[at] if is_kept else holder.messages.pop(at))

    def time_passes(self, seconds: float) -> None:
        until = self.server.now + seconds
        for holder in self.holders:
            if holder.is_active and self.due[holder.name] <= until:
                holder.give_up()
                holder.ask()
                self.carry_out(holder)
        self.server.now = until

    def a_portero_crashes(self, who: int) -> None:
        self.holders[who].give_up()
        self.ghosts.append(self.holders[who])
        self.holders[who] = Holder(self.server, self.capacity)
        self.due[self.holders[who].name] = self.server.now + TTL_S - BARELY_S

    def redis_loses_its_data(self) -> None:
        self.server.forget()
        for holder in self.holders:
            self.due[holder.name] = min(self.due[holder.name], self.server.now + GRACE_S - BARELY_S)

    def never_more_than_there_are(self) -> None:
        assert sum(holder.in_use for holder in self.holders) <= self.capacity

    def all_goes_well_again(self) -> None:
        """Then nothing idles: after at most the time that is forgotten, and a look each, all slots are in use."""
        for holder in self.holders:
            holder.give_up()
            holder.late.clear()
            holder.messages.clear()
        until = self.server.now + TTL_S + GRACE_S
        while self.server.now <= until:
            for holder in self.holders:
                self.settle(holder)
                for other in self.holders:
                    while other.messages:
                        other.hear(other.messages.pop(0))
                self.never_more_than_there_are()
            self.server.now += LOOK_S
        in_use = sum(holder.in_use for holder in self.holders)
        waiting = sum(holder.waiting for holder in self.holders)
        assert in_use == self.capacity or not waiting

    def settle(self, holder: Holder) -> None:
        holder.give_up()
        holder.ask()
        self.carry_out(holder)
        holder.hear_reply()

    def carry_out(self, holder: Holder) -> None:
        assert holder.asked is not None
        self.due[holder.name] = self.server.now + TTL_S - BARELY_S
        self.tell(holder.carry_out(holder.asked))

    def tell(self, told: list[tuple[str, Grant]]) -> None:
        for name, grant in told:
            for holder in self.holders:
                if holder.name == name:
                    holder.messages.append(grant)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    capacity=st.sampled_from([1, 1, 2, 3]),
    number=st.sampled_from([2, 2, 3]),
    trace=st.lists(st.integers(0, 999), min_size=20, max_size=80),
)
def test_never_too_many_and_nothing_idles(redis: RedisServer, capacity: int, number: int, trace: list[int]) -> None:
    """Words, replies and messages late, lost, doubled; crashes; lost data: in use is at most what there is."""
    slots = SharedSlots(redis.port, capacity, number)
    try:
        for chance in trace:
            if chance >= 985:
                slots.redis_loses_its_data()
            elif chance >= 970:
                slots.a_portero_crashes(chance % number)
            else:
                steps = slots.steps()
                steps[chance % len(steps)]()
            slots.never_more_than_there_are()
        slots.all_goes_well_again()
    finally:
        slots.server.close()


def test_free_slots_go_in_turn(server: SlotServer) -> None:
    """Whoever was given one last is asked last, however many wait there."""
    for name in "abc":
        server.settle(name, Word(1, 0, 1, 1))
    order = ["a"]
    for number in range(2, 8):
        _, told = server.settle(order[-1], Word(number, 0, 1, 1))
        order += [name for name, grant in told if grant.granted]
    assert order == list("abcabca")


def test_what_is_free_is_shared_out(server: SlotServer) -> None:
    """Ten slots, three that want many: nobody has two more than another."""
    server.settle("a", Word(1, 10, 10, 10))
    for name in "bc":
        reply, _ = server.settle(name, Word(1, 0, 10, 10))
        assert reply is not None
        assert reply.granted == 0
    server.settle("a", Word(2, 0, 10, 10))
    assert sorted(row.granted for row in server.rows().values()) == [3, 3, 4]


def test_holders_hear_that_slots_are_scarce(server: SlotServer) -> None:
    """Whoever has some is told when another waits, once; what was given back is theirs then."""
    reply, _ = server.settle("a", Word(1, 0, 2, 2))
    assert reply is not None
    assert not reply.is_scarce
    _, told = server.settle("b", Word(1, 0, 1, 2))
    assert [(name, grant.granted, grant.is_scarce) for name, grant in told] == [("a", 2, True)]
    assert server.settle("b", Word(2, 0, 1, 2))[1] == []
    _, told = server.settle("a", Word(2, 1, 2, 2))
    assert [(name, grant.granted) for name, grant in told] == [("b", 1)]


def test_less_capacity_makes_slots_scarce(server: SlotServer) -> None:
    """A replica that went away: nobody keeps for his next what is given back, until no more is in use than there is."""
    server.settle("a", Word(1, 0, 1, 2))
    server.settle("b", Word(1, 0, 1, 2))
    reply, told = server.settle("b", Word(2, 1, 1, 1))
    assert reply is not None
    assert reply.is_scarce
    assert [(name, grant.granted, grant.is_scarce) for name, grant in told] == [("a", 1, True)]
    reply, _ = server.settle("a", Word(2, 0, 1, 1))
    assert reply is not None
    assert reply.granted == 0


def test_the_least_that_is_known_of_the_capacity_counts(server: SlotServer) -> None:
    """Who has not heard yet that a replica is gone takes none for it; who does not know it at all is not asked."""
    server.settle("a", Word(1, 0, 0, 1))
    server.settle("b", Word(1, 1, 1, 1))
    server.settle("c", Word(1, 0, 0, 0))
    reply, _ = server.settle("d", Word(1, 0, 3, 3))
    assert reply is not None
    assert reply.granted == 0
    server.settle("b", Word(2, 1, 1, 3))
    assert server.rows()["d"].granted == 2


def test_a_silent_holder_is_forgotten(server: SlotServer) -> None:
    """What it had is free after ``TTL_S``, and not before."""
    server.settle("a", Word(1, 1, 1, 1))
    server.now += TTL_S - BARELY_S
    reply, _ = server.settle("b", Word(1, 0, 1, 1))
    assert reply is not None
    assert reply.granted == 0
    server.now += BARELY_S
    reply, _ = server.settle("b", Word(2, 0, 1, 1))
    assert reply is not None
    assert reply.granted == 1


def test_an_older_word_changes_nothing(server: SlotServer) -> None:
    """A word that arrives after a newer one of its holder, or twice, gets no reply."""
    server.settle("a", Word(2, 1, 1, 1))
    before = server.rows()
    assert server.settle("a", Word(1, 0, 0, 1)) == (None, [])
    assert server.settle("a", Word(2, 1, 1, 1)) == (None, [])
    assert server.rows() == before


def test_an_emptied_redis_gives_nothing_at_first(server: SlotServer) -> None:
    """All have the time to say what they use; then it goes on."""
    server.settle("a", Word(1, 0, 1, 1))
    server.forget()
    for number, name in ((1, "b"), (2, "a")):
        reply, _ = server.settle(name, Word(number, int(name == "a"), 1, 1))
        assert reply is not None
        assert reply.granted == int(name == "a")
    server.now += GRACE_S
    reply, _ = server.settle("b", Word(2, 0, 1, 1))
    assert reply is not None
    assert reply.granted == 0
    assert server.settle("a", Word(3, 0, 0, 1))[1] == [("b", Grant(int(1e6 * server.now) + 1, 1, is_scarce=False))]


def test_versions_grow_when_the_clock_goes_back(server: SlotServer) -> None:
    """A clock that is set back an hour neither revives old messages nor keeps slots for an hour."""
    first, _ = server.settle("a", Word(1, 1, 1, 1))
    server.now -= 3600
    second, _ = server.settle("b", Word(1, 0, 1, 1))
    assert first is not None
    assert second is not None
    assert second.version > first.version
    assert second.granted == 0
    server.now += TTL_S
    third, _ = server.settle("b", Word(2, 0, 1, 1))
    assert third is not None
    assert third.granted == 1


@pytest.mark.parametrize("junk", ["", "x", "1 2 3", "-1 1 1 1 0 99999999999999999", "1 1 1 1 0 1e999"])
def test_what_nobody_wrote_is_forgotten(server: SlotServer, junk: str) -> None:
    """A field that cannot be read is no holder, and does not keep others from theirs."""
    server.put("z", junk)
    server.put("", junk)
    reply, _ = server.settle("a", Word(1, 0, 1, 1))
    assert reply is not None
    assert reply.granted == 1
    assert set(server.rows()) == {"a"}


def test_a_server_that_was_another_gives_nothing_at_first(server: SlotServer) -> None:
    """What Redis saved, or its replica was told, may lack the slot that is in use: all say what they use first."""
    assert server.settle("b", Word(1, 0, 0, 1))[0] is not None
    server.become_another()  # before anybody heard that "a" has the slot
    assert _granted(server.settle("b", Word(2, 0, 1, 1))) == 0
    server.now += GRACE_S / 2
    assert _granted(server.settle("a", Word(3, 1, 1, 1))) == 1
    server.now += GRACE_S / 2
    assert _granted(server.settle("b", Word(4, 0, 1, 1))) == 0
    assert _granted(server.settle("a", Word(5, 0, 0, 1))) == 0
    assert _granted(server.settle("b", Word(6, 0, 1, 1))) == 1


def _granted(settled: tuple[Grant | None, object]) -> int:
    assert settled[0] is not None
    return settled[0].granted
