"""
Attack family A16, smuggling: no byte of a request that was refused is ever read as another request, by us or behind us.

Each row is followed by a request for ``/smuggled``: a row passes when there is one answer, ours, and nothing was sent
on. The same table runs over aiohttp's parser in C and, in a process of its own, over the one in Python.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Final

import pytest
from _pytest.mark import ParameterSet

from tests.fakes.siege import CANARY, Siege, split_answers

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET: Final = CANARY.encode()
POST: Final = b"POST /function/survey-web/x HTTP/1.1\r\nHost: acme.test\r\n"
SMUGGLED: Final = (
    b"GET /function/survey-web/smuggled HTTP/1.1\r\nHost: acme.test\r\nConnection: close\r\nX: %b\r\n\r\n" % SECRET
)
IS_PYTHON_PARSER: Final = bool(os.environ.get("AIOHTTP_NO_EXTENSIONS"))
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
END: Final = b"0\r\n\r\n"


def coding(value: bytes, name: bytes = b"Transfer-Encoding: ") -> bytes:
    return POST + name + value + b"\r\n\r\n" + END


def length(value: bytes, body: bytes = b"abc") -> bytes:
    return POST + b"Content-Length:" + value + b"\r\n\r\n" + body


def field(line: bytes) -> bytes:
    return POST + line + b"\r\n\r\n"


def line(text: bytes) -> bytes:
    return text + b"\r\nHost: acme.test\r\n\r\n"


HEADS: Final[dict[str, bytes]] = {
    # both lengths, in each order
    "CL-TE": POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n" + END,
    "TE-CL": POST + CHUNKED + b"Content-Length: 5\r\n\r\n" + END,
    "CL-TE-zero": POST + b"Content-Length: 0\r\n" + CHUNKED + b"\r\n" + END,
    "CL-TE-case": POST + b"content-length: 5\r\ntransfer-encoding: Chunked\r\n\r\n" + END,
    "CL-TE-apart": POST + b"Content-Length: 5\r\nX: a\r\n" + CHUNKED + b"\r\n" + END,
    # Content-Length
    "CL-twice-same": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "CL-twice-other": POST + b"Content-Length: 3\r\nContent-Length: 60\r\n\r\nabc",
    "CL-list": length(b" 3, 3"),
    "CL-plus": length(b" +3"),
    "CL-minus": length(b" -3"),
    "CL-hex": length(b" 0x3"),
    "CL-float": length(b" 3.0"),
    "CL-exponent": length(b" 3e0"),
    "CL-space-inside": length(b" 1 0"),
    "CL-underscore": length(b" 1_0"),
    "CL-quoted": length(b' "3"'),
    "CL-empty": length(b""),
    "CL-blank": length(b" "),
    "CL-word": length(b" three"),
    "CL-huge": length(b" " + b"9" * 30),
    "CL-beyond-64-bit": length(b" 18446744073709551617"),
    "CL-beyond-63-bit": length(b" 9223372036854775808"),
    "CL-arabic-digits": length(b" \xd9\xa3"),
    "CL-superscript": length(b" \xc2\xb3"),
    "CL-fullwidth": length(b" \xef\xbc\x93"),
    "CL-semicolon": length(b" 3;x"),
    # Transfer-Encoding
    "TE-gzip": coding(b"gzip"),
    "TE-gzip-chunked": coding(b"gzip, chunked"),
    "TE-chunked-gzip": coding(b"chunked, gzip"),
    "TE-identity": coding(b"identity"),
    "TE-chunked-identity": coding(b"chunked, identity"),
    "TE-identity-chunked": coding(b"identity, chunked"),
    "TE-x": coding(b"xchunked"),
    "TE-chunkedx": coding(b"chunkedx"),
    "TE-twice-in-one": coding(b"chunked, chunked"),
    "TE-twice": POST + CHUNKED + CHUNKED + b"\r\n" + END,
    "TE-twice-other": POST + CHUNKED + b"Transfer-Encoding: x\r\n\r\n" + END,
    "TE-twice-before": POST + b"Transfer-Encoding: x\r\n" + CHUNKED + b"\r\n" + END,
    "TE-twice-identity": POST + b"Transfer-Encoding: identity\r\n" + CHUNKED + b"\r\n" + END,
    "TE-quoted": coding(b'"chunked"'),
    "TE-quote": coding(b"'chunked'"),
    "TE-parameter": coding(b"chunked;q=1"),
    "TE-comma": coding(b"chunked,"),
    "TE-comma-first": coding(b",chunked"),
    "TE-empty": coding(b""),
    "TE-NUL": coding(b"chunked\x00"),
    "TE-vertical-tab": coding(b"\x0bchunked"),
    "TE-form-feed": coding(b"chunked\x0c"),
    "TE-nbsp": coding(b"\xa0chunked"),
    "TE-fullwidth": coding(b"\xef\xbd\x83hunked"),
    "TE-long-s": coding(b"chun\xe2\x84\xaaed"),
    "TE-split": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + END,
    "TE-1.0": b"POST /function/survey-web HTTP/1.0\r\nHost: acme.test\r\n" + CHUNKED + b"\r\n" + END,
    "TE-space-before-colon": coding(b"chunked", b"Transfer-Encoding : "),
    "TE-tab-before-colon": coding(b"chunked", b"Transfer-Encoding\t: "),
    "TE-space-first": POST + b" Transfer-Encoding: chunked\r\n\r\n" + END,
    "TE-line-feed": POST + b"X: a\nTransfer-Encoding: chunked\r\n\r\n" + END,
    "TE-carriage-return": POST + b"X: a\rTransfer-Encoding: chunked\r\n\r\n" + END,
    # lines and fields
    "folded-space": field(b"X: a\r\n b"),
    "folded-tab": field(b"X: a\r\n\tb"),
    "folded-first": POST[:-2].replace(b"\r\nHost", b"\r\n X: a\r\nHost") + b"\r\n\r\n",
    "folded-host": b"POST /function/survey-web HTTP/1.1\r\nHost:\r\n acme.test\r\n\r\n",
    "space-before-colon": field(b"X : a"),
    "no-colon": field(b"X"),
    "no-name": field(b": a"),
    "name-space": field(b"X Y: a"),
    "name-paren": field(b"X(a): b"),
    "name-quote": field(b'X"a: b'),
    "name-slash": field(b"X/a: b"),
    "name-at": field(b"X@a: b"),
    "name-bracket": field(b"[X]: b"),
    "name-NUL": field(b"X\x00: b"),
    "name-control": field(b"X\x01: b"),
    "name-DEL": field(b"X\x7f: b"),
    "name-latin-1": field(b"X\xe9: b"),
    "name-utf-8": field(b"\xc3\x9cber: b"),
    "value-NUL": field(b"X: a\x00b"),
    "value-CR": field(b"X: a\rb"),
    "line-feed-end": field(b"X: a\nY: b"),
    "line-feed-request": b"POST /function/survey-web HTTP/1.1\nHost: acme.test\n\n",
    "line-feed-last": POST + b"X: a\r\n\n",
    "carriage-returns": b"POST /function/survey-web HTTP/1.1\r\rHost: acme.test\r\r",
    "CR-CR-LF": POST + b"X: a\r\r\n\r\n",
    # who is asked
    "host-twice": field(b"Host: globex.test"),
    "host-twice-same": field(b"Host: acme.test"),
    "host-missing": b"POST /function/survey-web HTTP/1.1\r\nX: a\r\n\r\n",
    "host-missing-1.0": b"GET /function/survey-web HTTP/1.0\r\n\r\n",
    "host-underscore": b"GET /function/survey-web HTTP/1.1\r\nHost_: acme.test\r\n\r\n",
    # request lines (R56)
    "version-0.9": line(b"GET /function/survey-web HTTP/0.9"),
    "version-1.2": line(b"GET /function/survey-web HTTP/1.2"),
    "version-2.0": line(b"GET /function/survey-web HTTP/2.0"),
    "version-2": line(b"GET /function/survey-web HTTP/2"),
    "version-3.7": line(b"GET /function/survey-web HTTP/3.7"),
    "version-1.10": line(b"GET /function/survey-web HTTP/1.10"),
    "version-1.01": line(b"GET /function/survey-web HTTP/1.01"),
    "version-lower": line(b"GET /function/survey-web http/1.1"),
    "version-other": line(b"GET /function/survey-web HTP/1.1"),
    "version-arabic": line("GET /function/survey-web HTTP/1.\u0661".encode()),
    "version-word": line(b"GET /function/survey-web HTTP/one"),
    "version-none": b"GET /function/survey-web\r\n\r\n",
    "version-behind": line(b"GET /function/survey-web HTTP/1.1 x"),
    "version-space": line(b"GET /function/survey-web HTTP/1.1 "),
    "tab": line(b"GET\t/function/survey-web HTTP/1.1"),
    "prior-knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "method-lower": line(b"get /function/survey-web HTTP/1.1"),
    "method-mixed": line(b"Get /function/survey-web HTTP/1.1"),
    "method-odd": line(b"G@T /function/survey-web HTTP/1.1"),
    "method-NUL": line(b"G\x00ET /function/survey-web HTTP/1.1"),
    "method-none": line(b" /function/survey-web HTTP/1.1"),
    "method-latin-1": line(b"G\xcbT /function/survey-web HTTP/1.1"),
    "method-digits": line(b"123 /function/survey-web HTTP/1.1"),
    "method-long": line(b"A" * 40 + b" /function/survey-web HTTP/1.1"),
    "answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "zeros": b"\0" * 64,
    "PROXY": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + POST + b"\r\n",
    "PROXY-2": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + b"\0" * 12 + POST + b"\r\n",
    # Expect and Upgrade
    "expect-other": field(b"Expect: x"),
    "expect-list": field(b"Expect: 100-continue, x"),
    "expect-twice": field(b"Expect: 100-continue\r\nExpect: 100-continue"),
}
"""Every head is 400 bad-request: by the parser, or by Portero's own rules behind it (research corpora of both)."""

