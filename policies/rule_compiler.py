"""
A tenant's ``roles``, ``bindings`` and ``deny``: names resolved, conditions compiled, and no rule that can never match.

What the rules mean once they are in the table is ``rbac.py``'s; this module refuses to know requests.

Longer than other modules: roles, bindings and deny rules refer to each other, and so do their mistakes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Final, Literal, NamedTuple

from policies.bounds import MAX_CONDITION_WEIGHT, MAX_ROLE_BITS, MAX_RULE_ENTRIES, Merged, entries_of, heaviest
from policies.conditions import ConditionError, compile_conditions
from policies.decision import RuleRef
from policies.documents import Source
from policies.expressions import weight as weight_of_expression
from policies.findings import Findings
from policies.model import Binding, DenyRule, Grant, ShortConditions, TenantDocument
from policies.principal import API_KEY_PROVIDER
from policies.rbac_table import BindingInput, DenyInput, GrantInput, RoleInput, build_table
from policies.route_compiler import refuse_methods
from policies.scope import Scope
from policies.tables import ACTIONS, Condition, Pattern, RbacTable

Path = tuple[str | int, ...]
_Compiled = tuple[Grant | DenyRule, GrantInput | DenyInput, Path]
"""A rule as written, as compiled, and where it stands."""
Effect = Literal["allow", "deny"]

_LONGEST_LOOP: Final = 8
"""Names of an include cycle that a message shows."""
_MOST_LOOPS: Final = 20
"""Cycles reported; where everything includes everything there are more than anybody could wait for."""
_MOST_NAMES: Final = 100
"""Names among which a similar one is looked for: comparing costs some 10 us a name."""


class RuleInputs(NamedTuple):
    """What one tenant's table is built of."""

    roles: list[RoleInput]
    bindings: list[BindingInput]
    deny: list[DenyInput]


def compile_rules(source: Source[TenantDocument], scope: Scope, findings: Findings) -> RbacTable:
    """One tenant's roles, bindings and deny rules as a table. With mistakes the table must not be used."""
    inputs = rule_inputs(source, scope, findings)
    return build_table(*(inputs if _is_bounded(source, inputs, findings) else RuleInputs([], [], [])))


def _is_bounded(source: Source[TenantDocument], inputs: RuleInputs, findings: Findings) -> bool:
    """Whether the table may be built; a mistake when it would cost more than ``bounds`` grants one tenant."""
    document = source.document
    holders = sum(len(b.subjects) + len(b.groups) + len(b.emails) + len(b.service_accounts) for b in inputs.bindings)
    if len(inputs.roles) * (len(inputs.roles) + holders) > MAX_ROLE_BITS:
        text = f"{len(inputs.roles)} roles, which {holders} subjects, groups and others hold, are too many together"
        findings.mistake_of_key(source, text, "roles")
        return False
    allows: list[_Compiled] = [
        (rule, grant, ("roles", role.name, "allow", i))
        for role in inputs.roles
        for i, (rule, grant) in enumerate(zip(document.roles[role.name].allow, role.allow, strict=True))
    ]
    denies: list[_Compiled] = [
        (rule, deny, ("deny", i)) for i, (rule, deny) in enumerate(zip(document.deny, inputs.deny, strict=True))
    ]
    entries = 0
    for _, rule, path in allows + denies:
        entries += entries_of(rule.functions, rule.actions, rule.methods)
        if entries > MAX_RULE_ENTRIES:
            text = f"the rules up to here name more than {MAX_RULE_ENTRIES} functions times actions times methods"
            findings.mistake(source, text, *path)
            return False
    merged = Merged()
    for _, rule, _ in allows:
        if rule.condition is None:
            merged.add(rule.functions, rule.actions, rule.methods)
    if merged.total() > MAX_RULE_ENTRIES:
        text = f"rules for any method times the methods that others name come to more than {MAX_RULE_ENTRIES}"
        findings.mistake_of_key(source, text, "roles")
        return False
    return _is_light(source, allows, findings) and _is_light(source, denies, findings)


def _is_light(source: Source[TenantDocument], rules: Sequence[_Compiled], findings: Findings) -> bool:
    """Whether the conditions that can meet in one request cost no more than a tenant is granted."""
    weights: dict[str, dict[Pattern, int]] = {}
    last: Path = ()
    for rule, compiled, path in rules:
        if compiled.condition is not None:
            last = path
            weight = _weight(rule.when) + _weight(rule.unless)
            for action in ACTIONS if "*" in compiled.actions else compiled.actions:
                of_action = weights.setdefault(action, {})
                for pattern in compiled.functions:
                    of_action[pattern] = of_action.get(pattern, 0) + weight
    for of_action in weights.values():
        if sum(of_action.values()) > MAX_CONDITION_WEIGHT:
            most, of_most = heaviest(of_action)
            if most > MAX_CONDITION_WEIGHT and of_most is not None:
                name = of_most.text + "*" * of_most.is_prefix
                text = f"conditions of {most} words and signs can meet in one request for {name!r}"
                findings.mistake(source, f"{text}; expected at most {MAX_CONDITION_WEIGHT}", *last)
                return False
    return True


