"""GCRA in whole microseconds: the arithmetic that both stores share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decision import RuleRef
from policies.gcra import MAX_AHEAD_US, SECOND_US, Check, admit, retry_after_s, share_of, spend_all, state

NOW = 1_790_000_000 * SECOND_US


def check(emission_us: int = 100_000, burst: int = 5, *, key: str = "k", cost: int = 1) -> Check:
    return Check(key, key, emission_us, emission_us * burst, 10, 1, burst, RuleRef(key, "acme.yaml:1"), "local", cost)


checks = st.builds(check, st.sampled_from([1, 7, 500, 100_000, 3_600_000_000]), st.integers(1, 50))
aheads = st.integers(0, 4_000_000_000)


def test_a_silent_limit_admits_its_burst_and_no_more() -> None:
    """After a long silence exactly ``burst`` requests are admitted at once."""
    one, tat, admitted = check(burst=5), 0, 0
    for _ in range(10):
        new_tat, _, _ = admit(tat, NOW, one)
        if new_tat is not None:
            tat, admitted = new_tat, admitted + 1
    assert admitted == 5


@given(one=checks, ahead=aheads)
def test_the_wait_is_exact(one: Check, ahead: int) -> None:
    """R4: after the wait the request is admitted, one microsecond earlier it is not."""
    tat = NOW + ahead
    new_tat, wait, _ = admit(tat, NOW, one)
    if new_tat is None:
        assert admit(tat, NOW + wait, one)[0] is not None
        assert admit(tat, NOW + wait - 1, one)[0] is None
    else:
        assert wait == 0


@given(one=checks, ahead=aheads)
def test_one_emission_before_the_retry_it_is_refused(one: Check, ahead: int) -> None:
    """R4: an emission interval before the exact wait has passed the caller is still refused."""
    new_tat, wait, _ = admit(NOW + ahead, NOW, one)
    if new_tat is None and wait >= one.emission_us:
        assert admit(NOW + ahead, NOW + wait - one.emission_us, one)[0] is None


@given(one=checks, ahead=aheads)
def test_what_remains_would_be_admitted(one: Check, ahead: int) -> None:
    """R5: ``remaining`` requests are admitted now, and not one more."""
    tat, now = NOW + ahead, NOW
    for _ in range(state(tat, now, one).remaining):
        new_tat, _, _ = admit(tat, now, one)
        assert new_tat is not None
        tat = new_tat
    assert admit(tat, now, one)[0] is None


@given(
    one=checks,
    ahead=aheads,
    other=checks.map(lambda c: c._replace(id="o", key="o")),
    other_ahead=aheads,
    cost=st.integers(1, 3),
)
def test_all_at_once_is_each_by_itself(one: Check, ahead: int, other: Check, other_ahead: int, cost: int) -> None:
    """``spend_all`` agrees with ``admit`` of each check, in verdict, wait, new times and what remains."""
    both = (one._replace(cost=cost), other)
    tats = {"k": NOW + ahead, "o": NOW + other_ahead}
    after, spent = spend_all(tats, NOW, both)
    each = [admit(tats[c.key], NOW, c) for c in both]
    if all(new_tat is not None for new_tat, _, _ in each):
        assert after == {c.key: new_tat for c, (new_tat, _, _) in zip(both, each, strict=True)}
        assert (spent.refused, spent.retry_after_s) == (None, 0)
        assert [s.remaining for s in spent.states] == [left for _, _, left in each]
        assert spent.states == tuple(state(after[c.key], NOW, c) for c in both)
    else:
        waits = [wait for _, wait, _ in each]
        assert after is None
        assert spent.refused == waits.index(max(waits))
        assert spent.retry_after_s == retry_after_s(max(waits))
        assert spent.states == tuple(state(tats[c.key], NOW, c) for c in both)


@given(one=checks, ahead=aheads, back=st.integers(0, 10**12))
def test_a_clock_set_back_never_admits_more(one: Check, ahead: int, back: int) -> None:
    """R6: what is refused now is refused at any earlier time, too."""
    if admit(NOW + ahead, NOW, one)[0] is None:
        assert admit(NOW + ahead, NOW - back, one)[0] is None


@pytest.mark.parametrize(
    ("wait_us", "seconds"), [(1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2), (0, 1), (3_600 * SECOND_US, 3600)]
)
def test_retry_after_is_rounded_up(wait_us: int, seconds: int) -> None:
    """A client that obeys must not be refused again; 0 would be no wait."""
    assert retry_after_s(wait_us) == seconds


@given(one=checks, replicas=st.integers(1, 100))
def test_shares_together_are_at_most_the_limit(one: Check, replicas: int) -> None:
    """But for the one request that each replica admits however many they are."""
    share = share_of(one, replicas)
    assert share.emission_us >= one.emission_us * replicas
    assert share.burst * replicas <= max(one.burst, replicas)
    assert share.tolerance_us >= share.emission_us
    assert share.key == one.key


def test_numbers_stay_exact_in_lua() -> None:
    """A share of the slowest limit of the largest burst stays within what a double holds exactly."""
    share = share_of(check(MAX_AHEAD_US, 1), 1000)
    assert NOW + share.tolerance_us < 2**53
