"""
P1-P8 as properties: random policies of several tenants, judged by the tables and by the naive reference.

Policies hold wildcards, overlapping prefixes, includes, conditions that hold, fail, raise and answer nonsense, public
functions, callers of every kind. Names come from small alphabets, so that rules meet each other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.decision import Challenge, Deny, RuleRef
from policies.principal import Principal, anonymous
from policies.rbac import BindingInput, DenyInput, Granted, GrantInput, RoleInput, may, roles_of
from policies.tables import ACTIONS, Condition, Facts, TenantTable
from tests.policies import reference
from tests.policies.reference import Policy, pattern, place_of, request_of, tenant_of

_FUNCTIONS = ("a", "ab", "abc", "b", "ba", "geo-eu", "geo-us", "")
_PATTERNS = ("*", "a*", "ab*", "abc*", "b*", "geo-*", "a", "ab", "b", "geo-eu")
_ROLES = ("r0", "r1", "r2", "r3", "r4")
_GROUPS = ("g0", "g1", "g2")
_METHODS = ("GET", "HEAD", "POST", "DELETE")


def _raises(_: Facts) -> bool:
    raise KeyError("region")


def _nonsense(_: Facts) -> Any:
    return "yes"


def _method_is_get(facts: Facts) -> bool:
    return facts.request.method == "GET"


def _is_adult(facts: Facts) -> bool:
    return bool(facts.principal.claims["age"] >= 18)


def _in_g0(facts: Facts) -> bool:
    return "g0" in facts.principal.groups


_CONDITIONS: tuple[Condition | None, ...] = (
    None,
    None,
    None,
    lambda _: True,
    lambda _: False,
    _raises,
    _nonsense,
    _method_is_get,
    _is_adult,
    _in_g0,
)

_methods = st.none() | st.frozensets(st.sampled_from(_METHODS), max_size=3)
_actions = st.frozensets(st.sampled_from((*ACTIONS[:3], "*")), min_size=1, max_size=2)
_refs = st.integers(0, 99).map(lambda n: RuleRef(f"rule-{n}", f"acme.yaml:{n}"))
_patterns = st.lists(st.sampled_from(_PATTERNS), min_size=1, max_size=3).map(lambda texts: tuple(map(pattern, texts)))
_grants = st.builds(GrantInput, _patterns, _actions, _methods, st.sampled_from(_CONDITIONS), _refs)
_denies = st.builds(DenyInput, _patterns, _actions, _methods, st.sampled_from(_CONDITIONS), _refs)
_bindings = st.builds(
    BindingInput,
    st.just("b"),
    st.lists(st.sampled_from((*_ROLES, "ghost")), min_size=1, max_size=2).map(tuple),
    st.lists(
        st.sampled_from(("login|ana", "login|bob", "other|ana", "api-key|ana", "anonymous|anonymous")), max_size=2
    ).map(tuple),
    st.lists(st.sampled_from(_GROUPS), max_size=2).map(tuple),
    st.lists(st.sampled_from(("ana@acme.example",)), max_size=1).map(tuple),
    st.lists(st.sampled_from(("ci", "ana")), max_size=1).map(tuple),
    st.just(RuleRef("b", "acme.yaml:9")),
)


@st.composite
def _roles(draw: st.DrawFn) -> tuple[RoleInput, ...]:
    """Roles that include only later ones: a graph without cycles, as the compiler lets through."""
    roles = []
    for position, name in enumerate(_ROLES):
        later = (*_ROLES[position + 1 :], "ghost")
        includes = draw(st.lists(st.sampled_from(later), max_size=2).map(tuple))
        roles.append(RoleInput(name, includes, tuple(draw(st.lists(_grants, max_size=3)))))
    return tuple(roles)


_policies = st.builds(
    Policy,
    roles=_roles(),
    bindings=st.lists(_bindings, max_size=4).map(tuple),
    deny=st.lists(_denies, max_size=3).map(tuple),
    public=st.frozensets(st.sampled_from(_FUNCTIONS), max_size=2),
)

_people = st.builds(
    lambda who, groups, email, claims: (*who, groups, email, claims),
    st.sampled_from(
        [
            *(("login", "ana"), ("login", "bob"), ("other", "ana"), ("api-key", "ana")),
            *(("service-account", "ci"), ("service-account", "ana")),
        ]
    ),
    st.frozensets(st.sampled_from(_GROUPS), max_size=2),
    st.sampled_from([None, "ana@acme.example"]),
    st.sampled_from([{}, {"age": 41}, {"age": 7}, {"age": "old"}]),
)
_callers = st.none() | _people
_asked = st.tuples(
    st.sampled_from(_FUNCTIONS),
    st.sampled_from((*ACTIONS[:4], "no-such-action")),
    st.sampled_from((*_METHODS, "BREW")),
)


def principal_of(caller: Any) -> Principal:
    """A new principal each time: what one table remembers on it is no business of another's."""
    if caller is None:
        return anonymous()
    provider, sub, groups, email, claims = caller
    return Principal(provider, sub, groups=groups, email=email, claims=claims)


