"""
A tenant's paths as Kong's routes: by hosts and paths only, so that Kong's choice of a route is the one Portero makes.

Kong's choice decides nothing: every route of a tenant leads to the same plugin, which judges by host and path itself,
and answers 405 and 426 as the proxy does. It matters for what operators attach to a route or read by its name. Methods
and headers are left out on purpose: a route that names them would leave other methods to somebody else's route.

Kong asks regular expressions before plain prefixes and the higher ``regex_priority`` first; so all paths are anchored
expressions, and a path's priority says how specific it is, by itself: a new route renumbers no other. Kong looks at the
path with unreserved and other characters decoded and with reserved ones as they came (``/``, ``,`` ...), so that a
literal that may come escaped is written both ways. The expressions are of the part that PCRE and Rust's engine share.

Source: Kong's router, traditional and traditional_compatible, 3.4 to 3.9; RFC 3986 sections 2.2, 2.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from policies.tables import RoutePart, RouteSpec, RouteTable

PROTOCOLS: Final = ("http", "https")
_RESERVED_CHARS: Final = "!*'();:@&=+$,[]"
"""Kong does not decode these (RFC 3986 section 2.2); ``/?#%`` stand in a segment in their escaped form alone."""
_ONLY_ESCAPED: Final = "/?#%"
_META: Final = frozenset("\\.+*?()|[]{}^$")
_MAX_COUNT: Final = 255
"""Segments and literals told apart; a path of 1024 characters has hardly more."""
_MASK_BITS: Final = 12
"""First segments of which it is told whether they are literals."""
_EXACT: Final = 1 << 28
"""Not open-ended: goes before every path with ``/*``."""
_OWN: Final = 1 << 29
"""First segments of Portero's own (``routes.RESERVED_SEGMENTS`` and ``function``): no route takes their paths."""
_OWN_PATHS: Final = (
    ("own.async", "~/async-function/"),
    ("own.functions", "~/function/"),
    ("own.pages", "~/\\.portero/"),
)
_ANY_PATH: Final = "~/"
_WIDTH: Final = 30
"""Bits of all that; above them stands how long a wildcard host is."""
_MAX_LABELS: Final = 3
"""Kong keeps 32 bits of a priority."""


class HostGroup(NamedTuple):
    """Hosts of one tenant that Kong weighs alike."""

    suffix: str
    """Of the names of its routes."""
    hosts: tuple[str, ...]
    rank: int
    """0 for exact hosts; else by the labels of the wildcard's suffix: the longest goes first."""


def host_groups(exact: Iterable[str], suffixes: Iterable[str]) -> list[HostGroup]:
    """
    Exact hosts, and wildcards by length. Kong puts a route with exact hosts alone before one with a wildcard, and
    weighs wildcards alike; so they never stand in one route, and longer ones get higher priorities.

    Args:
        exact: canonical.
        suffixes: with their dot (``.acme.example``), as in ``PolicySet.wildcard_hosts``.
    """
    groups = [HostGroup("", tuple(sorted(exact)), 0)] if exact else []
    by_rank: dict[int, list[str]] = {}
    for suffix in suffixes:
        by_rank.setdefault(min(suffix.count("."), _MAX_LABELS), []).append(f"*{suffix}")
    return groups + [HostGroup(f".any{rank}", tuple(sorted(by_rank[rank])), rank) for rank in sorted(by_rank)]


def tenant_routes(
    service: str, table: RouteTable, groups: Sequence[HostGroup], tags: list[str]
) -> list[dict[str, Any]]:
    """The routes of one tenant's service, in the order of their names, and last what no other of them takes."""
    routes: list[dict[str, Any]] = []
    paths = [(f"route.{route.id}", path_of(route), priority_of(route)) for route in _by_path(table)]
    paths += [(name, path, _OWN) for name, path in _OWN_PATHS]
    has_any = any(path == _ANY_PATH for _, path, _ in paths)
    for group in groups:
        above = group.rank << _WIDTH
        for name, path, priority in sorted(paths):
            routes.append(_route(f"{service}.{name}{group.suffix}", group.hosts, path, above + priority, tags))
        # Kong asks plain prefixes last; of wildcards a longer one is to go before a shorter one's expressions.
        rest = _ANY_PATH if group.rank else "/"
        if not (group.rank and has_any):
            routes.append(_route(f"{service}.rest{group.suffix}", group.hosts, rest, above, tags))
    return routes


def catch_all(service: str, tags: list[str]) -> dict[str, Any]:
    """Hosts that nobody has: one criterion less than any route of a tenant, so it goes last."""
    return _route(f"{service}.rest", (), "/", 0, tags)


def path_of(route: RouteSpec) -> str:
    """The path as an anchored expression; Kong itself anchors its beginning."""
    text = "".join(["/" + _segment(part) for part in route.parts])
    if route.takes_rest:
        return f"~{text}(?:/.*)?$" if text else _ANY_PATH
    if route.has_trailing_slash:
        text += "/"
    return f"~{text or '/'}$"


def priority_of(route: RouteSpec) -> int:
    """
    As ``routes.match_routes`` ranks: exact before open-ended, of those the longer; then most literals, then literals
    further left.
    """
    literals = [not part.is_parameter for part in route.parts]
    first = [is_literal << (_MASK_BITS - 1 - at) for at, is_literal in enumerate(literals[:_MASK_BITS])]
    length = min(len(literals), _MAX_COUNT) << (_MASK_BITS + 8) if route.takes_rest else _EXACT
    return length + (min(sum(literals), _MAX_COUNT) << _MASK_BITS) + sum(first)


def _by_path(table: RouteTable) -> list[RouteSpec]:
    """One route for each path, the first written: several of one path differ in their methods."""
    shapes = [shape for shapes in table.exact.values() for shape in shapes]
    shapes += [shape for _, shapes in table.open_ended for shape in shapes]
    return [routes[0] for shape in shapes for routes in shape.routes.values()]


def _route(name: str, hosts: Sequence[str], path: str, priority: int, tags: list[str]) -> dict[str, Any]:
    route: dict[str, Any] = {"name": name, "protocols": list(PROTOCOLS)}
    if hosts:
        route["hosts"] = list(hosts)
    route["paths"] = [path]
    if path.startswith("~"):
        route["regex_priority"] = priority
    route |= {
        "strip_path": False,
        "preserve_host": True,
        # A body goes on as it comes: a slow upload may not outlive the pass it was let in with, and is bounded where
        # it goes through. An answer, too: streams and server-sent events must flow.
        "request_buffering": False,
        "response_buffering": False,
        "tags": tags,
    }
    return route


def _segment(part: RoutePart) -> str:
    return "[^/]+" if part.is_parameter else _literal(part.text)


def _literal(text: str) -> str:
    return "".join(map(_char, text))


def _char(char: str) -> str:
    escaped = f"%{ord(char):02X}"
    if char in _ONLY_ESCAPED:
        return escaped
    bare = f"\\{char}" if char in _META else char
    return f"(?:{bare}|{escaped})" if char in _RESERVED_CHARS else bare
