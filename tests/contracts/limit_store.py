"""
What every ``LimitStore`` must do: R1 to R6, R10 and R11 of the rules for limits, whoever keeps the state.

Subclass ``LimitStoreContract`` as ``Test...`` and give it the fixture ``world``. Time is the world's: nothing sleeps.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authproxy.limits.store import LimitStore
from policies.decision import RuleRef
from policies.gcra import Check, Spent, admit

START_S = 1_790_000_000.0
_names = itertools.count()


@dataclass
class Clock:
    """The one time of a test, for the store and for what the store asks."""

    us: int = int(START_S * 1e6)

    @property
    def now(self) -> float:
        return self.us / 1e6

    def advance(self, seconds: float) -> None:
        self.us += round(seconds * 1e6)


@dataclass
class World:
    """Replicas that share their counts (one for a store that shares with nobody) and their clock."""

    replicas: Sequence[LimitStore]
    clock: Clock = field(default_factory=Clock)
    count_commands: Callable[[], int] | None = None
    """Commands that reached a server so far; None for a store without one."""

    async def spend(self, *checks: Check, replica: int = 0) -> Spent:
        """As the gate asks: at once if it can be answered at once."""
        store = self.replicas[replica % len(self.replicas)]
        spent = store.spend_now("acme", checks, self.clock.now)
        return spent if spent is not None else await store.spend("acme", checks, self.clock.now)

    async def peek(self, *checks: Check) -> Spent:
        return await self.replicas[0].peek("acme", checks, self.clock.now)


def check(rate_per_s: float = 10.0, burst: int = 5, *, key: str | None = None, cost: int = 1) -> Check:
    """A limit of its own, or the one of that key."""
    name = key or f"l{next(_names)}"
    emission = round(1e6 / rate_per_s)
    text = f"{{acme}}:rl:{name}@{emission}x{burst}:all"
    return Check(name, text, emission, emission * burst, 10, 1, burst, RuleRef(name, "acme.yaml:1"), "local", cost)


def property_of(examples: int) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Settings of a property: the world is shared by all examples, each of which makes limits of its own."""
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )


gaps_us = st.lists(st.sampled_from([0, 0, 0, 1, 999, 50_000, 100_000, 250_000, 1_500_000]), min_size=1, max_size=40)
limits = st.tuples(st.sampled_from([1.0, 3.0, 10.0, 1000.0]), st.integers(1, 8))


