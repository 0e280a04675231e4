"""
Questions to providers that are under way: who asks the same shares one, and no provider is asked too much at once.

A question outlives those who asked it: one who leaves does not end it for the others. It is bounded in time, and so is
the number of questions to one provider, because strangers choose how many different ones there are. Refuses to know
what is asked.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

from policies.errors import CannotKnow, ProviderUnavailable

MAX_IN_FLIGHT: Final = 32
"""To one provider of one tenant; at 100 ms an answer that is 320 new tokens a second."""
WAIT_S: Final = 11.0
"""Longest that anybody waits: two documents of 5 s each (discovery, answer)."""

V = TypeVar("V")


class TooManyAsked(CannotKnow):
    """The provider is being asked as much as it may be."""


class Flights(Generic[V]):
    """Belongs to one event loop."""

    def __init__(self, max_in_flight: int = MAX_IN_FLIGHT, wait_s: float = WAIT_S) -> None:
        self._max_in_flight = max_in_flight
        self._wait_s = wait_s
        self._tasks: dict[Hashable, asyncio.Task[V]] = {}
        self._in_flight: Counter[Hashable] = Counter()
        self._is_closed = False

    async def ask(self, key: Hashable, group: Hashable, ask: Callable[[], Awaitable[V]]) -> V:
        """
        The answer to the question ``key``; ``ask`` is called when nobody is asking it already.

        Args:
            key: equal for equal questions of equal askers, and for nothing else.
            group: whose questions are counted together.
            ask: bounded in time by this.

        Raises: TooManyAsked; ProviderUnavailable, when it took too long as well; what ``ask`` raises.
        """
        task = self._tasks.get(key)
        if task is None:
            if self._is_closed:
                raise ProviderUnavailable("no more questions are asked")
            if self._in_flight[group] >= self._max_in_flight:
                raise TooManyAsked("too many questions are under way")
            task = self._start(key, group, ask)
        done, _ = await asyncio.wait((task,), timeout=self._wait_s)
        if not done or task.cancelled():
            raise ProviderUnavailable("no answer in time")
        return task.result()

    async def close(self) -> None:
        """End what is under way. Idempotent."""
        self._is_closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _start(self, key: Hashable, group: Hashable, ask: Callable[[], Awaitable[V]]) -> asyncio.Task[V]:
        task = asyncio.get_running_loop().create_task(self._bounded(ask))
        self._tasks[key] = task
        self._in_flight[group] += 1

        def ended(task: asyncio.Task[V]) -> None:
            del self._tasks[key]
            self._in_flight[group] -= 1
            if not self._in_flight[group]:
                del self._in_flight[group]
            if not task.cancelled():
                task.exception()  # looked at: nobody may be left who wanted to know

        task.add_done_callback(ended)
        return task

    async def _bounded(self, ask: Callable[[], Awaitable[V]]) -> V:
        try:
            async with asyncio.timeout(self._wait_s):
                return await ask()
        except TimeoutError as error:
            raise ProviderUnavailable("no answer in time") from error
