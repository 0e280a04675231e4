"""
Question 1: which tenant, which function, under which path?

The canonical host names the tenant, before any credential is looked at and whatever fields, path or token say: those
may confirm and never choose. The path is looked up in that tenant's own tables, so that nothing of another tenant is
reachable from here. Whether a function *exists* is not known here and not told.

Refuses to know who is calling. Source: design sections 4 and 5; rules T1, T2, T6, T8, T10; AP-R11, R28, R29.

Longer than other modules: everything that a path under a host can mean is told here, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from policies.decision import Answer, Deny, Page, Reason
from policies.request import AccessRequest
from policies.routes import (
    RESERVED_SEGMENTS,
    allowed_methods,
    build_route_table,
    choose_route,
    function_path,
    match_routes,
    parse_route_path,
)
from policies.tables import FunctionSpec, FunctionTable, Pattern, Place, PolicySet, RouteSpec, TenantTable
from policies.target import Target, encode_path

__all__ = [
    "CALLBACK",
    "OUR_PAGES",
    "PAGES",
    "RESERVED_SEGMENTS",
    "build_function_table",
    "build_route_table",
    "cors_fields",
    "function_spec",
    "is_function_name",
    "parse_route_path",
    "resolve",
    "tenant_of",
]

RESULT: Final = "result"
"""The page that answers are fetched from later: ``result/ID``."""
PAGES: Final = frozenset({"login", "callback", "logout", "whoami", "token", "jwks.json", "backchannel-logout"})
"""Portero's own pages under ``/.portero/``; each judges its own methods and callers."""
MAX_FUNCTION_CHARS: Final = 128
_PLACES_A_TENANT: Final = 4096
"""Places remembered; with paths of at most ``_MEMO_PATH_CHARS`` about 3 MiB a tenant that is being scanned."""
_MEMO_PATH_CHARS: Final = 256
_SPECS_A_TENANT: Final = 4096
OUR_PAGES: Final = "/.portero/"
CALLBACK: Final = "callback"
"""The page that providers send browsers back to; ``callback/NAME`` is it too, for answers of one provider alone."""
_RESULT_ID: Final = re.compile(r"[A-Za-z0-9_-]{22}")
"""128 bits, base64url."""
_DEFERRED: Final = "async-function"
_DEFERRED_METHOD: Final = "POST"
"""What OpenFaaS takes under that path."""
_PREFLIGHT_MAX_AGE_S: Final = 600
"""How long a browser may remember a preflight (Chromium caps at 7200, Firefox at 86400)."""
_NAME_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_LABEL_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
"""Of a name that becomes part of a host (``direct_url``): there case means nothing, and a dot leads elsewhere."""
_UNSPECIFIED: Final = FunctionSpec(Pattern("", is_prefix=True))
_TENANT_UNKNOWN: Final = Deny(Reason.TENANT_UNKNOWN, "no tenant is served under this host")
"""One constant: what a stranger learns is the same for every host that is not served."""


def resolve(request: AccessRequest, policies: PolicySet) -> Place | Deny | Answer | Page:
    """
    Answer question 1. Pure but for the memo of the policy set; an ``Answer`` is a CORS preflight, a ``Page`` one of
    Portero's own pages, which belong to every tenant.

    The usual request takes three dict probes. Never raises.
    """
    tenant = tenant_of(request.host, policies)
    if tenant is None:
        return _TENANT_UNKNOWN
    if request.hints and any(hint != tenant.name for hint in request.hints):
        return Deny(Reason.TENANT_CONFLICT, "a field of the request names another tenant", tenant=tenant.name)
    if tenant.is_disabled:
        return Deny(Reason.TENANT_DISABLED, "this tenant is switched off", tenant=tenant.name)
    if request.preflight_method is not None:
        answer = _preflight(request, tenant)
        if answer is not None:
            return answer

    target = request.target
    if target.path.startswith(OUR_PAGES):
        return _page(tenant, target.path.removeprefix(OUR_PAGES))
    key = (request.method, target.path)
    places = policies.places.get(tenant.name)
    place = None if places is None else places.get(key)
    if place is None:
        found = _find(request.method, target, tenant)
        if isinstance(found, Deny):
            return found
        place = found
        if len(target.path) <= _MEMO_PATH_CHARS:
            _remember(policies, key, place)
    if place.route is not None and place.route.is_https_only and request.scheme != "https":
        return _https_required(tenant)
    return place


