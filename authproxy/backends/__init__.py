"""
Question 5, towards the platform: ready? wake! where? One module a kind of platform; ``backend.py`` is their contract.

``Backends`` are the platforms of the policy set in force, by name. A reload keeps those whose entry and secrets did not
change, with their connections.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from authproxy.backends.backend import Backend, Factory, Readiness, ReadSecret
from authproxy.backends.http import HttpBackend
from authproxy.backends.knative import KnativeBackend
from authproxy.backends.openfaas import OpenFaasBackend
from authproxy.backends.riff import RiffBackend
from authproxy.upstream.departure import Address, Destination
from policies.errors import CannotKnow, SettingsError
from policies.tables import BackendKind, BackendSpec

KINDS: Final[Mapping[BackendKind, Factory]] = {
    "openfaas": OpenFaasBackend,
    "knative": KnativeBackend,
    "riff": RiffBackend,
    "http": HttpBackend,
}
"""How a platform of each kind is spoken to."""


@dataclass(slots=True)
class _Reading:
    """Reads secrets and remembers which, by digest: how one sees later that one of them has changed."""

    read_secret: ReadSecret = field(repr=False)
    seen: dict[str, bytes | None] = field(default_factory=dict, repr=False)
    """Digest by name; None: it could not be read."""

    def __call__(self, name: str) -> bytes:
        try:
            content = self.read_secret(name)
        except CannotKnow:
            self.seen[name] = None
            raise
        self.seen[name] = hashlib.sha256(content).digest()
        return content

    def has_changed(self) -> bool:
        now = _Reading(self.read_secret)
        for name in self.seen:
            try:
                now(name)
            except CannotKnow:
                continue
        return now.seen != self.seen


@dataclass(frozen=True, slots=True)
class _Made:
    spec: BackendSpec
    reading: _Reading
    """What was read while it was made."""
    backend: Backend


class Backends(Mapping[str, Backend]):
    """
    Backends by name. ``replace`` swaps all of them; whoever is asking an old one gets its answer.

    Args:
        read_secret: reads a secret under ``--secrets DIR/platform/``.
    """

    def __init__(self, read_secret: ReadSecret) -> None:
        self._read_secret = read_secret
        self._made: dict[str, _Made] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def replace(self, specs: Mapping[str, BackendSpec]) -> None:
        """
        Make what is new or has changed, keep what has not, close what is gone.

        Raises: SettingsError with every mistake at once, and then nothing has changed.
        """
        made: dict[str, _Made] = {}
        mistakes: list[str] = []
        for name, spec in specs.items():
            old = self._made.get(name)
            try:
                if old is not None and old.spec == spec and not old.reading.has_changed():
                    made[name] = old
                else:
                    made[name] = self._make(spec)
            except SettingsError as error:
                mistakes += [f"backend {name!r}: {mistake}" for mistake in error.mistakes]
        if mistakes:
            raise SettingsError(mistakes)
        kept = {id(entry) for entry in made.values()}
        gone = [entry.backend for entry in self._made.values() if id(entry) not in kept]
        self._made = made
        for backend in gone:
            self._close_later(backend)

    def _make(self, spec: BackendSpec) -> _Made:
        reading = _Reading(self._read_secret)
        backend = KINDS[spec.kind](spec, reading)
        # What it reads afterwards, once its platform says so, is compared to nothing: a copy stays as it is now.
        return _Made(spec, _Reading(self._read_secret, dict(reading.seen)), backend)

    def _close_later(self, backend: Backend) -> None:
        try:
            task = asyncio.get_running_loop().create_task(backend.close())
        except RuntimeError:  # no loop runs: nothing was ever connected
            return
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close the connections of all of them."""
        made, self._made = self._made, {}
        await asyncio.gather(
            *(entry.backend.close() for entry in made.values()), *self._closing, return_exceptions=True
        )

    def __getitem__(self, name: str) -> Backend:
        return self._made[name].backend

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


__all__ = ["KINDS", "Address", "Backend", "Backends", "Destination", "OpenFaasBackend", "ReadSecret", "Readiness"]
