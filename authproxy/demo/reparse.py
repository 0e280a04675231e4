"""
How OpenFaaS's gateway reads a path: it decodes once and parses the result again as an address.

So ``%3F`` becomes a query and ``%252e`` a dot. Whoever sends to it has to know; this is the other side of Portero's
own encoding, kept as strange as the original, so that a path judged and a path served can be seen to be the same.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

_ROUTE: Final = re.compile(rb"/function/([-a-zA-Z_0-9.]+)(/.*)?", re.DOTALL)
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9a-fA-F]{2})")
_KEPT: Final = "/!$&'()*+,;=:@~"


class Invocation(NamedTuple):
    function: str
    namespace: str
    target: str
    """Path and query for the replica."""


def read_invocation(raw: str, default_namespace: str) -> Invocation | int:
    """
    Who is called with which target, by the request target as sent; or the status of the refusal.

    404: no such route. 400: bad escapes. 301: the gateway's router would clean dot and empty segments and redirect.
    """
    path, question_mark, query = raw.encode("utf-8", "surrogateescape").partition(b"?")
    if _BAD_ESCAPE.search(path):
        return 400
    decoded = unquote_to_bytes(path)
    if _is_unclean(decoded):
        return 301
    route = _ROUTE.fullmatch(decoded)
    if route is None:
        return 404
    name, _, namespace = route[1].decode().rpartition(".")  # at the last dot, as the provider does
    if not name:
        name, namespace = namespace, default_namespace

    again = (route[2] or b"/").partition(b"#")[0]
    again, second_mark, inner_query = again.partition(b"?")
    if _BAD_ESCAPE.search(again):
        return 400
    seen = unquote_to_bytes(again)
    if _is_unclean(seen):
        return 301
    query_seen = b"?".join(part for part, mark in ((inner_query, second_mark), (query, question_mark)) if mark)
    target = quote(seen, safe=_KEPT)
    if question_mark or second_mark:
        target += "?" + query_seen.decode("ascii", "replace")
    return Invocation(name, namespace, target)


def _is_unclean(path: bytes) -> bool:
    segments = path.split(b"/")[1:]
    return any(segment in {b".", b".."} for segment in segments) or b"" in segments[:-1]
