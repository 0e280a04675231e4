"""Bytes of held bodies: bounded per caller, function, tenant and in all, and given back to the last one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.decision import Reason
from policies.held_bytes import Account, HeldBytes

MAX = 100


def account(books: HeldBytes, flow: str = "ana", **changed: Any) -> Account:
    terms: dict[str, Any] = {
        "tenant": "acme", "tenant_ceiling": MAX, "function": ("faas", "acme", "f"), "function_max": None,
        "flow": flow, "flow_max": None,
    }  # fmt: skip
    return books.open(**terms | changed)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"flow_max": 15}, Reason.QUEUE_FULL),
        ({"function_max": 15}, Reason.QUEUE_FULL),
        ({"tenant_ceiling": 15}, Reason.QUEUE_FULL),
        ({}, None),
    ],
    ids=["caller", "function", "tenant", "none"],
)
def test_each_bound_holds_over_all_accounts(changed: dict[str, Any], reason: Reason | None) -> None:
    """Ten bytes are one account's; ten more are too many where the bound is fifteen."""
    books = HeldBytes(MAX)
    assert account(books, **changed).take(10) is None
    assert account(books, **changed).take(10) is reason


@pytest.mark.parametrize(
    "other",
    [{"flow": "bob"}, {"function": "g"}, {"tenant": "globex"}],
    ids=["another-caller", "another-function", "another-tenant"],
)
def test_a_callers_bound_is_his_at_one_function_of_one_tenant(other: dict[str, Any]) -> None:
    """The same name elsewhere is somebody else."""
    books = HeldBytes(MAX)
    assert account(books, flow_max=10).take(10) is None
    assert account(books, **{"flow_max": 10} | other).take(10) is None


def test_the_process_has_a_bound_of_its_own() -> None:
    """503, not 429: it is not the caller who has too much."""
    books = HeldBytes(MAX)
    assert account(books, tenant="globex").take(MAX - 5) is None
    assert account(books).take(6) is Reason.OVERLOADED
    assert account(books).take(5) is None


def test_too_much_takes_nothing() -> None:
    """All or nothing: what was refused is not counted anywhere."""
    books = HeldBytes(MAX)
    mine = account(books, flow_max=10)
    mine.take(8)
    assert mine.take(3) is Reason.QUEUE_FULL
    assert (mine.taken, books.total, books.held("acme")) == (8, 8, 8)


def test_closed_twice_gives_back_once() -> None:
    """However an exchange ends, and however often that is said."""
    books = HeldBytes(MAX)
    mine, other = account(books), account(books)
    mine.take(10)
    other.take(7)
    mine.close()
    mine.close()
    assert books.total == 7


def test_a_read_that_comes_too_late_takes_nothing() -> None:
    """A thread that ends after the exchange has must not take what nobody gives back."""
    books = HeldBytes(MAX)
    mine = account(books)
    mine.close()
    assert mine.take(1) is Reason.OVERLOADED
    assert books.total == 0


@pytest.mark.parametrize("count", [0, -1, -(10**9)])
def test_nothing_is_nothing(count: int) -> None:
    """Nobody gains by taking less than nothing."""
    books = HeldBytes(MAX)
    assert account(books).take(count) is None
    assert books.total == 0


class AnyAccounts(RuleBasedStateMachine):
    """Q5 for bytes: no bound is ever exceeded, and counters are the sum of what is open."""

    def __init__(self) -> None:
        super().__init__()
        self.books = HeldBytes(MAX)
        self.open: list[tuple[Account, str, str, str]] = []

    @rule(tenant=st.sampled_from("AB"), function=st.sampled_from("fg"), flow=st.sampled_from("xy"))
    def start(self, tenant: str, function: str, flow: str) -> None:
        opened = self.books.open(tenant, 60, function, 50, flow, 30)
        self.open.append((opened, tenant, function, flow))

    @rule(data=st.data(), count=st.integers(0, 70))
    @precondition(lambda self: self.open)
    def take(self, data: st.DataObject, count: int) -> None:
        one = data.draw(st.sampled_from(self.open))[0]
        before = one.taken
        refused = one.take(count)
        assert one.taken == (before if refused else before + count)

    @rule(data=st.data())
    @precondition(lambda self: self.open)
    def close(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.open))
        self.open.remove(one)
        one[0].close()

    @invariant()
    def bounds_hold(self) -> None:
        tenants, functions, flows = Counter[str](), Counter[str](), Counter[tuple[str, str, str]]()
        for one, tenant, function, flow in self.open:
            tenants[tenant] += one.taken
            functions[function] += one.taken
            flows[tenant, function, flow] += one.taken
        assert self.books.total == sum(tenants.values()) <= MAX
        assert all(self.books.held(tenant) == count <= 60 for tenant, count in tenants.items())
        assert all(count <= 50 for count in functions.values())
        assert all(count <= 30 for count in flows.values())

    def teardown(self) -> None:
        for one, *_ in self.open:
            one.close()
        assert not self.books._held


TestAnyAccounts = AnyAccounts.TestCase
TestAnyAccounts.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
