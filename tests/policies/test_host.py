"""Attack family A3 at the core: one name has one spelling, and nothing but Host names a tenant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import framing, request, target
from policies.decision import Reason
from policies.host import canonical_host
from policies.request import AccessRequest, read_head
from tests.fakes.heads import BEHIND_PROXY, reason
from tests.fakes.tenancy import a_head, a_request


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