ITS_END_IS_SURE: Final = frozenset({"expect-other", "expect-list", "expect-twice"})
"""Refused for what they say, not for how they are framed: the request behind them may be served, as itself."""
ONLY_OF_C: Final = frozenset({"method-lower", "method-mixed"})
"""The parser in Python makes capitals of a method before anybody sees it; nothing is read in two ways by that."""


def _rows(table: Mapping[str, bytes], only_of_c: frozenset[str]) -> list[ParameterSet]:
    return [pytest.param(name, id=name) for name in table if not (IS_PYTHON_PARSER and name in only_of_c)]


@pytest.mark.parametrize("name", _rows(HEADS, ONLY_OF_C))
async def test_a_head_that_two_readers_could_read_differently_is_refused(name: str, siege: Siege) -> None:
    """R35, R52, R56: one answer, 400, nothing repeated, the connection closed, not one byte sent on."""
    siege.forget()
    answered = await siege.throw(HEADS[name] + SMUGGLED)
    first, *more = answered.answers
    siege.check_refusal(first, "bad-request")
    if more:
        # Our own rule refused a head whose end is beyond doubt: what follows is another request, served as one.
        assert name in ITS_END_IS_SURE or (IS_PYTHON_PARSER and name.startswith(("version", "method"))), answered.wire
        assert [answer.status for answer in more] == [200]
        assert [seen.path for seen in siege.faas.requests] == [b"/smuggled"]
    else:
        siege.check_untouched()


