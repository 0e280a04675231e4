"""Attack family A1 at the core: two readers of one path must read the same path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import target
from policies.decision import Deny, Reason
from policies.request import Target, canonical_target
from policies.target import encode_path
from tests.fakes.heads import reason, refused
from tests.fakes.tenancy import a_head, a_request


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

    def test_a_path_has_so_many_segments(self) -> None:
        """Each costs more than its two bytes, and nobody has been asked yet who he is; 414 as for a long one."""
        assert isinstance(canonical_target(b"/a" * target.MAX_SEGMENTS), Target)
        answer = canonical_target(b"/a" * (target.MAX_SEGMENTS + 1))
        assert isinstance(answer, Deny)
        assert (answer.reason, answer.part) == (Reason.HEAD_TOO_LARGE, "target")

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
