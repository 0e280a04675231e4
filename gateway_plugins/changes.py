"""
What makes of the head that Kong has read the request that the proxy would send: fields to clear and fields to write.

Kong passes on what its client has sent unless it is told otherwise, so the difference is what has to be said. It is
taken from the block that the gate has made for the proxy (``policies.upstream_identity``), never worked out anew: the
function gets the same fields by either way. What nginx and Kong write themselves is left to them: framing, and
``X-Forwarded-For``, ``-Proto`` and ``-Host`` from variables of their own.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from authproxy.gate.verdict import Passed
from policies.header_fields import (
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    FIRST_PASSED,
    HOST,
    REQUEST_KINDS,
    TRANSFER_ENCODING,
    UPGRADE,
    field_lines,
)
from policies.request import Head

_NGINXS: Final = frozenset({HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE, EXPECT})
"""Kinds of fields that nginx frames the request by: it writes them anew, and must not lose them."""
_FORWARDED: Final = {b"x-forwarded-for": "for", b"x-forwarded-proto": "proto", b"x-forwarded-host": "host"}

Written = dict[str, str | list[str]]
"""A list where the field is to stand several times."""


class Changes(NamedTuple):
    """In this order."""

    cleared: list[str]
    written: Written
    """They take the place of what is there. Without Host."""
    forwarded: dict[str, str]
    """``for``, ``proto`` and ``host``."""


def changes(head: Head, passed: Passed) -> Changes:
    """
    Hot: the usual head is passed on but for whole names, and what is written follows it in the block.

    Raises: UnicodeError for a field that would have to be written and is not ASCII: none of Portero's own is that.
    """
    kinds = REQUEST_KINDS
    kept: list[tuple[bytes, bytes]] = []
    cleared: dict[bytes, None] = {}
    for pair in head.fields:
        kind = kinds[pair[0]]
        if not kind or kind >= FIRST_PASSED:
            kept.append(pair)
        elif kind not in _NGINXS:
            cleared[pair[0]] = None
    block, fields = passed.request_block, field_lines(kept)
    after_host = block.index(b"\r\n", block.index(b"\r\n") + 2) + 2
    if fields is None or fields != passed.request.forward_block or not block.startswith(fields, after_host):
        return _compared(head, block)
    written: Written = {}
    forwarded: dict[str, str] = {}
    for line in block[after_host + len(fields) : -2].split(b"\r\n"):
        name, _, value = line.partition(b": ")
        lowered = name.lower()
        if (own := _FORWARDED.get(lowered)) is not None:
            forwarded[own] = value.decode("ascii")
        elif (shown := name.decode("ascii")) in written:
            return _compared(head, block)
        else:
            written[shown] = value.decode("ascii")
        cleared.pop(lowered, None)
    return Changes([name.decode("ascii") for name in cleared], written, forwarded)


def _compared(head: Head, block: bytes) -> Changes:
    """
    Name by name, of any head and any block: where ``Connection`` names fields, or fields were joined.

    What a client sends more of than is passed on is cleared; what is there already as it is to leave is not written.
    """
    had: dict[bytes, list[bytes]] = {}
    for name, value in head.fields:
        had.setdefault(name.lower(), []).append(value)
    sent: dict[bytes, list[bytes]] = {}
    shown: dict[bytes, bytes] = {}
    for line in block.split(b"\r\n")[2:-1]:
        name, _, value = line.partition(b": ")
        sent.setdefault(name.lower(), []).append(value)
        shown.setdefault(name.lower(), name)
    written: Written = {}
    forwarded: dict[str, str] = {}
    for lowered, values in sent.items():
        is_there = had.pop(lowered, None) == values
        if (own := _FORWARDED.get(lowered)) is not None:
            forwarded[own] = values[0].decode("ascii")
        elif not is_there:
            text = [value.decode("ascii") for value in values]
            written[shown[lowered].decode("ascii")] = text[0] if len(text) == 1 else text
    cleared = [name.decode("ascii") for name in had if REQUEST_KINDS[name] not in _NGINXS]
    return Changes(cleared, written, forwarded)
