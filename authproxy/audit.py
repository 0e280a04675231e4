"""
Who asked for what, and what was answered: one JSON line a decision; and the log of what happens to Portero itself.

Audit lines are encoded into one buffer and written in batches, because a system call a line would cost more than the
decision. Writing never blocks the event loop for ever: a reader that is too slow loses whole lines, which are counted.
A line holds no token, no cookie and no query, and nothing in it can forge a line or drive a terminal: JSON escapes
control characters, and whatever is not printable beyond ASCII is escaped here; overlong values are cut.

This module refuses to know metrics, requests and policies: it is handed plain values.

Longer than other modules: a line's form, and the one way that lines leave by, are read together.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import stat
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import msgspec
import structlog

from authproxy.standard_streams import write_error_line

BATCH_LINES: Final = 128
"""Encoded and written at once when so many have gathered, some 45 KiB: below a pipe's usual 64 KiB."""
BATCH_S: Final = 0.1
"""A line is at most this old when it is written."""
BUFFER_BYTES: Final = 4 * 1024 * 1024
"""What is kept for a reader that is too slow: some 10,000 lines; beyond it lines are dropped and counted."""
PIPE_PIECE_BYTES: Final = 4096
"""PIPE_BUF on Linux: a pipe that polls writable takes this much without blocking (POSIX write)."""

_NEWLINE: Final = 0x0A

LINE_BYTES: Final = 1024
"""A longer line has its values cut: the path to 1024 characters, the subject to 256, any other to 128."""
_CUTS: Final = {"path": 1024, "subject": 256}
_CUT: Final = 128


class Line(msgspec.Struct, omit_defaults=True, gc=False):
    """One audit line; absent members are null, zero or empty."""

    ts: float
    """Unix seconds when the request came."""
    request_id: str
    tenant: str | None
    edge: str
    method: str
    host: str
    path: str
    """As judged, without query."""
    client_ip: str
    outcome: str
    """``allow``, ``deny``, ``challenge`` or ``answer``."""
    reason: str | None = None
    status: int = 0
    subject: str | None = None
    """``provider|sub``."""
    rule: str | None = None
    where: str | None = None
    """``file:line`` of the rule."""
    duration_ms: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    held_ms: float | None = None
    shadowed: tuple[str, ...] = ()
    """Reasons of refusals that shadow mode let through."""
    revision: str | None = None
    deferred: bool = False
    """Accepted with 202, and in a second line with the same ``request_id`` what became of it."""
    instead_of: str | None = None
    """Reason of the refusal that ``overflow`` or a ``no_wake`` rule spared the request."""
    function: str | None = None
    """The fallback that took it."""


def printable(text: str, at_most: int) -> str:
    """``text`` cut to ``at_most`` characters, with everything that is neither ASCII nor printable escaped."""
    if len(text) > at_most:
        text = text[: at_most - 1] + "…"
    if text.isprintable():
        return text
    # Surrogates, bidirectional overrides, C1 controls; ASCII controls too, so that no reader has to unescape them.
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" for c in text)


def _made_safe(line: Line) -> Line:
    for name in line.__struct_fields__:
        if isinstance(value := getattr(line, name), str):
            setattr(line, name, printable(value, _CUTS.get(name, _CUT)))
    return line


