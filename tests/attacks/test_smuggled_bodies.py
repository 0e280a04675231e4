"""
Attack family A16, what hides behind a request: in its body, its trailer, its upgrade, its pipeline.

What a request carries is never read as a request, and what follows one is judged by itself alone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

import pytest

from tests.attacks.test_smuggling import CHUNKED, END, POST, SECRET, SMUGGLED
from tests.fakes.siege import Siege, split_answers
from tests.fakes.world import RawAnswer

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRAMED: Final[dict[str, Callable[[bytes], bytes]]] = {
    "length": lambda body: b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
    "chunked": lambda body: CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
    "chunk-by-chunk": lambda body: CHUNKED + b"\r\n" + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + END,
}
REFUSALS: Final = {
    "path": (b"POST /function/survey-web/../x HTTP/1.1\r\nHost: acme.test\r\n", "bad-request"),
    "tenant": (b"POST / HTTP/1.1\r\nHost: evil.test\r\n", "tenant-unknown"),
    "route": (b"POST /nowhere HTTP/1.1\r\nHost: acme.test\r\n", "route-unknown"),
    "credential": (b"POST /function/survey-report HTTP/1.1\r\nHost: acme.test\r\n", "credential-missing"),
    "bad-credential": (POST + b"Authorization: Bearer x\r\n", "credential-invalid"),
    "rule": (b"POST /function/survey-web/internal HTTP/1.1\r\nHost: acme.test\r\n", "denied-by-rule"),
    "method": (b"TRACE /function/survey-web HTTP/1.1\r\nHost: acme.test\r\n", "method-not-allowed"),
    "connection": (POST + b"Connection: X-Portero-Subject\r\n", "bad-request"),
}


@pytest.mark.parametrize("framing", FRAMED)
@pytest.mark.parametrize(("head", "reason"), REFUSALS.values(), ids=REFUSALS)
async def test_the_body_of_a_refused_request_is_no_request(
    head: bytes, reason: str, framing: str, siege: Siege
) -> None:
    """CVE-2025-31492's lesson and A16: whatever the refusal, the body is dropped, in whatever pieces it comes."""
    for cut in (None, 1, len(SMUGGLED) // 2):
        siege.forget()
        wire = head + FRAMED[framing](SMUGGLED * 2)
        async with siege.client() as client:
            at = len(wire) if cut is None else wire.index(b"\r\n\r\n") + 4 + cut
            client.writer.write(wire[:at])
            await asyncio.sleep(0.005)
            client.writer.write(wire[at:] + SMUGGLED.replace(b"smuggled", b"honest"))
            answers = split_answers(await client.until_end())
        siege.check_refusal(answers[0], reason)
        assert len(answers) <= 2
        assert b"smuggled" not in siege.sent_on
        assert [seen.path for seen in siege.faas.requests] == [b"/honest"] * (len(answers) - 1)


async def test_a_body_over_its_limit_is_no_request(siege: Siege) -> None:
    """413 at once by its length, or as soon as the chunks exceed it; the rest is never read as a request."""
    head = b"POST /function/survey-submit HTTP/1.1\r\nHost: acme.test\r\n"
    for framing in FRAMED.values():
        siege.forget()
        answered = await siege.throw(head + framing(SMUGGLED * 20) + SMUGGLED.replace(b"smuggled", b"honest"))
        siege.check_refusal(answered.answers[0], "body-too-large")
        assert [seen.path for seen in siege.faas.requests] == [b"/honest"] * (len(answered.answers) - 1)


@pytest.mark.parametrize(
    "length", [b"Content-Length: 100\r\n\r\nabc", CHUNKED + b"\r\n64\r\nabc", CHUNKED + b"\r\n3\r\nabc\r\n"]
)
@pytest.mark.parametrize("way", ["fin", "rst", "half-close"])
async def test_half_a_body_is_never_a_request(length: bytes, way: str, siege: Siege) -> None:
    """A client that leaves in the middle: the function's connection breaks off as well, and is used for nobody else."""
    siege.forget()
    async with siege.client() as client:
        await client.send(POST + length)
        await asyncio.sleep(0.03)
        if way == "half-close":
            client.writer.write_eof()
        elif way == "fin":
            client.close()
        else:
            client.reset()
        await asyncio.sleep(0.03)
    assert not siege.faas.requests
    assert b"\r\n0\r\n" not in siege.sent_on
    await siege.still_serves()
    assert [seen.path for seen in siege.faas.requests] == [b"/honest"]


async def test_a_body_longer_than_its_length_is_not_part_of_it(siege: Siege) -> None:
    """The function gets what was announced; what is left over must be a request of its own, and is judged as one."""
    for rest, reason in ((b"extra\r\n\r\n", "bad-request"), (b"GET /nowhere HTTP/1.1\r\nHost: acme.test\r\n", None)):
        siege.forget()
        async with siege.client() as client:
            await client.send(POST + b"Content-Length: 3\r\n\r\nabc")
            first = await client.answer()
            await client.send(rest)
            if reason is not None:
                assert (await client.answer()).field("x-portero-reason") == reason
        assert first.status == 200
        assert [seen.body for seen in siege.faas.requests] == [b"abc"]


async def test_each_of_a_pipeline_is_judged_by_itself(siege: Siege) -> None:
    """No credential, tenant or verdict of one request is left for the next one (F: pipelined poison)."""
    lines = b"GET /function/survey-report HTTP/1.1\r\nHost: %b\r\n%b\r\n"
    bearer = b"Authorization: Bearer %b\r\n" % siege.token.encode()
    order: list[tuple[bytes, bytes, int]] = [
        (b"acme.test", b"", 401),
        (b"acme.test", bearer, 200),
        (b"acme.test", b"", 401),
        (b"globex.test", bearer, 403),
        (b"acme.test", bearer, 200),
        (b"acme.test", b"Authorization: Bearer x\r\n", 401),
        (b"evil.test", bearer, 404),
        (b"acme.test", bearer + b"Connection: X-Portero-Tenant\r\n", 400),
    ]
    siege.forget()
    wire = b"".join(lines % (host, fields) for host, fields, _ in order[:-1])
    host, fields, _ = order[-1]
    answers = (await siege.throw(wire + lines % (host, fields + b"Connection: close\r\n"))).answers
    assert [answer.status for answer in answers] == [status for _, _, status in order][: len(answers)]
    assert len(answers) == len(order)
    assert siege.faas.requests == siege.faas.requests[:2]
    assert siege.sent_on.count(b"X-Portero-Subject: login|ana\r\n") == 2


def _kinds(siege: Siege) -> list[bytes]:
    """Heads that differ in one thing each: target, method, host, credential, a field, the order or case of fields."""
    bearers = [siege.token, siege.world.token("eve"), siege.world.token(tenants=("globex",)), "x"]
    credentials = [b"", *[b"Authorization: Bearer %b\r\n" % token.encode() for token in bearers]]
    lines = [b"GET /function/survey-report/a", b"GET /function/survey-report/b"]
    lines += [b"GET /function/survey-web", b"GET /function/survey-web/internal", b"POST /function/survey-report/a"]
    rests = [
        b"",
        b"Accept: text/html\r\nSec-Fetch-Mode: navigate\r\n",
        b"X-Portero-Tenant: globex\r\n",
        b"Cookie: a=1\r\n",
    ]
    return [
        b"%b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n" % (line, host, *fields)
        for line in lines
        for host in (b"acme.test", b"globex.test")
        for credential in credentials
        for rest in rests
        for fields in ((credential, rest), (rest, credential))
    ]


def _meaning(answer: RawAnswer) -> tuple[object, ...]:
    """What an answer says, but for what is different each time."""
    if answer.status != 200:
        return answer.status, answer.reason, answer.field("content-type"), answer.field("www-authenticate")
    seen = answer.json()
    fields = [(k, v) for k, v in seen["fields"] if k.lower() not in {"x-request-id", "traceparent"}]
    return 200, seen["function"], seen["namespace"], seen["method"], seen["target"], fields


async def test_the_past_of_a_connection_changes_no_answer(siege: Siege) -> None:
    """
    Whatever was asked before on the same connection, an answer is the one it would be on a fresh one: memos of heads,
    tokens and places are never somebody else's (datapath hazards; A11).
    """
    kinds = _kinds(siege)
    fresh: dict[bytes, tuple[object, ...]] = {}
    for kind in kinds:
        fresh[kind] = _meaning((await siege.throw(kind[:-2] + b"Connection: close\r\n\r\n")).only)
    assert {meaning[0] for meaning in fresh.values()} == {200, 400, 401, 403}
    chance = random.Random(11)
    for _ in range(30):
        order = chance.choices(kinds, k=20)
        order += chance.choices(order[-3:], k=10)  # repeated, as a memo wants it
        wire = b"".join(order[:-1]) + order[-1][:-2] + b"Connection: close\r\n\r\n"
        answers = (await siege.throw(wire)).answers
        for kind, answer in zip(order, answers, strict=True):
            assert _meaning(answer) == fresh[kind], kind


@pytest.mark.parametrize("refused_first", [15, 31])
async def test_a_pipeline_longer_than_the_queue_keeps_its_order(refused_first: int, siege: Siege) -> None:
    """RFC 9112 section 9.3.2: an answer given to another request than its own is a stranger's answer behind a proxy."""
    order = [b"/nowhere"] * refused_first + [b"/function/survey-web/here"] + [b"/nowhere"] * 17
    wire = b"".join(b"GET %b HTTP/1.1\r\nHost: acme.test\r\n\r\n" % target for target in order)
    async with siege.client() as client:
        client.writer.write(wire)
        statuses = [(await client.answer()).status for _ in order]
    assert statuses == [404 if target == b"/nowhere" else 200 for target in order]


UPGRADES: Final = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    "h2c-no-connection": b"Upgrade: h2c\r\n",
    "tls": b"Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
    "websocket-without-key": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "websocket-short-key": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: a\r\n",
    "websocket-version-12": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 12\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "websocket-and-h2c": b"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "websocket-twice": b"Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
}
WEBSOCKET: Final = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize("fields", UPGRADES.values(), ids=UPGRADES.keys())
async def test_an_upgrade_to_anything_else_is_none(fields: bytes, siege: Siege) -> None:
    """h2c smuggling: the function never sees Upgrade, so it can never switch; what follows is no request of its own."""
    siege.forget()
    answered = await siege.throw(
        b"GET /function/survey-web HTTP/1.1\r\nHost: acme.test\r\n" + fields + b"\r\n" + SMUGGLED
    )
    assert answered.answers[0].status in {200, 400}
    lowered = siege.sent_on.lower()
    for word in (b"upgrade", b"h2c", b"http2-settings"):
        assert word not in lowered
    if len(answered.answers) > 1:
        assert [seen.path for seen in siege.faas.requests] == [b"/", b"/smuggled"]
    else:
        assert b"smuggled" not in lowered