class LimitStoreContract:
    """The promises; each test is one."""

    @property_of(25)
    @given(limit=limits, gaps=gaps_us)
    async def test_any_window_admits_burst_and_rate_at_most(
        self, world: World, limit: tuple[float, int], gaps: list[int]
    ) -> None:
        """R1: in any window T at most burst + rate x T are admitted, over all replicas together."""
        one = check(*limit)
        admitted = []
        for turn, gap in enumerate(gaps):
            world.clock.us += gap
            if (await world.spend(one, replica=turn)).refused is None:
                admitted.append(world.clock.us)
        for i, first in enumerate(admitted):
            for j in range(i, len(admitted)):
                assert j - i + 1 <= one.burst + (admitted[j] - first) / one.emission_us

    @property_of(25)
    @given(gaps=gaps_us)
    async def test_a_limit_that_is_never_exceeded_never_refuses(self, world: World, gaps: list[int]) -> None:
        """The other half of R1: a caller who keeps to the rate is always admitted."""
        one = check(10.0, 1)
        for gap in gaps:
            world.clock.us += max(gap, one.emission_us)
            assert (await world.spend(one)).refused is None

    @property_of(25)
    @given(limit=limits, gaps=gaps_us)
    async def test_a_refused_request_changes_nothing(
        self, world: World, limit: tuple[float, int], gaps: list[int]
    ) -> None:
        """R2: what is admitted when is the same, however often others were refused in between."""
        one, other = check(*limit), check(*limit)
        for gap in gaps:
            world.clock.us += gap
            once = await world.spend(one)
            thrice = await world.spend(other)
            assert once.refused == thrice.refused
            if thrice.refused is not None:
                assert await world.spend(other) == await world.spend(other) == thrice
            assert (await world.peek(one)).refused == (await world.peek(other)).refused

    @property_of(25)
    @given(gaps=gaps_us)
    async def test_all_limits_are_taken_or_none(self, world: World, gaps: list[int]) -> None:
        """R3: a request refused by one limit leaves the others as they were, in whatever order they stand."""
        wide, narrow = check(10.0, 8), check(3.0, 2)
        tats = {wide.key: 0, narrow.key: 0}
        for turn, gap in enumerate(gaps):
            world.clock.us += gap
            both = (wide, narrow) if turn % 2 else (narrow, wide)
            moved = [admit(tats[one.key], world.clock.us, one)[0] for one in both]
            spent = await world.spend(*both)
            assert (spent.refused is None) == (None not in moved)
            if spent.refused is None:
                tats = {one.key: tat or 0 for one, tat in zip(both, moved, strict=True)}

    @property_of(25)
    @given(limit=limits, gaps=gaps_us)
    async def test_who_waits_as_told_is_admitted(self, world: World, limit: tuple[float, int], gaps: list[int]) -> None:
        """R4: after ``retry_after_s`` without other traffic it is admitted, and that is never 0 for a refusal."""
        first, second = check(*limit), check(1.0, 3)
        for gap in gaps:
            world.clock.us += gap
            spent = await world.spend(first, second)
            if spent.refused is not None:
                assert spent.retry_after_s >= 1
                world.clock.advance(spent.retry_after_s)
                assert (await world.spend(first, second)).refused is None

    async def test_the_limit_that_takes_longest_is_named(self, world: World) -> None:
        """Of two that refuse, the one that makes the caller wait longest stands beside ``Retry-After``."""
        quick, slow = check(10.0, 1), check(0.1, 1)
        await world.spend(quick, slow)
        spent = await world.spend(quick, slow)
        assert (spent.refused, spent.retry_after_s) == (1, 10)

    @property_of(25)
    @given(limit=limits, gaps=gaps_us)
    async def test_what_remains_is_true(self, world: World, limit: tuple[float, int], gaps: list[int]) -> None:
        """R5, R10: never negative, never more without time, as peeked before, and fit for a header."""
        one = check(*limit)
        last = one.burst
        for gap in gaps:
            world.clock.us += gap
            peeked = await world.peek(one)
            spent = await world.spend(one)
            (state,) = spent.states
            assert peeked == spent
            assert state.remaining <= one.burst
            if not gap:
                assert state.remaining <= last
            last = state.remaining
            for number in (state.quota, state.window_s, state.remaining, state.reset_s):
                assert isinstance(number, int)
                assert 0 <= number < 10**15

    @property_of(25)
    @given(steps=st.lists(st.sampled_from([0, 10_000, 100_000, -1, -100_000, -5_000_000]), max_size=40))
    async def test_a_clock_set_back_admits_nothing_more(self, world: World, steps: list[int]) -> None:
        """R6: with a jumping clock no more is admitted than with one that stands still instead."""
        jumping, steady = check(10.0, 3), check(10.0, 3)
        here = steady_us = world.clock.us
        admitted = [0, 0]
        for step in (0, *steps):
            here += step
            steady_us = max(steady_us, here)
            for index, (one, at) in enumerate(((jumping, here), (steady, steady_us))):
                world.clock.us = at
                admitted[index] += (await world.spend(one)).refused is None
        world.clock.us = steady_us
        assert admitted[0] <= admitted[1]

    async def test_peeking_takes_nothing(self, world: World) -> None:
        """``peek`` says what ``spend`` would, however often it is asked."""
        one = check(10.0, 1)
        for _ in range(3):
            assert (await world.peek(one)).refused is None
        assert (await world.spend(one)).refused is None
        assert (await world.peek(one)).refused == 0

    async def test_a_cost_is_taken_whole(self, world: World) -> None:
        """A request that costs three takes three, or is refused where a cheaper one is not."""
        assert (await world.spend(check(10.0, 5, key="cost", cost=3))).states[0].remaining == 2
        assert (await world.spend(check(10.0, 5, key="cost", cost=3))).refused == 0
        assert (await world.spend(check(10.0, 5, key="cost", cost=2))).refused is None

    async def test_no_checks_cost_nothing(self, world: World) -> None:
        """A tenant without limits is answered at once."""
        assert world.replicas[0].spend_now("acme", (), world.clock.now) == Spent((), None)

    async def test_many_at_once_are_counted_one_by_one(self, world: World) -> None:
        """Requests of one turn of the loop share a limit exactly."""
        one, other = check(1.0, 7), check(1.0, 1000)
        answers = await asyncio.gather(*(world.spend(one, other, replica=n) for n in range(100)))
        assert sum(spent.refused is None for spent in answers) == 7
        assert (await world.peek(other)).states[0].remaining == 992

    async def test_one_request_is_one_command(self, world: World) -> None:
        """R11: eight limits of one request are one command; nothing is asked of limits known to be used up."""
        many = tuple(check(1.0, 1) for _ in range(8))
        before = world.count_commands() if world.count_commands else 0
        assert (await world.spend(*many)).refused is None
        if world.count_commands:
            assert world.count_commands() - before == 1
        assert (await world.spend(*many)).refused == 0
        after = world.count_commands() if world.count_commands else 0
        for _ in range(10):
            assert (await world.spend(*many)).refused == 0
        if world.count_commands:
            assert world.count_commands() == after
