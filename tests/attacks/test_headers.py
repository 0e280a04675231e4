"""
Attack family A2, header smuggling: what a function believes comes from Portero alone, whatever the client wrote.

Looked at is the head on the wire to the platform, byte for byte, and not what some server made of it.
"""

from __future__ import annotations

import itertools
from typing import Final

import pytest

from tests.attacks.test_smuggled_bodies import WEBSOCKET
from tests.fakes.siege import CANARY, STATUS, Siege

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET: Final = CANARY.encode()
SPOOFABLE: Final = [
    # ours, under every prefix of design section 5, and what else a function might believe
    *["X-Portero-Subject", "X-Portero-Groups", "X-Portero-Assertion", "X-Portero-Pass", "X-Portero-Anything"],
    *["X-Portero-Groups-Truncated", "X-Portero-Reason", "X-Portero-Cold-Start"],
    *["X-Auth-Request-User", "X-Auth-Request-Email", "X-Auth-Request-Groups"],
    *["X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-For", "X-Forwarded-Host"],
    *["X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Uri", "X-Forwarded-Method"],
    *["X-Forwarded-Client-Cert", "X-Forwarded", "Forwarded", "Forwarded-For", "X-Real-Ip"],
    *["X-Original-Url", "X-Original-Uri", "X-Original-Method", "X-Original-Forwarded-For", "X-Rewrite-Url"],
    *["X-Tenant", "X-Tenant-Id", "X-TenantId", "X-Scope-OrgId", "X-Dispatch-User", "X-Dispatch-Anything"],
    *["X-Consumer-Id", "X-Consumer-Username", "X-Consumer-Groups", "X-Credential-Identifier"],
    *["Knative-Serving-Namespace", "Knative-Serving-Revision", "K-Network-Hash", "K-Proxy-Request"],
    *["X-OpenFaaS-Internal", "X-OpenFaaS-Anything", "X-Callback-Url", "X-Request-Id"],
    *["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"],
    # what proxies call the certificate that a client has shown them
    *["Client-Cert-Chain", "X-Client-Cert", "X-Client-Certificate", "X-Client-Verify", "X-Client-Dn"],
    *["SSL-Client-Cert", "SSL-Client-Verify", "SSL-Client-Subject-Dn", "X-SSL-Client-Cert", "X-SSL-Cert"],
    *["X-Tls-Client-Cert", "X-Arr-ClientCert", "X-Amzn-Mtls-Clientcert"],
    # hop-by-hop
    *["Proxy-Authorization", "Proxy-Connection", "Proxy-Authenticate", "Keep-Alive", "TE", "Trailer", "Http2-Settings"],
]
READ_ELSEWHERE: Final = [
    "Authorization",
    "Cookie",
    "Host",
    "Connection",
    "Upgrade",
    "X-Dispatch-Org",
    "X-Portero-Tenant",
    "Client-Cert",
]
"""Their own spelling means something and is tested apart; every other spelling is removed."""
KEPT: Final = {
    "X-Custom": "a",
    "X_Custom": "b",
    "Accept-Language": "es",
    "X-Porter": "c",
    "X-Forward": "d",
    "Portero-X": "e",
    "Dispatch": "f",
    "If-None-Match": '"x"',
    "Range": "bytes=0-1",
}


def spellings(name: str) -> set[str]:
    """Every mix of ``-`` and ``_``, in four cases, and what CGI folds into the same besides."""
    parts = name.split("-")
    mixed = {
        "".join(itertools.chain.from_iterable(zip(parts, [*joints, ""], strict=True)))
        for joints in itertools.product("-_", repeat=len(parts) - 1)
    }
    folded = {name.replace("-", sign) for sign in ".~!|"} if len(parts) > 1 else set()
    return {cased(text) for text in mixed | folded for cased in (str, str.lower, str.upper, str.swapcase)}


ALL_SPELLINGS: Final = sorted(
    set().union(*map(spellings, SPOOFABLE))
    | {text for name in READ_ELSEWHERE for text in spellings(name) if text.lower() != name.lower()}
)
BATCHES: Final = [ALL_SPELLINGS[at : at + 90] for at in range(0, len(ALL_SPELLINGS), 90)]


def head(line: bytes, fields: bytes, *, host: bytes = b"acme.test") -> bytes:
    return b"%b HTTP/1.1\r\nHost: %b\r\n%b" % (line, host, fields)


def request(line: bytes, fields: bytes, body: bytes = b"", *, host: bytes = b"acme.test") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return head(line, fields + length, host=host) + b"Connection: close\r\n\r\n" + body


def spoof(names: list[str]) -> bytes:
    return b"".join(b"%b: %b\r\n" % (name.encode(), SECRET) for name in names)


