"""A tenant's ``functions``: how each is treated, by exact name, longest prefix or ``*``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from policies.documents import Source
from policies.findings import Findings
from policies.locators import flaw_of_host, flaw_of_path_pattern, is_private
from policies.model import AsyncEntry, Backend, ColdStartEntry, Function, NoWakeEntry, TenantDocument
from policies.no_wake import ROBOTS
from policies.platform_compiler import read_probe
from policies.quantities import seconds, size_bytes
from policies.scope import Scope, pattern
from policies.tables import (
    AsyncSpec,
    BackendKind,
    ColdStart,
    FunctionSpec,
    FunctionTable,
    NoWake,
    Pattern,
    RouteSpec,
    Timeouts,
)
from policies.tenancy import build_function_table, function_spec


def compile_functions(
    source: Source[TenantDocument],
    scope: Scope,
    routes: Sequence[RouteSpec],
    backend: Backend | None,
    findings: Findings,
) -> FunctionTable:
    """One tenant's functions. ``backend`` is None when the platform's document names none for it."""
    document = source.document
    direct_url = backend.direct_url if backend is not None else None
    kind = backend.kind if backend is not None else None
    specs: dict[Pattern, FunctionSpec] = {}
    for name, function in document.functions.items():
        _check(source, name, function, direct_url, findings)
        if kind is not None:
            _check_kind(source, name, function, kind, findings)
        if name != "*" and not scope.holds(pattern(name)):
            text = f"{name!r} reaches outside of what this tenant owns ({scope})"
            findings.mistake_of_key(source, text, "functions", name)
            continue
        specs[pattern(name)] = _spec(pattern(name), function, direct_url)
    if scope.owns is not None and (everything := specs.pop(pattern("*"), None)) is not None:
        for own in scope.owns:
            specs.setdefault(own, replace(everything, pattern=own))
    table = build_function_table(list(specs.values()))
    _check_fallbacks(source, scope, table, findings)
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
    if function.direct_url and direct_url is None:
        findings.mistake(source, "the backend has no direct_url in platform.yaml", *path, "direct_url")
    if function.concurrency_scope == "cluster" and function.concurrency is None:
        text = "there is nothing to count: expected concurrency beside it"
        findings.mistake(source, text, *path, "concurrency_scope")
    _check_cold_start(source, name, function, findings)
    for index, host in enumerate(function.async_.callbacks or ()):
        if flaw := flaw_of_host(host):
            findings.mistake(source, flaw, *path, "async", "callbacks", index)
        elif is_private(host):
            text = f"nothing is ever delivered to {host}: it is no address that everybody can reach"
            findings.warning(source, text, *path, "async", "callbacks", index)


def _check_kind(
    source: Source[TenantDocument], name: str, function: Function, kind: BackendKind, findings: Findings
) -> None:
    """What would have no effect on a platform of this kind."""
    path = ("functions", name)
    if function.message and kind != "riff":
        text = f"message has no meaning for kind: {kind}; expected riff, or no message"
        findings.mistake_of_key(source, text, *path, "message")
    if kind == "riff" and function.cold_start.probe not in (None, "off"):
        text = "functions of riff 0.0.x are not probed: each request is work to do; expected off, or no probe"
        findings.mistake_of_key(source, text, *path, "cold_start", "probe")


def _check_cold_start(source: Source[TenantDocument], name: str, function: Function, findings: Findings) -> None:
    path = ("functions", name, "cold_start")
    entry = function.cold_start
    if (entry.overflow == "fallback") != (entry.fallback is not None):
        text = "overflow: fallback and fallback: FUNCTION go together: expected both or neither"
        findings.mistake_of_key(source, text, *path, "overflow" if entry.fallback is None else "fallback")
    elif entry.fallback == name:
        findings.mistake(source, "a function cannot be its own fallback", *path, "fallback")
    if entry.overflow == "async" and not function.async_.allow:
        findings.mistake(source, "async: {allow: false} forbids it", *path, "overflow")
    if entry.max_held_per_caller is not None and entry.max_held_per_caller > entry.max_held:
        text = f"max_held is {entry.max_held}: a caller can never have {entry.max_held_per_caller}"
        findings.warning(source, text, *path, "max_held_per_caller")
    _warn_of_bytes(source, name, entry, findings)
    for index, rule in enumerate(entry.no_wake):
        if rule.methods is None and rule.paths is None and rule.user_agents is None and not rule.robots:
            text = "nothing would ever wake it: expected methods, paths, user_agents or robots: true"
            findings.mistake(source, text, *path, "no_wake", index)
        for at, written in enumerate(rule.paths or ()):
            if flaw := flaw_of_path_pattern(written):
                findings.mistake(source, flaw, *path, "no_wake", index, "paths", at)


def _warn_of_bytes(source: Source[TenantDocument], name: str, entry: ColdStartEntry, findings: Findings) -> None:
    most, of_caller = entry.max_held_bytes, entry.max_held_bytes_per_caller
    if most is not None and of_caller is not None and size_bytes(of_caller) > size_bytes(most):
        text = f"max_held_bytes is {most}: a caller can never have {of_caller}"
        findings.warning(source, text, "functions", name, "cold_start", "max_held_bytes_per_caller")


def _check_fallbacks(source: Source[TenantDocument], scope: Scope, table: FunctionTable, findings: Findings) -> None:
    """A fallback is a function of the tenant's own, and has none itself: what overflows overflows once."""
    for name, function in source.document.functions.items():
        fallback = function.cold_start.fallback
        if fallback is None or fallback == name:  # the latter is a mistake already
            continue
        path = ("functions", name, "cold_start", "fallback")
        if not scope.holds(pattern(fallback)):
            findings.mistake(source, f"{fallback!r} is not this tenant's ({scope})", *path)
        elif function_spec(table, fallback).cold_start.fallback is not None:
            text = f"{fallback!r} has a fallback itself; expected a function without one"
            findings.mistake(source, text, *path)


