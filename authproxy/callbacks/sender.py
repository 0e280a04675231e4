"""
Callbacks under way: tried again while that helps, bounded in every direction, given up in time.

A receiver that is slow or down keeps only its own callbacks waiting: each host of a tenant has few places, each tenant
some more, and all tenants together take turns at the rest. What there is no room for, or what could not be delivered in
two minutes, is given up and counted; the result itself stays where the caller can fetch it. Deliveries can repeat: a
receiver that took one and said nothing in time gets it again, under the same ``X-Call-Id``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, Protocol

from authproxy.audit import get_logger
from authproxy.callbacks.message import Callback
from authproxy.callbacks.post import Attempt, Outcome

PAUSES_S: Final = (1.0, 4.0, 12.0, 30.0)
"""Between attempts, of which there is one more; each is varied by a quarter either way."""
DEADLINE_S: Final = 120.0
"""From being taken to being given up."""
MAX_PER_HOST: Final = 64
"""Callbacks of one tenant to one host that are waiting or under way."""
MAX_PER_TENANT: Final = 256
MAX_TOTAL: Final = 2048
MAX_TENANT_BYTES: Final = 16 * 1024 * 1024
MAX_TOTAL_BYTES: Final = 64 * 1024 * 1024
"""Of bodies."""
AT_ONCE_PER_HOST: Final = 4
AT_ONCE_PER_TENANT: Final = 8
"""Attempts. The queue before the last gate so has at most eight of each tenant: they take turns."""
AT_ONCE: Final = 64
END_S: Final = 2.0
"""What attempts under way get when the process ends."""

_log = get_logger("callbacks")


class Poster(Protocol):
    """What is needed of ``post.CallbackHttp``."""

    async def post(self, callback: Callback) -> Attempt: ...


class _Lane:
    """What one tenant, or one host of it, has under way."""

    __slots__ = ("body_bytes", "count", "places")

    def __init__(self, at_once: int) -> None:
        self.count = 0
        self.body_bytes = 0
        self.places = asyncio.Semaphore(at_once)


class Callbacks:
    """
    One per process and event loop.

    Args:
        http: makes one attempt.
        count: told tenant and outcome of each callback, exactly once: ``delivered``, ``refused``, ``forbidden``,
            ``unreachable``, ``dropped`` (no room), ``lost`` (the process ended first).
        deadline_s: from being taken to being given up.
        pauses_s: between attempts.
    """

    def __init__(
        self,
        http: Poster,
        count: Callable[[str, str], None],
        *,
        deadline_s: float = DEADLINE_S,
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        self._http = http
        self._count = count
        self._deadline_s = deadline_s
        self._pauses_s = pauses_s
        self._places = asyncio.Semaphore(AT_ONCE)
        self._tenants: dict[str, _Lane] = {}
        self._hosts: dict[tuple[str, str], _Lane] = {}
        self._all = _Lane(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._pausing: set[asyncio.Task[None]] = set()
        """Those between two attempts."""
        self._is_closed = False

    def __len__(self) -> int:
        """Callbacks waiting or under way."""
        return self._all.count

    @property
    def body_bytes(self) -> int:
        return self._all.body_bytes

    def send(self, callback: Callback) -> bool:
        """Take it and deliver it behind; False when there is no room, and it was dropped. Never waits."""
        tenant = self._tenants.get(callback.tenant) or _Lane(AT_ONCE_PER_TENANT)
        key = (callback.tenant, callback.target.host)
        host = self._hosts.get(key) or _Lane(AT_ONCE_PER_HOST)
        size = len(callback.body)
        if (
            self._is_closed
            or host.count >= MAX_PER_HOST
            or tenant.count >= MAX_PER_TENANT
            or self._all.count >= MAX_TOTAL
            or tenant.body_bytes + size > MAX_TENANT_BYTES
            or self._all.body_bytes + size > MAX_TOTAL_BYTES
        ):
            self._end(callback, "dropped", "too many are under way")
            return False
        self._tenants[callback.tenant], self._hosts[key] = tenant, host
        for lane in (tenant, host, self._all):
            lane.count += 1
            lane.body_bytes += size
        task = asyncio.get_running_loop().create_task(self._deliver(callback, tenant, host), name="callback")
        self._tasks.add(task)
        # Here and not in the task: one that is cancelled before its first step gives back what it has, too.
        task.add_done_callback(lambda task: self._done(task, callback, (tenant, host, self._all)))
        return True

    async def close(self) -> None:
        """Take nothing more, let attempts that are under way or due come to their end, give up the rest. Idempotent."""
        self._is_closed = True
        for task in tuple(self._pausing):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=END_S)
        for task in tuple(self._tasks):
            task.cancel()
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))
            await asyncio.sleep(0)  # a task's callbacks run after whoever waits for it is told

    async def _deliver(self, callback: Callback, tenant: _Lane, host: _Lane) -> None:
        why = "no place"
        try:
            async with asyncio.timeout(self._deadline_s):
                for pause_s in (*self._pauses_s, None):
                    async with host.places, tenant.places, self._all.places:
                        attempt = await self._http.post(callback)
                    why = attempt.why
                    if attempt.outcome is not Outcome.AGAIN:
                        self._end(callback, attempt.outcome.value, why)
                        return
                    if self._is_closed:
                        self._end(callback, "lost", why)
                        return
                    if pause_s is not None:
                        spread_s = pause_s * random.uniform(0.75, 1.25)  # noqa: S311  # it spreads, and guards nothing
                        await self._pause(max(spread_s, attempt.retry_after_s))
        except TimeoutError:
            pass  # two minutes are over
        self._end(callback, "unreachable", why)

    async def _pause(self, pause_s: float) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._pausing.add(task)
        try:
            await asyncio.sleep(pause_s)
        finally:
            if task is not None:
                self._pausing.discard(task)

    def _done(self, task: asyncio.Task[None], callback: Callback, lanes: tuple[_Lane, ...]) -> None:
        self._tasks.discard(task)
        for lane in lanes:
            lane.count -= 1
            lane.body_bytes -= len(callback.body)
        key = (callback.tenant, callback.target.host)
        if not self._tenants[callback.tenant].count:
            del self._tenants[callback.tenant]
        if not self._hosts[key].count:
            del self._hosts[key]
        if task.cancelled():
            self._end(callback, "lost", "the process ends")
        elif (error := task.exception()) is not None:
            _log.error("sending a callback failed", exc_info=error)
            self._end(callback, "unreachable", "internal error")

    def _end(self, callback: Callback, outcome: str, why: str) -> None:
        self._count(callback.tenant, outcome)
        if outcome != Outcome.DELIVERED.value:
            # The host alone: whoever writes a callback's path often writes what opens the door there.
            _log.warning(
                "a callback was not delivered",
                tenant=callback.tenant,
                host=callback.target.host,
                outcome=outcome,
                why=why,
            )
