"""
Attack family A1, path desync: what is judged is what the function gets, however the target is spelled.

Everything is aimed at a public function, so that what is not refused is served: a row fails by answering 200.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final
from urllib.parse import unquote_to_bytes

import pytest

from tests.fakes.siege import CANARY, Siege

pytestmark = pytest.mark.asyncio(loop_scope="module")

WEB: Final = b"/function/survey-web"


def get(target: bytes, *, host: bytes = b"acme.test", fields: bytes = b"") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: %b\r\n%bConnection: close\r\n\r\n" % (target, host, fields)


BAD_TAILS: Final[dict[str, bytes]] = {
    # dot segments, in every encoding (R34, CVE-2021-31920)
    "dots": b"/a/../admin",
    "dots-first": b"/../admin",
    "dots-last": b"/a/..",
    "dots-slash": b"/a/../",
    "dot": b"/./admin",
    "dot-last": b"/a/.",
    "dots-escaped": b"/a/%2e%2e/admin",
    "dots-upper": b"/a/%2E%2E/admin",
    "dots-half": b"/a/.%2e/admin",
    "dots-other-half": b"/a/%2e./admin",
    "dot-escaped": b"/%2e/admin",
    "dots-encoded-slash": b"/a/..%2fadmin",
    "dots-all-escaped": b"/a/%2e%2e%2fadmin",
    "dots-encoded-backslash": b"/a/..%5cadmin",
    "dots-backslash": b"/a/..\\admin",
    "dots-parameter": b"/a/..;/admin",
    "dots-parameter-value": b"/a/..;x=1/admin",
    "dot-parameter": b"/.;x/admin",
    "dots-escaped-parameter": b"/a/%2e%2e%3bx/admin",
    "deep": b"/a" + b"/.." * 40 + b"/etc/passwd",
    # slashes
    "empty-segment": b"/a//admin",
    "empty-first": b"//admin",
    "empty-last": b"/a//",
    "empty-parameter": b"/;x/admin",
    "encoded-slash": b"/a%2fadmin",
    "encoded-slash-upper": b"/a%2Fadmin",
    "encoded-empty": b"/%2f/admin",
    "backslash": b"/a\\admin",
    "backslash-first": b"\\admin",
    "backslash-escaped": b"/a%5cadmin",
    "backslash-upper": b"/a%5Cadmin",
    "backslash-overlong": b"/a%c1%9cadmin",
    # fragments (R3, GHSA-pxq7-h93f-9jrg, CVE-2021-39156)
    "fragment": b"/a#public",
    "fragment-first": b"#public",
    "fragment-after-query": b"/a?x=1#public",
    "fragment-empty": b"/a#",
    # control characters
    "NUL": b"/a%00b",
    "NUL-end": b"/a%00",
    "CRLF": b"/a%0d%0aX-Portero-Subject:root",
    "LF": b"/a%0ab",
    "CR": b"/a%0db",
    "tab": b"/a%09b",
    "escape": b"/a%1bb",
    "DEL": b"/a%7fb",
    "C1": b"/a%c2%85b",
    # broken escapes
    "percent": b"/a%",
    "percent-one": b"/a%2",
    "percent-zz": b"/a%zz",
    "percent-space": b"/a%2/",
    "percent-u": b"/a%u002e%u002e/",
    "percent-percent": b"/a%%32%65",
    "percent-x": b"/a%x2e",
    # not UTF-8
    "overlong-dot": b"/%c0%ae%c0%ae/admin",
    "overlong-slash": b"/a%c0%afadmin",
    "overlong-three": b"/a%e0%80%afadmin",
    "overlong-four": b"/a%f0%80%80%afadmin",
    "overlong-NUL": b"/a%c0%80",
    "surrogate": b"/a%ed%a0%80",
    "beyond-unicode": b"/a%f4%90%80%80",
    "lone-continuation": b"/a%80",
    "cut-sequence": b"/a%e2%82",
    "byte-ff": b"/a%ff",
    "latin-1": b"/a%e9",
}


@pytest.mark.parametrize("tail", BAD_TAILS.values(), ids=BAD_TAILS.keys())
async def test_a_path_that_can_be_read_in_two_ways_is_refused(tail: bytes, siege: Siege) -> None:
    """R3, R16, R34, R39: 400, from whatever comes behind a public function's name; nothing is sent on."""
    await siege.refused(get(WEB + tail), "bad-request")


