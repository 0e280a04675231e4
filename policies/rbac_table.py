"""
Roles, bindings and deny rules -> ``RbacTable``: what ``rbac.py`` judges by, merged once per load.

Decides nothing. Whoever hands in inputs has checked them (``compiler.py`` reports every mistake with its position);
what it should have refused narrows here, never widens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from policies.decision import RuleRef
from policies.tables import ACTIONS, Condition, Holders, Matching, Pattern, PatternRules, RbacTable, RuleIndex, RuleSpec

DENY_MASK: Final = 1
"""Deny rules bind everybody: in their index there is one "role", and everybody holds it."""


class GrantInput(NamedTuple):
    """One allow rule of a role."""

    functions: tuple[Pattern, ...]
    actions: frozenset[str]
    """Of ``ACTIONS``; ``*`` means all of them."""
    methods: frozenset[str] | None
    """Upper case; None: any."""
    condition: Condition | None
    ref: RuleRef


class RoleInput(NamedTuple):
    name: str
    includes: tuple[str, ...]
    allow: tuple[GrantInput, ...]


class BindingInput(NamedTuple):
    """Who holds which roles: a caller named by any one of the four lists holds all of ``roles``."""

    id: str
    roles: tuple[str, ...]
    subjects: tuple[str, ...]
    """``provider|sub``."""
    groups: tuple[str, ...]
    emails: tuple[str, ...]
    service_accounts: tuple[str, ...]
    ref: RuleRef


class DenyInput(NamedTuple):
    """One deny rule; the fields are those of ``GrantInput``."""

    functions: tuple[Pattern, ...]
    actions: frozenset[str]
    methods: frozenset[str] | None
    condition: Condition | None
    ref: RuleRef


def build_table(roles: Sequence[RoleInput], bindings: Sequence[BindingInput], deny: Sequence[DenyInput]) -> RbacTable:
    """
    Compile one tenant's roles, bindings and deny rules.

    A role that does not exist gives nothing, and includes that form a cycle end where they meet themselves.
    """
    names = tuple(sorted({role.name for role in roles}))
    bits = {name: 1 << position for position, name in enumerate(names)}
    closures = _closures(roles, bits)
    by_subject, by_group, by_email, by_account = _holders_of(bindings, closures)

    allow: _Rules = {}
    for role in roles:
        for grant in role.allow:
            _add(allow, grant, bits[role.name])
    forbid: _Rules = {}
    for prohibition in deny:
        _add(forbid, prohibition, DENY_MASK)
    actions = {*allow, *forbid, "invoke"}
    rules = {action: _index(allow.get(action, {}), forbid.get(action, {})) for action in actions}
    return RbacTable(
        role_names=names,
        role_closures=closures,
        by_subject=by_subject,
        by_group=by_group,
        by_email=by_email,
        by_service_account=by_account,
        rules=rules,
        invoke=rules["invoke"],
        bindings=tuple(bindings),
    )


def _closures(roles: Sequence[RoleInput], bits: Mapping[str, int]) -> dict[str, int]:
    """Every role's bit with those of all it includes."""
    includes: dict[str, set[str]] = {name: set() for name in bits}
    for role in roles:
        includes[role.name].update(name for name in role.includes if name in bits)
    closures = dict(bits)
    order = _included_first(includes)
    is_stable = False
    while not is_stable:  # one round does; a cycle, which the compiler refuses, needs some more
        is_stable = True
        for name in order:
            mask = bits[name]
            for included in includes[name]:
                mask |= closures[included]
            if mask != closures[name]:
                closures[name] = mask
                is_stable = False
    return closures


def _included_first(includes: Mapping[str, set[str]]) -> list[str]:
    """Roles after all they include (but for cycles). Iterative: a chain may be longer than the stack is deep."""
    order: list[str] = []
    seen: set[str] = set()
    for start in includes:
        waiting = [(start, False)]
        while waiting:
            name, is_done = waiting.pop()
            if is_done:
                order.append(name)
            elif name not in seen:
                seen.add(name)
                waiting.append((name, True))
                waiting.extend((included, False) for included in includes[name] if included not in seen)
    return order


