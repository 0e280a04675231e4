"""
A tenant's own paths for its functions: what may be written, when two of them are one, which of them a path takes.

The most specific path wins, and only then its methods are looked at: a path whose route is switched off or does not
take the method is refused, and no less specific route takes its place. Most literals first, then literals further left,
then the longest of the open-ended ones (``/*``). A route is found by one dict probe for each *shape* (where the
literals stand), not for each route. Routes are never protection; policy judges what they lead to.

Refuses to know tenants and callers. Source: design section 4; AP-R11 (one match, never repeated elsewhere).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote

from policies.decision import Deny
from policies.tables import RoutePart, RouteShape, RouteSpec, RouteTable
from policies.target import Target, canonical_target

RESERVED_SEGMENTS: Final = frozenset({".portero", "async-function"})
"""First segments that no route can have: Portero's own pages, and what is answered later."""
_PARAMETER: Final = re.compile(r"\{([a-z_][a-z0-9_]{0,63})\}")
_MAX_ROUTE_CHARS: Final = 1024


def parse_route_path(text: str) -> tuple[tuple[RoutePart, ...], bool, bool]:
    """
    ``/reports/{country}/*`` as (parts, has trailing slash, takes rest); also used for ``to``.

    A segment is a literal (escapes are decoded) or ``{name}``; ``*`` stands alone at the end and takes any number of
    further segments, none included.

    Raises: ValueError with a message that says what was expected.
    """
    if not text.startswith("/"):
        raise ValueError("a path starts with '/'")
    if len(text) > _MAX_ROUTE_CHARS:
        raise ValueError(f"a path has at most {_MAX_ROUTE_CHARS} characters")
    segments = text[1:].split("/")
    takes_rest = segments[-1] == "*"
    if takes_rest:
        segments.pop()
    has_trailing_slash = len(segments) > 1 and segments[-1] == ""
    if has_trailing_slash or segments == [""]:
        segments.pop()
    if takes_rest and has_trailing_slash:
        raise ValueError("a path has no empty segment")
    parts = tuple(map(_parse_part, segments))
    names = [part.text for part in parts if part.is_parameter]
    if len(names) != len(set(names)):
        raise ValueError("a parameter stands once in a path")
    return parts, has_trailing_slash, takes_rest


def _parse_part(segment: str) -> RoutePart:
    if match := _PARAMETER.fullmatch(segment):
        return RoutePart(match[1], is_parameter=True)
    if "{" in segment or "}" in segment:
        raise ValueError(f"{segment!r}: a parameter is a whole segment, '{{name}}' of a-z, 0-9 and '_'")
    if "*" in segment:
        raise ValueError("'*' stands alone at the end of a path: '/*'")
    if "?" in segment or "#" in segment:
        raise ValueError("a path has no query and no fragment")
    target = canonical_target(quote("/" + segment, safe="/%!$&'()*+,;=:@\\", errors="surrogatepass").encode("ascii"))
    if isinstance(target, Deny):
        raise ValueError(f"{segment!r}: {target.detail}")  # noqa: TRY004 (its callers collect ValueError)
    if target.has_encoded_slash or len(target.segments) != 1:
        raise ValueError(f"{segment!r}: a segment is not empty and holds no slash")
    return RoutePart(target.segments[0], is_parameter=False)


def build_route_table(routes: Sequence[RouteSpec]) -> RouteTable:
    """The table for ``match_routes``. Pairs that overlap are the compiler's to refuse; here the first written wins."""
    exact: dict[tuple[int, bool], list[RouteSpec]] = defaultdict(list)
    open_ended: dict[int, list[RouteSpec]] = defaultdict(list)
    for route in routes:
        if route.takes_rest:
            open_ended[len(route.parts)].append(route)
        else:
            exact[len(route.parts), route.has_trailing_slash].append(route)
    return RouteTable(
        exact={key: _shapes(group) for key, group in exact.items()},
        open_ended=tuple((length, _shapes(open_ended[length])) for length in sorted(open_ended, reverse=True)),
    )


def match_routes(table: RouteTable, target: Target, *, needs_literal_first: bool = False) -> tuple[RouteSpec, ...]:
    """
    The routes of the most specific path that ``target`` takes, in the order written; empty when none.

    ``needs_literal_first``: leave out routes whose first segment is open, so that ``/*`` does not take what has an
    address of its own.
    """
    segments = target.segments
    count = len(segments)
    for shape in table.exact.get((count, target.has_trailing_slash), ()):
        if found := _probe(shape, segments, needs_literal_first=needs_literal_first):
            return found
    for length, shapes in table.open_ended:
        if length > count:
            continue
        for shape in shapes:
            if found := _probe(shape, segments, needs_literal_first=needs_literal_first):
                return found
    return ()


def choose_route(routes: Iterable[RouteSpec], method: str) -> RouteSpec | None:
    """Of routes of one path the one that takes ``method``: one that names it before one that implies it."""
    implied = None
    for route in routes:
        if route.methods is None or method in route.methods:
            return route
        if method == "HEAD" and "GET" in route.methods:
            implied = implied or route
    return implied


def allowed_methods(routes: Iterable[RouteSpec]) -> tuple[str, ...]:
    """What ``Allow`` says: the methods of those that are enabled, HEAD where there is GET; sorted."""
    methods: set[str] = set()
    for route in routes:
        if route.is_enabled and route.methods is not None:
            methods |= route.methods
            if "GET" in route.methods:
                methods.add("HEAD")
    return tuple(sorted(methods))


def function_path(route: RouteSpec, target: Target) -> tuple[tuple[str, ...], bool]:
    """
    The function-relative segments, decoded, and whether a slash follows: ``to`` filled in, or the request's own path.

    What a parameter or ``*`` took stays a segment: a value cannot add, remove or leave one (AP-R32).
    """
    if route.to is None:
        return target.segments, target.has_trailing_slash
    values = {part.text: value for part, value in zip(route.parts, target.segments, strict=False) if part.is_parameter}
    segments = tuple([values[part.text] if part.is_parameter else part.text for part in route.to])
    has_trailing_slash = route.to_has_trailing_slash
    if route.takes_rest:
        segments += target.segments[len(route.parts) :]
        has_trailing_slash = target.has_trailing_slash
    return segments, has_trailing_slash and bool(segments)


def _probe(shape: RouteShape, segments: tuple[str, ...], *, needs_literal_first: bool) -> tuple[RouteSpec, ...]:
    if needs_literal_first and (not shape.literal_at or shape.literal_at[0] != 0):
        return ()
    return shape.routes.get(tuple([segments[i] for i in shape.literal_at]), ())


def _shapes(routes: Iterable[RouteSpec]) -> tuple[RouteShape, ...]:
    by_shape: dict[tuple[int, ...], dict[tuple[str, ...], tuple[RouteSpec, ...]]] = defaultdict(dict)
    for route in routes:
        literal_at = tuple(i for i, part in enumerate(route.parts) if not part.is_parameter)
        of_shape = by_shape[literal_at]
        of_shape[_literals(route)] = (*of_shape.get(_literals(route), ()), route)
    most_specific_first = sorted(by_shape, key=lambda literal_at: (-len(literal_at), literal_at))
    return tuple(RouteShape(literal_at, by_shape[literal_at]) for literal_at in most_specific_first)


def _literals(route: RouteSpec) -> tuple[str, ...]:
    return tuple(part.text for part in route.parts if not part.is_parameter)
