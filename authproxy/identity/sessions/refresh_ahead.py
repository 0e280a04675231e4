"""
Fetching claims anew behind the requests that need them, before anybody has to wait.

It decides how many such refreshes run at once, that one session has one, and how soon it may have another; what becomes
of them is told to nobody: who needs the session looks again. It refuses to know how a refresh goes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Final

from authproxy.audit import get_logger
from authproxy.identity.sessions.session import SessionOver
from policies.errors import CannotKnow

MAX_BEHIND: Final = 64
"""Sessions beyond it wait until they have to be refreshed."""
RETRY_S: Final = 15.0
"""A session for which one was begun has no other for so long: a provider that is down is not asked by each request."""
_MAX_TRIED: Final = 10_000

_log = get_logger("identity")


class RefreshAhead:
    """Runs refreshes as tasks of the loop. One per process."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[None]] = {}
        self._next_at: OrderedDict[str, float] = OrderedDict()
        self._is_closed = False
        self.failed = 0
        """Refreshes that came to nothing; the requests that must have one will see why."""

    def begin(
        self,
        session_id: str,
        now: float,
        refresh: Callable[[], Coroutine[Any, Any, None]],
        done: Callable[[], None],
    ) -> float:
        """
        Run ``refresh`` if nothing is against it; returns when to call again, Unix seconds.

        ``done`` is called at the end of the refresh, whatever that was.
        """
        next_at = self._next_at.get(session_id, 0.0)
        if now < next_at <= now + RETRY_S:  # later: the clock went back
            return next_at
        if session_id not in self._running and len(self._running) < MAX_BEHIND and not self._is_closed:
            self._start(session_id, now, refresh, done)
        return now + RETRY_S

    def _start(
        self,
        session_id: str,
        now: float,
        refresh: Callable[[], Coroutine[Any, Any, None]],
        done: Callable[[], None],
    ) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # judged outside of a loop: there is time until the claims are too old
            return
        self._next_at[session_id] = now + RETRY_S
        self._next_at.move_to_end(session_id)
        if len(self._next_at) > _MAX_TRIED:
            self._next_at.popitem(last=False)

        def ended(_: asyncio.Task[None]) -> None:
            self._running.pop(session_id, None)
            done()

        task = loop.create_task(self._run(refresh), name="identity: refresh ahead of time")
        self._running[session_id] = task
        task.add_done_callback(ended)

    async def _run(self, refresh: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await refresh()
        except (SessionOver, CannotKnow):
            self.failed += 1
        except Exception:  # noqa: BLE001 (a defect must not end unseen, nor requests that do not wait for this)
            self.failed += 1
            _log.exception("refreshing a session ahead of time failed")

    async def close(self) -> None:
        """Stop what runs, and begin no more. Idempotent."""
        self._is_closed = True
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def __len__(self) -> int:
        return len(self._running)
