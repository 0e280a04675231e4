"""The seam to a functions platform: ready? wake! where? how are its paths encoded?"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from authproxy.upstream.departure import Destination
from policies.decision import Deny
from policies.request import AccessRequest
from policies.tables import Place


class Readiness(NamedTuple):
    """What the platform says of one function."""

    ready_replicas: int
    does_exist: bool = True


class Backend(Protocol):
    """
    One functions platform. ``tests/contracts/backend.py`` runs over every implementation, each against a server that
    speaks that platform's published API over a socket.
    """

    name: str

    def destination(self, place: Place, query: str | None, request: AccessRequest | None = None) -> Destination | Deny:
        """
        Where the request of ``place`` leaves to. Pure.

        ``Deny`` when this platform cannot be told exactly what was judged: a path that it would read as another one.
        ``request`` settles the few paths whose reading depends on the head; without it those are refused.
        """

    async def readiness(self, namespace: str, function: str) -> Readiness:
        """Ask the platform once. Raises ``BackendUnavailable`` when it cannot be known."""

    async def wake(self, namespace: str, function: str) -> None:
        """Ask the platform for one replica. Raises ``BackendUnavailable``; idempotent."""

    def says_not_reached(self, status: int, fields: list[tuple[bytes, bytes]]) -> bool:
        """True when the platform itself answered and the function was not reached."""

    async def close(self) -> None:
        """Close connections."""
