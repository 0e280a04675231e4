"""
Keeps one connection to Redis, and knows whether it may be used.

One task connects, probes while the breaker is open, and says every second that this replica lives, which also finds a
silent server when there are no requests. While there is no usable connection nobody waits for one. This module refuses
to know what the connection is used for.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from importlib.resources import files
from typing import Final

from authproxy.audit import get_logger
from authproxy.limits.breaker import Breaker
from authproxy.limits.wire import RedisAddress, Wire, WireError, open_wire
from authproxy.metrics import Metrics

ANSWER_S: Final = 0.05
"""A server that takes longer is no help to a request (redis-py's default of 5 s holds requests for as long)."""
HANDSHAKE_S: Final = 0.25
"""Connect, TLS and AUTH; nobody waits for it but the first requests after start."""
HEARTBEAT_S: Final = 1.0
REPLICA_TTL_MS: Final = 3_000
"""Three heartbeats missed: a replica no longer counts."""
REPLICAS_KEY: Final = "portero:replicas"
RETRY_PAUSE_S: Final = 0.05
"""Between attempts while the breaker is still closed."""
COUNT_SCRIPT: Final = files("authproxy.limits").joinpath("count_replicas.lua").read_bytes()


class Connection:
    """
    ``wire`` is the connection to use now, None while there is none.

    Args:
        address: of the server.
        script: loaded into the server at each connect, before ``wire`` is set.
        metrics: counts failures and degradation.
        is_cluster: the set of replicas may live on another node; then this replica counts as the only one.
        on_lost: called after ``wire`` became None; whoever waits for a reply will not get it.
        on_back: called after ``wire`` was set.
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        script: bytes,
        metrics: Metrics,
        is_cluster: bool,
        on_lost: Callable[[], None],
        on_back: Callable[[], None],
    ) -> None:
        self.wire: Wire | None = None
        self.replicas = 1
        """Replicas of Portero seen in the last heartbeat, this one included."""
        self._address = address
        self._script = script
        self._is_cluster = is_cluster
        self._on_lost = on_lost
        self._on_back = on_back
        self._failures = metrics.limit_store_failures_total.cell()
        self._degraded = metrics.limit_store_is_degraded.cell()
        self._breaker = Breaker()
        self._replica = secrets.token_hex(8)
        self._log = get_logger("limits")
        self._task: asyncio.Task[None] | None = None
        self._was_tried = asyncio.Event()
        self._is_lost = asyncio.Event()

    @property
    def has_started(self) -> bool:
        return self._task is not None

    async def start(self) -> None:
        """Returns when the server has answered or the first attempt has failed. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name="limits: keep the connection to Redis")
        await self._was_tried.wait()

    async def close(self) -> None:
        """Take this replica out of the count and end the connection. Idempotent; never raises."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        wire, self.wire = self.wire, None
        if wire is not None:
            with contextlib.suppress(OSError, WireError, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await wire.call("ZREM", REPLICAS_KEY, self._replica)
            wire.close()

    def failed(self, why: str) -> None:
        """A command was answered with an error that says the server is ill: three a second end the connection."""
        self._failures[0] += 1
        if self._note(why):
            self._drop()

    def give_up(self, why: str) -> None:
        """The connection is useless: a reply that is late would be taken for the next one's."""
        self._failures[0] += 1
        self._note(why)
        self._drop()

    def _wire_lost(self, wire: Wire) -> None:
        if wire is self.wire:
            self.give_up("connection lost")

    def _drop(self) -> None:
        wire, self.wire = self.wire, None
        self._degraded[0] = 1.0
        if wire is not None:
            wire.close()
        self._is_lost.set()
        self._on_lost()

    def _note(self, why: str) -> bool:
        """True when this opened the breaker."""
        has_opened = self._breaker.failed(asyncio.get_running_loop().time())
        if has_opened:
            self._log.warning("limit-store-lost", why=why[:200], replicas=self.replicas)
        return has_opened

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                if self.wire is not None:
                    await self._beat(self.wire)
                elif (wait_s := self._breaker.wait_s(loop.time())) > 0:
                    await asyncio.sleep(wait_s)
                elif not await self._connect():
                    await asyncio.sleep(RETRY_PAUSE_S)
        finally:
            self._was_tried.set()

    async def _connect(self) -> bool:
        wire: Wire | None = None
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                wire = await open_wire(self._address, self._wire_lost)
                await wire.call("SCRIPT", "LOAD", self._script)
            async with asyncio.timeout(ANSWER_S):
                await self._say_alive(wire)
            if not wire.is_open:
                raise ConnectionResetError("connection lost")
        except (OSError, WireError, TimeoutError, ValueError) as error:  # ValueError: a host name that cannot be one
            if wire is not None:
                wire.close()
            self._failures[0] += 1
            self._degraded[0] = 1.0
            self._note(str(error) or type(error).__name__)
            return False
        finally:
            self._was_tried.set()
        self._is_lost.clear()
        self.wire = wire
        self._degraded[0] = 0.0
        if self._breaker.succeeded():
            self._log.info("limit-store-back", replicas=self.replicas)
        self._on_back()
        return True

    async def _beat(self, wire: Wire) -> None:
        """Wait a second or until the connection is lost, then say that this replica lives."""
        with contextlib.suppress(TimeoutError):
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes as it ends, and ``close`` hangs.
            async with asyncio.timeout(HEARTBEAT_S):
                await self._is_lost.wait()
        if self.wire is not wire:
            return
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await self._say_alive(wire)
        except (OSError, WireError, TimeoutError) as error:
            if self.wire is wire:
                self.give_up(str(error) or "no answer to the heartbeat")

    async def _say_alive(self, wire: Wire) -> None:
        try:
            count = await wire.call("EVAL", COUNT_SCRIPT, 1, REPLICAS_KEY, self._replica, REPLICA_TTL_MS)
        except WireError:
            if not self._is_cluster:
                raise
            return
        if isinstance(count, int):
            self.replicas = max(1, count)
