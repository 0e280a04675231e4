"""
HTTP/1.1 framing, re-made and never copied (RFC 9112 sections 6 and 7): what marks the end of a body on each side.

Pure: bytes in, bytes out. It refuses to know connections.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

LAST_CHUNK: Final = b"0\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""RFC 9110 section 9.2.2, of the methods that may pass."""
_EXPECT_A_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
"""Methods whose empty body is said aloud (RFC 9110 section 8.6)."""


class _StatusLines(dict[int, bytes]):
    """Status -> status line with the phrase of the registry; one that is not in it gets none (bounded: 100-599)."""

    def __missing__(self, status: int) -> bytes:
        line = b"HTTP/1.1 %d \r\n" % status
        self[status] = line
        return line


STATUS_LINES: Final[dict[int, bytes]] = _StatusLines(
    {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode("ascii") for s in HTTPStatus}
)
"""An upstream's own phrase is never passed on (response splitting, CVE-2026-34519)."""


def is_bodyless(method: str, status: int) -> bool:
    """The answer has no body whatever its fields say (RFC 9110 sections 6.4.1 and 9.3.2)."""
    return status in {204, 304} or method == "HEAD" or status < 200


def may_be_the_platforms(status: int) -> bool:
    """Whether a platform may say this for itself: it has no such function, no replica, or broke."""
    return status >= 500 or status == 404


def may_repeat(method: str, *, has_key: bool) -> bool:
    """The request may be sent a second time when nothing is known of the first (RFC 9110 section 9.2.2)."""
    return has_key or method in _IDEMPOTENT


def request_framing(method: str, body: bytes) -> bytes:
    """The end of a request's head whose body is at hand, with that body."""
    if body:
        return b"content-length: %d\r\n\r\n%b" % (len(body), body)
    return b"content-length: 0\r\n\r\n" if method in _EXPECT_A_BODY else b"\r\n"


def streamed_framing(content_length: int | None) -> bytes:
    """The end of a request's head whose body follows as it comes; None: its length is not known."""
    if content_length is None:
        return b"transfer-encoding: chunked\r\n\r\n"
    return b"content-length: %d\r\n\r\n" % content_length


def chunk(data: bytes) -> bytes:
    """One chunk of ``data``, which must not be empty: an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
