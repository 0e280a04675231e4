"""Whose turn it is, and whose place: fair between tenants, inside a tenant between callers, whoever tries what."""

from __future__ import annotations

import itertools
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable
from heapq import heappop, heappush
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.fair_queue import FairQueue
from policies.fair_share import MAX_WEIGHT, Level
from policies.fifo_queue import FifoQueue
from policies.waiting import Line, Waiter
from tests.policies.coldstart_traffic import Outcome, Sent, World, steady

NEVER = 1e12


def waiter(
    ticket: int, flow: str = "ana", tenant: str = "acme", *, weight: int = 1, tenant_weight: int = 1
) -> Waiter:  # fmt: skip
    return Waiter(ticket, tenant, flow, NEVER, weight, tenant_weight)


def filled(*flows: tuple[str, str, int], queue: FairQueue | None = None, **changed: int) -> FairQueue:
    """A queue with so many requests of each (tenant, flow), one flow after the other."""
    queue = queue or FairQueue()
    tickets = itertools.count(len(queue.waiters))
    for tenant, flow, count in flows:
        for _ in range(count):
            queue.push(waiter(next(tickets), flow, tenant, **changed), 0.0)
    return queue


def serve(queue: Line, count: int, service_s: float = 0.1) -> list[str]:
    """One after the other: the flows in the order in which they were served."""
    flows = []
    for _ in range(count):
        served = queue.pop()
        queue.finished(served.ticket, service_s)
        flows.append(f"{served.tenant}/{served.flow}")
    return flows


# -- turns -----------------------------------------------------------------------------------------------------------


def test_callers_of_a_tenant_take_turns() -> None:
    """Whoever came with a hundred waits behind whoever came with one."""
    queue = filled(("acme", "elephant", 100), ("acme", "mouse", 2))
    assert Counter(serve(queue, 4)) == {"acme/elephant": 2, "acme/mouse": 2}


def test_tenants_take_turns_however_many_callers_they_have() -> None:
    """A tenant with fifty callers gets no more than one with a single caller."""
    queue = filled(*[("acme", f"caller-{n}", 2) for n in range(50)], ("globex", "gil", 100))
    served = Counter(flow.partition("/")[0] for flow in serve(queue, 100))
    assert abs(served["acme"] - served["globex"]) <= 1


def test_weights_are_parts() -> None:
    """A weight of three is three turns to one, between tenants and between callers."""
    queue = FairQueue()
    for n in range(400):
        queue.push(waiter(3 * n, "gold", weight=3), 0.0)
        queue.push(waiter(3 * n + 1, "plain"), 0.0)
        queue.push(waiter(3 * n + 2, "gil", "globex", tenant_weight=4), 0.0)
    served = Counter(serve(queue, 400))
    assert served["globex/gil"] == pytest.approx(320, abs=3)
    assert served["acme/gold"] == pytest.approx(60, abs=3)


def test_the_first_of_a_caller_is_the_first_to_be_let_in() -> None:
    """Inside a flow nobody overtakes, be it deferred or not (Q11)."""
    queue = FairQueue()
    for ticket in (5, 3, 9, 1):
        queue.push(waiter(ticket)._replace(is_deferred=ticket in (3, 9)), 0.0)
    assert [queue.pop().ticket for _ in range(4)] == [5, 3, 9, 1]


def test_who_is_served_longer_has_fewer_turns() -> None:
    """What is shared is the time of the function, not the number of requests."""
    queue = filled(("acme", "slow", 200), ("acme", "quick", 2000))
    served = Counter[str]()
    for _ in range(1000):
        next_one = queue.pop()
        served[next_one.flow] += 1
        queue.finished(next_one.ticket, 0.9 if next_one.flow == "slow" else 0.1)
    assert served["quick"] / served["slow"] == pytest.approx(9, rel=0.15)