def check_received(siege: Siege, *, subject: bytes | None) -> None:
    """What left holds nothing of the attacker's, and each of our own fields exactly once."""
    sent = siege.to_functions
    assert sent, "the request was meant to arrive"
    assert SECRET not in sent, [line for line in sent.split(b"\r\n") if SECRET in line]
    names = [line.partition(b":")[0].lower() for line in sent.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    for name in (b"host", b"x-portero-tenant", b"x-request-id", b"traceparent", b"x-forwarded-for"):
        assert names.count(name) == 1, (name, sent)
    assert names.count(b"x-portero-subject") == (subject is not None)
    if subject is not None:
        assert b"\r\nX-Portero-Subject: %b\r\n" % subject in sent
    for line in (b"X-Portero-Tenant: acme", b"X-Forwarded-For: 127.0.0.1", b"X-Forwarded-Proto: http"):
        assert b"\r\n%b\r\n" % line in sent
    assert b"\r\nX-Forwarded-Host: acme.test\r\n" in sent


@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: batch[0])
async def test_no_spelling_of_a_field_of_ours_reaches_a_public_function(batch: list[str], siege: Siege) -> None:
    """R6, R23 (CVE-2025-64484, GHSA-5m6w-wvh7-57vm): nor a route, with or without a body."""
    for wire in (
        request(b"GET /function/survey-web", spoof(batch)),
        request(b"POST /function/survey-submit", spoof(batch), b"hello"),
        request(b"OPTIONS /function/survey-web", spoof(batch)),
        request(b"HEAD /function/survey-web", spoof(batch)),
    ):
        siege.forget()
        assert (await siege.throw(wire)).only.status == 200
        check_received(siege, subject=None)


@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: batch[0])
async def test_no_spelling_reaches_a_protected_function(batch: list[str], siege: Siege) -> None:
    """R6, R33: beside a good token, directly and by a route; identity is written last."""
    bearer = b"Authorization: Bearer %b\r\n" % siege.token.encode()
    for line in (b"GET /function/survey-report", b"GET /reports/es"):
        for fields in (bearer + spoof(batch), spoof(batch) + bearer):
            siege.forget()
            assert (await siege.throw(request(line, fields))).only.status == 200
            check_received(siege, subject=b"login|ana")
            assert b"\r\nX-Portero-Groups: analysts\r\n" in siege.to_functions
            assert b"uthorization" not in siege.to_functions


@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: batch[0])
async def test_no_spelling_passes_with_a_websocket_upgrade(batch: list[str], siege: Siege) -> None:
    """R23: the tunnel's head is made in the same way."""
    siege.forget()
    await siege.throw(head(b"GET /function/survey-web", WEBSOCKET + spoof(batch)) + b"\r\n")
    assert b"\r\nupgrade: websocket\r\n" in siege.to_functions.lower()
    check_received(siege, subject=None)


async def test_no_spelling_passes_with_a_held_request(siege: Siege) -> None:
    """R23: what waits for a cold start is sent as it was judged."""
    key = "survey-report.acme"
    siege.faas.awake[key] = 0
    await siege.world.app.parts.folder.reload()
    siege.faas.add("survey-report", "acme", replicas=0, start_s=0.05)
    bearer = b"Authorization: Bearer %b\r\n" % siege.token.encode()
    siege.forget()
    assert (await siege.throw(request(b"GET /function/survey-report", bearer + spoof(BATCHES[0])))).only.status == 200
    assert siege.faas.wake_calls == [key]
    assert SECRET not in siege.to_functions
    assert siege.to_functions.count(b"X-Portero-Subject: login|ana\r\n") >= 1


async def test_no_field_of_ours_chooses_whether_a_credential_is_needed(siege: Siege) -> None:
    """R1, R2, R37 (CVE-2026-40575): on a protected path, each spelling of each name still gets 401."""
    for batch in BATCHES:
        await siege.refused(request(b"GET /function/survey-report", spoof(batch)), "credential-missing")
    for value in (b"kube-probe/1.29", b"GoogleHC/1.0", b"ELB-HealthChecker/2.0", b"Portero"):
        await siege.refused(
            request(b"GET /function/survey-report", b"User-Agent: %b\r\n" % value), "credential-missing"
        )


@pytest.mark.parametrize(
    "fields",
    [
        b"X-Forwarded-Uri: /function/survey-web\r\nX-Original-Url: /function/survey-web\r\nX-Rewrite-Url: /\r\n",
        b"X-Forwarded-Method: OPTIONS\r\nX-HTTP-Method-Override: OPTIONS\r\n",
        b"X-Forwarded-For: 10.0.0.1\r\nX-Real-IP: 127.0.0.1\r\nForwarded: for=10.0.0.1;host=acme.test;proto=https\r\n",
    ],
)
async def test_what_a_stranger_says_of_the_request_is_not_judged(fields: bytes, siege: Siege) -> None:
    """R2, R10, R19: path, method and address are those of the connection."""
    await siege.refused(request(b"GET /function/survey-report", fields), "credential-missing")
    siege.forget()
    assert (await siege.throw(request(b"GET /function/survey-web/a", fields))).only.status == 200
    check_received(siege, subject=None)
    assert siege.faas.requests[-1].path == b"/a"