def _holders_of(bindings: Sequence[BindingInput], closures: Mapping[str, int]) -> tuple[dict[str, int], ...]:
    by_subject: dict[str, int] = defaultdict(int)
    by_group: dict[str, int] = defaultdict(int)
    by_email: dict[str, int] = defaultdict(int)
    by_account: dict[str, int] = defaultdict(int)
    for binding in bindings:
        mask = 0
        for name in binding.roles:
            mask |= closures.get(name, 0)
        for table, holders in (
            (by_subject, binding.subjects),
            (by_group, binding.groups),
            (by_email, [email.lower() for email in binding.emails]),
            (by_account, binding.service_accounts),
        ):
            for holder in holders:
                table[holder] |= mask
    return dict(by_subject), dict(by_group), dict(by_email), dict(by_account)


class _PatternBuilder:
    """Collects the rules of one pattern, action and effect."""

    def __init__(self) -> None:
        self.plain: dict[str | None, dict[int, RuleRef]] = defaultdict(dict)
        self.conditional: dict[int, list[RuleSpec]] = defaultdict(list)

    def add(self, rule: GrantInput | DenyInput, bit: int) -> None:
        if rule.condition is not None:
            self.conditional[bit].append(RuleSpec(rule.ref, rule.condition, rule.methods))
            return
        for method in (None,) if rule.methods is None else rule.methods:
            refs = self.plain[method]
            known = refs.get(bit)
            refs[bit] = rule.ref if known is None else _least(known, rule.ref)

    def build(self) -> PatternRules:
        for_any = self.plain.pop(None, {})
        by_method = {}
        for method, refs in self.plain.items():
            merged = dict(for_any)
            for bit, ref in refs.items():
                merged[bit] = _least(merged[bit], ref) if bit in merged else ref
            by_method[str(method)] = _holders(merged)
        return PatternRules(
            by_method=by_method or _NONE,
            any_method=_holders(for_any),
            conditional={
                bit.bit_length(): tuple(sorted(rules, key=lambda rule: (rule.ref.id, rule.ref.where)))
                for bit, rules in self.conditional.items()
            }
            or _NONE,
            conditional_mask=_union(self.conditional),
        )


_Rules = dict[str, dict[Pattern, _PatternBuilder]]
"""The rules of one effect, by action and pattern."""


def _add(rules: _Rules, rule: GrantInput | DenyInput, bit: int) -> None:
    for action in ACTIONS if "*" in rule.actions else rule.actions:
        patterns = rules.setdefault(action, {})
        for pattern in rule.functions:
            builder = patterns.get(pattern)
            if builder is None:
                builder = patterns[pattern] = _PatternBuilder()
            builder.add(rule, bit)


def _index(allow: dict[Pattern, _PatternBuilder], forbid: dict[Pattern, _PatternBuilder]) -> RuleIndex:
    effects = [{pattern: rules.build() for pattern, rules in patterns.items()} for patterns in (forbid, allow)]
    patterns = {*allow, *forbid}
    lengths = tuple(sorted({len(pattern.text) for pattern in patterns if pattern.is_prefix}, reverse=True))

    known: dict[tuple[int, ...], tuple[PatternRules, ...]] = {}

    def chain(built: dict[Pattern, PatternRules], wanted: list[Pattern]) -> tuple[PatternRules, ...]:
        """Equal chains are one value: most names have no deny rule of their own, and what is shared stays in cache."""
        found = tuple([built[pattern] for pattern in wanted if pattern in built])
        return known.setdefault(tuple(map(id, found)), found)

    def matching(pattern: Pattern) -> Matching:
        """The pattern's own rules, then those of every prefix of it, longest first."""
        text = pattern.text
        shorter = [Pattern(text[:length], is_prefix=True) for length in lengths if length <= len(text)]
        wanted = shorter if pattern.is_prefix else [pattern, *shorter]
        return Matching(*(chain(built, wanted) for built in effects))

    return RuleIndex(
        {pattern.text: matching(pattern) for pattern in patterns if not pattern.is_prefix},
        {pattern.text: matching(pattern) for pattern in patterns if pattern.is_prefix},
        lengths,
    )


_NONE: Final[dict[Any, Any]] = {}
"""Shared by all that have none: it stays in the processor's cache."""
_NOBODY: Final = Holders(0, None, _NONE)


def _holders(refs: Mapping[int, RuleRef]) -> Holders:
    if not refs:
        return _NOBODY
    sole = next(iter(refs.values())) if len(refs) == 1 else None
    return Holders(_union(refs), sole, {bit.bit_length(): ref for bit, ref in refs.items()})


def _union(bits: Iterable[int]) -> int:
    mask = 0
    for bit in bits:
        mask |= bit
    return mask


def _least(one: RuleRef, other: RuleRef) -> RuleRef:
    return min(one, other, key=lambda ref: (ref.id, ref.where))
