"""Places and tables for tests that need a request to have been judged already."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from policies.rbac import build_table
from policies.tables import (
    Ceilings,
    ColdStart,
    FunctionSpec,
    FunctionTable,
    Pattern,
    Place,
    RouteTable,
    TenantTable,
)
from policies.target import encode_path


def tenant(name: str = "acme", *, namespace: str | None = None, backend: str = "faas", **changed: Any) -> TenantTable:
    """A tenant without providers, rules and limits; its namespace is its name."""
    table = TenantTable(
        name=name,
        namespace=namespace or name,
        backend=backend,
        owns=None,
        is_disabled=False,
        shadow=frozenset(),
        providers=(),
        service_accounts=(),
        functions=FunctionTable({}, ()),
        routes=RouteTable(),
        rbac=build_table((), (), ()),
        limits=(),
        ceilings=Ceilings(),
        hosts=(f"{name}.localhost",),
        where="platform.yaml:1",
    )
    return replace(table, **changed)


def place(
    function: str = "survey-report",
    segments: tuple[str, ...] = (),
    *,
    of: TenantTable | None = None,
    has_trailing_slash: bool = False,
    max_wait_s: float = 30.0,
    max_held: int = 100,
    **spec: Any,
) -> Place:
    """Where a request to ``function`` goes; ``spec`` are members of its ``FunctionSpec``."""
    return Place(
        tenant=of or tenant(),
        function=function,
        spec=FunctionSpec(Pattern(function, False), cold_start=ColdStart(max_wait_s, max_held), **spec),
        route=None,
        segments=segments,
        has_trailing_slash=has_trailing_slash,
        path=encode_path(segments, has_trailing_slash=has_trailing_slash),
    )
