"""
The event loop's clock, set forward by a test: what the data path waits minutes for is over at once.

Deadlines of the data path are instants of ``loop.time()``. A test that is to see one pass and another not gives both
minutes and moves this clock: a machine that stands still for a second is a second late for them, and no more.
"""

from __future__ import annotations

import asyncio


class LoopClock:
    """That of the running loop, from now on: a test has a loop of its own. Nothing may be waited for across a jump."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self._ahead_s = 0.0
        loop.time = self  # type: ignore[method-assign]  # the loops of both kinds let it be had that way

    def __call__(self) -> float:
        return self._time() + self._ahead_s

    async def pass_s(self, seconds: float) -> None:
        """So much later; edge and pool have looked at their deadlines since."""
        self._ahead_s += seconds
        await asyncio.sleep(0.3)  # longer than either takes to look again (0.25 s, 0.1 s)
