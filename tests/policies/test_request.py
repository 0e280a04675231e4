"""
The canonical request: families A1 (paths), A2 (fields) and A3 (hosts) at the core, and every line of the table of what
a hardened HTTP parser still lets through. Each case is a refusal, or the one spelling that is judged and forwarded.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import framing, request, target
from policies.decision import Deny, Reason
from policies.host import canonical_host
from policies.peers import TrustedPeers
from policies.request import AccessRequest, Head, Target, canonical_target, read_head
from policies.target import encode_path
from tests.fakes.tenancy import NOBODY, a_head, a_request

BEHIND_PROXY = TrustedPeers(["10.0.0.0/8", "fd00::/8"])


def refused(head: Head, trusted: TrustedPeers = NOBODY) -> Deny:
    """The refusal of ``head``; a request is a failure."""
    answer = read_head(head, trusted)
    assert isinstance(answer, Deny), answer
    return answer


def reason(*fields: tuple[bytes, bytes], **changes: Any) -> Reason:
    return refused(a_head(changes.pop("target", b"/"), *fields, **changes)).reason


class TestPathA1:
    """A1: two readers of one path must read the same path."""

    @pytest.mark.parametrize(
        ("raw", "taught_by"),
        [
            (b"/a/../admin", "AP-R34"),
            (b"/a/%2e%2e/admin", "AP-R34"),
            (b"/a/.%2E/admin", "AP-R34"),
            (b"/a/./b", "AP-R34"),
            (b"/..", "AP-R34"),
            (b"/a/..%2fadmin", "CVE-2021-29492"),
            (b"/a%2f..%2fadmin", "CVE-2021-29492"),
            (b"/a%2F%2Fb", "CVE-2021-31920"),
            (b"/%2fadmin", "CVE-2021-31920"),
            (b"/admin%2f", "CVE-2021-31920"),
            (b"//admin", "CVE-2026-26205"),
            (b"//evil.example/admin", "CVE-2026-26205"),
            (b"/a//b", "CVE-2021-31920"),
            (b"/a//", "CVE-2021-31920"),
            (b"/a\\..\\admin", "CVE-2021-31920"),
            (b"/a%5cadmin", "CVE-2021-31920"),
            (b"/a%5Cadmin", "CVE-2021-31920"),
            (b"/a#frag", "GHSA-pxq7-h93f-9jrg"),
            (b"/a?b#frag", "CVE-2021-39156"),
            (b"/a%00b", "AP-R34"),
            (b"/a%0d%0aX:y", "AP-R34"),
            (b"/a%7fb", "AP-R34"),
            (b"/a%C2%85b", "C1 control"),
            (b"/a\x00b", "AP-R34"),
            (b"/a b", "RFC 9112 section 3.2"),
            (b"/a\r\nHost: b", "AP-R34"),
            (b"/a%", "AP-R30"),
            (b"/a%2", "AP-R30"),
            (b"/a%zz", "AP-R30"),
            (b"/a%%32e", "AP-R30"),
            (b"/%C0%AE%C0%AE/admin", "overlong"),
            (b"/%c0%af", "overlong"),
            (b"/%ED%A0%80", "surrogate"),
            (b"/%FF", "not UTF-8"),
            (b"/\xc3\xbc", "raw UTF-8"),
            (b"/..;x/admin", "path parameters"),
            (b"/..;/admin", "path parameters"),
            (b"/a/;x/admin", "path parameters"),
            (b"/%2e%2e%3bx/admin", "path parameters"),
            (b"/?\xff", "query"),
            (b"/?a b", "query"),
            (b"*", "RFC 9112 section 3.2.4"),
            (b"", "AP-R30"),
            (b"admin", "AP-R30"),
            (b"?x", "AP-R30"),
            (b"acme.localhost:80", "RFC 9112 section 3.2.3"),
        ],
    )
    def test_a_target_that_can_be_read_twice_is_400(self, raw: bytes, taught_by: str) -> None:
        """Nothing is repaired: what a repair would make is what another parser would not."""
        assert reason(target=raw) is Reason.BAD_REQUEST, taught_by

    @pytest.mark.parametrize(
        ("raw", "path", "segments"),
        [
            (b"/", "/", ()),
            (b"/a/", "/a/", ("a",)),
            (b"/a%7Eb", "/a~b", ("a~b",)),
            (b"/%61", "/a", ("a",)),
            (b"/%c3%bc", "/%C3%BC", ("ü",)),
            (b"/a%3fb", "/a%3Fb", ("a?b",)),
            (b"/a%23b", "/a%23b", ("a#b",)),
            (b"/%252e%252e", "/%252e%252e", ("%2e%2e",)),
            (b"/a%3Bb", "/a;b", ("a;b",)),
            (b"/a;v=1/b", "/a;v=1/b", ("a;v=1", "b")),
            (b"/{x}|^", "/%7Bx%7D%7C%5E", ("{x}|^",)),
            (b"/a%20b+c", "/a%20b+c", ("a b+c",)),
            (b"/...", "/...", ("...",)),
            (b"/CaSe", "/CaSe", ("CaSe",)),
        ],
    )
    def test_a_path_has_one_spelling(self, raw: bytes, path: str, segments: tuple[str, ...]) -> None:
        """Unreserved bare, escapes in upper case, decoded once and only once; case is kept."""
        read = a_request(raw).target
        assert (read.path, read.segments) == (path, segments)

    def test_an_encoded_slash_is_told_and_left_to_the_function_s_policy(self) -> None:
        """``encoded_slash: allow`` is a property of a function, which is not known here."""
        assert canonical_target(b"/a%2fb") == Target("/a%2Fb", ("a/b",), False, None, True)

    def test_a_query_is_kept_verbatim_and_apart(self) -> None:
        """GHSA-7rh7-c77v-6434: rules see the path only."""
        read = a_request(b"/private?x=/public/../%2e%zz&y=?").target
        assert (read.path, read.query) == ("/private", "x=/public/../%2e%zz&y=?")
        assert a_request(b"/a?").target.query == ""
        assert a_request(b"/a").target.query is None

    def test_a_target_over_8_kib_is_414(self) -> None:
        """Told apart from fields that are too large by ``part``."""
        answer = refused(a_head(b"/" + b"a" * target.MAX_TARGET_BYTES))
        assert (answer.reason, answer.part) == (Reason.HEAD_TOO_LARGE, "target")
        assert isinstance(canonical_target(b"/" + b"a" * (target.MAX_TARGET_BYTES - 1)), Target)

    @pytest.mark.parametrize(
        ("raw", "path"),
        [
            (b"http://acme.localhost/x?y", "/x"),
            (b"HTTP://ACME.localhost/x", "/x"),
            (b"https://acme.localhost", "/"),
            (b"http://acme.localhost?q", "/"),
        ],
    )
    def test_an_absolute_form_that_agrees_with_host_is_its_path(self, raw: bytes, path: str) -> None:
        """RFC 9112 section 3.2.2."""
        read = a_request(raw)
        assert (read.target.path, read.host) == (path, "acme.localhost")

    @pytest.mark.parametrize(
        "raw",
        [
            b"http://evil.com/x",
            b"http://acme.localhost:80/x",
            b"http://acme.localhost@evil.com/x",
            b"http://evil.com@acme.localhost/x",
            b"http://acme.localhost./x",
            b"http:///x",
            b"http://acme.localhost\\@evil.com/x",
            b"http://acme.localhost#@evil.com/x",
            b"ftp://acme.localhost/x",
            b"file:///etc/passwd",
        ],
    )
    def test_ap_r39_an_absolute_form_that_disagrees_is_400(self, raw: bytes) -> None:
        """The authority never chooses the tenant (aiohttp's request.host would have been evil.com)."""
        assert reason(target=raw) is Reason.BAD_REQUEST

    @given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40).map(lambda text: text.encode()))
    def test_canonicalising_is_idempotent(self, raw: bytes) -> None:
        """The canonical path reads as itself and as the same segments; so does its encoding from segments."""
        read = canonical_target(b"/" + raw)
        if isinstance(read, Target):
            again = canonical_target(read.path.encode())
            assert again == read._replace(query=None)
            assert encode_path(read.segments, has_trailing_slash=read.has_trailing_slash) == read.path

    @given(st.lists(st.text(min_size=1, max_size=8), max_size=4), st.booleans())
    def test_segments_that_are_encoded_are_read_back(self, segments: list[str], has_trailing_slash: bool) -> None:
        """Whatever a parameter took cannot become another segment."""
        read = canonical_target(
            encode_path(segments, has_trailing_slash=has_trailing_slash).encode("ascii", "surrogatepass")
        )
        if isinstance(read, Target):
            assert read.segments == tuple(segments)


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


