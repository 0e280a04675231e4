"""Known exhausted limits: refused without asking until they refill, and never for long on hearsay."""

from __future__ import annotations

from authproxy.limits import exhausted
from authproxy.limits.exhausted import KnownExhausted
from tests.contracts.limit_store import START_S, check

NOW_US = int(START_S * 1e6)


def test_it_is_refused_until_it_refills() -> None:
    """The wait is the limit's own."""
    known = KnownExhausted()
    one = check(1.0, 2)
    known.learn(one.key, NOW_US + 2_000_000, NOW_US)
    spent = known.refuse((check(), one), START_S)
    assert spent is not None
    assert (spent.refused, spent.retry_after_s, spent.states[0].remaining) == (1, 1, 0)
    assert known.refuse((one,), START_S + 1) is None
    assert not known


def test_a_cheaper_request_is_not_refused_on_a_dearers_account() -> None:
    """Used up for a cost of two is not used up for one."""
    known = KnownExhausted()
    one = check(1.0, 2)
    known.learn(one.key, NOW_US + 1_000_000, NOW_US)
    assert known.refuse((one,), START_S) is None


def test_after_five_seconds_the_store_is_asked_again() -> None:
    """An operator who resets a limit of 1/h in the store need not wait an hour; the wait told is the real one."""
    known = KnownExhausted()
    one = check(1 / 3600, 1)
    known.learn(one.key, NOW_US + one.tolerance_us, NOW_US)
    spent = known.refuse((one,), START_S + 4)
    assert spent is not None
    assert spent.retry_after_s == 3596
    assert known.refuse((one,), START_S + 5.1) is None


def test_it_is_bounded() -> None:
    """Many used-up limits cost memory within bounds; forgetting them admits nobody."""
    known = KnownExhausted()
    for n in range(exhausted.MAX_KEYS + 10):
        known.learn(f"k{n}", NOW_US, NOW_US)
    assert len(known._known) <= exhausted.MAX_KEYS
