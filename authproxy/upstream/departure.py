"""
What the data path is handed of one judged request: where it goes, the bytes it leaves with, what its answer is given.

The gate makes it (``gate.verdict.Passed``); nothing in here looks at how it was judged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from policies.decision import Allow
from policies.request import AccessRequest


class Address(NamedTuple):
    """Where a connection goes; the key of the upstream pool."""

    host: str
    port: int
    is_tls: bool = False


class Destination(NamedTuple):
    """Where one request leaves to. ``target`` says exactly what was judged, in the encoding this platform reads."""

    address: Address
    target: bytes
    """Origin-form with query, ready for the request line."""
    host: bytes
    """Value of the Host field."""


class Departure(Protocol):
    """One request that may leave."""

    @property
    def request(self) -> AccessRequest: ...

    @property
    def allow(self) -> Allow:
        """For the function's bounds (``place.spec``) and the route's CORS; never asked again whether."""

    @property
    def destination(self) -> Destination: ...

    @property
    def request_block(self) -> bytes:
        """The request head but framing; no final CRLF."""

    @property
    def answer_block(self) -> bytes:
        """Fields to add to the answer."""

    on_cut: Callable[[int], None] | None
    """Set by whoever runs the exchange: ends it, with a websocket close code (RFC 6455 section 7.4)."""