class TestHostA3:
    """A3: one name has one spelling, and nothing but Host names a tenant."""

    @pytest.mark.parametrize(
        ("raw", "host"),
        [
            (b"acme.localhost", "acme.localhost"),
            (b"TeNant.EXAMPLE.com.:80", "tenant.example.com"),
            (b"a.B.example.com", "a.b.example.com"),
            (b"A.b.example.com.", "a.b.example.com"),
            (b"acme.localhost:8088", "acme.localhost"),
            (b"127.0.0.1:8088", "127.0.0.1"),
            (b"[::1]:8088", "[::1]"),
            (b"[2001:DB8:0:0::1]", "[2001:db8::1]"),
            (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        ],
    )
    def test_ap_r29_a_host_has_one_spelling(self, raw: bytes, host: str) -> None:
        """CVE-2021-39155, CVE-2026-48794: routing folded case and policy did not."""
        assert a_request(host=raw).host == host

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b".",
            b"a..b",
            b".a",
            b"a..",
            b"good@evil",
            b"a, b",
            b"a b",
            b" a",
            b"a/b",
            b"a\\b",
            b"a?b",
            b"a#b",
            b"a%2eb",
            b"a_b.c",
            b"-a.b",
            b"a-.b",
            b"a:",
            b"a:0",
            b"a:65536",
            b"a:080",
            b"a:+80",
            b"a:80:80",
            b"a:8o",
            b"::1",
            b"[::1",
            b"[::1]x",
            b"[::1%25eth0]",
            b"[v1.x]",
            b"1.2.3",
            b"01.2.3.4",
            b"0x7f.1",
            b"0x7f000001",
            b"2130706433",
            b"1.2.3.256",
            b"xn--a",
            b"xn--.example",
            b"b\xc3\xbccher.example",
            b"a\xe3\x80\x82b",
            b"a\0b",
            b"a" * 64,
            b"a." * 127 + b"ab",
            b"*.acme.example",
        ],
    )
    def test_ap_r29_what_is_not_a_host_is_400(self, raw: bytes) -> None:
        """Strict: the next reader's idea of these cannot be known."""
        assert reason(host=raw) is Reason.BAD_REQUEST

    @pytest.mark.parametrize("version", [(1, 1), (1, 0)])
    def test_a_request_without_host_is_400(self, version: tuple[int, int]) -> None:
        """Also of HTTP/1.0: without a host there is no tenant."""
        assert reason(host=None, version=version) is Reason.BAD_REQUEST

    def test_a_tls_name_of_another_host_is_421(self) -> None:
        """T1: what the certificate was chosen for is what is asked for."""
        assert reason(server_name="globex.localhost", scheme="https") is Reason.HOST_MISDIRECTED
        assert reason(server_name="a b", scheme="https") is Reason.HOST_MISDIRECTED
        assert a_request(server_name="ACME.localhost", scheme="https").host == "acme.localhost"
        assert a_request(server_name=None, scheme="https").host == "acme.localhost"

    @pytest.mark.parametrize("peer", ["198.51.100.7", "10.0.0.1"])
    @pytest.mark.parametrize("name", [b"X-Forwarded-Host", b"Forwarded", b"X-Original-Host"])
    def test_no_field_chooses_the_host(self, peer: str, name: bytes) -> None:
        """Not even a trusted peer's: it passes Host on as it came."""
        read = read_head(a_head(b"/", (name, b"globex.localhost"), peer=peer), BEHIND_PROXY)
        assert isinstance(read, AccessRequest)
        assert (read.host, read.forward_block) == ("acme.localhost", b"")

    def test_operators_may_write_unicode(self) -> None:
        """In files, where IDNA maps it; on the wire it is refused (above)."""
        assert canonical_host("Bücher.example") == "xn--bcher-kva.example"
        assert canonical_host("xn--Bcher-kva.example") == "xn--bcher-kva.example"

    @given(st.text(max_size=40) | st.from_regex(r"[a-zA-Z0-9\-.\[\]:]{1,30}", fullmatch=True))
    def test_a_canonical_host_is_canonical(self, text: str) -> None:
        """Idempotent, ASCII, lower case, without port and trailing dot; never an exception."""
        host = canonical_host(text)
        if host is not None:
            assert canonical_host(host) == host == host.lower()
            assert host.isascii()
            assert not host.endswith(".")

    def test_the_memos_are_bounded(self) -> None:
        """Whoever sends hosts and paths chooses them."""
        for i in range(request._HOST_MEMO_ENTRIES + 100):
            a_request(b"/%d" % i, (b"Connection", b"x-%d" % i), host=b"h%d.example" % i)
        assert len(request._host_memo) <= request._HOST_MEMO_ENTRIES
        assert len(target._memo) <= target._MEMO_ENTRIES
        assert 0 < len(framing._facts_memo) <= framing._MEMO_ENTRIES


