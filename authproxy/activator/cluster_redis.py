"""
A ``Cluster`` over Redis: what all Porteros agree on lives there, and is gone by itself when its Portero is.

Wake leases are the leases that identity has (``acquire_lease.lua``); places are reserved by ``cluster_places`` and
slots settled by ``cluster_slots``. Here are the connections, the heartbeat, and the channel on which this Portero hears
what others' words have brought it. Times are Redis's own.

Without Redis: wakes are called all the same (``StoreUnavailable`` says so to who asks), each Portero has its part of
the places, and no slot is given: functions whose concurrency is shared wait. It refuses to know tenants and functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
from collections.abc import Callable, Coroutine, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final

from authproxy.activator.cluster import LEASE_S, CountHeld, OnHeld
from authproxy.activator.cluster_link import ClusterLink
from authproxy.activator.cluster_places import TTL_S as PLACES_TTL_S
from authproxy.activator.cluster_places import Need, Places
from authproxy.activator.cluster_slots import GRACE_S, TTL_S, Grant, RedisSlots, Word
from authproxy.audit import get_logger
from authproxy.identity.shared.redis_link import TIMEOUT_S, Script
from authproxy.limits.connection import COUNT_SCRIPT
from policies.errors import StoreUnavailable

BEAT_S: Final = 1.0
SILENT_S: Final = 3.5
"""After its last heartbeat a Portero is no longer counted; others notice with their own next one, within 5 s in all."""
START_S: Final = 1.0
"""How long a start waits for Redis."""
CLOSE_S: Final = 1.0
FIRST_PAUSE_S: Final = 0.05
LAST_PAUSE_S: Final = 1.0
"""Between attempts to listen."""
CANCELS: Final = 20
"""Before Python 3.12 ``asyncio.wait_for``, which redis-py uses, swallows a cancellation that comes as it ends."""

_PORTEROS: Final = "portero:{activator}:porteros"
_SINCE: Final = "portero:{activator}:since"
_SLOTS: Final = "portero:{activator}:slots:"
_PLACES: Final = "portero:{activator}:places:"
_CHANNEL: Final = "portero:{activator}:to:"
_WAKE: Final = "portero:wake:"


def _script(name: str) -> Script:
    text = files("authproxy").joinpath("activator", f"{name}.lua").read_bytes()
    return Script(text, sha1(text, usedforsecurity=False).hexdigest())


SETTLE: Final = _script("settle_slots")
RESERVE: Final = _script("reserve_places")
_COUNT: Final = Script(COUNT_SCRIPT, sha1(COUNT_SCRIPT, usedforsecurity=False).hexdigest())
_ACQUIRE: Final = Script.read("acquire_lease")
_RENEW: Final = Script.read("renew_lease")


class RedisCluster:
    """
    A ``Cluster``. ``start`` is due before anything else.

    Args:
        url: ``redis[s]://[user[:password]@]host[:port][/database]``, or of any node of a Redis Cluster.
        is_cluster: it is a Redis Cluster.
        timeout_s: for a connection, and for a reply.
        on_failure: called whenever Redis did not answer, or not as it should.

    Raises: ValueError for a URL that cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        is_cluster: bool = False,
        timeout_s: float = TIMEOUT_S,
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        self._holder = secrets.token_hex(8)
        self._link = ClusterLink(url, is_cluster=is_cluster, timeout_s=timeout_s)
        self._on_failure = on_failure
        self._numbers = itertools.count(1)
        self._sharers = 1
        self._pools: dict[str, RedisSlots] = {}
        self._places = Places(self._reserve, lambda: self._sharers)
        self._tasks: set[asyncio.Task[None]] = set()
        self._was_tried = asyncio.Event()
        self._is_heard = asyncio.Event()
        self._is_closed = False
        self._log = get_logger("activator")

    @property
    def sharers(self) -> int:
        return self._sharers

    # -- wakes -------------------------------------------------------------------------------------------------------

    async def lease_wake(self, key: str) -> bool:
        return await self._run(_ACQUIRE, (_WAKE + key,), self._holder, int(1000 * LEASE_S)) is not None

    async def keep_wake(self, key: str) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self._run(_RENEW, (_WAKE + key,), self._holder, int(1000 * LEASE_S))

    async def end_wake(self, key: str) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self._run(_RENEW, (_WAKE + key,), self._holder, 0)

    # -- places ------------------------------------------------------------------------------------------------------

    def count_held(self, count: CountHeld) -> None:
        self._places.count = count

    def has_place(self, key: str, ceiling: int, held: int) -> bool:
        return self._places.has_place(key, ceiling, held)

    async def reserve(self, key: str, ceiling: int, held: int) -> bool:
        return await self._places.reserve(key, ceiling, held)

    async def _reserve(self, needs: Sequence[Need]) -> Sequence[int]:
        words = [number for need in needs for number in (need.ceiling, need.used, need.needed, need.wanted)]
        keys = [_PLACES + need.key for need in needs]
        reply = await self._run(RESERVE, keys, 0, self._holder, next(self._numbers), int(1e6 * PLACES_TTL_S), *words)
        if not isinstance(reply, list) or len(reply) != len(needs) or not all(isinstance(one, int) for one in reply):
            raise StoreUnavailable("redis: an answer that is none")
        return reply

    # -- slots -------------------------------------------------------------------------------------------------------

    def slots(self, key: str, on_held: OnHeld) -> RedisSlots:
        if (old := self._pools.get(key)) is not None:
            old.close()
        pool = RedisSlots(key, on_held, settle=self._settle, number=lambda: next(self._numbers), leave=self._leave)
        if not self._is_closed:
            self._pools[key] = pool
        return pool

    async def _settle(self, key: str, word: Word) -> Grant:
        ttl_us, grace_us = int(1e6 * TTL_S), int(1e6 * GRACE_S)
        words = (0, self._holder, word.number, word.in_use, word.wanted, word.capacity, ttl_us, grace_us, _CHANNEL, key)
        return _grant(await self._run(SETTLE, (_SLOTS + key, _SINCE), *words))

    def _leave(self, pool: RedisSlots, word: Word | None) -> None:
        if self._pools.get(pool.key) is pool:
            del self._pools[pool.key]
        if word is not None:
            self._spawn(self._say_last(pool.key, word))

    async def _say_last(self, key: str, word: Word) -> None:
        with contextlib.suppress(StoreUnavailable):  # then it is forgotten with its holder
            await self._settle(key, word)

    def _hear(self, message: bytes) -> None:
        try:
            version, granted, scarce, key = message.split(b" ", 3)
            grant, name = _grant([int(version), int(granted), int(scarce)]), key.decode()
        except (ValueError, StoreUnavailable):
            self._log.warning("slots-message-unreadable")
            return
        if (pool := self._pools.get(name)) is not None:
            pool.pushed(grant)

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        if self._is_closed:
            return
        if not self._tasks:
            self._spawn(self._beat())
            self._spawn(self._listen())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                await self._was_tried.wait()
                await self._is_heard.wait()

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        followers = set(self._tasks)
        for pool in tuple(self._pools.values()):
            pool.close()
        await _end(followers)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(*self._tasks, self._give_back(), self._go())
        await _end(self._tasks)
        await self._link.close()

    async def _give_back(self) -> None:
        with contextlib.suppress(StoreUnavailable):  # then it is free when this Portero is forgotten
            await self._places.close()

    async def _go(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self._link.call("ZREM", _PORTEROS, self._holder)

    async def _beat(self) -> None:
        """Say that this Portero lives, count who does, and renew the places."""
        while not self._is_closed:
            try:
                count = await self._run(_COUNT, (_PORTEROS,), self._holder, int(1000 * SILENT_S))
                self._sharers = max(1, count) if isinstance(count, int) else self._sharers
                self._was_tried.set()
                await self._places.renew()
                # It wants nothing: so the time in which a new server gives nothing begins before somebody waits.
                await self._settle("", Word(next(self._numbers), 0, 0, 0))
            except StoreUnavailable:
                self._was_tried.set()
            except Exception:  # noqa: BLE001  # a defect of who counts must not make this Portero look dead for good
                self._log.exception("cluster-not-renewed")
            await asyncio.sleep(BEAT_S * random.uniform(0.9, 1.0))  # noqa: S311  # not all at once

    async def _listen(self) -> None:
        """To be quicker: who misses a message asks within 250 ms."""
        pause_s = FIRST_PAUSE_S
        while not self._is_closed:
            try:
                async for message in self._link.hear(_CHANNEL + self._holder):
                    pause_s = FIRST_PAUSE_S
                    if message is None:
                        self._is_heard.set()
                    else:
                        self._hear(message)
            except StoreUnavailable:
                self._fail()
            except Exception:  # noqa: BLE001  # a defect of who is told must not end the listening for good
                self._log.exception("slots-message-failed")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    async def _run(self, script: Script, keys: Sequence[str], *words: str | int) -> Any:
        try:
            return await self._link.run(script, keys, *words)
        except StoreUnavailable:
            self._fail()
            raise

    def _fail(self) -> None:
        if self._on_failure is not None:
            self._on_failure()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    for _ in range(CANCELS):
        running = [task for task in tasks if not task.done()]
        if not running:
            return
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=0.05)


def _grant(reply: object) -> Grant:
    """
    What ``settle_slots.lua`` returns, and what it publishes.

    Raises: StoreUnavailable for anything else, and where a newer word of this holder was there.
    """
    if isinstance(reply, list) and len(reply) == 3 and all(isinstance(one, int) and one >= 0 for one in reply):
        return Grant(reply[0], reply[1], bool(reply[2]))
    raise StoreUnavailable("redis: an answer that is none")