NOT_A_PATH: Final[dict[str, bytes]] = {
    "asterisk": b"*",
    "no-slash": b"function/survey-web",
    "query-alone": b"?x",
    "authority": b"acme.test:80",
    "two-slashes": b"//acme.test/function/survey-web",
    "three-slashes": b"///function/survey-web",
    "absolute-other-host": b"http://evil.test/function/survey-web",
    "absolute-other-tenant": b"http://globex.test/function/survey-web",
    "absolute-other-port": b"http://acme.test:81/function/survey-web",
    "absolute-userinfo": b"http://acme.test@evil.test/function/survey-web",
    "absolute-userinfo-ours": b"http://evil.test@acme.test/function/survey-web",
    "absolute-trailing-dot": b"http://acme.test./function/survey-web",
    "absolute-no-authority": b"http:///function/survey-web",
    "absolute-one-slash": b"http:/function/survey-web",
    "absolute-backslash": b"http://acme.test\\@evil.test/function/survey-web",
    "absolute-dots": b"http://acme.test/function/survey-web/../x",
    "absolute-fragment": b"http://acme.test#/function/survey-web",
    "absolute-two-slashes": b"http://acme.test//function/survey-web",
    "absolute-other-scheme": b"ftp://acme.test/function/survey-web",
    "file": b"file:///etc/passwd",
    "javascript": b"javascript:alert(1)",
    "space-in-target": b"/function/survey-web/a b",
    "tab-in-target": b"/function/survey-web/a\tb",
    "raw-utf-8": b"/function/survey-web/\xc3\xa9",
    "raw-ff": b"/function/survey-web/\xff",
    "raw-DEL": b"/function/survey-web/\x7f",
    "raw-NUL": b"/function/survey-web/\x00",
    "raw-NUL-query": b"/function/survey-web/?\x00",
    "raw-ff-query": b"/function/survey-web/?\xff",
    "raw-CR": b"/function/survey-web/a\rb",
    "raw-LF": b"/function/survey-web/a\nb",
    "empty": b"",
}


@pytest.mark.parametrize("target", NOT_A_PATH.values(), ids=NOT_A_PATH.keys())
async def test_a_target_that_is_no_path_of_ours_is_refused(target: bytes, siege: Siege) -> None:
    """R3, R30, R39, R41: by Portero's rule or by the parser, never sent on, never repeated."""
    await siege.refused(get(target), "bad-request")


