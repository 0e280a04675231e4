"""
The one grammar of request targets: the path that is judged is the path that is forwarded.

A path is percent-decoded once, segment by segment, and encoded again in one spelling. What another parser could read as
a different path is refused instead of repaired: dot segments, empty segments, backslashes, NUL and control
characters, broken escapes, invalid UTF-8, in plain or encoded form. A path is never given to a parser of URLs
(CVE-2026-26205: ``//admin`` read as an authority).

``;`` is an ordinary character of a segment, not the start of parameters, and stays where it is. A segment that would be
empty or a dot segment for a server that cuts parameters off (``..;x``) is refused.

This module refuses to know routes and functions. Source: RFC 3986 sections 2.1, 3.3, 6.2.2; RFC 9112 section 3.2;
rules AP-R3, R7, R16, R32, R34, R39; GHSA-pxq7-h93f-9jrg, CVE-2021-31920, CVE-2021-29492, CVE-2021-39156.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from policies.decision import Deny, Reason

MAX_TARGET_BYTES: Final = 8192
"""Of the whole target with its query. RFC 9112 section 3 asks for 8000 at least; nginx takes 8 KiB, aiohttp 8190."""
MAX_SEGMENTS: Final = 256
"""A target of 8 KiB could hold 4,000 of them and take 10 ms, before anybody is asked who he is."""
_MEMO_ENTRIES: Final = 2048
_MEMO_PATH_BYTES: Final = 256
"""Longer paths are parsed each time: together these bound the memo to a few mebibytes."""
_BARE: Final = "!$&'()*+,;=:@"
"""With the unreserved characters: what a segment holds unescaped (``pchar`` of RFC 3986 section 3.3)."""
_PRINTABLE: Final = bytes(range(0x21, 0x7F))
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROL_OR_BACKSLASH: Final = re.compile("[\x00-\x1f\x7f-\x9f\\\\]")


class Target(NamedTuple):
    """A canonical request target. ``path`` re-encodes ``segments`` and both say the same."""

    path: str
    """Canonical percent-encoded path, starting with ``/``: ``pchar`` bare, escapes in upper case."""
    segments: tuple[str, ...]
    """The decoded segments; none is empty, ``.`` or ``..``; none holds ``/`` unless ``has_encoded_slash``."""
    has_trailing_slash: bool
    """False for ``/`` itself, which has no segment that a slash could follow."""
    query: str | None
    """The query verbatim without ``?``; None when there was none. Printable ASCII without ``#``."""
    has_encoded_slash: bool = False
    """A segment holds ``%2F``: refused unless the function says ``encoded_slash: allow``."""

    def __repr__(self) -> str:
        """Without the query, where callers put secrets that belong elsewhere."""
        return f"Target({self.path!r})"


_TOO_LONG: Final = Deny(
    Reason.HEAD_TOO_LARGE, f"the request target is longer than {MAX_TARGET_BYTES} bytes", part="target"
)
_TOO_MANY_SEGMENTS: Final = Deny(
    Reason.HEAD_TOO_LARGE, f"the request target has more than {MAX_SEGMENTS} segments", part="target"
)
_NOT_A_PATH: Final = Deny(Reason.BAD_REQUEST, "the request target is not a path that starts with '/'")
_BAD_BYTES: Final = Deny(
    Reason.BAD_REQUEST, "the request target holds a fragment, a backslash, a control character or one that is not ASCII"
)
_BAD_CODING: Final = Deny(Reason.BAD_REQUEST, "the path holds a broken percent-escape or is not UTF-8")
_BAD_SEGMENT: Final = Deny(Reason.BAD_REQUEST, "the path holds an empty segment or a dot segment")

_memo: dict[bytes, Target] = {}


def canonical_target(target: bytes) -> Target | Deny:
    """
    The target in its one spelling, or why it has none. Never raises.

    Args:
        target: origin-form, verbatim. Anything else (``*``, an authority, an absolute URL) is refused here;
            ``request.read_head`` takes the authority off an absolute-form that agrees with Host.
    """
    if len(target) > MAX_TARGET_BYTES:
        return _TOO_LONG
    path, mark, query = target.partition(b"?")
    known = _memo.get(path)
    if known is None:
        parsed = _parse_path(path)
        if isinstance(parsed, Deny):
            return parsed
        known = parsed
        if len(path) <= _MEMO_PATH_BYTES:
            if len(_memo) >= _MEMO_ENTRIES:
                _memo.clear()
            _memo[path] = known
    if not mark:
        return known
    if query.translate(None, _PRINTABLE) or b"#" in query:
        return _BAD_BYTES
    return Target(known.path, known.segments, known.has_trailing_slash, query.decode("ascii"), known.has_encoded_slash)


def encode_path(segments: Iterable[str], *, has_trailing_slash: bool) -> str:
    """
    The canonical path of decoded ``segments``; ``/`` when there are none.

    A lone surrogate cannot come from the wire; from elsewhere it is escaped as its three bytes, never an exception.
    """
    path = "".join(["/" + quote(segment, _BARE, errors="surrogatepass") for segment in segments])
    if not path:
        return "/"
    return path + "/" if has_trailing_slash else path


def _parse_path(path: bytes) -> Target | Deny:
    if not path.startswith(b"/"):
        return _NOT_A_PATH
    if path.count(b"/") > MAX_SEGMENTS:
        return _TOO_MANY_SEGMENTS
    if path.translate(None, _PRINTABLE) or b"#" in path:
        return _BAD_BYTES
    if _BAD_ESCAPE.search(path):
        return _BAD_CODING
    if path == b"/":
        return Target("/", (), has_trailing_slash=False, query=None)
    has_trailing_slash = path.endswith(b"/")
    raw_segments = path[1:-1].split(b"/") if has_trailing_slash else path[1:].split(b"/")
    try:
        segments = tuple([unquote_to_bytes(raw).decode("utf-8") for raw in raw_segments])
    except UnicodeDecodeError:
        return _BAD_CODING
    has_encoded_slash = False
    for segment in segments:
        if _CONTROL_OR_BACKSLASH.search(segment):
            return _BAD_BYTES
        if "/" in segment:
            has_encoded_slash = True
        if not all(map(_is_plain, segment.split("/"))):
            return _BAD_SEGMENT
    return Target(
        encode_path(segments, has_trailing_slash=has_trailing_slash),
        segments,
        has_trailing_slash,
        None,
        has_encoded_slash,
    )


def _is_plain(piece: str) -> bool:
    """Neither empty nor a dot segment, also once ``;parameters`` are cut off."""
    return piece.partition(";")[0] not in {"", ".", ".."}
