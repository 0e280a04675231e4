"""
An event loop for which a machine that stands still does not exist: its clock stands still, too.

Between two looks at its sockets its time goes on by what this thread has used of a processor and ``MOST_S``; while it
waits, by what it waits for and that. So no timer fires late because others had the processor, and none fires before
what it was to wait for could happen; waits and work are as long as ever. What blocks a loop without working it does not
see: tests of that want another.

A module whose tests run on it says ``LOOP = SteadyLoop``, below a conftest that takes
``pytest_asyncio_loop_factories`` from here; below one that has ``loop_of(item, SteadyLoop)``, it says nothing.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

MOST_S: Final = 0.001


class _Clock:
    """Seconds."""

    def __init__(self) -> None:
        self._now = self._seen = time.monotonic()
        self._worked = time.thread_time()

    def now(self) -> float:
        return self._now + min(time.monotonic() - self._seen, time.thread_time() - self._worked + MOST_S)

    def pass_s(self, seconds: float) -> None:
        self._now += seconds

    def begin_to_wait(self) -> None:
        self._now, self._seen, self._worked = self.now(), time.monotonic(), time.thread_time()

    def has_waited(self, at_most_s: float | None) -> None:
        """None: for whatever comes, however long that takes."""
        now = time.monotonic()
        waited_s, self._seen = now - self._seen, now
        self._now += waited_s if at_most_s is None else min(waited_s, max(0.0, at_most_s) + MOST_S)


class _Selector(selectors.DefaultSelector):
    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._clock.begin_to_wait()
        events = super().select(timeout)
        self._clock.has_waited(timeout)
        return events


class SteadyLoop(asyncio.SelectorEventLoop):
    """``time`` is the clock that tests on it measure by."""

    def __init__(self) -> None:
        self._steady = _Clock()
        super().__init__(_Selector(self._steady))

    def time(self) -> float:
        return self._steady.now()

    def pass_s(self, seconds: float) -> None:
        """So long it has just been held up, by its own work: all that was due meanwhile is late."""
        self._steady.pass_s(seconds)


def loop_of(
    item: pytest.Item, usual: Callable[[], asyncio.AbstractEventLoop]
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop of a module's tests: its ``LOOP``, else the usual one."""
    module: Any = item.getparent(pytest.Module)
    return {"loop": getattr(module.obj, "LOOP", usual)}


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return loop_of(item, asyncio.new_event_loop)
