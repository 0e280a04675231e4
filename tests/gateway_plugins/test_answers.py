"""
The gate's verdict as Kong is told it: the same request that the proxy would send, or by the internal listener.

Longer than other modules: each condition of the direct way has its own rule.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from authproxy.gate.verdict import Deferred, DirectAnswer, PageCall, Passed, Refused, StagePassed
from authproxy.limits.concurrency import Lease
from authproxy.upstream.departure import Address
from gateway_plugins.answers import as_exit, depart, direct_verdict, goes_direct, internal_verdict
from gateway_plugins.handler import Exit
from policies.decision import Known, LimitState, Page, Problem, Reason
from policies.principal import Principal, anonymous
from policies.request import Head
from policies.tables import ColdStart, TenantTable, Timeouts
from tests.fakes.plugins import (
    INTERNAL,
    PASS,
    REQUEST_ID,
    Told,
    a_passed,
    an_undecided,
    leaving,
    sent_by_proxy,
)
from tests.fakes.tenancy import a_function, a_head, a_route, a_tenant

APP = "https://app.acme.example"
OUR_COOKIE = b"__Host-portero-session=secret"
ACME = a_tenant(
    functions=[
        a_function("trusted", forwards_credentials=True),
        a_function("narrow", concurrency=4),
        a_function("timed", timeouts=Timeouts(total_s=30.0)),
        a_function("endless", max_body_bytes=None),
        a_function("patient", cold_start=ColdStart(max_wait_s=120.0), timeouts=Timeouts(2.0, 20.0, 30.0)),
    ],
    routes=[a_route("/cors", "f", cors_origins=[APP]), a_route("/short", "f", to="/long/way")],
)
WEBSOCKET = (
    (b"connection", b"Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
)


def ana(**changes: Any) -> Principal:
    principal = Principal("login", "ana", groups=frozenset({"analysts", "höre"}))
    for name, value in changes.items():
        setattr(principal, name, value)
    return principal


def judged(
    target: str = "/function/f",
    *fields: tuple[bytes, bytes],
    principal: Principal | None = None,
    tenant: TenantTable = ACME,
    method: str = "GET",
    **options: Any,
) -> tuple[Passed, Head]:
    """A request that may leave, and its head as Kong's facts tell it."""
    raw = a_head(target, *fields, method=method)
    head = raw._replace(fields=[(name.lower(), value) for name, value in raw.fields])
    passed = a_passed(head, tenant, principal or ana(), **options)
    assert isinstance(passed, Passed), passed
    return passed, head


# --- what a function gets --------------------------------------------------------------------------------------------

