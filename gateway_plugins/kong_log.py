"""
Log lines in the form that Kong's error log takes well, and no more of them than somebody can read.

Kong reads the plugin server's standard error line by line and writes each one at level info behind
``[name:pid]`` (runloop/plugin_servers/process.lua), so a line says its own level and no time: ``[error] kong:
handler-failed plugin="portero"``. What comes from elsewhere cannot end the line or drive a terminal: whatever is not
printable is escaped. Refuses to know what is logged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

from authproxy.audit import configure_logging, printable

MAX_LINE_CHARS: Final = 4000
"""nginx cuts a line of its error log at 4096 bytes (NGX_MAX_ERROR_STR 2048 in older ones) with its own prefix."""
_HEAD: Final = ("level", "area", "event", "timestamp")


def line(event: MutableMapping[str, Any]) -> str:
    """
    One line of printable ASCII for an event as structlog hands it on: ``level``, ``area``, ``event`` and its facts.

    Values are JSON, so that a blank, a quote or a line break in one does not make two of it. The exception's text comes
    last: it is what may be cut.
    """
    facts = {name: value for name, value in event.items() if name not in _HEAD}
    told = facts.pop("exception", None)
    words = [f"[{event.get('level', 'info')}] {event.get('area', 'kong')}: {event.get('event', '')}"]
    words += [f"{name}={json.dumps(value, default=str)}" for name, value in facts.items()]
    if told is not None:
        words.append(f"exception={json.dumps(str(told))}")
    text = printable(" ".join(words), MAX_LINE_CHARS)
    return text.encode("ascii", "backslashreplace").decode()


def configure_kong_log(least: str) -> None:
    """The whole process logs in this form from now on: events of level ``least`` (debug to error) and above."""
    configure_logging(least, line)


class Throttle:
    """
    So many lines a second; who causes errors must not fill a disk with them.

    Args:
        at_most: lines in a second.
        clock: seconds, never going back.
    """

    def __init__(self, at_most: int = 10, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_most = at_most
        self._clock = clock
        self._second = 0.0
        self._written = 0
        self.left_out = 0
        """Lines not written since the one before this second's first."""

    def admits(self) -> bool:
        """Whether a line may be written now; if so, ``left_out`` says how many were not, and begins anew after it."""
        now = self._clock()
        if now - self._second >= 1.0:
            self._second = now
            self._written = 0
        if self._written >= self._at_most:
            self.left_out += 1
            return False
        self._written += 1
        return True

    def taken(self) -> int:
        """How many lines were left out until now; counts from zero again."""
        count, self.left_out = self.left_out, 0
        return count
