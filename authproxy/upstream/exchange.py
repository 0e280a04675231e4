"""
One request and its answer as seen from inside: the only thing that gate, activator and upstream know of the public
side.

``edges`` implements it over its HTTP server (and Kong's plugin server will over a socket of its own); the data path
pumps
through it with back-pressure in both directions.
"""

from __future__ import annotations

from typing import Protocol


class ClientGone(Exception):
    """The client closed or reset; nobody is left to read an answer."""


class BodyMalformed(Exception):
    """The request's body broke its own framing (RFC 9112 section 7)."""


class Exchange(Protocol):
    """A request being answered. Exactly one of ``start`` ... ``finish`` or ``abort`` ends it."""

    has_started: bool
    """A byte of the answer's head has been written: from here on only finish or abort."""

    async def read(self) -> bytes:
        """
        Next piece of the request body, as it comes; ``b""`` at its end.

        Reading is what grants the client more window: not calling it slows the client down.

        Raises: ClientGone, BodyMalformed.
        """

    async def send_continue(self) -> None:
        """Write ``100 Continue`` if the client expects it and nothing was written yet (RFC 9110 section 10.1.1)."""

    def start(self, status: int, block: bytes, content_length: int | None) -> None:
        """
        Write the answer's head. ``block`` is ``name: value CRLF`` lines without framing fields.

        ``content_length`` None: the body's end is marked by chunked coding, or by closing for an HTTP/1.0 client.
        Statuses and methods without a body (1xx, 204, 304, HEAD) are framed by the implementation, which keeps a HEAD's
        Content-Length as given (RFC 9110 section 8.6).
        """

    async def write(self, data: bytes) -> None:
        """Write a piece of the answer's body; waits while the client reads slowly. Raises: ClientGone."""

    async def finish(self) -> None:
        """The answer is complete."""

    def abort(self) -> None:
        """Cut the connection, so that a half-sent answer is never taken for a whole one. Idempotent."""