def _weight(condition: str | ShortConditions | None) -> int:
    if isinstance(condition, str):
        return weight_of_expression(condition)
    if condition is None:
        return 0
    return 5 + len(condition.source_ip or ())


def rule_inputs(source: Source[TenantDocument], scope: Scope, findings: Findings) -> RuleInputs:
    """One tenant's roles, bindings and deny rules with conditions compiled and ``*`` cut down to what is owned."""
    document = source.document
    rules = _Rules(source, scope, findings)
    roles = []
    for name, role in document.roles.items():
        grants = [
            rules.grant(grant, f"{name}/{i + 1}", ("roles", name, "allow", i)) for i, grant in enumerate(role.allow)
        ]
        roles.append(RoleInput(name, role.includes, tuple(grants)))
    deny = [rules.deny(rule, ("deny", i)) for i, rule in enumerate(document.deny)]
    bindings = [_binding(source, binding, i) for i, binding in enumerate(document.bindings)]
    _check_includes(source, findings)
    _check_bindings(source, findings)
    findings.duplicates(source, "the deny rule", [(rule.id, ("deny", i, "id")) for i, rule in enumerate(document.deny)])
    return RuleInputs(roles, bindings, deny)


class _Rules:
    """Compiles the rules of one tenant; conditions that many rules share are compiled once."""

    def __init__(self, source: Source[TenantDocument], scope: Scope, findings: Findings) -> None:
        self._source = source
        self._scope = scope
        self._findings = findings
        self._conditions: dict[object, Condition | None] = {}

    def grant(self, rule: Grant, name: str, path: Path) -> GrantInput:
        condition = self._condition(rule, "allow", path)
        self._check(rule, path)
        return GrantInput(
            self._scope.narrowed(rule.functions),
            frozenset(rule.actions),
            frozenset(rule.methods) if rule.methods is not None else None,
            condition,
            RuleRef(name, self._source.where(*path)),
        )

    def deny(self, rule: DenyRule, path: Path) -> DenyInput:
        condition = self._condition(rule, "deny", path)
        self._check(rule, path)
        return DenyInput(
            self._scope.narrowed(rule.functions),
            frozenset(rule.actions),
            frozenset(rule.methods) if rule.methods is not None else None,
            condition,
            RuleRef(rule.id, self._source.where(*path)),
        )

    def _condition(self, rule: Grant | DenyRule, effect: Effect, path: Path) -> Condition | None:
        if rule.when is None and rule.unless is None:
            return None
        key = (rule.when, rule.unless, effect)
        if key not in self._conditions:
            try:
                self._conditions[key] = compile_conditions(_plain(rule.when), _plain(rule.unless), effect=effect)
            except ConditionError as error:
                where = [int(step) if step.isdecimal() else step for step in error.key.split(".")]
                self._findings.mistake(self._source, error.message, *path, *where)
                return None
        return self._conditions[key]

    def _check(self, rule: Grant | DenyRule, path: Path) -> None:
        for index in self._scope.outside(rule.functions):
            text = f"{rule.functions[index]!r} reaches outside of what this tenant owns ({self._scope})"
            self._findings.mistake(self._source, text, *path, "functions", index)
        if rule.methods is not None:
            refuse_methods(self._source, rule.methods, self._findings, *path, "methods")
            if isinstance(rule, DenyRule) and "GET" in rule.methods and "HEAD" not in rule.methods:
                text = "HEAD is not denied, and most functions answer it as they answer GET; add it if it is meant"
                self._findings.warning(self._source, text, *path, "methods")
            for key, reason in _contradictions(rule, rule.methods):
                self._findings.mistake(self._source, f"the rule can never match: {reason}", *path, key, "methods")


def _plain(condition: str | ShortConditions | None) -> str | dict[str, object] | None:
    if isinstance(condition, ShortConditions):
        return condition.model_dump(mode="json", by_alias=True, exclude_none=True)
    return condition