NAMES = [
    *(b"accept", b"accept-language", b"user-agent", b"x-mine", b"x_mine", b"content-type", b"origin", b"range"),
    *(b"authorization", b"cookie", b"dpop", b"traceparent", b"tracestate", b"idempotency-key", b"prefer"),
    *(b"connection", b"te", b"trailer", b"keep-alive", b"upgrade", b"expect", b"content-length", b"transfer-encoding"),
    *(b"proxy", b"proxy-connection", b"proxy-authorization", b"http2-settings", b"close", b"host"),
    *(b"x-portero-subject", b"x_portero_subject", b"x-portero_tenant", b"x-portero-pass", b"x-portero-assertion"),
    *(b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x_forwarded_for", b"x-forwarded-port"),
    *(b"x-real-ip", b"x-request-id", b"forwarded", b"x-dispatch-org", b"x-original-url", b"x-http-method-override"),
    *(b"client-cert", b"x-callback-url", b"k-revision", b"x-consumer-id", b"x-openfaas-internal"),
]
VALUES = [
    *(
        b"",
        b"1",
        b"a, b",
        b"x: y",
        b"caf\xc3\xa9",
        b"\xff",
        b"acme",
        b"acme.localhost",
        b"trailers",
        b"chunked",
        b"h2c",
    ),
    *(b"close", b"keep-alive", b"x-mine", b"x-mine, x_mine", b"cookie", b"x-portero-subject", b"TE, X-Mine, close"),
    *(b"theme=dark", b"theme=dark; " + OUR_COOKIE, OUR_COOKIE, b"=" + OUR_COOKIE, b"Bearer t", b"http", b"https"),
    *(b"198.51.100.7", b"203.0.113.9, 10.0.0.1", b"vendor=1", REQUEST_ID.encode(), b"100-continue", b"websocket"),
    b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
]


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=8),
    st.sampled_from(["/function/f", "/function/trusted?a=b", "/cors", "/short?q"]),
    st.sampled_from(["GET", "POST", "DELETE"]),
    st.sampled_from([ana(), anonymous(), ana(is_by_cookie=True, set_cookie=b"Set-Cookie: x=1\r\n")]),
)
@example([(b"connection", b"x-mine"), (b"x-mine", b"1"), (b"authorization", b"Bearer t")], "/function/f", "GET", ana())
def test_the_function_gets_what_the_proxy_would_send(
    fields: list[tuple[bytes, bytes]], target: str, method: str, principal: Principal
) -> None:
    """Whatever a stranger sends: field by field, what leaves Kong is what the proxy writes, and not one more."""
    head = a_head(target, *fields, method=method)
    head = head._replace(fields=[(name.lower(), value) for name, value in head.fields])
    passed = a_passed(head, ACME, principal)
    assume(isinstance(passed, Passed))
    assert isinstance(passed, Passed)
    assert leaving(head, direct_verdict(passed, head)) == sent_by_proxy(passed)


@given(
    st.lists(
        st.tuples(
            st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12).map(str.encode),
            st.binary(max_size=12).map(lambda value: value.translate(None, b"\r\n\0").strip(b" \t")),
        ),
        max_size=12,
    )
)
def test_any_field_arrives_as_it_came_or_not_at_all(fields: list[tuple[bytes, bytes]]) -> None:
    """Names and values that nobody thought of, repeated ones and bytes beyond ASCII among them."""
    head = a_head("/function/f", *fields)
    head = head._replace(fields=[(name.lower(), value) for name, value in head.fields])
    passed = a_passed(head, ACME, ana())
    assume(isinstance(passed, Passed))
    assert isinstance(passed, Passed)
    assert leaving(head, direct_verdict(passed, head)) == sent_by_proxy(passed)


def test_what_is_said_of_the_caller_is_portero_s_alone() -> None:
    """Another spelling is cleared, the name itself is written anew, and a value that is right already stays."""
    passed, head = judged(
        "/function/f",
        (b"X_Portero_Subject", b"login|root"),
        (b"X-Portero-Subject", b"login|root"),
        (b"X-Portero-Tenant", b"acme"),
        (b"X-Forwarded-For", b"198.51.100.7"),
    )
    verdict = direct_verdict(passed, head)
    assert "x_portero_subject" in verdict["clear"]
    assert verdict["set"]["X-Portero-Subject"] == "login|ana"
    assert verdict["forwarded"] == {"for": "198.51.100.7", "proto": "http", "host": "acme.localhost"}
    assert not [name for name in verdict["set"] if name.lower().startswith("x-forwarded")]


def test_what_frames_the_body_is_nginx_s() -> None:
    """Clearing Content-Length would take the body away; a websocket's upgrade is Kong's to make."""
    passed, head = judged("/function/f", (b"Content-Length", b"3"), (b"Expect", b"100-continue"), method="POST")
    assert direct_verdict(passed, head)["clear"] == []
    passed, head = judged("/function/f", *WEBSOCKET, principal=anonymous())
    assert direct_verdict(passed, head)["clear"] == []


