"""Field names: what a stranger cannot say to a function, in any spelling, nor a function to a client."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import header_fields
from policies.header_fields import (
    BAD,
    HOP,
    HOST,
    KEEP,
    OURS,
    REQUEST_KINDS,
    AnswerFields,
    classify,
    classify_answer,
    filter_answer,
    is_our_cookie,
)
from tests.fakes.tenancy import a_request

SPOOFABLE = [
    "X-Portero-Subject",
    "X-Portero-Groups",
    "X-Portero-Assertion",
    "X-Portero-Pass",
    "X-Auth-Request-User",
    "X-Forwarded-User",
    "X-Forwarded-Host",
    "X-Forwarded-Prefix",
    "X-Forwarded-Uri",
    "Forwarded",
    "X-Real-IP",
    "X-Original-URL",
    "X-Original-Method",
    "X-Rewrite-URL",
    "X-Tenant",
    "X-Tenant-Id",
    "X-Scope-OrgID",
    "X-Dispatch-User",
    "X-Consumer-Username",
    "X-Credential-Identifier",
    "Knative-Serving-Revision",
    "K-Proxy-Request",
    "X-OpenFaaS-Anything",
    "X-Callback-Url",
    "X-Request-Id",
    "X-HTTP-Method-Override",
    "DPoP",
    "Client-Cert",
    "Client-Cert-Chain",
    "X-Client-Cert",
    "X-Client-Certificate",
    "X-Client-Cert-Fingerprint",
    "X-Client-Verify",
    "SSL-Client-Cert",
    "SSL-Client-Verify",
    "SSL-Client-Subject-DN",
    "X-SSL-Client-Cert",
    "X-SSL-Cert",
    "X-Tls-Client-Cert",
    "X-Arr-ClientCert",
    "X-Amzn-Mtls-Clientcert-Leaf",
    "Proxy",
]
HOP_BY_HOP = ["Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "TE", "Trailer", "HTTP2-Settings"]


def _spellings(name: str) -> list[bytes]:
    """Every mix of ``-``, ``_`` and ``.`` at the first three places, in three cases."""
    words = name.split("-")
    spellings = []
    for joints in product("-_.", repeat=min(3, len(words) - 1)):
        padded = [*joints, *["-"] * (len(words) - 1 - len(joints))]
        spelled = words[0] + "".join(joint + word for joint, word in zip(padded, words[1:], strict=True))
        spellings += [spelled.encode(), spelled.lower().encode(), spelled.upper().encode()]
    return spellings


class TestRequestNames:
    @pytest.mark.parametrize("name", SPOOFABLE)
    def test_cve_2025_64484_no_spelling_of_an_identity_field_passes(self, name: str) -> None:
        """Case and punctuation do not matter: a function behind CGI could not tell them apart either (AP-R6)."""
        for spelling in _spellings(name):
            assert a_request(b"/", (spelling, b"admin")).forward_block == b"", spelling

    @pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "Sec-Fetch-Site", "Keep-Alive"])
    def test_a_second_spelling_of_what_is_read_is_removed_and_not_read(self, name: str) -> None:
        """``Content_Length`` frames nothing here and would frame something behind CGI."""
        request = a_request(b"/", (name.replace("-", "_").encode(), b"5"))
        assert request.forward_block == b""
        assert not request.has_body
        assert request.fetch_site is None

    @pytest.mark.parametrize("name", HOP_BY_HOP)
    def test_hop_by_hop_fields_do_not_pass(self, name: str) -> None:
        """RFC 9110 section 7.6.1."""
        assert a_request(b"/", (name.encode(), b"x")).forward_block == b""

    @pytest.mark.parametrize(
        "name", [b"Accept-Language", b"X_Custom", b"x-trace", b"Kind", b"X-Forward", b"content-type"]
    )
    def test_other_names_pass_as_they_were_sent(self, name: bytes) -> None:
        """Underscores too, where the name means nothing here."""
        assert a_request(b"/", (name, b"v")).forward_block == name + b": v\r\n"

    @pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"\xc3\xbc", b"a\0", b"a\r\nb", b"(x)"])
    def test_what_is_not_a_token_is_bad(self, name: bytes) -> None:
        """RFC 9110 section 5.6.2."""
        assert classify(name) == BAD
        assert classify_answer(name) == BAD

    @given(st.binary(max_size=40))
    def test_any_bytes_are_classified_and_twice_alike(self, name: bytes) -> None:
        """Never an exception, and the memo says what the rule says."""
        assert REQUEST_KINDS[name] == classify(name) == REQUEST_KINDS[name]
        assert classify_answer(name) in {KEEP, HOP, OURS, BAD, *range(4, 9)}

    def test_the_memo_is_bounded_in_entries_and_in_bytes(self) -> None:
        """Whoever sends names chooses them."""
        for i in range(2 * header_fields._MEMO_ENTRIES):
            assert REQUEST_KINDS[b"x-%d" % i] == KEEP
        assert len(REQUEST_KINDS) <= header_fields._MEMO_ENTRIES
        long_name = b"x" * 1000
        assert REQUEST_KINDS[long_name] == KEEP
        assert long_name not in REQUEST_KINDS
        assert REQUEST_KINDS[b"HoSt"] == HOST


class TestAnswer:
    def test_the_function_s_fields_pass_in_order_and_as_sent(self) -> None:
        """Nothing is invented, several Set-Cookie fields stay several."""
        answer = filter_answer(
            [(b"Content-Type", b"text/plain"), (b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"X-Odd", b"\xff")]
        )
        assert answer == AnswerFields(
            b"Content-Type: text/plain\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX-Odd: \xff\r\n", None
        )

    def test_framing_is_taken_out_and_told(self) -> None:
        """The edge frames the answer anew."""
        assert filter_answer([(b"Content-Length", b"12"), (b"Date", b"x")]) == AnswerFields(b"Date: x\r\n", 12)
        assert filter_answer([(b"Transfer-Encoding", b"chunked")]) == AnswerFields(b"", None)
        assert filter_answer([]) == AnswerFields(b"", None)

    @pytest.mark.parametrize(
        "name",
        [
            b"X-Portero-Reason",
            b"x_portero_subject",
            b"Connection",
            b"Keep-Alive",
            b"Upgrade",
            b"Trailer",
            b"X-Request-Id",
        ],
    )
    def test_what_is_ours_or_hop_by_hop_is_removed(self, name: bytes) -> None:
        """A function cannot speak for Portero."""
        assert filter_answer([(name, b"x")]) == AnswerFields(b"", None)

    def test_what_connection_names_is_removed(self) -> None:
        """RFC 9110 section 7.6.1, for the answer."""
        fields = [(b"X-Hop", b"1"), (b"Connection", b"close, x-hop"), (b"X-Stay", b"2")]
        assert filter_answer(fields) == AnswerFields(b"X-Stay: 2\r\n", None)

    @pytest.mark.parametrize(
        "cookie",
        [
            b"__Host-portero=x; Path=/",
            b"__Host-portero-login=x",
            b"__host-PORTERO=x",
            b" \t__Host-portero=x",
            b"=__Host-portero=x",
            b"= __Host-portero=x",
        ],
    )
    def test_a_function_cannot_set_a_cookie_of_ours(self, cookie: bytes) -> None:
        """Session fixation (AP-R5), also by a cookie without a name that comes back as one of ours."""
        assert is_our_cookie(cookie)
        assert filter_answer([(b"Set-Cookie", cookie)]) == AnswerFields(b"", None)

    @pytest.mark.parametrize("cookie", [b"portero=x", b"__Host-other=x", b"a=__Host-portero", b""])
    def test_other_cookies_are_the_function_s_own(self, cookie: bytes) -> None:
        """Only names that Portero reads are kept from it."""
        assert filter_answer([(b"Set-Cookie", cookie)]) == AnswerFields(b"Set-Cookie: " + cookie + b"\r\n", None)

    @pytest.mark.parametrize(
        "fields",
        [
            [(b"X", b"a\r\nSet-Cookie: b=c")],
            [(b"X", b"a\nb")],
            [(b"X", b"a\0b")],
            [(b"X y", b"a")],
            [(b"Content-Length", b"1"), (b"Content-Length", b"2")],
            [(b"Content-Length", b"-1")],
            [(b"Content-Length", b"1, 1")],
            [(b"Content-Length", b"9" * 19)],
        ],
    )
    def test_cve_2026_34519_a_garbled_answer_is_none(self, fields: list[tuple[bytes, bytes]]) -> None:
        """Response splitting, or two lengths: the edge answers ``upstream-garbled``."""
        assert filter_answer(fields) is None

    def test_cors_fields_of_the_function_yield_to_the_route_s(self) -> None:
        """Two Access-Control-Allow-Origin fields are refused by every browser."""
        fields = [(b"Access-Control-Allow-Origin", b"*"), (b"Vary", b"Accept")]
        assert filter_answer(fields, replaces_cors=True) == AnswerFields(b"Vary: Accept\r\n", None)
        kept = filter_answer(fields)
        assert kept is not None
        assert kept.block.startswith(b"Access-Control-Allow-Origin: *\r\n")

    @pytest.mark.parametrize(
        "name",
        [
            *("Cache-Control", "cache-control", "Expires", "CDN-Cache-Control", "Cloudflare-CDN-Cache-Control"),
            *("Surrogate-Control", "X-Accel-Expires", "Edge-Control", "Vercel-CDN-Cache-Control"),
        ],
    )
    def test_nobody_else_says_how_an_answer_with_a_session_is_cached(self, name: str) -> None:
        """A targeted field (RFC 9213) beats ``Cache-Control: no-store``, and a shared cache would hand out sessions."""
        fields = [(name.encode(), b"public, max-age=600"), (b"Vary", b"Accept")]
        assert filter_answer(fields, is_private=True) == AnswerFields(b"Vary: Accept\r\n", None)
        kept = filter_answer(fields)
        assert kept is not None
        assert kept.block.startswith(name.encode())

    def test_a_shared_cache_keeps_nothing_that_a_session_opened(self) -> None:
        """Unless the function says how it may be kept: caches take cookies for no credential."""
        silent, spoken = [(b"Vary", b"Accept")], [(b"Cache-Control", b"public, max-age=60")]
        assert filter_answer(silent, is_by_cookie=True) == AnswerFields(
            b"Vary: Accept\r\nCache-Control: private\r\n", None
        )
        assert filter_answer(spoken, is_by_cookie=True) == filter_answer(spoken)
        assert filter_answer(silent, is_by_cookie=True, is_private=True) == filter_answer(silent)

    @given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=12)), max_size=6))
    def test_any_answer_gives_whole_lines_or_none(self, fields: list[tuple[bytes, bytes]]) -> None:
        """As many lines as fields were kept, whatever the function sends."""
        answer = filter_answer(fields)
        if answer is not None and answer.block:
            lines = answer.block.split(b"\r\n")
            assert lines.pop() == b""
            assert len(lines) <= len(fields)
            assert all(b": " in line and b"\n" not in line and b"\r" not in line for line in lines)
