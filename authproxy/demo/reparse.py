"""
How OpenFaaS's gateway reads a path: it decodes once and parses the result again as an address.

So ``%3F`` becomes a query and ``%252e`` a dot; only a request for an event stream takes another way and is decoded
once. Whoever sends to it has to know; this is the other side of Portero's own encoding, kept as strange as the
original, so that a path judged and a path served can be seen to be the same.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

_ROUTE: Final = re.compile(rb"/function/([-a-zA-Z_0-9.]+)(/.*)?", re.DOTALL)
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9a-fA-F]{2})")
_KEPT: Final = "/!$&'()*+,;=:@~"
_KEPT_IN_QUERY: Final = _KEPT + "?%[]"


class Invocation(NamedTuple):
    function: str
    namespace: str
    target: str
    """Path and query for the replica."""


def read_invocation(raw: str, default_namespace: str, *, is_event_stream: bool = False) -> Invocation | int:
    """
    Who is called with which target, by the request target as sent; or the status of the refusal.

    ``is_event_stream``: the request's ``Accept`` starts with ``text/event-stream``.

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

    relative, queries = route[2] or b"/", [query] if question_mark else []
    if not is_event_stream:
        relative, inner_mark, inner_query = relative.partition(b"#")[0].partition(b"?")
        if inner_mark:
            queries.insert(0, inner_query)
        if _BAD_ESCAPE.search(relative):
            return 400
        relative = unquote_to_bytes(relative)
        if _is_unclean(relative):
            return 301
    target = quote(relative, safe=_KEPT)
    if queries:
        target += "?" + quote(b"?".join(queries), safe=_KEPT_IN_QUERY)
    return Invocation(name, namespace, target)


def _is_unclean(path: bytes) -> bool:
    segments = path.split(b"/")[1:]
    return any(segment in {b".", b".."} for segment in segments) or b"" in segments[:-1]
