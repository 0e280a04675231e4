"""Tables of small tenants and heads of small requests, for tests that need no policy files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policies.rbac_table import build_table
from policies.request import AccessRequest, Head, TrustedPeers, read_head
from policies.routes import build_route_table, parse_route_path
from policies.tables import (
    Ceilings,
    FunctionSpec,
    Pattern,
    PolicySet,
    RouteSpec,
    TenantTable,
)
from policies.tenancy import build_function_table

NOBODY = TrustedPeers()
NO_RULES = build_table((), (), ())


def a_head(
    target: bytes | str = b"/",
    *fields: tuple[bytes, bytes],
    method: str = "GET",
    host: bytes | None = b"acme.localhost",
    version: tuple[int, int] = (1, 1),
    peer: str = "198.51.100.7",
    scheme: str = "http",
    server_name: str | None = None,
) -> Head:
    """A head as an edge makes it; ``host`` None leaves the field out."""
    own = () if host is None else ((b"Host", host),)
    raw = target.encode() if isinstance(target, str) else target
    return Head(method, raw, (*own, *fields), version, peer, scheme, server_name)


def a_request(target: bytes | str = b"/", *fields: tuple[bytes, bytes], **changes: Any) -> AccessRequest:
    """The request that ``a_head`` of the same arguments is; it must not be refused."""
    request = read_head(a_head(target, *fields, **changes), NOBODY)
    if not isinstance(request, AccessRequest):
        raise TypeError(request)
    return request


def a_route(path: str, function: str = "f", *, to: str | None = None, **changes: Any) -> RouteSpec:
    """The route that the compiler makes of ``path`` and ``to``."""
    parts, has_trailing_slash, takes_rest = parse_route_path(path)
    target = None if to is None else parse_route_path(to)
    methods: Sequence[str] | None = changes.pop("methods", None)
    return RouteSpec(
        id=changes.pop("id", path),
        parts=parts,
        has_trailing_slash=has_trailing_slash,
        takes_rest=takes_rest,
        methods=None if methods is None else frozenset(methods),
        function=function,
        to=None if target is None else target[0],
        to_has_trailing_slash=False if target is None else target[1],
        is_https_only=changes.pop("is_https_only", False),
        is_enabled=changes.pop("is_enabled", True),
        cors_origins=frozenset(changes.pop("cors_origins", ())),
        where="acme.yaml:1",
    )


def a_tenant(
    name: str = "acme", *, routes: Sequence[RouteSpec] = (), functions: Sequence[FunctionSpec] = (), **changes: Any
) -> TenantTable:
    values: dict[str, Any] = {
        "namespace": name,
        "backend": "faas",
        "owns": None,
        "is_disabled": False,
        "shadow": frozenset(),
        "providers": (),
        "service_accounts": (),
        "rbac": NO_RULES,
        "limits": (),
        "ceilings": Ceilings(),
        "hosts": (f"{name}.localhost",),
        "where": f"{name}.yaml:1",
    }
    values |= changes
    return TenantTable(name=name, functions=build_function_table(functions), routes=build_route_table(routes), **values)


def a_function(pattern: str, **changes: Any) -> FunctionSpec:
    return FunctionSpec(Pattern(pattern.removesuffix("*"), is_prefix=pattern.endswith("*")), **changes)


def a_policy_set(*tenants: TenantTable, wildcards: Mapping[str, TenantTable] | None = None) -> PolicySet:
    return PolicySet(
        revision="r1",
        tenants={tenant.name: tenant for tenant in tenants},
        hosts={host: tenant for tenant in tenants for host in tenant.hosts},
        wildcard_hosts=wildcards or {},
        backends={},
        trusted_peers=(),
    )
