"""The breaker: three failures a second open it, a probe each half second, one success closes it."""

from __future__ import annotations

import pytest

from authproxy.limits.breaker import Breaker


def test_three_failures_within_a_second_open_it() -> None:
    """The third says so, once."""
    breaker = Breaker()
    assert [breaker.failed(at) for at in (0.0, 0.5, 1.0, 1.1)] == [False, False, True, False]
    assert breaker.is_open


def test_failures_far_apart_do_not() -> None:
    """A failure a second is noise."""
    breaker = Breaker()
    assert not any(breaker.failed(at) for at in (0.0, 0.6, 1.2, 1.8, 2.4))
    assert breaker.wait_s(2.4) == 0


def test_open_it_is_probed_every_half_second() -> None:
    """A failed probe puts the next one off."""
    breaker = Breaker()
    for _ in range(3):
        breaker.failed(10.0)
    assert breaker.wait_s(10.1) == pytest.approx(0.4)
    assert breaker.wait_s(10.5) == 0
    breaker.failed(10.6)
    assert breaker.wait_s(10.7) == pytest.approx(0.4)


def test_one_success_closes_it_and_forgets() -> None:
    """Closing is said once; three new failures are needed to open it again."""
    breaker = Breaker()
    for _ in range(3):
        breaker.failed(0.0)
    assert [breaker.succeeded(), breaker.succeeded()] == [True, False]
    assert breaker.wait_s(0.1) == 0
    assert [breaker.failed(0.2), breaker.failed(0.2), breaker.failed(0.2)] == [False, False, True]


def test_a_success_while_closed_does_not_forgive() -> None:
    """A server that connects and then fails each request opens the breaker all the same."""
    breaker = Breaker()
    opened = []
    for at in (0.0, 0.1, 0.2):
        breaker.succeeded()
        opened.append(breaker.failed(at))
    assert opened == [False, False, True]
