"""
A tenant's ``routes``, compiled: what may not stand beside each other, and what could never be asked for.

The grammar of a path and which route a request takes are ``routes.py``'s. A route that would leave open which of two
answers is a mistake, and so is one under a path that is Portero's own.
"""

from __future__ import annotations

from typing import Final

from policies.bounds import MAX_METHODS_A_PATH, MAX_ROUTE_SHAPES
from policies.documents import Source
from policies.findings import Findings
from policies.locators import flaw_of_origin
from policies.model import Route, TenantDocument
from policies.routes import RESERVED_SEGMENTS, parse_route_path
from policies.scope import Scope, pattern
from policies.shape import show
from policies.tables import RouteSpec

NEVER_SERVED: Final = frozenset({"TRACE", "CONNECT"})
"""Methods that no listener lets through: TRACE mirrors credentials, CONNECT makes a tunnel (RFC 9110 section 9.3)."""
_RESERVED: Final = RESERVED_SEGMENTS | {"function"}
"""``/function/<name>`` is every function's own address; a route there could pass for another function."""


def compile_routes(source: Source[TenantDocument], scope: Scope, findings: Findings) -> tuple[RouteSpec, ...]:
    """All routes of one tenant in the order of the file; those without a sound path are left out."""
    routes = source.document.routes
    findings.duplicates(source, "the route", [(route.id, ("routes", i, "id")) for i, route in enumerate(routes)])
    specs: list[RouteSpec] = []
    seen: dict[object, dict[str, RouteSpec]] = {}
    shapes: set[object] = set()
    for index, route in enumerate(routes):
        spec = _compile(source, index, route, scope, findings)
        if spec is not None:
            _refuse_ambiguity(source, index, spec, seen, findings)
            specs.append(spec)
            places = tuple([part.is_parameter for part in spec.parts])
            shapes.add((places, spec.takes_rest, spec.has_trailing_slash))
            if len(shapes) > MAX_ROUTE_SHAPES:
                text = f"places literals and parameters in yet another way; expected at most {MAX_ROUTE_SHAPES} ways"
                findings.mistake(source, text, "routes", index, "path")
                return ()
    return tuple(specs)


def _compile(
    source: Source[TenantDocument], index: int, route: Route, scope: Scope, findings: Findings
) -> RouteSpec | None:
    path = ("routes", index)
    try:
        parts, has_trailing_slash, takes_rest = parse_route_path(route.path)
    except ValueError as error:
        findings.mistake(source, f"{show(route.path)}: {error}", *path, "path")
        return None
    if parts and not parts[0].is_parameter and parts[0].text in _RESERVED:
        findings.mistake(source, f"paths under /{parts[0].text}/ are reserved", *path, "path")
    to = None
    to_has_trailing_slash = False
    if route.to is not None:
        try:
            to, to_has_trailing_slash, to_takes_rest = parse_route_path(route.to)
        except ValueError as error:
            findings.mistake(source, f"{show(route.to)}: {error}", *path, "to")
        else:
            names = {part.text for part in parts if part.is_parameter}
            for part in to:
                if part.is_parameter and part.text not in names:
                    findings.mistake(source, f"the path has no parameter {{{part.text}}}", *path, "to")
            if to_takes_rest:
                text = "what /* of the path takes is appended by itself; leave /* out here"
                findings.mistake(source, text, *path, "to")
    _check(source, path, route, scope, findings)
    return RouteSpec(
        id=route.id,
        parts=parts,
        has_trailing_slash=has_trailing_slash,
        takes_rest=takes_rest,
        methods=frozenset(route.methods) if route.methods is not None else None,
        function=route.function,
        to=to,
        to_has_trailing_slash=to_has_trailing_slash,
        is_https_only=route.https_only,
        is_enabled=route.enabled,
        cors_origins=frozenset(route.cors.origins if route.cors is not None else ()),
        where=source.where(*path),
    )


def _check(
    source: Source[TenantDocument], path: tuple[str, int], route: Route, scope: Scope, findings: Findings
) -> None:
    if not scope.holds(pattern(route.function)):
        text = f"the function {route.function!r} is not this tenant's; it owns {scope}"
        findings.mistake(source, text, *path, "function")
    refuse_methods(source, route.methods, findings, *path, "methods")
    for position, origin in enumerate(route.cors.origins if route.cors is not None else ()):
        if flaw := flaw_of_origin(origin):
            findings.mistake(source, flaw, *path, "cors", "origins", position)


def refuse_methods(
    source: Source[TenantDocument], methods: tuple[str, ...] | None, findings: Findings, *path: str | int
) -> None:
    """A mistake at each method that no listener lets through."""
    for index, method in enumerate(methods or ()):
        if method in NEVER_SERVED:
            findings.mistake(source, f"{method} can never match: it is refused before any rule is asked", *path, index)


def _refuse_ambiguity(
    source: Source[TenantDocument],
    index: int,
    spec: RouteSpec,
    seen: dict[object, dict[str, RouteSpec]],
    findings: Findings,
) -> None:
    """
    A mistake when an earlier route takes the same requests; a disabled one takes them, too (and answers 404).

    GET implies HEAD, but a route that says HEAD itself goes before one that implies it. No pair is compared.
    """
    shape = tuple([None if part.is_parameter else part.text for part in spec.parts])
    earlier = seen.setdefault((shape, spec.takes_rest, spec.has_trailing_slash), {})
    methods = spec.methods if spec.methods is not None else earlier.keys()
    other = earlier.get(_ANY) or next((earlier[method] for method in methods if method in earlier), None)
    if other is not None:
        text = f"takes the same requests as the route at {other.where}; expected another path or other methods"
        findings.mistake(source, text, "routes", index, "path")
    for method in (_ANY,) if spec.methods is None else spec.methods:
        earlier.setdefault(method, spec)
    if len(earlier) > MAX_METHODS_A_PATH:
        text = f"more than {MAX_METHODS_A_PATH} methods of one path"
        findings.mistake(source, text, "routes", index, "methods")


_ANY: Final = "*"
"""Stands for a route without methods; no method is spelt so."""
