"""Version, method, framing, connection: where one request ends, and what it is besides."""

from __future__ import annotations

from typing import Any

import pytest

from policies.decision import Reason
from tests.fakes.heads import reason, refused
from tests.fakes.tenancy import a_head, a_request


class TestMessage:
    """Version, method, framing, connection: where one request ends and what it is."""

    @pytest.mark.parametrize("version", [(0, 9), (1, 2), (2, 0), (3, 0), (0, 0)])
    def test_a_version_that_is_not_1_0_or_1_1_is_400(self, version: tuple[int, int]) -> None:
        """HTTP/0.9 and HTTP/2.0 on the wire pass aiohttp's parser."""
        assert reason(version=version) is Reason.BAD_REQUEST

    @pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
    def test_trace_and_connect_are_405_with_allow(self, method: str) -> None:
        """Whatever their target looks like."""
        answer = refused(a_head(b"acme.localhost:443", method=method))
        assert answer.reason is Reason.METHOD_NOT_ALLOWED
        assert "GET" in answer.allowed_methods

    @pytest.mark.parametrize("method", ["get", "Get", "", "G T", "GET\r\n", "GÉT", "G" * 33, "-GET", "G\0T"])
    def test_a_method_is_a_word_of_upper_case_letters(self, method: str) -> None:
        """Methods are compared exactly, so there is one spelling."""
        assert reason(method=method) is Reason.BAD_REQUEST

    @pytest.mark.parametrize("method", ["GET", "PATCH", "PROPFIND", "VERSION-CONTROL", "QUERY"])
    def test_any_other_method_passes(self, method: str) -> None:
        """All methods but TRACE and CONNECT."""
        assert a_request(method=method).method == method

    @pytest.mark.parametrize(
        "fields",
        [
            [(b"Transfer-Encoding", b"gzip, chunked")],
            [(b"Transfer-Encoding", b"chunked, identity")],
            [(b"Transfer-Encoding", b"xchunked")],
            [(b"Transfer-Encoding", b"chunked;x")],
            [(b"Transfer-Encoding", b" chunked")],
            [(b"Transfer-Encoding", b"")],
            [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"3")],
            [(b"Content-Length", b"3"), (b"Transfer-Encoding", b"chunked")],
            [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")],
            [(b"Content-Length", b"+3")],
            [(b"Content-Length", b"-3")],
            [(b"Content-Length", b"3, 3")],
            [(b"Content-Length", b"0x3")],
            [(b"Content-Length", b"")],
            [(b"Content-Length", b" 3")],
            [(b"Content-Length", b"\xb2")],
            [(b"Content-Length", b"9" * 19)],
            [(b"Expect", b"x")],
            [(b"Expect", b"100-continue, x")],
        ],
    )
    def test_framing_that_can_be_read_twice_is_400(self, fields: list[tuple[bytes, bytes]]) -> None:
        """Request smuggling begins here (A16)."""
        assert reason(*fields, method="POST") is Reason.BAD_REQUEST

    def test_chunked_on_http_1_0_is_400(self) -> None:
        """RFC 9112 section 6.1: such framing is faulty."""
        assert reason((b"Transfer-Encoding", b"chunked"), version=(1, 0), method="POST") is Reason.BAD_REQUEST

    def test_the_body_is_told(self) -> None:
        """RFC 9112 section 6.3."""
        plain = a_request(method="POST")
        assert (plain.content_length, plain.is_chunked, plain.has_body) == (None, False, False)
        sized = a_request(b"/", (b"Content-Length", b"007"), method="POST")
        assert (sized.content_length, sized.is_chunked, sized.has_body) == (7, False, True)
        empty = a_request(b"/", (b"Content-Length", b"0"), method="POST")
        assert (empty.content_length, empty.has_body) == (0, False)
        chunked = a_request(b"/", (b"Transfer-Encoding", b"Chunked"), method="POST")
        assert (chunked.content_length, chunked.is_chunked, chunked.has_body) == (None, True, True)
        assert chunked.forward_block == sized.forward_block == b""

    def test_expect_is_heard_of_1_1_with_a_body(self) -> None:
        """RFC 9110 section 10.1.1; it is never forwarded."""
        expect = (b"Expect", b"100-Continue")
        assert a_request(b"/", expect, (b"Content-Length", b"1"), method="POST").expects_continue
        assert not a_request(b"/", expect, (b"Content-Length", b"1"), method="POST", version=(1, 0)).expects_continue
        assert not a_request(b"/", expect, method="POST").expects_continue
        assert a_request(b"/", expect, method="POST").forward_block == b""

    @pytest.mark.parametrize(
        ("version", "connection", "keeps_alive"),
        [
            ((1, 1), None, True),
            ((1, 1), b"close", False),
            ((1, 1), b"Keep-Alive", True),
            ((1, 1), b"keep-alive, CLOSE", False),
            ((1, 0), None, False),
            ((1, 0), b"keep-alive", True),
            ((1, 0), b"keep-alive, close", False),
        ],
    )
    def test_the_connection_is_kept_as_asked(
        self, version: tuple[int, int], connection: bytes | None, keeps_alive: bool
    ) -> None:
        """RFC 9112 section 9.3."""
        fields = () if connection is None else ((b"Connection", connection),)
        assert a_request(b"/", *fields, version=version).keeps_alive is keeps_alive

    def test_connection_options_are_few(self) -> None:
        """Each is looked up among all names: thousands of new ones would be work for everybody."""
        options = [b"x-%d" % i for i in range(64)]
        assert a_request(b"/", (b"Connection", b",".join(options)))
        assert refused(a_head(b"/", (b"Connection", b",".join([*options, b"x"])))).reason is Reason.BAD_REQUEST

    WEBSOCKET = (
        (b"Connection", b"keep-alive, Upgrade"),
        (b"Upgrade", b"WebSocket"),
        (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"Sec-WebSocket-Version", b"13"),
    )

    def test_a_websocket_upgrade_is_told(self) -> None:
        """RFC 6455 section 4.2.1; the upgrade itself is made anew by who forwards it."""
        read = a_request(b"/", *self.WEBSOCKET)
        assert read.is_websocket
        assert read.forward_block == b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"

    @pytest.mark.parametrize(
        ("changes", "swapped"),
        [
            ({"method": "POST"}, {}),
            ({"version": (1, 0)}, {}),
            ({}, {b"Upgrade": b"h2c"}),
            ({}, {b"Upgrade": b"websocket, h2c"}),
            ({}, {b"Connection": b"keep-alive"}),
            ({}, {b"Sec-WebSocket-Version": b"8"}),
            ({}, {b"Sec-WebSocket-Key": b"short"}),
            ({}, {b"Content-Length": b"5"}),
        ],
    )
    def test_any_other_upgrade_is_dropped(self, changes: dict[str, Any], swapped: dict[bytes, bytes]) -> None:
        """h2c smuggling: the request goes on as a plain one, or not at all."""
        read = a_request(b"/", *(dict(self.WEBSOCKET) | swapped).items(), **changes)
        assert not read.is_websocket
        assert b"Upgrade" not in read.forward_block

    def test_a_browser_s_navigation_is_told(self) -> None:
        """GET, ``navigate`` and text/html, nothing less: only then may an answer be a page."""
        mode, accept = (b"Sec-Fetch-Mode", b"navigate"), (b"Accept", b"text/html,*/*;q=0.8")
        assert a_request(b"/", mode, accept).accepts_html
        assert a_request(b"/", mode, (b"Accept", b"image/png, TEXT/HTML ;q=0.9")).accepts_html
        assert not a_request(b"/", mode, accept, method="POST").accepts_html
        assert not a_request(b"/", accept).accepts_html
        assert not a_request(b"/", (b"Sec-Fetch-Mode", b"cors"), accept).accepts_html
        assert not a_request(b"/", mode, (b"Accept", b"*/*")).accepts_html
        assert not a_request(b"/", mode, (b"Accept", b"text/html;q=0")).accepts_html
        assert not a_request(b"/", mode, (b"Accept", b"text/html;q=0.000, x/y")).accepts_html

    def test_what_is_read_of_a_browser_passes_too(self) -> None:
        """The function may want to know as well."""
        fields = ((b"Origin", b"https://app.example"), (b"Sec-Fetch-Site", b"same-origin"), (b"Idempotency-Key", b"1"))
        read = a_request(b"/", *fields)
        assert (read.origin, read.fetch_site, read.has_idempotency_key) == ("https://app.example", "same-origin", True)
        assert read.forward_block.count(b"\r\n") == 3

    def test_a_preflight_is_told(self) -> None:
        """OPTIONS with an origin and a method; its field list is echoed, so it holds names alone."""
        fields = ((b"Origin", b"https://a.example"), (b"Access-Control-Request-Method", b"PUT"))
        wanted = (b"Access-Control-Request-Headers", b"authorization, x-a")
        read = a_request(b"/", *fields, wanted, method="OPTIONS")
        assert (read.preflight_method, read.preflight_fields) == ("PUT", "authorization, x-a")
        assert a_request(b"/", *fields).preflight_method is None
        assert a_request(b"/", fields[1], method="OPTIONS").preflight_method is None
        hostile = (b"Access-Control-Request-Headers", b"x; <script>")
        assert a_request(b"/", *fields, hostile, method="OPTIONS").preflight_fields is None

    TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    def test_a_trace_goes_on_with_its_state(self) -> None:
        """W3C Trace Context: traceparent stands apart, tracestate passes beside a valid one only."""
        state = ((b"tracestate", b"a=1"), (b"tracestate", b"b=2"))
        read = a_request(b"/", (b"traceparent", self.TRACE), *state)
        assert read.traceparent == self.TRACE.decode()
        assert read.forward_block == b"tracestate: a=1,b=2\r\n"
        lost = a_request(b"/", (b"traceparent", self.TRACE[:-1]), *state)
        assert (lost.traceparent, lost.forward_block) == (None, b"")
        newer = a_request(b"/", (b"traceparent", b"cc" + self.TRACE[2:] + b"-more"))
        assert newer.traceparent == self.TRACE.decode()

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            TRACE.upper(),
            b"ff" + TRACE[2:],
            TRACE + b"-x",
            TRACE.replace(b"-", b"_"),
            b"00-" + b"0" * 32 + TRACE[35:],
            TRACE[:36] + b"0" * 16 + TRACE[52:],
        ],
    )
    def test_a_broken_traceparent_is_none(self, raw: bytes) -> None:
        """And two of them are as well."""
        assert a_request(b"/", (b"traceparent", raw)).traceparent is None
        assert a_request(b"/", (b"traceparent", self.TRACE), (b"traceparent", self.TRACE)).traceparent is None
