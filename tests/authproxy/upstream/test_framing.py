"""Framing as a table: what marks the end of a body on each side."""

from __future__ import annotations

import pytest

from authproxy.upstream.framing import STATUS_LINES, chunk, is_bodyless, may_repeat, request_framing, streamed_framing


@pytest.mark.parametrize(
    ("method", "body", "framing"),
    [
        ("GET", b"", b"\r\n"),
        ("HEAD", b"", b"\r\n"),
        ("DELETE", b"", b"\r\n"),
        ("POST", b"", b"content-length: 0\r\n\r\n"),
        ("PUT", b"", b"content-length: 0\r\n\r\n"),
        ("PATCH", b"", b"content-length: 0\r\n\r\n"),
        ("GET", b"q", b"content-length: 1\r\n\r\nq"),
        ("POST", b"abc", b"content-length: 3\r\n\r\nabc"),
    ],
)
def test_a_body_at_hand_is_framed_by_its_length(method: str, body: bytes, framing: bytes) -> None:
    """An empty one is only mentioned where one is expected (RFC 9110 section 8.6)."""
    assert request_framing(method, body) == framing


def test_a_streamed_body_is_framed_by_its_length_or_in_chunks() -> None:
    """Never both."""
    assert streamed_framing(7) == b"content-length: 7\r\n\r\n"
    assert streamed_framing(None) == b"transfer-encoding: chunked\r\n\r\n"


def test_chunks_say_their_size_in_hex() -> None:
    """RFC 9112 section 7.1."""
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


@pytest.mark.parametrize(
    ("method", "has_key", "may"),
    [
        ("GET", False, True),
        ("HEAD", False, True),
        ("PUT", False, True),
        ("DELETE", False, True),
        ("OPTIONS", False, True),
        ("POST", False, False),
        ("PATCH", False, False),
        ("POST", True, True),
        ("REPORT", False, False),
    ],
)
def test_what_may_be_sent_twice(method: str, has_key: bool, may: bool) -> None:
    """Idempotent methods, and callers that say so (RFC 9110 section 9.2.2)."""
    assert may_repeat(method, has_key=has_key) is may


@pytest.mark.parametrize(
    ("method", "status", "is_so"),
    [("GET", 200, False), ("HEAD", 200, True), ("GET", 204, True), ("GET", 304, True), ("POST", 205, False)],
)
def test_what_has_no_body(method: str, status: int, is_so: bool) -> None:
    """RFC 9110 sections 6.4.1 and 9.3.2."""
    assert is_bodyless(method, status) is is_so


def test_an_unregistered_status_has_no_phrase() -> None:
    """The line ends as RFC 9112 section 4 wants it."""
    assert STATUS_LINES[404] == b"HTTP/1.1 404 Not Found\r\n"
    assert STATUS_LINES[299] == b"HTTP/1.1 299 \r\n"
