"""
The seam to a functions platform: ready? wake! where? is the function itself there, or did the platform answer for it?

It decides what a platform of any kind has to promise; it refuses to know any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from authproxy.upstream.departure import Destination
from policies.decision import Deny, Reason
from policies.errors import CannotKnow
from policies.request import AccessRequest
from policies.tables import BackendSpec, Place

PROBE_TIMEOUT_S: Final = 1.0
"""Of one probe, connection and answer together: a function that takes longer for it is not ready yet."""

MAX_REPLICAS: Final = 1_000_000
"""Of one function. A platform that counts more is not believed more: capacity travels through Redis as a number."""

Fields = list[tuple[bytes, bytes]]
"""Fields of an answer's head, as received."""

ReadSecret = Callable[[str], bytes]
"""
Content of a secret under ``--secrets DIR/platform/``, by name, read anew by each call. Raises ``CannotKnow``.

It reads a file and may be called from any thread.
"""


def no_secrets(name: str) -> bytes:
    """A ``ReadSecret`` for a platform that has none."""
    raise CannotKnow(f"secret platform/{name}: there are no secrets")


class Readiness(NamedTuple):
    """What the platform says of one function."""

    ready_replicas: int
    does_exist: bool = True


class Backend(Protocol):
    """
    One functions platform. ``tests/contracts/backend.py`` runs over every implementation, each against a server that
    speaks that platform's published API over a socket.

    A constructor takes ``(spec, read_secret)`` and raises ``SettingsError``, with every mistake at once, for an address
    or secret that it cannot use. It connects to nothing and belongs to no event loop.
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

    async def probe(self, namespace: str, function: str, path: str | None) -> bool:
        """
        Whether the function itself answers, asked once and within ``PROBE_TIMEOUT_S``: a replica that the platform
        counts as ready may not listen yet.

        Any answer of the function will do, a 404 too: few have a health check. Those that say "not now" (502, 503, 504)
        will not, whoever sent them. Without credentials.

        ``path`` is function-relative, with its query; None: this platform's own; empty: nothing is asked, True.

        Raises: BackendUnavailable when it cannot be known: the platform does not answer, or ``path`` is none.
        """

    def says_not_reached(self, status: int, fields: Fields) -> bool:
        """True when the platform itself answered and the function was not reached. Only for what is certain."""

    def failure_of(self, status: int, fields: Fields) -> Reason | None:
        """
        The reason behind an answer that is the platform's own and no function's; None: it is the function's answer.

        Only for what is certain. The caller gets the reason's problem document in place of the answer.
        """

    async def close(self) -> None:
        """Close connections. Idempotent."""


Factory = Callable[[BackendSpec, ReadSecret], Backend]
"""How a platform of one kind is made of its entry in ``platform.yaml``. Raises ``SettingsError``."""
