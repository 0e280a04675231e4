"""
What replicas agree on, in Redis: a ``StateStore`` that all replicas see and that survives a restart of Portero.

Each call is one command or one script, and each script touches one key, so a cluster serves them all. A value is kept
as 15 digits of version and then its bytes; what has no version has 0. Times are Redis's own: replicas need not agree on
the time. Refuses to know what the values mean; those who keep secrets here seal them first.
"""

from __future__ import annotations

from typing import Final

from authproxy.identity.shared.redis_link import TIMEOUT_S, RedisLink, Script
from authproxy.identity.shared.state_bounds import MAX_VERSION, ttl_ms

_PUT_NEWER: Final = Script.read("put_newer")
_ACQUIRE: Final = Script.read("acquire_lease")
_RENEW: Final = Script.read("renew_lease")
_HEAD: Final = 15
"""Digits of the version in front of a value."""
_PLAIN: Final = b"0" * _HEAD


class RedisState:
    """
    A ``StateStore`` over Redis. One event loop; every call ends within twice ``timeout_s`` or raises StoreUnavailable.

    Args:
        url: ``redis[s]://[user[:password]@]host[:port][/database]``, or of any node of a cluster.
        is_cluster: keys are spread over the nodes of a Redis Cluster.
        timeout_s: for a connection, and for a reply.

    Raises: ValueError for a URL that cannot be read.
    """

    is_shared = True

    def __init__(self, url: str, *, is_cluster: bool = False, timeout_s: float = TIMEOUT_S) -> None:
        self._link = RedisLink(url, is_cluster=is_cluster, timeout_s=timeout_s)

    async def get(self, key: str) -> bytes | None:
        return _value(await self._link.call("GET", key))

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        await self._link.call("SET", key, _PLAIN + value, "PX", ttl_ms(ttl_s))

    async def put_newer(self, key: str, version: int, value: bytes, ttl_s: float) -> bool:
        """Raises: ValueError for a version that is not 1 to 10^15 - 1."""
        if not 0 < version <= MAX_VERSION:
            raise ValueError("a version is a whole number from 1 to 10^15 - 1")
        head = b"%015d" % version
        return bool(await self._link.run(_PUT_NEWER, (key,), head, value, ttl_ms(ttl_s)))

    async def add(self, key: str, value: bytes, ttl_s: float) -> bool:
        return bool(await self._link.call("SET", key, _PLAIN + value, "PX", ttl_ms(ttl_s), "NX"))

    async def take(self, key: str) -> bytes | None:
        return _value(await self._link.call("GETDEL", key))

    async def delete(self, key: str) -> None:
        await self._link.call("DEL", key)

    async def acquire(self, key: str, holder: str, ttl_s: float) -> int | None:
        number = await self._link.run(_ACQUIRE, (key,), holder, ttl_ms(ttl_s))
        return number if isinstance(number, int) else None

    async def renew(self, key: str, holder: str, ttl_s: float) -> bool:
        return bool(await self._link.run(_RENEW, (key,), holder, ttl_ms(ttl_s)))

    async def release(self, key: str, holder: str) -> None:
        await self._link.run(_RENEW, (key,), holder, 0)

    async def close(self) -> None:
        """Idempotent; never raises."""
        await self._link.close()


def _value(stored: object) -> bytes | None:
    """None too for what nobody here has written."""
    return stored[_HEAD:] if isinstance(stored, bytes) and len(stored) >= _HEAD and stored[:_HEAD].isdigit() else None
