"""Rate limits: which apply to a request, and the GCRA arithmetic of one."""

from __future__ import annotations

from typing import Literal, NamedTuple

from policies.decision import RuleRef


class Check(NamedTuple):
    """One limit to be spent for one request: everything a store needs, nothing it has to look up."""

    id: str
    key: str
    """``{tenant}:rl:<limit-id>:<partition>``; the braces are Redis Cluster's hash tag."""
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