def decide(policy: Policy, tenant: TenantTable, caller: Any, asked: tuple[str, str, str]) -> str:
    function, action, method = asked
    place = place_of(tenant, function, is_public=function in policy.public)
    answer = may(place, principal_of(caller), request_of(method), action, 0.0)
    if isinstance(answer, Granted):
        return "granted"
    assert isinstance(answer, Challenge | Deny)
    return str(answer.reason)


@given(_policies, _callers, st.lists(_asked, min_size=1, max_size=8))
@settings(max_examples=400)
def test_p7_the_tables_say_what_the_naive_evaluator_says(
    policy: Policy, caller: Any, questions: list[tuple[str, str, str]]
) -> None:
    """The differential test: compiled tables against a scan of the rules as written, memos warm and cold."""
    tenant = tenant_of(policy)
    for asked in (*questions, *questions):
        function, action, method = asked
        expected = reference.verdict(policy, principal_of(caller), request_of(method), function, "/", action, 0.0)
        assert decide(policy, tenant, caller, asked) == expected


@given(_policies, _callers)
def test_roles_shown_are_the_roles_judged_by(policy: Policy, caller: Any) -> None:
    """``whoami`` names what the bindings give and what that includes, sorted, and nothing else."""
    expected = sorted(reference.roles_of(policy, principal_of(caller)))
    assert list(roles_of(tenant_of(policy).rbac, principal_of(caller))) == expected


@given(_callers, _asked, st.frozensets(st.sampled_from(_FUNCTIONS), max_size=2), st.lists(_denies, max_size=3))
def test_p1_nothing_is_allowed_by_itself(
    caller: Any, asked: tuple[str, str, str], public: frozenset[str], denies: list[DenyInput]
) -> None:
    """Without a role that allows it, only a public function may be invoked."""
    policy = Policy(deny=tuple(denies), public=public)
    if decide(policy, tenant_of(policy), caller, asked) == "granted":
        assert asked[0] in public
        assert asked[1] == "invoke"


@given(_policies, _callers, _asked, _denies)
def test_p2_any_matching_deny_wins(policy: Policy, caller: Any, asked: tuple[str, str, str], rule: DenyInput) -> None:
    """Whatever the roles, one unconditional deny rule on everything leaves nothing."""
    total = rule._replace(functions=(pattern("*"),), actions=frozenset({"*"}), methods=None, condition=None)
    strict = replace(policy, deny=(*policy.deny, total))
    verdict = decide(strict, tenant_of(strict), caller, asked)
    is_known = asked[1] in ACTIONS
    assert verdict in (
        {"denied-by-rule", "credential-missing"} if is_known else {"no-rule-allows", "credential-missing"}
    )