@pytest.mark.parametrize("target", ["/function/survey-report", "/function/survey-web/internal", "/function/survey-web"])
async def test_bytes_behind_a_refused_upgrade_are_no_request(target: str, siege: Siege) -> None:
    """Refused by us or declined by the function (which answers 200 here): the tunnel's bytes go nowhere."""
    siege.forget()
    wire = f"GET {target} HTTP/1.1\r\nHost: acme.test\r\n".encode() + WEBSOCKET + b"\r\n" + SMUGGLED
    answer = (await siege.throw(wire)).only
    assert answer.status in {200, 401, 403}
    assert b"smuggled" not in siege.sent_on
    assert b"101" not in answer.wire[:20]


@pytest.mark.parametrize("framing", [b"Content-Length: 3\r\n\r\nabc", CHUNKED + b"\r\n3\r\nabc\r\n" + END])
async def test_an_upgrade_with_a_body_opens_no_tunnel(framing: bytes, siege: Siege) -> None:
    """Where the body ends and the tunnel begins would be a matter of opinion."""
    siege.forget()
    answered = await siege.throw(
        b"GET /function/survey-web HTTP/1.1\r\nHost: acme.test\r\n" + WEBSOCKET + framing + SMUGGLED
    )
    assert answered.answers[0].status in {200, 400}
    assert b"upgrade: websocket" not in siege.sent_on.lower()
    assert b"smuggled" not in siege.sent_on or [seen.path for seen in siege.faas.requests] == [b"/", b"/smuggled"]


