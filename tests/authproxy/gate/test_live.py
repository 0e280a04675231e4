"""
The registry of live exchanges: who may no longer is cut, whatever goes wrong with others.

Longer than other modules: one registry and its ways to fail.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Never

import pytest

from authproxy.gate import live as module
from authproxy.gate.live import GOING_AWAY, POLICY_VIOLATION, RECHECK_S, LiveExchange, LiveRegistry
from tests.fakes.steady_loop import SteadyLoop

LOOP = SteadyLoop
"""An answer that comes in a moment is not late because others had the processor."""


class Exchange(LiveExchange):
    """Judged as a test says; notes how often it was, and with what code it was cut."""

    def __init__(
        self,
        now: Callable[[], float | None] = lambda: math.inf,
        behind: Callable[[], Awaitable[float]] | None = None,
        expires_at: float | None = None,
        revoked: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._revoked = revoked
        self._now = now
        self._behind = behind
        self._expires_at = expires_at
        self.judged = 0
        self.looked_at = 0
        self.codes: list[int] = []
        self.on_cut = self.codes.append

    @property
    def expires_at(self) -> float | None:
        return self._expires_at

    def is_revoked(self) -> bool:
        self.looked_at += 1
        return self._revoked()

    def judge_now(self) -> float | None:
        self.judged += 1
        return self._now()

    async def judge(self) -> float:
        if self._behind is None:
            raise RuntimeError
        return await self._behind()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _fail() -> Never:
    raise RuntimeError


def _entered(registry: LiveRegistry, *exchanges: Exchange) -> None:
    for exchange in exchanges:
        registry.enter(exchange)


def test_what_cannot_be_judged_again_is_cut_and_stops_nobody_else() -> None:
    """An error never widens access: neither for the exchange it is about, nor for those that come after it."""
    registry = LiveRegistry()
    broken, refused, allowed = Exchange(_fail), Exchange(lambda: 0.0), Exchange()
    _entered(registry, broken, refused, allowed)
    assert registry.recheck_all() == 2
    assert [broken.codes, refused.codes, allowed.codes] == [[POLICY_VIOLATION], [POLICY_VIOLATION], []]


def test_all_are_cut_though_one_cannot_be() -> None:
    """A defect in one exchange leaves no other running when the process stops."""
    registry = LiveRegistry()

    def fail(_code: int) -> None:
        raise RuntimeError

    exchanges = [Exchange(_fail) for _ in range(5)]
    exchanges[2].on_cut = fail
    _entered(registry, *exchanges)
    assert registry.cut_all() == 5
    assert [exchange.codes for exchange in exchanges] == [[GOING_AWAY], [GOING_AWAY], [], [GOING_AWAY], [GOING_AWAY]]


def test_an_exchange_is_judged_again_when_its_identity_expires() -> None:
    """At expiry, neither before nor only at the next round (AP-R54)."""
    clock = Clock()
    registry = LiveRegistry(clock)
    exchange = Exchange(lambda: 0.0, expires_at=1010.0)
    _entered(registry, exchange)
    registry.sweep()
    clock.now = 1009.9
    registry.sweep()
    assert exchange.judged == 0
    clock.now = 1010.0
    registry.sweep()
    assert exchange.codes == [POLICY_VIOLATION]


def test_every_exchange_is_judged_again_within_thirty_seconds() -> None:
    """Also one whose identity never expires; and again after that."""
    clock = Clock()
    registry = LiveRegistry(clock)
    exchange = Exchange()
    _entered(registry, exchange)
    for _ in range(61):
        registry.sweep()
        clock.now += 1.0
    assert exchange.judged == 2
    assert RECHECK_S < 30.0


def test_an_identity_that_was_renewed_lasts_until_its_new_end() -> None:
    """What the judgement says replaces what the exchange began with."""
    clock = Clock()
    registry = LiveRegistry(clock)
    ends = [1020.0, 0.0]
    exchange = Exchange(lambda: ends.pop(0), expires_at=1010.0)
    _entered(registry, exchange)
    for now in (1000.0, 1010.0, 1019.0):
        clock.now = now
        registry.sweep()
    assert exchange.judged == 1
    clock.now = 1020.0
    registry.sweep()
    assert exchange.codes == [POLICY_VIOLATION]


def test_a_clock_that_goes_back_postpones_nothing() -> None:
    """A judgement that was due stays due within ``RECHECK_S`` of whatever the clock says."""
    clock = Clock()
    registry = LiveRegistry(clock)
    exchange = Exchange()
    _entered(registry, exchange)
    registry.sweep()
    clock.now = 10.0
    registry.sweep()
    clock.now = 10.0 + RECHECK_S
    registry.sweep()
    assert exchange.judged == 1


async def test_what_has_to_be_asked_goes_on_until_the_answer() -> None:
    """A session that has to be refreshed is; the stream is not cut while that is under way, and once at a time."""
    registry = LiveRegistry()
    answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def behind() -> float:
        return await answer

    refused, kept = Exchange(lambda: None, behind), Exchange(lambda: None, behind)
    _entered(registry, refused, kept)
    assert registry.recheck_all() == 0
    registry.recheck_all()
    await asyncio.sleep(0)
    assert refused.codes == []
    registry.discard(kept)
    answer.set_result(0.0)
    await asyncio.sleep(0.01)
    assert refused.codes == [POLICY_VIOLATION]
    assert kept.codes == [], "it was over already"


async def test_an_answer_that_does_not_come_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that hangs keeps no stream open."""
    monkeypatch.setattr(module, "ASK_S", 0.02)
    registry = LiveRegistry()
    hangs = Exchange(lambda: None, asyncio.Event().wait)
    fails = Exchange(lambda: None)
    _entered(registry, hangs, fails)
    registry.recheck_all()
    await asyncio.sleep(0.1)
    assert [hangs.codes, fails.codes] == [[POLICY_VIOLATION], [POLICY_VIOLATION]]