def test_credentials_stay_here() -> None:
    """Authorization and our cookie, but not the cookies of browser and function."""
    fields = ((b"Authorization", b"Bearer t"), (b"Cookie", b"a=1; " + OUR_COOKIE), (b"Cookie", b"b=2"))
    passed, head = judged("/function/f", *fields)
    verdict = direct_verdict(passed, head)
    assert "authorization" in verdict["clear"]
    assert verdict["set"]["Cookie"] == "a=1; b=2"
    passed, head = judged("/function/trusted", *fields)
    verdict = direct_verdict(passed, head)
    assert verdict["clear"] == []
    assert "secret" in verdict["set"]["Cookie"]


@pytest.mark.parametrize(
    ("target", "written", "path", "query"),
    [
        ("/function/f/a?b=c", None, "/a", None),
        ("/short?b", None, "/long/way", None),
        ("/function/f", None, "/", None),
        ("/function/f?", None, "/", None),
        ("/function/f?b", b"/topic", "/topic", ""),
        ("/function/f?b", b"/topic?b&x", "/topic", "b&x"),
        ("/function/f", b"/topic?x", "/topic", "x"),
    ],
)
def test_the_path_is_what_the_backend_is_told(target: str, written: bytes | None, path: str, query: str | None) -> None:
    """The query is Kong's own, unless the backend writes another."""
    passed, head = judged(target, written=written)
    verdict = direct_verdict(passed, head)
    assert (verdict["path"], verdict.get("query")) == (path, query)


def test_where_it_goes_and_for_how_long() -> None:
    """Kong's bounds are the function's: milliseconds, the first byte and the silences after it in one."""
    passed, head = judged("/function/patient")
    verdict = direct_verdict(passed, head)
    assert (verdict["host"], verdict["port"]) == ("10.1.2.3", 8080)
    assert verdict["set"]["Host"] == "gateway.test:8080"
    assert verdict["timeouts"] == {"connect_ms": 2000, "write_ms": 30_000, "read_ms": 30_000}


def test_what_is_added_to_the_answer() -> None:
    """Request id, limits, CORS and a session that was made anew."""
    cookie = b"Set-Cookie: __Host-portero-session=n; Secure\r\nCache-Control: no-store\r\nSet-Cookie: b=2\r\n"
    passed, head = judged(
        "/cors",
        (b"Origin", APP.encode()),
        principal=ana(is_by_cookie=True, set_cookie=cookie),
        limits=(LimitState("rate", 10, 1, 9, 1),),
    )
    answer = direct_verdict(passed, head)["answer"]
    assert answer["add"]["X-Request-Id"] == REQUEST_ID
    assert answer["add"]["RateLimit"] == '"rate";r=9;t=1'
    assert answer["add"]["Access-Control-Allow-Origin"] == APP
    assert answer["add"]["Set-Cookie"] == ["__Host-portero-session=n; Secure", "b=2"]
    assert (answer["strip_cors"], answer["is_private"], answer["is_by_cookie"]) == (True, True, True)
    passed, head = judged()
    plain = direct_verdict(passed, head)["answer"]
    assert plain == {
        "add": {"X-Request-Id": REQUEST_ID},
        "strip_cors": False,
        "is_private": False,
        "is_by_cookie": False,
    }


