"""Concurrent limits: what is taken is given back, once, however a request ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from authproxy.limits.concurrency import ConcurrencyLimits, Lease
from policies.decision import RuleRef
from policies.limits import Parallel


def parallel(name: str = "a", maximum: int = 2) -> Parallel:
    return Parallel(name, name, maximum, RuleRef(name, "acme.yaml:1"))


def test_no_more_than_the_maximum_at_once() -> None:
    """The third of two waits until one has ended."""
    limits = ConcurrencyLimits()
    first, second = limits.take([parallel()]), limits.take([parallel()])
    assert limits.take([parallel()]) == 0
    assert isinstance(first, Lease)
    assert isinstance(second, Lease)
    first.release()
    assert isinstance(limits.take([parallel()]), Lease)


def test_all_or_nothing() -> None:
    """What one limit refuses takes nothing of the others and names the one that refused."""
    limits = ConcurrencyLimits()
    limits.take([parallel("b", 1)])
    assert limits.take([parallel("a"), parallel("b", 1)]) == 1
    assert limits.in_use("a") == 0


def test_releasing_twice_gives_back_once() -> None:
    """Two paths may both think that the request has ended."""
    limits = ConcurrencyLimits()
    lease, other = limits.take([parallel()]), limits.take([parallel()])
    assert isinstance(lease, Lease)
    assert isinstance(other, Lease)
    lease.release()
    lease.release()
    assert limits.in_use("a") == 1


def test_without_limits_nothing_is_taken() -> None:
    """The usual request holds a lease of nothing."""
    limits = ConcurrencyLimits()
    lease = limits.take([])
    assert isinstance(lease, Lease)
    lease.release()
    lease.release()
    assert limits.key_count == 0


def test_replicas_take_their_part() -> None:
    """Each of three replicas lets a third through, rounded up; one more replica is noticed at once."""
    replicas = [3]
    limits = ConcurrencyLimits(replicas=lambda: replicas[0])
    ten = parallel(maximum=10)
    assert sum(isinstance(limits.take([ten]), Lease) for _ in range(10)) == 4
    replicas[0] = 100
    assert ConcurrencyLimits(replicas=lambda: 100).take([ten]) != 0
    assert limits.take([ten]) == 0


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "ab"]), st.booleans()), max_size=60))
def test_counts_return_to_nothing(steps: list[tuple[str, bool]]) -> None:
    """In whatever order requests come and go, no count stays, falls below nothing or exceeds its maximum."""
    limits = ConcurrencyLimits()
    leases: list[Lease] = []
    for names, is_take in steps:
        if is_take:
            taken = limits.take([parallel(name, 3) for name in names])
            if isinstance(taken, Lease):
                leases.append(taken)
        elif leases:
            leases.pop(0).release()
        assert 0 <= limits.in_use("a") <= 3
    for lease in leases:
        lease.release()
    assert limits.key_count == 0