async def test_many_revocations_are_one_look() -> None:
    """A flood of logouts looks at everything at once, and then twice a second, not once for each of them."""
    registry = LiveRegistry()
    exchange = Exchange()
    _entered(registry, exchange)
    for _ in range(100):
        registry.recheck_soon()
    await asyncio.sleep(0)
    assert exchange.looked_at == 1
    for _ in range(100):
        registry.recheck_soon()
        await asyncio.sleep(0)
    assert exchange.looked_at == 1
    await asyncio.sleep(1.5 * module.REVOKED_PAUSE_S)
    assert exchange.looked_at == 2


async def test_a_logout_ends_its_own_exchanges_and_asks_nobody_about_others() -> None:
    """Nobody is asked about the streams of others: there may be ten thousand, and one store."""
    registry = LiveRegistry()
    his, broken = Exchange(revoked=lambda: True), Exchange(revoked=_fail)
    other = Exchange(lambda: None)
    _entered(registry, his, other, broken)
    registry.recheck_soon()
    await asyncio.sleep(0)
    assert [his.codes, broken.codes, other.codes] == [[POLICY_VIOLATION], [POLICY_VIOLATION], []]
    assert other.judged == 0
    await registry.close()


async def test_what_changes_while_it_is_asked_about_is_asked_again() -> None:
    """An answer by the policies of before says nothing of those that were swapped in meanwhile."""
    registry = LiveRegistry()
    answers = [asyncio.get_running_loop().create_future() for _ in range(2)]
    asked: list[asyncio.Future[float]] = []

    async def behind() -> float:
        asked.append(answers[len(asked)])
        return await asked[-1]

    exchange = Exchange(lambda: None, behind)
    _entered(registry, exchange)
    registry.recheck_all()
    await asyncio.sleep(0)
    registry.recheck_all()
    answers[0].set_result(math.inf)
    await asyncio.sleep(0.01)
    assert (len(asked), exchange.codes) == (2, [])
    answers[1].set_result(0.0)
    await asyncio.sleep(0.01)
    assert exchange.codes == [POLICY_VIOLATION]
    await registry.close()


async def test_a_slow_answer_about_many_cuts_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a swap those that are not due yet may wait for their turn; and they are not all due at once again."""
    monkeypatch.setattr(module, "ASK_S", 0.1)
    clock = Clock()
    registry = LiveRegistry(clock)

    async def behind() -> float:
        await asyncio.sleep(0.05)
        return math.inf

    exchanges = [Exchange(lambda: None, behind) for _ in range(5 * module.MAX_ASKING)]
    _entered(registry, *exchanges)
    registry.sweep()
    registry.recheck_all()
    await asyncio.sleep(0.6)
    assert not [exchange for exchange in exchanges if exchange.codes]
    clock.now += RECHECK_S * 0.75
    registry.sweep()
    again = sum(exchange.judged == 2 for exchange in exchanges)
    assert 0.2 * len(exchanges) < again < 0.8 * len(exchanges)
    await registry.close()


async def test_whose_turn_does_not_come_in_time_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others whose provider hangs keep nobody's stream open."""
    monkeypatch.setattr(module, "ASK_S", 0.05)
    monkeypatch.setattr(module, "SWEEP_S", 0.01)
    monkeypatch.setattr(module, "MAX_ASKING", 1)
    registry = LiveRegistry()
    registry.start()
    exchanges = [Exchange(lambda: None, asyncio.Event().wait) for _ in range(10)]
    _entered(registry, *exchanges)
    registry.recheck_all()
    await asyncio.sleep(0.15)
    assert [exchange.codes for exchange in exchanges] == [[POLICY_VIOLATION]] * 10
    await registry.close()


async def test_after_the_end_nothing_begins_anew() -> None:
    """What would have to be asked about is cut: nobody waits for the answer any more."""
    registry = LiveRegistry()
    exchange = Exchange(lambda: None)
    _entered(registry, exchange)
    await registry.close()
    registry.recheck_soon()
    registry.recheck_all()
    assert exchange.codes == [POLICY_VIOLATION]
    assert len(asyncio.all_tasks()) == 1


async def test_the_sweeper_runs_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """``start`` judges what is due without being called again; ``close`` leaves no task behind."""
    monkeypatch.setattr(module, "SWEEP_S", 0.01)
    clock = Clock()
    registry = LiveRegistry(clock)
    exchange = Exchange(lambda: 0.0, expires_at=1001.0)
    _entered(registry, exchange)
    registry.start()
    await asyncio.sleep(0.05)
    assert exchange.codes == []
    clock.now = 1002.0
    await asyncio.sleep(0.05)
    assert exchange.codes[0] == POLICY_VIOLATION
    await registry.close()
    assert len(asyncio.all_tasks()) == 1
