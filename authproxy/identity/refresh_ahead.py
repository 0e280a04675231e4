"""
Fetching claims anew behind the requests that need them, before anybody has to wait.

It decides how many such refreshes run at once and that one session has one; what becomes of them is told to nobody: who
needs the session looks again. It refuses to know how a refresh goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from authproxy.audit import get_logger
from authproxy.identity.session import SessionOver
from policies.errors import CannotKnow

MAX_BEHIND: Final = 64
"""Sessions beyond it wait until they have to be refreshed."""

_log = get_logger("identity")


class RefreshAhead:
    """Runs refreshes as tasks of the loop. One per process."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[None]] = {}
        self.failed = 0
        """Refreshes that came to nothing; the requests that must have one will see why."""

    def begin(
        self, session_id: str, refresh: Callable[[], Coroutine[Any, Any, None]], done: Callable[[], None]
    ) -> None:
        """Run ``refresh`` unless it runs already or too many do; ``done`` is called at its end, whatever that was."""
        if session_id in self._running or len(self._running) >= MAX_BEHIND:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # judged outside of a loop: there is time until the claims are too old
            return

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
        """Stop what runs."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def __len__(self) -> int:
        return len(self._running)