# --- which way -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "fields", "options", "is_direct"),
    [
        ("/function/f", (), {}, True),
        ("/function/f", ((b"Content-Length", b"3"),), {"method": "POST"}, True),
        ("/function/narrow", (), {}, False),
        ("/function/f", (), {"lease": Lease}, False),
        ("/function/f", (), {"grant": object()}, False),
        ("/function/timed", (), {}, False),
        ("/function/f", ((b"Transfer-Encoding", b"chunked"),), {"method": "POST"}, False),
        ("/function/endless", ((b"Transfer-Encoding", b"chunked"),), {"method": "POST"}, True),
        ("/function/f", WEBSOCKET, {"principal": anonymous()}, True),
        ("/function/f", WEBSOCKET, {}, False),
        ("/function/f", WEBSOCKET[1:], {"principal": anonymous()}, False),
        ("/function/f", ((b"Upgrade", b"WebSocket"),), {"principal": anonymous()}, False),
        ("/function/f", ((b"Upgrade", b"h2c"),), {}, True),
        ("/function/f", (), {"address": Address("10.1.2.3", 443, is_tls=True)}, False),
    ],
    ids=[
        "plain",
        "with a body",
        "concurrency",
        "concurrent limit",
        "a place that was held for it",
        "total timeout",
        "chunked and bounded",
        "chunked and unbounded",
        "anybody's websocket",
        "somebody's websocket",
        "half an upgrade",
        "an upgrade without a key",
        "another upgrade",
        "tls",
    ],
)
def test_what_needs_watching_does_not_go_directly(
    target: str, fields: tuple[tuple[bytes, bytes], ...], options: dict[str, Any], is_direct: bool
) -> None:
    """Kong tells nobody of an end, cuts nothing and counts nothing."""
    if "lease" in options:
        options = {"lease": object.__new__(Lease)}
    grant = options.get("grant")
    passed, head = judged(target, *fields, **{name: value for name, value in options.items() if name != "grant"})
    passed.grant = grant
    told = Told()
    assert goes_direct(passed, head) is is_direct
    verdict = depart(told.front(), passed, head, may_be_direct=True)
    assert isinstance(verdict, dict)
    if is_direct:
        assert (told.left_, told.issued) == ([passed], [])
        assert "X-Portero-Pass" not in verdict["set"]
    else:
        assert (told.left_, told.issued) == ([], [passed])
        assert (verdict["host"], verdict["port"]) == INTERNAL


def test_nothing_goes_directly_where_the_config_says_so() -> None:
    """``direct: false``."""
    passed, head = judged()
    told = Told()
    verdict = depart(told.front(), passed, head, may_be_direct=False)
    assert isinstance(verdict, dict)
    assert verdict["set"]["X-Portero-Pass"] == PASS
    assert told.left_ == []


def test_a_held_request_brings_a_pass_and_no_credential() -> None:
    """What was judged waits at the listener: it has to hear of its target and framing, and no more."""
    fields = ((b"Authorization", b"Bearer t"), (b"Cookie", OUR_COOKIE), (b"Accept", b"*/*"))
    passed, head = judged("/function/f/%61?b=c", *fields)
    told = Told()
    undecided = an_undecided(passed)
    verdict = depart(told.front(), undecided, head, may_be_direct=True)
    assert isinstance(verdict, dict)
    assert told.issued == [undecided]
    assert verdict["set"] == {"Host": "acme.localhost", "X-Portero-Pass": PASS}
    assert verdict["clear"] == ["authorization", "cookie"]
    assert (verdict["path"], verdict.get("query")) == ("/function/f/a", None)
    assert verdict["forwarded"] == {"for": "198.51.100.7", "proto": "http", "host": "acme.localhost"}
    assert "answer" not in verdict


def test_kong_is_more_patient_than_the_listener() -> None:
    """Who says what happened is Portero: held twice, then the first byte."""
    passed, head = judged("/function/patient")
    verdict = internal_verdict(INTERNAL, PASS, an_undecided(passed), head)
    assert verdict["timeouts"]["read_ms"] > (2 * 120 + 20) * 1000
    forever = replace(
        ACME, functions=a_tenant(functions=[a_function("f", timeouts=Timeouts(5.0, 1e9, 60.0))]).functions
    )
    passed, head = judged(tenant=forever)
    assert direct_verdict(passed, head)["timeouts"]["read_ms"] == 2**31 - 2


def test_pages_and_later_answers_go_by_the_listener() -> None:
    """Portero answers them itself."""
    passed, head = judged()
    page = PageCall(passed.case, Page(ACME, "whoami"))
    deferred = Deferred(passed.case, passed.allow, None)
    for verdict in (page, deferred):
        told = Told()
        table = depart(told.front(), verdict, head, may_be_direct=True)
        assert isinstance(table, dict)
        assert table["set"]["X-Portero-Pass"] == PASS
        assert told.issued == [verdict]


# --- refusals --------------------------------------------------------------------------------------------------------