class TestPeers:
    """Who may say who the client is."""

    @pytest.mark.parametrize(
        ("peer", "xff", "client"),
        [
            ("198.51.100.7", [b"203.0.113.9"], "198.51.100.7"),
            ("10.0.0.1", [b"203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", [b"6.6.6.6, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", [b"6.6.6.6", b"203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", [b"127.0.0.1, 203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.1", [b"203.0.113.9:4711"], "203.0.113.9"),
            ("fd00::1", [b"[2001:DB8::9]:4711"], "2001:db8::9"),
            ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", [b"203.0.113.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", [b"203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", [b"203.0.113.9,"], "10.0.0.1"),
            ("10.0.0.1", [], "10.0.0.1"),
            ("", [b"203.0.113.9"], ""),
        ],
    )
    def test_ap_r10_the_client_is_the_first_stranger_from_the_right(
        self, peer: str, xff: list[bytes], client: str
    ) -> None:
        """What stands left of it was written by that stranger."""
        read = read_head(a_head(b"/", *[(b"X-Forwarded-For", value) for value in xff], peer=peer), BEHIND_PROXY)
        assert isinstance(read, AccessRequest)
        assert read.client_ip == client
        assert read.forward_block == b""

    @pytest.mark.parametrize(
        ("peer", "said", "scheme"),
        [
            ("198.51.100.7", b"https", "http"),
            ("10.0.0.1", b"https", "https"),
            ("10.0.0.1", b"HTTPS", "https"),
            ("10.0.0.1", b"wss", "https"),
            ("10.0.0.1", b"https, https", "https"),
            ("10.0.0.1", b"https, http", "http"),
            ("10.0.0.1", b"http, https", "http"),
        ],
    )
    def test_ap_r2_only_a_trusted_peer_speaks_for_the_scheme(self, peer: str, said: bytes, scheme: str) -> None:
        """Oathkeeper e9acca1: scheme confusion chose another rule."""
        read = read_head(a_head(b"/", (b"X-Forwarded-Proto", said), peer=peer), BEHIND_PROXY)
        assert isinstance(read, AccessRequest)
        assert read.scheme == scheme

    def test_a_scheme_that_is_none_is_400(self) -> None:
        """Only of a trusted peer; a stranger's is not looked at."""
        head = a_head(b"/", (b"X-Forwarded-Proto", b"gopher"), peer="10.0.0.1")
        assert refused(head, BEHIND_PROXY).reason is Reason.BAD_REQUEST
        assert isinstance(read_head(head, NOBODY), AccessRequest)

    @given(st.text(max_size=20), st.lists(st.text(max_size=20), max_size=4))
    def test_any_text_has_a_client(self, peer: str, xff: list[str]) -> None:
        """Never an exception; a stranger is himself whatever he says."""
        assert isinstance(BEHIND_PROXY.client_ip(peer, xff), str)
        assert NOBODY.client_ip("198.51.100.7", xff) == "198.51.100.7"

    def test_a_network_that_is_none_does_not_load(self) -> None:
        """Nor one with host bits: was 10.1.0.0/16 or 10.0.0.0/8 meant?"""
        for cidr in ("10.1.0.0/8", "acme.example", ""):
            with pytest.raises(ValueError):
                TrustedPeers([cidr])


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