async def test_the_honest_requests_beside_them_are_served(siege: Siege) -> None:
    """The table refuses for what is wrong with its rows and for nothing else."""
    for wire, body in (
        (POST + b"Content-Length: 3\r\n\r\nabc", "abc"),
        (POST + b"Content-Length:3\r\n\r\nabc", "abc"),
        (POST + b"Content-Length: \t 3 \r\n\r\nabc", "abc"),
        (POST + b"Content-Length: 003\r\n\r\nabc", "abc"),
        (POST + CHUNKED + b"\r\n3\r\nabc\r\n" + END, "abc"),
        (POST + b"transfer-encoding:CHUNKED\r\n\r\n03\r\nabc\r\n" + END, "abc"),
        (POST + b"Content-Length: 0\r\n\r\n", ""),
        (b"\r\n" + POST + b"Content-Length: 1\r\n\r\na", "a"),
    ):
        siege.forget()
        first, second = (await siege.throw(wire + SMUGGLED)).answers
        assert (first.status, first.json()["body"]) == (200, body)
        assert second.json()["path"] == "/smuggled"


@pytest.mark.skipif(IS_PYTHON_PARSER, reason="the parser in Python refuses them")
async def test_more_spaces_in_a_request_line_are_one(siege: Siege) -> None:
    """RFC 9112 section 3 allows to read them; the target is what it seems, and the line that leaves is made anew."""
    siege.forget()
    wire = b"GET  /function/survey-web/a   HTTP/1.1\r\nHost: acme.test\r\nConnection: close\r\n\r\n"
    assert (await siege.throw(wire)).only.json()["path"] == "/a"
    assert siege.sent_on.startswith(b"GET /function/survey-web.acme/a HTTP/1.1\r\n")


