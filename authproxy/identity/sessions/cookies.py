"""
Our cookies in one request, and the fields that set them.

It decides which of a stranger's bytes are the values of our cookies: each name stands once or the cookie is not there
(AP-R48: two of one name means that somebody planted one), and what is malformed is dropped, never raised about
(AP-R22). It refuses to know what the values mean.

A long session is cut into pieces. The first piece has the plain name and says how many there are, so that a session in
one piece and the first piece of a longer one take the same place in the browser: a stale one can never stand beside a
newer one. How many is also sealed in (``sessions.py``), so that nobody can say another number (AP-R21).

Source: RFC 6265bis sections 4.1.1, 4.1.3.2 (``__Host-``) and 5.7 (limits of browsers).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

SESSION: Final = "__Host-portero-session"
LOGIN: Final = "__Host-portero-login-"
MAX_PIECES: Final = 8
PIECE_CHARS: Final = 3800
"""At most of the sealed text in one piece: with name and attributes below 4096 bytes, which is what browsers keep."""
MAX_COOKIE_BYTES: Final = 7 * 1024
"""Of all pieces with their names: common servers take fields of 8 KiB, and other cookies want to be there too."""
MAX_LOGINS: Final = 8
"""Logins that one browser may have begun and not ended."""

_SESSION: Final = SESSION.encode("ascii")
_NAME_BYTES: Final = len(_SESSION)
_PIECES: Final = {_SESSION: 0} | {b"%b.%d" % (_SESSION, number): number for number in range(1, MAX_PIECES)}
_LOGIN: Final = LOGIN.encode("ascii")
_LOGIN_NAME: Final = re.compile(rb"__Host-portero-login-[A-Za-z0-9_-]{8}")
_VALUE: Final = re.compile(r"[!#-+\--:<-\[\]-~]*")
"""cookie-octet of RFC 6265."""
_BLANKS: Final = b" \t"
_ATTRIBUTES: Final = "Path=/; Secure; HttpOnly; SameSite=Lax"


class Pieces(NamedTuple):
    """A session as the browser keeps it; nothing of it is believed yet."""

    text: bytes
    """Of all pieces, joined."""
    number: int
    """As the first piece says: 1..8."""

    def __repr__(self) -> str:
        return f"Pieces(number={self.number})"


def has_session(cookie: bytes | None) -> bool:
    """A cheap look: whether something that may be a session of ours is there."""
    return cookie is not None and _SESSION in cookie


def read_cookie(cookie: bytes | None, name: str) -> bytes | None:
    """
    The value of the one cookie of exactly that name; None when there is none or more than one.

    Args:
        cookie: all Cookie fields joined with ``; ``.
        name: compared letter by letter.
    """
    wanted = name.encode("utf-8", "surrogatepass")
    if cookie is None or wanted not in cookie:
        return None
    values = [value for found, value in _pairs(cookie, wanted) if found == wanted]
    return values[0] if len(values) == 1 else None


def read_pieces(cookie: bytes | None) -> Pieces | None:
    """
    The session that is there as a whole; None when a piece is missing, stands twice, or all are too long.

    Hot: the usual field, with our name once and one piece, is not taken apart.
    """
    at = -1 if cookie is None else cookie.find(_SESSION)
    if cookie is None or at < 0:
        return None
    value_at = at + _NAME_BYTES
    if (
        cookie[value_at : value_at + 3] == b"=1."
        and (at == 0 or cookie[at - 2 : at] == b"; ")
        and cookie.find(_SESSION, value_at) < 0
    ):
        end = cookie.find(b";", value_at)
        text = (cookie[value_at + 3 :] if end < 0 else cookie[value_at + 3 : end]).rstrip(_BLANKS)
        return Pieces(text, 1) if len(text) <= PIECE_CHARS else None
    return _read_all_pieces(cookie)


def _read_all_pieces(cookie: bytes) -> Pieces | None:
    found: dict[bytes, bytes | None] = {}
    for name, value in _pairs(cookie, _SESSION):
        if name in _PIECES:
            found[name] = None if name in found else value
    first = found.get(_SESSION)
    if first is None or first[1:2] != b"." or not b"1" <= first[:1] <= b"8":
        return None
    count = first[0] - 48
    parts = [first[2:]]
    for number in range(1, count):
        part = found.get(b"%b.%d" % (_SESSION, number))
        if part is None:
            return None
        parts.append(part)
    if max(map(len, parts)) > PIECE_CHARS:
        return None
    text = b"".join(parts)
    return Pieces(text, count) if len(text) <= MAX_COOKIE_BYTES else None


def session_names(cookie: bytes | None) -> tuple[str, ...]:
    """The names of the pieces that are there, stale ones and doubles too, each once, in their order."""
    if cookie is None or _SESSION not in cookie:
        return ()
    found = {name for name, _ in _pairs(cookie, _SESSION) if name in _PIECES}
    return tuple(name.decode("ascii") for name in sorted(found))


def login_cookies(cookie: bytes | None) -> list[tuple[str, bytes]]:
    """
    Name and value of each login that this browser has begun, as sent: browsers send the oldest first (RFC 6265 section
    5.4). A name that stands twice is left out.
    """
    if cookie is None or _LOGIN not in cookie:
        return []
    pairs = [pair for pair in _pairs(cookie, _LOGIN) if _LOGIN_NAME.fullmatch(pair[0])]
    names = [name for name, _ in pairs]
    return [(name.decode("ascii"), value) for name, value in pairs if names.count(name) == 1]


def login_name(state: str) -> str:
    """The name of the cookie for one login; ``state`` is at least 8 characters of base64url."""
    return LOGIN + state[:8]


def split_session(text: str) -> list[tuple[str, str]]:
    """Names and values of the pieces of ``text``; there are ``piece_count(len(text))``."""
    count = piece_count(len(text))
    parts = [text[at : at + PIECE_CHARS] for at in range(0, count * PIECE_CHARS, PIECE_CHARS)]
    return [
        (SESSION if number == 0 else f"{SESSION}.{number}", f"{count}.{part}" if number == 0 else part)
        for number, part in enumerate(parts)
    ]


def piece_count(chars: int) -> int:
    """How many pieces so long a text takes, at least 1."""
    return max(1, -(-chars // PIECE_CHARS))


def set_cookie(name: str, value: str, max_age_s: int | None) -> str:
    """
    The value of one ``Set-Cookie`` field.

    Args:
        name: one of ours, from this module.
        value: of cookie-octets (RFC 6265 section 4.1.1).
        max_age_s: None: until the browser is closed.

    Raises: ValueError for a value that is not of cookie characters; its text does not repeat it.
    """
    if _VALUE.fullmatch(value) is None:
        raise ValueError("the value of a cookie holds characters that no cookie may have")
    age = "" if max_age_s is None else f"Max-Age={max_age_s}; "
    return f"{name}={value}; {age}{_ATTRIBUTES}"


def clear_cookie(name: str) -> str:
    """The value of the ``Set-Cookie`` field that makes the browser forget the cookie."""
    return set_cookie(name, "", 0)


def _pairs(cookie: bytes, prefix: bytes) -> list[tuple[bytes, bytes]]:
    """Names that begin with ``prefix``, and values, in the order sent; what has no ``=`` is not a pair."""
    pairs = []
    for part in cookie.split(b";"):
        part = part.strip(_BLANKS)  # noqa: PLW2901 (the same thing, trimmed)
        if part.startswith(prefix):
            name, equals, value = part.partition(b"=")
            if equals:
                pairs.append((name.rstrip(_BLANKS), value.lstrip(_BLANKS)))
    return pairs
