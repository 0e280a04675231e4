"""Who may say who the client is, and over which scheme it came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decision import Reason
from policies.peers import TrustedPeers
from policies.request import AccessRequest, read_head
from tests.fakes.heads import BEHIND_PROXY, refused
from tests.fakes.tenancy import NOBODY, a_head


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
