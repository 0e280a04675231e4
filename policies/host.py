"""
The one grammar of host names: what names a tenant, on the wire and in the operators' files.

Two spellings of one name must never be two tenants, and no spelling may be read differently by the function or by the
next proxy; what leaves room for that is refused, not repaired. This module refuses to know which hosts exist.

Source: RFC 9110 section 4.2 and 7.2, RFC 3986 section 3.2.2, RFC 1123 section 2.1, RFC 5891 (IDNA); rules AP-R28, R29,
R41 and T1. Precedents: CVE-2021-39155, CVE-2026-48794 (case), CVE-2026-28512 (userinfo).
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

import idna

MAX_HOST_CHARS: Final = 253
"""Characters of a name without its trailing dot (RFC 1035 section 2.3.4: 255 octets on the wire)."""
_MAX_TEXT_CHARS: Final = 512
"""Characters looked at before any parsing: bounds the work that a hostile text can cause."""
_MAX_LABEL_CHARS: Final = 63
_LABEL_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def canonical_host(text: str) -> str | None:
    """
    The host of ``text`` in its one spelling, or None when ``text`` is not ``host [":" port]``.

    Lower case, A-labels, no port (1 to 65535 is dropped), at most one trailing dot dropped. IPv4 only as four decimal
    numbers without leading zeros, IPv6 in brackets, compressed (RFC 5952), without zone. No userinfo, no escapes, no
    underscore, no empty label. Idempotent. Text of an operator may hold U-labels; ``request.read_head`` refuses bytes
    that are not ASCII before it asks here.
    """
    if not text or len(text) > _MAX_TEXT_CHARS:
        return None
    if text[0] == "[":
        return _ipv6(text)
    name, colon, port = text.partition(":")
    if colon and not _is_port(port):
        return None
    name = name.lower()
    if not name.isascii():
        mapped = _a_labels(name)
        if mapped is None:
            return None
        name = mapped
    name = name.removesuffix(".")
    if not name or len(name) > MAX_HOST_CHARS:
        return None
    labels = name.split(".")
    if not all(map(_is_label, labels)):
        return None
    if _is_numeric(labels[-1]):
        return _ipv4(name)
    return name


def _ipv6(text: str) -> str | None:
    literal, bracket, rest = text[1:].partition("]")
    if not bracket or "%" in literal or (rest and not (rest[0] == ":" and _is_port(rest[1:]))):
        return None
    try:
        return f"[{IPv6Address(literal).compressed}]"
    except AddressValueError:
        return None


def _ipv4(name: str) -> str | None:
    try:
        return str(IPv4Address(name))
    except AddressValueError:
        return None


def _is_port(text: str) -> bool:
    """1 to 65535 in ASCII digits, no sign, no leading zero."""
    return 0 < len(text) <= 5 and text.isascii() and text.isdigit() and text[0] != "0" and int(text) <= 65535


def _is_numeric(label: str) -> bool:
    """A last label that some resolver reads as a number: then the whole name is an IPv4 address or nothing."""
    return label.isdigit() or (label.startswith("0x") and all(c in "0123456789abcdef" for c in label[2:]))


def _is_label(label: str) -> bool:
    if not 0 < len(label) <= _MAX_LABEL_CHARS or label[0] == "-" or label[-1] == "-":
        return False
    if not _LABEL_CHARS.issuperset(label):
        return False
    if not label.startswith("xn--"):
        return True
    # An A-label that is not the encoding of its own U-label is a second spelling of something.
    try:
        return idna.alabel(idna.ulabel(label)) == label.encode("ascii")
    except (idna.IDNAError, UnicodeError):
        return False


def _a_labels(name: str) -> str | None:
    try:
        return idna.encode(name, uts46=True, std3_rules=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        return None