@given(
    weights=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    concurrency=st.integers(1, 6),
    services=st.lists(st.sampled_from([0.01, 0.1, 0.5, 2.0]), min_size=4, max_size=8),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_two_that_always_wait_get_work_by_weight(
    weights: tuple[int, int], concurrency: int, services: list[float], seed: int
) -> None:
    """Q2: |work_A/w_A - work_B/w_B| <= the greatest cost of each + what is served at once, at every moment."""
    random, tickets, queue = Random(seed), itertools.count(), FairQueue()
    work, ends, now = [0.0, 0.0], list[tuple[float, int, float]](), 0.0
    longest = max(services)
    bound = longest / weights[0] + longest / weights[1] + concurrency * longest / min(weights)
    for turn in range(400):
        for flow in (0, 1):
            while queue.held_by("acme", str(flow)) < 2:
                queue.push(waiter(next(tickets), str(flow), weight=weights[flow]), now)
        if len(ends) >= concurrency:
            now, ticket, service_s = heappop(ends)
            queue.finished(ticket, service_s)
        served = queue.pop()
        service_s = random.choice(services)
        work[int(served.flow)] += service_s
        heappush(ends, (now + service_s, served.ticket, service_s))
        assert abs(work[0] / weights[0] - work[1] / weights[1]) <= bound + 1e-9, turn


@given(concurrency=st.integers(1, 20), service_s=st.sampled_from([0.005, 0.02, 0.3]), load=st.floats(1.1, 3.0))
@settings(max_examples=25, deadline=None)
def test_one_alone_gets_everything(concurrency: int, service_s: float, load: float) -> None:
    """Q3: shares are of what is wanted; the world checks that no slot is idle while somebody waits (Q1)."""
    rate = concurrency / service_s
    until = 300 / rate
    outcomes = World(concurrency=concurrency).run(steady("acme", "ana", load * rate, service_s, until), until)
    assert len(outcomes["acme", "ana"].served_at) >= 0.95 * 300


def crowd(until: float) -> list[Sent]:
    return [sent for n in range(20) for sent in steady(f"mouse-{n}", "m", 5, 0.02, until, first_at=n * 0.0097)]


def p99_s(outcomes: Iterable[Outcome]) -> float:
    """Of all of them together."""
    return Outcome([wait_s for outcome in outcomes for wait_s in outcome.waits_s]).p99_s()


def test_mice_do_not_notice_an_elephant() -> None:
    """Q4: at 1.8 times the capacity of one tenant the others wait at most twice as long, and one service."""
    until = 6.0
    alone = World().run(crowd(until), until + 1)
    together = World().run(crowd(until) + steady("elephant", "e", 900, 0.02, until), until + 1)
    elephant = together.pop(("elephant", "e"))
    assert not any(outcome.refused for outcome in together.values())
    for who, outcome in together.items():
        assert outcome.p99_s() <= 2 * alone[who].p99_s() + 0.02, who
    total_s = elephant.served_s + sum(outcome.served_s for outcome in together.values())
    assert total_s >= 0.95 * 10 * until


@given(
    concurrency=st.integers(1, 20), mice=st.integers(2, 20), load=st.floats(1.2, 4.0), seed=st.integers(0, 1000)
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_any_mice_do_not_notice_any_elephant(concurrency: int, mice: int, load: float, seed: int) -> None:
    """
    Q4: whoever comes when, with whatever concurrency: twice as long as alone, and one service, C/rate.

    Two with a concurrency below four: a service cannot be interrupted, and ends then once in a whole one.
    """
    random, service_s = Random(seed), 0.02
    rate = concurrency / service_s
    each, until = 0.2 * rate / mice, 400 / rate
    crowd = [
        sent
        for n in range(mice)
        for sent in steady(f"mouse-{n}", "m", each, service_s, until, first_at=random.random() / each)
    ]
    alone = World(concurrency=concurrency).run(crowd, until + 1)
    with_elephant = [*crowd, *steady("elephant", "e", load * rate, service_s, until)]
    together = World(concurrency=concurrency).run(with_elephant, until + 1)
    del together["elephant", "e"]
    assert not any(outcome.refused for outcome in together.values())
    assert p99_s(together.values()) <= 2 * p99_s(alone.values()) + service_s * (1 if concurrency >= 4 else 2)


def test_first_in_first_out_lets_the_mice_starve() -> None:
    """What the fair queue is for: the same traffic, in the order in which it came."""
    until = 6.0
    traffic = crowd(until) + steady("elephant", "e", 900, 0.02, until)
    outcomes = World(queue=FifoQueue()).run(traffic, until + 1)
    del outcomes["elephant", "e"]
    assert sum(len(outcome.refused) for outcome in outcomes.values()) > 100


# -- attempts to get more --------------------------------------------------------------------------------------------


@given(at_once=st.integers(1, 10), times=st.sampled_from([0.01, 0.1, 0.3, 1, 3, 100]))
@settings(max_examples=30, deadline=None)
def test_a_caller_under_ever_new_names_gains_nothing(at_once: int, times: float) -> None:
    """
    Q9: it gets no more than twice as many callers as it has requests waiting: those who wait, and those just served.

    Whether its requests are short or long against those of others. By the start tags alone it would get everything: a
    virtual time that only follows them stands still.
    """
    queue, tickets, names = FairQueue(), itertools.count(), itertools.count()
    served_s = {"honest": 0.0, "churner": 0.0}
    churners = 0
    for _ in range(2000):
        while queue.held_by("acme", "honest") < 2:
            queue.push(waiter(next(tickets), "honest"), 0.0)
        while churners < at_once:
            queue.push(waiter(next(tickets), f"churner-{next(names)}"), 0.0)
            churners += 1
        one = queue.pop()
        service_s = 0.1 if one.flow == "honest" else 0.1 * times
        queue.finished(one.ticket, service_s)
        churners -= one.flow != "honest"
        served_s[one.flow.partition("-")[0]] += service_s
    assert served_s["honest"] >= 0.9 * sum(served_s.values()) / (2 * at_once + 1)


def test_names_do_not_outlive_their_use() -> None:
    """A hundred thousand names leave nothing behind but the few that were served just now."""
    queue = filled(("acme", "honest", 3))
    for n in range(20_000):
        ticket = 10 + 2 * n
        queue.push(waiter(ticket, f"served-{n}"), 0.0)
        queue.push(waiter(ticket + 1, f"gone-{n}"), 0.0)
        queue.remove(ticket + 1)
        one = queue.pop()
        queue.finished(one.ticket, 0.1)
        if one.flow == "honest":
            queue.push(waiter(-n - 1, "honest"), 0.0)
    flows = queue._tenants.shares["acme"].flows
    assert len(flows.shares) < 20_000
    while len(queue):
        queue.finished(queue.pop().ticket, 0.1)
    assert not queue._tenants.shares
    assert not queue._services


def test_what_is_remembered_of_names_is_bounded_by_who_waits() -> None:
    """While somebody always waits, those served are forgotten as soon as all have had as much."""
    queue, tickets = FairQueue(), itertools.count()
    greatest = 0
    for n in range(5000):
        while queue.held_by("acme", "honest") < 2:
            queue.push(waiter(next(tickets), "honest"), 0.0)
        queue.push(waiter(next(tickets), f"churner-{n}"), 0.0)
        for _ in range(2):
            queue.finished(queue.pop().ticket, 0.1)
        greatest = max(greatest, len(queue._tenants.shares["acme"].flows.shares))
    assert greatest < 50


def test_a_caller_who_comes_and_leaves_does_not_make_the_queue_grow() -> None:
    """Tombstones in every order are bounded by the living."""
    queue = filled(("acme", "ana", 5), ("acme", "bob", 5))
    serve(queue, 2)
    for n in range(20_000):
        queue.push(waiter(1000 + n, "flip"), 0.0)
        queue.remove(1000 + n)
    tenant = queue._tenants.shares["acme"]
    assert len(queue._deadlines) < 100
    assert len(tenant.flows._waiting._entries) < 100
    assert len(tenant.flows._idle._entries) < 100
    assert "flip" not in tenant.flows.shares


def test_those_who_leave_before_their_turn_do_not_pave_the_way_for_a_friend() -> None:
    """Waiting and leaving, over and over, must not hold back the time at which a newcomer starts."""
    queue, tickets = FairQueue(), itertools.count()
    for n in range(3000):
        for flow in ("ana", "bob"):
            while queue.held_by("acme", flow) < 3:
                queue.push(waiter(next(tickets), flow), 0.0)
        queue.push(waiter(decoy := next(tickets), f"decoy-{n}"), 0.0)
        one = queue.pop()
        queue.finished(one.ticket, 0.1)
        queue.remove(decoy)
    for _ in range(60):
        queue.push(waiter(next(tickets), "friend"), 0.0)
        for flow in ("ana", "bob"):
            queue.push(waiter(next(tickets), flow), 0.0)
    assert Counter(serve(queue, 60))["acme/friend"] <= 23


def test_a_wrong_guess_harms_nobody_else() -> None:
    """Slow first requests of a cold function do not make later callers wait for what was never used."""
    queue = filled(("acme", "elephant", 1000))
    first = [queue.pop().ticket for _ in range(10)]
    for ticket in first:
        queue.finished(ticket, 10.0)
    running = [queue.pop().ticket for _ in range(10)]
    for n in range(5):
        queue.push(waiter(10_000 + n, f"mouse-{n}"), 0.0)
    for ticket in running:
        queue.finished(ticket, 0.001)
    assert sum(flow != "acme/elephant" for flow in serve(queue, 10, 0.001)) == 5


@pytest.mark.parametrize("served_s", [float("nan"), float("inf"), float("-inf"), -5.0, 1e300])
def test_a_clock_that_lies_is_survived(served_s: float) -> None:
    """A service of impossible length is one of the least or the greatest."""
    queue = filled(("acme", "ana", 20), ("acme", "bob", 20))
    serve(queue, 2, served_s)
    assert {"acme/ana", "acme/bob"} <= set(serve(queue, 30))


@pytest.mark.parametrize("weight", [-1, 0, 10**12])
def test_a_weight_beyond_all_measure_is_the_least_or_the_greatest(weight: int) -> None:
    """It neither divides by nothing, nor stops the time of everybody else."""
    queue = filled(("acme", "odd", 3 * MAX_WEIGHT), weight=weight)
    for n in range(3):
        queue.push(waiter(100_000 + n, "plain"), 0.0)
    assert "acme/plain" in serve(queue, 2 * MAX_WEIGHT, 1e-4)


def test_finished_twice_or_never_known_is_passed_over() -> None:
    """A ticket counts once."""
    queue = filled(("acme", "ana", 2), ("acme", "bob", 2))
    one = queue.pop()
    queue.finished(one.ticket, 0.1)
    queue.finished(one.ticket, 50.0)
    queue.finished(4711, 50.0)
    assert queue.service_s == pytest.approx(0.1)


def test_those_of_whom_nobody_says_that_they_finished_are_forgotten() -> None:
    """At most as many are remembered as are in flight."""
    queue = filled(("acme", "ana", 100))
    for _ in range(50):
        queue.pop()
        queue.forget_served(3)
    assert len(queue._services) == 3
    assert queue._tenants.shares["acme"].running == 3


def test_an_empty_queue_has_no_first() -> None:
    """Nobody is let in who does not wait."""
    with pytest.raises(IndexError):
        FairQueue().first()


# -- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "newcomer", "leaves"),
    [
        ([("acme", "a", 5), ("acme", "b", 1)], ("acme", "b"), ("acme", "a")),
        ([("acme", "a", 5)], ("acme", "b"), ("acme", "a")),
        ([("acme", "a", 5)], ("acme", "a"), None),
        ([("acme", "a", 3), ("acme", "b", 2)], ("acme", "b"), None),
        ([("acme", "a", 3), ("acme", "b", 1)], ("acme", "b"), ("acme", "a")),
        ([("acme", "a", 1), ("acme", "b", 1)], ("acme", "c"), None),
        ([("acme", "a", 1), ("acme", "b", 1), ("acme", "c", 1)], ("globex", "g"), ("acme", "a")),
        ([("acme", "a", 2), ("acme", "b", 3), ("globex", "g", 1)], ("globex", "h"), ("acme", "b")),
        ([("acme", "a", 4), ("globex", "g", 4)], ("globex", "h"), ("globex", "g")),
    ],
    ids=[
        "a-fatter-caller", "a-first-of-his-own", "nobody-pushes-himself", "not-for-a-difference-of-one",
        "for-a-difference-of-two", "all-alike", "many-callers-of-one-tenant", "the-fattest-of-the-fattest",
        "own-tenant-when-tenants-are-even",
    ],
)  # fmt: skip
def test_who_must_make_room(
    held: list[tuple[str, str, int]], newcomer: tuple[str, str], leaves: tuple[str, str] | None
) -> None:
    """The newest of those who have too many, and only if the newcomer has fewer even with his place."""
    queue = filled(*held)
    found = queue.fattest(waiter(999, newcomer[1], newcomer[0]))
    assert (found and (found.tenant, found.flow)) == leaves
    if found is not None:
        assert found.ticket == max(w.ticket for w in queue.waiters.values() if (w.tenant, w.flow) == leaves)


def test_places_are_taken_by_weight() -> None:
    """A tenant of weight four may hold four times as many before it must make room."""
    queue = FairQueue()
    for n in range(8):
        queue.push(waiter(n, f"a-{n}", tenant_weight=4), 0.0)
    queue.push(waiter(100, "g", "globex"), 0.0)
    assert queue.fattest(waiter(200, "g", "globex")) is None
    queue.push(waiter(8, "a-1", tenant_weight=4), 0.0)
    queue.remove(100)
    assert queue.fattest(waiter(201, "g", "globex")) is not None


def test_those_deferred_do_not_make_room_for_those_who_wait() -> None:
    """Each kind has places of its own."""
    queue = FairQueue()
    for n in range(5):
        queue.push(waiter(n)._replace(is_deferred=True), 0.0)
    assert queue.fattest(waiter(10, "bob")) is None
    found = queue.fattest(waiter(10, "bob")._replace(is_deferred=True))
    assert found is not None
    assert found.ticket == 4


# -- any order -------------------------------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Whatever is pushed, popped, taken out and finished: against plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue()
        self.numbers = itertools.count()
        self.model: OrderedDict[int, Waiter] = OrderedDict()
        self.running: list[int] = []

    @rule(
        tenant=st.sampled_from("AB"),
        flow=st.sampled_from("abc"),
        weight=st.sampled_from([1, 1, 2, 0, 10**9]),
        tenant_weight=st.sampled_from([1, 3]),
        is_deferred=st.sampled_from([False, False, True]),
        deadline=st.sampled_from([1.0, 2.0, NEVER]),
    )
    def push(
        self, tenant: str, flow: str, weight: int, tenant_weight: int, is_deferred: bool, deadline: float
    ) -> None:  # fmt: skip
        one = Waiter(next(self.numbers), tenant, flow, deadline, weight, tenant_weight, is_deferred=is_deferred)
        self.queue.push(one, 0.0)
        self.model[one.ticket] = one
        share = self.queue._tenants.shares[tenant].flows.shares[flow]
        if self.queue.held_by(tenant, flow) == 1:
            assert share.tag >= self.queue._tenants.shares[tenant].flows.virtual_s, "Q9"

    @rule()
    @precondition(lambda self: self.model)
    def pop(self) -> None:
        first = self.queue.first()
        one = self.queue.pop()
        assert one == first
        flow = [w.ticket for w in self.model.values() if (w.tenant, w.flow) == (one.tenant, one.flow)]
        assert one.ticket == flow[0], "Q11"
        del self.model[one.ticket]
        self.running.append(one.ticket)

    @rule(data=st.data(), served_s=st.sampled_from([None, 0.0, 0.01, 1.0, 1e9]))
    @precondition(lambda self: self.running)
    def finish(self, data: st.DataObject, served_s: float | None) -> None:
        ticket = data.draw(st.sampled_from(self.running))
        self.running.remove(ticket)
        self.queue.finished(ticket, served_s)

    @rule(data=st.data())
    @precondition(lambda self: self.model)
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(list(self.model)))
        assert self.queue.remove(ticket) == self.model.pop(ticket)
        assert self.queue.remove(ticket) is None

    @rule()
    def expire(self) -> None:
        expired = {w.ticket for w in self.model.values() if w.deadline <= 1.0}
        assert {w.ticket for w in self.queue.take_expired(1.0)} == expired
        for ticket in expired:
            del self.model[ticket]

    @rule(tenant=st.sampled_from([None, "A"]))
    def refuse(self, tenant: str | None) -> None:
        taken = [w for w in self.model.values() if tenant in (None, w.tenant)]
        assert self.queue.take_all(tenant) == taken
        for one in taken:
            del self.model[one.ticket]

    @rule(at_most=st.integers(0, 3))
    def lose_count(self, at_most: int) -> None:
        self.queue.forget_served(at_most)
        self.running = self.running[len(self.running) - at_most :] if len(self.running) > at_most else self.running

    @invariant()
    def counts_are_right(self) -> None:
        queue = self.queue
        assert len(queue) == len(self.model)
        assert queue.deferred == sum(w.is_deferred for w in self.model.values())
        assert len(queue._services) == len(self.running)
        for (tenant, flow), count in Counter((w.tenant, w.flow) for w in self.model.values()).items():
            assert queue.held_by(tenant, flow) == count
            assert 0 < queue.portion(Waiter(-1, tenant, flow, NEVER)) <= 1
        deadline = min((w.deadline for w in self.model.values()), default=None)
        assert queue.next_deadline() == deadline

    @invariant()
    def levels_are_consistent(self) -> None:
        """The weights of those active are the sum that time is divided by, and nobody else is remembered."""
        tenants = self.queue._tenants
        self.check(tenants, {w.tenant for w in self.model.values()})
        for name, tenant in tenants.shares.items():
            self.check(tenant.flows, {w.flow for w in self.model.values() if w.tenant == name})

    @staticmethod
    def check(level: Level, waiting: set[str]) -> None:  # type: ignore[type-arg] # of tenants or of flows
        shares = level.shares.values()
        assert level.weight_sum == sum(share.weight for share in shares if share.is_active)
        assert level._busy_sum == sum(share.weight for share in shares if share.name in waiting or share.running)
        assert {share.name for share in level._waiting._living} == waiting
        for share in shares:
            assert share.running >= 0
            assert share.name in waiting or share.running or share.tag > level.virtual_s
            assert share.is_active == (share.name in waiting or share in level._idle)
        if not waiting:
            assert not shares

    @invariant()
    def somebody_fat_is_fat(self) -> None:
        for kind in (False, True):
            held = Counter(w.tenant for w in self.model.values() if w.is_deferred == kind)
            found = self.queue.fattest(Waiter(-1, "C", "c", NEVER, is_deferred=kind))
            if found is not None:
                assert found.is_deferred == kind
                assert held[found.tenant] >= 2
            elif held:
                weight = {w.tenant: self.queue._tenants.shares[w.tenant].weight for w in self.model.values()}
                assert all(-(-count // weight[tenant]) <= 1 for tenant, count in held.items())


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)


# -- time ------------------------------------------------------------------------------------------------------------


def bare_heap_s(flows: int) -> float:
    """What one push and one pop of a plain heap of so many tuples take here."""
    heap: list[tuple[float, int]] = []
    numbers = [(n * 7919 % 100_003) / 7.0 for n in range(flows)]
    begun = time.process_time()
    for n, number in enumerate(numbers):
        heappush(heap, (number, n))
    while heap:
        heappop(heap)
    return (time.process_time() - begun) / flows


def operation_s(flows: int) -> float:
    """The mean of push, pop and finished with so many callers waiting, each with two requests; the best of eight."""
    queue, tickets = FairQueue(), itertools.count()
    for n in range(2 * flows):
        queue.push(waiter(next(tickets), str(n % flows)), 0.0)
    best_s = float("inf")
    for _ in range(8):
        newcomers = [waiter(next(tickets), str(n % flows)) for n in range(5000)]
        begun = time.process_time()
        for newcomer in newcomers:
            queue.finished(queue.pop().ticket, 0.1)
            queue.push(newcomer, 0.0)
        best_s = min(best_s, (time.process_time() - begun) / len(newcomers) / 3)
    return best_s


@pytest.mark.alone
def test_an_operation_takes_five_microseconds_with_ten_thousand_callers() -> None:
    """Q12, in CPU time; more where a bare heap of as many takes more than 1.5 us, as it did there; once in three."""
    assert any(operation_s(10_000) <= 5e-6 * max(1.0, bare_heap_s(10_000) / 1.5e-6) for _ in range(3))