ELSEWHERE: Final[dict[str, tuple[bytes, str]]] = {
    "case-of-route": (b"/Reports/es", "route-unknown"),
    "case-of-function": (b"/FUNCTION/survey-web", "route-unknown"),
    "case-of-name": (b"/function/Survey-Web", "credential-missing"),
    "name-empty": (b"/function/", "route-unknown"),
    "name-none": (b"/function", "route-unknown"),
    "namespace-other": (b"/function/survey-web.globex", "route-unknown"),
    "namespace-other-escaped": (b"/function/survey-web%2eglobex", "route-unknown"),
    "namespace-twice": (b"/function/survey-web.globex.acme", "credential-missing"),
    "namespace-case": (b"/function/survey-web.ACME", "route-unknown"),
    "namespace-empty": (b"/function/survey-web.", "route-unknown"),
    "name-dots": (b"/function/survey-web..acme", "route-unknown"),
    "name-parameter": (b"/function/survey-web;x", "route-unknown"),
    "name-space": (b"/function/survey-web%20", "route-unknown"),
    "name-question": (b"/function/survey-web%3f", "route-unknown"),
    "name-hash": (b"/function/survey-web%23", "route-unknown"),
    "name-percent": (b"/function/survey-web%25", "route-unknown"),
    "name-twice-encoded": (b"/function/survey-web%252e%252e", "route-unknown"),
    "name-colon": (b"/function/survey-web:8080", "route-unknown"),
    "name-at": (b"/function/evil@survey-web", "route-unknown"),
    "name-fullwidth": (b"/function/%ef%bd%93urvey-web", "route-unknown"),
    "name-homoglyph": (b"/function/survey-w%d0%b5b", "route-unknown"),
    "route-disabled": (b"/reports/legacy", "route-unknown"),
    "route-disabled-escaped": (b"/reports/%6cegacy", "route-unknown"),
    "not-direct": (b"/function/hidden", "route-unknown"),
    "not-direct-with-namespace": (b"/function/hidden.acme", "route-unknown"),
    "not-direct-escaped": (b"/function/%68idden", "route-unknown"),
    "system-api": (b"/system/functions", "route-unknown"),
    "system-scale": (b"/system/scale-function/survey-web", "route-unknown"),
    "async": (b"/async-function", "route-unknown"),
    "async of nobody": (b"/Async-function/survey-web", "route-unknown"),
    "async of another": (b"/async-function/survey-web.globex", "route-unknown"),
    "async by GET": (b"/async-function/survey-web", "method-not-allowed"),
    "own-pages": (b"/.portero/", "route-unknown"),
    "own-pages-escaped": (b"/%2eportero/x", "route-unknown"),
    "metrics": (b"/metrics", "route-unknown"),
    "health": (b"/livez", "route-unknown"),
    "ready": (b"/healthz", "route-unknown"),
    "root": (b"/", "route-unknown"),
    "encoded-slash-in-name": (b"/function%2fsurvey-web", "bad-request"),
    "encoded-slash-nowhere": (b"/a%2fb", "bad-request"),
}


@pytest.mark.parametrize(("target", "reason"), ELSEWHERE.values(), ids=ELSEWHERE.keys())
async def test_no_spelling_leads_elsewhere(target: bytes, reason: str, siege: Siege) -> None:
    """R1, R7, T8: another case, namespace or name is another thing; health and metrics are not served here."""
    await siege.refused(get(target), reason)


PROTECTED_SPELLINGS: Final[list[bytes]] = [
    b"/function/survey-report",
    b"/function/survey-report.acme",
    b"/function/%73urvey-report",
    b"/function/survey%2dreport",
    b"/%66unction/survey-report/x",
    b"/function/survey-report?/function/survey-web",
    b"/function/survey-report?x=/../survey-web",
    b"/reports/es",
    b"/reports/%65s",
    b"/%72eports/es",
    b"http://acme.test/reports/es",
    b"HTTP://ACME.TEST/function/survey-report",
]


@pytest.mark.parametrize("target", PROTECTED_SPELLINGS, ids=lambda target: target.decode())
async def test_every_spelling_of_a_protected_function_is_protected(target: bytes, siege: Siege) -> None:
    """A query, an escape or an absolute-form never turns it into the public one beside it (R7, GHSA-7rh7-c77v-6434)."""
    await siege.refused(get(target), "credential-missing")


INTERNAL_SPELLINGS: Final[list[bytes]] = [
    b"/internal",
    b"/internal/",
    b"/internal/x",
    b"/%69nternal",
    b"/%69%6e%74%65%72%6e%61%6c/x",
    b"/internal?x=/public",
    b"/internal%2fx",
    b"/%2finternal",
    b"//internal",
    b"/./internal",
    b"/x/../internal",
    b"/x/%2e%2e/internal",
    b"/%2569nternal",
    b"/%25%36%39nternal",
    b"/%252e%252e/internal",
    b"/x/%252e%252e/internal",
    b"/%252finternal",
    b"/x%252f..%252finternal",
    b"/%3f/../internal",
    b"/%3f%2f..%2finternal",
    b"/%23/internal",
    b"/internal%3f",
    b"/internal%23",
    b"/internal%3fx",
    b"/internal%00",
    b"/internal%20",
    b"/internal;x",
    b"/;/internal",
    b"/;x=1/internal",
    b"/%5cinternal",
    b"\\internal",
    b"/x\\..\\internal",
    b"/%c0%afinternal",
    b"/%EF%BC%8Finternal",
    b"/internal%c2%a0",
    b"/x%3f%252finternal",
]


