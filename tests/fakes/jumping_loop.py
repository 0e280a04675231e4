"""An event loop that never waits: what is due later is due at once, in its order. For tests without sockets."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")


class _Jumping(selectors.SelectSelector):
    """Never waits: says how long it would have."""

    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is None:
            raise RuntimeError("nothing will ever happen")
        if not events and timeout:
            self.skipped_s += timeout
        return events


class JumpingLoop(asyncio.SelectorEventLoop):
    """Time passes when there is nothing else to do, and then at once."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return round(self._jumping.skipped_s, 9)  # sums of floats would differ by how they were added


def in_jumping_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in a ``JumpingLoop`` of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