@pytest.mark.parametrize(
    "head",
    [
        b"CONNECT acme.test:80 HTTP/1.1\r\nHost: acme.test:80\r\n\r\n",
        b"CONNECT acme.test:80 HTTP/1.1\r\nHost: acme.test\r\n\r\n",
        b"CONNECT /function/survey-web HTTP/1.1\r\nHost: acme.test\r\n\r\n",
        b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: acme.test\r\n\r\n",
        b"TRACE /function/survey-web HTTP/1.1\r\nHost: acme.test\r\nCookie: " + SECRET + b"\r\n\r\n",
        b"TRACE * HTTP/1.1\r\nHost: acme.test\r\n\r\n",
    ],
    ids=["authority", "authority-host", "path", "metadata", "trace", "trace-all"],
)
async def test_connect_and_trace_are_not_served(head: bytes, siege: Siege) -> None:
    """R56: 405 or 400, no tunnel to anywhere, and a trace shows nobody its cookies."""
    siege.forget()
    answered = await siege.throw(head + SMUGGLED)
    siege.check_refusal(answered.answers[0])
    assert answered.answers[0].status in {400, 405}
    if head.startswith(b"CONNECT"):
        assert len(answered.answers) == 1
        siege.check_untouched()
    assert not siege.sent_on.startswith((b"CONNECT", b"TRACE"))


