"""Attack family A2 at the core, and any head at all: an answer is a request or a refusal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import request
from policies.decision import Reason
from policies.request import AccessRequest, Head, read_head
from tests.fakes.heads import BEHIND_PROXY, reason, refused
from tests.fakes.tenancy import NOBODY, a_head, a_request


class TestFieldsA2:
    """A2: what stands in the fields cannot be read in two ways, and names nobody."""

    def test_ap_r35_two_authorization_fields_are_ambiguous(self) -> None:
        """GHSA Istio CVE-2026-26308, POM extjwt: the first would have been taken."""
        fields = ((b"Authorization", b"Bearer a"), (b"authorization", b"Bearer b"))
        assert reason(*fields) is Reason.CREDENTIAL_AMBIGUOUS

    @pytest.mark.parametrize(
        "name",
        [b"Host", b"Content-Length", b"Transfer-Encoding", b"Expect", b"Origin", b"Sec-Fetch-Site", b"Sec-Fetch-Mode"],
    )
    def test_ap_r35_a_field_that_is_read_stands_once(self, name: bytes) -> None:
        """Equal values too: the next reader may not compare them."""
        value = {b"Host": b"acme.localhost", b"Content-Length": b"0", b"Transfer-Encoding": b"chunked"}.get(name, b"x")
        assert reason((name, value), (name.lower(), value)) is Reason.BAD_REQUEST

    def test_a_token_in_the_query_is_no_credential(self) -> None:
        """Query tokens land in logs: they are the function's own business."""
        read = a_request(b"/?access_token=abc")
        assert read.authorization is None

    def test_a_proof_of_possession_stands_once_and_apart(self) -> None:
        """RFC 9449 section 4.3 check 1, AP-R55: the function never sees it."""
        read = a_request(b"/", (b"DPoP", b"a.b.c"), (b"X", b"y"))
        assert (read.dpop, read.forward_block) == (b"a.b.c", b"X: y\r\n")
        assert a_request().dpop is None
        assert a_request(b"/", (b"DPoP", b"")).dpop == b""
        assert reason((b"DPoP", b"a.b.c"), (b"dpop", b"a.b.c")) is Reason.BAD_REQUEST
        assert reason((b"DPoP", b"a\xff")) is Reason.BAD_REQUEST
        assert reason((b"DPoP", b"a\tb")) is Reason.BAD_REQUEST
        assert reason((b"DPoP", b"a" * 8193)) is Reason.BAD_REQUEST

    def test_connection_cannot_take_proof_or_certificate_away(self) -> None:
        """AP-R33: what is read is not the client's to remove."""
        for name in (b"DPoP", b"Client-Cert", b"client_cert"):
            assert reason((b"Connection", name)) is Reason.BAD_REQUEST

    @pytest.mark.parametrize(
        ("host", "port", "authority"),
        [
            (b"acme.localhost", None, "acme.localhost"),
            (b"ACME.localhost.:8443", 8443, "acme.localhost:8443"),
            (b"acme.localhost:80", 80, "acme.localhost"),
            (b"[::1]:8088", 8088, "[::1]:8088"),
            (b"[::1]", None, "[::1]"),
        ],
    )
    def test_the_port_is_what_host_says(self, host: bytes, port: int | None, authority: str) -> None:
        """Beside the canonical host, for addresses of our own."""
        for _ in range(2):
            read = a_request(host=host)
            assert (read.port, read.authority) == (port, authority)

    def test_the_certificate_is_the_connections(self) -> None:
        """Known to the edge alone."""
        read = read_head(a_head()._replace(certificate=b"d" * 32), NOBODY)
        assert isinstance(read, AccessRequest)
        assert read.certificate == b"d" * 32
        assert a_request().certificate is None

    def test_cookies_are_one_field(self) -> None:
        """RFC 6265 section 5.4; several fields are joined."""
        read = a_request(b"/", (b"Cookie", b"a=1"), (b"X", b"y"), (b"cookie", b"b=2"))
        assert read.cookie == b"a=1; b=2"
        assert read.forward_block == b"X: y\r\n"

    def test_credentials_stand_apart_from_what_is_forwarded(self) -> None:
        """The block holds neither; whoever forwards them has to say so."""
        read = a_request(b"/", (b"Authorization", b"Bearer t"), (b"Cookie", b"s=1"))
        assert (read.authorization, read.cookie, read.forward_block) == (b"Bearer t", b"s=1", b"")

    @pytest.mark.parametrize(
        "named",
        [
            b"X-Forwarded-User",
            b"close, X-Portero-Subject",
            b"x_portero_tenant",
            b"Authorization",
            b"Cookie",
            b"Host",
            b"Content-Length",
            b"Transfer-Encoding",
            b"Expect",
            b"Origin",
            b"Sec-Fetch-Site",
            b"X-Request-Id",
            b"traceparent",
            b"a b",
            b'"',
        ],
    )
    def test_cve_2025_48865_connection_cannot_name_one_of_ours(self, named: bytes) -> None:
        """A proxy that obeyed it after injecting would delete the identity (AP-R33)."""
        assert reason((b"Connection", named)) is Reason.BAD_REQUEST

    def test_what_connection_names_is_dropped(self) -> None:
        """On the inbound copy, before anything is injected."""
        read = a_request(b"/", (b"X-Hop", b"1"), (b"Connection", b"keep-alive, x-HOP,, TE"), (b"x-stay", b"2"))
        assert read.forward_block == b"x-stay: 2\r\n"

    @pytest.mark.parametrize("value", [b"a\r\nX-Portero-Subject: b", b"a\rb", b"a\nb", b"a\0b"])
    @pytest.mark.parametrize(
        "name", [b"X-Any", b"X-Portero-Subject", b"TE", b"Authorization", b"Cookie", b"Accept", b"Host", b"tracestate"]
    )
    def test_a_value_that_begins_a_line_is_400(self, name: bytes, value: bytes) -> None:
        """In fields that pass, that are read and that are removed."""
        host = None if name == b"Host" else b"acme.localhost"
        assert reason((name, value), host=host) is Reason.BAD_REQUEST

    @pytest.mark.parametrize("name", [b"Authorization", b"Cookie", b"X-Dispatch-Org", b"Origin", b"X-Forwarded-For"])
    @pytest.mark.parametrize("value", [b"\xc3\xbc", b"\xff", b"a\x01", b"a\x7f", b"a\tb"])
    def test_a_field_that_names_the_caller_is_visible_ascii(self, name: bytes, value: bytes) -> None:
        """Other readers decode other bytes by other rules (surrogateescape, latin-1)."""
        assert reason((name, value)) is Reason.BAD_REQUEST

    @pytest.mark.parametrize("name", [b"", b"X Any", b"X-Any ", b"X\xff", b"X\0", b"X-Any\r\nX-Portero-Subject", b"X:"])
    def test_a_name_that_is_no_token_is_400(self, name: bytes) -> None:
        """RFC 9112 section 5.1: some parsers would cut it to a name of ours."""
        assert reason((name, b"v")) is Reason.BAD_REQUEST

    def test_128_fields_of_32_kib_and_no_more(self) -> None:
        """Beyond it 431, whatever kind of field it is."""
        too_many = refused(a_head(b"/", *[(b"X", b"")] * request.MAX_FIELDS))
        assert (too_many.reason, too_many.part) == (Reason.HEAD_TOO_LARGE, "fields")
        assert a_request(b"/", *[(b"X", b"")] * (request.MAX_FIELDS - 1)).forward_block.count(b"\n") == 127
        for name in (b"X-Any", b"X-Portero-Any", b"Authorization", b"Accept"):
            too_large = refused(a_head(b"/", (name, b"a" * request.MAX_FIELDS_BYTES)))
            assert (too_large.reason, too_large.part) == (Reason.HEAD_TOO_LARGE, "fields"), name

    def test_tenant_hints_are_told_and_removed(self) -> None:
        """T6: they may confirm; ``tenancy`` compares them."""
        read = a_request(b"/", (b"X-Dispatch-Org", b"acme"), (b"x-portero-tenant", b"globex"))
        assert (read.hints, read.forward_block) == (("acme", "globex"), b"")


