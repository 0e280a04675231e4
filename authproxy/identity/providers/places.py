"""
How many requests to providers are under way at once, so that slow hosts keep only their own requests waiting.

Whoever writes a tenant's file chooses its providers, and strangers choose how often they are asked. With one queue for
all, a few hosts that take connections and say nothing would stop the logins of every tenant. So each host has a queue
of its own, and when a crowd is under way a host that is part of it gets no further place, while others do. Refuses to
know what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from policies.errors import ProviderUnavailable

MAX_PER_HOST: Final = 16
"""A shared provider has many tenants behind it, and a slow answer at its token endpoint must not keep keys waiting."""
MAX_REQUESTS: Final = 192
"""Of all hosts together; each is a connection, for which ``gate.build`` keeps 256 descriptors."""
CROWD: Final = 96
"""From so many on, a host has at most one place: six hosts that are as slow as can be make a crowd."""


class _Host:
    """One host's places. ``users`` are those who have one or wait for one."""

    __slots__ = ("semaphore", "taken", "users")

    def __init__(self) -> None:
        self.semaphore = asyncio.Semaphore(MAX_PER_HOST)
        self.taken = 0
        self.users = 0


class Places:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}
        self.taken = 0

    @asynccontextmanager
    async def taking(self, name: str) -> AsyncIterator[None]:
        """
        One request to the host of that name, under way for the length of the block; waits for its turn.

        Raises: ProviderUnavailable, at once, when there is no place.
        """
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host()
        host.users += 1
        try:
            async with host.semaphore:
                if self.taken >= MAX_REQUESTS or (self.taken >= CROWD and host.taken):
                    raise ProviderUnavailable("too many requests to providers are under way")
                self.taken += 1
                host.taken += 1
                try:
                    yield
                finally:
                    self.taken -= 1
                    host.taken -= 1
        finally:
            host.users -= 1
            if not host.users:
                del self._hosts[name]
