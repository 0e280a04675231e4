"""The facts as the pre-function writes them: read as what stood on the wire, and nothing else is read at all."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway_plugins.facts import MAX_BYTES, read_facts
from policies.decision import Deny, Reason
from policies.request import AccessRequest, Head, read_head
from tests.fakes.plugins import facts_of
from tests.fakes.tenancy import NOBODY, a_head

FACTS = b"\n".join(
    (
        b"portero/1",
        b"198.51.100.7",
        b"https",
        b"acme.localhost",
        b"GET /reports/es?x=1 HTTP/1.1",
        b"host: acme.localhost",
        b"cookie: a=1",
        b"cookie: b=2",
        b"x-empty: ",
    )
)


def of(line: bytes, *fields: bytes) -> bytes:
    return b"\n".join((b"portero/1", b"198.51.100.7", b"https", b"", line, b"host: acme.localhost", *fields))


def read(line: bytes, *fields: bytes) -> AccessRequest | Deny:
    head = read_facts(of(line, *fields))
    assert head is not None
    return read_head(head, NOBODY)


def test_everything_is_where_it_stood() -> None:
    """Peer, scheme, SNI, request line and each field, repeated ones too."""
    assert read_facts(FACTS) == Head(
        "GET",
        b"/reports/es?x=1",
        [(b"host", b"acme.localhost"), (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"x-empty", b"")],
        (1, 1),
        "198.51.100.7",
        "https",
        "acme.localhost",
    )


def test_values_keep_their_bytes() -> None:
    """Nothing says that they are UTF-8: a byte that is not must neither be lost nor raise; it comes as a character."""
    facts = of(b"GET /\xff HTTP/1.1", b"x-name: \xff: \xfe", b"authorization: Bearer \xff")
    assert read_facts(facts) is None
    head = read_facts(facts.decode("latin-1").encode("utf-8"))
    assert head is not None
    assert head.target == b"/\xff"
    assert (b"x-name", b"\xff: \xfe") in head.fields
    refused = read_head(head, NOBODY)
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.BAD_REQUEST


def test_text_of_the_stock_server_is_the_same() -> None:
    """It decodes what Kong says."""
    raw = of(b"GET / HTTP/1.1", "x-name: \xff\xc3\xa9".encode())
    head = read_facts(raw.decode("utf-8"))
    assert head is not None
    assert head == read_facts(raw)
    assert head.fields[-1] == (b"x-name", b"\xff\xc3\xa9")


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        "",
        7,
        True,
        [],
        {b"portero/1": b""},
        b"portero/2" + FACTS[9:],
        b"portero/1",
        b"\n".join(FACTS.split(b"\n")[:4]),
        FACTS + b"\n",
        FACTS + b"\nno colon",
        FACTS + b"\nx:y",
        FACTS + b"\nx: a\rb",
        FACTS + b"\nx: a\0b",
        FACTS.replace(b"198.51.100.7", b""),
        FACTS.replace(b"https", b"wss"),
        FACTS + b"\nx: " + b"y" * MAX_BYTES,
        "portero/1\n\ud800",
    ],
    ids=range(19),
)
def test_anything_else_is_no_head(raw: object) -> None:
    """What cannot be read was not written by the pre-function: the plugin refuses, and nothing raises."""
    assert read_facts(raw) is None


@given(st.one_of(st.binary(), st.text(), st.binary().map(lambda tail: b"portero/1\n1.1.1.1\nhttp\n\n" + tail)))
@example(b"portero/1\n1.1.1.1\nhttp\n\n ")
def test_no_bytes_raise(raw: bytes | str) -> None:
    """And whatever they are read as, the core answers."""
    head = read_facts(raw)
    assert head is None or isinstance(read_head(head, NOBODY), AccessRequest | Deny)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET / HTTP/1.1", None),
        (b"GET / HTTP/1.0", None),
        (b"GET / HTTP/2.0", None),
        (b"GET http://acme.localhost/ HTTP/1.1", None),
        (b"GET http://evil.example/ HTTP/1.1", Reason.BAD_REQUEST),
        (b"GET /", Reason.BAD_REQUEST),
        (b"GET / HTTP/0.9", Reason.BAD_REQUEST),
        (b"GET / HTTP/1.2", Reason.BAD_REQUEST),
        (b"GET / HTTP/3.0", Reason.BAD_REQUEST),
        (b"GET /a b HTTP/1.1", Reason.BAD_REQUEST),
        (b"GET  / HTTP/1.1", Reason.BAD_REQUEST),
        (b"get / HTTP/1.1", Reason.BAD_REQUEST),
        (b"TRACE / HTTP/1.1", Reason.METHOD_NOT_ALLOWED),
        (b"", Reason.BAD_REQUEST),
        (b"GET", Reason.BAD_REQUEST),
    ],
)
def test_request_lines_are_judged_as_the_proxy_judges_them(line: bytes, expected: Reason | None) -> None:
    """Also those that nginx lets by."""
    request = read(line)
    assert (request.reason if isinstance(request, Deny) else None) is expected


@pytest.mark.parametrize(
    ("line", "fields", "is_unknown"),
    [
        (b"POST / HTTP/2.0", (), True),
        (b"DELETE / HTTP/2.0", (), True),
        (b"POST / HTTP/2.0", (b"content-length: 3",), False),
        (b"GET / HTTP/2.0", (), False),
        (b"POST / HTTP/1.1", (), False),
    ],
)
def test_a_body_of_http_2_may_come_unannounced(line: bytes, fields: tuple[bytes, ...], is_unknown: bool) -> None:
    """Where no field says how long it is, it is bounded as it comes, as chunks are."""
    request = read(line, *fields)
    assert isinstance(request, AccessRequest)
    assert request.is_chunked is is_unknown


def test_what_is_written_is_what_is_read() -> None:
    """The fake of the tests writes what the snippet writes."""
    head = a_head("/reports?x", (b"x-a", b"1"), (b"x-a", b"2"), scheme="https", server_name="acme.localhost")
    expected = head._replace(fields=[(name.lower(), value) for name, value in head.fields])
    assert read_facts(facts_of(head)) == expected


def test_the_head_shows_no_credential() -> None:
    """Its text may stand in a traceback."""
    head = read_facts(of(b"GET / HTTP/1.1", b"authorization: Bearer secret"))
    assert "secret" not in repr(head)
