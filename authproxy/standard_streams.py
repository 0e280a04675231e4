"""
The three standard streams of a process that must go on whatever stands behind them.

Who starts a process may close them, or hand over a pipe and never read it (Kong, when its worker ends; a supervisor
that hangs). Neither may stop a request: what cannot be written at once is lost. It refuses to know what is written.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
from typing import Final

_PIECE_BYTES: Final = 4096
"""PIPE_BUF on Linux: a pipe that polls writable takes this much without blocking (POSIX write)."""

_is_mid_line = False
"""The last line was written in part; the next one must not look like its end."""


def open_standard_streams() -> None:
    """
    Stand the null device in for each of the three that is closed, before anything else is opened.

    Else a socket gets its number: what is printed goes to a stranger, and libuv ends the process when it closes it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            if getattr(sys, name) is None:
                setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115 (a number, for ever)


def write_error_line(line: str) -> None:
    """
    Write to standard error without waiting, or not at all. Never raises.

    Looks stderr up at each line, so that a redirected one is honoured.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):  # gone, closed, none
        stream = sys.stderr
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError):  # one without a descriptor does not block
            stream.write(f"{line}\n")
            return
        _write(descriptor, f"{line}\n".encode(stream.encoding, "backslashreplace"))


def _write(descriptor: int, data: bytes) -> None:
    global _is_mid_line  # noqa: PLW0603 (of the process, as its standard error is)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.write(descriptor, data)
        return
    if _is_mid_line:
        data = b"\n" + data
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    while data and poll.poll(0):
        written = os.write(descriptor, data[:_PIECE_BYTES])
        _is_mid_line = data[written - 1] != 0x0A
        data = data[written:]


__all__ = ["open_standard_streams", "write_error_line"]