BODIES: Final[dict[str, bytes]] = {
    "size-word": b"zz\r\nabc\r\n" + END,
    "size-0x": b"0x3\r\nabc\r\n" + END,
    "size-minus": b"-3\r\nabc\r\n" + END,
    "size-plus": b"+3\r\nabc\r\n" + END,
    "size-space-first": b" 3\r\nabc\r\n" + END,
    "size-underscore": b"0_3\r\nabc\r\n" + END,
    "size-empty": b"\r\nabc\r\n" + END,
    "size-huge": b"F" * 17 + b"\r\nabc\r\n" + END,
    "size-wraps": b"10000000000000003\r\nabc\r\n" + END,
    "size-arabic": "\u0663\r\nabc\r\n".encode() + END,
    "size-line-feed": b"3\nabc\r\n" + END,
    "size-carriage-return": b"3\r\rabc\r\n" + END,
    "size-NUL": b"3\x00\r\nabc\r\n" + END,
    "data-longer": b"3\r\nabcd\r\n" + END,
    "data-shorter": b"4\r\nabc\r\n" + END,
    "data-line-feed": b"3\r\nabc\n" + END,
    "data-no-end": b"3\r\nabc" + END,
    "extension-line-feed": b"3;x\ny\r\nabc\r\n" + END,
    "extension-carriage-return": b"3;x\ry\r\nabc\r\n" + END,
    "extension-1-MB": b"3;" + b"x" * 1_000_000 + b"\r\nabc\r\n" + END,
    "extension-each": b"1;x=y\r\na\r\n" * 3 + b"zz\r\n",
    "last-line-feed": b"3\r\nabc\r\n0\n\n",
    "last-twice": b"0\r\n0\r\n\r\n",
    "trailer-bad-name": b"3\r\nabc\r\n0\r\nX(: a\r\n\r\n",
    "trailer-no-colon": b"3\r\nabc\r\n0\r\nX\r\n\r\n",
    "trailer-line-feed": b"3\r\nabc\r\n0\r\nX: a\nY: b\r\n\r\n",
    "trailer-request": b"3\r\nabc\r\n0\r\nGET /function/survey-web/smuggled HTTP/1.1\r\nHost: acme.test\r\n\r\n",
    "trailer-20-KB": b"3\r\nabc\r\n0\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
    "trailers-many": b"3\r\nabc\r\n0\r\n" + b"X: a\r\n" * 5000 + b"\r\n",
}
"""Bodies that break their framing. What came before the break may have left; nothing behind it ever does."""


TAKEN_BY_PYTHON: Final = frozenset({"size-huge", "size-wraps", "extension-carriage-return", "extension-1-MB"})
"""The parser in Python waits for a chunk of 2**68 bytes and ignores CR in an extension: one reading all the same."""


@pytest.mark.parametrize("pause_s", [0, 0.02], ids=["at-once", "in-pieces"])
@pytest.mark.parametrize("name", _rows(BODIES, TAKEN_BY_PYTHON))
async def test_nothing_behind_a_broken_body_is_a_request(name: str, pause_s: float, siege: Siege) -> None:
    """A16, R35: one answer, a refusal; the function never sees ``/smuggled``, nor the end of a body that had none."""
    siege.forget()
    head = POST + CHUNKED + b"\r\n"
    async with siege.client() as client:
        if pause_s:
            client.writer.write(head)
            await asyncio.sleep(pause_s)
            head = b""
        client.writer.write(head + BODIES[name] + SMUGGLED)
        answers = split_answers(await client.until_end())
    # The parser in Python may tell the body alone that it broke: then the connection is cut, without an answer.
    assert len(answers) == 1 or (IS_PYTHON_PARSER and pause_s and not answers)
    for answer in answers:
        siege.check_refusal(answer, answer.reason)
        assert answer.reason in {"body-malformed", "bad-request", "head-too-large"}
        assert answer.field("connection") == "close"
    for word in (b"smuggled", SECRET, b"\r\n0\r\n"):
        assert word not in siege.sent_on
    assert not siege.faas.requests