def tenant_of(host: str, policies: PolicySet) -> TenantTable | None:
    """The one tenant of a canonical host: exact, then the longest ``*.suffix``; None when nobody has it."""
    tenant = policies.hosts.get(host)
    if tenant is not None or not policies.wildcard_hosts:
        return tenant
    at = host.find(".")
    while at > 0:
        tenant = policies.wildcard_hosts.get(host[at:])
        if tenant is not None:
            return tenant
        at = host.find(".", at + 1)
    return None


def build_function_table(specs: Sequence[FunctionSpec]) -> FunctionTable:
    """Exact beats the longest prefix beats ``*``."""
    by_length: dict[int, dict[str, FunctionSpec]] = {}
    for spec in specs:
        if spec.pattern.is_prefix:
            by_length.setdefault(len(spec.pattern.text), {})[spec.pattern.text] = spec
    return FunctionTable(
        exact={spec.pattern.text: spec for spec in specs if not spec.pattern.is_prefix},
        prefixes=tuple(sorted(by_length.items(), reverse=True)),
    )


def function_spec(table: FunctionTable, name: str) -> FunctionSpec:
    """How ``name`` is treated; the defaults (nothing public) when no pattern names it."""
    spec = table.exact.get(name) or table.memo.get(name)
    if spec is None:
        found = (specs[name[:length]] for length, specs in table.prefixes if name[:length] in specs)
        spec = next(found, _UNSPECIFIED)
        if len(table.memo) >= _SPECS_A_TENANT:
            table.memo.clear()
        table.memo[name] = spec
    return spec


def is_function_name(text: str) -> bool:
    """``[-a-zA-Z_0-9.]``, 1 to 128, and no empty piece between dots (``..acme`` would be ``.`` in ``acme``)."""
    return 0 < len(text) <= MAX_FUNCTION_CHARS and _NAME_CHARS.issuperset(text) and all(text.split("."))


def cors_fields(request: AccessRequest, place: Place) -> tuple[tuple[str, str], ...]:
    """
    What the answer to a cross-origin request of a route with ``cors.origins`` says; empty for other routes.

    An origin that is not listed gets no permission, and caches are told that the answer depends on it.
    """
    route = place.route
    if route is None or not route.cors_origins:
        return ()
    if request.origin is None or request.origin not in route.cors_origins:
        return (("Vary", "Origin"),)
    return (
        ("Access-Control-Allow-Origin", request.origin),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", "X-Request-Id, X-Portero-Reason, RateLimit, RateLimit-Policy, Retry-After"),
        ("Vary", "Origin"),
    )


def _page(tenant: TenantTable, name: str) -> Page | Deny:
    if name in PAGES:
        return Page(tenant, name)
    page, _, rest = name.partition("/")
    if page == CALLBACK and any(one.name == rest and one.login is not None for one in tenant.providers):
        return Page(tenant, CALLBACK)
    if page == RESULT and _RESULT_ID.fullmatch(rest):
        return Page(tenant, RESULT, rest)
    return _route_unknown(tenant)


def _find(method: str, target: Target, tenant: TenantTable) -> Place | Deny:
    place = _look_up(method, target, tenant)
    # An encoded slash is for those functions alone that asked for it; what stands nowhere did not ask.
    if target.has_encoded_slash and not (isinstance(place, Place) and place.spec.allows_encoded_slash):
        return Deny(Reason.BAD_REQUEST, "the path holds an encoded slash", tenant=tenant.name)
    return place


def _look_up(method: str, target: Target, tenant: TenantTable) -> Place | Deny:
    """A route of the tenant, or ``/function/<name>``, which an open first segment (``/*``) does not take."""
    if target.segments and target.segments[0] == _DEFERRED:
        return _later(method, target, tenant)
    routes = _routes(target, tenant)
    if routes:
        return _by_route(method, target, tenant, routes)
    return _direct(target, tenant) if _is_direct(target) else _route_unknown(tenant)


def _later(method: str, target: Target, tenant: TenantTable) -> Place | Deny:
    """``/async-function/<name>...``: as ``/function/<name>...``, answered later."""
    place = _direct(target, tenant) if len(target.segments) > 1 else _route_unknown(tenant)
    if isinstance(place, Deny):
        return place
    if not place.spec.deferred.is_allowed:
        return _route_unknown(tenant)
    if method != _DEFERRED_METHOD:
        return Deny(
            Reason.METHOD_NOT_ALLOWED,
            "functions take POST alone under this path",
            allowed_methods=(_DEFERRED_METHOD,),
            tenant=tenant.name,
        )
    return replace(place, is_deferred=True)


def _routes(target: Target, tenant: TenantTable) -> tuple[RouteSpec, ...]:
    if target.segments and target.segments[0] in RESERVED_SEGMENTS:
        return ()
    return match_routes(tenant.routes, target, needs_literal_first=_is_direct(target))