def _spec(own: Pattern, function: Function, direct_url: str | None) -> FunctionSpec:
    timeouts = function.timeouts
    return FunctionSpec(
        pattern=own,
        is_public=function.access == "public",
        concurrency=function.concurrency,
        is_concurrency_shared=function.concurrency_scope == "cluster",
        cold_start=_cold_start(function.cold_start),
        deferred=_deferred(function.async_),
        is_message=function.message,
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


def _cold_start(entry: ColdStartEntry) -> ColdStart:
    return ColdStart(
        max_wait_s=seconds(entry.max_wait),
        max_held=entry.max_held,
        overflow=entry.overflow,
        max_held_bytes=_bytes(entry.max_held_bytes),
        max_held_per_caller=entry.max_held_per_caller,
        max_held_bytes_per_caller=_bytes(entry.max_held_bytes_per_caller),
        no_wake=tuple(map(_no_wake, entry.no_wake)),
        fallback=entry.fallback,
        holds_body=entry.body == "spool",
        probe=read_probe(entry.probe),
        announces=entry.announce,
        weights=tuple((frozenset(share.groups), share.weight) for share in entry.weights),
    )


def _no_wake(entry: NoWakeEntry) -> NoWake:
    agents = [*(agent.lower() for agent in entry.user_agents or ()), *(ROBOTS if entry.robots else ())]
    return NoWake(
        methods=None if entry.methods is None else frozenset(entry.methods),
        paths=None if entry.paths is None else tuple(map(pattern, entry.paths)),
        user_agents=tuple(agents) or None,
        status=entry.status,
    )


def _deferred(entry: AsyncEntry) -> AsyncSpec:
    return AsyncSpec(
        is_allowed=entry.allow,
        max_wait_s=seconds(entry.max_wait),
        max_async=entry.max_async,
        keep_s=seconds(entry.keep),
        max_result_bytes=size_bytes(entry.max_result),
        callback_hosts=frozenset(entry.callbacks or ()),
    )


def _bytes(size: str | None) -> int | None:
    return None if size is None else size_bytes(size)
