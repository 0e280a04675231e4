"""Our cookies among a stranger's bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.identity.sessions import cookies
from authproxy.identity.sessions.cookies import (
    LOGIN,
    MAX_COOKIE_BYTES,
    MAX_PIECES,
    PIECE_CHARS,
    SESSION,
    Pieces,
    clear_cookie,
    login_cookies,
    login_name,
    piece_count,
    read_cookie,
    read_pieces,
    session_names,
    set_cookie,
    split_session,
)

S = SESSION.encode()


@pytest.mark.parametrize(
    ("cookie", "value"),
    [
        (None, None),
        (b"", None),
        (b"n=1", b"1"),
        (b"a=b; n=1;c=d", b"1"),
        (b" n = 1 ", b"1"),
        (b"n=", b""),
        (b"n=a=b", b"a=b"),
        (b"n", None),
        (b"=n=1", None),
        (b"N=1", None),
        (b"nn=1; xn=2", None),
        (b"n=1; n=1", None),
        (b"n=1;;;=;n=2", None),
        (b"n=1; n", b"1"),
        (b"a=n=1", None),
    ],
)
def test_a_name_stands_once_or_is_not_there(cookie: bytes | None, value: bytes | None) -> None:
    """AP-R48, R22: doubles are nothing, malformed pairs are dropped, names are compared letter by letter."""
    assert read_cookie(cookie, "n") == value


_bits = st.sampled_from(
    [S, S + b".1", S + b".7", S + b".8", LOGIN.encode(), b"=", b";", b"; ", b" ", b"1.x", b"8.", b"\xff", b"\0", b"\t"]
)


@given(st.lists(_bits | st.binary(max_size=4), max_size=30).map(b"".join))
def test_no_cookie_raises(cookie: bytes) -> None:
    """AP-R22: whatever the bytes are."""
    found = read_pieces(cookie)
    assert found is None or (1 <= found.number <= MAX_PIECES and len(found.text) <= MAX_COOKIE_BYTES)
    assert read_cookie(cookie, SESSION) is None or cookies.has_session(cookie)
    assert set(session_names(cookie)) <= {SESSION, *(f"{SESSION}.{n}" for n in range(1, 8))}
    if cookies.has_session(cookie):
        assert found == cookies._read_all_pieces(cookie)
    for name, value in login_cookies(cookie):
        assert read_cookie(cookie, name) == value


@given(
    st.lists(st.sampled_from([b"; ", b";", b" ", b"a=b", b"=", b"x", b"\t"]), max_size=4).map(b"".join),
    st.sampled_from([b"=1.abc", b"=2.abc", b" =1.abc", b"=1.", b"=1", b".1=1.abc", b"= 1.abc"]),
    st.lists(st.sampled_from([b"; ", b";", b" ", b"a=b", b"\t", S, S + b"=1.x"]), max_size=4).map(b"".join),
)
def test_the_short_way_reads_what_the_long_way_reads(before: bytes, ours: bytes, after: bytes) -> None:
    """The usual field is not taken apart; that is another way to the same answer."""
    cookie = before + S + ours + after
    assert read_pieces(cookie) == cookies._read_all_pieces(cookie)


@given(st.integers(0, 3 * PIECE_CHARS))
def test_a_session_is_cut_and_joined(chars: int) -> None:
    """As many pieces as were said, each below what browsers keep, joined in whatever order they are sent."""
    text = ("abcdefghij" * (chars // 10 + 1))[:chars]
    parts = split_session(text)
    assert len(parts) == piece_count(chars)
    assert all(len(set_cookie(name, value, 10**9)) < 4096 for name, value in parts)
    field = "; ".join(f"{name}={value}" for name, value in reversed(parts)).encode()
    assert read_pieces(field) == (Pieces(text.encode(), len(parts)) if chars <= MAX_COOKIE_BYTES else None)


@pytest.mark.parametrize(
    ("cookie", "pieces"),
    [
        (S + b"=1.abc", Pieces(b"abc", 1)),
        (S + b"=1.", Pieces(b"", 1)),
        (S + b"=1.abc; " + S + b".1=stale", Pieces(b"abc", 1)),
        (S + b"=1.abc; " + S + b".1=stale; " + S + b".1=twice", Pieces(b"abc", 1)),
        (S + b".2=c; " + S + b".1=b; x=y; " + S + b"=3.a", Pieces(b"abc", 3)),
        (S + b"=2.a", None),
        (S + b"=3.a; " + S + b".2=c", None),
        (S + b"=2.a; " + S + b".1=b; " + S + b".1=b", None),
        (S + b"=2.a; " + S + b".01=b", None),
        (S + b"=1.a; " + S + b"=1.a", None),
        (S + b".1=1.a", None),
        (S + b"=abc", None),
        (S + b"=", None),
        (S + b"=0.abc", None),
        (S + b"=9.abc", None),
        (S + b"=12.abc", None),
        (S + b"=99999999.abc", None),
        (S + b"=-1.abc", None),
        (S.lower() + b"=1.abc", None),
        (b"=" + S + b"=1.abc", None),
        (S + b"=1." + b"a" * PIECE_CHARS, Pieces(b"a" * PIECE_CHARS, 1)),
        (S + b"=1." + b"a" * (PIECE_CHARS + 1), None),
        (S + b"=2." + b"a" * (PIECE_CHARS + 1) + b"; " + S + b".1=b", None),
    ],
)
def test_a_session_is_whole_or_not_there(cookie: bytes, pieces: Pieces | None) -> None:
    """AP-R21: the number is one digit, 1 to 8; a stale piece beyond it is not looked at."""
    assert read_pieces(cookie) == pieces


def test_what_a_cookie_is_set_with() -> None:
    """AP-R48: the attributes that ``__Host-`` demands, and those that keep it from scripts and other sites."""
    assert set_cookie(SESSION, "v", None) == f"{SESSION}=v; Path=/; Secure; HttpOnly; SameSite=Lax"
    assert set_cookie(SESSION, "v", 60) == f"{SESSION}=v; Max-Age=60; Path=/; Secure; HttpOnly; SameSite=Lax"
    assert clear_cookie(SESSION) == f"{SESSION}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"


@pytest.mark.parametrize("value", ["a;b", "a b", "a\r\nSet-Cookie: x=y", 'a"', "a,b", "a\\b", "\u00e9", "\x7f", "a\n"])
def test_no_value_becomes_an_attribute_or_a_line(value: str) -> None:
    """The error does not repeat what may be a secret."""
    with pytest.raises(ValueError) as caught:
        set_cookie(SESSION, value, None)
    assert value not in str(caught.value)


def test_logins_of_one_browser_are_told_apart() -> None:
    """AP-R48: in the order sent, and a name that stands twice is left out."""
    states = [f"state-{n:02}-and-more" for n in range(10)]
    names = [login_name(state) for state in states]
    assert len(set(names)) == 10
    field = "; ".join(f"{name}=v{n}" for n, name in enumerate(names))
    assert login_cookies(field.encode()) == [(name, b"v%d" % n) for n, name in enumerate(names)]
    twice = f"{field}; {names[4]}=planted"
    assert names[4] not in [name for name, _ in login_cookies(twice.encode())]


@pytest.mark.parametrize("name", ["", "short", "too-long-a-name", "a.b.c.d.", "abcdefg\xff"])
def test_other_names_are_no_logins(name: str) -> None:
    """Eight letters of base64url."""
    field = f"{LOGIN}{name}=v".encode("latin-1")
    assert login_cookies(field) == []
    assert login_cookies(None) == []
    assert session_names(None) == ()
