"""
Where a handler of the stock server waits for the gate's loop: a seat for a thread, and one for a greenlet.

``give`` and ``waits`` are called in the loop's thread, ``take`` in the handler's; between two of its ``take`` a handler
asks the loop for one thing only. Refuses to know plugins, Kong and what is handed over.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, Final, Protocol

SILENCE: Final = object()
"""What ``take`` returns when nothing has come for so long."""
_BUSY_S: Final = 0.02
"""So long the hub may stand still while the loop is busy with others: it could hardly run meanwhile, one interpreter
lock being shared by both; afterwards greenlets of other events get their turn."""
_LOOK_AGAIN_S: Final = 0.005


class Seat(Protocol):
    def give(self, step: Any) -> None:
        """Here it is."""

    def waits(self) -> None:
        """It will take longer: something has to be waited for."""

    def take(self, patience_s: float) -> Any:
        """What was given, or ``SILENCE``."""


class ThreadSeat:
    """For a thread of its own, which may block."""

    __slots__ = ("_has_come", "_step")

    def __init__(self) -> None:
        self._has_come = threading.Lock()
        self._has_come.acquire()
        self._step: Any = None

    def give(self, step: Any) -> None:
        self._step = step
        self._has_come.release()

    def waits(self) -> None:
        """A thread waits either way."""

    def take(self, patience_s: float) -> Any:
        return self._step if self._has_come.acquire(timeout=patience_s) else SILENCE


class GreenletSeat:
    """
    For a greenlet, whose hub serves all other events.

    What the loop can say at once is waited for on a plain lock: the hub stands still for some ten microseconds, which
    is cheaper than any way back into it (a watcher of its own, or a thread of the hub's pool, cost several times as
    much). Only once the loop has said that it waits itself does the greenlet leave the hub to others.
    """

    __slots__ = ("_event", "_gevent", "_has_come", "_hub_loop", "_is_slow", "_knows", "_step")

    def __init__(self, gevent: Any) -> None:
        self._gevent = gevent
        self._hub_loop = gevent.get_hub().loop
        self._has_come = threading.Lock()
        self._has_come.acquire()
        self._is_slow = False
        """The loop waits."""
        self._knows = False
        """The greenlet has been told that it does."""
        self._event: Any = None
        self._step: Any = None

    def give(self, step: Any) -> None:
        self._step = step
        if self._is_slow:
            self._hub_loop.run_callback_threadsafe(self._wake)
        else:
            self._has_come.release()

    def waits(self) -> None:
        if not self._is_slow:
            self._is_slow = True
            self._has_come.release()

    def take(self, patience_s: float) -> Any:
        if not self._knows:
            if not self._has_come.acquire(timeout=_BUSY_S) and not self._look_again(patience_s):
                return SILENCE
            if not self._is_slow:
                return self._step
            self._knows = True
        if not self._told().wait(patience_s):
            return SILENCE
        self._event, self._is_slow, self._knows = None, False, False
        return self._step

    def _told(self) -> Any:
        """In the hub's thread: what the greenlet waits for, made by whoever comes first."""
        if self._event is None:
            self._event = self._gevent.event.Event()
        return self._event

    def _look_again(self, patience_s: float) -> bool:
        until = time.monotonic() + patience_s
        while not self._has_come.acquire(blocking=False):
            if time.monotonic() >= until:
                return False
            self._gevent.sleep(_LOOK_AGAIN_S)
        return True

    def _wake(self) -> None:
        """In the hub's thread."""
        self._told().set()


def seat_here() -> Seat:
    """A seat for whoever calls: a greenlet of gevent's, or a thread."""
    gevent: Any = sys.modules.get("gevent")
    if gevent is not None and isinstance(gevent.getcurrent(), gevent.Greenlet):
        return GreenletSeat(gevent)
    return ThreadSeat()
