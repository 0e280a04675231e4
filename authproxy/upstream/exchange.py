"""
One request and its answer as seen from inside: the only thing that gate, activator and upstream know of the public
side.

``edges`` implements it over its HTTP server (and Kong's plugin server will over a socket of its own); the data path
pumps through it with back-pressure in both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class ClientGone(Exception):
    """The client closed or reset; nobody is left to read an answer."""


class BodyMalformed(Exception):
    """The request's body broke its own framing (RFC 9112 section 7)."""


class BodyStalled(Exception):
    """The client stopped sending its body for longer than the edge waits."""


class Exchange(Protocol):
    """
    A request being answered. It ends by exactly one of: ``answer``; ``start``, any number of ``write``, ``finish``;
    ``start_tunnel``; or ``abort``.
    """

    has_started: bool
    """A byte of the answer's head has been written: from here on only finish or abort."""
    status: int
    """Status of the answer that has been started; 0 before that."""
    bytes_in: int
    """Bytes of the request body read so far, without framing."""
    bytes_out: int
    """Bytes of the answer's body written so far, without framing."""

    sent_body: bytes | None
    """The data path's: the body that leaves with the head, kept for a second attempt."""

    @property
    def has_whole_body(self) -> bool:
        """``whole_body`` gives it: all of it has arrived (or never will: it raises then)."""

    def whole_body(self) -> bytes | None:
        """
        The whole request body if all of it has arrived already, else None and nothing is consumed. Kept by who asks
        (``sent_body``).

        Bounded by what the edge buffers of an unread body, or of a held one. Raises: BodyMalformed.
        """

    async def read(self) -> bytes:
        """
        Next piece of the request body, as it comes; ``b""`` at its end.

        Reading is what grants the client more window: not calling it slows the client down.

        Raises: ClientGone, BodyMalformed, BodyStalled; ForwardFailed when what was held of it cannot be had any more.
        """

    @property
    def may_rewind(self) -> bool:
        """Whatever ``read`` has given of the request body is still at hand: all of it, or nothing was read."""

    def rewind(self) -> None:
        """Let ``read`` begin anew with the first byte. Only where ``may_rewind``."""

    async def send_continue(self) -> None:
        """Write ``100 Continue`` if the client expects it and nothing was written yet (RFC 9110 section 10.1.1)."""

    def answer(self, status: int, block: bytes, body: bytes, content_length: int | None) -> None:
        """
        Write a whole answer at once. ``content_length`` is what the answer said of itself: it matters to HEAD and 304,
        whose body is empty (RFC 9110 section 8.6); any other answer is framed by the length of ``body``.
        """

    def start(self, status: int, block: bytes, content_length: int | None, first: bytes = b"") -> None:
        """
        Write the answer's head and, in the same segment, the ``first`` piece of its body.

        ``block`` is ``name: value CRLF`` lines without framing fields. ``content_length`` None: the body's end is
        marked by chunked coding, or by closing for an HTTP/1.0 client. Never called for an answer without a body.
        """

    async def write(self, data: bytes) -> None:
        """Write a piece of the answer's body; waits while the client reads slowly. Raises: ClientGone."""

    def finish(self) -> None:
        """The answer is complete."""

    def abort(self) -> None:
        """Cut the connection, so that a half-sent answer is never taken for a whole one. Idempotent."""

    def start_tunnel(self, block: bytes, sink: Callable[[bytes], None]) -> None:
        """
        Write ``101 Switching Protocols``; from here on ``write`` is raw and each byte of the client goes to ``sink``.

        The client's end of file ends the exchange as any disconnect does: by cancelling it.
        """

    def write_now(self, data: bytes) -> None:
        """Tunnel only: write without waiting; nothing happens when the client is gone."""

    def pause_reading(self) -> None:
        """Tunnel only: stop calling the sink; the client is slowed down."""

    def resume_reading(self) -> None:
        """Tunnel only: go on."""
