"""``Prefer``: wishes that are understood, and hostile ones that are as if unsaid."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.prefer import read_prefer
from tests.policies.processor_time import is_in_time, taken_by


@pytest.mark.parametrize(
    ("value", "wants_async", "wait_s"),
    [
        (b"respond-async", True, None),
        (b"Respond-Async", True, None),
        (b"respond-async, wait=10", True, 10.0),
        (b"wait=10;foo=bar , respond-async", True, 10.0),
        (b'wait="7"', False, 7.0),
        (b"wait=1, wait=99", False, 1.0),
        (b"wait=99999999999999999999", False, 86400.0),
        (b"wait=-1", False, None),
        (b"wait=1.5", False, None),
        (b"wait=\xb2", False, None),
        (b"wait", False, None),
        (b'respond-async=""', True, None),
        (b"respond-async=no", False, None),
        (b"respond-asynchronously", False, None),
        (b'foo="a, respond-async"', False, None),
        (b"return=minimal", False, None),
        (b"", False, None),
        (b",,,", False, None),
        (b",".join([b"x"] * 40) + b",respond-async", False, None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_wishes(value: bytes, wants_async: bool, wait_s: float | None) -> None:
    """RFC 7240: names without case, the first of two, at most a day; what is no wish is left aside."""
    assert read_prefer(value) == (wants_async, wait_s)


@given(st.binary(max_size=200))
def test_no_value_is_an_exception(value: bytes) -> None:
    """Whatever stands in the field."""
    wants_async, wait_s = read_prefer(value)
    assert isinstance(wants_async, bool)
    assert wait_s is None or 0 <= wait_s <= 86_400


@pytest.mark.parametrize("value", [b" " * 30_000, b"a" * 30_000, b"wait=" + b'"' * 30_000, b"a;" * 15_000])
def test_long_values_take_no_time(value: bytes) -> None:
    """No backtracking that grows with the square of the value."""
    assert is_in_time(0.05, lambda: taken_by(lambda: read_prefer(value)))