NAMES = st.sampled_from(
    [
        *[b"Host", b"Connection", b"Upgrade", b"Content-Length", b"Transfer-Encoding", b"Expect", b"X-Forwarded-For"],
        *[b"X-Forwarded-Proto", b"Authorization", b"Cookie", b"Origin", b"traceparent", b"tracestate", b"Accept"],
        *[b"Access-Control-Request-Method", b"Access-Control-Request-Headers", b"X-Dispatch-Org", b"X-Any", b"TE"],
    ]
) | st.binary(max_size=12)
VALUES = st.sampled_from([b"close", b"chunked", b"3", b"websocket", b"acme.localhost", b"10.0.0.1"]) | st.binary(
    max_size=24
)


class TestAnyHead:
    """Whatever stands on the wire, the answer is a request or a refusal."""

    @given(
        st.sampled_from(["GET", "OPTIONS", "POST"]) | st.text(max_size=8),
        st.binary(max_size=40) | st.binary(max_size=20).map(lambda raw: b"/" + raw),
        st.lists(st.tuples(NAMES, VALUES), max_size=8),
        st.tuples(st.integers(0, 3), st.integers(0, 2)) | st.just((1, 1)),
        st.sampled_from(["198.51.100.7", "10.0.0.1", "::1", "", "x"]) | st.text(max_size=8),
        st.none() | st.text(max_size=12),
    )
    def test_random_heads_give_a_request_or_a_refusal(
        self,
        method: str,
        raw: bytes,
        fields: list[tuple[bytes, bytes]],
        version: tuple[int, int],
        peer: str,
        server_name: str | None,
    ) -> None:
        """Never an exception; and what passes is whole lines without a name of ours."""
        head = Head(method, raw, [(b"Host", b"acme.localhost"), *fields], version, peer, "http", server_name)
        read = read_head(head, BEHIND_PROXY)
        if isinstance(read, AccessRequest):
            assert read.forward_block.count(b"\n") == read.forward_block.count(b"\r\n") <= len(fields) + 1
            assert b"\r\nx-portero" not in (b"\r\n" + read.forward_block).lower()
            assert read.target.path.startswith("/")
            assert read.scheme in {"http", "https"}
        else:
            assert read.reason in {
                Reason.BAD_REQUEST,
                Reason.HOST_MISDIRECTED,
                Reason.METHOD_NOT_ALLOWED,
                Reason.CREDENTIAL_AMBIGUOUS,
                Reason.HEAD_TOO_LARGE,
            }