@given(_policies, _callers, _asked, st.randoms(use_true_random=False))
def test_p3_order_never_matters(policy: Policy, caller: Any, asked: tuple[str, str, str], shuffle: Any) -> None:
    """Roles, rules, bindings and deny rules in any order: the same verdict by the same rule."""

    def mixed(items: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(shuffle.sample(items, len(items)))

    other = Policy(
        tuple(role._replace(allow=mixed(role.allow), includes=mixed(role.includes)) for role in mixed(policy.roles)),
        mixed(policy.bindings),
        mixed(policy.deny),
        policy.public,
    )
    function, action, method = asked
    answers = [
        may(
            place_of(tenant_of(one), function, is_public=function in one.public),
            principal_of(caller),
            request_of(method),
            action,
            0.0,
        )
        for one in (policy, other)
    ]
    assert answers[0] == answers[1]


@given(_policies, _callers, _asked, st.sampled_from([_raises, _nonsense]))
def test_p4_errors_never_widen(policy: Policy, caller: Any, asked: tuple[str, str, str], broken: Condition) -> None:
    """When every condition fails to answer, nothing is granted that would not be if they answered."""

    def broken_where_any(rule: Any) -> Any:
        return rule if rule.condition is None else rule._replace(condition=broken)

    failing = Policy(
        tuple(role._replace(allow=tuple(map(broken_where_any, role.allow))) for role in policy.roles),
        policy.bindings,
        tuple(map(broken_where_any, policy.deny)),
        policy.public,
    )
    if decide(failing, tenant_of(failing), caller, asked) == "granted":
        assert decide(policy, tenant_of(policy), caller, asked) == "granted"


@given(_policies, _callers, _asked, st.sampled_from(range(len(_ROLES))), _grants, _denies)
def test_p5_rules_are_monotone(
    policy: Policy, caller: Any, asked: tuple[str, str, str], position: int, allowing: GrantInput, denying: DenyInput
) -> None:
    """Another allow rule takes nothing away, another deny rule gives nothing."""
    roles = list(policy.roles)
    roles[position] = roles[position]._replace(allow=(*roles[position].allow, allowing))
    before = decide(policy, tenant_of(policy), caller, asked) == "granted"
    wider = replace(policy, roles=tuple(roles))
    narrower = replace(policy, deny=(*policy.deny, denying))
    assert decide(wider, tenant_of(wider), caller, asked) == "granted" or not before
    assert decide(narrower, tenant_of(narrower), caller, asked) != "granted" or before


@given(st.lists(_policies, min_size=2, max_size=3), _callers, st.lists(_asked, min_size=1, max_size=4))
@settings(max_examples=50)
def test_p6_tenants_are_isolated(policies: list[Policy], caller: Any, questions: list[tuple[str, str, str]]) -> None:
    """One principal value that meets every tenant in turns gets from each what that tenant alone would give."""
    tenants = [tenant_of(policy, f"t{position}") for position, policy in enumerate(policies)]
    wanderer = principal_of(caller)
    for function, action, method in questions:
        for policy, tenant in zip(policies, tenants, strict=True):
            place = place_of(tenant, function, is_public=function in policy.public)
            answer = may(place, wanderer, request_of(method), action, 0.0)
            alone = decide(policy, tenant_of(policy, tenant.name), caller, (function, action, method))
            assert ("granted" if isinstance(answer, Granted) else str(answer.reason)) == alone
            assert isinstance(answer, Granted) or answer.tenant == tenant.name


@given(
    st.lists(st.tuples(st.sampled_from(_ROLES), st.sampled_from(_ROLES)), max_size=12),
    st.sampled_from(_ROLES),
    st.permutations(_ROLES),
)
def test_p8_includes_give_exactly_what_is_reachable(edges: list[tuple[str, str]], held: str, order: list[str]) -> None:
    """Holders have the rules of all included roles and of no other; even a cycle, refused elsewhere, ends."""
    includes = {name: tuple(target for source, target in edges if source == name) for name in _ROLES}
    roles = tuple(RoleInput(name, includes[name], (reference.grant([f"of-{name}"], rule=name),)) for name in order)
    policy = Policy(roles, (reference.binding([held], groups=["g0"]),))
    caller: Any = ("login", "ana", frozenset({"g0"}), None, {})
    reachable = reference.roles_of(policy, principal_of(caller))
    for name in _ROLES:
        verdict = decide(policy, tenant_of(policy), caller, (f"of-{name}", "invoke", "GET"))
        assert (verdict == "granted") is (name in reachable)