@pytest.mark.parametrize("accept", [b"", b"Accept: text/event-stream\r\n"], ids=["plain", "event-stream"])
@pytest.mark.parametrize("function", [b"survey-web", b"files"])
@pytest.mark.parametrize("tail", INTERNAL_SPELLINGS, ids=lambda tail: tail.decode())
async def test_no_spelling_gets_past_a_deny_rule(tail: bytes, function: bytes, accept: bytes, siege: Siege) -> None:
    """
    R11, R32, R34: a path under ``/internal`` is denied. Whatever is served instead reaches the function as another
    path than that, read as the platform reads it: its gateway decodes twice, or once for an event stream.
    """
    siege.forget()
    answer = (await siege.throw(get(b"/function/" + function + tail, fields=accept))).only
    if answer.status == 200:
        seen = siege.faas.requests[-1]
        assert not _is_internal(seen.path), seen
        assert seen.path == _decoded(tail), "the function sees what was judged"
        assert seen.query == (tail.partition(b"?")[2] if b"?" in tail else None)
        assert seen.function.encode() == function
    else:
        siege.check_refusal(answer)
        assert answer.reason in {"bad-request", "denied-by-rule"}
        siege.check_untouched()


def _is_internal(path: bytes) -> bool:
    return path.strip(b"/\\").split(b"/")[0].partition(b";")[0] == b"internal"


def _decoded(tail: bytes) -> bytes:
    """Once, as policy reads it."""
    return unquote_to_bytes(tail.partition(b"?")[0])


SERVED: Final[dict[str, tuple[bytes, bytes, bytes | None]]] = {
    "bare": (b"", b"/", None),
    "slash": (b"/", b"/", None),
    "plain": (b"/a/b", b"/a/b", None),
    "trailing-slash": (b"/a/", b"/a/", None),
    "escaped-letter": (b"/%61", b"/a", None),
    "space": (b"/a%20b", b"/a b", None),
    "utf-8": (b"/%c3%a9", "/é".encode(), None),
    "percent": (b"/100%25", b"/100%", None),
    "twice-encoded": (b"/%252e%252e/x", b"/%2e%2e/x", None),
    "question-mark": (b"/a%3fb", b"/a?b", None),
    "hash": (b"/a%23b", b"/a#b", None),
    "parameters": (b"/a;v=1/b", b"/a;v=1/b", None),
    "colon": (b"/a:b", b"/a:b", None),
    "dots-in-name": (b"/a..b/.c/d.", b"/a..b/.c/d.", None),
    "three-dots": (b"/...", b"/...", None),
    "query": (b"/a?b=/../c&d=%2f", b"/a", b"b=/../c&d=%2f"),
    "query-empty": (b"/a?", b"/a", b""),
    "query-of-questions": (b"/a??", b"/a", b"?"),
}


@pytest.mark.parametrize(("tail", "path", "query"), SERVED.values(), ids=SERVED.keys())
async def test_what_is_unambiguous_is_served_as_it_was_meant(
    tail: bytes, path: bytes, query: bytes | None, siege: Siege
) -> None:
    """The tables above refuse for what is wrong with their rows and for nothing else."""
    siege.forget()
    answer = (await siege.throw(get(WEB + tail))).only
    assert answer.status == 200, answer.wire
    seen = siege.faas.requests[-1]
    assert (seen.path, seen.query or None) == (path, query or None)
    assert b"\r\nHost: acme" not in siege.tap.wire, "the platform's own name stands there"


