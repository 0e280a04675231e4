"""What the gate tells an edge: pass it on like this, write this refusal, or wait."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policies.decision import Allow, Decision, Problem
from policies.pipeline import Need
from policies.request import AccessRequest, Head

if TYPE_CHECKING:
    from authproxy.backends.backend import Destination
    from authproxy.gate.live import LiveExchange
    from policies.tables import PolicySet


@dataclass(slots=True)
class Passed:
    """
    The request may leave. The edge forwards it and calls ``Gate.finish(passed, ...)`` exactly once, whatever happens.

    Mutable only in what ``finish`` records; made once per request on the hot path.
    """

    request: AccessRequest
    allow: Allow
    destination: Destination
    request_block: bytes
    """The whole request head but framing: request line, Host, forwarded and injected fields; no final CRLF."""
    answer_block: bytes
    """Fields to add to the answer: X-Request-Id, RateLimit, CORS."""
    request_id: str
    started_at: float
    """Unix seconds."""
    live: LiveExchange


@dataclass(slots=True)
class Refused:
    """The request ends here; the edge writes ``problem`` and nothing else. Counted and audited already by the gate."""

    problem: Problem
    request_id: str


@dataclass(slots=True)
class Undecided:
    """The generator stands at a need whose answer is not at hand; ``await Gate.decide(undecided, exchange)``."""

    head: Head
    request: AccessRequest
    judging: Generator[Need, Any, Decision]
    need: Need
    policies: PolicySet
    request_id: str
    started_at: float


Verdict = Passed | Refused
