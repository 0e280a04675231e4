"""Second tries are a part of the first ones: Q10, at every moment, whatever comes in which order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.retry_budget import FLOOR_PER_S, RATIO, WINDOW_S, RetryBudget

NOW = 1_000_000.25
FREE = int(FLOOR_PER_S * WINDOW_S)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from([0.0, 0.01, 0.4, 1.0, 3.3, 11.0]), st.integers(0, 400), st.integers(0, 60)),
        max_size=40,
    )
)
@settings(max_examples=150, deadline=None)
def test_never_more_than_a_fifth_of_the_window_and_the_floor(steps: list[tuple[float, int, int]]) -> None:
    """Q10: at each retry, those of the last ten seconds are within the budget of the last ten seconds."""
    budget, now = RetryBudget(), NOW
    sent, retried = list[tuple[float, int]](), list[float]()
    for passed_s, requests, tries in steps:
        now += passed_s
        budget.sent(now, requests)
        sent.append((now, requests))
        for _ in range(tries):
            if budget.may_retry(now):
                retried.append(now)
                in_window = sum(count for at, count in sent if at > now - WINDOW_S)
                retries = sum(at > now - WINDOW_S for at in retried)
                assert retries <= RATIO * in_window + FREE


def test_the_floor_is_there_without_a_request() -> None:
    """A function that is called once a minute may be tried again when it was not reached."""
    budget = RetryBudget()
    assert sum(budget.may_retry(NOW) for _ in range(100)) == FREE


def test_a_fifth_of_what_was_sent_lately() -> None:
    """And nothing of it after ten seconds; the floor again after as long."""
    budget = RetryBudget()
    budget.sent(NOW, 1000)
    assert sum(budget.may_retry(NOW + 9) for _ in range(1000)) == FREE + 200
    assert not budget.may_retry(NOW + 11)
    assert sum(budget.may_retry(NOW + 20) for _ in range(100)) == FREE


@pytest.mark.parametrize("later", [NOW - 100, NOW, NOW + 1e9])
def test_a_clock_that_stands_goes_back_or_leaps_is_survived(later: float) -> None:
    """No more than the budget, and no loop as long as the leap."""
    budget = RetryBudget()
    budget.sent(NOW, 5)
    budget.may_retry(NOW)
    assert sum(budget.may_retry(later) for _ in range(100)) <= FREE + 1


def test_memory_is_the_same_whatever_is_counted() -> None:
    """Two rings, however many requests."""
    budget = RetryBudget()
    for n in range(10_000):
        budget.sent(NOW + n / 7)
    assert len(budget._requests) == len(budget._retries) == 21