async def test_trailers_reach_nobody(siege: Siege) -> None:
    """R6, R23: a field that is stripped from the head does not come in by the trailer."""
    siege.forget()
    trailers = b"X-Portero-Subject: %b\r\nX-Portero-Groups: admin\r\nHost: globex.test\r\nContent-Length: 9" % SECRET
    wire = (
        POST
        + b"Trailer: X-Portero-Subject\r\n"
        + CHUNKED
        + b"\r\n3\r\nabc\r\n0\r\n"
        + trailers
        + b"\r\n\r\n"
        + SMUGGLED
    )
    answers = (await siege.throw(wire)).answers
    assert answers[0].status in {200, 400}
    assert (
        siege.sent_on.count(SECRET) == len(siege.faas.requests) - 1 if len(answers) > 1 else SECRET not in siege.sent_on
    )
    for word in (b"admin", b"globex", b"Trailer", b"trailer"):
        assert word not in siege.sent_on


async def test_a_refused_request_is_not_told_to_continue(siege: Siege) -> None:
    """No 100 for a body that nobody will read (RFC 9110 section 10.1.1)."""
    for head, reason in REFUSALS.values():
        siege.forget()
        wire = head + b"Expect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
        if reason == "bad-request" and b"Connection" in head:
            continue
        answered = await siege.throw(wire)
        siege.check_refusal(answered.only, reason)
        assert not answered.wire.startswith(b"HTTP/1.1 100")
        siege.check_untouched()


LARGE: Final = {
    "129-fields": b"X: a\r\n" * 128,
    "257-fields": b"X: a\r\n" * 257,
    "10000-fields": b"X: a\r\n" * 10_000,
    "33-KiB-field": b"X: %b\r\n" % (b"a" * 33_000),
    "100-KiB-field": b"X: %b\r\n" % (b"a" * 100_000),
    "100-KiB-name": b"X%b: a\r\n" % (b"a" * 100_000),
    "100-fields-of-1-KiB": b"X: %b\r\n" % (b"a" * 1000) * 100,
    "5-MiB": b"X: %b\r\n" % (b"a" * 5_000_000),
}


@pytest.mark.parametrize("fields", LARGE.values(), ids=LARGE.keys())
async def test_a_head_that_is_too_large_is_refused(fields: bytes, siege: Siege) -> None:
    """431, however it is large; what follows is not served, or as the request of its own that it is."""
    siege.forget()
    answered = await siege.throw(POST + fields + b"\r\n" + SMUGGLED)
    siege.check_refusal(answered.answers[0], "head-too-large")
    assert [answer.status for answer in answered.answers] in ([431], [431, 200])
    assert [seen.path for seen in siege.faas.requests] == [b"/smuggled"] * (len(answered.answers) - 1)


async def test_what_follows_a_goodbye_is_not_read(siege: Siege) -> None:
    """A client that says ``Connection: close`` and goes on talking: nothing of it is served beyond the first."""
    siege.forget()
    first = POST + b"Content-Length: 0\r\nConnection: close\r\n\r\n"
    answered = await siege.throw(first + SMUGGLED)
    assert len(answered.answers) == 1
    assert b"smuggled" not in siege.sent_on