def _is_direct(target: Target) -> bool:
    return len(target.segments) > 1 and target.segments[0] == "function"


def _by_route(method: str, target: Target, tenant: TenantTable, routes: tuple[RouteSpec, ...]) -> Place | Deny:
    route = choose_route(routes, method)
    if route is None:
        return _method_refused(tenant, routes)
    if not route.is_enabled:
        return _route_unknown(tenant)
    segments, has_trailing_slash = function_path(route, target)
    return _place(tenant, route.function, route, segments, has_trailing_slash=has_trailing_slash)


def _direct(target: Target, tenant: TenantTable) -> Place | Deny:
    """
    ``/function/<name>[.<namespace>]``: what follows the last dot must be the tenant's own namespace.

    A name is taken apart here and put together by the backend from table values, never handed through as text (T8).
    """
    name, dot, namespace = target.segments[1].rpartition(".")
    if not dot:
        name = namespace
    elif namespace != tenant.namespace:
        return _route_unknown(tenant)
    if not is_function_name(name) or not function_spec(tenant.functions, name).is_direct:
        return _route_unknown(tenant)
    segments = target.segments[2:]
    return _place(tenant, name, None, segments, has_trailing_slash=target.has_trailing_slash and bool(segments))


def _place(
    tenant: TenantTable, name: str, route: RouteSpec | None, segments: tuple[str, ...], *, has_trailing_slash: bool
) -> Place | Deny:
    if tenant.owns is not None and not any(pattern.matches(name) for pattern in tenant.owns):
        return _route_unknown(tenant)
    spec = function_spec(tenant.functions, name)
    if spec.direct_url is not None and not _LABEL_CHARS.issuperset(name):
        # ``SECRET`` is a name of its own to policy, and the host of ``secret`` to a resolver.
        return _route_unknown(tenant)
    path = encode_path(segments, has_trailing_slash=has_trailing_slash)
    return Place(tenant, name, spec, route, segments, has_trailing_slash, path)


def _remember(policies: PolicySet, key: tuple[str, str], place: Place) -> None:
    places = policies.places.setdefault(place.tenant.name, {})
    if len(places) >= _PLACES_A_TENANT:
        places.clear()
    places[key] = place


def _preflight(request: AccessRequest, tenant: TenantTable) -> Answer | Deny | None:
    """
    The answer to a CORS preflight of a route with ``cors.origins``; None when the function answers for itself.

    A preflight brings no credential, so it is answered before question 2 and reaches nobody (Fetch section 4.8).
    """
    method, origin = request.preflight_method, request.origin
    if method is None or origin is None or request.target.has_encoded_slash:
        return None
    routes = _routes(request.target, tenant)
    route = choose_route(routes, method)
    if route is None:
        answers_cors = any(candidate.cors_origins and candidate.is_enabled for candidate in routes)
        return _method_refused(tenant, routes) if answers_cors else None
    if not route.cors_origins or not route.is_enabled:
        return None
    if route.is_https_only and request.scheme != "https":
        return _https_required(tenant)
    if origin not in route.cors_origins:
        return Deny(Reason.ORIGIN_REFUSED, "this origin is not listed for the route", tenant=tenant.name)
    if route.methods is None and not (method.isascii() and method.isalpha() and method.isupper()):
        return Deny(Reason.BAD_REQUEST, "Access-Control-Request-Method is not a method", tenant=tenant.name)
    fields = [
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Allow-Methods", ", ".join(allowed_methods([route]) or (method,))),
        ("Access-Control-Max-Age", str(_PREFLIGHT_MAX_AGE_S)),
        ("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
    ]
    if request.preflight_fields is not None:
        fields.append(("Access-Control-Allow-Headers", request.preflight_fields))
    return Answer(204, tuple(fields), tenant.name)


def _route_unknown(tenant: TenantTable) -> Deny:
    return Deny(Reason.ROUTE_UNKNOWN, "nothing is served under this path", tenant=tenant.name)


def _method_refused(tenant: TenantTable, routes: Sequence[RouteSpec]) -> Deny:
    """405, or 404 where every route of the path is switched off."""
    methods = allowed_methods(routes)
    if not methods:
        return _route_unknown(tenant)
    return Deny(
        Reason.METHOD_NOT_ALLOWED,
        "the route does not take this method",
        allowed_methods=methods,
        tenant=tenant.name,
    )


def _https_required(tenant: TenantTable) -> Deny:
    return Deny(Reason.HTTPS_REQUIRED, "the route is served over https alone", tenant=tenant.name)
