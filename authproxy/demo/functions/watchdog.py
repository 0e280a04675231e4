"""
The runtime of one replica: HTTP around a function, as OpenFaaS's watchdog is. Knows no function and no platform.

A handler takes an ``Event`` and returns an ``Answer``; an iterator as body is streamed piece by piece. The replica
listens on a free port of loopback, says which on standard output, and is ready once ``GET /_/health`` answers 200.
It ends when its standard input ends, so that it never outlives the platform that started it, however that ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

MAX_BODY_BYTES: Final = 1024 * 1024
DRAIN_S: Final = 1.0
"""After SIGTERM running requests get this long; OpenFaaS's watchdog has the same idea with its write timeout."""


@dataclass(frozen=True, slots=True)
class Event:
    """One request as a function sees it."""

    method: str
    path: str
    """Decoded, starting with ``/``."""
    query: dict[str, list[str]]
    headers: Message
    body: bytes

    @property
    def caller(self) -> str:
        """Who asks, as Portero vouches for it: ``provider|subject``, or ``nobody`` without Portero in front."""
        return unquote(self.headers.get("X-Portero-Subject", "nobody"))


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes | Iterator[bytes] = b""
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    fields: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Answer:
        return cls(json.dumps(value).encode() + b"\n", status, "application/json")


Handler = Callable[[Event], Answer]


def serve(handler: Handler) -> None:
    """Serve ``handler`` until standard input ends or SIGTERM comes. Returns after running requests are done."""
    time.sleep(float(os.environ.get("START_DELAY_S", "0")))  # stands for what real functions load when they start
    server = _Server(("127.0.0.1", 0), _handler_class(handler))
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # shutdown() waits for serve_forever to return and would wait for ever in the thread that runs it
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the platform's to handle
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    os.dup2(2, 1)  # what a function prints is a log line, and the platform reads no further than the port
    server.serve_forever(poll_interval=0.05)
    server.socket.close()
    deadline = time.monotonic() + DRAIN_S
    while server.running and time.monotonic() < deadline:
        time.sleep(0.01)
    os._exit(0)  # threads of idle keep-alive connections are not worth waiting for


def _exit_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    running = 0
    """Requests being answered; written under ``_count``."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._count = threading.Lock()

    def add_running(self, change: int) -> None:
        with self._count:
            self.running += change

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):  # a caller that left is no news
            super().handle_error(request, client_address)


class _BodyRefused(Exception):
    """The body is too large (413) or broken (400)."""

    def __init__(self, status: int) -> None:
        self.status = status


def _handler_class(handler: Handler) -> type[BaseHTTPRequestHandler]:
    class Watchdog(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server: _Server
        disable_nagle_algorithm = True
        wbufsize = -1  # head and body leave in one segment
        timeout = 120  # seconds that an idle connection of the platform is kept

        def answer(self) -> None:
            self.server.add_running(1)
            try:
                if self.path == "/_/health":
                    self._write(Answer(b"ok\n"))
                else:
                    self._write(self._handle())
            finally:
                self.server.add_running(-1)

        def _handle(self) -> Answer:
            try:
                body = self._read_body()
            except _BodyRefused as refused:
                self.close_connection = True
                return Answer(b"body refused\n", refused.status)
            parts = urlsplit(self.path)
            event = Event(self.command, unquote(parts.path), parse_qs(parts.query), self.headers, body)
            try:
                return handler(event)
            except Exception:  # noqa: BLE001 - the border to foreign code: a function's bug is its 500, not our end
                traceback.print_exc()
                return Answer(b"the function failed\n", 500)

        def _read_body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
                return self._read_chunks()
            length = self.headers.get("Content-Length", "0")
            if not length.isdecimal():
                raise _BodyRefused(400)
            if int(length) > MAX_BODY_BYTES:
                raise _BodyRefused(413)
            return self.rfile.read(int(length))

        def _read_chunks(self) -> bytes:
            body = b""
            while True:
                size_text = self.rfile.readline(1024).split(b";")[0].strip()
                try:
                    size = int(size_text, 16)
                except ValueError:
                    raise _BodyRefused(400) from None
                if size < 0 or len(body) + size > MAX_BODY_BYTES:
                    raise _BodyRefused(413)
                body += self.rfile.read(size)
                self.rfile.readline(1024)
                if size == 0:
                    return body

        def _write(self, answer: Answer) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            for name, value in answer.fields.items():
                self.send_header(name, value)
            if isinstance(answer.body, bytes):
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.flush()
            if self.command != "HEAD":
                self._write_chunks(answer.body)

        def _write_chunks(self, pieces: Iterator[bytes]) -> None:
            for piece in pieces:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
            """Say nothing: Portero writes the access log."""

    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        setattr(Watchdog, f"do_{method}", Watchdog.answer)
    return Watchdog
