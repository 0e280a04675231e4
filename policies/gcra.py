"""
The arithmetic of rate limits: GCRA in whole microseconds.

A limit's whole state is one number, its *theoretical arrival time* (TAT): when the next request would arrive if all
that were admitted had come at exactly the sustained rate. A request of cost ``c`` moves it ``c`` emission intervals
further and is admitted while it runs ahead of now by no more than the tolerance (``burst`` emission intervals). An idle
limit's TAT lies in the past and says the same as no state at all, so idle keys may be forgotten.

``spend_limits.lua`` does the same arithmetic in Redis, and the answers are computed here in both cases; integers, so
that both agree to the last microsecond (R8). This module refuses to know where a TAT is kept and what the time is.

Source: GCRA, ITU-T I.371 annex A (virtual scheduling algorithm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from policies.decision import LimitState, RuleRef

SECOND_US: Final = 1_000_000
MAX_AHEAD_US: Final = 10 * 366 * 86_400 * SECOND_US
"""No TAT runs ahead further than ten years: Lua's doubles are exact up to 2**53 us, the year 2255."""


class Check(NamedTuple):
    """One limit to be spent for one request: everything a store needs, nothing it has to look up."""

    id: str
    key: str
    """``{tenant}:rl:<limit>:<partition>``; the braces are Redis Cluster's hash tag. It fixes emission and tolerance."""
    emission_us: int
    """Microseconds per request at the sustained rate."""
    tolerance_us: int
    """``emission_us * burst``: how far the theoretical arrival time may run ahead."""
    quota: int
    window_s: int
    burst: int
    ref: RuleRef
    on_store_failure: Literal["local", "open", "closed"] = "local"
    cost: int = 1
    """At most ``burst``: a request that costs more is never admitted."""
    name: str = ""
    policy: str = ""
    """See ``LimitState``: passed on to it."""


class Spent(NamedTuple):
    """
    All checks admitted and taken (``refused`` None), or nothing taken.

    ``states`` has one member per check that something is known of, in the order of the checks.
    """

    states: tuple[LimitState, ...]
    refused: int | None = None
    """Index of the check that makes the caller wait longest (the first of equals)."""
    retry_after_s: int = 0
    """Whole seconds until every check would admit the request; 0 when it was admitted."""


NOTHING_TO_SPEND: Final = Spent(())


def admit(tat_us: int, now_us: int, check: Check) -> tuple[int | None, int, int]:
    """
    Judge one request against one limit.

    Returns: (new TAT or None when refused, microseconds to wait, requests that would still be admitted now).
    """
    base = max(tat_us, now_us)
    new_tat = base + check.emission_us * check.cost
    wait = new_tat - now_us - check.tolerance_us
    if wait > 0:
        return None, wait, max(0, (check.tolerance_us - (base - now_us)) // check.emission_us)
    return new_tat, 0, -wait // check.emission_us


def spend_all(tats_us: Mapping[str, int], now_us: int, checks: Sequence[Check]) -> tuple[dict[str, int] | None, Spent]:
    """
    Judge one request against all its limits: every TAT moves, or none does (R3).

    ``tats_us`` by key; a limit without state is missing. The keys of ``checks`` are distinct.

    Returns: the new TATs by key, None when refused (then nothing is to be written: R2); and the answer.
    """
    # The hot path of every limited request: ``admit`` written out, NamedTuples made by tuple.__new__, 0.4 us a check.
    new = tuple.__new__
    after = {}
    states = []
    for id_, key, emission, tolerance, quota, window_s, _, _, _, cost, name, policy in checks:
        ahead = tats_us[key] - now_us if key in tats_us else 0
        if ahead < 0:  # noqa: PLR1730 - max() is a call of 0.1 us
            ahead = 0
        ahead += emission * cost
        left = tolerance - ahead
        if left < 0:
            return None, _refuse([tats_us.get(check.key, 0) for check in checks], now_us, checks)
        after[key] = now_us + ahead
        states.append(
            new(LimitState, (id_, quota, window_s, left // emission, (ahead + 999_999) // 1_000_000, name, policy))
        )
    return after, new(Spent, (tuple(states), None, 0))


def _refuse(tats_us: list[int], now_us: int, checks: Sequence[Check]) -> Spent:
    """The caller is told the longest wait, and the limit that asks for it: one who obeys is not refused again (R4)."""
    waits = [admit(tat, now_us, check)[1] for tat, check in zip(tats_us, checks, strict=True)]
    longest = max(waits)
    states = tuple(state(tat, now_us, check) for tat, check in zip(tats_us, checks, strict=True))
    return Spent(states, waits.index(longest), retry_after_s(longest))


def state(tat_us: int, now_us: int, check: Check) -> LimitState:
    """What a limit has left, spending nothing."""
    ahead = max(0, tat_us - now_us)
    remaining = max(0, (check.tolerance_us - ahead) // check.emission_us)
    return LimitState(check.id, check.quota, check.window_s, remaining, _ceil_s(ahead), check.name, check.policy)


def retry_after_s(wait_us: int) -> int:
    """
    Whole seconds for ``Retry-After``, at least 1.

    Rounded up: a client that obeys must not be refused again. Source: RFC 9110 section 10.2.3.
    """
    return max(1, _ceil_s(wait_us))


def share_of(check: Check, replicas: int) -> Check:
    """
    One replica's part of a limit while the replicas cannot count together; all parts together never exceed the limit.

    The one exception: each replica admits at least one request at once, however many replicas there are.
    """
    if replicas <= 1:
        return check
    emission = min(check.emission_us * replicas, MAX_AHEAD_US)
    burst = max(1, check.burst // replicas)
    return check._replace(emission_us=emission, burst=burst, tolerance_us=min(emission * burst, MAX_AHEAD_US))


def _ceil_s(us: int) -> int:
    return -(-us // SECOND_US)
