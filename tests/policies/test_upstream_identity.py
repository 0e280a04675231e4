"""What a function is told: whole lines, written by Portero alone, and no credential that it did not ask for."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decision import LimitState
from policies.principal import Principal, anonymous
from policies.tables import Place
from policies.tenancy import resolve
from policies.upstream_identity import (
    MAX_GROUPS_BYTES,
    answer_block,
    credential_fields,
    inject_block,
    request_block,
    request_fields,
    without_our_cookies,
)
from tests.fakes.tenancy import a_function, a_policy_set, a_request, a_route, a_tenant

REQUEST_ID = "0123456789abcdef0123456789abcdef"
APP = "https://app.acme.example"
ACME = a_tenant(
    functions=[a_function("trusted", forwards_credentials=True)], routes=[a_route("/r", "f", cors_origins=[APP])]
)
GLOBEX = a_tenant("globex")


def place_of(target: bytes = b"/function/f", **changes: Any) -> Place:
    found = resolve(a_request(target, **changes), a_policy_set(ACME, GLOBEX))
    assert isinstance(found, Place)
    return found


def lines(block: bytes) -> dict[str, str]:
    """The fields of ``block``; none stands twice."""
    pairs = [line.split(": ", 1) for line in block.decode("ascii").split("\r\n")[:-1]]
    assert block == b"" or block.endswith(b"\r\n")
    assert len({name.lower() for name, _ in pairs}) == len(pairs)
    return {name: value for name, value in pairs}  # noqa: C416 (dict() of lists of two does not type)


class TestInject:
    def test_tenant_subject_and_groups_are_told(self) -> None:
        """Groups sorted, so that equal callers look equal."""
        principal = Principal("login", "ana", groups=frozenset({"b", "analysts"}))
        assert lines(inject_block(place_of(), principal)) == {
            "X-Portero-Tenant": "acme",
            "X-Portero-Subject": "login|ana",
            "X-Portero-Groups": "analysts,b",
        }

    def test_anonymous_has_no_subject(self) -> None:
        """A function that asks "is there a subject?" is not told yes."""
        assert lines(inject_block(place_of(), anonymous())) == {"X-Portero-Tenant": "acme"}

    def test_t7_a_principal_never_carries_a_tenant_s_name_along(self) -> None:
        """The memo on it holds its own part only."""
        principal = Principal("login", "ana")
        for _ in range(2):
            assert lines(inject_block(place_of(), principal))["X-Portero-Tenant"] == "acme"
            other = place_of(host=b"globex.localhost")
            assert lines(inject_block(other, principal))["X-Portero-Tenant"] == "globex"

    def test_groups_over_4_kib_are_left_out_and_marked(self) -> None:
        """Half a list would be read as a whole one."""
        fits = Principal("p", "s", groups=frozenset({"g" * MAX_GROUPS_BYTES}))
        assert "X-Portero-Groups" in lines(inject_block(place_of(), fits))
        over = Principal("p", "s", groups=frozenset({"g" * MAX_GROUPS_BYTES, "h"}))
        assert lines(inject_block(place_of(), over)) == {
            "X-Portero-Tenant": "acme",
            "X-Portero-Subject": "p|s",
            "X-Portero-Groups-Truncated": "1",
        }

    def test_groups_that_cannot_be_had_are_marked_too(self) -> None:
        """A function must not take them for none; the assertion says it as well."""
        unknown = Principal("p", "s", has_unknown_groups=True)
        assert lines(inject_block(place_of(), unknown))["X-Portero-Groups-Truncated"] == "1"
        assert "X-Portero-Groups-Truncated" not in lines(inject_block(place_of(), Principal("p", "s")))

    @given(st.text(min_size=1, max_size=20), st.frozensets(st.text(min_size=1, max_size=8), max_size=4))
    def test_any_claim_is_one_line_that_can_be_read_back(self, sub: str, groups: frozenset[str]) -> None:
        """CR, LF, commas and other alphabets are escaped; nothing is lost and nothing is mixed up."""
        told = lines(inject_block(place_of(), Principal("login", sub, groups=groups)))
        assert unquote(told["X-Portero-Subject"], errors="surrogatepass") == f"login|{sub}"
        read = [
            unquote(group, errors="surrogatepass") for group in told.get("X-Portero-Groups", "").split(",") if group
        ]
        assert sorted(read) == sorted(groups)


class TestRequestFields:
    def test_they_are_written_anew(self) -> None:
        """The caller's own have been removed; these are what was judged."""
        request = a_request(b"/", (b"X-Forwarded-For", b"6.6.6.6"), (b"X-Request-Id", b"evil"))
        assert lines(request.forward_block + request_fields(request, REQUEST_ID)) == {
            "X-Request-Id": REQUEST_ID,
            "traceparent": f"00-{REQUEST_ID}-{REQUEST_ID[16:]}-01",
            "X-Forwarded-For": "198.51.100.7",
            "X-Forwarded-Proto": "http",
            "X-Forwarded-Host": "acme.localhost",
        }

    def test_a_trace_goes_on_with_a_parent_of_ours(self) -> None:
        """Trace id and flags are the caller's."""
        trace = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
        told = lines(request_fields(a_request(b"/", (b"traceparent", trace)), REQUEST_ID))
        assert told["traceparent"] == f"00-4bf92f3577b34da6a3ce929d0e0e4736-{REQUEST_ID[16:]}-00"

    @given(st.text(max_size=40))
    def test_any_request_id_is_safe_and_gives_the_same_ids(self, request_id: str) -> None:
        """Pure: no randomness in here."""
        block = request_fields(a_request(), request_id)
        told = lines(block)
        assert len(told) == 5
        assert len(told["traceparent"]) == 55
        assert block == request_fields(a_request(), request_id)