async def test_an_absolute_form_that_agrees_with_host_leaves_as_a_path(siege: Siege) -> None:
    """RFC 9112 section 3.2.2: accepted, and never passed on as it came."""
    for target in (b"http://acme.test/function/survey-web/x?y", b"HTTPS://ACME.test/function/survey-web/x?y"):
        siege.forget()
        assert (await siege.throw(get(target))).only.status == 200
        assert (siege.faas.requests[-1].path, siege.faas.requests[-1].query) == (b"/x", b"y")
        # Before it the platform may have been asked whether the function is awake.
        lines = [line for line in siege.tap.wire.split(b"\r\n") if line.endswith(b" HTTP/1.1")]
        assert lines[-1] == b"GET /function/survey-web.acme/x?y HTTP/1.1"
        assert all(line.startswith(b"GET /system/function/") for line in lines[:-1])


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (WEB + b"/" + b"a" * 8192, 414),
        (WEB + b"?" + b"a" * 8192, 414),
        (WEB + b"/" + b"a/" * 4096, 414),
        (WEB + b"/" + b"%61" * 2731, 414),
        (WEB + b"/" + b"a" * 100_000, 431),
        (WEB + b"?" + b"a" * 100_000, 431),
        (b"/" * 60_000, 431),
    ],
    ids=["path", "query", "segments", "escapes", "100-KiB", "100-KiB-query", "slashes"],
)
async def test_a_target_that_is_too_long_is_refused(target: bytes, status: int, siege: Siege) -> None:
    """8 KiB by our own rule (414); what the parser gives up on is 431."""
    answer = await siege.refused(get(target), "head-too-large")
    assert answer.status == status


PIECES: Final = [
    *[
        b"/",
        b"//",
        b".",
        b"..",
        b"%2e",
        b"%2E",
        b"%2f",
        b"%5c",
        b"\\",
        b";",
        b"%3b",
        b"%25",
        b"%252e",
        b"%252f",
        b"%3f",
    ],
    *[
        b"%23",
        b"internal",
        b"%69nternal",
        b"public",
        b"a",
        b"%00",
        b"%0a",
        b"%c3%a9",
        b"%c0%ae",
        b"%",
        b"~",
        b":",
        b"@",
    ],
]


async def test_random_paths_are_refused_or_arrive_as_judged(siege: Siege) -> None:
    """
    R11, R34 over 1,000 targets of hostile pieces: none is answered 5xx, none reaches ``/internal``, and each that is
    served is seen by the function as policy read it.
    """
    chance = random.Random(20261124)  # repeatable, not secret
    served = 0
    for _ in range(50):
        siege.forget()
        tails = [b"/" + b"".join(chance.choices(PIECES, k=chance.randint(1, 7))) for _ in range(20)]
        answers = await asyncio.gather(*(siege.throw(get(WEB + tail)) for tail in tails))
        for tail, answered in zip(tails, answers, strict=True):
            answer = answered.only
            assert answer.status in {200, 400, 403}, (tail, answer.wire)
            if answer.status == 200:
                served += 1
                seen = answer.json()["path"].encode()
                assert seen == _decoded(tail)
                assert not _is_internal(seen)
        assert len(siege.faas.requests) == sum(answered.only.status == 200 for answered in answers)
    assert served > 100


async def test_a_refused_path_is_not_repeated(siege: Siege) -> None:
    """R52: neither plain nor escaped nor as HTML."""
    secret = CANARY.encode()
    for tail in (b"/../" + secret, b"/%00" + secret, b"#" + secret, b"/" + secret + b"%", b"?a=" + secret + b"#"):
        await siege.refused(get(WEB + tail), "bad-request")
    page = b"Accept: text/html\r\nSec-Fetch-Mode: navigate\r\n"
    for target in (WEB + b"/../<b>" + secret, b"/unknown/" + secret):
        answer = (await siege.throw(get(target, fields=page))).only
        assert secret not in answer.wire