async def test_a_stranger_does_not_make_http_https(siege: Siege) -> None:
    """R2: of two fields that disagree neither is believed from a peer nobody trusts."""
    for fields in (
        b"",
        b"X-Forwarded-Proto: https\r\n",
        b"X_Forwarded_Proto: https\r\n",
        b"Forwarded: proto=https\r\n",
        b"X-Forwarded-Proto: https\r\nForwarded: proto=http\r\n",
        b"X-Forwarded-Ssl: on\r\nFront-End-Https: on\r\n",
    ):
        await siege.refused(request(b"GET /secure", fields), "https-required")


async def test_what_means_nothing_here_passes_as_it_was(siege: Siege) -> None:
    """The tables above remove what is dangerous and nothing else; long values and bytes beyond ASCII included."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in KEPT.items()).encode()
    long, odd = b"X-Long: %b\r\n" % (b"l" * 8000), b"X-Odd: \xff\xfe\xc3\xa9\r\n"
    siege.forget()
    assert (await siege.throw(request(b"GET /function/survey-web", fields + long + odd))).only.status == 200
    assert fields + long + odd in siege.to_functions


CONNECTION_ATTACKS: Final = [
    *["X-Portero-Subject", "x-portero-tenant", "X_Portero_Subject", "X-Portero-Groups", "X-Request-Id"],
    *["X-Forwarded-For", "X-Forwarded-User", "X_Forwarded_For", "x-forwarded-host", "Forwarded", "X-Real-IP"],
    *["Host", "Authorization", "Cookie", "Content-Length", "Transfer-Encoding", "Content_Length", "Connection"],
    *["Traceparent", "Accept", "Origin", "Sec-WebSocket-Key", "X-Auth-Request-User", "X-Consumer-Id", "Expect"],
    *["X-Dispatch-Org", "X-Tenant-Id", "X-Scope-OrgID", "K-Network-Hash", "X-OpenFaaS-Internal", "X-Callback-Url"],
    *["bad name", "a(b)", '"close"', "\u00fc", "a\tb", ":"],
]


@pytest.mark.parametrize("token", CONNECTION_ATTACKS)
@pytest.mark.parametrize("form", ["{}", "close, {}", "{},close", "x-a ,\t{}", "keep-alive,,{},"])
async def test_connection_takes_none_of_our_fields_away(token: str, form: str, siege: Siege) -> None:
    """R33 (CVE-2025-48865): 400 and nothing sent on, wherever in the list, in whatever spelling."""
    fields = b"Connection: %b\r\n" % form.format(token).encode()
    bearer = b"Authorization: Bearer %b\r\n" % siege.token.encode()
    line = b"GET /function/survey-report"
    await siege.refused(head(line, bearer + fields) + b"\r\n", "bad-request", half_close=True)
    await siege.refused(head(line, b"Connection: x-a\r\n" + fields) + b"\r\n", "bad-request", half_close=True)


async def test_connection_takes_away_what_is_the_clients_own(siege: Siege) -> None:
    """RFC 9110 section 7.6.1, in every case, and named in any of several fields."""
    fields = b"X-Mine: %b\r\nx-mine: %b\r\nX-Other: %b\r\nConnection: X-MINE\r\nConnection: x-Other\r\n" % (
        (SECRET,) * 3
    )
    siege.forget()
    assert (await siege.throw(request(b"GET /function/survey-web", fields))).only.status == 200
    check_received(siege, subject=None)


TWICE: Final = {
    "authorization": (b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", "credential-ambiguous"),
    "authorization-same": (b"Authorization: Bearer a\r\n" * 2, "credential-ambiguous"),
    "authorization-case": (b"Authorization: Bearer a\r\nauthorization: Bearer a\r\n", "credential-ambiguous"),
    "authorization-basic": (b"Authorization: Basic a\r\nAuthorization: Bearer a\r\n", "credential-ambiguous"),
    "origin": (b"Origin: https://a.test\r\nOrigin: https://b.test\r\n", "bad-request"),
    "fetch-site": (b"Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n", "bad-request"),
    "fetch-mode": (b"Sec-Fetch-Mode: navigate\r\nSec-Fetch-Mode: cors\r\n", "bad-request"),
    "idempotency-key": (b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n", "bad-request"),
    "tenant": (b"X-Dispatch-Org: acme\r\nX-Dispatch-Org: globex\r\n", "tenant-conflict"),
    "tenant-list": (b"X-Dispatch-Org: acme, globex\r\n", "tenant-conflict"),
    "tenant-both": (b"X-Dispatch-Org: acme\r\nX-Portero-Tenant: globex\r\n", "tenant-conflict"),
    "tenant-other": (b"X-Portero-Tenant: globex\r\n", "tenant-conflict"),
    "tenant-case": (b"X-Portero-Tenant: ACME\r\n", "tenant-conflict"),
    "tenant-empty": (b"X-Portero-Tenant: \r\n", "tenant-conflict"),
    "tenant-bytes": (b"X-Portero-Tenant: acme\xff\r\n", "bad-request"),
    "authorization-bytes": (b"Authorization: Bearer a\xff\r\n", "bad-request"),
    "authorization-control": (b"Authorization: Bearer a\tb\r\n", "bad-request"),
    "cookie-bytes": (b"Cookie: a=\xff\r\n", "bad-request"),
    "cookie-control": (b"Cookie: a=\x1b\r\n", "bad-request"),
    "origin-bytes": (b"Origin: https://\xff\r\n", "bad-request"),
    "forwarded-for-bytes": (b"X-Forwarded-For: \xff\r\n", "bad-request"),
    "authorization-dpop": (b"Authorization: DPoP a\r\nAuthorization: Bearer a\r\n", "credential-ambiguous"),
    "dpop": (b"DPoP: a.b.c\r\nDPoP: d.e.f\r\n", "bad-request"),
    "dpop-same": (b"DPoP: a.b.c\r\ndpop: a.b.c\r\n", "bad-request"),
    "dpop-bytes": (b"DPoP: a\xff\r\n", "bad-request"),
    "dpop-control": (b"DPoP: a\tb\r\n", "bad-request"),
    "dpop-9-KiB": (b"DPoP: %b\r\n" % (b"a" * 9216), "bad-request"),
    "client-cert": (b"Client-Cert: :MAMCAQU=:\r\nclient-cert: :MAMCAQU=:\r\n", "bad-request"),
    "client-cert-bytes": (b"Client-Cert: \xff\r\n", "bad-request"),
    "authorization-9-KiB": (b"Authorization: Bearer %b\r\n" % (b"a" * 9216), "credential-invalid"),
    "authorization-empty": (b"Authorization: \r\n", "credential-invalid"),
}


@pytest.mark.parametrize(("fields", "reason"), TWICE.values(), ids=TWICE.keys())
async def test_a_field_that_decides_stands_once_and_is_clean(fields: bytes, reason: str, siege: Siege) -> None:
    """R35, R38, R40 (CVE-2026-26308): no first or last value wins, also where no credential is needed."""
    for line in (b"GET /function/survey-web", b"GET /function/survey-report"):
        answer = await siege.refused(request(line, fields), reason)
        assert answer.status == STATUS[reason]


async def test_eight_kibibytes_of_a_spoofed_field_are_removed_as_well(siege: Siege) -> None:
    """Length changes nothing, and the largest head that is accepted is judged like any other."""
    for name in (b"X-Portero-Subject", b"x_forwarded_user", b"X-Tenant-Id"):
        siege.forget()
        fields = b"%b: %b\r\n" % (name, SECRET * 800)
        assert (await siege.throw(request(b"GET /function/survey-web", fields * 3))).only.status == 200
        check_received(siege, subject=None)


async def test_credentials_stay_here_unless_the_function_is_to_have_them(siege: Siege) -> None:
    """R55: Authorization and our cookies; other cookies are between browser and function."""
    fields = b"Authorization: Bearer %b\r\nCookie: a=1; __Host-portero-session=%b; b=2\r\n" % (
        siege.token.encode(),
        SECRET,
    )
    siege.forget()
    assert (await siege.throw(request(b"GET /function/survey-report", fields))).only.status == 200
    assert SECRET not in siege.to_functions
    assert siege.token.encode() not in siege.to_functions
    assert b"\r\nCookie: a=1; b=2\r\n" in siege.to_functions
    siege.forget()
    assert (await siege.throw(request(b"GET /function/raw", fields))).only.status == 200
    assert siege.token.encode() in siege.to_functions


async def test_proofs_and_certificates_stay_here_whatever_the_function_is_to_have(siege: Siege) -> None:
    """R55: made for Portero, and a function could use or believe them; also where credentials are forwarded."""
    fields = b"Authorization: Bearer %b\r\nDPoP: %b\r\nClient-Cert: %b\r\n" % (siege.token.encode(), SECRET, SECRET)
    for line in (b"GET /function/survey-report", b"GET /function/survey-web", b"GET /function/raw"):
        siege.forget()
        assert (await siege.throw(request(line, fields))).only.status == 200
        assert SECRET not in siege.to_functions
        names = [line.partition(b":")[0].lower() for line in siege.to_functions.split(b"\r\n")]
        assert not {b"dpop", b"client-cert"} & set(names)
