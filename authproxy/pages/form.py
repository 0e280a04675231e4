"""
Bodies of forms and query strings, read strictly: one reading, bounded, or none.

A parameter that stands twice is refused (RFC 6749 sections 3.1 and 3.2): whoever judges the first and whoever uses the
last would see different requests. Broken escapes, bytes that are no UTF-8 and control characters are refused, not
repaired. Refuses to know what a parameter means.

Source: WHATWG URL section 5.1 (application/x-www-form-urlencoded), RFC 3986 section 2.1, RFC 6749 appendix B.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from policies.decision import Deny, Reason

MAX_PARAMETERS: Final = 32
"""An authorization response has at most 8, a token exchange 9."""
MAX_NAME_CHARS: Final = 64
MAX_VALUE_CHARS: Final = 16 * 1024
"""Decoded; as long as the longest token."""

_MEDIA_TYPE: Final = b"application/x-www-form-urlencoded"
_CHARSETS: Final = frozenset({b"", b"charset=utf-8", b'charset="utf-8"'})
_PRINTABLE: Final = bytes(range(0x21, 0x7F))
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")

NOT_A_FORM: Final = Deny(Reason.BAD_REQUEST, "the body must be application/x-www-form-urlencoded")
BAD_FORM: Final = Deny(Reason.BAD_REQUEST, "the parameters are not well-formed")
REPEATED: Final = Deny(Reason.BAD_REQUEST, "a parameter stands several times")
TOO_MANY: Final = Deny(Reason.BAD_REQUEST, "there are too many parameters, or they are too long")


def read_form(fields: Sequence[tuple[bytes, bytes]], body: bytes) -> dict[str, str] | Deny:
    """
    The parameters of a form's body. Never raises.

    Args:
        fields: of the head, as sent.
        body: whole; the edge has bounded it.
    """
    kinds = [value for name, value in fields if name.lower() == b"content-type"]
    is_coded = any(name.lower() == b"content-encoding" for name, _ in fields)
    if len(kinds) != 1 or is_coded:
        return NOT_A_FORM
    kind, _, parameter = kinds[0].lower().partition(b";")
    if kind.strip(b" \t") != _MEDIA_TYPE or parameter.strip(b" \t") not in _CHARSETS:
        return NOT_A_FORM
    return _read(body)


def read_query(query: str | None, unread: Collection[str] = ()) -> dict[str, str] | Deny:
    """
    The parameters of a query string without its ``?``; None is an empty one. Never raises.

    What the parameters named ``unread`` hold is not looked at: their values are empty.
    """
    return {} if not query else _read(query.encode("utf-8", "surrogatepass"), unread)


def _read(data: bytes, unread: Collection[str] = ()) -> dict[str, str] | Deny:
    if data.translate(None, _PRINTABLE) or b"#" in data or _BAD_ESCAPE.search(data):
        return BAD_FORM
    if data.count(b"&") > 2 * MAX_PARAMETERS:
        return TOO_MANY
    found: dict[str, str] = {}
    for piece in data.split(b"&"):
        if not piece:
            continue  # ``&`` at an end, as some libraries write it: every parser skips it
        name, _, value = piece.partition(b"=")
        read_name = _decode(name)
        read_value = "" if read_name in unread else _decode(value)
        if read_name is None or read_value is None or not read_name:
            return BAD_FORM
        if read_name in found:
            return REPEATED
        if len(found) >= MAX_PARAMETERS or len(read_name) > MAX_NAME_CHARS or len(read_value) > MAX_VALUE_CHARS:
            return TOO_MANY
        found[read_name] = read_value
    return found


def _decode(raw: bytes) -> str | None:
    """None for what is no text, or holds NUL or another control character."""
    try:
        text = unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None