def refusal_of(told: Told, verdict: Any, head: Head, internal: tuple[str, int] | None = INTERNAL) -> str | list[str]:
    answer = depart(told.front(internal), verdict, head, may_be_direct=True)
    assert isinstance(answer, Exit)
    return answer.fields["X-Portero-Reason"]


def test_too_many_passes_are_a_refusal() -> None:
    """The gate is told of the end of what was judged, whatever it was."""
    passed, head = judged("/function/narrow")
    for verdict in (passed, an_undecided(passed), PageCall(passed.case, Page(ACME, "login"))):
        told = Told(token=None)
        assert refusal_of(told, verdict, head) == "overloaded"
        assert told.ended == [(verdict, Reason.OVERLOADED)]


def test_without_a_listener_nothing_is_held() -> None:
    """And what can go directly still does."""
    passed, head = judged("/function/narrow")
    told = Told()
    assert refusal_of(told, passed, head, None) == "wake-failed"
    assert refusal_of(told, an_undecided(passed), head, None) == "wake-failed"
    assert [reason for _, reason in told.ended] == [Reason.WAKE_FAILED, Reason.WAKE_FAILED]
    passed, head = judged()
    assert isinstance(depart(told.front(None), passed, head, may_be_direct=True), dict)


def test_a_stage_s_yes_lets_nobody_out() -> None:
    """Of the last plugin of a chain it would be a defect, and a defect is a refusal."""
    passed, head = judged()
    stage = StagePassed(passed.case, Known(passed.allow.place, None))
    assert refusal_of(Told(), stage, head) == "internal-error"


def test_a_defect_gives_back_what_was_taken() -> None:
    """A table that cannot be made is nobody's way out, and no place is lost by it."""
    passed, head = judged()
    passed.request_block = b"GET / HTTP/1.1\r\nHost: x\r\nX-Mine: \xff\r\n"
    told = Told()
    with pytest.raises(UnicodeDecodeError):
        depart(told.front(), passed, head, may_be_direct=True)
    assert told.ended == [(passed, Reason.INTERNAL_ERROR)]
    told = Told(breaks=True)
    with pytest.raises(RuntimeError):
        depart(told.front(), passed, head, may_be_direct=False)
    assert told.ended == [(passed, Reason.INTERNAL_ERROR)]


def test_refusals_are_written_as_they_are() -> None:
    """Status, fields and body; a name that stands several times has a list."""
    fields = (("Content-Type", "application/problem+json"), ("Set-Cookie", "a=1"), ("Vary", "x"), ("Set-Cookie", "b=2"))
    refused = Refused(Problem(403, fields, b"{}", Reason.NO_RULE_ALLOWS), REQUEST_ID)
    expected: dict[str, str | list[str]] = {
        "Content-Type": "application/problem+json",
        "Set-Cookie": ["a=1", "b=2"],
        "Vary": "x",
    }
    assert as_exit(refused) == Exit(403, expected, b"{}")
    direct = DirectAnswer(204, (("Vary", "Origin"), ("X-Request-Id", REQUEST_ID)), REQUEST_ID)
    assert as_exit(direct) == Exit(204, {"Vary": "Origin", "X-Request-Id": REQUEST_ID}, b"")


def test_tables_hold_what_messagepack_and_lua_can_say() -> None:
    """Text, numbers, booleans, lists and tables; names without a line break."""

    def check(value: Any) -> None:
        if isinstance(value, dict):
            assert all(isinstance(key, str) and re.fullmatch(r"[\w-]+", key) for key in value)
            for one in value.values():
                check(one)
        elif isinstance(value, list):
            for one in value:
                check(one)
        else:
            assert isinstance(value, str | int | bool)
            assert not isinstance(value, str) or value.isascii()

    passed, head = judged("/cors", (b"Origin", APP.encode()), (b"X-Tenant", b"x"))
    check(direct_verdict(passed, head))
    check(internal_verdict(INTERNAL, PASS, passed, head))