def _contradictions(rule: Grant | DenyRule, methods: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Conditions on the method that leave none of the rule's own."""
    when, unless = rule.when, rule.unless
    if isinstance(when, ShortConditions) and when.methods is not None and set(methods).isdisjoint(when.methods):
        yield "when", f"its methods are {', '.join(methods)}"
    if (
        isinstance(unless, ShortConditions)
        and unless.model_fields_set == {"methods"}
        and set(methods) <= set(unless.methods or ())
    ):
        yield "unless", f"its methods are {', '.join(methods)}"


# --- roles ----------------------------------------------------------------------------------------------------------


def _check_includes(source: Source[TenantDocument], findings: Findings) -> None:
    roles = source.document.roles
    bound = {name for binding in source.document.bindings for name in binding.roles}
    for name, role in roles.items():
        for index, other in enumerate(role.includes):
            if other not in roles:
                findings.mistake(source, unknown("role", other, roles), "roles", name, "includes", index)
        if not role.allow and not role.includes:
            findings.warning_of_key(source, f"the role {name!r} allows nothing", "roles", name)
    for loop in islice(_loops({name: role.includes for name, role in roles.items()}), _MOST_LOOPS):
        shown = loop if len(loop) <= _LONGEST_LOOP else [*loop[: _LONGEST_LOOP - 1], "…"]
        path = ("roles", loop[0], "includes", roles[loop[0]].includes.index(loop[1 % len(loop)]))
        findings.mistake(source, f"roles include each other in a circle: {' -> '.join([*shown, loop[0]])}", *path)
    used = _reachable({name: role.includes for name, role in roles.items()}, bound)
    for name in roles:
        if name not in used:
            findings.warning_of_key(source, f"the role {name!r} is bound to nobody", "roles", name)


def _reachable(includes: dict[str, tuple[str, ...]], start: set[str]) -> set[str]:
    seen = set(start)
    waiting = list(start)
    while waiting:
        fresh = set(includes.get(waiting.pop(), ())) - seen
        seen |= fresh
        waiting.extend(fresh)
    return seen


def _loops(includes: dict[str, tuple[str, ...]]) -> Iterator[list[str]]:
    """Each circle that a walk in the order of the file closes, from the role where it was entered. Iterative."""
    done: set[str] = set()
    for root, included in includes.items():
        if root in done:
            continue
        trail = {root: 0}
        stack = [(root, iter(included))]
        while stack:
            name, rest = stack[-1]
            other = next(rest, None)
            if other is None:
                stack.pop()
                del trail[name]
                done.add(name)
            elif other in trail:
                yield list(trail)[trail[other] :]
            elif other in includes and other not in done:
                trail[other] = len(trail)
                stack.append((other, iter(includes[other])))


# --- bindings -------------------------------------------------------------------------------------------------------


def _binding(source: Source[TenantDocument], binding: Binding, index: int) -> BindingInput:
    return BindingInput(
        binding.id,
        binding.roles,
        binding.subjects,
        binding.groups,
        tuple([email.lower() for email in binding.emails]),
        binding.service_accounts,
        RuleRef(binding.id, source.where("bindings", index)),
    )


def _check_bindings(source: Source[TenantDocument], findings: Findings) -> None:
    document = source.document
    # Dictionaries keep the order, in which messages show them, and are searched at once.
    providers = dict.fromkeys(provider.name for provider in document.identity)
    accounts = dict.fromkeys(account.name for account in document.service_accounts)
    api_keys = dict.fromkeys(key.name for key in document.api_keys)
    domains = {domain for provider in document.identity for domain in provider.email_domains}
    findings.duplicates(
        source, "the binding", [(binding.id, ("bindings", i, "id")) for i, binding in enumerate(document.bindings)]
    )
    for i, binding in enumerate(document.bindings):
        for j, role in enumerate(binding.roles):
            if role not in document.roles:
                findings.mistake(source, unknown("role", role, document.roles), "bindings", i, "roles", j)
        for j, subject in enumerate(binding.subjects):
            provider, _, name = subject.partition("|")
            if provider == API_KEY_PROVIDER:
                if name not in api_keys:
                    text = unknown("API key", name, api_keys)
                    findings.mistake(source, text, "bindings", i, "subjects", j)
            elif provider not in providers:
                findings.mistake(source, unknown("provider", provider, providers), "bindings", i, "subjects", j)
        for j, account in enumerate(binding.service_accounts):
            if account not in accounts:
                text = unknown("service account", account, accounts)
                findings.mistake(source, text, "bindings", i, "service_accounts", j)
        for j, email in enumerate(binding.emails):
            domain = email.rpartition("@")[2].lower()
            if domain not in domains:
                text = f"no provider may vouch for addresses of {domain}; expected it in a provider's email_domains"
                findings.mistake(source, text, "bindings", i, "emails", j)
        if not (binding.subjects or binding.groups or binding.emails or binding.service_accounts):
            findings.warning(source, f"the binding {binding.id!r} names nobody", "bindings", i)


def unknown(noun: str, name: str, known: Collection[str]) -> str:
    """The message for a name that nothing has."""
    if not known:
        return f"the {noun} {name!r} is unknown; none is defined"
    if len(known) > _MOST_NAMES:
        return f"the {noun} {name!r} is unknown; it is none of the {len(known)} that are defined"
    near = get_close_matches(name, known, 1)
    if near:
        return f"the {noun} {name!r} is unknown; did you mean {near[0]!r}?"
    shown = ", ".join(sorted(known)[:8]) + (", …" if len(known) > 8 else "")
    return f"the {noun} {name!r} is unknown; expected one of {shown}"
