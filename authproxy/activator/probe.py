"""
Whether a function is ready: the platform's word for it, and after a sleep the function's own as well.

A platform counts a replica as ready that does not listen yet, or whose address its own proxies have not heard of:
whoever was let in then would get the platform's 502. So after the function was seen asleep, or could not be reached, it
is probed until it has answered once, and then never again while it is awake.

It refuses to know who waits, and how a probe is sent (``Backend.probe``).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from authproxy.backends.backend import Backend, Readiness

ASLEEP = Readiness(0)


class FunctionKey(NamedTuple):
    """Which function, whatever tenants call it."""

    backend: str
    namespace: str
    function: str


class Prober(Protocol):
    """How a function is probed; ``probe`` unless a test says otherwise."""

    async def __call__(self, backend: Backend, key: FunctionKey, path: str | None) -> bool:
        """Whether the function itself answers. Raises: BackendUnavailable."""


async def probe(backend: Backend, key: FunctionKey, path: str | None) -> bool:
    """Ask the function by its platform."""
    return await backend.probe(key.namespace, key.function, path)


class ReadinessCheck:
    """One function's."""

    __slots__ = ("_is_probe_due", "_key", "_prober", "is_up")

    def __init__(self, key: FunctionKey, prober: Prober) -> None:
        self._key = key
        self._prober = prober
        self._is_probe_due = False
        self.is_up = False
        """The platform's last word was that a replica is ready, whether or not the function has answered since."""

    def doubt(self) -> None:
        """The function could not be reached: the platform's word alone will not do next time."""
        self._is_probe_due = True

    async def ask(self, backend: Backend, path: str | None) -> Readiness:
        """
        Ask ``backend``, and the function when that is due. A function that does not answer is told as asleep.

        ``path`` is asked of the function; None: the platform's own, empty: nothing. Raises: BackendUnavailable.
        """
        readiness = await backend.readiness(self._key.namespace, self._key.function)
        self.is_up = readiness.does_exist and readiness.ready_replicas > 0
        if not self.is_up:
            self._is_probe_due = True  # when it is there one day, it is new
            return readiness
        if self._is_probe_due and path != "":
            self._is_probe_due = False  # a doubt that comes up meanwhile stays
            has_answered = False
            try:
                has_answered = await self._prober(backend, self._key, path)
            finally:
                self._is_probe_due = self._is_probe_due or not has_answered
            return readiness if has_answered else ASLEEP
        self._is_probe_due = False
        return readiness
