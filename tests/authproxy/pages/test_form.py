"""Forms and query strings: one reading, bounded, or none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.pages.form import BAD_FORM, NOT_A_FORM, REPEATED, TOO_MANY, read_form, read_query
from policies.decision import Deny

FORM = (b"Content-Type", b"application/x-www-form-urlencoded")


def read(body: bytes) -> dict[str, str] | Deny:
    return read_form((FORM,), body)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", {}, id="nothing"),
        pytest.param("a=1&b=2", {"a": "1", "b": "2"}, id="two"),
        pytest.param("a=1+2%2B3", {"a": "1 2+3"}, id="plus-is-a-blank"),
        pytest.param("a=%C3%A9", {"a": "é"}, id="utf-8"),
        pytest.param("a", {"a": ""}, id="no-value"),
        pytest.param("a=b=c", {"a": "b=c"}, id="second-equals-is-value"),
        pytest.param("&a=1&", {"a": "1"}, id="empty-pieces-are-skipped"),
        pytest.param("a=1;b=2", {"a": "1;b=2"}, id="semicolon-separates-nothing"),
    ],
)
def test_what_is_well_formed_is_read(text: str, expected: dict[str, str]) -> None:
    """Bodies and queries alike."""
    assert read(text.encode()) == expected
    assert read_query(text) == expected


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        pytest.param(b"a=1&a=1", REPEATED, id="twice-the-same"),
        pytest.param(b"code=x&%63ode=y", REPEATED, id="twice-in-another-spelling"),
        pytest.param(b"a=%4", BAD_FORM, id="half-an-escape"),
        pytest.param(b"a=%zz", BAD_FORM, id="no-escape"),
        pytest.param(b"a=%ff", BAD_FORM, id="not-utf-8"),
        pytest.param(b"a=%C0%AF", BAD_FORM, id="overlong"),
        pytest.param(b"a=%00", BAD_FORM, id="nul"),
        pytest.param(b"a=%0d%0aSet-Cookie:x", BAD_FORM, id="line-break"),
        pytest.param(b"a=%E2%80%AE", BAD_FORM, id="right-to-left-override"),
        pytest.param(b"a=1\r\n", BAD_FORM, id="raw-line-break"),
        pytest.param(b"a=\xc3\xa9", BAD_FORM, id="raw-utf-8"),
        pytest.param(b"=1", BAD_FORM, id="no-name"),
        pytest.param(b"&".join(b"p%d=" % n for n in range(33)), TOO_MANY, id="33-parameters"),
        pytest.param(b"&" * 65, TOO_MANY, id="nothing-65-times"),
        pytest.param(b"n" * 65 + b"=", TOO_MANY, id="long-name"),
        pytest.param(b"a=" + b"v" * (16 * 1024 + 1), TOO_MANY, id="long-value"),
    ],
)
def test_what_parsers_may_read_differently_is_refused(body: bytes, refusal: Deny) -> None:
    """Never repaired, never the first or the last of two."""
    assert read(body) is refusal


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param((), id="no-type"),
        pytest.param((FORM, FORM), id="type-twice"),
        pytest.param(((b"content-type", b"application/json"),), id="json"),
        pytest.param(((b"content-type", b"multipart/form-data; boundary=x"),), id="multipart"),
        pytest.param(((b"content-type", b"text/plain"),), id="text"),
        pytest.param(((b"content-type", FORM[1] + b"; charset=utf-7"),), id="utf-7"),
        pytest.param((FORM, (b"Content-Encoding", b"gzip")), id="compressed"),
    ],
)
def test_only_a_form_is_a_form(fields: tuple[tuple[bytes, bytes], ...]) -> None:
    """The type is said once, and it is this one."""
    assert read_form(fields, b"a=1") is NOT_A_FORM


@pytest.mark.parametrize("kind", [b"Application/X-WWW-Form-Urlencoded", FORM[1] + b"; charset=UTF-8", FORM[1] + b" ;"])
def test_the_type_is_read_as_types_are(kind: bytes) -> None:
    """Case means nothing, UTF-8 may be named."""
    assert read_form(((b"CONTENT-TYPE", kind),), b"a=1") == {"a": "1"}


@given(st.binary(max_size=200), st.text(max_size=100))
def test_any_bytes_give_an_answer(body: bytes, query: str) -> None:
    """Never an exception."""
    assert isinstance(read(body), dict | Deny)
    assert isinstance(read_query(query), dict | Deny)