class Audit:
    """
    Writes audit lines to ``destination``: ``-`` for standard output, or the path of a file that is appended to.

    Args:
        destination: ``-`` or a path. A path is opened with mode 0600 and opened anew by ``reopen``.
        allow_sample_ratio: share of allows written, 0 to 1, spread evenly; everything else is always written.
        on_drop: told how many lines were lost.

    Raises: OSError when the path cannot be opened.
    """

    def __init__(
        self,
        destination: str = "-",
        *,
        allow_sample_ratio: float = 1.0,
        on_drop: Callable[[int], None] | None = None,
    ) -> None:
        self._destination = destination
        self._ratio = allow_sample_ratio
        self._sampled = 0.0
        self._on_drop = on_drop
        self._encode_into = msgspec.json.Encoder().encode_into
        self._lines: list[Line] = []
        """Not encoded yet."""
        self._buffer = bytearray()
        """Encoded and not written yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._fd = -1
        self._is_pipe = False
        self._is_mid_line = False
        self._attach(self._open())

    def decision(
        self,
        *,
        ts: float,
        request_id: str,
        tenant: str | None,
        edge: str,
        method: str,
        host: str,
        path: str,
        client_ip: str,
        outcome: str,
        reason: str | None = None,
        status: int = 0,
        subject: str | None = None,
        rule: str | None = None,
        where: str | None = None,
        duration_ms: float = 0.0,
        bytes_in: int = 0,
        bytes_out: int = 0,
        held_ms: float | None = None,
        shadowed: tuple[str, ...] = (),
        revision: str | None = None,
        deferred: bool = False,
        instead_of: str | None = None,
    ) -> None:
        """Write one line, or not if it is an allow outside the sample. Any string is safe. Never raises."""
        self.write(
            Line(
                ts, request_id, tenant, edge, method, host, path, client_ip, outcome, reason, status, subject, rule,
                where, duration_ms, bytes_in, bytes_out, held_ms, shadowed, revision,
                deferred, instead_of,
            )
        )  # fmt: skip

    def write(self, line: Line) -> None:
        """As ``decision``, for whoever has made the line already."""
        if line.outcome == "allow" and not line.shadowed:
            self._sampled += self._ratio
            if self._sampled < 1.0:
                return
            self._sampled -= 1.0
        lines = self._lines
        lines.append(line)
        if len(lines) >= BATCH_LINES:
            self.flush()
        elif self._timer is None:
            self._arm()

    def _encode_waiting(self) -> None:
        """All lines that wait, in one go: between two requests each of them would find the caches cold (5 us)."""
        lines, self._lines = self._lines, []
        buffer, encode_into = self._buffer, self._encode_into
        for line in lines:
            start = len(buffer)
            if start >= BUFFER_BYTES:
                self._dropped(1)
                continue
            # One look at the encoded line instead of one at each value: the usual line pays 0.1 us for hostile ones.
            try:
                encode_into(line, buffer, -1)
                is_plain = len(buffer) - start <= LINE_BYTES and buffer[start:].isascii()
            except UnicodeEncodeError:  # a surrogate
                is_plain = False
            if not is_plain:
                del buffer[start:]
                encode_into(_made_safe(line), buffer, -1)
            buffer += b"\n"

    def _arm(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no loop (command line): written when full and on close
            return
        self._timer = loop.call_later(BATCH_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.flush()
        if self._buffer:
            self._arm()

    def flush(self) -> None:
        """Write what the reader takes without blocking; the rest waits for the next turn."""
        self._encode_waiting()
        buffer = self._buffer
        try:
            while buffer:
                if self._is_pipe and not self._is_writable():
                    return
                piece = PIPE_PIECE_BYTES if self._is_pipe else len(buffer)
                with memoryview(buffer) as view, view[:piece] as part:
                    written = os.write(self._fd, part)
                self._is_mid_line = buffer[written - 1] != _NEWLINE
                del buffer[:written]
        except BlockingIOError:
            return
        except OSError:  # the reader is gone or the disk is full: these lines are lost, requests go on
            self._dropped(buffer.count(b"\n"))
            # A half-written line is ended, so that the next one is not taken for its continuation.
            buffer[:] = b"\n" if self._is_mid_line else b""

    def reopen(self) -> None:
        """Write what is at hand and open the path anew (after a log rotation). Keeps the old one if that fails."""
        self.flush()
        try:
            fd = self._open()
        except OSError as error:
            get_logger("audit").error("audit-reopen-failed", path=self._destination, why=error.strerror)
            return
        self._detach()
        self._attach(fd)

    def close(self) -> None:
        """Write what the reader takes, count the rest as dropped. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.flush()
        if self._buffer:
            self._dropped(self._buffer.count(b"\n"))
            self._buffer.clear()
        self._detach()

    def _open(self) -> int:
        if self._destination == "-":
            return os.dup(1)
        # O_NONBLOCK: a path may name a FIFO, which would block here until somebody reads it.
        return os.open(self._destination, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)

    def _attach(self, fd: int) -> None:
        self._fd = fd
        self._is_pipe = not stat.S_ISREG(os.fstat(fd).st_mode)

    def _detach(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _is_writable(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0))

    def _dropped(self, lines: int) -> None:
        if lines and self._on_drop is not None:
            self._on_drop(lines)


_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_least_level = _LEVELS["info"]
Form = Callable[[MutableMapping[str, Any]], str]
"""An event (``level``, ``area``, ``event``, ``timestamp`` and its facts) as one line."""
_json: Final = structlog.processors.JSONRenderer()
_form: Form | None = None


def configure_logging(least: str, form: Form | None = None) -> None:
    """
    Write only events of level ``least`` (debug, info, warning, error) and above; for the whole process.

    ``form``: how a line is written; None: as JSON.
    """
    global _least_level, _form  # noqa: PLW0603 (loggers are made at import, before settings are read)
    _least_level = _LEVELS[least]
    _form = form
    root = logging.getLogger()
    root.setLevel(max(_least_level, logging.INFO))  # what libraries tell of their own debugging is not for operators
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # each event of the folder: the reload itself is logged
    if not any(isinstance(handler, _StandardLogging) for handler in root.handlers):
        root.addHandler(_StandardLogging())


_OF_EVERY_RECORD: Final = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime"}


class _StandardLogging(logging.Handler):
    """Writes what is logged by the standard library's means (asyncio and aiohttp do) as lines of the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        facts = {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
        facts.update(area=record.name, event=record.getMessage(), exc_info=record.exc_info)
        level = "error" if record.levelno >= _LEVELS["error"] else record.levelname.lower()
        getattr(get_logger(record.name), level if level in _LEVELS else "info")(**facts)


def _drop_below(_logger: object, level: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if _LEVELS.get(level, 40) < _least_level:
        raise structlog.DropEvent
    return event


def get_logger(area: str) -> structlog.typing.FilteringBoundLogger:
    """
    The log of operational events on standard error, a line each: JSON unless configured otherwise.

    An event is a word, its facts are members.
    """
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        None,
        wrapper_class=structlog.make_filtering_bound_logger("debug"),
        processors=[
            _drop_below,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _as_line,
            _to_stderr,
        ],
        area=area,
    )
    return logger


def _as_line(logger: object, name: str, event: structlog.typing.EventDict) -> str | bytes:
    return _json(logger, name, event) if _form is None else _form(event)


def _to_stderr(_logger: object, _name: str, line: object) -> str:
    """
    Last step of the log. A line that nobody takes is lost: what is told must not decide what is done (Kong stops
    reading at its reload).
    """
    write_error_line(str(line))
    raise structlog.DropEvent


__all__ = ["Audit", "Line", "configure_logging", "get_logger", "printable"]
