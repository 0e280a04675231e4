"""
Question 5, towards the platform: ready? wake! where? One module a kind of platform; ``backend.py`` is their contract.

``Backends`` are the platforms of the policy set in force, by name. A reload keeps those whose entry did not change,
with their connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from authproxy.backends.backend import Backend, Readiness
from authproxy.backends.openfaas import OpenFaasBackend
from authproxy.upstream.departure import Address, Destination
from policies.errors import CannotKnow, SettingsError
from policies.tables import BackendSpec

Credentials = tuple[str, str]
"""User and password."""
ReadSecret = Callable[[str], bytes]
"""Content of a secret of the platform's folder, by name. Raises ``CannotKnow``."""

KINDS: Final[Mapping[str, Callable[[BackendSpec, Credentials | None], Backend]]] = {"openfaas": OpenFaasBackend}
"""How a platform of each kind is spoken to."""

_USER_FILE: Final = "basic-auth-user"
_PASSWORD_FILE: Final = "basic-auth-password"  # noqa: S105 - the name of a file, as OpenFaaS mounts it


class Backends(Mapping[str, Backend]):
    """
    Backends by name. ``replace`` swaps all of them; whoever is asking an old one gets its answer.

    Args:
        read_secret: reads a secret under ``--secrets DIR/platform/``.
    """

    def __init__(self, read_secret: ReadSecret) -> None:
        self._read_secret = read_secret
        self._made: dict[str, tuple[BackendSpec, Credentials | None, Backend]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def replace(self, specs: Mapping[str, BackendSpec]) -> None:
        """
        Make what is new or has changed, keep what has not, close what is gone.

        Raises: SettingsError with every mistake at once, and then nothing has changed.
        """
        made: dict[str, tuple[BackendSpec, Credentials | None, Backend]] = {}
        mistakes: list[str] = []
        for name, spec in specs.items():
            try:
                credentials = self._credentials(spec)
                old = self._made.get(name)
                if old is not None and old[:2] == (spec, credentials):
                    made[name] = old
                else:
                    made[name] = spec, credentials, KINDS[spec.kind](spec, credentials)
            except SettingsError as error:
                mistakes += [f"backend {name!r}: {mistake}" for mistake in error.mistakes]
        if mistakes:
            raise SettingsError(mistakes)
        kept = {id(entry[2]) for entry in made.values()}
        gone = [entry[2] for entry in self._made.values() if id(entry[2]) not in kept]
        self._made = made
        for backend in gone:
            self._close_later(backend)

    def _credentials(self, spec: BackendSpec) -> Credentials | None:
        """From a folder with ``basic-auth-user`` and ``basic-auth-password``, or from a file ``user:password``."""
        if spec.credentials is None:
            return None
        try:
            user, password = (self._read_secret(f"{spec.credentials}/{file}") for file in (_USER_FILE, _PASSWORD_FILE))
        except CannotKnow:
            try:
                user, colon, password = self._read_secret(spec.credentials).partition(b":")
            except CannotKnow as error:
                raise SettingsError([f"its credentials cannot be read: {error}"]) from error
            if not colon:
                raise SettingsError([f"secret {spec.credentials!r} is not of the form user:password"]) from None
        try:
            return user.decode().strip(), password.decode().strip()
        except UnicodeDecodeError:
            raise SettingsError([f"secret {spec.credentials!r} is not UTF-8"]) from None

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
        await asyncio.gather(*(entry[2].close() for entry in made.values()), *self._closing, return_exceptions=True)

    def __getitem__(self, name: str) -> Backend:
        return self._made[name][2]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


__all__ = ["KINDS", "Address", "Backend", "Backends", "Destination", "OpenFaasBackend", "Readiness"]