class TestCredentials:
    FIELDS = ((b"Authorization", b"Bearer t"), (b"Cookie", b"a=1; __Host-portero=s; b=2"))

    def test_they_stay_here_by_default(self) -> None:
        """But for the cookies that are between browser and function."""
        assert credential_fields(a_request(b"/", *self.FIELDS), place_of()) == b"Cookie: a=1; b=2\r\n"

    def test_they_pass_where_the_function_says_so(self) -> None:
        """``forward_credentials: true``."""
        block = credential_fields(a_request(b"/", *self.FIELDS), place_of(b"/function/trusted"))
        assert lines(block) == {"Authorization": "Bearer t", "Cookie": "a=1; __Host-portero=s; b=2"}

    @pytest.mark.parametrize(
        ("cookie", "left"),
        [
            (b"__Host-portero=s", b""),
            (b"__Host-portero-login=s; a=1", b"a=1"),
            (b"__host-PORTERO=s;a=1", b"a=1"),
            (b"a=1;  __Host-portero=s", b"a=1"),
            (b"=__Host-portero=s; a=1", b"a=1"),
            (b"a=portero; ;b", b"a=portero; ; b"),
            (b"a=1; b=2", b"a=1; b=2"),
            (b"a=__Host-portero", b"a=__Host-portero"),
        ],
    )
    def test_cookies_of_ours_are_taken_out(self, cookie: bytes, left: bytes) -> None:
        """By name, in any case; malformed pairs are the function's to read (AP-R22)."""
        assert without_our_cookies(cookie) == left
        block = credential_fields(a_request(b"/", (b"Cookie", cookie)), place_of())
        assert block == (b"Cookie: " + left + b"\r\n" if left else b"")

    def test_no_credential_no_field(self) -> None:
        """Nothing is invented."""
        assert credential_fields(a_request(), place_of()) == b""
        assert credential_fields(a_request(), place_of(b"/function/trusted")) == b""


class TestWholeHead:
    def test_the_head_is_whole_but_for_framing(self) -> None:
        """Request line, Host, the caller's fields, ours; every name once."""
        request = a_request(b"/function/f/x?q=1", (b"Accept", b"*/*"), (b"Authorization", b"Bearer t"), method="POST")
        block = request_block(
            request, place_of(), Principal("login", "ana"), REQUEST_ID, b"/function/f.acme/x?q=1", b"gw:8080"
        )
        first, rest = block.split(b"\r\n", 1)
        assert first == b"POST /function/f.acme/x?q=1 HTTP/1.1"
        assert list(lines(rest)) == [
            *["Host", "Accept", "X-Request-Id", "traceparent", "X-Forwarded-For", "X-Forwarded-Proto"],
            *["X-Forwarded-Host", "X-Portero-Tenant", "X-Portero-Subject"],
        ]

    @pytest.mark.parametrize("name", [b"X-Portero-Subject", b"x_portero_subject", b"X-PORTERO-Groups"])
    def test_ap_r23_an_anonymous_caller_cannot_bring_an_identity(self, name: bytes) -> None:
        """The identity of a public function's caller is what Portero says, which is none."""
        request = a_request(b"/function/f", (name, b"login|admin"))
        block = request_block(request, place_of(), anonymous(), REQUEST_ID, b"/", b"gw")
        assert b"admin" not in block
        assert b"subject" not in block.lower()


class TestAnswer:
    def test_the_answer_tells_the_request_s_id_limits_and_cors(self) -> None:
        """In one block, made for the answer's head."""
        request = a_request(b"/r", (b"Origin", APP.encode()))
        limits = (LimitState("total", 100, 1, 99, 1),)
        told = lines(answer_block(place_of(b"/r"), request, REQUEST_ID, limits))
        assert told["X-Request-Id"] == REQUEST_ID
        assert told["RateLimit-Policy"] == '"total";q=100;w=1'
        assert told["RateLimit"] == '"total";r=99;t=1'
        assert told["Access-Control-Allow-Origin"] == APP
        assert told["Vary"] == "Origin"

    def test_without_limits_and_cors_only_the_id(self) -> None:
        """Nothing else is added to a function's answer."""
        assert answer_block(place_of(), a_request(), REQUEST_ID, ()) == f"X-Request-Id: {REQUEST_ID}\r\n".encode()
