"""A tenant's ``functions``: how each is treated, by exact name, longest prefix or ``*``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from policies.documents import Source
from policies.findings import Findings
from policies.model import Function, TenantDocument
from policies.quantities import seconds, size_bytes
from policies.scope import Scope, pattern
from policies.tables import ColdStart, FunctionSpec, FunctionTable, Pattern, RouteSpec, Timeouts
from policies.tenancy import build_function_table, function_spec


def compile_functions(
    source: Source[TenantDocument],
    scope: Scope,
    routes: Sequence[RouteSpec],
    direct_url: str | None,
    findings: Findings,
) -> FunctionTable:
    """One tenant's functions. ``direct_url`` is the backend's template, None when it has none."""
    document = source.document
    specs: dict[Pattern, FunctionSpec] = {}
    for name, function in document.functions.items():
        _check(source, name, function, direct_url, findings)
        if name != "*" and not scope.holds(pattern(name)):
            text = f"{name!r} reaches outside of what this tenant owns ({scope})"
            findings.mistake_of_key(source, text, "functions", name)
            continue
        specs[pattern(name)] = _spec(pattern(name), function, direct_url)
    if scope.owns is not None and (everything := specs.pop(pattern("*"), None)) is not None:
        for own in scope.owns:
            specs.setdefault(own, replace(everything, pattern=own))
    table = build_function_table(list(specs.values()))
    routed = {function_spec(table, route.function).pattern for route in routes}
    for name, function in document.functions.items():
        if not function.direct and pattern(name) in specs and pattern(name) not in routed:
            text = f"{name!r} can never be reached: direct: false, and no route leads to it"
            findings.mistake(source, text, "functions", name, "direct")
    for index, route in enumerate(document.routes):
        if route.https_only and function_spec(table, route.function).is_direct:
            text = f"/function/{route.function} reaches the same function without https; add direct: false to it"
            findings.warning(source, text, "routes", index, "https_only")
    return table


def _check(
    source: Source[TenantDocument], name: str, function: Function, direct_url: str | None, findings: Findings
) -> None:
    path = ("functions", name)
    is_all_public = name == "*" and function.access == "public"
    if is_all_public and not function.i_mean_all:
        text = "every function of the tenant, later ones too, would be public; if so, add i_mean_all: true"
        findings.mistake(source, text, *path, "access")
    if function.i_mean_all and not is_all_public:
        findings.mistake_of_key(source, 'i_mean_all belongs to "*" with access: public', *path, "i_mean_all")
    if function.cold_start.overflow != "reject":
        text = f"overflow: {function.cold_start.overflow} is kept for later; until then it refuses like reject"
        findings.warning(source, text, *path, "cold_start", "overflow")
    if function.direct_url and direct_url is None:
        findings.mistake(source, "the backend has no direct_url in platform.yaml", *path, "direct_url")


def _spec(own: Pattern, function: Function, direct_url: str | None) -> FunctionSpec:
    timeouts = function.timeouts
    return FunctionSpec(
        pattern=own,
        is_public=function.access == "public",
        concurrency=function.concurrency,
        cold_start=ColdStart(
            seconds(function.cold_start.max_wait), function.cold_start.max_held, function.cold_start.overflow
        ),
        timeouts=Timeouts(
            seconds(timeouts.connect),
            seconds(timeouts.first_byte),
            seconds(timeouts.idle),
            seconds(timeouts.total) if timeouts.total is not None else None,
        ),
        max_body_bytes=None if function.max_body == "unbounded" else size_bytes(function.max_body),
        is_direct=function.direct,
        allows_encoded_slash=function.encoded_slash == "allow",
        forwards_credentials=function.forward_credentials,
        direct_url=direct_url if function.direct_url else None,
        has_assertion=function.assertion,
    )
