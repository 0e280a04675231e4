"""
What is kept of a deferred request: whose it is, and what the function answered.

Refuses to know where it is kept. A result's id is 128 random bits and the only name it has: whoever holds it holds
all there is to hold of an anonymous caller's result, so it stands in no log, no metric and no ``repr``.
"""

from __future__ import annotations

import re
from secrets import token_urlsafe
from typing import Final, NamedTuple

from policies.decision import Deny, Reason
from policies.problem import problem

ID_BYTES: Final = 16
_ID: Final = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]")
"""16 bytes as base64url without padding, the two bits that nobody reads being zero: one id has one spelling."""
FIELD_BYTES: Final = 128
"""Counted for each field beside its bytes: what it takes in memory, of which a head of many short ones is full."""
_ENTRY_BYTES: Final = 256
"""Counted for what keeping costs beside the answer's own bytes."""


class Owner(NamedTuple):
    """Who may fetch a result."""

    tenant: str
    subject: str | None
    """None: an anonymous caller's; whoever knows the id."""


class Result(NamedTuple):
    """What a deferred request came to."""

    status: int
    """200 to 599."""
    fields: tuple[tuple[bytes, bytes], ...]
    """Name and value as the function sent them, without those of the connection."""
    body: bytes
    finished_at: float
    """Unix seconds."""

    def __repr__(self) -> str:
        return f"Result({self.status}, {len(self.fields)} fields, {len(self.body)} bytes)"


def new_id() -> str:
    """22 characters of base64url."""
    return token_urlsafe(ID_BYTES)


def is_id(text: str) -> bool:
    """Whether ``new_id`` could have made ``text``."""
    return _ID.fullmatch(text) is not None


def size_of(result: Result) -> int:
    """What ``result`` counts against a tenant's bytes, wherever it is kept."""
    fields = sum(len(name) + len(value) + FIELD_BYTES for name, value in result.fields)
    return len(result.body) + fields + _ENTRY_BYTES


def without_room(finished_at: float) -> Result:
    """What is kept instead of an answer that the tenant's bytes have no room for: the function has run all the same."""
    refusal = Deny(Reason.OVERLOADED, "the function has answered, but there was no room to keep its answer")
    written = problem(refusal, "none")
    fields = ((n.encode(), v.encode()) for n, v in written.fields if n not in {"X-Request-Id", "Retry-After"})
    return Result(written.status, tuple(fields), written.body, finished_at)
