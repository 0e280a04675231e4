"""
The naive evaluator: rules as written, scanned one after the other. Slow, plain, and the measure of ``rbac.py`` (P7).

It shares the inputs and nothing else: no masks, no indices, no memo. Besides, it makes the places and requests that the
tests of ``policies/`` judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from policies.decision import RuleRef
from policies.principal import ANONYMOUS_PROVIDER, SERVICE_ACCOUNT_PROVIDER, Principal
from policies.rbac import BindingInput, DenyInput, GrantInput, RoleInput, build_table
from policies.request import AccessRequest, Target
from policies.tables import (
    ACTIONS,
    Ceilings,
    Condition,
    Facts,
    FunctionSpec,
    FunctionTable,
    Pattern,
    Place,
    RouteSpec,
    RouteTable,
    TenantTable,
)


@dataclass(frozen=True)
class Policy:
    """One tenant's rules as written."""

    roles: tuple[RoleInput, ...] = ()
    bindings: tuple[BindingInput, ...] = ()
    deny: tuple[DenyInput, ...] = ()
    public: frozenset[str] = frozenset()
    """Names of public functions."""


def pattern(text: str) -> Pattern:
    """``exact``, ``prefix*`` or ``*`` as operators write it."""
    return Pattern(text.removesuffix("*"), text.endswith("*"))


def verdict(
    policy: Policy, principal: Principal, request: AccessRequest, function: str, path: str, action: str, now: float
) -> str:
    """``granted``, ``credential-missing``, ``denied-by-rule`` or ``no-rule-allows``."""
    is_public = function in policy.public and action == "invoke"
    if principal.provider == ANONYMOUS_PROVIDER and not is_public:
        return "credential-missing"
    facts = Facts(request, principal, function, path, now)
    for rule in policy.deny:
        if _matches(rule, function, action, request.method) and _condition(rule.condition, facts) is not False:
            return "denied-by-rule"
    if is_public:
        return "granted"
    held = roles_of(policy, principal)
    for role in policy.roles:
        for grant in role.allow if role.name in held else ():
            if _matches(grant, function, action, request.method) and _condition(grant.condition, facts) is True:
                return "granted"
    return "no-rule-allows"


def roles_of(policy: Policy, principal: Principal) -> set[str]:
    """Names of the roles that bindings give, and of all they include."""
    if principal.provider == ANONYMOUS_PROVIDER:
        return set()
    held: set[str] = set()
    for binding in policy.bindings:
        is_account = principal.provider == SERVICE_ACCOUNT_PROVIDER
        is_named = (
            (is_account and principal.sub in binding.service_accounts)
            or (not is_account and principal.subject in binding.subjects)
            or (not is_account and principal.email is not None and principal.email in binding.emails)
            or any(group in binding.groups for group in principal.groups)
        )
        if is_named:
            held.update(binding.roles)
    while True:
        more = {name for role in policy.roles if role.name in held for name in role.includes} - held
        if not more:
            return held & {role.name for role in policy.roles}
        held |= more


def _matches(rule: GrantInput | DenyInput, function: str, action: str, method: str) -> bool:
    return (
        any(one.matches(function) for one in rule.functions)
        and (action in rule.actions or ("*" in rule.actions and action in ACTIONS))
        and (rule.methods is None or method in rule.methods)
    )


def _condition(condition: Condition | None, facts: Facts) -> bool | None:
    """None: cannot be known."""
    if condition is None:
        return True
    try:
        answer = condition(facts)
    except Exception:  # noqa: BLE001 - any failure is "cannot be known"
        return None
    return answer if isinstance(answer, bool) else None


def tenant_of(policy: Policy, name: str = "acme", **fields: object) -> TenantTable:
    """The compiled tenant of a policy, with nothing but its rules in it."""
    tenant = TenantTable(
        name=name,
        namespace=name,
        backend="faas",
        owns=None,
        is_disabled=False,
        shadow=frozenset(),
        providers=(),
        service_accounts=(),
        functions=FunctionTable({}, ()),
        routes=RouteTable(),
        rbac=build_table(policy.roles, policy.bindings, policy.deny),
        limits=(),
        ceilings=Ceilings(),
        hosts=(f"{name}.localhost",),
        where=f"{name}.yaml:1",
    )
    return replace(tenant, **fields)  # type: ignore[arg-type]  # a test names the fields it needs


def place_of(tenant: TenantTable, function: str, path: str = "/", *, is_public: bool = False) -> Place:
    """A function of the tenant, reached directly."""
    segments = tuple(segment for segment in path.split("/") if segment)
    spec = FunctionSpec(Pattern(function, is_prefix=False), is_public=is_public)
    return Place(tenant, function, spec, None, segments, path.endswith("/") and path != "/", path)


def request_of(
    method: str = "GET", path: str = "/", host: str = "acme.localhost", client_ip: str = "192.0.2.1"
) -> AccessRequest:
    """A request with nothing special about it."""
    segments = tuple(segment for segment in path.split("/") if segment)
    return AccessRequest(
        method=method,
        host=host,
        target=Target(path, segments, path.endswith("/") and path != "/", None),
        scheme="https",
        client_ip=client_ip,
        authorization=None,
        cookie=None,
        hints=(),
        origin=None,
        fetch_site=None,
        accepts_html=False,
        content_length=None,
        is_chunked=False,
        is_websocket=False,
        expects_continue=False,
        keeps_alive=True,
        preflight_method=None,
        traceparent=None,
        forward_block=b"",
    )


def grant(
    functions: Sequence[str] = ("*",),
    actions: Sequence[str] = ("invoke",),
    methods: Sequence[str] | None = None,
    condition: Condition | None = None,
    rule: str = "r",
) -> GrantInput:
    """An allow rule in one line."""
    return GrantInput(
        tuple(map(pattern, functions)),
        frozenset(actions),
        None if methods is None else frozenset(methods),
        condition,
        RuleRef(rule, "acme.yaml:1"),
    )


def deny(
    functions: Sequence[str] = ("*",),
    actions: Sequence[str] = ("invoke",),
    methods: Sequence[str] | None = None,
    condition: Condition | None = None,
    rule: str = "d",
) -> DenyInput:
    """A deny rule in one line."""
    return DenyInput(*grant(functions, actions, methods, condition, rule))


def binding(
    roles: Sequence[str],
    *,
    subjects: Sequence[str] = (),
    groups: Sequence[str] = (),
    emails: Sequence[str] = (),
    service_accounts: Sequence[str] = (),
) -> BindingInput:
    """A binding in one line."""
    return BindingInput(
        "b",
        tuple(roles),
        tuple(subjects),
        tuple(groups),
        tuple(emails),
        tuple(service_accounts),
        RuleRef("b", "acme.yaml:9"),
    )


def routes_overlap(a: RouteSpec, b: RouteSpec) -> bool:
    """Whether some request would take both routes with equal right, compared pair by pair."""

    def shape(route: RouteSpec) -> tuple[object, ...]:
        parts = tuple(None if part.is_parameter else part.text for part in route.parts)
        return parts, route.takes_rest, route.takes_rest or route.has_trailing_slash

    if shape(a) != shape(b):
        return False
    return a.methods is None or b.methods is None or not a.methods.isdisjoint(b.methods)
