r"""
One spelling for a group, whatever its provider writes: so that a group is compared as text, and means itself.

A directory's groups come behind a provider in three forms: names (``analysts``, ``ACME\analysts``), object ids
(UUIDs, or security identifiers of a directory on premises) and distinguished names (RFC 4514). Two spellings of one
group must be one text, and two groups must never become one: what cannot be read is no group at all, and the caller's
groups are unknown then (``claims.py`` says what that means). Refuses to know providers and who is in a group.

Source: RFC 4514 sections 2 and 3 (strings of distinguished names); RFC 4518 section 2 and Unicode definition D145
(letters compared without case); RFC 9562 section 4 (UUIDs); MS-DTYP section 2.4.2.1 (security identifiers).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, Literal
from unicodedata import normalize

Form = Literal["names", "object_ids", "distinguished_names"]

MAX_NAME_CHARS: Final = 256
"""Active Directory takes 64 in a name and 20 in the part before the backslash; others up to 255."""
MAX_DN_CHARS: Final = 2048
"""Active Directory's own bound is 255 for each part."""

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_SID: Final = re.compile(r"S-1-(0|[1-9][0-9]{0,14})(-(0|[1-9][0-9]{0,9})){1,15}", re.ASCII | re.IGNORECASE)
_TYPE: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]*|(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+", re.ASCII)
_HEX_VALUE: Final = re.compile(r"#([0-9A-Fa-f]{2})+", re.ASCII)
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_SPECIAL: Final = frozenset('"+,;<>\\')
_SIGNS: Final = frozenset('"+;<>\\#')
"""Without one of them a name is what it seems: commas separate, and values have no escapes."""
_ESCAPABLE: Final = _SPECIAL | frozenset(" #=")

_MEMO_ENTRIES: Final = 4096
"""Spellings remembered of each form: people share groups, and a session that is opened has them normalised anew."""
_MEMO_CHARS: Final = 256
"""Longer ones are normalised each time: together these bound the memos to about 6 MiB."""
_MEMO: Final[dict[Form, dict[str, str]]] = {"names": {}, "object_ids": {}, "distinguished_names": {}}

Part = tuple[str, bool]
"""A character, or (when True) two hexadecimal digits of a byte that was escaped."""


def normalise(group: str, form: Form) -> str | None:
    """
    The one spelling of ``group``; None when it is none of this form. Idempotent; never raises.

    names: Unicode NFC without blanks around. Case counts: providers write one group one way, and what only looks alike
    may be another. object_ids: a UUID in lower case, a security identifier in upper case. distinguished_names: types
    and values without case, escapes only where they are needed, several values of one level sorted, no blanks around.
    """
    memo = _MEMO[form]
    known = memo.get(group)
    if known is None:
        known = _NORMALISERS[form](group)
        if known is not None and len(group) <= _MEMO_CHARS:
            if len(memo) >= _MEMO_ENTRIES:
                memo.clear()
            memo[group] = known
    return known


def _name(group: str) -> str | None:
    if len(group) > MAX_NAME_CHARS or not group.isprintable():
        return None
    return normalize("NFC", group.strip(" ")) or None


def _object_id(group: str) -> str | None:
    if _UUID.fullmatch(group):
        return group.lower()
    return group.upper() if _SID.fullmatch(group) else None


def _distinguished_name(group: str) -> str | None:
    if not 0 < len(group) <= MAX_DN_CHARS or not group.isprintable():
        return None
    if _SIGNS.isdisjoint(group):
        return _plain_name(group)
    parts = _parts(group)
    if parts is None:
        return None
    levels = []
    for level in _split(parts, ","):
        values = [_attribute(attribute) for attribute in _split(level, "+")]
        written = [value for value in values if value is not None]
        if len(written) != len(values):
            return None
        levels.append("+".join(sorted(set(written))))
    return ",".join(levels)


def _plain_name(text: str) -> str | None:
    """The usual distinguished name, without a sign that could need an escape: some 5 us instead of 80."""
    levels = []
    for level in text.split(","):
        kind, mark, value = level.partition("=")
        kind = kind.strip(" ")
        if not mark or not _TYPE.fullmatch(kind):
            return None
        value = _folded(value.strip(" "))
        # A letter may fold to a sign: the Greek question mark is a semicolon in every normal form.
        levels.append(f"{kind.lower()}={value if value.isascii() and _SIGNS.isdisjoint(value) else _escaped(value)}")
    return ",".join(levels)


def _parts(text: str) -> list[Part] | None:
    """Characters with their escapes told apart; None for what RFC 4514 section 3 does not let stand."""
    found: list[Part] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char != "\\":
            if char in '";<>':
                return None
            found.append((char, False))
            at += 1
            continue
        following = text[at + 1 : at + 3]
        if following[:1] and following[0] in _ESCAPABLE:
            found.append((f"{ord(following[0]):02x}", True))
            at += 2
        elif len(following) == 2 and _HEX.issuperset(following):
            found.append((following.lower(), True))
            at += 3
        else:
            return None
    return found


def _split(parts: list[Part], separator: str) -> Iterator[list[Part]]:
    piece: list[Part] = []
    for part in parts:
        if part == (separator, False):
            yield piece
            piece = []
        else:
            piece.append(part)
    yield piece


def _attribute(parts: list[Part]) -> str | None:
    """``type=value`` in its one spelling."""
    if ("=", False) not in parts:
        return None
    at = parts.index(("=", False))
    kind = "".join(char for char, _ in parts[:at]).strip(" ")
    if any(is_escaped for _, is_escaped in parts[:at]) or not _TYPE.fullmatch(kind):
        return None
    value = _trimmed(parts[at + 1 :])
    if value[:1] == [("#", False)]:
        text = "".join(char for char, _ in value)
        is_plain = not any(is_escaped for _, is_escaped in value)
        return f"{kind.lower()}={text.lower()}" if is_plain and _HEX_VALUE.fullmatch(text) else None
    try:
        text = b"".join(bytes.fromhex(c) if is_escaped else c.encode() for c, is_escaped in value).decode()
    except UnicodeDecodeError:
        return None
    return f"{kind.lower()}={_escaped(_folded(text))}"


def _trimmed(parts: list[Part]) -> list[Part]:
    """Without blanks around that are not escaped: LDAP clients write ``CN=a, OU=b`` though RFC 4514 does not."""
    start, end = 0, len(parts)
    while start < end and parts[start] == (" ", False):
        start += 1
    while end > start and parts[end - 1] == (" ", False):
        end -= 1
    return parts[start:end]


def _folded(text: str) -> str:
    """
    Without case. Decomposed first: folding a letter apart from its marks would not be stable (definition D145).

    Directories compare more loosely (Active Directory takes ``é`` for ``e``): two of one directory never meet.
    """
    return text.lower() if text.isascii() else normalize("NFC", normalize("NFD", text).casefold())


def _escaped(value: str) -> str:
    written = [_escape(char) for char in value]
    if value[:1] in {" ", "#"}:
        written[0] = "\\" + value[0]
    if len(value) > 1 and value[-1] == " ":
        written[-1] = "\\ "
    return "".join(written)


def _escape(char: str) -> str:
    if char in _SPECIAL:
        return "\\" + char
    return char if char.isprintable() else "".join(f"\\{byte:02x}" for byte in char.encode())


_NORMALISERS: Final[dict[Form, Callable[[str], str | None]]] = {
    "names": _name,
    "object_ids": _object_id,
    "distinguished_names": _distinguished_name,
}

__all__ = ["MAX_DN_CHARS", "MAX_NAME_CHARS", "Form", "normalise"]
